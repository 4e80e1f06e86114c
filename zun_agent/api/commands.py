"""How many users' commands may run at once.

Each holds a thread of the server for as long as it likes, and all others still want to be
served: those who ask for something else, and the commands of other projects.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Iterator

from zun_agent import errors


class Commands:
    """The places for commands; one project has half of them at most."""

    def __init__(self, places: int) -> None:
        """Have this many places."""
        self._places = places
        self._lock = threading.Lock()
        self._running: collections.Counter[str | None] = collections.Counter()

    @contextlib.contextmanager
    def place(self, project_id: str | None) -> Iterator[None]:
        """Have one of the places for a project's command, within.

        :raises errors.ServiceUnavailable: all are taken, or all that the project may have
        """
        with self._lock:
            if self._running.total() >= self._places:
                raise errors.ServiceUnavailable('Too many commands are running; try again later.')
            if self._running[project_id] >= max(1, self._places // 2):
                raise errors.ServiceUnavailable(
                    'Too many commands of your project are running; try again later.'
                )
            self._running[project_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[project_id] -= 1
                if not self._running[project_id]:
                    del self._running[project_id]
