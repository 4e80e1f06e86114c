"""Volumes of sandboxes as nova's own services handle them, with a Cinder in memory."""

import fixtures
from nova.compute import power_state

from tests.nova import base
from tests.unit.virt.storage import Content


class VolumeCase(base.CloudTestCase):
    def setUp(self):
        super().setUp()
        self.volume = self.cinder.ISCSI_BACKED_VOL
        self.storage = self.box.storage

    def content(self):
        return self.storage.contents[self.volume]

    def attachments(self):
        return dict(self.cinder.volume_to_attachment.get(self.volume, {}))

    def mounted(self, server, host=None):
        return self.storage.at(self._outside(host).store.volumes(server['id']))

    def attach(self, server, volume=None):
        body = {'volumeAttachment': {'volumeId': volume or self.volume}}
        return self.api.post_server_volume(server['id'], body)

    def detach(self, server):
        self.api.delete_server_volume(server['id'], self.volume)

    def assert_attached(self, server, host=None):
        def look():
            wanted = [(self.volume, '/dev/vdb')]
            found = self.api.get_server_volumes(server['id'])
            self.assertEqual(wanted, [(one['volumeId'], one['device']) for one in found])
            self.assertEqual({self.volume}, self.mounted(server, host))
            record = self.record(server, host)
            self.assertIsNotNone(record)
            self.assertEqual(wanted, [(one.id, one.device) for one in record.volumes])

        self.eventually(look)

    def assert_detached(self, server):
        def look():
            self.assertEqual([], self.api.get_server_volumes(server['id']))
            self.assertEqual((), self.record(server).volumes)
            self.assert_free()

        self.eventually(look)

    def assert_free(self):
        self.assertEqual({}, self.attachments())
        self.assertEqual({}, self.box.machine.leftovers_of_volumes())

    def disk(self, **changes):
        return {
            'source_type': 'volume',
            'destination_type': 'volume',
            'uuid': self.volume,
            'boot_index': -1,
            **changes,
        }

    def root(self):
        return {
            'source_type': 'image',
            'destination_type': 'local',
            'uuid': self.image,
            'boot_index': 0,
        }


class VolumeTestCase(VolumeCase):
    def test_attach_and_detach(self):
        server = self.create()
        self.attach(server)
        self.assert_attached(server)
        self.detach(server)
        self.assert_detached(server)

    def test_while_stopped(self):
        server = self.create()
        self.act(server, **{'os-stop': None})
        self.wait_for(server, status='SHUTOFF')
        self.attach(server)
        self.assert_attached(server)
        self.act(server, **{'os-start': None})
        self.wait_for(server, status='ACTIVE')
        self.assert_attached(server)
        self.act(server, **{'os-stop': None})
        self.wait_for(server, status='SHUTOFF')
        self.assertEqual(set(), self.mounted(server))
        self.detach(server)
        self.assert_detached(server)

    def test_at_boot(self):
        server = self.create(block_device_mapping_v2=[self.root(), self.disk()])
        self.assert_attached(server)
        self.assertEqual(1, self.content().made)
        self.delete(server)
        self.eventually(self.assert_free)
        self.assert_nothing_left()

    def test_rebuilding_keeps_it(self):
        server = self.create(block_device_mapping_v2=[self.root(), self.disk()])
        before = self.pause_container(server)['Id']
        self.act(server, rebuild={'imageRef': self.image})
        self.eventually(
            lambda: self.assertNotIn(before, [(self.pause_container(server) or {}).get('Id'), None])
        )
        self.wait_for(server, status='ACTIVE')
        self.assert_attached(server)
        self.assertEqual(1, self.content().made)

    def test_reboots_keep_it(self):
        server = self.create(block_device_mapping_v2=[self.root(), self.disk()])
        for kind in ('SOFT', 'HARD'):
            self.act(server, reboot={'type': kind})
            self.wait_for(server, status='ACTIVE')
            self.assert_attached(server)

    def test_in_use_it_stays(self):
        server = self.create()
        self.attach(server)
        self.assert_attached(server)
        self.storage.busy.add(self.volume)
        self.detach(server)
        self.assertIn('open', self.failure(server, 'detach_volume', 'compute_detach_volume'))
        self.assert_attached(server)
        self.storage.busy.clear()
        self.detach(server)
        self.assert_detached(server)

    def test_something_else_is_on_it(self):
        self.storage.contents[self.volume] = Content('LVM2_member')
        server = self.create()
        self.attach(server)
        told = self.failure(server, 'attach_volume', 'compute_attach_volume')
        self.assertIn('LVM2_member', told)
        self.assert_detached(server)
        self.assertEqual(0, self.content().made)
        self.wait_for(server, status='ACTIVE')

    def test_at_boot_something_else_is_on_it(self):
        self.storage.contents[self.volume] = Content('', blank=False)
        server = self.create('ERROR', block_device_mapping_v2=[self.root(), self.disk()])
        self.assertIn('neither ext4 nor xfs', self.faults(server)[0])
        self.assert_nothing_left()
        self.delete(server)
        self.eventually(self.assert_free)

    def test_one_that_nobody_may_write_to(self):
        """Its flag alone says so, as with most of Cinder's drivers: the connection is writable."""
        self.storage.contents[self.volume] = Content('ext4')
        shown = {'volume_metadata': {'readonly': 'True'}}
        self.cinder.volumes[self.volume] = dict(
            shown, id=self.volume, size=1, multiattach=False, availability_zone='nova'
        )
        server = self.create()
        self.attach(server)
        self.assert_attached(server)
        self.assertTrue(self.record(server).volumes[0].read_only)
        self.act(server, reboot={'type': 'HARD'})
        self.wait_for(server, status='ACTIVE')
        self.assert_attached(server)
        ((_, _, read_only),) = self.storage.mounts.values()
        self.assertTrue(read_only)

    def test_multiattach_is_refused(self):
        self.volume = self.cinder.MULTIATTACH_VOL
        server = self.create()
        self.attach(server)
        self.eventually(lambda: self.assertIn("'multiattach' set", str(self.faults(server))))
        self.assert_detached(server)

    def test_extending(self):
        server = self.create()
        self.attach(server)
        self.assert_attached(server)
        self.content().size = 2
        event = {'name': 'volume-extended', 'server_uuid': server['id'], 'tag': self.volume}
        self.api.create_server_external_events([event])
        self.eventually(lambda: self.assertEqual(2, self.content().file_system_size))

    def test_cinders_migration_of_one_in_use_is_refused(self):
        self.volume = self.cinder.SWAP_OLD_VOL
        server = self.create()
        self.attach(server)
        self.assert_attached(server)
        body = {'volumeAttachment': {'volumeId': self.cinder.SWAP_NEW_VOL}}
        self.api.api_put(f'/servers/{server["id"]}/os-volume_attachments/{self.volume}', body)
        self.assertIn('detach it', self.failure(server, 'swap_volume', 'compute_swap_volume'))
        self.assert_attached(server)

    def test_booting_from_one_is_refused_before_anything_is_made(self):
        server = self.create(
            'ERROR', imageRef='', block_device_mapping_v2=[self.disk(boot_index=0)]
        )
        self.assertIn('cannot boot from a volume', self.faults(server)[0])
        self.assertEqual(set(), self.storage.connected)
        self.assert_nothing_left()
        self.delete(server)
        self.eventually(self.assert_free)

    def test_a_death_in_the_middle_of_an_attachment(self):
        """It is mounted, and nova never heard of it; it goes with the server at the latest."""
        server = self.create()
        self.attach(server)
        self.assert_attached(server)
        record = self.record(server)
        self.box.store.write(record.replace(volumes=()))
        self.restart()
        self.detach(server)
        self.assert_detached(server)
        self.attach(server)
        self.assert_attached(server)
        self.restart()
        self.assert_attached(server)

    def test_a_reboot_of_the_host(self):
        self.flags(resume_guests_state_on_host_boot=True)
        server = self.create()
        self.attach(server)
        self.assert_attached(server)
        # before the machine goes: the nova-compute that is still there may start what was killed
        self.storage.mounts.clear()
        self.storage.loops.clear()
        self.box.reboot()
        self.restart()
        self.wait_for(server, **{'OS-EXT-STS:power_state': power_state.RUNNING})
        self.assert_attached(server)
        self.assertEqual(1, self.content().made)


class ResizeHereTestCase(VolumeCase):
    """Of a server that stays on its host, while Nova gives up all its ways to volumes."""

    OPTIONS = ((None, 'allow_resize_to_same_host', True),)

    def setUp(self):
        super().setUp()
        self.larger = self.add_flavor('larger', trait=base.SANDBOX_TRAIT, memory_mb=256)

    def export_files(self):
        way = {'driver_volume_type': 'nfs', 'data': {'export': '127.0.0.1:/share'}}
        self.stub_out(
            'nova.tests.fixtures.CinderFixture.VOLUME_CONNECTION_INFO', {self.volume: way}
        )

    def resize(self, server):
        self.act(server, resize={'flavorRef': self.larger})
        return self.wait_for(server, status='VERIFY_RESIZE')

    def test_files_stay_mounted(self):
        self.export_files()
        server = self.create(block_device_mapping_v2=[self.root(), self.disk()])
        mounts = dict(self.storage.mounts)
        for end, status in (('revertResize', 'ACTIVE'), ('confirmResize', 'ACTIVE')):
            self.resize(server)
            self.assert_attached(server)
            self.act(server, **{end: None})
            self.wait_for(server, status=status)
            self.assert_attached(server)
        self.assertEqual(mounts, self.storage.mounts)

    def test_a_file_attached_before_a_revert_stays_mounted(self):
        self.export_files()
        server = self.create()
        self.resize(server)
        self.attach(server)
        self.assert_attached(server)
        mounts = dict(self.storage.mounts)
        self.act(server, revertResize=None)
        self.wait_for(server, status='ACTIVE')
        self.assert_attached(server)
        self.assertEqual(mounts, self.storage.mounts)
        self.detach(server)
        self.assert_detached(server)

    def test_a_device_is_not_attached_before_a_revert(self):
        server = self.create()
        self.resize(server)
        self.attach(server)
        told = self.failure(server, 'attach_volume', 'compute_attach_volume')
        self.assertIn('confirm or revert', told)
        self.assert_detached(server)
        self.act(server, revertResize=None)
        self.wait_for(server, status='ACTIVE')
        self.attach(server)
        self.assert_attached(server)

    def test_with_a_mounted_device_it_is_refused(self):
        server = self.create(block_device_mapping_v2=[self.root(), self.disk()])
        self.act(server, resize={'flavorRef': self.larger})
        self.eventually(lambda: self.assertIn('stop the server', str(self.faults(server))))
        self.wait_for(server, status='ACTIVE')
        self.assert_attached(server)

    def test_a_stopped_one_gives_its_devices_back(self):
        server = self.create(block_device_mapping_v2=[self.root(), self.disk()])
        self.act(server, **{'os-stop': None})
        self.wait_for(server, status='SHUTOFF')
        for end in ('revertResize', 'confirmResize'):
            self.resize(server)
            self.assertEqual({}, self.box.machine.leftovers_of_volumes())
            self.act(server, **{end: None})
            self.wait_for(server, status='SHUTOFF')
            self.act(server, **{'os-start': None})
            self.wait_for(server, status='ACTIVE')
            self.assert_attached(server)
            self.act(server, **{'os-stop': None})
            self.wait_for(server, status='SHUTOFF')


class TwoHostsTestCase(VolumeCase):
    SANDBOX_HOSTS = ('box', 'crate')

    def test_a_volume_moves_with_its_server(self):
        server = self.create(host='box', networks='auto')
        self.attach(server)
        self.assert_attached(server, 'box')
        self.act(server, migrate={'host': 'crate'})
        self.wait_for(server, status='VERIFY_RESIZE')
        self.assert_attached(server, 'crate')
        self.assertEqual(set(), self.mounted(server, 'box'))
        self.act(server, revertResize=None)
        self.wait_for(server, status='ACTIVE')
        self.assert_attached(server, 'box')
        self.assertEqual(set(), self.mounted(server, 'crate'))
        self.assertEqual(1, self.content().made)

    def test_with_a_volume_in_use_it_stays_and_runs(self):
        """Somebody of the host reads it, such as a backup."""
        self.useFixture(fixtures.MonkeyPatch('zun_virt.volume._ENDING_SECONDS', 0.2))
        server = self.create(host='box', networks='auto')
        mine = self.box.add_user_container(server['id'])
        self.attach(server)
        self.assert_attached(server, 'box')
        self.storage.busy.add(self.volume)
        self.act(server, migrate={'host': 'crate'})
        self.eventually(lambda: self.assertIn('of the host has it open', str(self.faults(server))))
        self.wait_for(server, status='ACTIVE', **{'OS-EXT-SRV-ATTR:host': 'box'})
        self.assert_attached(server, 'box')
        record = self.record(server, 'box')
        self.assertEqual(('ready', (mine,)), (record.state, record.running))
        self.assertEqual(1, len(self.box.plugged()))
        self.assert_nothing_left('crate')
        self.storage.busy.clear()
        self.act(server, migrate={'host': 'crate'})
        self.wait_for(server, status='VERIFY_RESIZE')
        self.assert_attached(server, 'crate')

    def test_a_volume_is_evacuated_with_its_server(self):
        server = self.create(host='box', networks='auto')
        self.attach(server)
        self.assert_attached(server, 'box')
        self.computes['box'].stop()
        service = self.api.get_services(host='box', binary='nova-compute')[0]
        self.api.put_service(service['id'], {'forced_down': True})
        self.box.reboot()
        self.storage.mounts.clear()
        self.storage.loops.clear()

        self.act(server, evacuate={})
        self.wait_for(server, **{'OS-EXT-SRV-ATTR:host': 'crate', 'status': 'SHUTOFF'})
        self.assertEqual({}, self.storage.mounts)
        self.act(server, **{'os-start': None})
        self.wait_for(server, status='ACTIVE')
        self.assert_attached(server, 'crate')

        # Both hosts have one kernel here: os-brick fails on the first, since the volume is in use.
        self.flags(orphan_grace=0, group='zun_virt')
        self.restart('box')
        self.computes['box'].manager.driver._orphans.look_around()
        self.assert_nothing_left('box')
        self.assert_attached(server, 'crate')
        self.assertEqual(1, self.content().made)
