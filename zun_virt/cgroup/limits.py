"""What a sandbox may use, and how the kernel and systemd are told: pure functions."""

from __future__ import annotations

import dataclasses
import typing

PERIOD = 100_000
"""Microseconds in which the CPU quota may be used, unless the flavor says otherwise."""

_MAX_SHARES = 262_144
_UNLIMITED = 2**64 - 1
"""systemd's word for no limit."""

_IO_PROPERTIES = {
    'IOReadBandwidthMax': 'read_bytes',
    'IOWriteBandwidthMax': 'write_bytes',
    'IOReadIOPSMax': 'read_requests',
    'IOWriteIOPSMax': 'write_requests',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Io:
    """What the containers of a sandbox may do together to the disk below Docker's data.

    :ivar device: the disk's major and minor number, as in ``8:0``
    :ivar read_bytes: a second, as `write_bytes`; None for no limit
    :ivar read_requests: a second, as `write_requests`; None for no limit
    """

    device: str
    read_bytes: int | None = None
    write_bytes: int | None = None
    read_requests: int | None = None
    write_requests: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What the containers of a sandbox may use together.

    :ivar quota: microseconds of CPU time in each period, by all cores together; None where
        the cores are the sandbox's own
    :ivar period: microseconds
    :ivar shares: weight against other sandboxes, 1024 for one core's worth
    :ivar memory: bytes; there is no swap beyond it
    :ivar cpus: the cores it may use, in the kernel's list format; None for all
    :ivar io: None for no limit
    """

    quota: int | None
    period: int
    shares: int
    memory: int
    pids: int
    cpus: str | None = None
    io: Io | None = None

    @property
    def cores(self) -> float | None:
        """How many cores it amounts to, None for no limit."""
        if self.quota is None:
            return float(len(cpus_of(self.cpus))) if self.cpus else None
        return self.quota / self.period


class Setting(typing.NamedTuple):
    """One control file.

    :ivar optional: whether the kernel may lack it, or refuse the value
    """

    controller: str
    file: str
    value: str
    optional: bool = False


def legacy_settings(limits: Limits) -> list[Setting]:
    """Return the control files of cgroup v1 in the order in which they must be written.

    It bounds block I/O for one cgroup alone and not for those below: nothing is set.
    """
    memory = str(limits.memory)
    return [
        # A new period with the old quota could be less than a container's own limit, which
        # is refused.
        Setting('cpu', 'cpu.cfs_quota_us', '-1'),
        Setting('cpu', 'cpu.cfs_period_us', str(limits.period)),
        Setting('cpu', 'cpu.cfs_quota_us', str(-1 if limits.quota is None else limits.quota)),
        Setting('cpu', 'cpu.shares', str(limits.shares)),
        # Memory alone may never exceed memory and swap together: refused when an existing
        # limit grows, and then the third write succeeds; when it shrinks, the first does.
        Setting('memory', 'memory.limit_in_bytes', memory, optional=True),
        # The kernel may have been built or booted without accounting of swap.
        Setting('memory', 'memory.memsw.limit_in_bytes', memory, optional=True),
        Setting('memory', 'memory.limit_in_bytes', memory),
        Setting('pids', 'pids.max', str(limits.pids)),
        *([Setting('cpuset', 'cpuset.cpus', limits.cpus)] if limits.cpus else []),
    ]


def unified_settings(limits: Limits) -> list[Setting]:
    """Return the control files of cgroup v2."""
    quota = 'max' if limits.quota is None else limits.quota
    return [
        Setting('cpu', 'cpu.max', f'{quota} {limits.period}'),
        Setting('cpu', 'cpu.weight', str(weight(limits.shares))),
        Setting('memory', 'memory.max', str(limits.memory)),
        Setting('memory', 'memory.swap.max', '0', optional=True),
        Setting('pids', 'pids.max', str(limits.pids)),
        *([Setting('cpuset', 'cpuset.cpus', limits.cpus)] if limits.cpus else []),
        *([Setting('io', 'io.max', io_max(limits.io))] if limits.io else []),
    ]


def io_max(limits: Io) -> str:
    """Return the line of ``io.max``."""
    values = {
        'rbps': limits.read_bytes,
        'wbps': limits.write_bytes,
        'riops': limits.read_requests,
        'wiops': limits.write_requests,
    }
    text = ' '.join(f'{key}={"max" if n is None else n}' for key, n in values.items())
    return f'{limits.device} {text}'


def weight(shares: int) -> int:
    """Return the v2 weight (1 to 10000) for v1 shares (2 to 262144), as runc does."""
    return 1 + (max(2, min(shares, _MAX_SHARES)) - 2) * 9999 // (_MAX_SHARES - 2)


def slice_properties(limits: Limits, version: int) -> list[tuple[str, tuple[str, typing.Any]]]:
    """Return the limits as properties of a systemd unit, each with its D-Bus type."""
    quota = _UNLIMITED if limits.quota is None else limits.quota * 1_000_000 // limits.period
    properties: list[tuple[str, tuple[str, typing.Any]]] = [
        ('CPUQuotaPerSecUSec', ('t', quota)),
        ('TasksMax', ('t', limits.pids)),
    ]
    if version != 2:
        return [
            *properties,
            ('CPUShares', ('t', limits.shares)),
            ('MemoryLimit', ('t', limits.memory)),
        ]
    properties += [
        ('CPUWeight', ('t', weight(limits.shares))),
        ('MemoryMax', ('t', limits.memory)),
        ('MemorySwapMax', ('t', 0)),
        ('AllowedCPUs', ('ay', cpu_mask(limits.cpus or ''))),
    ]
    return properties + _io_properties(limits.io)


def _io_properties(limits: Io | None) -> list[tuple[str, tuple[str, typing.Any]]]:
    properties: list[tuple[str, tuple[str, typing.Any]]] = []
    for name, field in _IO_PROPERTIES.items():
        # systemd adds to what it knows of each disk; nothing at all makes it forget that.
        properties.append((name, ('a(st)', [])))
        if limits and (number := getattr(limits, field)) is not None:
            properties.append((name, ('a(st)', [(f'/dev/block/{limits.device}', number)])))
    return properties


def cpus_of(text: str) -> set[int]:
    """Return the cores of a list in the kernel's format (``0-2,7``)."""
    found: set[int] = set()
    for part in text.strip().split(','):
        if part:
            first, _, last = part.partition('-')
            found.update(range(int(first), int(last or first) + 1))
    return found


def cpu_mask(cpus: str) -> bytes:
    """Return a list of cores (``0-2,7``) as a bit mask, lowest core first."""
    mask = sum(1 << cpu for cpu in cpus_of(cpus))
    return mask.to_bytes((mask.bit_length() + 7) // 8, 'little')
