"""How long the parts of what the driver does take, for its log."""

from __future__ import annotations

import time


class Steps:
    """How long each step took, for the log."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()
        self._taken: list[tuple[str, float]] = []

    def done(self, step: str) -> None:
        """Note that a step has ended, and the next begins."""
        now = time.monotonic()
        self._taken.append((step, now - self._last))
        self._last = now

    def __str__(self) -> str:
        parts = ', '.join(f'{step} {seconds * 1000:.0f}' for step, seconds in self._taken)
        return f'{(self._last - self._begin) * 1000:.0f} ms: {parts}'
