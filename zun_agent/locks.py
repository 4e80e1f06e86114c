"""The sandboxes' locks, as the agent's threads share them, and the host's own."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import threading
import time
from collections.abc import Iterator

from zun_virt import sandbox as contract

LONGEST = 2.0
"""Seconds after which a thread no longer joins another's hold: the driver waits, too."""


def alone(state_path: str | os.PathLike[str], patience: float) -> bool:
    """Take this host's containers for this process, as long as it lives.

    Two agents would each make and start what is asked of either, and one with another
    database would take the sandboxes for its own. Besides, who has this lock knows that
    no request is in the hands of an earlier agent any more.

    :param patience: seconds that an agent which is about to end is given
    :returns: False where another has them
    """
    path = pathlib.Path(state_path) / 'zun-agent.lock'
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o660)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return False
            time.sleep(0.05)
        else:
            return True  # the descriptor stays open, and the lock with it


@dataclasses.dataclass
class _Hold:
    since: float
    stack: contextlib.ExitStack
    threads: int = 0
    taken: bool = False


class SandboxLocks:
    """Keeps the driver out while any thread of the agent works in a sandbox.

    The threads do not keep each other out: they work on different containers, which
    Docker makes and starts side by side.
    """

    def __init__(self, sandboxes: contract.SandboxStore, timeout: float) -> None:
        """Wait `timeout` seconds for a lock that the driver has."""
        self._sandboxes = sandboxes
        self._timeout = timeout
        self._condition = threading.Condition()
        self._holds: dict[str, _Hold] = {}

    @contextlib.contextmanager
    def hold(self, sandbox_id: str) -> Iterator[None]:
        """Keep the driver's hands off the sandbox.

        :raises zun_virt.sandbox.SandboxBusy: it does not let go of it
        """
        hold = self._join(sandbox_id)
        try:
            yield
        finally:
            with self._condition:
                hold.threads -= 1
                if not hold.threads:
                    del self._holds[sandbox_id]
                    self._condition.notify_all()
                    with hold.stack:
                        # Who waits for the driver's removal of a sandbox makes its file again.
                        if not self._sandboxes.directory(sandbox_id).is_dir():
                            self._sandboxes.discard_lock(sandbox_id)

    def _join(self, sandbox_id: str) -> _Hold:
        deadline = time.monotonic() + self._timeout
        with self._condition:
            while (hold := self._holds.get(sandbox_id)) is not None:
                if hold.taken and time.monotonic() - hold.since < LONGEST:
                    hold.threads += 1
                    return hold
                if not self._condition.wait(max(deadline - time.monotonic(), 0)):
                    raise contract.SandboxBusy(f'sandbox {sandbox_id} was in use for too long')
            hold = _Hold(since=time.monotonic(), stack=contextlib.ExitStack(), threads=1)
            self._holds[sandbox_id] = hold
        try:
            hold.stack.enter_context(self._sandboxes.lock(sandbox_id, self._timeout))
        except BaseException:
            with self._condition:
                del self._holds[sandbox_id]
                self._condition.notify_all()
            raise
        with self._condition:
            hold.taken = True
            hold.since = time.monotonic()
            self._condition.notify_all()
        return hold
