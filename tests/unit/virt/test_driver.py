"""The driver as nova drives it, on a host in memory."""

import time

import docker.errors
import pytest
import requests
from nova import exception
from nova.compute import power_state
from nova.network import model

from tests.unit.virt import fake_docker
from tests.unit.virt.conftest import CONF, make_image, make_instance, make_subnet, make_vif
from zun_virt import host, sandbox
from zun_virt.sandbox import State


def spawn(zun, instance, vifs=(), **options):
    zun.spawn(None, instance, make_image(), None, None, None, network_info=list(vifs), **options)
    return instance


def record(machine, instance):
    return machine.store.read(instance.uuid)


def pause(machine, instance):
    return machine.docker.named(sandbox.sandbox_name(instance.uuid))


def until(true, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def vif():
    return make_vif()


def test_a_sandbox_is_made(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    container = pause(machine, instance)
    assert zun.get_info(instance).state == power_state.RUNNING
    assert container['Config']['NetworkDisabled'] is True
    host_config = container['HostConfig']
    assert host_config['IpcMode'] == 'shareable'
    assert host_config['RestartPolicy'] == {'Name': 'no'}
    assert host_config['CapDrop'] == ['ALL']
    written = record(machine, instance)
    assert written.state is State.READY
    assert written.pause.id == container['Id']
    assert written.pause.started_at == container['State']['StartedAt']
    assert [address.address for address in written.addresses] == ['10.0.0.5']
    assert written.metadata == {'zun_intent': 'i1'}
    assert (written.limits.cpus, written.limits.memory_mb) == (2.0, 256)
    directory = machine.store.directory(instance.uuid)
    assert '10.0.0.5 mybox\n' in (directory / 'hosts').read_text()
    assert (directory / 'resolv.conf').read_text() == 'nameserver 8.8.8.8\n'
    assert (directory / 'hostname').read_text() == 'mybox\n'
    device = machine.kernel.devices[vif['devname']]
    assert (device['name'], device['mac'], device['mtu']) == ('eth0', vif['address'], 1450)
    assert machine.switch.ports[vif['devname']]['iface-id'] == vif['id']


def test_the_limits_are_there_before_the_first_process(zun, machine, vif):
    seen = []
    start = machine.docker.start

    def spy(name):
        parent = machine.docker.named(name)['HostConfig']['CgroupParent']
        seen.append(machine.kernel.setting(parent, 'memory.limit_in_bytes'))
        start(name)

    machine.docker.start = spy
    spawn(zun, make_instance(), [vif])
    assert seen == [str(256 << 20)]


def test_the_sandbox_runs_before_the_network_is_asked_for(zun, machine, vif):
    states = []
    instance = make_instance()

    class Allocation(list):
        def __iter__(self):
            states.append((pause(machine, instance)['State']['Status'], record(machine, instance)))
            return super().__iter__()

    info = Allocation([vif])
    zun.spawn(None, instance, make_image(), None, None, None, network_info=info)
    status, written = states[0]
    assert status == 'running'
    assert written.state is State.BUILDING
    assert written.pause is not None


def test_neutron_is_awaited_for_ports_that_are_down(zun, virtapi, vif):
    spawn(zun, make_instance(), [vif, make_vif(2, active=True)])
    assert ([('network-vif-plugged', vif['id'])], CONF.vif_plugging_timeout) in virtapi.awaited
    assert sum(bool(events) for events, _ in virtapi.awaited) == 1


def test_after_a_reboot_nobody_waits_for_words_that_cannot_be_heard(zun, machine, virtapi, vif):
    instance = spawn(zun, make_instance(), [vif])
    machine.docker.kill(sandbox.sandbox_name(instance.uuid))
    virtapi.awaited.clear()
    zun.resume_state_on_host_boot(None, instance, [vif], None)
    assert not any(events for events, _ in virtapi.awaited)
    assert record(machine, instance).state is State.READY


@pytest.mark.parametrize('outcome', ['timeout', 'failure'])
def test_a_port_that_neutron_does_not_wire_is_fatal(zun, machine, virtapi, vif, outcome):
    def time_out(events, instance, callback):
        raise exception.InstanceEventTimeout

    def fail(events, instance, callback):
        callback(events[0][0], instance)

    virtapi.outcome = time_out if outcome == 'timeout' else fail
    with pytest.raises(exception.VirtualInterfaceCreateException):
        spawn(zun, make_instance(), [vif])
    assert machine.leftovers() == {}


def test_a_port_that_neutron_does_not_wire_may_be_tolerated(zun, machine, virtapi, vif):
    def time_out(events, instance, callback):
        raise exception.InstanceEventTimeout

    virtapi.outcome = time_out
    CONF.set_override('vif_plugging_is_fatal', False)
    try:
        instance = spawn(zun, make_instance(), [vif])
    finally:
        CONF.clear_override('vif_plugging_is_fatal')
    assert record(machine, instance).state is State.READY


def test_a_sandbox_may_be_made_stopped(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif], power_on=False)
    assert zun.get_info(instance).state == power_state.SHUTDOWN
    assert record(machine, instance).state is State.STOPPED
    assert machine.kernel.devices == {}
    zun.power_on(None, instance, [vif])
    assert record(machine, instance).state is State.READY


@pytest.mark.parametrize(
    ('where', 'call', 'error'),
    [
        ('docker', 'create', fake_docker.api_error(500, 'no space')),
        ('docker', 'start', fake_docker.api_error(500, 'no space')),
        ('docker', 'start', requests.exceptions.ConnectionError('gone')),
        ('docker', 'load', fake_docker.api_error(500, 'no space')),
        ('kernel', 'make_cgroup', OSError(16, 'busy')),
        ('kernel', 'plug', OSError(1, 'not permitted')),
        ('switch', None, ValueError('no database')),
    ],
)
def test_what_a_failed_spawn_made_is_undone(zun, machine, vif, where, call, error):
    target = getattr(machine, where)
    target.fail(*([call, error] if call else [error]))
    with pytest.raises(exception.NovaException):
        spawn(zun, make_instance(), [make_vif(2), vif])
    assert machine.leftovers() == {}


def test_a_failed_allocation_is_undone_and_told(zun, machine):
    class Failing:
        def __iter__(self):
            raise exception.PortLimitExceeded

    with pytest.raises(exception.PortLimitExceeded):
        zun.spawn(None, make_instance(), make_image(), None, None, None, network_info=Failing())
    assert machine.leftovers() == {}


def test_an_earlier_attempt_is_replaced(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    before = pause(machine, instance)['Id']
    spawn(zun, instance, [vif])
    assert pause(machine, instance)['Id'] != before
    assert record(machine, instance).state is State.READY


def test_delete_removes_everything(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    machine.add_container(instance.uuid)
    zun.destroy(None, instance, [vif])
    assert machine.leftovers() == {}
    with pytest.raises(exception.InstanceNotFound):
        zun.get_info(instance)


def test_delete_again_and_of_the_unknown_succeeds(zun, machine, vif):
    zun.destroy(None, make_instance(), [vif])
    zun.cleanup(None, make_instance(), [])
    assert machine.leftovers() == {}


def test_delete_gets_over_a_frozen_sandbox_and_a_corrupt_record(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    machine.add_container(instance.uuid)
    zun.pause(instance)
    (machine.store.directory(instance.uuid) / 'sandbox.json').write_text('{')
    zun.destroy(None, instance, [vif])
    assert machine.leftovers() == {}


def test_delete_waits_for_a_removal_by_the_agent(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    user = machine.add_container(instance.uuid)
    for _ in range(2):
        busy = f'removal of container {user} is already in progress'
        machine.docker.fail('remove', fake_docker.api_error(409, busy))
    zun.destroy(None, instance, [vif])
    assert machine.leftovers() == {}


def test_delete_does_not_wait_for_ever(zun, machine, vif, monkeypatch):
    instance = spawn(zun, make_instance(), [vif])
    monkeypatch.setattr(host, '_REMOVAL_SECONDS', 0)
    machine.docker.fail(
        'remove', fake_docker.api_error(409, 'removal of container x is in progress')
    )
    with pytest.raises(exception.NovaException, match='removal of container'):
        zun.destroy(None, instance, [vif])
    zun.destroy(None, instance, [vif])
    assert machine.leftovers() == {}


def test_one_that_was_evacuated_may_take_time_to_go(zun, machine, vif, monkeypatch):
    """Nova deletes it here before its service starts, which must not fail for that."""
    instance = spawn(zun, make_instance(), [vif])
    instance.host = 'another'
    monkeypatch.setattr(host, '_REMOVAL_SECONDS', 0)
    machine.docker.fail(
        'remove', fake_docker.api_error(409, 'removal of container x is in progress')
    )
    zun.destroy(None, instance, [vif])
    assert machine.store.read(instance.uuid) is not None
    zun.destroy(None, instance, [vif])
    assert machine.leftovers() == {}


def test_thawing_what_the_agent_thawed_or_removed_is_fine(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    name = sandbox.container_name(machine.add_container(instance.uuid))
    zun._host.unpause(name)
    zun._host.unpause('gone')
    machine.docker.fail('unpause', fake_docker.api_error(500, 'no space left'))
    with pytest.raises(host.HostError, match='no space'):
        zun._host.unpause(name)


def test_a_full_disk_is_told_in_novas_words(zun, machine, vif, monkeypatch):
    """With any other exception nova would leave the port attached."""
    instance = spawn(zun, make_instance(), [])

    def write(record):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(zun._sandboxes.store, 'write', write)
    with pytest.raises(exception.NovaException, match='No space left'):
        zun.attach_interface(None, instance, make_image(), vif)


def test_stop_ends_users_first_and_names_them(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    ran, ended = machine.add_container(instance.uuid), machine.add_container(instance.uuid)
    machine.docker.stop(sandbox.container_name(ended))
    machine.docker.calls.clear()
    instance.info_cache.network_info = model.NetworkInfo([vif])
    zun.power_off(instance, timeout=20)
    stops = [call[1:] for call in machine.docker.calls if call[0] == 'stop']
    user = machine.docker.named(sandbox.container_name(ran))
    assert stops == [(user['Id'], 20), (pause(machine, instance)['Id'], 10)]
    written = record(machine, instance)
    assert (written.state, written.running, written.pause) == (State.STOPPED, (ran,), None)
    assert machine.kernel.devices == machine.switch.ports == {}
    assert zun.get_info(instance).state == power_state.SHUTDOWN


def test_stop_again_forgets_nobody(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    ran = machine.add_container(instance.uuid)
    zun.power_off(instance)
    zun.power_off(instance)
    assert record(machine, instance).running == (ran,)


def test_start_keeps_the_container_and_wires_it_anew(zun, machine, virtapi, vif):
    instance = spawn(zun, make_instance(), [vif])
    ran = machine.add_container(instance.uuid)
    before = record(machine, instance)
    instance.vm_state = 'stopped'
    zun.power_off(instance)
    vif['active'] = True
    zun.power_on(None, instance, [vif])
    written = record(machine, instance)
    assert written.pause.id == before.pause.id
    assert written.pause.started_at != before.pause.started_at
    assert (written.state, written.running) == (State.READY, (ran,))
    assert written.incarnation == before.incarnation
    assert vif['devname'] in machine.kernel.devices
    assert not machine.switch.stale
    # Neutron still called the port active, and does so anew.
    assert ([('network-vif-plugged', vif['id'])], 3) in virtapi.awaited


def test_start_of_what_runs_cuts_nothing(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    made = machine.kernel.devices[vif['devname']]['made']
    zun.power_on(None, instance, [vif])
    assert machine.kernel.devices[vif['devname']]['made'] == made


@pytest.mark.parametrize('kind', ['SOFT', 'HARD'])
@pytest.mark.parametrize('before', ['running', 'stopped', 'paused', 'dead', 'lost'])
def test_a_reboot_ends_in_a_running_sandbox(zun, machine, vif, kind, before):
    instance = spawn(zun, make_instance(vm_state='active'), [vif])
    name = sandbox.sandbox_name(instance.uuid)
    act = {
        'running': lambda: None,
        'stopped': lambda: zun.power_off(instance),
        'paused': lambda: zun.pause(instance),
        'dead': lambda: machine.docker.kill(name),
        'lost': lambda: machine.docker.remove_container(name, force=True),
    }
    act[before]()
    instance.image_ref = make_image().id
    instance.system_metadata = {
        'image_img_hv_type': 'docker',
        'image_container_format': 'docker',
    }
    zun.reboot(None, instance, [vif], kind)
    assert zun.get_info(instance).state == power_state.RUNNING
    assert record(machine, instance).state is State.READY
    assert not machine.switch.stale
    assert list(machine.kernel.devices) == [vif['devname']]
    assert len(machine.glance.downloads) == 1


def test_a_failed_start_leaves_a_stopped_sandbox(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    ran = machine.add_container(instance.uuid)
    zun.power_off(instance)
    machine.kernel.fail('plug', OSError(1, 'not permitted'))
    with pytest.raises(exception.VirtualInterfacePlugException):
        zun.power_on(None, instance, [vif])
    written = record(machine, instance)
    assert (written.state, written.running) == (State.STOPPED, (ran,))
    assert zun.get_info(instance).state == power_state.SHUTDOWN


def test_freeze_and_thaw_take_the_whole_sandbox(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    machine.add_container(instance.uuid)
    zun.pause(instance)
    assert {c['State']['Status'] for c in machine.docker.containers_.values()} == {'paused'}
    assert zun.get_info(instance).state == power_state.PAUSED
    assert record(machine, instance).state is State.PAUSED
    zun.unpause(instance)
    assert {c['State']['Status'] for c in machine.docker.containers_.values()} == {'running'}
    assert record(machine, instance).state is State.READY


def test_a_freeze_that_fails_freezes_nothing(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    machine.add_container(instance.uuid)
    pause_one = machine.docker.pause

    def fail_for_the_sandbox(name):
        if name == pause(machine, instance)['Id']:
            raise fake_docker.api_error(500, 'freezer')
        pause_one(name)

    machine.docker.pause = fail_for_the_sandbox
    with pytest.raises(exception.NovaException):
        zun.pause(instance)
    assert {c['State']['Status'] for c in machine.docker.containers_.values()} == {'running'}
    assert record(machine, instance).state is State.READY


def test_a_container_that_ends_meanwhile_does_not_hinder_a_freeze(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    names = [sandbox.container_name(machine.add_container(instance.uuid)) for _ in range(2)]
    ended, removed = (machine.docker.named(name)['Id'] for name in names)
    pause_one = machine.docker.pause

    def pause_late(name):
        if name == ended:
            machine.docker.kill(ended)
        elif name == removed:
            machine.docker.remove_container(removed, force=True)
        pause_one(name)

    machine.docker.pause = pause_late
    zun.pause(instance)
    assert zun.get_info(instance).state == power_state.PAUSED
    assert record(machine, instance).state is State.PAUSED


def test_plugging_at_start_up_cuts_nothing(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    before = dict(machine.kernel.devices[vif['devname']])
    zun.plug_vifs(instance, [vif])
    assert machine.kernel.devices[vif['devname']] == before


def test_plugging_at_start_up_repairs(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    del machine.kernel.devices[vif['devname']]
    zun.plug_vifs(instance, [vif])
    assert not machine.switch.stale
    assert vif['devname'] in machine.kernel.devices


@pytest.mark.parametrize('error', [RuntimeError('boom'), OSError(1, 'no'), TypeError('bug')])
def test_plugging_at_start_up_never_stops_nova_compute(zun, machine, vif, error):
    instance = spawn(zun, make_instance(), [vif])
    machine.kernel.fail('plug', error)
    with pytest.raises(exception.VirtualInterfacePlugException):
        zun.plug_vifs(instance, [vif])
    machine.docker.down = True
    with pytest.raises(exception.VirtualInterfacePlugException):
        zun.plug_vifs(instance, [vif])


def test_plugging_at_start_up_is_nothing_for_a_stopped_sandbox(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    zun.power_off(instance)
    zun.plug_vifs(instance, [vif])
    assert machine.kernel.devices == {}


def test_interfaces_come_and_go(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    instance.info_cache.network_info = model.NetworkInfo([vif])
    second = make_vif(2, subnets=[make_subnet('10.1.0.0/24', '10.1.0.1', ['10.1.0.9'])])
    zun.attach_interface(None, instance, None, second)
    assert machine.kernel.devices[second['devname']]['name'] == 'eth1'
    # The default route stays where it was.
    assert machine.kernel.devices[second['devname']]['routes'] == []
    hosts = machine.store.directory(instance.uuid) / 'hosts'
    assert '10.1.0.9 mybox' in hosts.read_text()
    instance.info_cache.network_info = model.NetworkInfo([vif, second])
    zun.detach_interface(None, instance, second)
    assert list(machine.kernel.devices) == [vif['devname']]
    assert len(record(machine, instance).addresses) == 1
    assert '10.1.0.9' not in hosts.read_text()


def test_an_interface_that_cannot_be_attached_leaves_nothing(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    instance.info_cache.network_info = model.NetworkInfo([vif])
    machine.switch.fail(ValueError('no database'))
    with pytest.raises(exception.NovaException):
        zun.attach_interface(None, instance, None, make_vif(2))
    assert list(machine.kernel.devices) == list(machine.switch.ports) == [vif['devname']]


def test_interfaces_of_an_unknown_sandbox_leave_nothing(zun, machine, vif):
    zun.plug_vifs(make_instance(), [vif])
    zun.detach_interface(None, make_instance(), vif)
    assert machine.leftovers() == {}


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


def test_nova_hears_of_a_pause_but_not_of_an_end_within_a_reboot(zun, machine, vif, monkeypatch):
    heard = []
    monkeypatch.setattr(zun._watcher, '_emit', heard.append)
    instance = spawn(zun, make_instance(vm_state='active'), [vif])
    until(lambda: heard)
    zun.reboot(None, instance, [vif], 'HARD')
    zun.pause(instance)
    until(lambda: len(heard) == 3)
    assert [event.get_name() for event in heard] == ['Started', 'Started', 'Paused']


def test_init_host_refuses_what_cannot_work(machine, virtapi):
    from zun_virt import driver

    machine.docker.api_version = '1.24'
    CONF.set_override('state_path', str(machine.root), group='zun_virt')
    with pytest.raises(exception.InvalidConfiguration):
        driver.ZunDriver(virtapi).init_host('host1')
    CONF.clear_override('state_path', group='zun_virt')


def test_docker_errors_keep_their_words(zun, machine, vif):
    machine.docker.fail('start', fake_docker.api_error(500, 'OCI runtime create failed'))
    with pytest.raises(exception.NovaException, match='OCI runtime create failed'):
        spawn(zun, make_instance(), [vif])
    assert isinstance(fake_docker.api_error(404, 'x'), docker.errors.NotFound)
