"""Changes that fail or meet others, and sandboxes that are not the simplest."""

from nova.compute import power_state

from tests.nova import base
from zun_virt import sandbox


class FailingChangeTestCase(base.CloudTestCase):
    def setUp(self):
        super().setUp()
        self.server = self.create()

    def stop(self):
        self.act(self.server, **{'os-stop': None})
        self.wait_for(self.server, status='SHUTOFF')

    def test_a_start_that_fails_leaves_it_stopped(self):
        self.stop()
        for step in ('start', 'cgroup', 'plug', 'ovs'):
            with self.box.failing(step, f'no {step}'):
                self.act(self.server, **{'os-start': None})
                self.eventually(
                    lambda step=step: self.assertIn(f'no {step}', str(self.faults(self.server)))
                )
                shown = self.wait_for(self.server, status='SHUTOFF')
            self.assertEqual(power_state.SHUTDOWN, shown['OS-EXT-STS:power_state'])
            self.assertEqual(sandbox.State.STOPPED, self.record(self.server).state)
            self.assertEqual([], self.box.running(self.server['id']))
            self.assertEqual([], self.box.plugged())

        self.act(self.server, **{'os-start': None})
        self.wait_for(self.server, status='ACTIVE')
        self.assertEqual(sandbox.State.READY, self.record(self.server).state)

    def test_a_reboot_that_fails_can_be_repeated(self):
        mine = self.box.add_user_container(self.server['id'])
        with self.box.failing('plug', 'Operation not permitted'):
            self.act(self.server, reboot={'type': 'HARD'})
            self.wait_for(self.server, status='ERROR')
        self.assertEqual(sandbox.State.STOPPED, self.record(self.server).state)

        self.act(self.server, reboot={'type': 'HARD'})
        self.wait_for(self.server, status='ACTIVE')
        record = self.record(self.server)
        self.assertEqual(sandbox.State.READY, record.state)
        self.assertEqual((mine,), record.running)

    def test_a_sandbox_that_the_agent_holds_for_long_is_not_changed(self):
        self.flags(lock_timeout=1, group='zun_virt')
        self.restart()
        before = self.snapshot(self.server)
        with self.box.store.lock(self.server['id'], timeout=1):
            self.act(self.server, **{'os-stop': None})
            self.eventually(lambda: self.assertIn('in use', str(self.faults(self.server))))
            self.wait_for(self.server, status='ACTIVE')
        self.assert_unharmed(self.server, before)
        self.stop()

    def test_a_paused_one_can_be_rebooted(self):
        self.act(self.server, pause=None)
        self.wait_for(self.server, status='PAUSED')
        self.act(self.server, reboot={'type': 'HARD'})
        self.wait_for(self.server, status='ACTIVE')
        self.assertEqual(sandbox.State.READY, self.record(self.server).state)

    def test_a_suspended_one_survives_the_hosts_reboot(self):
        mine = self.box.add_user_container(self.server['id'])
        self.act(self.server, suspend=None)
        self.wait_for(self.server, status='SUSPENDED')
        self.computes['box'].stop()
        self.box.reboot()
        self.restart()
        self.wait_for(self.server, status='SUSPENDED')

        self.act(self.server, resume=None)
        self.wait_for(self.server, status='ACTIVE')
        record = self.record(self.server)
        self.assertEqual(sandbox.State.READY, record.state)
        self.assertEqual((mine,), record.running)
        self.assertEqual(1, len(self.box.plugged()))

    def test_what_is_deleted_softly_is_stopped_until_it_is_restored(self):
        self.flags(reclaim_instance_interval=1000)
        self.api.delete_server(self.server['id'])
        self.wait_for(self.server, status='SOFT_DELETED')
        self.assertEqual(sandbox.State.STOPPED, self.record(self.server).state)

        self.act(self.server, restore=None)
        self.wait_for(self.server, status='ACTIVE')
        self.assertEqual(sandbox.State.READY, self.record(self.server).state)

    def test_a_start_waits_until_neutron_has_seen_the_new_interface(self):
        self.stop()
        self.flags(vif_replug_timeout=10, group='zun_virt')
        self.act(self.server, **{'os-start': None})
        self.eventually(lambda: self.assertEqual(1, len(self.box.plugged())))
        self.wait_for_state(self.server, 'building')
        self.tell_plugged(self.server)
        self.wait_for(self.server, status='ACTIVE')
        self.assertEqual(sandbox.State.READY, self.record(self.server).state)

    def test_a_death_while_docker_was_away_is_noticed(self):
        mine = self.box.add_user_container(self.server['id'])
        before = self.record(self.server)
        with self.box.unavailable():
            self.box.docker.disconnect()
            self.box.kill(self.server['id'])

        def look():
            record = self.record(self.server)
            self.assertEqual(sandbox.State.READY, record.state)
            self.assertNotEqual(before.pause.started_at, record.pause.started_at)
            self.assertEqual((mine,), record.running)

        self.eventually(look)


class PortTestCase(base.CloudTestCase):
    """Ports that change in Neutron, as the driver's own pass finds them."""

    OPTIONS = (('zun_virt', 'port_sync_interval', 1),)

    def setUp(self):
        super().setUp()
        self.server = self.create()
        self.first = self.record(self.server).addresses[0]

    def attach(self):
        wanted = {'interfaceAttachment': {'net_id': self.neutron.network_1['id']}}
        answer = self.api.attach_interface(self.server['id'], wanted)
        return answer.body['interfaceAttachment']['port_id']

    def hosts(self):
        return (self.box.store.directory(self.server['id']) / 'hosts').read_text()

    def device(self):
        return next(iter(self.box.kernel.devices.values()))

    def test_a_new_address_and_a_name_are_taken_over(self):
        device = self.device()
        port = self.neutron._ports[self.first.port_id]
        port['fixed_ips'] = [dict(port['fixed_ips'][0], ip_address='192.168.1.77')]
        port['dns_name'] = 'web'
        port['dns_assignment'] = [{'ip_address': '192.168.1.77', 'fqdn': 'web.example.org.'}]

        def look():
            self.assertEqual(['192.168.1.77/24'], device['addresses'])
            self.assertIn('192.168.1.77 web.example.org web mybox\n', self.hosts())
            self.assertEqual('192.168.1.77', self.record(self.server).addresses[0].address)

        self.eventually(look)
        self.assertEqual(sandbox.State.READY, self.record(self.server).state)
        shown = self.api.get_server(self.server['id'])['addresses']
        self.assertIn('192.168.1.77', str(shown))

    def test_a_port_deleted_behind_novas_back_is_taken_away(self):
        port = self.attach()
        self.assertEqual(2, len(self.box.plugged()))
        del self.neutron._ports[port]
        self.neutron._port_bindings.pop(port, None)

        def look():
            self.assertEqual([self.first.port_id], self.box.plugged())
            self.assertEqual((self.first,), self.record(self.server).addresses)
            self.assertNotIn(port, str(self.api.get_port_interfaces(self.server['id'])))

        self.eventually(look)
        self.delete(self.server)
        self.assert_nothing_left()

    def test_neutron_says_that_a_port_was_deleted(self):
        port = self.attach()
        event = {'name': 'network-vif-deleted', 'server_uuid': self.server['id'], 'tag': port}
        self.api.create_server_external_events([event])
        self.eventually(lambda: self.assertEqual([self.first.port_id], self.box.plugged()))
        self.delete(self.server)
        self.assert_nothing_left()

    def test_a_stopped_one_tells_of_an_attached_interface(self):
        self.act(self.server, **{'os-stop': None})
        self.wait_for(self.server, status='SHUTOFF')
        port = self.attach()
        ids = {address.port_id for address in self.record(self.server).addresses}
        self.assertEqual({self.first.port_id, port}, ids)
        self.assertEqual([], self.box.plugged())

        self.act(self.server, **{'os-start': None})
        self.wait_for(self.server, status='ACTIVE')
        self.assertEqual({self.first.port_id, port}, set(self.box.plugged()))

    def test_a_paused_one_gets_its_interface(self):
        self.act(self.server, pause=None)
        self.wait_for(self.server, status='PAUSED')
        port = self.attach()
        self.assertEqual({self.first.port_id, port}, set(self.box.plugged()))
        self.assertEqual(sandbox.State.PAUSED, self.record(self.server).state)

    def test_a_restart_of_the_service_plugs_nothing_that_has_gone(self):
        port = self.attach()
        self.computes['box'].stop()
        del self.neutron._ports[port]
        self.neutron._port_bindings.pop(port, None)
        self.restart()
        self.eventually(lambda: self.assertEqual([self.first.port_id], self.box.plugged()))


class ManifoldTestCase(base.CloudTestCase):
    def test_two_ports_one_of_them_the_users(self):
        given = self.neutron.port_1
        server = self.create(
            networks=[{'port': given['id']}, {'uuid': self.neutron.network_1['id']}]
        )
        first, second = self.record(server).addresses
        self.assertEqual((given['id'], True), (first.port_id, first.preserve_on_delete))
        self.assertFalse(second.preserve_on_delete)
        self.assertEqual({first.port_id, second.port_id}, set(self.box.plugged()))

        self.delete(server)
        self.assert_nothing_left()
        left = [port['id'] for port in self.neutron.list_ports(is_admin=True)['ports']]
        self.assertIn(given['id'], left)
        self.assertNotIn(second.port_id, left)

    def test_the_flavor_sets_the_limits(self):
        flavor = self._create_flavor(
            memory_mb=512,
            vcpu=2,
            disk=3,
            ephemeral=0,
            extra_spec={f'trait:{base.SANDBOX_TRAIT}': 'required', 'zun:pids_limit': '77'},
        )
        server = self.create(flavorRef=flavor)
        limits = self.record(server).limits
        self.assertEqual(
            (2, 512, 77, 3), (limits.cpus, limits.memory_mb, limits.pids, limits.disk_gb)
        )
        parent = self.record(server).cgroup_parent
        setting = self.box.kernel.setting
        self.assertEqual(str(512 << 20), setting(parent, 'memory.limit_in_bytes'))
        self.assertEqual('77', setting(parent, 'pids.max'))
        quota, period = (int(setting(parent, f'cpu.cfs_{name}_us')) for name in ('quota', 'period'))
        self.assertEqual(2, quota / period)

    def test_a_limit_that_is_no_number_is_the_flavors_fault(self):
        flavor = self._create_flavor(
            memory_mb=512, vcpu=1, disk=1, ephemeral=0, extra_spec={'zun:pids_limit': 'many'}
        )
        server = self.create('ERROR', flavorRef=flavor)
        self.assertIn('zun:pids_limit=many', server['fault']['message'])
        self.assert_nothing_left()
