"""What a host offers and what a flavor asks for, in nova's and placement's terms."""

from __future__ import annotations

import json
import os
import pathlib
import time
import typing
from collections.abc import Mapping

import os_resource_classes as orc
from nova import exception
from nova.objects import fields
from nova.virt import hardware

from zun_virt import cgroup, host

TRAIT = 'CUSTOM_ZUN_SANDBOX'
HYPERVISOR_TYPE = 'docker'

_MIN_PIDS = 16
"""Below this Docker cannot even start a process in the sandbox."""

# The kernel's own bounds.
_MIN_QUOTA = 1_000
_PERIODS = range(1_000, 1_000_001)
_SHARES = range(2, 262_145)


def limits(flavor: typing.Any, pids_limit: int, cpus: str | None) -> cgroup.Limits:
    """Return the limits that a flavor sets for the sum of a sandbox's containers.

    ``quota:cpu_quota`` and ``quota:cpu_period`` are, as elsewhere in nova, for one VCPU.

    :param pids_limit: where the flavor has no ``zun:pids_limit``
    :param cpus: the cores that sandboxes share, None for all
    :raises nova.exception.InvalidInput: an extra spec is not a number that can be
    """
    specs = flavor.extra_specs or {}
    period = _number(specs, 'quota:cpu_period', cgroup.PERIOD, _PERIODS)
    quota = _number(specs, 'quota:cpu_quota', period, range(_MIN_QUOTA, 2**40))
    shares = min(1024 * flavor.vcpus, _SHARES[-1])
    return cgroup.Limits(
        quota=quota * flavor.vcpus,
        period=period,
        shares=_number(specs, 'quota:cpu_shares', shares, _SHARES),
        memory=flavor.memory_mb << 20,
        pids=_number(specs, 'zun:pids_limit', pids_limit, range(_MIN_PIDS, 2**22 + 1)),
        cpus=cpus,
    )


def _number(specs: Mapping[str, str], key: str, default: int, allowed: range) -> int:
    text = specs.get(key)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value not in allowed:
        raise exception.InvalidInput(
            reason=f"the flavor's extra spec {key}={text} must be a number from {allowed[0]} "
            f'to {allowed[-1]}'
        )
    return value


def shared_cpus() -> str | None:
    """Return the cores of ``[compute] cpu_shared_set`` as a kernel's list; None for all."""
    shared = hardware.get_cpu_shared_set()
    return ','.join(str(cpu) for cpu in sorted(shared)) if shared else None


def vcpus(facts: host.Facts) -> int:
    """Return how many cores sandboxes may use."""
    shared = hardware.get_cpu_shared_set()
    return len(shared) if shared else facts.cpus


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


def available(facts: host.Facts, name: str, sandboxes: int) -> dict[str, typing.Any]:
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
        'numa_topology': None,
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
    }
    return {
        resource: {
            'total': total,
            'min_unit': 1,
            'max_unit': total,
            'step_size': 1,
            'allocation_ratio': ratios[resource],
            'reserved': reserved[resource],
        }
        for resource, total in totals.items()
    }
