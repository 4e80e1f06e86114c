"""Which cores sandboxes use: those that all share, and those that one has for its own.

nova's resource tracker chooses a sandbox's own cores (``hw:cpu_policy=dedicated``) from the
topology reported here, and remembers them in the server's ``numa_topology``.
"""

from __future__ import annotations

import dataclasses
import pathlib
import typing

from nova import exception, objects
from nova.objects import fields
from nova.virt import hardware

from zun_virt import cgroup

_SYSTEM = pathlib.Path('/sys/devices/system')
_PAGE_KIB = 4
_OWN = (fields.CPUAllocationPolicy.DEDICATED, fields.CPUAllocationPolicy.MIXED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """A NUMA node of the machine.

    :ivar cpus: its cores that are online
    :ivar memory_mb: MiB
    :ivar siblings: sets of its cores that are threads of one, or the only one
    :ivar socket: None where its cores are in several
    """

    id: int
    cpus: frozenset[int]
    memory_mb: int
    siblings: tuple[frozenset[int], ...]
    socket: int | None = None


class Use(typing.NamedTuple):
    """The cores of a sandbox.

    :ivar cpus: in the kernel's list format; None for all
    :ivar own: whether no other sandbox uses any of them
    """

    cpus: str | None
    own: bool = False


def nodes(memory_mb: int, system: pathlib.Path = _SYSTEM) -> list[Node]:
    """Return the machine's NUMA nodes; where the kernel tells of none it is one.

    :param memory_mb: of the machine, in MiB
    """
    online = cgroup.cpus_of((system / 'cpu' / 'online').read_text())
    found = [
        _node(int(place.name.removeprefix('node')), place, system, online)
        for place in sorted((system / 'node').glob('node[0-9]*'))
    ]
    if len(found) == 1:
        # What it says is without memory that was plugged in later.
        return [dataclasses.replace(found[0], memory_mb=memory_mb)]
    return found or [
        Node(id=0, cpus=frozenset(online), memory_mb=memory_mb, siblings=_siblings(system, online))
    ]


def _node(number: int, place: pathlib.Path, system: pathlib.Path, online: set[int]) -> Node:
    cpus = cgroup.cpus_of((place / 'cpulist').read_text()) & online
    kib = 0
    for line in (place / 'meminfo').read_text().splitlines():
        if 'MemTotal:' in line:
            kib = int(line.split()[-2])
    sockets = {_number(system, cpu, 'physical_package_id') for cpu in cpus}
    return Node(
        id=number,
        cpus=frozenset(cpus),
        memory_mb=kib >> 10,
        siblings=_siblings(system, cpus),
        socket=sockets.pop() if len(sockets) == 1 else None,
    )


def _siblings(system: pathlib.Path, cpus: set[int]) -> tuple[frozenset[int], ...]:
    found = set()
    for cpu in cpus:
        path = system / 'cpu' / f'cpu{cpu}' / 'topology' / 'thread_siblings_list'
        # nova takes a core without any for a fault.
        found.add(frozenset(cgroup.cpus_of(path.read_text()) & cpus if path.is_file() else {cpu}))
    return tuple(sorted(found, key=sorted))


def _number(system: pathlib.Path, cpu: int, name: str) -> int | None:
    path = system / 'cpu' / f'cpu{cpu}' / 'topology' / name
    return int(path.read_text()) if path.is_file() else None


def shared() -> set[int] | None:
    """Return the cores that sandboxes share, None for all.

    Where some are dedicated and none is named as shared, there is none to share.
    """
    found = hardware.get_cpu_shared_set()
    if found:
        return set(found)
    return set() if dedicated() else None


def dedicated() -> set[int]:
    """Return the cores that a sandbox can have for its own."""
    return set(hardware.get_cpu_dedicated_set() or ())


def check(machine: list[Node], reserved: int, *, cpusets: bool) -> None:
    """Refuse a choice of cores that cannot hold.

    :param machine: as `nodes` returns it
    :param reserved: cores that nova-compute's options keep for the host
    :param cpusets: whether sandboxes can be kept on cores here
    :raises nova.exception.InvalidConfiguration: naming the option
    """
    online = set().union(*(node.cpus for node in machine))
    both = (shared() or set()) & dedicated()
    if both:
        raise exception.InvalidConfiguration(
            f'[compute] cpu_shared_set and cpu_dedicated_set both have the cores {_list(both)}'
        )
    for name, cpus in (
        ('cpu_shared_set', shared() or set()),
        ('cpu_dedicated_set', dedicated()),
    ):
        if cpus - online:
            raise exception.InvalidConfiguration(
                f'[compute] {name}: this host has no cores {_list(cpus - online)} online'
            )
        if cpus and not cpusets:
            raise exception.InvalidConfiguration(
                f'[compute] {name}: with cgroup v1 systemd keeps nothing on some cores; set '
                'Docker\'s cgroup driver to cgroupfs ("exec-opts": '
                '["native.cgroupdriver=cgroupfs"]) or boot with cgroup v2'
            )
    if dedicated() and reserved:
        raise exception.InvalidConfiguration(
            'reserved_host_cpus cannot be set together with [compute] cpu_dedicated_set: leave '
            "the host's own cores out of both sets instead"
        )


def topology(machine: list[Node]) -> typing.Any:
    """Return the machine as nova's resource tracker takes it."""
    online = frozenset().union(*(node.cpus for node in machine))
    ours = shared()
    common, own = online if ours is None else frozenset(ours), dedicated()
    return objects.NUMATopology(cells=[_cell(node, common, own) for node in machine])


def _cell(node: Node, common: frozenset[int], own: set[int]) -> typing.Any:
    groups = [set(group & (common | own)) for group in node.siblings]
    pages = objects.NUMAPagesTopology(
        size_kb=_PAGE_KIB, total=(node.memory_mb << 10) // _PAGE_KIB, used=0, reserved=0
    )
    return objects.NUMACell(
        id=node.id,
        socket=node.socket,
        cpuset=set(node.cpus & common),
        pcpuset=set(node.cpus & own),
        memory=node.memory_mb,
        # nova's resource tracker fills in what its instances use.
        cpu_usage=0,
        memory_usage=0,
        pinned_cpus=set(),
        siblings=[group for group in groups if group],
        mempages=[pages],
        network_metadata=objects.NetworkMetadata(physnets=set(), tunneled=False),
    )


def threaded(machine: list[Node]) -> bool:
    """Return whether some cores are threads of one."""
    return any(len(group) > 1 for node in machine for group in node.siblings)


def of(numa_topology: typing.Any) -> Use:
    """Return the cores of a sandbox.

    :param numa_topology: that nova's resource tracker gave its server; None for none
    :raises nova.exception.ComputeResourcesUnavailable: there are none for it
    """
    together = shared()
    if numa_topology is None or numa_topology.cpu_policy not in _OWN:
        if together is None:
            return Use(None)
        if not together:
            raise exception.ComputeResourcesUnavailable(
                reason='all cores of the host are dedicated ones: see [compute] cpu_shared_set'
            )
        return Use(_list(together))
    own = set(numa_topology.cpu_pinning)
    if not own:
        raise exception.ComputeResourcesUnavailable(
            reason='no cores of its own were found for the sandbox: see [compute] cpu_dedicated_set'
        )
    if any(cell.cpuset for cell in numa_topology.cells):  # hw:cpu_policy=mixed
        return Use(_list(own | (together or set())))
    return Use(_list(own), own=True)


def elsewhere(numa_topology: typing.Any) -> Use:
    """Return what can be said on this host of a sandbox's cores on another.

    :param numa_topology: that the other host's resource tracker gave its server; None for none
    """
    policy = numa_topology.cpu_policy if numa_topology is not None else None
    return Use(None, own=policy == fields.CPUAllocationPolicy.DEDICATED)


def _list(cpus: set[int]) -> str:
    return ','.join(str(cpu) for cpu in sorted(cpus))
