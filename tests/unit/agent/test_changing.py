"""What containers are told to do: when they may be told, and what is stored of it."""

import concurrent.futures
import threading
import types
import uuid

import pytest

from tests.unit.agent.managing import create, running
from zun_agent import errors, manager, models, records, states
from zun_agent.models import Desired, Status

ACTS = {
    'start': lambda manager, *args: manager.start(*args),
    'stop': lambda manager, *args: manager.stop(*args),
    'reboot': lambda manager, *args: manager.restart(*args),
    'kill': lambda manager, *args: manager.kill(*args),
    'pause': lambda manager, *args: manager.pause(*args),
    'unpause': lambda manager, *args: manager.unpause(*args),
    'update': lambda manager, *args: manager.update(*args, {'name': 'x'}),
    'delete': lambda manager, *args: manager.delete(*args),
    'delete_stop': lambda manager, *args: manager.delete(*args, stop=True),
    'delete_force': lambda manager, *args: manager.delete(*args, force=True),
    'logs': lambda manager, *args: manager.logs(*args),
    'execute': lambda manager, *args: manager.execute(*args, ['true']),
    'top': lambda manager, *args: manager.top(*args),
    'stats': lambda manager, *args: manager.stats(*args),
}


# The table of the Zun API's documentation; what restarts for ever can be stopped, too.
ALLOWED = {
    'delete': 'Created Error Stopped Deleted Dead',
    'delete_force': 'Created Creating Error Running Stopped Unknown Deleted Dead Restarting '
    'Rebuilding Deleting',
    'delete_stop': 'Running Restarting Created Error Stopped Deleted Dead',
    'start': 'Created Stopped Error',
    'stop': 'Running Restarting',
    'pause': 'Running',
    'kill': 'Running Restarting',
    'execute': 'Running',
    'top': 'Running',
    'stats': 'Running',
    'unpause': 'Paused',
    'reboot': 'Created Running Stopped Error',
    'update': 'Created Running Stopped Paused',
    'logs': 'Created Error Paused Running Stopped Unknown',
}


@pytest.mark.parametrize('action', ACTS)
def test_statuses_in_which_an_action_is_allowed(agent, action):
    made = running(agent)
    assert set(ACTS) == set(ALLOWED) == set(states.ALLOWED)
    for status in Status:
        current = agent.store.observe(made.uuid, status=status)
        before = current.generation
        if status in ALLOWED[action].split():
            ACTS[action](agent.manager, agent.context, current)
            agent.store.request(  # for the deletions, which stay wanted
                made.uuid, action=models.Action(**ANYBODY), desired=Desired.RUNNING
            )
            continue
        with pytest.raises(errors.InvalidStateException) as caught:
            ACTS[action](agent.manager, agent.context, current)
        assert str(caught.value) == f'Cannot {action} container {made.uuid} in {status} state'
        assert agent.store.container(made.uuid).generation == before


ANYBODY = {'action': 'test', 'request_id': 'r', 'user_id': 'u', 'project_id': 'p'}


@pytest.mark.parametrize(
    ('action', 'status', 'expected'),
    [
        ('start', 'Stopped', {'desired': 'running', 'task_state': 'container_starting'}),
        ('stop', 'Running',
         {'desired': 'stopped', 'task_state': 'container_stopping', 'stop_timeout': 10}),
        ('reboot', 'Running', {'desired': 'running', 'task_state': 'container_rebooting',
                               'acts': [{'op': 'restart', 'timeout': 10, 'generation': 2}]}),
        ('kill', 'Running', {'desired': 'stopped', 'task_state': 'container_killing',
                             'acts': [{'op': 'kill', 'signal': 'KILL', 'generation': 2}]}),
        ('pause', 'Running', {'desired': 'paused', 'task_state': 'container_pausing'}),
        ('unpause', 'Paused', {'desired': 'running', 'task_state': 'container_unpausing'}),
        ('delete', 'Stopped', {'desired': 'deleted', 'status': 'Deleting', 'stop_timeout': 0}),
        ('delete_force', 'Running',
         {'desired': 'deleted', 'status': 'Deleting', 'stop_timeout': 0,
          'task_state': 'container_deleting'}),
        ('delete_stop', 'Running', {'desired': 'deleted', 'stop_timeout': 10}),
    ],
)  # fmt: skip
def test_what_a_request_stores(agent, action, status, expected):
    made = running(agent)
    agent.woken.clear()
    current = agent.store.observe(made.uuid, status=Status(status))
    ACTS[action](agent.manager, agent.context, current)
    found = agent.store.container(made.uuid)
    assert {key: getattr(found, key) for key in expected} == expected
    assert (found.generation, found.observed_generation) == (2, 1)
    assert agent.woken == [made.uuid]
    newest = agent.manager.actions(agent.context, made)[0]
    assert (newest.action, newest.generation) == (action.partition('_')[0], 2)
    assert newest.finish_time is None


def test_times_and_signals_that_are_given(agent):
    made = running(agent)
    agent.manager.stop(agent.context, made, 3)
    assert agent.store.container(made.uuid).stop_timeout == 3
    agent.manager.restart(agent.context, made, timeout=0)
    agent.manager.kill(agent.context, made, 'HUP')
    found = agent.store.container(made.uuid)
    assert found.acts == [
        {'op': 'restart', 'timeout': 0, 'generation': 3},
        {'op': 'kill', 'signal': 'HUP', 'generation': 4},
    ]
    assert found.desired == Desired.RUNNING


@pytest.mark.parametrize(
    ('later', 'kept'),
    [
        ('pause', True), ('update', True), ('start', True), ('unpause', True),
        ('stop', False), ('kill', False), ('delete_force', False),
    ],
)  # fmt: skip
def test_which_requests_make_those_before_them_pointless(agent, later, kept):
    made = running(agent)
    agent.manager.restart(agent.context, made)
    status = {'start': Status.STOPPED, 'unpause': Status.PAUSED}.get(later, Status.RUNNING)
    agent.store.observe(made.uuid, status=status)
    ACTS[later](agent.manager, agent.context, made)
    acts = agent.store.container(made.uuid).acts
    assert ({'op': 'restart', 'timeout': 10, 'generation': 2} in acts) is kept


def test_there_is_an_end_to_what_waits(agent, monkeypatch):
    monkeypatch.setattr(records, 'MOST_ACTS', 2)
    made = running(agent)
    for _ in range(2):
        agent.manager.kill(agent.context, made, 'HUP')
    with pytest.raises(errors.Conflict, match='2 requests for container'):
        agent.manager.kill(agent.context, made, 'HUP')
    agent.manager.kill(agent.context, made, 'KILL')
    assert len(agent.store.container(made.uuid).acts) == 1


@pytest.mark.parametrize('first', ['stop', 'kill'])
def test_what_is_about_to_stop_is_not_paused_instead(agent, first):
    made = running(agent)
    ACTS[first](agent.manager, agent.context, made)
    with pytest.raises(errors.InvalidStateException, match='in Stopped state'):
        agent.manager.pause(agent.context, made)


def test_a_container_that_is_to_go_takes_no_other_request(agent):
    made = running(agent)
    agent.manager.delete(agent.context, made, stop=True)
    # What the reconciler sees on the way is not what counts.
    agent.store.observe(made.uuid, status=Status.STOPPED)
    for name in ('start', 'delete', 'update'):
        with pytest.raises(errors.InvalidStateException, match='in Deleting state'):
            ACTS[name](agent.manager, agent.context, made)
    agent.manager.delete(agent.context, made, force=True)


def test_an_update_stays_within_the_sandbox(agent):
    made = running(agent)
    changed = agent.manager.update(
        agent.context, made, {'name': 'x', 'cpu': 0.5, 'memory': 100, 'auto_heal': True}
    )
    assert (changed.name, changed.cpu, changed.memory, changed.auto_heal) == ('x', 0.5, 100, True)
    with pytest.raises(errors.LimitExceedsSandbox):
        agent.manager.update(agent.context, made, {'memory': 513})
    assert agent.store.container(made.uuid).memory == 100


@pytest.fixture
def served(agent):
    """A container on a host whose agent is up, and what that agent does of the next request."""
    agent.store.report('one', 'http://one:9517', {}, None)
    made = running(agent)
    made = agent.store.observe(made.uuid, host='one')
    done = []

    def woken(container, since):
        if container.generation > 1 and done:
            threading.Timer(0.05, agent.store.observe, [made.uuid], done.pop()).start()

    agent.manager._wake = woken
    return types.SimpleNamespace(container=made, done=done)


def test_an_update_is_answered_when_docker_has_taken_it(agent, served):
    served.done.append({'done_generation': 2, 'updated_at': models.now()})
    changed = agent.manager.update(agent.context, served.container, {'memory': 100})
    assert (changed.memory, changed.observed_generation) == (100, 2)


def test_an_update_that_docker_refuses_is_refused(agent, served):
    served.done.append(
        {'done_generation': 2, 'only': 'update', 'message': 'resource busy', 'memory': None}
    )
    with pytest.raises(errors.LimitsRefused, match='keeps its limits: resource busy'):
        agent.manager.update(agent.context, served.container, {'memory': 100})
    assert agent.store.container(served.container.uuid).memory is None


def test_an_update_that_takes_long_is_accepted(agent, served, monkeypatch):
    monkeypatch.setattr(manager, 'UPDATE_WAIT', 0.1)
    changed = agent.manager.update(agent.context, served.container, {'cpu': 0.5})
    assert (changed.cpu, changed.generation, changed.observed_generation) == (0.5, 2, 1)


def test_an_update_waits_for_nobody_who_is_not_there(agent, served, monkeypatch):
    monkeypatch.setattr(agent.store, 'action_of', None)  # whoever waits looks at it
    changed = agent.manager.update(agent.context, served.container, {'name': 'x'})
    assert changed.generation == 2
    monkeypatch.setattr(agent.manager, 'service_is_up', lambda service: False)
    changed = agent.manager.update(agent.context, served.container, {'memory': 100})
    assert (changed.memory, changed.generation) == (100, 3)


def test_a_sandbox_does_not_go_under_others(agent):
    made = running(agent)
    joined = create(agent, name='second', hints={'sandbox': made.sandbox_id})
    with pytest.raises(errors.SandboxConflict, match=f'second .{joined.uuid}'):
        agent.manager.delete(agent.context, made, stop=True)
    assert agent.store.container(made.uuid).desired == 'running'


def test_one_of_two_stops_at_once_is_too_late(agent):
    made = running(agent)
    barrier = threading.Barrier(2)

    def delete():
        barrier.wait(10)
        agent.manager.delete(agent.context, made, stop=True)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(delete) for _ in range(2)]
        outcomes = [type(future.exception(20)) for future in futures]
    assert set(outcomes) == {type(None), errors.InvalidStateException}


def test_a_request_for_what_is_gone_meanwhile(agent):
    made = running(agent)
    agent.store.remove_container(made.uuid)
    with pytest.raises(errors.ContainerNotFound, match=str(uuid.UUID(made.uuid))):
        agent.manager.stop(agent.context, made)
