"""Sandboxes stopped, started, rebooted, frozen and thawed, with the containers in them."""

import pytest
from nova import exception
from nova.compute import power_state
from nova.network import model

from tests.unit.virt import fake_docker
from tests.unit.virt.conftest import make_image, make_instance, pause, record, spawn, until
from zun_virt import host, sandbox
from zun_virt.sandbox import State


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
    zun._recovery.begin()
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


@pytest.mark.parametrize(('kind', 'seconds'), [('SOFT', 60), ('HARD', 0)])
def test_only_a_soft_reboot_lets_containers_end(zun, machine, vif, kind, seconds):
    instance = spawn(zun, make_instance(), [vif])
    ran = sandbox.container_name(machine.add_container(instance.uuid))
    machine.docker.calls.clear()
    zun.reboot(None, instance, [vif], kind)
    ident = machine.docker.named(ran)['Id']
    assert [call[2] for call in machine.docker.calls if call[:2] == ('stop', ident)] == [seconds]


@pytest.mark.parametrize('asked', ['resume_state_on_host_boot', 'reboot', 'power_on'])
def test_nobody_waits_for_words_that_cannot_be_heard(zun, machine, virtapi, vif, asked):
    """While nova-compute starts, it does by itself what was cut off at its last end."""
    instance = spawn(zun, make_instance(), [vif])
    machine.docker.kill(sandbox.sandbox_name(instance.uuid))
    virtapi.awaited.clear()
    further = {'reboot': ('HARD',), 'resume_state_on_host_boot': (None,)}
    getattr(zun, asked)(None, instance, [vif], *further.get(asked, ()))
    assert not any(events for events, _ in virtapi.awaited)
    assert record(machine, instance).state is State.READY


@pytest.mark.parametrize('frozen', [True, False])
def test_what_is_alive_when_nova_compute_starts_is_not_started_anew(zun, machine, vif, frozen):
    """As when nova-compute was killed after a freeze, before nova called the server paused."""
    instance = spawn(zun, make_instance(vm_state='active'), [vif])
    ran = machine.add_container(instance.uuid)
    if frozen:
        zun.pause(instance)
    before = record(machine, instance)
    started = machine.docker.named(sandbox.container_name(ran))['State']['StartedAt']
    machine.switch.ports.clear()
    zun.resume_state_on_host_boot(None, instance, [vif], None)
    assert record(machine, instance) == before
    user = machine.docker.named(sandbox.container_name(ran))
    assert user['State']['StartedAt'] == started
    assert user['State']['Status'] == ('paused' if frozen else 'running')
    assert list(machine.switch.ports) == [vif['devname']]


def test_nova_compute_starts_with_a_sandbox_that_does_not(zun, machine, vif, caplog, monkeypatch):
    heard = []
    monkeypatch.setattr(zun, 'emit_event', heard.append)
    instance = spawn(zun, make_instance(vm_state='active'), [vif])
    machine.servers.all[instance.uuid] = instance
    machine.docker.fail('start', fake_docker.api_error(500, 'no room'))
    zun.reboot(None, instance, [vif], 'HARD')
    assert 'ends SHUTOFF, and may be started' in caplog.text
    assert record(machine, instance).state is State.STOPPED
    zun._recovery.begin()
    zun._recovery.look_around()
    until(lambda: heard)
    assert [event.get_name() for event in heard] == ['Stopped']


def test_a_failed_reboot_is_told(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    zun._recovery.begin()
    machine.docker.fail('start', fake_docker.api_error(500, 'no room'))
    with pytest.raises(exception.NovaException, match='no room'):
        zun.reboot(None, instance, [vif], 'HARD')


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


@pytest.mark.parametrize('judged', [True, False])
@pytest.mark.parametrize('lost', [True, False])
def test_a_suspended_one_that_is_not_there_any_more_runs_when_it_is_resumed(
    zun, machine, vif, lost, judged
):
    instance = spawn(zun, make_instance(vm_state='active'), [vif])
    instance.image_ref = make_image().id
    instance.system_metadata = {
        'image_img_hv_type': 'docker',
        'image_container_format': 'docker',
    }
    machine.servers.add(instance)
    ran, ended = machine.add_container(instance.uuid), machine.add_container(instance.uuid)
    machine.docker.kill(sandbox.container_name(ended))
    before = record(machine, instance)
    zun.suspend(None, instance)
    instance.vm_state = 'suspended'
    name = sandbox.sandbox_name(instance.uuid)
    if lost:
        machine.docker.remove_container(name, force=True)
    else:
        machine.docker.kill(name)
    if judged:
        zun._recovery.begin()
        zun._recovery.look_around()
        until(lambda: record(machine, instance).state is State.STOPPED)
        until(lambda: not zun._recovery._at_work)
    zun.resume(None, instance, [vif])
    written = record(machine, instance)
    assert (written.state, written.paused) == (State.READY, ())
    assert (written.running, written.frozen) == ((ran,), ())
    assert (written.incarnation != before.incarnation) is lost
    assert zun.get_info(instance).state == power_state.RUNNING
    assert list(machine.kernel.devices) == [vif['devname']]
    assert not machine.switch.stale


def test_what_died_frozen_is_known_where_an_older_record_does_not_name_it(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    ran = machine.add_container(instance.uuid)
    zun.pause(instance)
    zun._sandboxes.store.write(record(machine, instance).replace(frozen=()))
    for name in (sandbox.container_name(ran), sandbox.sandbox_name(instance.uuid)):
        machine.docker.kill(name)
    zun.power_off(instance)
    assert record(machine, instance).running == (ran,)


def test_a_freeze_forgets_nobody_who_is_to_run_again(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    ran = machine.add_container(instance.uuid)
    zun.power_off(instance)
    zun.power_on(None, instance, [vif])  # and no agent is there to start it
    before = record(machine, instance)
    zun.pause(instance)
    zun.unpause(instance)
    assert record(machine, instance) == before
    assert before.running == (ran,)


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


def test_what_a_user_froze_stays_frozen(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    own, other = (sandbox.container_name(machine.add_container(instance.uuid)) for _ in range(2))
    machine.docker.pause(own)
    machine.docker.calls.clear()
    for _ in range(2):
        zun.pause(instance)
        zun.pause(instance)
        zun.unpause(instance)
        assert machine.docker.named(own)['State']['Status'] == 'paused'
        assert machine.docker.named(other)['State']['Status'] == 'running'
        assert zun.get_info(instance).state == power_state.RUNNING
    assert ('unpause', machine.docker.named(own)['Id']) not in machine.docker.calls
    zun.pause(instance)
    zun.reboot(None, instance, [vif], 'HARD')
    assert record(machine, instance).paused == ()


def test_a_freeze_that_fails_and_cannot_be_undone_is_undone_later(zun, machine, vif, caplog):
    """As when the engine is away for longer than is waited for it."""
    instance = spawn(zun, make_instance(vm_state='active'), [vif])
    ran = sandbox.container_name(machine.add_container(instance.uuid))
    pause_one = machine.docker.pause

    def pause_and_go_away(name):
        pause_one(name)
        machine.docker.down = True

    machine.docker.pause = pause_and_go_away
    with pytest.raises(exception.HypervisorUnavailable, match='Pausing'):
        zun.pause(instance)
    assert 'the next pass' in caplog.text
    machine.docker.down = False
    assert machine.docker.named(ran)['State']['Status'] == 'paused'
    machine.servers.add(instance)
    zun._recovery.begin()
    zun._recovery.look_around()
    until(lambda: record(machine, instance).state is State.READY)
    assert {c['State']['Status'] for c in machine.docker.containers_.values()} == {'running'}


def test_a_pause_that_nova_asks_for_just_now_is_not_undone(zun, machine, vif):
    instance = spawn(zun, make_instance(vm_state='active'), [vif])
    machine.servers.add(instance)
    zun._recovery.begin()
    zun.pause(instance)
    instance.task_state = 'pausing'
    zun._recovery.look_around()
    zun._recovery._freeze_or_thaw(instance.uuid)
    assert pause(machine, instance)['State']['Status'] == 'paused'


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


def test_thawing_what_the_agent_thawed_or_removed_is_fine(zun, machine, vif):
    instance = spawn(zun, make_instance(), [vif])
    name = sandbox.container_name(machine.add_container(instance.uuid))
    zun._host.unpause(name)
    zun._host.unpause('gone')
    machine.docker.fail('unpause', fake_docker.api_error(500, 'no space left'))
    with pytest.raises(host.HostError, match='no space'):
        zun._host.unpause(name)


def test_nova_hears_of_a_pause_but_not_of_an_end_within_a_reboot(zun, machine, vif, monkeypatch):
    heard = []
    monkeypatch.setattr(zun._watcher, '_emit', heard.append)
    instance = spawn(zun, make_instance(vm_state='active'), [vif])
    until(lambda: heard)
    zun.reboot(None, instance, [vif], 'HARD')
    zun.pause(instance)
    zun.unpause(instance)
    until(lambda: len(heard) == 4)
    assert [event.get_name() for event in heard] == ['Started', 'Started', 'Paused', 'Resumed']
