"""Ends of sandboxes: what the engine tells of them, and what nova is told."""

import time

import pytest

from tests.unit.virt.conftest import make_instance, record, runs_again, until
from zun_virt import host, sandbox
from zun_virt.sandbox import State


def test_an_end_that_a_busy_engine_has_forgotten_was_seen_when_it_was_told(
    zun, machine, server, heard
):
    machine.docker.kill(sandbox.sandbox_name(server.uuid), 0)
    machine.docker.past.clear()
    until(lambda: heard == [server.uuid])
    assert record(machine, server).state is State.STOPPED


def test_an_end_that_an_engine_told_before_its_own_was_not_seen_by_the_next(
    zun, machine, server, heard
):
    before = record(machine, server)
    machine.docker.kill(sandbox.sandbox_name(server.uuid), 0)
    until(lambda: zun._host._ends)
    machine.docker.past.clear()
    machine.docker.disconnect()
    until(lambda: runs_again(machine, server, before))
    assert heard == []


def test_of_many_ends_the_last_are_remembered(zun, machine, server, monkeypatch):
    monkeypatch.setattr(host, '_ENDS', 2)
    names = [f'other{number}' for number in range(3)]
    (config,) = (found['Config'] for found in machine.docker.containers_.values())
    labels = config['Labels'] | {sandbox.LABEL_SANDBOX: make_instance().uuid}
    for name in names:
        machine.docker.create_container_from_config(config | {'Labels': labels}, name)
        for _ in range(2):
            machine.docker.start(name)
            machine.docker.kill(name, 0)
    until(lambda: machine.docker.named(names[-1])['Id'] in zun._host._ends)
    machine.docker.past.clear()
    seen = [zun._host.witnessed(zun._host.inspect(name)) for name in names]
    assert seen == [False, True, True]
    machine.docker.streams.clear()
    machine.docker.start(names[-1])
    time.sleep(1.1)
    machine.docker.kill(names[-1], 0)
    machine.docker.past.clear()
    assert not zun._host.witnessed(zun._host.inspect(names[-1]))


@pytest.mark.parametrize(
    ('vm_state', 'told'), [('active', 3), ('resized', 1), ('rescued', 1), ('suspended', 1)]
)
def test_an_end_of_which_nova_makes_nothing_is_told_once(
    zun, machine, server, heard, caplog, vm_state, told
):
    caplog.set_level('INFO')
    server.vm_state = vm_state
    if vm_state == 'suspended':
        zun.suspend(None, server)
    machine.docker.kill(sandbox.sandbox_name(server.uuid), 0)
    until(lambda: heard)
    for _ in range(2):
        until(lambda: not zun._recovery._at_work)
        zun._recovery.look_around()
    until(lambda: not zun._recovery._at_work)
    assert record(machine, server).state is State.STOPPED
    assert heard == [server.uuid] * told
    assert caplog.text.count('it stays stopped') == (vm_state != 'suspended')
