"""Sandboxes that get another size or another host, by nova's own services."""

from tests.nova import base
from zun_virt import sandbox

State = sandbox.State


class ResizeTestCase(base.CloudTestCase):
    """On one host, where a sandbox goes on running."""

    OPTIONS = ((None, 'allow_resize_to_same_host', True),)

    def setUp(self):
        super().setUp()
        self.server = self.create()
        self.mine = self.box.add_user_container(self.server['id'])
        self.before = self.snapshot(self.server)
        self.larger = self.add_flavor('larger', trait=base.SANDBOX_TRAIT, memory_mb=256, vcpu=2)

    def memory(self):
        return int(self.box.limit(self.server['id'], 'memory.limit_in_bytes')) >> 20

    def started(self):
        return self.box.user_container(self.mine)['State']['StartedAt']

    def resize(self, flavor, wanted='VERIFY_RESIZE'):
        self.act(self.server, resize={'flavorRef': flavor})
        return self.wait_for(self.server, status=wanted)

    def assert_limits(self, memory_mb, cpus):
        self.assertEqual(memory_mb, self.memory())
        limits = self.record(self.server).limits
        self.assertEqual((memory_mb, cpus), (limits.memory_mb, limits.cpus))

    def assert_ran_on(self, started):
        self.assertEqual(started, self.started())
        self.assertEqual('running', self.box.user_container(self.mine)['State']['Status'])
        self.assertEqual(self.before[1:], self.snapshot(self.server)[1:])
        self.assertEqual(State.READY, self.record(self.server).state)
        self.assertEqual(1, len(self.box.plugged()))

    def test_up_and_confirmed(self):
        started = self.started()
        self.resize(self.larger)
        self.assert_limits(256, 2)
        self.act(self.server, confirmResize=None)
        self.wait_for(self.server, status='ACTIVE')
        self.assert_limits(256, 2)
        self.assert_ran_on(started)
        self.assertEqual(256, self.api.get_server(self.server['id'])['flavor']['ram'])
        self.assert_allocated(256)

    def test_up_and_reverted(self):
        started = self.started()
        self.resize(self.larger)
        self.act(self.server, revertResize=None)
        self.wait_for(self.server, status='ACTIVE')
        self.assert_limits(128, 1)
        self.assert_ran_on(started)
        self.assert_allocated(128)

    def test_down(self):
        server = self.create(flavorRef=self.larger)
        self.act(server, resize={'flavorRef': self.flavor})
        self.wait_for(server, status='VERIFY_RESIZE')
        self.assertEqual(128, self.record(server).limits.memory_mb)
        self.act(server, confirmResize=None)
        self.wait_for(server, status='ACTIVE')

    def test_down_below_what_is_in_use_changes_nothing(self):
        self.resize(self.larger)
        self.act(self.server, confirmResize=None)
        self.wait_for(self.server, status='ACTIVE')
        self.box.use_memory(self.server['id'], 200 << 20)
        self.act(self.server, resize={'flavorRef': self.flavor})
        self.eventually(lambda: self.assertIn('200 MiB', str(self.faults(self.server))))
        self.wait_for(self.server, status='ACTIVE')
        self.assert_limits(256, 2)
        self.assert_ran_on(self.started())
        self.assert_allocated(256)

    def test_down_below_a_containers_own_limit_changes_nothing(self):
        self.resize(self.larger)
        self.act(self.server, confirmResize=None)
        self.wait_for(self.server, status='ACTIVE')
        self.box.user_container(self.mine)['HostConfig']['Memory'] = 200 << 20
        self.act(self.server, resize={'flavorRef': self.flavor})
        self.eventually(lambda: self.assertIn('200 MiB of its own', str(self.faults(self.server))))
        self.wait_for(self.server, status='ACTIVE')
        self.assert_limits(256, 2)
        self.assertEqual(256, self.api.get_server(self.server['id'])['flavor']['ram'])

    def test_a_revert_that_does_not_fit_restarts_it(self):
        self.resize(self.larger)
        self.box.use_memory(self.server['id'], 200 << 20)
        self.act(self.server, revertResize=None)
        self.wait_for(self.server, status='ACTIVE')
        self.assert_limits(128, 1)
        record = self.record(self.server)
        self.assertEqual((State.READY, (self.mine,)), (record.state, record.running))

    def test_a_stopped_one_stays_stopped(self):
        self.act(self.server, **{'os-stop': None})
        self.wait_for(self.server, status='SHUTOFF')
        self.resize(self.larger)
        self.assertEqual(State.STOPPED, self.record(self.server).state)
        self.act(self.server, confirmResize=None)
        self.wait_for(self.server, status='SHUTOFF')
        self.assertEqual(256, self.record(self.server).limits.memory_mb)
        self.act(self.server, **{'os-start': None})
        self.wait_for(self.server, status='ACTIVE')
        self.assert_limits(256, 2)
        self.assertEqual((self.mine,), self.record(self.server).running)

    def test_deleted_before_it_is_confirmed(self):
        self.resize(self.larger)
        self.delete(self.server)
        self.assert_nothing_left()

    def assert_allocated(self, memory_mb):
        def look():
            provider = self._get_provider_uuid_by_host('box')
            allocations = self._get_allocations_by_server_uuid(self.server['id'])
            self.assertEqual({provider}, set(allocations))
            self.assertEqual(memory_mb, allocations[provider]['resources']['MEMORY_MB'])
            self.assertEqual(memory_mb, self._get_provider_usages(provider)['MEMORY_MB'])

        self.eventually(look)


class MoveTestCase(base.CloudTestCase):
    """Between two hosts, where a sandbox is made anew."""

    SANDBOX_HOSTS = ('box', 'other')

    def setUp(self):
        super().setUp()
        self.server = self.create(host='box')
        self.mine = self.box.add_user_container(self.server['id'])
        self.other = self.outside['other']

    def migrate(self, **action):
        self.act(self.server, **(action or {'migrate': None}))
        return self.wait_for(self.server, status='VERIFY_RESIZE')

    def assert_moved(self):
        shown = self.api.get_server(self.server['id'])
        self.assertEqual('other', shown['OS-EXT-SRV-ATTR:host'])
        self.assertEqual(State.READY, self.record(self.server, 'other').state)
        self.assertEqual(1, len(self.other.plugged()))

    def test_migrated_and_confirmed(self):
        before = self.record(self.server)
        self.migrate()
        self.assert_moved()
        after = self.record(self.server, 'other')
        self.assertEqual((self.mine,), after.running)
        self.assertNotEqual(before.incarnation, after.incarnation)
        self.assertEqual(before.addresses, after.addresses)
        behind = self.record(self.server)
        self.assertEqual((State.STOPPED, (self.mine,)), (behind.state, behind.running))
        self.assertEqual([], self.box.running(self.server['id']))
        self.assertEqual([], self.box.plugged())

        self.act(self.server, confirmResize=None)
        self.wait_for(self.server, status='ACTIVE')
        self.assert_nothing_left('box')
        self.assert_moved()
        self.assert_allocations_of('other')
        self.delete(self.server)
        self.assert_nothing_left('other')

    def test_migrated_and_reverted(self):
        before = self.record(self.server)
        pause = self.pause_container(self.server)['Id']
        self.migrate()
        self.act(self.server, revertResize=None)
        self.wait_for(self.server, status='ACTIVE')
        self.assert_nothing_left('other')
        after = self.record(self.server)
        self.assertEqual((State.READY, (self.mine,)), (after.state, after.running))
        self.assertEqual(before.incarnation, after.incarnation)
        self.assertEqual(pause, self.pause_container(self.server)['Id'])
        self.assertEqual(1, len(self.box.plugged()))
        self.assert_allocations_of('box')

    def test_resized_to_another_host(self):
        flavor = self.add_flavor('larger', trait=base.SANDBOX_TRAIT, memory_mb=256)
        self.migrate(resize={'flavorRef': flavor})
        self.assert_moved()
        self.assertEqual(256, self.record(self.server, 'other').limits.memory_mb)
        self.act(self.server, revertResize=None)
        self.wait_for(self.server, status='ACTIVE')
        self.assertEqual(128, self.record(self.server).limits.memory_mb)
        self.assert_nothing_left('other')

    def test_a_stopped_one_stays_stopped(self):
        self.act(self.server, **{'os-stop': None})
        self.wait_for(self.server, status='SHUTOFF')
        self.migrate()
        record = self.record(self.server, 'other')
        self.assertEqual((State.STOPPED, (self.mine,)), (record.state, record.running))
        self.act(self.server, confirmResize=None)
        self.wait_for(self.server, status='SHUTOFF')
        self.act(self.server, **{'os-start': None})
        self.wait_for(self.server, status='ACTIVE')
        self.assert_moved()
        self.assertEqual((self.mine,), self.record(self.server, 'other').running)

    def test_a_stopped_one_reverted_stays_stopped(self):
        self.act(self.server, **{'os-stop': None})
        self.wait_for(self.server, status='SHUTOFF')
        self.migrate()
        self.act(self.server, revertResize=None)
        self.wait_for(self.server, status='SHUTOFF')
        self.assertEqual(State.STOPPED, self.record(self.server).state)
        self.assertEqual([], self.box.running(self.server['id']))

    def test_a_destination_that_fails_can_be_mended(self):
        with self.other.failing('plug', 'Operation not permitted'):
            self.act(self.server, migrate=None)
            self.wait_for(self.server, status='ERROR')
        self.assertEqual(State.STOPPED, self.record(self.server).state)
        self.act(self.server, reboot={'type': 'HARD'})
        self.wait_for(self.server, status='ACTIVE')
        self.assert_moved()

    def test_too_small_a_flavor_is_refused_before_anything_is_stopped(self):
        before = self.snapshot(self.server)
        self.box.user_container(self.mine)['HostConfig']['Memory'] = 100 << 20
        flavor = self.add_flavor('smaller', trait=base.SANDBOX_TRAIT, memory_mb=64)
        self.act(self.server, resize={'flavorRef': flavor})
        self.eventually(lambda: self.assertIn('100 MiB of its own', str(self.faults(self.server))))
        self.assert_unharmed(self.server, before)
        self.assert_nothing_left('other')

    def test_live_migration_leaves_it_as_it_was(self):
        before = self.snapshot(self.server)
        self.act(self.server, **{'os-migrateLive': {'host': None, 'block_migration': 'auto'}})
        self.failure(self.server, 'live-migration', 'conductor_live_migrate_instance')
        self.assert_unharmed(self.server, before)
        self.assert_nothing_left('other')
        self.assert_allocations_of('box')

    def assert_allocations_of(self, host):
        def look():
            provider = self._get_provider_uuid_by_host(host)
            allocations = self._get_allocations_by_server_uuid(self.server['id'])
            self.assertEqual({provider}, set(allocations))
            for name in ('box', 'other'):
                usages = self._get_provider_usages(self._get_provider_uuid_by_host(name))
                self.assertEqual(128 if name == host else 0, usages['MEMORY_MB'])

        self.eventually(look)


class EvacuationTestCase(base.CloudTestCase):
    """From a host that does not answer any more; `test_startup` has what follows."""

    SANDBOX_HOSTS = ('box', 'other')

    def test_before_2_95_it_runs(self):
        server = self.create(host='box')
        self.computes['box'].stop()
        service = self.api.get_services(host='box', binary='nova-compute')[0]
        self.api.put_service(service['id'], {'forced_down': True})
        self.api.microversion = '2.94'
        self.act(server, evacuate={})
        self.wait_for(server, **{'OS-EXT-SRV-ATTR:host': 'other', 'status': 'ACTIVE'})
        self.assertEqual(State.READY, self.record(server, 'other').state)
