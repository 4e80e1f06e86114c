"""Building that fails: what the user is told, what is left, and whether another host tries."""

from tests.nova import base
from zun_virt import sandbox


class OneHostTestCase(base.CloudTestCase):
    # Where nova may try another host, and there is none, it tells the user just that.
    OPTIONS = (('scheduler', 'max_attempts', 1),)

    def assert_undone(self, server, message):
        shown = self.wait_for(server, status='ERROR')
        self.assertIn(message, shown['fault']['message'])
        self.assert_nothing_left()
        self.delete(shown)
        self.assert_nothing_left()
        self.assertEqual([], self.ports())
        self.assertEqual({}, self._get_allocations_by_server_uuid(server['id']))
        self.port_is_up()
        self.create(name='next')  # and the host is as good as before

    def ports(self):
        ports = self.neutron.list_ports(is_admin=True)['ports']
        return [port['id'] for port in ports if port['device_id']]

    def test_docker_cannot_create(self):
        with self.box.failing('create', 'no space left on device'):
            server = self.create('ERROR')
        self.assert_undone(server, 'no space left on device')

    def test_docker_cannot_start(self):
        with self.box.failing('start', 'OCI runtime create failed'):
            server = self.create('ERROR')
        self.assert_undone(server, 'OCI runtime create failed')

    def test_docker_does_not_answer(self):
        with self.box.unavailable():
            server = self.create('ERROR')
        self.assert_undone(server, 'connection refused')

    def test_the_kernel_makes_no_cgroup(self):
        with self.box.failing('cgroup', 'Device or resource busy'):
            server = self.create('ERROR')
        self.assert_undone(server, 'Device or resource busy')

    def test_the_kernel_makes_no_interface(self):
        with self.box.failing('plug', 'Operation not permitted'):
            server = self.create('ERROR')
        self.assert_undone(server, 'Operation not permitted')

    def test_open_vswitch_makes_no_port(self):
        with self.box.failing('ovs', 'ovsdb: connection refused'):
            server = self.create('ERROR')
        self.assert_undone(server, 'ovsdb: connection refused')

    def test_neutrons_event_does_not_come(self):
        self.port_is_down(timeout=1)
        server = self.create('ERROR')
        self.assert_undone(server, 'network')

    def test_neutron_says_that_plugging_failed(self):
        self.port_is_down()
        server = self.request()
        self.eventually(lambda: self.assertEqual(1, len(self.box.plugged())))
        self.tell_plugged(server, status='failed')
        self.assert_undone(server, 'network')

    def test_a_missing_event_can_be_tolerated(self):
        self.port_is_down(timeout=1)
        self.flags(vif_plugging_is_fatal=False)
        server = self.create()
        self.assertEqual(sandbox.State.READY, self.record(server).state)

    def test_neutron_makes_no_port(self):
        def refuse(*_args, **_kwargs):
            raise RuntimeError('neutron is not there')

        self.neutron.create_port, kept = refuse, self.neutron.create_port
        server = self.create('ERROR')
        self.neutron.create_port = kept
        self.assert_undone(server, 'neutron is not there')

    def test_an_image_that_does_not_ask_for_docker(self):
        image = self.add_image('virtual machine')
        server = self.create('ERROR', imageRef=image, flavorRef=self.add_flavor('any'))
        self.assert_undone(server, 'img_hv_type=docker')

    def test_deleting_while_it_is_built(self):
        self.port_is_down(timeout=10)
        server = self.request()
        self.eventually(lambda: self.assertEqual(1, len(self.box.plugged())))

        self.delete(server)
        self.assert_nothing_left()


class TwoHostsTestCase(base.CloudTestCase):
    SANDBOX_HOSTS = ('box', 'other')

    def test_a_fault_of_docker_is_the_hosts_and_another_one_tries(self):
        for host, second in (('box', 'other'), ('other', 'box')):
            with self.outside[host].failing('start', 'runtime is broken'):
                server = self.create()
                self.assertEqual(second, server['OS-EXT-SRV-ATTR:host'])
                self.assert_nothing_left(host)
                self.delete(server)
        self.assert_nothing_left('box')
        self.assert_nothing_left('other')

    def test_a_request_that_can_never_work_is_not_tried_elsewhere(self):
        image = self.add_image('virtual machine')
        server = self.create('ERROR', imageRef=image, flavorRef=self.add_flavor('any'))
        self.assertIn('img_hv_type=docker', server['fault']['message'])
        tried = [text for text in self.faults(server) if 'img_hv_type=docker' in text]
        self.assertEqual(1, len(tried))
        self.assert_nothing_left('box')
        self.assert_nothing_left('other')

    def test_a_network_that_does_not_come_up_is_not_tried_elsewhere(self):
        self.port_is_down(timeout=1)
        server = self.create('ERROR')
        self.assertIn('network', server['fault']['message'])
        events = self.outside['box'].history('create') + self.outside['other'].history('create')
        self.assertEqual(1, len(events))
