"""The parent cgroup, whose limits hold for the sum of a sandbox's containers."""

from __future__ import annotations

import typing

from zun_virt.cgroup.errors import CgroupError, LimitsInUse
from zun_virt.cgroup.limits import PERIOD, Io, Limits, cpus_of
from zun_virt.cgroup.slices import Systemd
from zun_virt.cgroup.trees import Legacy, Unified
from zun_virt.cgroup.usage import Conflict

__all__ = [
    'PERIOD',
    'CgroupError',
    'Cgroups',
    'Conflict',
    'Io',
    'Legacy',
    'Limits',
    'LimitsInUse',
    'Systemd',
    'Unified',
    'cpus_of',
    'make',
]


class Cgroups(typing.Protocol):
    """Makes, changes and removes the parent cgroups of sandboxes."""

    def create(self, parent: str, limits: Limits) -> None:
        """Create the cgroup `parent`, or bring its limits up to date where nothing runs in it.

        :param parent: as `zun_virt.sandbox.cgroup_parent` names it
        :raises CgroupError: the kernel or systemd refused
        """

    def update(self, parent: str, limits: Limits, before: Limits) -> None:
        """Change the limits of a sandbox while its containers run.

        All of them are changed, or none: where one is refused, those of before are back
        when this returns.

        :param limits: from now on
        :param before: what was set last
        :raises LimitsInUse: they are below what is in use, or below what a container was
            given for itself; the error says which
        :raises CgroupError: the kernel or systemd refused for another reason
        """

    def remove(self, parent: str) -> None:
        """Remove the cgroup; one that has gone is fine.

        :raises CgroupError: it is still in use
        """

    def usage(self, parent: str) -> dict[str, int]:
        """Return what the sandbox uses; what is not known is left out.

        ``cpu`` (nanoseconds), ``memory`` and of it ``reclaimable`` (bytes), ``pids``,
        ``read_bytes``, ``write_bytes``, ``read_requests``, ``write_requests`` (of disks),
        ``oom_kills`` (cgroup v2 only).
        """


def make(driver: str, version: int, root: str) -> Cgroups:
    """Return what fits Docker's cgroup driver and the kernel's cgroup version.

    :param driver: ``cgroupfs`` or ``systemd``
    :param root: where the file systems are mounted
    :raises ValueError: for any other driver
    """
    if driver == 'systemd':
        return Systemd(version, root)
    if driver != 'cgroupfs':
        raise ValueError(f'unknown cgroup driver {driver!r}')
    return Unified(root) if version == 2 else Legacy(root)
