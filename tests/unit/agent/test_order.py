"""Requests that come before the one before them is carried out."""

import pytest

from zun_agent import errors
from zun_agent.models import Status

HUP = {'op': 'kill', 'signal': 'HUP'}
SLOW = {'op': 'restart', 'timeout': 10}


@pytest.fixture
def did(world, running):
    """What Docker is told from now on."""
    world.runtime.calls.clear()
    return world.runtime.calls


def end(world, uuid, code=143):
    world.runtime.end(world.docker(uuid).id, code, ago=5)


def all_done(world, uuid):
    container = world.store.container(uuid)
    assert (container.acts, container.task_state) == ([], None)
    assert container.observed_generation == container.generation
    return set(world.actions(uuid).values()) == {(True, None)}


def test_a_signal_while_a_restart_stops_it(world, running, did):
    world.request(running, 'reboot', act=SLOW)
    world.agent.converge(running)
    world.request(running, 'kill', act=HUP, task_state='container_killing')
    assert world.settle(running).task_state == 'container_killing'
    assert not world.actions(running)['reboot'][0]
    end(world, running)
    assert world.settle(running).status == Status.RUNNING
    assert did == ['kill SIGTERM', 'start', 'kill HUP']
    assert all_done(world, running)


def test_a_pause_while_a_restart_stops_it(world, running, did):
    world.request(running, 'reboot', act=SLOW)
    world.agent.converge(running)
    world.request(running, 'pause')
    end(world, running)
    assert world.settle(running).status == Status.PAUSED
    assert did == ['kill SIGTERM', 'start', 'pause']
    assert all_done(world, running)


def test_new_limits_while_a_restart_stops_it(world, running, did):
    world.request(running, 'reboot', act=SLOW)
    world.agent.converge(running)
    world.request(running, 'update', memory=64)
    world.settle(running)
    assert world.actions(running)['update'] == (True, None)
    assert not world.actions(running)['reboot'][0]
    end(world, running)
    world.settle(running)
    assert did == ['kill SIGTERM', 'update', 'start']
    assert all_done(world, running)


def test_several_signals(world, running, did):
    for name in ('HUP', 'USR1', 'HUP'):
        world.request(running, 'kill', act={'op': 'kill', 'signal': name})
    assert world.settle(running).status == Status.RUNNING
    assert did == ['kill HUP', 'kill USR1', 'kill HUP']
    assert all_done(world, running)


def test_a_signal_that_docker_does_not_know_among_others(world, running, did):
    world.runtime.fail['kill RTMAX'] = [errors.Invalid('invalid signal: RTMAX')]
    world.request(running, 'update', auto_heal=True)
    world.request(running, 'kill', act={'op': 'kill', 'signal': 'RTMAX'})
    world.request(running, 'pause')
    assert world.settle(running).status == Status.PAUSED
    actions = world.actions(running)
    assert actions['kill'] == (True, 'invalid signal: RTMAX')
    assert actions['update'] == actions['pause'] == (True, None)


def test_two_restarts(world, running, did):
    for _ in range(2):
        world.request(running, 'reboot')
    while world.store.container(running).acts:
        world.settle(running)
    assert did == ['kill KILL', 'start'] * 2
    assert all_done(world, running)


def test_a_stop_that_a_signal_interrupts(world, running, did):
    world.request(running, 'stop')
    world.agent.converge(running)
    world.request(running, 'kill', act=HUP)
    world.settle(running)
    assert did == ['kill SIGTERM', 'kill HUP']  # and the stop goes on as it was
    actions = world.actions(running)
    assert (actions['kill'], actions['stop']) == ((True, None), (False, None))
    end(world, running)
    assert world.settle(running).status == Status.STOPPED
    assert all_done(world, running)


def test_a_stop_after_a_restart(world, running, did):
    world.request(running, 'reboot', act=SLOW)
    world.agent.converge(running)
    world.request(running, 'stop')
    world.settle(running)
    end(world, running)
    assert world.settle(running).status == Status.STOPPED
    assert did == ['kill SIGTERM']
    assert all_done(world, running)


def test_a_restart_is_not_repeated_for_those_that_wait_after_it(world, running, did):
    world.request(running, 'reboot')
    world.request(running, 'reboot')
    end(world, running)
    world.runtime.start(world.docker(running).id)  # the last thing that the agent did
    world.restart_agent()
    world.look(world.store.container(running).sandbox_id)
    while world.store.container(running).acts:
        world.settle(running)
    assert did == ['start', 'kill KILL', 'start']


def test_a_restart_of_what_must_be_made_anew(world, running):
    world.request(running, 'reboot', act=SLOW)
    world.agent.converge(running)
    world.request(running, 'kill', act=HUP, task_state='container_killing')
    world.runtime.remove(world.docker(running).id)
    world.settle(running)
    assert world.docker(running).alive
    assert world.runtime.calls[-1] == 'kill HUP'
    assert all_done(world, running)


@pytest.mark.parametrize('later', ['reboot', 'pause'])
def test_what_the_version_before_stored(world, running, did, later):
    world.request(running, 'kill', act=HUP)
    with world.store._database.engine.begin() as connection:
        connection.exec_driver_sql(
            """UPDATE containers SET operation='{"op": "kill", "signal": "HUP"}'"""
        )
    container = world.store.container(running)
    assert container.acts == [{**HUP, 'generation': container.generation}]
    world.request(running, later)
    while world.store.container(running).observed_generation < container.generation + 1:
        world.settle(running)
    assert did[0] == 'kill HUP'
    assert len(did) > 1
    assert all_done(world, running)
