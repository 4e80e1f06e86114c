"""nova-compute starting on a host where there are sandboxes already."""

from unittest import mock

from nova import context, exception
from nova.compute import power_state

from tests.nova import base
from tests.unit.virt import fake_docker
from zun_virt import sandbox


class RestartTestCase(base.CloudTestCase):
    def set_task(self, server, state):
        """Have nova be in the middle of something with the server."""
        from nova import objects

        instance = objects.Instance.get_by_uuid(context.get_admin_context(), server['id'])
        instance.task_state = state
        instance.save()

    def test_running_sandboxes_are_left_alone(self):
        server = self.create()
        before = self.snapshot(server)
        plugged = self.box.plugged()

        self.restart()

        self.assert_unharmed(server, before)
        self.assertEqual(plugged, self.box.plugged())
        self.delete(server)
        self.assert_nothing_left()

    def test_a_pause_that_was_cut_off_is_taken_back(self):
        server = self.create()
        name = sandbox.container_name(self.box.add_user_container(server['id']))
        self.computes['box'].stop()
        self.box.docker.pause(name)
        self.box.store.write(self.record(server).replace(state=sandbox.State.PAUSED))
        self.set_task(server, 'pausing')

        self.restart()

        self.wait_for_state(server, 'ready')
        self.assertEqual('running', self.box.container(name)['State']['Status'])
        self.wait_for(server, status='ACTIVE')

    def test_stopped_sandboxes_stay_stopped(self):
        server = self.create()
        self.act(server, **{'os-stop': None})
        self.wait_for(server, status='SHUTOFF')
        before = self.snapshot(server)

        self.restart()

        self.wait_for(server, status='SHUTOFF')
        self.assertEqual(before, self.snapshot(server))
        self.assertEqual([], self.box.plugged())

    def test_a_network_that_cannot_be_plugged_does_not_stop_the_service(self):
        broken, fine = self.create(name='broken'), self.create(name='fine')
        before = self.snapshot(fine)
        self.box.unplug_behind_the_back(broken['id'])
        for step in ('plug', 'ovs'):
            with self.box.failing(step, 'it is broken', of=broken['id']):
                self.restart()
            self.assert_unharmed(fine, before)
        self.create(name='next')

    def test_docker_that_is_down_stops_the_service_with_a_clear_error(self):
        with self.box.unavailable():
            error = self.assertRaises(exception.InvalidConfiguration, self.restart)
        self.assertIn('No sandboxes on this host', str(error))

    def test_cores_that_cannot_be_had_stop_the_service(self):
        for shared, dedicated in (('0-3', '3-5'), ('0', '77')):
            self.flags(cpu_shared_set=shared, cpu_dedicated_set=dedicated, group='compute')
            error = self.assertRaises(exception.InvalidConfiguration, self.restart)
            self.assertIn('cpu_dedicated_set', str(error))

    def test_a_new_host_with_somebody_elses_containers(self):
        self.box.add_stranger()
        self.restart()
        server = self.create()
        self.delete(server)
        self.assertEqual(1, self.box.strangers())

    def test_a_delete_that_was_interrupted_is_completed(self):
        server = self.create()
        self.set_task(server, 'deleting')

        self.restart()

        self.assert_nothing_left()


class HostRebootTestCase(base.CloudTestCase):
    """After the host's reboot Docker has the containers, none runs, no network is left."""

    def setUp(self):
        super().setUp()
        self.server = self.create()
        self.mine = self.box.add_user_container(self.server['id'])
        self.before = self.record(self.server)
        self.stopped = self.create(name='stopped')
        self.act(self.stopped, **{'os-stop': None})
        self.wait_for(self.stopped, status='SHUTOFF')

    def test_what_ran_runs_again_if_the_operator_wants_it(self):
        self.flags(resume_guests_state_on_host_boot=True)
        self.computes['box'].stop()
        self.box.reboot()
        self.restart()

        record = self.wait_for_state(self.server, 'ready')
        self.wait_for(
            self.server, status='ACTIVE', **{'OS-EXT-STS:power_state': power_state.RUNNING}
        )
        self.assertNotEqual(self.before.pause.started_at, record.pause.started_at)
        self.assertNotEqual(self.before.pause.boot_id, record.pause.boot_id)
        self.assertEqual(self.before.pause.id, record.pause.id)
        self.assertIn(self.mine, record.running)
        self.assertEqual(1, len(self.box.plugged()))
        self.wait_for(self.stopped, status='SHUTOFF')
        self.assertEqual(sandbox.State.STOPPED, self.record(self.stopped).state)

    def test_what_ran_is_shown_as_stopped_otherwise_and_can_be_started(self):
        self.computes['box'].stop()
        self.box.reboot()
        self.restart()
        self.sync_power_states()

        self.wait_for(self.server, status='SHUTOFF')
        self.assertNotEqual(sandbox.State.READY, self.record(self.server).state)

        self.act(self.server, **{'os-start': None})
        self.wait_for(self.server, status='ACTIVE')
        record = self.record(self.server)
        self.assertEqual(sandbox.State.READY, record.state)
        self.assertIn(self.mine, record.running)
        self.assertEqual(1, len(self.box.plugged()))


class PowerTestCase(base.CloudTestCase):
    """What happens to a sandbox's container without nova."""

    def setUp(self):
        super().setUp()
        self.flags(handle_virt_lifecycle_events=True, group='workarounds')

    def runs_again(self, server, before):
        def look():
            record = self.record(server)
            self.assertEqual(sandbox.State.READY, record.state)
            self.assertNotEqual(before.pause.started_at, record.pause.started_at)

        self.eventually(look)
        self.sync_power_states()
        self.wait_for(server, status='ACTIVE', **{'OS-EXT-STS:power_state': power_state.RUNNING})
        self.assertEqual(1, len(self.box.plugged()))

    def test_a_container_that_was_killed_runs_again(self):
        server = self.create()
        mine = self.box.add_user_container(server['id'])
        before = self.record(server)
        self.box.kill(server['id'])

        self.runs_again(server, before)

        self.assertEqual(before.addresses, self.record(server).addresses)
        self.assertEqual((mine,), self.record(server).running)

    def test_one_that_was_shut_down_from_within_stops_its_server(self):
        server = self.create()
        self.box.kill(server['id'], 0)

        self.wait_for(server, status='SHUTOFF')

        self.assertEqual(sandbox.State.STOPPED, self.record(server).state)
        self.act(server, **{'os-start': None})
        self.wait_for(server, status='ACTIVE')
        self.assertEqual(sandbox.State.READY, self.record(server).state)

    def test_novas_periodic_task_stops_nothing_that_is_about_to_run_again(self):
        server = self.create()
        before = self.record(server)
        self.box.docker.streams = []
        self.box.kill(server['id'])
        self.sync_power_states()
        self.assertEqual('ACTIVE', self.api.get_server(server['id'])['status'])

        self.computes['box'].manager.driver._recovery.look_around()

        self.runs_again(server, before)

    def test_the_engine_restarted_without_live_restore(self):
        server, stopped = self.create(), self.create(name='stopped')
        self.act(stopped, **{'os-stop': None})
        self.wait_for(stopped, status='SHUTOFF')
        before = self.record(server)
        with self.box.unavailable():
            self.box.docker.restart()

        self.runs_again(server, before)

        self.wait_for(stopped, status='SHUTOFF')
        self.assertEqual(sandbox.State.STOPPED, self.record(stopped).state)

    def test_the_engine_restarted_while_nova_compute_was_down(self):
        server = self.create()
        before = self.record(server)
        self.computes['box'].stop()
        self.box.docker.restart()
        self.restart()
        self.runs_again(server, before)

    def test_a_stop_that_failed_leaves_it_running(self):
        server = self.create()
        with mock.patch.object(
            self.box.docker, 'stop', side_effect=fake_docker.api_error(500, 'no')
        ):
            self.act(server, **{'os-stop': None})
            self.failure(server, 'stop', 'compute_stop_instance')
        self.assertEqual(sandbox.State.STOPPING, self.record(server).state)
        self.wait_for(server, status='ACTIVE')

        self.computes['box'].manager.driver._recovery.look_around()

        self.wait_for_state(server, 'ready')
        self.wait_for(server, status='ACTIVE')

    def test_a_stopped_one_that_somebody_started_is_stopped(self):
        server = self.create()
        self.act(server, **{'os-stop': None})
        self.wait_for(server, status='SHUTOFF')
        self.box.start_behind_the_back(server['id'])

        self.sync_power_states()

        def look():
            self.assertEqual('exited', self.pause_container(server)['State']['Status'])

        self.eventually(look)
        self.wait_for(server, status='SHUTOFF')

    def test_novas_periodic_task_looks_at_docker_once_for_all(self):
        servers = [self.create(name=f'box{number}') for number in range(3)]

        def look():
            self.box.docker.calls.clear()
            self.sync_power_states()
            # Nova may only now be told that they started, and look for that reason.
            self.assertEqual([], self.box.history('inspect_container'))
            self.assertTrue(self.box.history('containers'))

        self.eventually(look)
        for server in servers:
            self.assertEqual('ACTIVE', self.api.get_server(server['id'])['status'])

    def test_nothing_is_stopped_while_docker_does_not_answer(self):
        server = self.create()
        before = self.snapshot(server)
        with self.box.unavailable():
            # nova's periodic task ends with that, and comes back later.
            self.assertRaises(exception.HypervisorUnavailable, self.sync_power_states)
        self.assert_unharmed(server, before)


class EvacuationTestCase(base.CloudTestCase):
    SANDBOX_HOSTS = ('box', 'other')

    def test_a_sandbox_comes_back_on_another_host_with_its_address(self):
        server = self.create(host='box')
        before = self.record(server)
        self.computes['box'].stop()
        service = self.api.get_services(host='box', binary='nova-compute')[0]
        self.api.put_service(service['id'], {'forced_down': True})

        self.act(server, evacuate={})

        self.wait_for(server, **{'OS-EXT-SRV-ATTR:host': 'other', 'status': 'SHUTOFF'})
        self.act(server, **{'os-start': None})
        self.wait_for(server, status='ACTIVE')
        after = self.record(server, 'other')
        self.assertEqual(sandbox.State.READY, after.state)
        self.assertNotEqual(before.incarnation, after.incarnation)
        self.assertEqual(before.addresses, after.addresses)

        self.restart('box')
        self.api.put_service(service['id'], {'forced_down': False})
        self.assert_nothing_left('box')
        self.delete(server)
        self.assert_nothing_left('other')


class OrphanTestCase(base.CloudTestCase):
    """What is left of servers about which nova never asks this host again."""

    SANDBOX_HOSTS = ('box', 'other')
    OPTIONS = (('zun_virt', 'orphan_grace', 0),)

    def look_around(self, host='box'):
        self.computes[host].manager.driver._orphans.look_around()

    def test_a_server_deleted_while_nova_compute_was_down(self):
        server = self.create(host='box')
        self.box.add_user_container(server['id'])
        self.computes['box'].stop()
        service = self.api.get_services(host='box', binary='nova-compute')[0]
        self.api.put_service(service['id'], {'forced_down': True})
        self.delete(server)
        self.restart('box')
        self.look_around()
        self.assert_nothing_left('box')

    def test_one_that_is_here_is_kept(self):
        server = self.create(host='box')
        before = self.snapshot(server)
        self.look_around()
        self.assert_unharmed(server, before)

    def test_one_that_was_evacuated_is_kept_until_nova_has_it_removed(self):
        server = self.create(host='box')
        self.computes['box'].stop()
        service = self.api.get_services(host='box', binary='nova-compute')[0]
        self.api.put_service(service['id'], {'forced_down': True})
        self.act(server, evacuate={})
        self.wait_for(server, **{'OS-EXT-SRV-ATTR:host': 'other', 'status': 'SHUTOFF'})
        self.look_around()
        self.assertIsNotNone(self.pause_container(server, 'box'))
        self.look_around('other')
        self.assertIsNotNone(self.pause_container(server, 'other'))
