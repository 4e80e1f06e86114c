"""What the agent records of containers, and what it has in mind about them meanwhile."""

from __future__ import annotations

import dataclasses
import threading
import time
import typing
from collections.abc import Callable

from oslo_log import log as logging

from zun_agent.claims import Claims
from zun_agent.facts import Facts
from zun_agent.models import Container, Desired, Status
from zun_agent.store import Store

LOG = logging.getLogger(__name__)

HANDED_LASTS = 1.0
"""Seconds for which a record that was handed over spares a look at the store."""

Run = tuple[str, str]
"""One run of a container: its id in Docker, and when that run began."""


def run_of(docker: Facts) -> Run:
    """Return which run of the container it is that Docker shows."""
    return docker.id, docker.started


@dataclasses.dataclass
class Stop:
    """A stop signal that was sent."""

    run: Run
    timeout: int
    deadline: float


@dataclasses.dataclass
class Memory:
    """What is in mind about one container; an agent that starts does without.

    :ivar looked_at: when it was last looked at in Docker, in nanoseconds since the epoch
    :ivar starting: Docker is just told to start it, and it is looked at afterwards
    :ivar met: Docker has it, although its record does not say so
    :ivar made: it was just made, and is not started yet
    :ivar quick_ends: restarts in a row after which it did not run for long
    :ivar failures: attempts in a row to make or start it
    :ivar questions: how often Nova was asked about its sandbox, in a row
    :ivar asked_for: the generation for which it was
    :ivar handed: its record, and since when that is true, as somebody had it who woke us
    :ivar generation: the last for which it was worked on
    :ivar recorded: when something was last recorded of it, as `time.monotonic` counts
    """

    looked_at: int = 0
    starting: bool = False
    met: bool = False
    stop: Stop | None = None
    made: Facts | None = None
    quick_ends: int = 0
    failures: int = 0
    questions: int = 0
    asked_for: int = 0
    handed: tuple[Container, float] | None = None
    generation: int = 0
    recorded: float = 0


class Journal:
    """Writes down facts about this host's containers."""

    def __init__(
        self, host: str, store: Store, claims: Claims, settled: Callable[[str], None]
    ) -> None:
        """Write to `store`, with the addresses that `claims` knows.

        :param settled: is called with the uuid of a container that is gone or given up
        """
        self._host = host
        self._store = store
        self._claims = claims
        self._settled = settled
        self._memories: dict[str, Memory] = {}
        self._lock = threading.Lock()

    def memory(self, uuid: str) -> Memory:
        """Return what is in mind about a container, to be changed in place."""
        return self._memories.setdefault(uuid, Memory())

    def forget(self, uuid: str) -> None:
        """Have nothing more in mind about a container that is gone, or another host's."""
        self._memories.pop(uuid, None)
        self._settled(uuid)

    def hand(self, container: Container, since: float) -> None:
        """Take a record that was just stored or read, so that it is not read again.

        :param since: when its transaction began, as `time.monotonic` counts: whatever was
            recorded later may not be in it
        """
        if container.desired == Desired.DELETED:
            return  # the end of another may have given it the sandbox meanwhile
        with self._lock:
            memory = self.memory(container.uuid)
            handed = memory.handed
            if handed is None or handed[0].generation <= container.generation:
                memory.handed = container, since

    def take(self, uuid: str) -> Container | None:
        """Return the record that was handed over, once, unless it is out of date."""
        with self._lock:
            memory = self._memories.get(uuid)
            if memory is None or memory.handed is None:
                return None
            (container, since), memory.handed = memory.handed, None
        if container.generation < memory.generation or since <= memory.recorded:
            return None
        return container if time.monotonic() - since < HANDED_LASTS else None

    def expects(self, uuid: str, action: str, time_ns: int) -> bool:
        """Tell whether news of Docker is no news: its outcome was seen, or will be.

        :param action: what happened to the container
        :param time_ns: when, in nanoseconds since the epoch
        """
        memory = self._memories.get(uuid)
        if memory is None:
            return False
        return memory.looked_at >= time_ns or (action == 'start' and memory.starting)

    def record(
        self,
        container: Container,
        facts: dict[str, typing.Any],
        *,
        done: bool = False,
        upto: int | None = None,
        only: str | None = None,
        failure: str | None = None,
    ) -> Container | None:
        """Record facts, where there is news in them.

        :param done: what was asked for is carried out
        :param upto: the generation up to which it is, where that is not the last one
        :param only: the name of the actions up to then that are, where not all are
        :param failure: why that did not succeed; None where it did
        :returns: the container as it is then; None when its record ended meanwhile
        """
        facts = {'host': self._host, **facts}
        addresses = self._claims.addresses(container.sandbox_id)
        if addresses is not None:
            facts['addresses'] = addresses
        news = {name: value for name, value in facts.items() if getattr(container, name) != value}
        if not news and not done:
            return container
        if 'status' in news:
            LOG.info('container %s: %s, was %s', container.uuid, news['status'], container.status)
        return self._write(
            container,
            done_generation=(upto or container.generation) if done else None,
            only=only,
            message=failure,
            **news,
        )

    def record_update(
        self, container: Container, failure: str | None = None, **limits: float | None
    ) -> None:
        """Record that Docker took the limits that were asked for, or did not.

        What else was asked for is still to be carried out. Nothing is recorded when there
        is a later request: it may be about the limits, too.

        :param failure: why it did not take them
        :param limits: what it keeps to then, in the terms of the record
        """
        self._write(
            container,
            expected_generation=container.generation,
            done_generation=container.generation,
            only='update',
            message=failure,
            **limits,
        )

    def _write(self, container: Container, **values: typing.Any) -> Container | None:
        try:
            return self._store.observe(container.uuid, known=container, **values)
        finally:
            self.memory(container.uuid).recorded = time.monotonic()

    def give_up(self, container: Container, reason: str, **facts: typing.Any) -> None:
        """Record that what was asked for cannot be had."""
        LOG.warning('container %s: given up: %s', container.uuid, reason)
        self.memory(container.uuid).failures = 0
        self._settled(container.uuid)
        known = {'status': Status.ERROR, 'status_reason': reason, 'interrupted': False}
        self.record(container, known | facts, done=True, failure=reason)
