"""How sandboxes are made and deleted, and that nothing is left of those that failed."""

import docker.errors
import pytest
import requests
from nova import exception
from nova.compute import power_state

from tests.unit.virt import fake_docker
from tests.unit.virt.conftest import CONF, make_image, make_instance, make_vif, pause, record, spawn
from zun_virt import host, sandbox
from zun_virt.sandbox import State


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


def test_docker_errors_keep_their_words(zun, machine, vif):
    machine.docker.fail('start', fake_docker.api_error(500, 'OCI runtime create failed'))
    with pytest.raises(exception.NovaException, match='OCI runtime create failed'):
        spawn(zun, make_instance(), [vif])
    assert isinstance(fake_docker.api_error(404, 'x'), docker.errors.NotFound)


def test_delete_removes_everything(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    machine.add_container(instance.uuid)
    zun.destroy(None, instance, [vif])
    assert machine.leftovers() == {}
    with pytest.raises(exception.InstanceNotFound):
        zun.get_info(instance)


def test_delete_lets_containers_end_but_not_for_long(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    user = machine.docker.named(sandbox.container_name(machine.add_container(instance.uuid)))
    own = pause(machine, instance)
    machine.docker.calls.clear()
    zun.destroy(None, instance, [vif])
    acts = [call for call in machine.docker.calls if call[0] in ('stop', 'remove')]
    assert acts == [
        ('stop', user['Id'], 10),
        ('stop', own['Id'], 10),
        ('remove', user['Id']),
        ('remove', own['Id']),
    ]


@pytest.mark.parametrize('destroy_vifs', [True, False])
def test_cleanup_removes_what_is_there_at_once(zun, machine, vif, destroy_vifs):
    instance = spawn(zun, make_instance(), [vif])
    machine.add_container(instance.uuid)
    machine.docker.calls.clear()
    zun.cleanup(None, instance, [vif], destroy_vifs=destroy_vifs)
    assert {call[2] for call in machine.docker.calls if call[0] == 'stop'} == {0}
    assert machine.leftovers() == {}


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
