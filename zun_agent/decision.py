"""What is to be done next for a container: a pure function of what is wanted and what is.

One step is decided at a time, from facts that are read anew each time, so that a step
can be repeated, and the agent can end between any two of them::

    nothing in Docker ──CREATE──► created ──START──► running ──► exited
                └──────────RUN (both) ───────────────▲ │ PAUSE        │ START, again:
                                                       ▼ UNPAUSE      │ a request, a restart
                                                     paused           │ policy, or its sandbox
                                                                      ▼ came back
       wanted deleted:  STOP, REMOVE, RELEASE (the sandbox), and the record ends

What a start request asked for is done once Docker has started the container. That it
ends later is a result, and no reason to start it again.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import typing

from zun_agent import creation, restarts
from zun_agent.facts import Facts
from zun_agent.models import Container, Desired, Status
from zun_agent.view import View
from zun_virt import sandbox as contract

LOST = (
    'The sandbox was made anew, and this container with it: what it had written '
    'outside of volumes is lost.'
)
RESTORED = 'The sandbox was made anew from a snapshot, and this container with it.'
ANEW = frozenset({LOST, RESTORED})
"""What a container that was made anew goes on telling when it runs."""

SANDBOX_STOPPED = 'Its sandbox is not running; it runs again when the sandbox does.'
SHELVED = 'Its server is shelved; it runs again when that is unshelved.'
OUT_OF_MEMORY = 'It ran out of memory, and was killed.'

LIVELY = frozenset({Status.RUNNING, Status.PAUSED, Status.RESTARTING})
"""Of a container that had a process when it was last looked at, or is to have one soon."""

_STARTING = frozenset(
    {'container_creating', 'container_starting', 'container_rebooting', 'container_unpausing'}
)
"""Task states of the requests that ask for a container to run."""

_WORDS = {
    'created': Status.CREATED,
    'running': Status.RUNNING,
    'paused': Status.PAUSED,
    'restarting': Status.RESTARTING,
    'exited': Status.STOPPED,
    'dead': Status.DEAD,
    # The driver takes it away with its sandbox, which may come back; one that a user
    # deletes is shown as Deleting, whatever Docker says.
    'removing': Status.STOPPED,
}


class Act(enum.StrEnum):
    """The steps."""

    NOTHING = 'nothing'
    ASK_NOVA = 'ask Nova'
    PREPARE = 'prepare'
    CREATE = 'create'
    RUN = 'run'
    START = 'start'
    STOP = 'stop'
    KILL = 'kill'
    PAUSE = 'pause'
    UNPAUSE = 'unpause'
    UPDATE = 'update'
    DISCARD = 'discard'
    REMOVE = 'remove'
    RELEASE = 'release'
    AUTO_REMOVE = 'auto-remove'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """What is to be done, and what is to be recorded.

    :ivar facts: columns of the container as they are now
    :ivar done: with these facts, what was asked for is carried out
    :ivar upto: the generation up to which it is, where that is not the last one
    :ivar failed: it is, and did not succeed
    :ivar delay: seconds after which to look again, whatever happens; None waits for news
    :ivar timeout: seconds between the stop signal and the kill, for `Act.STOP`
    :ivar again: a start that nobody asked for, but the restart policy
    """

    act: Act = Act.NOTHING
    facts: dict[str, typing.Any] = dataclasses.field(default_factory=dict)
    done: bool = False
    upto: int | None = None
    failed: bool = False
    delay: float | None = None
    timeout: int = 0
    again: bool = False


def plan(
    container: Container,
    docker: Facts | None,
    view: View,
    *,
    now: datetime.datetime,
    quick_ends: int = 0,
) -> Step:
    """Return the next step.

    :param docker: the container in Docker, None where it is not there
    :param now: in UTC without a zone
    :param quick_ends: restarts in a row after which it did not run for `restarts.LASTING`
    """
    if view.problem is not None:
        return Step(facts={'status': Status.UNKNOWN, 'status_reason': view.problem})
    if view.record is None:
        return Step(act=Act.ASK_NOVA)
    if not view.claimed:
        return Step(act=Act.PREPARE) if docker is None and wants_making(container) else Step()
    if container.desired == Desired.DELETED:
        return _delete(container, docker)
    if docker is not None and _outdated(docker, view.record):
        return _outlived(container, docker, view)
    if docker is None:
        return _absent(container, view)
    if pending(container) and _limits_differ(container, docker):
        return Step(act=Act.UPDATE)
    act = first_act(container)
    if act is not None and act['op'] == 'kill':
        return Step(act=Act.KILL)
    if act is not None:
        return _restart(container, docker, view, act)
    if container.desired == Desired.STOPPED:
        return _stop(container, docker)
    if docker.alive:
        return _living(container, docker, view)
    return _ended(container, docker, view, now=now, quick_ends=quick_ends)


def pending(container: Container) -> bool:
    """Tell whether a request is not carried out yet."""
    return container.generation > container.observed_generation


def first_act(container: Container) -> dict[str, typing.Any] | None:
    """Return what is to be done before anything else; see `Container.acts`."""
    return container.acts[0] if pending(container) and container.acts else None


def wants_run(container: Container) -> bool:
    """Tell whether the user wants a process to be there."""
    return container.desired in (Desired.RUNNING, Desired.PAUSED)


def start_asked(container: Container) -> bool:
    """Tell whether a request is pending that asks for the container to run."""
    asked = container.desired == Desired.RUNNING and container.task_state in _STARTING
    return pending(container) and (asked or any(act['op'] == 'restart' for act in container.acts))


def wants_making(container: Container) -> bool:
    """Tell whether a container that Docker has not got should be made.

    One that ended, or could not be made, is made again only when it is to start.
    """
    if container.desired == Desired.DELETED:
        return False
    if container.status in (Status.STOPPED, Status.ERROR, Status.DEAD):
        return start_asked(container) or (
            container.interrupted and container.desired != Desired.STOPPED
        )
    return container.desired in (Desired.CREATED, Desired.RUNNING, Desired.PAUSED)


def _outdated(docker: Facts, record: contract.Sandbox) -> bool:
    return docker.labels.get(contract.LABEL_INCARNATION) != record.incarnation


def _delete(container: Container, docker: Facts | None) -> Step:
    if docker is None:
        return Step(act=Act.RELEASE)
    if docker.alive and container.stop_timeout:
        return Step(act=Act.STOP, timeout=container.stop_timeout)
    return Step(act=Act.REMOVE)


def _outlived(container: Container, docker: Facts, view: View) -> Step:
    """Decide on a container whose sandbox was made anew: it can never start again."""
    was_running = container.status in LIVELY
    assert view.record is not None  # noqa: S101
    again = wants_run(container) and (
        was_running or container.interrupted or container.uuid in view.record.running
    )
    if again or start_asked(container) or container.status in (Status.CREATED, Status.CREATING):
        return Step(act=Act.DISCARD, facts={'interrupted': again, 'status_reason': LOST})
    # Its log can still be read until it is to run again.
    return _observe(container, docker, done=True)


def _absent(container: Container, view: View) -> Step:
    """Decide on a container that Docker has not got."""
    record = view.record
    assert record is not None  # noqa: S101
    if record.state == contract.State.DELETING:
        # It goes with its sandbox, from this host or for ever: Nova tells, when that has gone.
        gone = container.status in LIVELY
        return Step(
            facts={'status': Status.STOPPED, 'interrupted': wants_run(container)} if gone else {}
        )
    moved = container.incarnation not in (None, record.incarnation)
    again = moved and wants_run(container) and container.uuid in record.running
    if (moved and _ended_unseen(container, record)) or not (again or wants_making(container)):
        gone = container.status in LIVELY
        facts: dict[str, typing.Any] = {}
        if gone or container.status == Status.CREATING:
            facts = {'status': Status.STOPPED}
        failed = container.desired == Desired.PAUSED
        return Step(facts=facts, done=pending(container), failed=failed)
    facts = {}
    restored = container.uuid in record.images
    if container.docker_id is not None and container.status_reason not in ANEW:
        facts = {'status_reason': RESTORED if restored else LOST}
        if wants_run(container):
            facts['interrupted'] = True
    if not view.creatable:
        if container.docker_id is None and not restored:
            return Step(act=Act.PREPARE, facts=facts)
        if container.status in LIVELY:
            facts['status'] = Status.STOPPED
        return Step(facts=facts)
    act = Act.RUN if wants_run(container) and view.ready else Act.CREATE
    return Step(act=act, facts=facts)


def _ended_unseen(container: Container, record: contract.Sandbox) -> bool:
    """Tell whether it had ended when its sandbox was stopped, and nobody recorded that.

    :param record: of the sandbox that was made anew; it names what ran, if anything did
    """
    return (
        bool(record.running)
        and container.uuid not in record.running
        and container.status == Status.RUNNING
        and not start_asked(container)
    )


def _restart(container: Container, docker: Facts, view: View, act: dict[str, typing.Any]) -> Step:
    """Decide on a restart, which is done when Docker shows a start that was not recorded."""
    if docker.started_at is not None and docker.started_at != container.started_at:
        if container.started_at is not None:
            step = _observe(container, docker, done=True)
            return dataclasses.replace(step, upto=act['generation'], delay=0)
        return Step(facts={'started_at': docker.started_at}, delay=0)
    if docker.alive:
        return Step(act=Act.STOP, timeout=int(act.get('timeout') or 0))
    return _start(container, docker, view)


def _stop(container: Container, docker: Facts) -> Step:
    if docker.alive:
        return Step(act=Act.STOP, timeout=container.stop_timeout or 0)
    return _result(container, docker)


def _living(container: Container, docker: Facts, view: View) -> Step:
    """Decide on a container that runs or is frozen, and is not to be stopped."""
    if container.desired == Desired.PAUSED and docker.state == 'running':
        return Step(act=Act.PAUSE) if view.ready else _observe(container, docker)
    if container.desired != Desired.PAUSED and docker.state == 'paused' and pending(container):
        # Only a request unfreezes: else it was the driver, with the whole sandbox.
        return Step(act=Act.UNPAUSE) if view.ready else _observe(container, docker)
    return _observe(container, docker, done=True)


def _ended(
    container: Container,
    docker: Facts,
    view: View,
    *,
    now: datetime.datetime,
    quick_ends: int,
) -> Step:
    """Decide on a container that does not run, and is not wanted to be stopped."""
    started = docker.started_at is not None
    killed = started and docker.started_at == container.killed_run
    if not wants_run(container):
        return _observe(container, docker, done=True)
    carried_out = started and docker.started_at != container.started_at
    if start_asked(container) and not carried_out:
        return _start(container, docker, view)
    if container.status == Status.ERROR and not pending(container):
        return _observe(container, docker)
    if restarts.unjudged(container, docker) and not killed and restarts.just_killed(docker, now):
        return Step(delay=restarts.JUDGEMENT)
    if container.interrupted or (
        restarts.runs_again(container.uuid, docker, view)
        if restarts.unjudged(container, docker)
        else restarts.was_told_with_sandbox(container.uuid, docker, view)
    ):
        if view.ready:
            return Step(act=Act.START)
        return _observe(container, docker, interrupted=True, done=True)
    if not started:  # made, and the agent ended before it could start it
        return _start(container, docker, view)
    if restarts.policy_restarts(container, docker) and not killed:
        if not view.ready:
            return _observe(container, docker, interrupted=True, done=True)
        ended = docker.finished_at or now
        wait = restarts.backoff(quick_ends) - (now - ended).total_seconds()
        if wait <= 0:
            return Step(act=Act.START, again=True)
        step = _observe(container, docker, done=True)
        return dataclasses.replace(
            step, facts=step.facts | {'status': Status.RESTARTING}, delay=wait
        )
    return _result(container, docker, oom=docker.oom_killed and not killed)


def _result(container: Container, docker: Facts, *, oom: bool = False) -> Step:
    """Decide on a container that ended, and is to stay so."""
    if container.auto_remove and not pending(container) and container.status == Status.STOPPED:
        return Step(act=Act.AUTO_REMOVE)
    facts = observed(container, docker, oom=oom and docker.exit_code == restarts.KILLED)
    return Step(
        facts=facts,
        done=pending(container),
        failed=container.desired == Desired.PAUSED,
        delay=0 if container.auto_remove else None,
    )


def _start(container: Container, docker: Facts, view: View) -> Step:
    if view.ready:
        return Step(act=Act.START)
    return _observe(container, docker, interrupted=container.interrupted)


def _observe(
    container: Container, docker: Facts, *, done: bool = False, interrupted: bool = False
) -> Step:
    """Return the step that does nothing but record what Docker shows."""
    return Step(
        facts=observed(container, docker, interrupted=interrupted),
        done=done and pending(container),
    )


def observed(
    container: Container, docker: Facts, *, interrupted: bool = False, oom: bool = False
) -> dict[str, typing.Any]:
    """Return the columns of a container that follow from what Docker shows."""
    facts: dict[str, typing.Any] = {
        'docker_id': docker.id,
        'status': _WORDS.get(docker.state, Status.UNKNOWN),
        'interrupted': interrupted,
        'incarnation': docker.labels.get(contract.LABEL_INCARNATION),
    }
    if docker.started_at is not None:
        facts['started_at'] = docker.started_at
    if docker.alive:
        facts |= {'exit_code': None, 'finished_at': None}
        if container.status_reason not in ANEW:
            facts['status_reason'] = None
    elif docker.state in ('exited', 'dead', 'removing'):
        facts |= {'exit_code': docker.exit_code, 'finished_at': docker.finished_at}
        reason = SANDBOX_STOPPED if interrupted else OUT_OF_MEMORY if oom else None
        kept = docker.started_at == container.started_at and container.status == Status.STOPPED
        if reason is not None or not kept:
            facts['status_reason'] = reason
    elif container.status == Status.ERROR:
        facts['status'] = Status.ERROR  # Docker shows one whose start failed as created
    elif container.status_reason not in ANEW:
        facts['status_reason'] = None
    return facts


def _limits_differ(container: Container, docker: Facts) -> bool:
    wanted = creation.resources(container)
    del wanted['MemorySwap']  # it follows; Docker shows another where the kernel counts no swap
    return any(value and docker.resources.get(name) != value for name, value in wanted.items())
