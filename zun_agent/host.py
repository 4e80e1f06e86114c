"""What this host has and is, as ``GET /v1/hosts`` shows it."""

from __future__ import annotations

import os
import pathlib
import typing
from collections.abc import Iterable

from zun_agent import usage
from zun_agent.models import Container, Status

_GIB = 1024**3
_MIB = 1024**2


def facts(
    info: dict[str, typing.Any],
    containers: Iterable[Container],
    meminfo: pathlib.Path = pathlib.Path('/proc/meminfo'),
) -> dict[str, typing.Any]:
    """Return the facts of the host.

    :param info: what Docker tells of itself
    :param containers: of this host
    """
    total, available = usage.host_memory(meminfo.read_text())
    disk_total, disk_used = _disk(info.get('DockerRootDir') or '/')
    running = [item for item in containers if item.status in (Status.RUNNING, Status.PAUSED)]
    return {
        'mem_total': total // _MIB,
        'mem_used': (total - available) // _MIB,
        'cpus': info['NCPU'],
        'cpu_used': sum(item.cpu or 0.0 for item in running),
        'architecture': info['Architecture'],
        'os_type': info['OSType'],
        'os': info['OperatingSystem'],
        'kernel_version': info['KernelVersion'],
        'labels': dict(label.partition('=')[::2] for label in info.get('Labels') or ()),
        'total_containers': info['Containers'],
        'disk_total': disk_total,
        'disk_used': disk_used,
        'disk_quota_supported': False,
        'runtimes': sorted(info.get('Runtimes') or ()),
        'enable_cpu_pinning': False,
    }


def _disk(path: str) -> tuple[int, int]:
    """Return the size and use, in GiB, of the filesystem that `path` is on."""
    place = pathlib.Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent  # Docker may be elsewhere, or its directory hidden from us
    found = os.statvfs(place)
    total = found.f_blocks * found.f_frsize
    return total // _GIB, (total - found.f_bavail * found.f_frsize) // _GIB
