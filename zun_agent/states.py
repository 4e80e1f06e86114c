"""Which action a container's status allows: Zun's table, which its clients know too."""

from __future__ import annotations

from zun_agent import errors
from zun_agent.models import Container, Desired, Status

_RUNNING = frozenset({Status.RUNNING})
_GOING_ON = frozenset({Status.RUNNING, Status.RESTARTING})
_STEADY = frozenset({Status.CREATED, Status.RUNNING, Status.STOPPED, Status.PAUSED})
_ENDED = frozenset({Status.CREATED, Status.ERROR, Status.STOPPED, Status.DELETED, Status.DEAD})

ALLOWED: dict[str, frozenset[Status]] = {
    'delete': _ENDED,
    'delete_stop': _ENDED | _GOING_ON,
    # Everything but Paused, which Zun leaves out.
    'delete_force': frozenset(Status) - {Status.PAUSED},
    'start': frozenset({Status.CREATED, Status.STOPPED, Status.ERROR}),
    # One that ends again and again could not be stopped otherwise.
    'stop': _GOING_ON,
    'pause': _RUNNING,
    'kill': _GOING_ON,
    'execute': _RUNNING,
    'top': _RUNNING,
    'stats': _RUNNING,
    'unpause': frozenset({Status.PAUSED}),
    'reboot': frozenset({Status.CREATED, Status.RUNNING, Status.STOPPED, Status.ERROR}),
    'update': _STEADY,
    'logs': _STEADY | {Status.ERROR, Status.UNKNOWN},
}
"""The statuses in which each action is allowed."""


def check(container: Container, action: str) -> None:
    """Refuse an action that the container's status does not allow.

    :param action: a key of `ALLOWED`
    :raises errors.InvalidStateException: in Zun's words
    """
    status = Status(container.status)
    if container.desired == Desired.DELETED and action not in ('delete_force', 'logs'):
        status = Status.DELETING  # whatever the reconciler saw on the way
    if container.desired == Desired.STOPPED and action == 'pause':
        status = Status.STOPPED  # it is as good as that, and will not be frozen instead
    if status not in ALLOWED[action]:
        raise errors.InvalidStateException(
            f'Cannot {action} container {container.uuid} in {status} state'
        )
