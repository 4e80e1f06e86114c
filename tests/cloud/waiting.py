"""Waiting for what a cloud does in its own time, with an end to the patience."""

from __future__ import annotations

import time
import typing
from collections.abc import Callable

Answer = typing.TypeVar('Answer')


def wait_until(
    what: str,
    probe: Callable[[], Answer],
    *,
    timeout: float,
    interval: float = 0.2,
    explain: Callable[[], str] | None = None,
) -> Answer:
    """Return the first true answer of `probe`.

    :param what: is waited for, as the failure says it
    :param timeout: seconds
    :param interval: seconds between two looks
    :param explain: tells the state of things, for the failure
    :raises AssertionError: `probe` never answered
    """
    begin = time.monotonic()
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() - begin > timeout:
            details = explain() if explain else f'last answer: {answer!r}'
            raise AssertionError(f'{what}: not within {timeout:g} s\n{details}')
        time.sleep(interval)


def stays(what: str, probe: Callable[[], bool], *, seconds: float, interval: float = 0.3) -> None:
    """Assert that `probe` is true now, and for that many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert probe(), f'{what}: no longer'
        time.sleep(interval)


def on_changes(
    look: Callable[[], object], probe: Callable[[], Answer], *, at_least_every: float = 3.0
) -> Callable[[], Answer | None]:
    """Return a probe that asks `probe`, which costs much, only when there may be news.

    :param look: what it returns differs when there is, and is false while there cannot be; it
        costs little
    :param at_least_every: seconds after which `probe` is asked whatever `look` says
    """
    seen: object = None
    asked = time.monotonic()

    def news() -> Answer | None:
        nonlocal seen, asked
        found, now = look(), time.monotonic()
        if (not found or found == seen) and now - asked < at_least_every:
            return None
        seen, asked = found, now
        return probe()

    return news
