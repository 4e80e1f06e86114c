"""A sandbox from its server's creation to its end."""

from nova.compute import power_state
from nova.tests.functional.api import client

from tests.nova import base
from zun_virt import sandbox


class LifeTestCase(base.CloudTestCase):
    def test_boot_makes_a_ready_sandbox_and_delete_leaves_nothing(self):
        server = self.create(metadata={'zun.intent': 'abc'})
        self.assertEqual(power_state.RUNNING, server['OS-EXT-STS:power_state'])

        pause = self.pause_container(server)
        self.assertEqual('running', pause['State']['Status'])
        labels = pause['Config']['Labels']
        self.assertEqual(server['id'], labels[sandbox.LABEL_SANDBOX])
        self.assertEqual(sandbox.ROLE_PAUSE, labels[sandbox.LABEL_ROLE])
        self.assertEqual('box', labels[sandbox.LABEL_HOST])

        record = self.record(server)
        self.assertEqual(sandbox.State.READY, record.state)
        self.assertEqual(server['id'], record.instance_id)
        self.assertEqual(server['tenant_id'], record.project_id)
        self.assertEqual(server['user_id'], record.user_id)
        self.assertEqual(('mybox', 'mybox', 'box'), (record.name, record.hostname, record.host))
        self.assertEqual({'zun.intent': 'abc'}, record.metadata)
        self.assertEqual(labels[sandbox.LABEL_INCARNATION], record.incarnation)
        self.assertEqual(
            (pause['Id'], pause['State']['StartedAt']), (record.pause.id, record.pause.started_at)
        )
        self.assertEqual((1, 128), (record.limits.cpus, record.limits.memory_mb))
        shown = server['addresses']['private'][0]
        (address,) = record.addresses
        self.assertEqual(shown['addr'], address.address)
        self.assertEqual(shown['OS-EXT-IPS-MAC:mac_addr'], address.mac)
        self.assertEqual((24, 4), (address.prefix_length, address.version))
        files = self.box.store.directory(server['id'])
        self.assertIn('192.168.1.30 mybox', (files / 'hosts').read_text())

        self.delete(server)
        self.assert_nothing_left()

    def test_stop_and_start(self):
        server = self.create()
        before = self.record(server)
        mine = self.box.add_user_container(server['id'])

        self.act(server, **{'os-stop': None})
        self.wait_for(server, status='SHUTOFF')
        record = self.record(server)
        self.assertEqual(sandbox.State.STOPPED, record.state)
        self.assertEqual((mine,), record.running)
        self.assertEqual('exited', self.pause_container(server)['State']['Status'])
        self.assertEqual([], self.box.running(server['id']))
        self.assertEqual([], self.box.plugged())

        self.act(server, **{'os-start': None})
        self.wait_for(server, status='ACTIVE')
        after = self.record(server)
        self.assertEqual(sandbox.State.READY, after.state)
        self.assertEqual(before.pause.id, after.pause.id)
        self.assertNotEqual(before.pause.started_at, after.pause.started_at)
        self.assertEqual(before.incarnation, after.incarnation)
        self.assertEqual((mine,), after.running)
        self.assertEqual(1, len(self.box.plugged()))

        self.delete(server)
        self.assert_nothing_left()

    def test_both_reboots_start_the_same_sandbox_anew(self):
        server = self.create()
        for kind in ('SOFT', 'HARD'):
            before = self.record(server)
            self.act(server, reboot={'type': kind})

            def look(before=before):
                record = self.record(server)
                self.assertEqual(sandbox.State.READY, record.state)
                self.assertNotEqual(before.pause.started_at, record.pause.started_at)
                return record

            after = self.eventually(look)
            self.wait_for(server, status='ACTIVE')
            self.assertEqual(before.pause.id, after.pause.id)
            self.assertEqual(1, len(self.box.plugged()))

    def test_a_hard_reboot_brings_back_a_sandbox_whose_container_is_lost(self):
        server = self.create()
        before = self.record(server)
        self.box.lose(server['id'])

        self.act(server, reboot={'type': 'HARD'})

        def look():
            record = self.record(server)
            self.assertNotEqual(before.incarnation, record.incarnation)
            self.assertEqual(sandbox.State.READY, record.state)

        self.eventually(look)
        self.wait_for(server, status='ACTIVE')
        self.assertEqual('running', self.pause_container(server)['State']['Status'])
        self.delete(server)
        self.assert_nothing_left()

    def test_pause_freezes_every_container(self):
        server = self.create()
        mine = self.box.add_user_container(server['id'])
        before = self.record(server)

        self.act(server, pause=None)
        shown = self.wait_for(server, status='PAUSED')
        self.assertEqual(power_state.PAUSED, shown['OS-EXT-STS:power_state'])
        self.assertEqual(sandbox.State.PAUSED, self.record(server).state)
        self.assertEqual('paused', self.pause_container(server)['State']['Status'])
        self.assertEqual('paused', self.box.user_container(mine)['State']['Status'])

        self.act(server, unpause=None)
        self.wait_for(server, status='ACTIVE')
        self.assertEqual(before, self.record(server))
        self.assertEqual('running', self.pause_container(server)['State']['Status'])
        self.assertEqual('running', self.box.user_container(mine)['State']['Status'])

    def test_suspend_freezes_too(self):
        server = self.create()
        mine = self.box.add_user_container(server['id'])
        before = self.record(server)

        self.act(server, suspend=None)
        self.wait_for(server, status='SUSPENDED')
        self.assertEqual(sandbox.State.PAUSED, self.record(server).state)
        self.assertEqual('paused', self.box.user_container(mine)['State']['Status'])

        self.act(server, resume=None)
        self.wait_for(server, status='ACTIVE')
        self.assertEqual(before, self.record(server))
        self.assertEqual('running', self.box.user_container(mine)['State']['Status'])

    def test_interfaces_can_be_attached_and_detached(self):
        server = self.create()
        first = self.record(server).addresses
        wanted = {'interfaceAttachment': {'net_id': self.neutron.network_1['id']}}
        port = self.api.attach_interface(server['id'], wanted).body['interfaceAttachment']
        self.assertEqual(2, len(self.box.plugged()))
        self.assertIn(port['port_id'], self.box.plugged())
        both = self.record(server)
        self.assertEqual(sandbox.State.READY, both.state)
        self.assertEqual(
            {first[0].port_id, port['port_id']}, {address.port_id for address in both.addresses}
        )

        self.api.detach_interface(server['id'], port['port_id'])

        def look():
            self.assertEqual([first[0].port_id], self.box.plugged())
            self.assertEqual(first, self.record(server).addresses)
            self.assertEqual(1, len(self.api.get_port_interfaces(server['id'])))

        self.eventually(look)
        self.delete(server)
        self.assert_nothing_left()

    def test_an_interface_can_be_detached_while_stopped(self):
        server = self.create()
        port = self.record(server).addresses[0].port_id
        self.act(server, **{'os-stop': None})
        self.wait_for(server, status='SHUTOFF')

        self.api.detach_interface(server['id'], port)
        self.eventually(lambda: self.assertEqual([], self.api.get_port_interfaces(server['id'])))

        self.act(server, **{'os-start': None})
        self.wait_for(server, status='ACTIVE')
        self.assertEqual((), self.record(server).addresses)
        self.delete(server)
        self.assert_nothing_left()

    def test_an_interface_that_cannot_be_plugged_is_not_attached(self):
        server = self.create()
        before = self.snapshot(server)
        wanted = {'interfaceAttachment': {'net_id': self.neutron.network_1['id']}}
        with self.box.failing('plug', 'Operation not permitted'):
            refusal = self.assertRaises(
                client.OpenStackApiException, self.api.attach_interface, server['id'], wanted
            )
        self.assertEqual(500, refusal.response.status_code)
        self.assert_unharmed(server, before)
        self.assertEqual(1, len(self.api.get_port_interfaces(server['id'])))
        self.assertEqual(1, len(self.box.plugged()))

    def test_a_paused_sandbox_can_be_deleted(self):
        server = self.create()
        self.box.add_user_container(server['id'])
        self.act(server, pause=None)
        self.wait_for(server, status='PAUSED')

        self.delete(server)
        self.assert_nothing_left()

    def test_a_stopped_sandbox_can_be_deleted_twice(self):
        server = self.create()
        self.box.add_user_container(server['id'])
        self.act(server, **{'os-stop': None})
        self.wait_for(server, status='SHUTOFF')
        self.box.lose(server['id'])

        self.delete(server)
        self.assert_nothing_left()

    def test_a_failed_delete_can_be_repeated(self):
        server = self.create()
        with self.box.failing('remove'):
            self.api.delete_server(server['id'])
            self.wait_for(server, status='ERROR')

        self.delete(server)
        self.assert_nothing_left()

    def test_a_delete_while_docker_is_away_can_be_repeated(self):
        server = self.create()
        self.box.add_user_container(server['id'])
        with self.box.unavailable():
            self.api.delete_server(server['id'])
            self.wait_for(server, status='ERROR')

        self.delete(server)
        self.assert_nothing_left()

    def test_rebuild_makes_the_sandbox_anew(self):
        server = self.create()
        before = self.record(server)
        port = before.addresses[0].port_id

        self.act(server, rebuild={'imageRef': self.image})

        def look():
            record = self.record(server)
            self.assertIsNotNone(record)
            self.assertNotEqual(before.incarnation, record.incarnation)
            self.assertEqual(sandbox.State.READY, record.state)
            return record

        after = self.eventually(look)
        self.wait_for(server, status='ACTIVE')
        self.assertEqual([port], [address.port_id for address in after.addresses])
        self.delete(server)
        self.assert_nothing_left()

    def test_two_servers_are_two_sandboxes(self):
        first, second = self.create(name='first'), self.create(name='second')
        self.delete(first)
        self.assertEqual(sandbox.State.READY, self.record(second).state)
        self.assertEqual('running', self.pause_container(second)['State']['Status'])
        self.assertIsNone(self.record(first))

    def test_a_server_without_network(self):
        server = self.create(networks='none')
        self.assertEqual((), self.record(server).addresses)
        self.assertEqual([], self.box.plugged())
        self.delete(server)
        self.assert_nothing_left()

    def test_the_console_shows_what_the_sandbox_wrote(self):
        server = self.create()
        container_id = self.box.add_user_container(server['id'])
        self.box.write_log(sandbox.container_name(container_id), 'grüße\n'.encode())

        answer = self.api.api_post(
            f'/servers/{server["id"]}/action', {'os-getConsoleOutput': {'length': 1}}
        )
        # nova itself knows no letter outside of ASCII; what matters is that it gets through.
        self.assertEqual(
            f'c-{container_id[:8]}: gr\ufffd\ufffd\ufffd\ufffde', answer.body['output']
        )

    def test_diagnostics(self):
        server = self.create()
        shown = self.api.api_get(f'/servers/{server["id"]}/diagnostics').body
        self.assertEqual('running', shown['state'])
        self.assertEqual(1, shown['num_cpus'])
        self.assertEqual(128, shown['memory_details']['maximum'])
        self.assertEqual('00:0c:29:0d:11:74', shown['nic_details'][0]['mac_address'])

    def test_what_exceeds_the_quota_is_refused_and_starts_nothing(self):
        self.flags(instances=1, group='quota')
        first = self.create()
        before = self.snapshot(first)

        refusal = self.assertRaises(client.OpenStackApiException, self.create, name='second')

        self.assertEqual(403, refusal.response.status_code)
        self.assertIn('Quota exceeded for instances', refusal.response.text)
        self.assert_unharmed(first, before)
        self.assertEqual({first['id']}, self.box.store.ids())


class EventTestCase(base.CloudTestCase):
    """A port that is not up yet; Neutron says later that it is."""

    def setUp(self):
        super().setUp()
        self.port_is_down()

    def test_ready_comes_after_neutrons_event(self):
        server = self.request()
        self.eventually(lambda: self.assertEqual(1, len(self.box.plugged())))
        record = self.wait_for_state(server, 'building')
        self.assertIsNotNone(record.pause)  # so that the agent can prepare
        self.assertEqual('BUILD', self.api.get_server(server['id'])['status'])

        self.tell_plugged(server)

        self.wait_for(server, status='ACTIVE')
        self.assertEqual(sandbox.State.READY, self.record(server).state)

    def test_the_agent_can_take_the_lock_meanwhile(self):
        server = self.request()
        self.eventually(lambda: self.assertEqual(1, len(self.box.plugged())))
        with self.box.store.lock(server['id'], timeout=1):
            self.assertEqual(sandbox.State.BUILDING, self.record(server).state)
        self.tell_plugged(server)
        self.wait_for(server, status='ACTIVE')
