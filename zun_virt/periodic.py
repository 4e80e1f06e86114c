"""What the driver looks at by itself, again and again, since nova has no hook for it.

One thread serves every pass, so that two never meet on the same sandbox by surprise.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from oslo_log import log as logging

LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class _Pass:
    name: str
    act: Callable[[], None]
    seconds: float
    due: float


class Passes:
    """Runs passes over the host's sandboxes, one after the other, in one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Run nothing until `start` is called.

        :param clock: gives the time in seconds
        """
        self._clock = clock
        self._passes: list[_Pass] = []
        self._ending = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name='zun-passes', daemon=True)

    def add(
        self, name: str, act: Callable[[], None], seconds: float, first: float | None = None
    ) -> None:
        """Have a pass run every so many seconds.

        What it raises is logged, and it runs again when it is due; it should end soon, since
        the others wait for it.

        :param name: for the log
        :param seconds: from the end of one run to the next one's begin; 0 for never
        :param first: seconds from now to the first run, `seconds` by default
        """
        if seconds > 0:
            due = self._clock() + (seconds if first is None else first)
            self._passes.append(_Pass(name, act, seconds, due))
            self._woken.set()

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def wake(self, name: str) -> None:
        """Have a pass run as soon as the thread is free."""
        for each in self._passes:
            if each.name == name:
                each.due = self._clock()
        self._woken.set()

    def stop(self, seconds: float = 5.0) -> None:
        """End, waiting for the run that goes on at most so many seconds."""
        self._ending.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def run_due(self) -> float | None:
        """Run every pass that is due, once.

        :returns: seconds until the next one is, None when there is none
        """
        for each in list(self._passes):
            due = each.due
            if due > self._clock() or self._ending.is_set():
                continue
            try:
                each.act()
            except Exception:  # the thread must outlive every failure of a pass
                LOG.exception(
                    'The pass over %s failed; it runs again in %g s', each.name, each.seconds
                )
            if each.due == due:  # else it was woken meanwhile, for what it may not have seen
                each.due = self._clock() + each.seconds
        if not self._passes:
            return None
        return max(0.0, min(each.due for each in self._passes) - self._clock())

    def _run(self) -> None:
        while not self._ending.is_set():
            wait = self.run_due()
            self._woken.wait(wait)
            self._woken.clear()
