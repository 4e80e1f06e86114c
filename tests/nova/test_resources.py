"""What flavors ask of a host beyond numbers, and what operators add to its inventory."""

import json
import uuid

import fixtures

from tests.nova import base


class DedicatedTestCase(base.CloudTestCase):
    """A host on which two cores are shared and three can be had."""

    OPTIONS = (
        ('compute', 'cpu_shared_set', '0-1'),
        ('compute', 'cpu_dedicated_set', '4-6'),
        (None, 'allow_resize_to_same_host', True),
    )

    def setUp(self):
        self.flags(enabled_filters=['NUMATopologyFilter'], group='filter_scheduler')
        super().setUp()
        self.pinned = self.add_pinned(2)

    def add_pinned(self, cores, **specs):
        specs = {'hw:cpu_policy': 'dedicated', f'trait:{base.SANDBOX_TRAIT}': 'required', **specs}
        return self._create_flavor(
            memory_mb=128,
            vcpu=cores,
            disk=1,
            ephemeral=0,
            extra_spec=specs,
            name=f'own{uuid.uuid4()}',
        )

    def cores(self, server):
        text = self.box.kernel.setting(self.record(server).cgroup_parent, 'cpuset.cpus')
        return {int(cpu) for cpu in text.split(',')}

    def test_inventory_has_both_kinds(self):
        found = self._get_provider_inventory(self._get_provider_uuid_by_host('box'))
        self.assertEqual(2, found['VCPU']['total'])
        self.assertEqual((3, 1.0), (found['PCPU']['total'], found['PCPU']['allocation_ratio']))

    def test_cores_are_a_sandboxs_own_until_it_is_deleted(self):
        own = self.create(name='own', flavorRef=self.pinned)
        other = self.create(name='other')
        self.assertEqual({0, 1}, self.cores(other))
        first = self.cores(own)
        self.assertEqual(2, len(first))
        self.assertLess(first, {4, 5, 6})
        parent = self.record(own).cgroup_parent
        self.assertEqual('-1', self.box.kernel.setting(parent, 'cpu.cfs_quota_us'))
        self.assertEqual(2, self.record(own).limits.cpus)

        third = self.create(name='third', flavorRef=self.add_pinned(1))
        self.assertEqual({4, 5, 6}, first | self.cores(third))
        self._run_periodics()
        late = self.create('ERROR', name='late', flavorRef=self.pinned)
        self.assertIn('No valid host', late['fault']['message'])

        self.delete(own)
        again = self.create(name='again', flavorRef=self.pinned)
        self.assertEqual(first, self.cores(again))

    def test_they_are_the_same_after_a_reboot_and_a_restart_of_the_service(self):
        own = self.create(flavorRef=self.pinned)
        first = self.cores(own)
        self.act(own, reboot={'type': 'HARD'})
        self.wait_for(own, status='ACTIVE')
        self.assertEqual(first, self.cores(own))
        self.restart()
        other = self.create(name='other', flavorRef=self.add_pinned(1))
        self.assertEqual({4, 5, 6}, first | self.cores(other))

    def test_a_resize_on_the_host_moves_what_runs_to_other_cores(self):
        own = self.create(flavorRef=self.add_pinned(1))
        first = self.cores(own)
        mine = self.box.add_user_container(own['id'])
        self.act(own, resize={'flavorRef': self.pinned})
        self.wait_for(own, status='VERIFY_RESIZE')
        larger = self.cores(own)
        # nova keeps those of before until the user has decided.
        self.assertEqual({4, 5, 6}, first | larger)
        self.assertEqual(2, len(larger))
        self.assertEqual(2, self.record(own).limits.cpus)
        self.act(own, revertResize=None)
        self.wait_for(own, status='ACTIVE')
        self.assertEqual(first, self.cores(own))
        self.assertEqual(1, self.record(own).limits.cpus)

        self.act(own, resize={'flavorRef': self.pinned})
        self.wait_for(own, status='VERIFY_RESIZE')
        self.act(own, confirmResize=None)
        self.wait_for(own, status='ACTIVE')
        self.assertEqual(larger, self.cores(own))
        self.assertEqual('running', self.box.user_container(mine)['State']['Status'])
        third = self.create(name='third', flavorRef=self.add_pinned(1))
        self.assertEqual(first, self.cores(third))

    def test_a_sandbox_may_have_some_of_its_own(self):
        mixed = self.add_pinned(3, **{'hw:cpu_policy': 'mixed', 'hw:cpu_dedicated_mask': '^0-1'})
        server = self.create(flavorRef=mixed)
        found = self.cores(server)
        self.assertLess({0, 1}, found)
        self.assertEqual(3, len(found))


class SharedOnlyTestCase(base.CloudTestCase):
    """Without the scheduler's filter, so that the host has to say no."""

    def test_a_host_without_dedicated_cores_takes_no_sandbox_that_asks_for_some(self):
        flavor = self._create_flavor(
            memory_mb=128,
            vcpu=1,
            disk=1,
            ephemeral=0,
            extra_spec={'hw:cpu_policy': 'dedicated'},
        )
        self.create('ERROR', flavorRef=flavor)
        self.assert_nothing_left()


class ProviderFileTestCase(base.CloudTestCase):
    """An operator's provider.yaml, which nova merges with what the driver reports."""

    def setUp(self):
        self.directory = self.useFixture(fixtures.TempDir()).path
        provider = {
            'meta': {'schema_version': '1.0'},
            'providers': [
                {
                    'identification': {'uuid': '$COMPUTE_NODE'},
                    'inventories': {
                        'additional': [
                            {
                                'CUSTOM_LICENSES': {
                                    'total': 7,
                                    'reserved': 0,
                                    'min_unit': 1,
                                    'max_unit': 7,
                                    'step_size': 1,
                                    'allocation_ratio': 1.0,
                                }
                            }
                        ]
                    },
                    'traits': {'additional': ['CUSTOM_FAST']},
                }
            ],
        }
        with open(f'{self.directory}/provider.yaml', 'w') as stream:
            json.dump(provider, stream)  # JSON is YAML
        super().setUp()

    def _setup_compute_service(self):
        self.flags(provider_config_location=self.directory, group='compute')
        super()._setup_compute_service()

    def look(self):
        uuid = self._get_provider_uuid_by_host('box')
        return self._get_provider_inventory(uuid), set(self._get_provider_traits(uuid))

    def test_what_it_adds_stays(self):
        for act in (lambda: None, self._run_periodics, self.restart):
            act()
            inventory, traits = self.look()
            self.assertEqual(7, inventory['CUSTOM_LICENSES']['total'])
            self.assertLessEqual({'VCPU', 'MEMORY_MB', 'DISK_GB'}, inventory.keys())
            self.assertLessEqual({'CUSTOM_FAST', base.SANDBOX_TRAIT}, traits)

    def test_a_sandbox_can_ask_for_it(self):
        flavor = self._create_flavor(
            memory_mb=128,
            vcpu=1,
            disk=1,
            ephemeral=0,
            extra_spec={'resources:CUSTOM_LICENSES': '5', 'trait:CUSTOM_FAST': 'required'},
        )
        self.create(flavorRef=flavor)
        self.create('ERROR', name='second', flavorRef=flavor)
