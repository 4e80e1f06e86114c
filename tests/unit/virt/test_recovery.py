"""What ends or stays behind without nova: it comes back, is told, or is removed."""

import threading

import pytest
from nova import conf, exception
from nova.compute import power_state

from tests.unit.virt import fake_docker
from tests.unit.virt.conftest import (
    make_instance,
    make_vif,
    pause,
    record,
    runs_again,
    until,
)
from zun_virt import ports, recovery, sandbox, switch
from zun_virt.sandbox import State
from zun_virt.servers import Fate

CONF = conf.CONF


def test_one_that_was_killed_runs_again_with_its_network_and_what_ran_in_it(
    zun, machine, server, heard
):
    before = record(machine, server)
    ran, done = machine.add_container(server.uuid), machine.add_container(server.uuid)
    machine.docker.stop(sandbox.container_name(done))
    machine.docker.kill(sandbox.sandbox_name(server.uuid))
    until(lambda: runs_again(machine, server, before))
    after = record(machine, server)
    assert (after.running, after.addresses) == ((ran,), before.addresses)
    (device,) = machine.kernel.devices.values()
    assert device['pid'] == pause(machine, server)['State']['Pid']
    assert list(machine.switch.ports) and not machine.switch.stale
    assert heard == []


def test_one_that_was_shut_down_stays_so_and_nova_hears_of_it(zun, machine, server, heard):
    machine.docker.kill(sandbox.sandbox_name(server.uuid), 0)
    assert zun.get_info(server).state == power_state.NOSTATE
    until(lambda: heard == [server.uuid])
    assert record(machine, server).state is State.STOPPED
    assert zun.get_info(server).state == power_state.SHUTDOWN


def test_one_that_went_with_the_engine_runs_again_when_it_is_back(zun, machine, server, heard):
    before = record(machine, server)
    machine.docker.down = True
    machine.docker.restart()
    with pytest.raises(exception.HypervisorUnavailable):
        zun.get_info(server)
    machine.docker.down = False
    until(lambda: runs_again(machine, server, before))
    assert heard == []


def test_ends_that_nobody_saw_are_found_by_the_pass(zun, machine, server):
    before = record(machine, server)
    machine.docker.streams = []
    machine.docker.kill(sandbox.sandbox_name(server.uuid))
    zun._recovery.look_around()
    until(lambda: runs_again(machine, server, before))


def test_one_that_nova_did_not_resume_after_a_reboot_stays_stopped(
    zun, machine, server, heard, monkeypatch
):
    machine.docker.streams = []
    machine.docker.kill(sandbox.sandbox_name(server.uuid))
    monkeypatch.setattr(zun._sandboxes, '_boot_id', 'another')
    assert zun.get_info(server).state == power_state.SHUTDOWN
    zun._recovery.look_around()
    until(lambda: heard == [server.uuid])
    assert record(machine, server).state is State.STOPPED


def test_one_whose_container_is_lost_is_made_anew(zun, machine, server):
    before = record(machine, server)
    machine.docker.remove_container(sandbox.sandbox_name(server.uuid), force=True)
    until(lambda: record(machine, server).state is State.READY and pause(machine, server))
    until(lambda: record(machine, server).incarnation != before.incarnation)


def test_a_start_that_fails_is_tried_again(zun, machine, server, heard):
    before = record(machine, server)
    machine.docker.fail('start', fake_docker.api_error(500, 'containerd is away'))
    machine.docker.kill(sandbox.sandbox_name(server.uuid))
    until(lambda: record(machine, server).state is State.BUILDING)
    until(lambda: not zun._recovery._at_work)
    assert zun.get_info(server).state == power_state.NOSTATE
    zun._recovery.look_around()
    until(lambda: runs_again(machine, server, before))
    assert heard == []


def test_one_that_dies_again_and_again_is_given_up(zun, machine, server, heard):
    for _ in range(recovery._TIMES):
        before = record(machine, server)
        machine.docker.kill(sandbox.sandbox_name(server.uuid))
        until(lambda before=before: runs_again(machine, server, before))
        until(lambda: not zun._recovery._at_work)
    machine.docker.kill(sandbox.sandbox_name(server.uuid))
    until(lambda: heard == [server.uuid])
    assert record(machine, server).state is State.STOPPED


def test_a_stop_that_failed_is_taken_back_since_nova_says_it_runs(zun, machine, server):
    lives = machine.add_container(server.uuid)
    machine.docker.fail('stop', fake_docker.api_error(500, 'no exit event'))
    with pytest.raises(exception.NovaException):
        zun.power_off(server, 0, 0)
    assert record(machine, server).state is State.STOPPING
    started = pause(machine, server)['State']['StartedAt']
    zun._recovery.look_around()
    until(lambda: record(machine, server).state is State.READY)
    assert pause(machine, server)['State']['StartedAt'] == started
    assert record(machine, server).running == (lives,)


def test_a_port_that_the_switch_lost_is_plugged_again(zun, machine, server):
    before, device = dict(machine.switch.ports), dict(machine.kernel.devices)
    machine.switch.ports.clear()
    zun._recovery.look_around()
    until(lambda: machine.switch.ports == before)
    assert machine.kernel.devices == device


def test_nobody_waits_for_a_pass_that_waits_for_its_turn(zun, machine, server):
    """The pass holds nova's lock on the server, which a stop or a deletion needs."""
    before = dict(machine.switch.ports)
    machine.switch.ports.clear()
    with zun._turn(server):
        zun._recovery.look_around()
        until(lambda: not zun._recovery._at_work)
        assert machine.switch.ports == {}
    zun._recovery.look_around()
    until(lambda: machine.switch.ports == before)


def test_a_port_that_was_detached_just_now_is_not_plugged_again(zun, machine, server):
    (first,), second = server.get_network_info(), make_vif(2, active=True)
    zun.attach_interface(None, server, None, second)
    server.info_cache.network_info.append(second)
    zun.detach_interface(None, server, first)
    machine.switch.ports.clear()
    zun._recovery.look_around()
    until(lambda: machine.switch.ports)
    until(lambda: not zun._recovery._at_work)
    assert list(machine.switch.ports) == [second['devname']]


def test_a_port_that_is_detached_before_the_turn_of_a_pass_is_not_plugged_again(
    zun, machine, server, monkeypatch
):
    (first,), second = server.get_network_info(), make_vif(2, active=True)
    zun.attach_interface(None, server, None, second)
    server.info_cache.network_info.append(second)
    machine.switch.ports.clear()
    turn, before = zun._turn, [first]

    def turn_after_a_detachment(instance, *, wait=True):
        if not wait and before:
            zun.detach_interface(None, server, before.pop())
            machine.switch.ports.clear()
        return turn(instance, wait=wait)

    monkeypatch.setattr(zun, '_turn', turn_after_a_detachment)
    zun._recovery.look_around()
    until(lambda: machine.switch.ports)
    until(lambda: not zun._recovery._at_work)
    assert list(machine.switch.ports) == [second['devname']]


def test_nothing_is_plugged_again_while_nova_cannot_be_asked(
    zun, machine, server, monkeypatch, caplog
):
    def fail(_instance):
        raise ports.PortsUnknown('nova cannot be asked')

    machine.switch.ports.clear()
    with monkeypatch.context() as patch:
        patch.setattr(zun._ports, 'cache', fail)
        zun._recovery.look_around()
        until(lambda: not zun._recovery._at_work)
    assert machine.switch.ports == {}
    assert 'Not plugged again: nova cannot be asked; the next pass tries' in caplog.text
    assert 'Traceback' not in caplog.text
    zun._recovery.look_around()
    until(lambda: machine.switch.ports)


def test_a_switch_that_does_not_answer_is_asked_again(zun, machine, server, monkeypatch, caplog):
    def fail():
        raise switch.SwitchError('Open vSwitch does not answer: no socket')

    monkeypatch.setattr(switch, 'ports', fail)
    zun._recovery.look_around()
    assert 'does not answer' in caplog.text


def test_nothing_is_done_while_nova_works_on_the_server(zun, machine, server, heard):
    server.task_state = 'powering-off'
    zun.power_off(server, 0, 0)
    zun._recovery.look_around()
    until(lambda: not zun._recovery._at_work)
    assert record(machine, server).state is State.STOPPED
    assert heard == []


def test_nothing_is_done_before_nova_has_looked_at_its_servers(zun, machine, monkeypatch):
    monkeypatch.setattr(machine.servers, 'here', lambda: pytest.fail('too early'))
    zun._recovery.look_around()


# -- orphans --------------------------------------------------------------------------


@pytest.fixture
def strays(zun, monkeypatch):
    """The pass over orphans, with a clock to turn."""
    found = zun._orphans
    found.now = 0.0
    monkeypatch.setattr(found, '_clock', lambda: found.now)
    return found


def age(strays, seconds=CONF.zun_virt.orphan_grace):
    strays.look_around()
    strays.now += seconds
    strays.look_around()


@pytest.fixture
def stray(zun, machine, server, strays):
    """A sandbox of a server that has gone."""
    machine.add_container(server.uuid)
    machine.servers.all.clear()
    machine.servers.fates[server.uuid] = Fate.DELETED
    return server


def test_an_orphan_is_removed_with_all_that_is_its(machine, stray, strays):
    age(strays)
    assert machine.leftovers() == {}


def test_not_before_the_time_of_grace(machine, stray, strays):
    before = machine.leftovers()
    age(strays, CONF.zun_virt.orphan_grace - 1)
    assert machine.leftovers() == before


def test_the_time_of_grace_begins_anew_when_it_was_no_orphan_meanwhile(machine, stray, strays):
    before = machine.leftovers()
    strays.look_around()
    strays.now += 400
    machine.servers.all[stray.uuid] = stray
    strays.look_around()
    machine.servers.all.clear()
    strays.now += 400
    strays.look_around()
    assert machine.leftovers() == before


@pytest.mark.parametrize('fate', [Fate.HERE, Fate.MOVING])
def test_what_nova_may_still_ask_for_is_kept(machine, stray, strays, fate):
    before = machine.leftovers()
    machine.servers.fates[stray.uuid] = fate
    age(strays)
    assert machine.leftovers() == before


@pytest.mark.parametrize('fate', [Fate.ELSEWHERE, Fate.UNKNOWN])
def test_what_nova_will_never_ask_for_is_removed(machine, stray, strays, fate):
    machine.servers.fates[stray.uuid] = fate
    age(strays)
    assert machine.leftovers() == {}


def test_a_dry_run_removes_nothing_and_says_so_once(machine, stray, strays, monkeypatch, caplog):
    monkeypatch.setattr(CONF.zun_virt, 'orphan_dry_run', True, raising=False)
    CONF.set_override('orphan_dry_run', True, group='zun_virt')
    try:
        before = machine.leftovers()
        age(strays)
        age(strays)
        assert machine.leftovers() == before
        assert caplog.text.count('would be removed') == 1
    finally:
        CONF.clear_override('orphan_dry_run', group='zun_virt')


def test_a_directory_without_anything_else_is_one(machine, server, strays):
    instance_id = make_instance().uuid
    machine.store.create(instance_id)
    age(strays)
    assert machine.store.ids() == {server.uuid}


def test_a_container_without_a_directory_is_one(machine, stray, strays):
    machine.store.remove(stray.uuid)
    age(strays)
    assert machine.leftovers() == {}


def test_a_record_that_cannot_be_read_keeps_what_it_speaks_of(machine, stray, strays, caplog):
    (machine.store.directory(stray.uuid) / 'sandbox.json').write_text('{')
    before = machine.leftovers()
    age(strays)
    assert machine.leftovers() == before
    assert 'left alone' in caplog.text


def test_what_another_host_wrote_is_kept(machine, stray, strays):
    machine.store.write(record(machine, stray).replace(host='host2'))
    before = machine.leftovers()
    age(strays)
    assert machine.leftovers() == before


def test_an_orphan_that_cannot_be_removed_is_tried_again(machine, stray, strays):
    machine.docker.fail('remove', fake_docker.api_error(500, 'busy'))
    age(strays)
    assert machine.leftovers()
    strays.look_around()
    assert machine.leftovers() == {}


@pytest.mark.parametrize('device', ['tap', 'qvo'])
@pytest.mark.parametrize('how_often', [1, 2])
@pytest.mark.parametrize('named', [True, False])
def test_ports_of_a_server_deleted_while_the_switch_is_away(
    zun, machine, server, strays, caplog, device, how_often, named
):
    """However the switch calls them, whether nova names them, and if nova deletes it once more."""
    ports = {device + name[3:]: port for name, port in machine.switch.ports.items()}
    assert ports
    machine.switch.ports = dict(ports)
    machine.switch.silent = True
    zun.destroy(None, server, server.get_network_info() if named else [])
    for _ in range(how_often - 1):
        zun.destroy(None, server, [])
    machine.servers.all.clear()
    machine.servers.fates[server.uuid] = Fate.DELETED
    assert 'Open vSwitch does not answer' in caplog.text
    age(strays)
    assert machine.switch.ports == ports
    machine.switch.silent = False
    strays.look_around()
    assert machine.leftovers() == {}


def test_no_thread_of_a_driver_that_ended_stays(zun):
    zun.cleanup_host('host1')
    names = {thread.name for thread in threading.enumerate()}
    assert not {name for name in names if name.startswith(('zun-passes', 'zun-events'))}


def test_what_the_switch_says():
    table = {
        'headings': ['name', 'external_ids'],
        'data': [
            ['br-int', ['map', []]],
            ['tap1', ['map', [['iface-id', 'p1'], ['vm-uuid', 'i1'], ['attached-mac', 'm']]]],
            ['qr-1', ['map', [['iface-id', 'p2']]]],
        ],
    }
    assert switch.parse(table) == [switch.Port('tap1', 'p1', 'i1')]
