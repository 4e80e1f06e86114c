"""nova's own cases for compute drivers, every one of them, run on ours."""

import sys

import fixtures
from nova import exception, test
from nova.tests.unit import utils as nova_utils
from nova.tests.unit.virt import test_virt_drivers
from nova.virt import driver as nova_driver
from nova.virt import fake

from tests.nova import accept_sqlalchemy, outside
from tests.unit.virt.storage import Content
from zun_virt import driver, shim

CASES = [
    'test_attach_detach_different_power_states',
    'test_attach_detach_volume',
    'test_block_stats',
    'test_destroy_instance',
    'test_destroy_instance_nonexistent',
    'test_emit_unicode_event',
    'test_event_bad_callback',
    'test_event_bad_object',
    'test_events',
    'test_get_allocation_ratio',
    'test_get_available_nodes',
    'test_get_available_resource',
    'test_get_console_output',
    'test_get_device_name_for_instance',
    'test_get_diagnostics',
    'test_get_host_cpu_stats',
    'test_get_host_ip_addr',
    'test_get_host_uptime',
    'test_get_info',
    'test_get_info_for_unknown_instance',
    'test_get_instance_diagnostics',
    'test_get_instance_disk_info',
    'test_get_mks_console',
    'test_get_serial_console',
    'test_get_spice_console',
    'test_get_vnc_console',
    'test_get_volume_connector',
    'test_get_volume_connector_storage_ip',
    'test_host_power_action_reboot',
    'test_host_power_action_shutdown',
    'test_host_power_action_startup',
    'test_init_host',
    'test_list_instance_uuids',
    'test_list_instances',
    'test_live_migration',
    'test_live_migration_abort',
    'test_live_migration_force_complete',
    'test_migrate_disk_and_power_off',
    'test_network_binding_host_id',
    'test_pause',
    'test_poll_rebooting_instances',
    'test_power_off',
    'test_power_on_powered_off',
    'test_power_on_running',
    'test_reboot',
    'test_rescue',
    'test_restore_running',
    'test_restore_soft_deleted',
    'test_resume_state_on_host_boot',
    'test_resume_suspended_instance',
    'test_resume_unsuspended_instance',
    'test_set_admin_password',
    'test_set_host_enabled',
    'test_snapshot_not_running',
    'test_snapshot_running',
    'test_soft_delete',
    'test_spawn',
    'test_suspend',
    'test_swap_volume',
    'test_trigger_crash_dump',
    'test_unpause_paused_instance',
    'test_unpause_unpaused_instance',
    'test_unrescue_rescued_instance',
    'test_unrescue_unrescued_instance',
]
"""All that nova 34 has; one that nova adds or drops is a decision to take here."""

MIGRATION = 'sandboxes do not move while they run'
CONSOLES = 'a sandbox has no screen and no keyboard'
SOFT_DELETE = 'nova powers the server off and on instead'
POWER = 'the machine is not turned off or on through nova'

NOT_APPLYING = {
    'test_attach_detach_different_power_states': 'it names no volume, as nova itself always does',
    'test_swap_volume': 'a mounted file system cannot move to another back end',
    'test_get_device_name_for_instance': 'nova names devices itself where a driver does not',
    'test_get_host_cpu_stats': 'only compute_monitors=cpu.virt_driver asks',
    'test_get_instance_disk_info': MIGRATION,
    'test_live_migration': MIGRATION,
    'test_live_migration_abort': MIGRATION,
    'test_live_migration_force_complete': MIGRATION,
    'test_get_mks_console': CONSOLES,
    'test_get_serial_console': CONSOLES,
    'test_get_spice_console': CONSOLES,
    'test_get_vnc_console': CONSOLES,
    'test_host_power_action_reboot': POWER,
    'test_host_power_action_shutdown': POWER,
    'test_host_power_action_startup': POWER,
    'test_poll_rebooting_instances': 'a reboot has ended when it returns',
    'test_restore_running': SOFT_DELETE,
    'test_restore_soft_deleted': SOFT_DELETE,
    'test_soft_delete': SOFT_DELETE,
    'test_set_admin_password': 'nobody logs in to a sandbox',
    'test_set_host_enabled': 'nova keeps the state of its service itself',
    'test_trigger_crash_dump': 'a sandbox has no kernel of its own',
}
"""The cases that end in a refusal, which `refused` demands, each with the reason."""


#: What the refusal is, where it is not NotImplementedError because nova's user would then
#: be told nothing, or the server would be left in an error.
REFUSED_WITH = {
    'test_attach_detach_different_power_states': exception.InvalidInput,
    'test_swap_volume': exception.InvalidInput,
    'test_trigger_crash_dump': exception.TriggerCrashDumpNotSupported,
}


class ConformanceTestCase(test_virt_drivers._VirtDriverTestCase, test.TestCase):
    """nova's cases; a NotImplementedError of which `NOT_APPLYING` does not know fails."""

    REQUIRES_LOCKING = True
    driver_module = 'zun_virt.driver.ZunDriver'

    def setUp(self):
        super().setUp()
        accept_sqlalchemy()
        found = self.useFixture(outside.Outside('myhostname'))
        found.configure(self)
        found.storage.contents.default_factory = lambda: Content('ext4')
        # Cinder is not there to say how its volumes are to be used.
        self.stub_out('nova.volume.cinder.API.get', lambda *_: {'volume_metadata': {}})
        # Where nova's decorator swallows a NotImplementedError it logs it, and nothing else.
        self.stub_out(f'{test_virt_drivers.__name__}.LOG.error', self.not_implemented)
        if self._testMethodName != 'test_init_host':
            self.connection.init_host('myhostname')
        self.addCleanup(self.connection.cleanup_host, 'myhostname')

    def not_implemented(self, message, details):
        raise NotImplementedError(message % details)

    def nova_case(self, name):
        getattr(test_virt_drivers._VirtDriverTestCase, name)(self)

    def _get_running_instance(self, obj=True):
        """Do as nova's method does, with an image that is a sandbox's."""
        instance = nova_utils.get_test_instance(obj=obj)
        network_info = nova_utils.get_test_network_info()
        image_meta = nova_utils.get_test_image_object(None, instance)
        image_meta.container_format = 'docker'
        image_meta.properties.img_hv_type = 'docker'
        self.connection.spawn(
            self.ctxt, instance, image_meta, [], 'herp', {}, network_info=network_info
        )
        return instance, network_info


def refused(name):
    """Return a case that passes if nova's case of that name meets our refusal, and only then."""

    def case(self):
        if name == 'test_live_migration_force_complete':
            self.connection.active_migrations = {}  # the case's own assumption
        with self.assertRaises(REFUSED_WITH.get(name, NotImplementedError)):
            self.nova_case(name)

    return case


for _name in NOT_APPLYING:
    setattr(ConformanceTestCase, _name, refused(_name))


class CompletenessTestCase(test.NoDBTestCase):
    def test_these_are_all_of_novas_cases(self):
        found = [
            name for name in dir(test_virt_drivers._VirtDriverTestCase) if name.startswith('test_')
        ]
        self.assertEqual(CASES, found)
        self.assertEqual(64, len(CASES))

    def test_every_case_runs(self):
        found = [name for name in dir(ConformanceTestCase) if name.startswith('test_')]
        self.assertEqual(CASES, found)
        self.assertEqual(set(), NOT_APPLYING.keys() - set(CASES))
        self.assertEqual(set(), REFUSED_WITH.keys() - NOT_APPLYING.keys())
        self.assertEqual(22, len(NOT_APPLYING))

    def test_nova_loads_the_driver_from_the_module_that_is_installed_for_it(self):
        # In a wheel it is there; from the source tree nothing is below nova/virt.
        self.useFixture(
            fixtures.MonkeyPatch('sys.modules', {**sys.modules, 'nova.virt.zun_virt': shim})
        )
        loaded = nova_driver.load_compute_driver(fake.FakeVirtAPI(), 'zun_virt.ZunDriver')
        self.assertIs(driver.ZunDriver, type(loaded))

    def test_the_driver_has_novas_methods_and_no_other(self):
        self.assertPublicAPISignatures(
            nova_driver.ComputeDriver(None), driver.ZunDriver(fake.FakeVirtAPI())
        )
