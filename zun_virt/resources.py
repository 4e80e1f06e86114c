"""What a host offers and what a flavor asks for, in nova's and placement's terms."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
import typing
from collections.abc import Mapping

import os_resource_classes as orc
from nova import exception
from nova.objects import fields

from zun_virt import cgroup, cores, host

TRAIT = 'CUSTOM_ZUN_SANDBOX'
HYPERVISOR_TYPE = 'docker'

_MIN_PIDS = 16
"""Below this Docker cannot even start a process in the sandbox."""

# The kernel's own bounds.
_QUOTAS = range(1_000, 2**40)
_PERIODS = range(1_000, 1_000_001)
_SHARES = range(2, 262_145)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a host decides about limits.

    :ivar pids: processes, where the flavor has no ``zun:pids_limit``
    :ivar disk: the number of the disk whose I/O can be bounded, as `disk_of` returns it
    :ivar disk_quota: whether Docker can bound what a container writes outside of volumes
    """

    pids: int
    disk: str | None = None
    disk_quota: bool = False


def limits(flavor: typing.Any, defaults: Defaults, use: cores.Use) -> cgroup.Limits:
    """Return the limits that a flavor sets for the sum of a sandbox's containers.

    ``quota:cpu_quota`` and ``quota:cpu_period`` are, as elsewhere in nova, for one VCPU; a
    negative quota is none, and a period of 0 is as if there were none.

    :param use: the sandbox's cores; those of its own take no quota unless the flavor has one
    :raises nova.exception.InvalidInput: an extra spec is not a number that can be
    """
    specs = flavor.extra_specs or {}
    period = _number(specs, 'quota:cpu_period', 0, _PERIODS, none=range(1)) or cgroup.PERIOD
    asked = _number(specs, 'quota:cpu_quota', 0, _QUOTAS, none=range(-(2**63), 0))
    quota = (asked or period) * flavor.vcpus
    unlimited = asked < 0 or (use.own and not asked)
    shares = min(1024 * flavor.vcpus, _SHARES[-1])
    return cgroup.Limits(
        quota=None if unlimited else quota,
        period=period,
        shares=_number(specs, 'quota:cpu_shares', shares, _SHARES),
        memory=flavor.memory_mb << 20,
        pids=_number(specs, 'zun:pids_limit', defaults.pids, range(_MIN_PIDS, 2**22 + 1)),
        cpus=use.cpus,
        io=_io(specs, defaults.disk),
    )


def _io(specs: Mapping[str, str], disk: str | None) -> cgroup.Io | None:
    """Return the bounds of block I/O; ``quota:disk_total_*`` has nothing to correspond to."""
    amounts = {
        field: _number(specs, f'quota:disk_{name}_sec', 0, range(1, 2**63), none=range(1)) or None
        for field, name in (
            ('read_bytes', 'read_bytes'),
            ('write_bytes', 'write_bytes'),
            ('read_requests', 'read_iops'),
            ('write_requests', 'write_iops'),
        )
    }
    return cgroup.Io(device=disk, **amounts) if disk and any(amounts.values()) else None


def _number(
    specs: Mapping[str, str], key: str, default: int, allowed: range, none: range = range(0)
) -> int:
    """Return an extra spec's number.

    :param none: the numbers, beside those allowed, that say that there is no limit
    """
    text = specs.get(key)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or (value not in allowed and value not in none):
        raise exception.InvalidInput(
            reason=f"the flavor's extra spec {key}={text} must be a number from {allowed[0]} "
            f'to {allowed[-1]}'
        )
    return value


def disk_of(path: str, devices: pathlib.Path = pathlib.Path('/sys/dev/block')) -> str | None:
    """Return the number of the disk that holds a path, as in ``8:0``; None where no one does.

    The kernel counts the I/O of whole disks, and knows no bounds for a partition.
    """
    number = pathlib.Path(path).stat().st_dev
    entry = devices / f'{os.major(number)}:{os.minor(number)}'
    if not entry.exists():
        return None
    real = entry.resolve()
    return ((real.parent if (real / 'partition').exists() else real) / 'dev').read_text().strip()


def vcpus(facts: host.Facts) -> int:
    """Return how many cores sandboxes share."""
    shared = cores.shared()
    return facts.cpus if shared is None else len(shared)


def disk_gb(path: str) -> tuple[int, int, int]:
    """Return size, use and free space of the file system at `path`, in GiB."""
    data = os.statvfs(path)
    size, free = data.f_blocks * data.f_frsize, data.f_bavail * data.f_frsize
    return size >> 30, (size - free) >> 30, free >> 30


def uptime(seconds: float | None = None) -> str:
    """Return how long the host has been up and how busy it is, as ``uptime`` writes it."""
    if seconds is None:
        seconds = float(pathlib.Path('/proc/uptime').read_text().split()[0])
    days, rest = divmod(int(seconds), 86_400)
    load = ', '.join(f'{number:.2f}' for number in os.getloadavg())
    clock = time.strftime('%H:%M:%S')
    return (
        f' {clock} up {days} days, {rest // 3600:2}:{rest % 3600 // 60:02},  0 users,  '
        f'load average: {load}'
    )


def cpu_info() -> dict[str, typing.Any]:
    """Return what the kernel says of the processors."""
    found: dict[str, typing.Any] = {'arch': os.uname().machine}
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
        key, _, value = (part.strip() for part in line.partition(':'))
        if key == 'model name':
            found['model'] = value
        elif key == 'vendor_id':
            found['vendor'] = value
        elif key == 'flags':
            found['features'] = value.split()
        elif not key:
            break
    return found


def _memory_used_mb() -> int:
    fields_kb = {
        line.partition(':')[0]: int(line.split()[1])
        for line in pathlib.Path('/proc/meminfo').read_text().splitlines()
    }
    return (fields_kb['MemTotal'] - fields_kb.get('MemAvailable', fields_kb['MemFree'])) >> 10


def available(
    facts: host.Facts, machine: list[cores.Node], name: str, sandboxes: int
) -> dict[str, typing.Any]:
    """Return the host's resources as nova's resource tracker takes them.

    :param name: of the hypervisor
    :param sandboxes: that run
    """
    size, used, free = disk_gb(facts.data_root)
    architecture = fields.Architecture.canonicalize(facts.architecture)
    return {
        'vcpus': vcpus(facts),
        'memory_mb': facts.memory_mb,
        'local_gb': size,
        # nova computes these again from its own instances.
        'vcpus_used': 0,
        'memory_mb_used': _memory_used_mb(),
        'local_gb_used': used,
        'disk_available_least': free,
        'hypervisor_type': HYPERVISOR_TYPE,
        'hypervisor_version': facts.version,
        'hypervisor_hostname': name,
        'cpu_info': json.dumps(cpu_info()),
        'numa_topology': cores.topology(machine)._to_json(),
        'supported_instances': [
            (architecture, fields.HVType.DOCKER, fields.VMMode.EXE),
        ],
        'stats': {'uptime': uptime(), 'sandboxes': sandboxes},
    }


def inventory(
    facts: host.Facts, ratios: Mapping[str, float], reserved: Mapping[str, int]
) -> dict[str, dict[str, typing.Any]]:
    """Return the host's inventory for placement.

    :param ratios: of allocation, by resource class
    :param reserved: for the host itself, by resource class
    """
    totals = {
        orc.VCPU: vcpus(facts),
        orc.MEMORY_MB: facts.memory_mb,
        orc.DISK_GB: disk_gb(facts.data_root)[0],
        orc.PCPU: len(cores.dedicated()),
    }
    return {
        resource: {
            'total': total,
            'min_unit': 1,
            'max_unit': total,
            'step_size': 1,
            # A core of one's own is not shared, whatever the options say.
            'allocation_ratio': ratios.get(resource, 1.0) if resource != orc.PCPU else 1.0,
            'reserved': reserved.get(resource, 0),
        }
        for resource, total in totals.items()
        if total  # placement has no word for nothing
    }
