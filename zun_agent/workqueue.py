"""Work by key: each key is worked on by one thread at a time, and comes again if need be."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Callable

from oslo_log import log as logging

from zun_agent import errors
from zun_virt.sandbox import SandboxBusy

LOG = logging.getLogger(__name__)

RETRY_FIRST = 0.2
RETRY_LAST = 30.0


class WorkQueue:
    """Keys that are due at some time, and threads that work on them."""

    def __init__(self, name: str, work: Callable[[str], float | None], threads: int) -> None:
        """Call `work` with each key that is due.

        :param work: returns the seconds after which the key is due again, None for not
            by itself; what it raises makes the key due again after a growing pause
        """
        self._name = name
        self._work = work
        self._size = threads
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, str]] = []
        self._due: dict[str, tuple[float, int]] = {}
        self._active: set[str] = set()
        self._failures: dict[str, int] = {}
        self._number = 0
        self._threads: list[threading.Thread] = []
        self._stopping = False

    def start(self) -> None:
        """Start the threads."""
        for number in range(self._size):
            thread = threading.Thread(target=self._run, name=f'{self._name}-{number}', daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout: float) -> None:
        """Begin nothing more, and wait `timeout` seconds for what was begun."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def add(self, key: str, delay: float = 0) -> None:
        """Have the key worked on after `delay` seconds, or sooner if it is due sooner."""
        when = time.monotonic() + delay
        with self._condition:
            due = self._due.get(key)
            if due is not None and due[0] <= when:
                return
            self._number += 1
            self._due[key] = (when, self._number)
            heapq.heappush(self._heap, (when, self._number, key))
            self._condition.notify()

    def knows(self, key: str) -> bool:
        """Tell whether the key is being worked on, or due at some time."""
        with self._condition:
            return key in self._due or key in self._active

    def idle(self) -> bool:
        """Tell whether nothing is being worked on or due now."""
        with self._condition:
            now = time.monotonic()
            return not self._active and all(when > now for when, _ in self._due.values())

    def _run(self) -> None:
        while (key := self._take()) is not None:
            delay = self._attempt(key)
            with self._condition:
                self._active.discard(key)
                self._condition.notify()
            if delay is not None:
                self.add(key, delay)

    def _take(self) -> str | None:
        with self._condition:
            while not self._stopping:
                now = time.monotonic()
                busy = []
                found = None
                while self._heap and self._heap[0][0] <= now:
                    when, number, key = heapq.heappop(self._heap)
                    if self._due.get(key) != (when, number):
                        continue  # it was made due at another time since
                    if key in self._active:
                        busy.append((when, number, key))
                        continue
                    found = key
                    break
                for item in busy:
                    heapq.heappush(self._heap, item)
                if found is not None:
                    del self._due[found]
                    self._active.add(found)
                    return found
                # Keys that are worked on are looked at again when their thread is done.
                later = [item[0] for item in self._heap[:1] if item[0] > now]
                self._condition.wait(max(later[0] - now, 0) if later else 1.0)
        return None

    def _attempt(self, key: str) -> float | None:
        try:
            delay = self._work(key)
        except SandboxBusy as error:
            LOG.info('%s %s: put off: %s', self._name, key, error)
            return RETRY_FIRST
        except errors.AgentError as error:
            return self._failed(key, str(error))
        except Exception:
            LOG.exception('%s %s: a step failed', self._name, key)
            return self._failed(key, 'this must not happen')
        self._failures.pop(key, None)
        return delay

    def _failed(self, key: str, reason: str) -> float:
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay = min(RETRY_FIRST * 2.0 ** min(count, 16), RETRY_LAST)
        delay *= random.uniform(0.8, 1.2)  # noqa: S311
        LOG.warning('%s %s: %s; tried again in %.1f s', self._name, key, reason, delay)
        return delay
