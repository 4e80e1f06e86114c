"""What Docker shows of a container, in plain values; and many of them at once."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence

from oslo_log import log as logging

from zun_virt import sandbox

LOG = logging.getLogger(__name__)

_PARALLEL = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnLimits:
    """What one container of a sandbox may use at most; 0 for no limit of its own.

    :ivar cpus: cores, as a fraction
    :ivar memory: bytes
    :ivar disk: GiB that it asked for, to write outside of volumes
    """

    cpus: float = 0
    memory: int = 0
    disk: int = 0


NO_LIMITS = OwnLimits()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Container:
    """A container as Docker shows it.

    :ivar state: Docker's word: created, running, paused, restarting, removing, exited, dead
    :ivar pid: of its first process on the host, 0 when none runs; `Host.inspect` only, as
        are the fields after it
    :ivar finished_at: when it ended last, as Docker writes times
    :ivar own_limits: inside of its sandbox's
    :ivar image: its id
    """

    id: str
    name: str
    state: str
    labels: Mapping[str, str]
    pid: int = 0
    exit_code: int = 0
    started_at: str = ''
    finished_at: str = ''
    own_limits: OwnLimits = NO_LIMITS
    image: str = ''

    @property
    def alive(self) -> bool:
        """Whether it has processes, frozen ones included."""
        return self.state in ('running', 'paused', 'restarting')

    @property
    def sandbox_id(self) -> str:
        """The instance uuid of the sandbox to which it belongs."""
        return self.labels[sandbox.LABEL_SANDBOX]

    @property
    def nova_name(self) -> str:
        """The name by which nova's driver interface knows the sandbox."""
        return self.labels.get(sandbox.LABEL_NAME, self.name)

    @property
    def user_name(self) -> str:
        """The name that its user knows it by, as far as Docker was told."""
        return self.labels.get(sandbox.LABEL_NAME) or self.container_id or self.name

    @property
    def container_id(self) -> str | None:
        """Its id in the container API; None for a pause container."""
        return self.labels.get(sandbox.LABEL_CONTAINER)

    @property
    def is_pause(self) -> bool:
        """Whether it is the pause container of its sandbox."""
        return self.labels.get(sandbox.LABEL_ROLE) == sandbox.ROLE_PAUSE


def own_limits(config: Mapping[str, typing.Any], labels: Mapping[str, str]) -> OwnLimits:
    """Return a container's own limits.

    :param config: what Docker calls its HostConfig; the size of a disk in it may be that which
        its sandbox had when it was made
    :param labels: the container's
    """
    cpus = (config.get('NanoCpus') or 0) / 1e9
    quota, period = config.get('CpuQuota') or 0, config.get('CpuPeriod') or 100_000
    # Of a container that an older agent made it is whatever its image says.
    asked = re.fullmatch('[0-9]{1,9}', labels.get(sandbox.LABEL_DISK, ''))
    return OwnLimits(
        cpus=cpus or max(quota, 0) / period,
        memory=config.get('Memory') or 0,
        disk=int(asked[0]) if asked else 0,
    )


def moment(text: str) -> datetime.datetime:
    """Return a time as Docker writes it, to the microsecond.

    :raises ValueError: it is none
    """
    head, _, fraction = text.removesuffix('Z').partition('.')
    return datetime.datetime.fromisoformat(f'{head}.{fraction[:6]:0<6}+00:00')


def users_first(containers: Iterable[Container]) -> tuple[list[Container], list[Container]]:
    """Return users' containers, and the pause containers."""
    users: list[Container] = []
    pauses: list[Container] = []
    for container in containers:
        (pauses if container.is_pause else users).append(container)
    return users, pauses


def each(act: Callable[[str], None], names: Sequence[str]) -> None:
    """Do the same to many containers at once; the first error is raised when all are done."""
    if len(names) < 2:
        for name in names:
            act(name)
        return
    with concurrent.futures.ThreadPoolExecutor(min(len(names), _PARALLEL)) as pool:
        outcomes = [pool.submit(act, name) for name in names]
    errors = [error for outcome in outcomes if (error := outcome.exception())]
    for error in errors[1:]:
        LOG.warning('Also: %s', error)
    if errors:
        raise errors[0]
