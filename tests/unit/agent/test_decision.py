"""One decision at a time, for what is hard to bring about."""

import datetime

import pytest

from zun_agent import decision, restarts
from zun_agent.decision import Act, View
from zun_agent.facts import Facts, parse_time
from zun_agent.models import Container
from zun_virt import sandbox as contract
from zun_virt.sandbox import State

NOON = datetime.datetime(2026, 1, 1, 12)


def at(seconds):
    return NOON + datetime.timedelta(seconds=seconds)


def container(**fields):
    known = {
        'uuid': '11111111-1111-1111-1111-111111111111', 'image': 'alpine', 'command': ['true'],
        'entrypoint': None, 'environment': {}, 'labels': {}, 'restart_policy': {}, 'tty': False,
        'interactive': False, 'auto_remove': False, 'owns_sandbox': False, 'cpu': None,
        'memory': None, 'workdir': None, 'desired': 'running', 'status': 'Running',
        'generation': 1, 'observed_generation': 1, 'interrupted': False, 'started_at': at(0),
        'docker_id': 'id', 'restart_count': 0,
    }  # fmt: skip
    return Container(**(known | fields))


def record(**fields):
    known = {
        'instance_id': '22222222-2222-2222-2222-222222222222', 'project_id': 'p', 'user_id': 'u',
        'name': 'n', 'hostname': 'h', 'host': 'here', 'state': State.READY, 'incarnation': 'inc',
        'cgroup_parent': '/zun/abc', 'limits': contract.Limits(cpus=1, memory_mb=9, pids=9),
        'pause': contract.PauseContainer(
            id='pause-id', started_at='2026-01-01T11:00:00Z', boot_id='boot'
        ),
    }  # fmt: skip
    return contract.Sandbox(**(known | fields))


def docker(state='running', **fields):
    known = {
        'id': 'id', 'state': state, 'started': 'x', 'started_at': at(0),
        'labels': {contract.LABEL_INCARNATION: 'inc'},
    }  # fmt: skip
    return Facts(**(known | fields))


def plan(container, docker, view=None, *, later=1000.0, **kwargs):
    return decision.plan(container, docker, view or View(record=record()), now=at(later), **kwargs)


RESTART = {'op': 'restart', 'timeout': 1, 'generation': 2}
ASKED = {'generation': 2, 'task_state': 'container_starting'}


@pytest.mark.parametrize(
    ('wanted', 'found', 'act'),
    [
        ({'status': 'Creating', 'docker_id': None, 'started_at': None}, None, Act.RUN),
        (
            {'status': 'Creating', 'docker_id': None, 'started_at': None, 'desired': 'created'},
            None,
            Act.CREATE,
        ),
        ({'status': 'Stopped'}, None, Act.NOTHING),
        ({'status': 'Error'}, None, Act.NOTHING),
        ({'status': 'Stopped', **ASKED}, None, Act.RUN),
        ({}, docker(), Act.NOTHING),
        ({'desired': 'stopped'}, docker(), Act.STOP),
        ({'desired': 'stopped'}, docker('exited'), Act.NOTHING),
        ({'desired': 'paused'}, docker(), Act.PAUSE),
        ({'desired': 'paused'}, docker('paused'), Act.NOTHING),
        ({}, docker('paused'), Act.NOTHING),
        ({**ASKED, 'task_state': 'container_unpausing'}, docker('paused'), Act.UNPAUSE),
        ({**ASKED, 'status': 'Stopped'}, docker('exited'), Act.START),
        # Docker started it, and the agent died before it could say so.
        ({**ASKED, 'status': 'Stopped'}, docker('exited', started_at=at(9)), Act.NOTHING),
        ({'desired': 'deleted', 'stop_timeout': 0}, docker(), Act.REMOVE),
        ({'desired': 'deleted', 'stop_timeout': 9}, docker(), Act.STOP),
        ({'desired': 'deleted', 'stop_timeout': 9}, docker('exited'), Act.REMOVE),
        ({'desired': 'deleted'}, None, Act.RELEASE),
        ({'generation': 2, 'operation': {'op': 'kill', 'signal': 'HUP'}}, docker(), Act.KILL),
        ({'generation': 2, 'operation': {'op': 'kill'}}, docker('exited'), Act.KILL),
        ({'generation': 2, 'operation': {'op': 'restart', 'timeout': 1}}, docker(), Act.STOP),
        (
            {'generation': 2, 'operation': {'op': 'restart', 'timeout': 1}},
            docker('exited'),
            Act.START,
        ),
        ({'generation': 2, 'cpu': 0.5}, docker(), Act.UPDATE),
        ({'generation': 3, 'cpu': 0.5, 'operation': [RESTART]}, docker(), Act.UPDATE),
        # Where the kernel does not count swap, Docker shows that it is not limited.
        (
            {'generation': 2, 'memory': 64},
            docker(resources={'Memory': 64 << 20, 'MemorySwap': -1}),
            Act.NOTHING,
        ),
        ({'generation': 3, 'desired': 'paused', 'operation': [RESTART]}, docker(), Act.STOP),
        (
            {
                'generation': 3,
                'status': 'Stopped',
                'task_state': 'container_killing',
                'operation': [RESTART],
            },
            None,
            Act.RUN,
        ),
        ({'generation': 2, 'desired': 'paused', 'operation': []}, docker(), Act.PAUSE),
    ],
)
def test_the_next_step(wanted, found, act):
    assert plan(container(**wanted), found).act == act


def test_one_that_goes_with_its_sandbox_is_stopped_not_deleted():
    leaving = View(record=record(state=State.DELETING, pause=None))
    known = container(status='Stopped', status_reason=decision.SANDBOX_STOPPED, interrupted=True)
    step = plan(known, docker('removing', exit_code=143, finished_at=at(5)), leaving)
    assert step.act is Act.NOTHING
    assert step.facts['status'] == 'Stopped'
    assert plan(known, None, leaving) == decision.Step()
    cut_off = plan(container(), None, leaving)
    assert cut_off.facts == {'status': 'Stopped', 'interrupted': True}


def test_what_is_elsewhere_is_asked_for_at_nova():
    assert plan(container(), docker(), View(record=None)).act is Act.ASK_NOVA


def test_a_sandbox_that_is_not_ours_is_let_be():
    view = View(record=record(), claimed=False)
    assert plan(container(desired='deleted'), docker(), view).act is Act.NOTHING
    new = container(status='Creating', docker_id=None)
    assert plan(new, None, view).act is Act.PREPARE


@pytest.mark.parametrize(
    ('state', 'running', 'code', 'finished', 'pause', 'expected'),
    [
        # In the present run of the sandbox: by itself, unless the sandbox died, too.
        (State.READY, (), 137, 50, docker(started_at=at(-3600)), False),
        (State.READY, (), 137, 50, docker('exited', started_at=at(-9), finished_at=at(50)), True),
        (
            State.READY,
            (),
            0,
            50,
            docker('exited', started_at=at(-9), finished_at=at(50), exit_code=137),
            False,
        ),
        # Docker shut down, and told everybody to end.
        (State.READY, (), 0, 50, docker('exited', started_at=at(-9), finished_at=at(51)), True),
        (
            State.READY,
            (),
            143,
            50,
            docker('exited', started_at=at(-9), finished_at=at(50), exit_code=143),
            True,
        ),
        (State.READY, (), 0, 40, docker('exited', started_at=at(-9), finished_at=at(50)), False),
        (State.READY, (), 0, 50, docker(started_at=at(-9)), False),
        (State.READY, (), 137, 40, docker('exited', started_at=at(-9), finished_at=at(50)), False),
        # The driver tells whom it stopped.
        (State.STOPPING, ('x',), 143, 50, None, True),
        (State.STOPPED, (), 137, 50, docker('exited', finished_at=at(50)), False),
        # The whole host went down: the end was not seen.
        (State.BUILDING, (), 255, None, docker('exited'), True),
        (State.BUILDING, (), 255, -500, docker('exited', finished_at=at(-500)), True),
    ],
)
def test_who_runs_again(state, running, code, finished, pause, expected):
    found = docker('exited', exit_code=code, finished_at=None if finished is None else at(finished))
    view = View(record=record(state=state, running=running), pause=pause)
    assert restarts.runs_again('x', found, view) is expected


def test_a_run_before_the_present_one_of_the_sandbox():
    pause = contract.PauseContainer(
        id='pause-id', started_at='2026-01-01T13:00:00Z', boot_id='boot'
    )
    found = docker('exited', exit_code=137, finished_at=at(100))
    alive = docker(started_at=at(3600), finished_at=at(100))
    view = View(record=record(pause=pause), pause=alive)
    assert restarts.runs_again('x', found, view)
    early = docker('exited', exit_code=137, finished_at=at(10))
    assert not restarts.runs_again('x', early, view)


@pytest.mark.parametrize(
    ('gone', 'began', 'expected'), [(True, -9, False), (True, 100, True), (False, 100, True)]
)
def test_whom_the_driver_named_for_an_earlier_run_of_the_sandbox(gone, began, expected):
    """One that ran again since, and ended, is not named any more."""
    started = f'{at(began).isoformat()}Z'
    pause = contract.PauseContainer(id='pause-id', started_at=started, boot_id='boot')
    view = View(record=record(pause=pause, running=('x',)), gone=gone)
    assert restarts.runs_again('x', docker('exited', finished_at=at(50)), view) is expected


def test_a_kill_just_now_is_not_judged_yet():
    found = docker('exited', exit_code=137, finished_at=at(10))
    step = plan(container(), found, later=10.1)
    assert (step.act, step.facts, step.delay) == (Act.NOTHING, {}, restarts.JUDGEMENT)
    killed = container(killed_run=at(0))
    assert plan(killed, found, later=10.1).facts['status'] == 'Stopped'
    assert plan(container(), found, later=11).facts['status'] == 'Stopped'


def test_neither_is_one_that_docker_takes_for_out_of_memory():
    found = docker('exited', exit_code=137, finished_at=at(10), oom_killed=True)
    assert plan(container(), found, later=10.1).facts == {}
    reason = plan(container(), found, later=11).facts['status_reason']
    assert reason == decision.OUT_OF_MEMORY


def test_a_short_run_may_seem_to_end_before_it_began():
    found = docker('exited', finished_at=at(-0.001))
    view = View(record=record(), pause=docker('exited', finished_at=at(500)))
    assert not restarts.runs_again('x', found, view)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('0001-01-01T00:00:00Z', None),
        ('2026-01-01T12:00:00Z', NOON),
        ('2026-01-01T13:00:00.5+01:00', at(0.5)),
        ('2026-01-01T12:00:00.123456789Z', at(0.123456)),
        ('', None),
    ],
)
def test_dockers_times(text, expected):
    assert parse_time(text) == expected
