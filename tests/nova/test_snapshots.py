"""Snapshots and shelving, by nova's own services."""

import functools

from tests.nova import base
from tests.unit.virt import archives
from zun_virt import sandbox

State = sandbox.State


class SnapshotTestCase(base.CloudTestCase):
    SANDBOX_IMAGE = None

    def setUp(self):
        super().setUp()
        self.stub_out(
            'nova.tests.fixtures.GlanceFixture.update', functools.partialmethod(store, self)
        )
        self.image = self.add_image(
            'pause', 'docker', base.SANDBOX_TRAIT, data=archives.archive(), checksum='1'
        )
        self.server = self.create()
        self.mine = self.box.add_user_container(self.server['id'])
        self.box.write(self.mine, b'what it wrote')

    def made(self, name):
        (found,) = (image for image in self.glance.detail(None) if image['name'] == name)
        return found

    def take(self):
        self.act(self.server, createImage={'name': 'mine'})

        def look():
            self.assertIn('zun_snapshot_of', self.made('mine')['properties'])

        self.eventually(look)

    def assert_restored(self):
        record = self.record(self.server)
        self.assertIsNotNone(record)
        self.assertEqual([self.mine], list(record.images))
        self.assertEqual(b'what it wrote', self.box.written(record.images[self.mine]))
        self.assertEqual(State.READY, record.state)

    def test_create_image(self):
        before = self.snapshot(self.server)
        self.take()
        self.assertEqual('docker', self.made('mine')['container_format'])
        self.assert_unharmed(self.server, before)
        properties = self.made('mine')['properties']
        self.assertEqual('docker', properties['img_hv_type'])
        self.assertEqual(self.server['id'], properties['zun_snapshot_of'])

    def test_rebuild_with_it(self):
        self.take()
        self.wait_for(self.server, status='ACTIVE')
        self.act(self.server, rebuild={'imageRef': self.made('mine')['id']})
        self.eventually(self.assert_restored)
        self.wait_for(self.server, status='ACTIVE')

    def test_shelve_and_unshelve(self):
        self.flags(shelved_offload_time=0)
        self.act(self.server, shelve=None)
        self.wait_for(self.server, status='SHELVED_OFFLOADED')
        self.assert_nothing_left()
        self.act(self.server, unshelve=None)
        self.wait_for(self.server, status='ACTIVE')
        self.assert_restored()
        self.delete(self.server)
        self.assert_nothing_left()

    def test_shelve_without_offload(self):
        self.flags(shelved_offload_time=-1)
        self.act(self.server, shelve=None)
        self.wait_for(self.server, status='SHELVED')
        record = self.record(self.server)
        self.assertEqual((State.STOPPED, (self.mine,)), (record.state, record.running))
        self.act(self.server, unshelve=None)
        self.wait_for(self.server, status='ACTIVE')
        record = self.record(self.server)
        self.assertEqual((State.READY, (self.mine,)), (record.state, record.running))

    def test_a_snapshot_that_fails_leaves_it_as_it_was(self):
        before = self.snapshot(self.server)
        with self.box.failing('commit', 'no space left'):
            self.act(self.server, createImage={'name': 'mine'})
            self.eventually(lambda: self.assertIn('no space', str(self.faults(self.server))))

        def look():
            self.assertNotIn('mine', [image['name'] for image in self.glance.detail(None)])

        self.eventually(look)
        self.assert_unharmed(self.server, before)


class SoftDeleteTestCase(base.CloudTestCase):
    def test_deleted_and_restored(self):
        self.flags(reclaim_instance_interval=3600)
        server = self.create()
        mine = self.box.add_user_container(server['id'])
        self.api.delete_server(server['id'])
        self.wait_for(server, status='SOFT_DELETED')
        record = self.record(server)
        self.assertEqual((State.STOPPED, (mine,)), (record.state, record.running))
        self.act(server, restore=None)
        self.wait_for(server, status='ACTIVE')
        record = self.record(server)
        self.assertEqual((State.READY, (mine,)), (record.state, record.running))
        self.api.delete_server(server['id'])
        self.wait_for(server, status='SOFT_DELETED')
        self.act(server, forceDelete=None)
        self.assert_nothing_left()


def store(glance, test, context, image_id, metadata, data=None, purge_props=False):
    """Do as nova's fixture of Glance does, and keep the data."""
    if data is not None:
        content = data.read()
        glance._imagedata[image_id] = content
        metadata = {**metadata, 'size': len(content)}
    image = glance.images[image_id]
    image['properties'].update(metadata.pop('properties', {}))
    image.update(metadata)
    return image
