"""What Docker shows of containers, in the agent's terms."""

from __future__ import annotations

import dataclasses
import datetime
import re
import typing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What Docker shows of one container.

    :ivar state: created, running, paused, restarting, removing, exited or dead
    :ivar started: Docker's own text for `started_at`, to be compared exactly
    :ivar started_at: of its latest run, in UTC without a zone; None before the first
    :ivar exit_code: of its latest run, or of its failure to start
    :ivar error: Docker's words when the latest start failed
    :ivar resources: its limits, in the terms of `creation.resources`
    """

    id: str
    state: str
    started: str = ''
    started_at: datetime.datetime | None = None
    finished_at: datetime.datetime | None = None
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ''
    pid: int = 0
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    stop_signal: str = 'SIGTERM'
    tty: bool = False
    resources: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether its process exists, frozen or not."""
        return self.state in ('running', 'paused', 'restarting')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """One of our containers in Docker's list."""

    id: str
    state: str
    role: str
    sandbox_id: str
    container_uuid: str | None


def parse_facts(found: dict[str, typing.Any]) -> Facts:
    """Return the facts in what Docker's inspect shows."""
    state, config, host = found['State'], found['Config'], found['HostConfig']
    return Facts(
        id=found['Id'],
        state=state['Status'],
        started=state['StartedAt'],
        started_at=parse_time(state['StartedAt']),
        finished_at=parse_time(state['FinishedAt']),
        exit_code=state['ExitCode'],
        oom_killed=state['OOMKilled'],
        error=state['Error'],
        pid=state['Pid'],
        labels=config['Labels'] or {},
        stop_signal=config.get('StopSignal') or 'SIGTERM',
        tty=config['Tty'],
        resources={
            name: host.get(name) or 0 for name in ('Memory', 'MemorySwap', 'CpuPeriod', 'CpuQuota')
        },
    )


def parse_time(text: str) -> datetime.datetime | None:
    """Return Docker's time in UTC without a zone, to the microsecond; None for never.

    >>> parse_time('2026-11-21T07:44:00.123456789Z')
    datetime.datetime(2026, 11, 21, 7, 44, 0, 123456)
    """
    match = re.fullmatch(r'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)', text)
    if match is None or text.startswith('0001-'):
        return None
    seconds, fraction, zone = match.groups()
    micro = (fraction or '')[:6].ljust(6, '0')
    moment = datetime.datetime.fromisoformat(f'{seconds}.{micro}{zone.replace("Z", "+00:00")}')
    return moment.astimezone(datetime.UTC).replace(tzinfo=None)
