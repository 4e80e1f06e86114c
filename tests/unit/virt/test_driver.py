"""What nova hears of the driver: which sandboxes there are, what they say and use, what fails."""

import gc

import pytest
from nova import exception
from vif_plug_ovs import privsep as vif_plug_ovs

from tests.unit.virt.conftest import CONF, make_instance, record, spawn
from zun_virt import driver, privsep, sandbox


def test_the_engine_away_is_an_error_and_no_state(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    machine.docker.down = True
    with pytest.raises(exception.HypervisorUnavailable):
        zun.get_info(instance)
    with pytest.raises(exception.HypervisorUnavailable):
        zun.list_instance_uuids()
    machine.docker.down = False


def test_only_own_sandboxes_are_listed(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    machine.add_container(instance.uuid)
    config = {'Image': 'kubernetes/pause'}
    machine.docker.create_container_from_config(config, sandbox.sandbox_name('other'))
    assert zun.list_instance_uuids() == [instance.uuid]
    assert zun.list_instances() == [instance.name]
    assert zun.get_num_instances() == 1
    assert zun.instance_exists(instance)


def test_a_stranger_of_that_name_is_not_a_sandbox(zun, machine):
    instance = make_instance()
    config = {'Image': 'kubernetes/pause'}
    machine.docker.create_container_from_config(config, sandbox.sandbox_name(instance.uuid))
    with pytest.raises(exception.InstanceNotFound):
        zun.get_info(instance)
    with pytest.raises(exception.NovaException):
        spawn(zun, instance, [])
    zun.destroy(None, instance, [])
    assert machine.docker.named(sandbox.sandbox_name(instance.uuid))


def test_console_output_is_all_containers_lines(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    container_id = machine.add_container(instance.uuid)
    name = sandbox.container_name(container_id)
    machine.docker.outputs[machine.docker.named(name)['Id']] = 'grüß\ngott\n'.encode()
    output = zun.get_console_output(None, instance)
    called = f'c-{container_id[:8]}'
    assert output.encode('latin-1').decode() == f'{called}: grüß\n{called}: gott'
    with pytest.raises(exception.InstanceNotFound):
        zun.get_console_output(None, make_instance())


def test_diagnostics_tell_what_is_used(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    parent = record(machine, instance).cgroup_parent.lstrip('/')
    directory = machine.kernel.cgroups / 'memory' / parent
    (directory / 'memory.usage_in_bytes').write_text(str(5 << 20))
    (directory / 'memory.stat').write_text(f'total_cache {1 << 20}\ntotal_shmem 0\n')
    disk = machine.kernel.cgroups / 'blkio' / parent
    disk.mkdir(parents=True)
    (disk / 'blkio.throttle.io_service_bytes_recursive').write_text('8:0 Read 10\n8:0 Write 20\n')
    (disk / 'blkio.throttle.io_serviced_recursive').write_text('8:0 Read 1\n8:0 Write 2\n')
    found = zun.get_instance_diagnostics(instance)
    assert (found.memory_details.maximum, found.memory_details.used) == (256, 4)
    assert found.num_cpus == 2
    (told,) = found.disk_details
    assert (told.read_bytes, told.write_bytes, told.write_requests) == (10, 20, 2)
    assert [nic.mac_address for nic in found.nic_details] == [vif['address']]
    assert zun.get_diagnostics(instance)['sandbox_memory'] == 5 << 20


def test_refusals_leave_the_server_as_it_was(zun):
    with pytest.raises(exception.MigrationPreCheckError):
        zun.check_can_live_migrate_destination(None, None, None, None)


def test_init_host_refuses_what_cannot_work(machine, virtapi):
    machine.docker.api_version = '1.40'  # 19.03
    CONF.set_override('state_path', str(machine.root), group='zun_virt')
    with pytest.raises(exception.InvalidConfiguration):
        driver.ZunDriver(virtapi).init_host('host1')
    CONF.clear_override('state_path', group='zun_virt')


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # oslo.privsep's
def test_a_host_where_nothing_may_run_as_root_is_refused(virtapi, monkeypatch):
    """The command ends at once, as sudo does without its line."""
    for context in (privsep.mounts, vif_plug_ovs.vif_plug):
        monkeypatch.setattr(context, 'channel', object())  # it runs
    group = privsep.network.cfg_section
    CONF.set_override('helper_command', 'false --at-once', group=group)
    try:
        with pytest.raises(exception.InvalidConfiguration, match='command is: false --at-once'):
            driver.ZunDriver(virtapi).init_host('host1')
    finally:
        CONF.clear_override('helper_command', group=group)
        gc.collect()  # a file that oslo.privsep leaves open would be another test's fault
