"""The sandbox's image, taken from Glance."""

from tests.nova import base
from tests.unit.virt import archives
from zun_virt import sandbox


class GlanceTestCase(base.CloudTestCase):
    SANDBOX_IMAGE = None

    def archive(self, data, **changes):
        return self.add_image(
            'kubernetes/pause',
            hypervisor_type='docker',
            trait=base.SANDBOX_TRAIT,
            data=data,
            **changes,
        )

    def test_the_archive_is_fetched_once_and_its_tags_are_not_believed(self):
        glance_image = self.archive(archives.archive(tags=('alpine:latest',)))
        before = set(self.box.docker.images_)

        first = self.create(imageRef=glance_image)
        second = self.create(name='second', imageRef=glance_image)

        (tag,) = set(self.box.docker.images_) - before
        self.assertTrue(tag.startswith(f'{sandbox.SANDBOX_IMAGES}:{glance_image}'), tag)
        self.assertEqual(1, len(self.box.history('load')))
        for server in (first, second):
            self.assertEqual(sandbox.State.READY, self.record(server).state)
            self.delete(server)
        self.assert_nothing_left()

    def test_many_at_once_fetch_it_once(self):
        glance_image = self.archive(archives.archive())
        servers = [self.request(name=f'box{n}', imageRef=glance_image) for n in range(4)]
        for server in servers:
            self.wait_for(server, status='ACTIVE')
        self.assertEqual(1, len(self.box.history('load')))
        self.assertEqual(4, len({self.record(server).incarnation for server in servers}))
        self.assertEqual(4, len(set(self.box.plugged())))

    def test_an_image_is_cached_before_it_is_needed(self):
        glance_image = self.archive(archives.archive())
        aggregate = self.api.post_aggregate({'aggregate': {'name': 'boxes'}})
        self.api.add_host_to_aggregate(aggregate['id'], 'box')
        self.api.api_post(
            f'/os-aggregates/{aggregate["id"]}/images', {'cache': [{'id': glance_image}]}
        )
        self.eventually(lambda: self.assertEqual(1, len(self.box.history('load'))))
        self.create(imageRef=glance_image)
        self.assertEqual(1, len(self.box.history('load')))

    def assert_refused(self, glance_image, reason):
        server = self.create('ERROR', imageRef=glance_image)
        self.assertIn(reason, server['fault']['message'])
        self.assert_nothing_left()

    def test_what_is_no_archive(self):
        self.assert_refused(self.archive(b'QFI\xfb' + bytes(1000)), 'not an archive of an image')

    def test_an_archive_for_another_machine(self):
        config = archives.image_config(architecture='s390x')
        self.assert_refused(self.archive(archives.archive(config=config)), 's390x')

    def test_an_image_of_a_disk(self):
        glance_image = self.archive(archives.archive(), container_format='bare')
        self.assert_refused(glance_image, 'container_format')
