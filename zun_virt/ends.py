"""How a sandbox came to its end, and what follows from that.  All of it is pure."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable

from zun_virt.containers import Container, moment

_DIED_TOGETHER = datetime.timedelta(seconds=1)
"""How long before the pause container's end Docker may date that of those it killed."""

_TOLD = (0, 143)
"""With which processes end that are told to."""


class Verdict(enum.Enum):
    """What the end of a pause container that nova did not ask for means."""

    SHUTDOWN = enum.auto()
    """Somebody shut it down from within, or by Docker's own commands: it stays so."""
    KILLED = enum.auto()
    """It was killed, lost, or went with the engine: it runs again."""
    REBOOT = enum.auto()
    """The host was started anew: nova did when it started what its option says."""


def judge(
    container: Container | None, *, same_boot: bool, witnessed: Callable[[], bool]
) -> Verdict:
    """Return what the end of a sandbox means.

    An engine that is shut down without live-restore ends a pause process as gently as a
    tenant does.  What tells the two apart is that the next engine has not seen it.

    :param container: the pause container that has ended, None if it is lost
    :param same_boot: whether the host has been up since it was started
    :param witnessed: tells whether the engine that answers now saw it end
    """
    if not same_boot:
        return Verdict.REBOOT
    if container is None or container.exit_code or not witnessed():
        return Verdict.KILLED
    return Verdict.SHUTDOWN


def died_with(user: Container, sandbox_process: Container) -> bool:
    """Return whether a user's container was ended by the end of its pause container, or as that.

    One that had done its work does not run again. An engine or a host that shuts down tells
    all processes to end; who does as told ends well, and so does the pause process.
    """
    if not user.finished_at or not sandbox_process.finished_at:
        return False
    if not user.exit_code and sandbox_process.exit_code not in _TOLD:
        return False
    try:
        return moment(user.finished_at) >= moment(sandbox_process.finished_at) - _DIED_TOGETHER
    except (ValueError, OverflowError):  # the latter for one that never ran
        return False
