"""How a container came to its end, and whether it is to run again."""

from __future__ import annotations

import datetime

from zun_agent.facts import Facts, parse_time
from zun_agent.models import Container, Status
from zun_agent.view import View
from zun_virt import sandbox as contract
from zun_virt.sandbox import State

BACKOFF_FIRST = 0.1
BACKOFF_LAST = 60.0
LASTING = 10.0
"""Seconds of running after which a restart counts as a success, as Docker has it."""

TOGETHER = datetime.timedelta(seconds=2)
"""Containers that end this long before their sandbox does were killed by its end."""

CLOCK_SLACK = datetime.timedelta(seconds=0.5)
"""Docker may put the end of a short run a little before its beginning."""

KILLED = 137

TOLD = (0, 143)
"""With which processes end that are told to: all of them, when Docker or the host shuts down."""

JUDGEMENT = 0.4
"""Seconds after a kill in which it cannot be told yet whether the sandbox died, too."""


def runs_again(uuid: str, docker: Facts, view: View) -> bool:
    """Tell whether a container ended because its sandbox did, and not by itself.

    The driver names those that it stops. Others died with their sandbox, or with the
    whole host, when nobody could look. A Docker that shuts down tells them all to end, and
    who does as told looks like one that had done its work.
    """
    record = view.record
    if docker.alive or docker.started_at is None or record is None:
        return False
    latest = _in_present_run(docker, record)
    if view.gone and record.state not in (State.STOPPING, State.STOPPED):
        return (uuid in record.running and not latest) or docker.exit_code in (KILLED, 255)
    if latest:
        # It ran in the present run of the sandbox. Did that end unnoticed?
        if view.pause is None or view.pause.alive:
            return False
    elif uuid in record.running:
        return True
    elif record.state in (State.STOPPING, State.STOPPED):
        return False
    if docker.finished_at is None or docker.finished_at < docker.started_at - CLOCK_SLACK:
        return True  # its end was not seen; the time is that of an earlier one
    return view.pause is not None and _ended_with(docker, view.pause)


def was_told_with_sandbox(uuid: str, docker: Facts, view: View) -> bool:
    """Tell whether an end that was taken for the container's own was its sandbox's, too.

    Docker told all to end when it shut down, and those that did at once were seen first.
    """
    record = view.record
    if docker.exit_code not in TOLD or docker.started_at is None or record is None:
        return False
    if not _in_present_run(docker, record):
        return uuid in record.running
    return view.pause is not None and _ended_with(docker, view.pause)


def _in_present_run(docker: Facts, record: contract.Sandbox) -> bool:
    """Tell whether a container ran in the run of the sandbox of which its record speaks."""
    if record.pause is None or record.state not in (State.READY, State.PAUSED):
        return False
    began = parse_time(record.pause.started_at)
    return began is not None and docker.started_at is not None and docker.started_at >= began


def _ended_with(docker: Facts, pause: Facts) -> bool:
    """Tell whether a container ended because its sandbox's pause container did, or as that did.

    How that ended is known until it runs again; by then the driver has named the others.
    """
    if pause.finished_at is None or docker.started_at is None or docker.finished_at is None:
        return False
    told = not pause.alive and pause.exit_code in TOLD
    return (
        (told or docker.exit_code in (KILLED, 255))
        and docker.started_at <= pause.finished_at
        and docker.finished_at >= pause.finished_at - TOGETHER
    )


def is_final(signal: str, docker: Facts) -> bool:
    """Tell whether who sends this signal wants the container to end, and to stay so.

    :param signal: its name without the ``SIG``
    """
    return signal in ('KILL', docker.stop_signal.removeprefix('SIG'))


def seconds(docker: Facts) -> float:
    """Return how long the latest run took that ended; 0 where that is not known."""
    if docker.started_at is None or docker.finished_at is None:
        return 0.0
    return (docker.finished_at - docker.started_at).total_seconds()


def backoff(quick_ends: int) -> float:
    """Return the seconds to wait before a restart, as Docker does."""
    return min(BACKOFF_FIRST * 2.0 ** min(quick_ends, 20), BACKOFF_LAST)


def policy_restarts(container: Container, docker: Facts) -> bool:
    """Tell whether the restart policy wants a container that ended to run again."""
    policy = container.restart_policy or {}
    name = policy.get('Name')
    if name in ('always', 'unless-stopped'):
        return True
    if name == 'on-failure' and docker.exit_code != 0:
        most = int(policy.get('MaximumRetryCount') or 0)
        return most == 0 or container.restart_count < most
    return False


def unjudged(container: Container, docker: Facts) -> bool:
    """Tell whether it is not yet recorded how the container's latest run ended."""
    return container.status != Status.STOPPED or container.finished_at != docker.finished_at


def just_killed(docker: Facts, now: datetime.datetime) -> bool:
    """Tell whether it died a moment ago, in a way in which it could have with its sandbox.

    Docker tells the end of a sandbox and of those in it in any order.
    """
    if docker.exit_code != KILLED or docker.finished_at is None:
        return False
    return abs((now - docker.finished_at).total_seconds()) < JUDGEMENT
