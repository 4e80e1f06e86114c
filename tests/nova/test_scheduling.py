"""Two kinds of hosts in one cloud, and what ours offers."""

from nova.virt import hardware

from tests.nova import base


class InventoryTestCase(base.CloudTestCase):
    OPTIONS = (
        ('compute', 'cpu_shared_set', '0-5,7'),
        (None, 'reserved_host_memory_mb', 300),
        (None, 'reserved_host_cpus', 1),
        (None, 'reserved_host_disk_mb', 2048),
        (None, 'cpu_allocation_ratio', 3.0),
        (None, 'ram_allocation_ratio', 1.25),
        (None, 'disk_allocation_ratio', 1.5),
    )

    def setUp(self):
        super().setUp()
        self.provider = self._get_provider_uuid_by_host('box')

    def test_inventory_is_what_docker_and_the_options_say(self):
        found = self._get_provider_inventory(self.provider)
        chosen = {
            name: (entry['total'], entry['reserved'], entry['allocation_ratio'])
            for name, entry in found.items()
        }
        self.assertEqual(
            {
                'VCPU': (len(hardware.get_cpu_shared_set()), 1, 3.0),
                'MEMORY_MB': (self.box.memory_mb, 300, 1.25),
                'DISK_GB': (self.box.disk_gb, 2, 1.5),
            },
            chosen,
        )
        self.assertEqual(7, found['VCPU']['total'])

    def test_traits_are_ours_and_the_operators(self):
        traits = set(self._get_provider_traits(self.provider))
        self.assertIn(base.SANDBOX_TRAIT, traits)
        self.assertNotIn('COMPUTE_VOLUME_ATTACH', traits)
        self._create_trait('CUSTOM_GOLD')
        self._set_provider_traits(self.provider, [*traits, 'CUSTOM_GOLD'])

        self._run_periodics()
        self.restart()

        self.assertEqual(traits | {'CUSTOM_GOLD'}, set(self._get_provider_traits(self.provider)))

    def test_a_sandbox_uses_what_its_flavor_says_until_it_is_deleted(self):
        server = self.create()
        self.assertEqual(
            {'VCPU': 1, 'MEMORY_MB': 128, 'DISK_GB': 1}, self._get_provider_usages(self.provider)
        )
        self._run_periodics()
        self.assertEqual(
            {'VCPU': 1, 'MEMORY_MB': 128, 'DISK_GB': 1}, self._get_provider_usages(self.provider)
        )
        self.delete(server)
        self.eventually(
            lambda: self.assertEqual(
                {'VCPU': 0, 'MEMORY_MB': 0, 'DISK_GB': 0},
                self._get_provider_usages(self.provider),
            )
        )

    def test_the_hypervisor_is_shown(self):
        shown = self.api.api_get(f'/os-hypervisors/{self.provider}').body['hypervisor']
        self.assertEqual('docker', shown['hypervisor_type'])
        self.assertEqual('box', shown['hypervisor_hostname'])
        self.assertEqual('up', shown['state'])
        self.assertIsInstance(shown['hypervisor_version'], int)
        self.assertTrue(shown['uptime'])


class TwoKindsTestCase(base.CloudTestCase):
    """A host of sandboxes and one of virtual machines, kept apart as the README says."""

    MACHINE_HOSTS = ('kvm',)
    OPTIONS = (
        ('scheduler', 'enable_isolated_aggregate_filtering', True),
        ('compute', 'cpu_shared_set', '0-15'),
    )

    def setUp(self):
        super().setUp()
        self.isolate()
        self.plain = self.add_flavor('plain')

    def isolate(self):
        aggregate = self._create_aggregate('sandboxes')
        self.api.add_host_to_aggregate(aggregate, 'box')
        self.api.api_post(
            f'/os-aggregates/{aggregate}/action',
            {'set_metadata': {'metadata': {f'trait:{base.SANDBOX_TRAIT}': 'required'}}},
        )

    def host_of(self, **request):
        """Create a server several times, as luck may choose a host, and return the one."""
        hosts = {
            self.create(name=f'server{number}', **request)['OS-EXT-SRV-ATTR:host']
            for number in range(3)
        }
        self.assertEqual(1, len(hosts), hosts)
        return hosts.pop()

    def test_sandboxes_go_to_sandbox_hosts(self):
        self.assertEqual('box', self.host_of())

    def test_the_images_trait_is_enough(self):
        self.assertEqual('box', self.host_of(flavorRef=self.plain))

    def test_an_image_for_kvm_goes_to_the_other(self):
        image = self.add_image('linux', hypervisor_type='kvm')
        self.assertEqual('kvm', self.host_of(imageRef=image, flavorRef=self.plain))

    def test_an_image_without_any_property_goes_to_the_other(self):
        image = self.add_image('linux')
        self.assertEqual('kvm', self.host_of(imageRef=image, flavorRef=self.plain))

    def test_a_flavor_for_kvm_goes_to_the_other(self):
        flavor = self._create_flavor(
            memory_mb=128,
            vcpu=1,
            disk=1,
            ephemeral=0,
            extra_spec={'capabilities:hypervisor_type': 'QEMU'},
        )
        self.assertEqual('kvm', self.host_of(imageRef=self.add_image('linux'), flavorRef=flavor))

    def test_what_contradicts_itself_finds_no_host(self):
        image = self.add_image('linux', hypervisor_type='kvm')
        server = self.create('ERROR', imageRef=image)  # on a flavor for sandboxes
        self.assertIn('No valid host', server['fault']['message'])
        self.assert_nothing_left()

    def test_a_full_host_is_not_made_up_for_by_the_other_kind(self):
        self.flags(cores=-1, group='quota')
        flavor = self.add_flavor('large', trait=base.SANDBOX_TRAIT, vcpu=1000)
        server = self.create('ERROR', flavorRef=flavor)
        self.assertIn('No valid host', server['fault']['message'])


class UnisolatedTestCase(base.CloudTestCase):
    """Without the aggregate, the image's property alone keeps the kinds apart."""

    MACHINE_HOSTS = ('kvm',)

    def test_the_hypervisor_type_is_enough_for_both(self):
        flavor = self.add_flavor('plain')
        ours = self.add_image('ours', hypervisor_type='docker')
        theirs = self.add_image('theirs', hypervisor_type='kvm')
        for number in range(3):
            for image, host in ((ours, 'box'), (theirs, 'kvm')):
                server = self.create(name=f'server{number}', imageRef=image, flavorRef=flavor)
                self.assertEqual(host, server['OS-EXT-SRV-ATTR:host'])
