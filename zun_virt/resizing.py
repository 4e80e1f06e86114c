"""New limits for a sandbox whose containers go on running."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from oslo_log import log as logging

from zun_virt import cgroup, host, lifecycle, sandbox
from zun_virt.containers import Container

LOG = logging.getLogger(__name__)

_ROUNDING = 0.001
"""Cores by which Docker's own arithmetic may differ from ours."""


class TooSmall(Exception):
    """The sandbox cannot have these limits; the message says what is in the way."""


def check_own_limits(
    limits: cgroup.Limits, containers: Sequence[Container], disk_gb: int | None = None
) -> None:
    """Refuse limits below those of a single container.

    The kernel would let none of its processes start, or silently give it less; Docker would
    let it write what it was made with.

    :param limits: of the whole sandbox
    :param containers: of the sandbox, as `Host.inspect` shows them
    :param disk_gb: that none may exceed from now on, in GiB, where Docker holds them to it; None
        for no limit
    :raises TooSmall: naming the containers
    """
    cpus = limits.cores
    reasons = []
    for container in containers:
        own = container.own_limits
        if own.memory > limits.memory:
            reasons.append(
                f'{_named(container)} has {own.memory >> 20} MiB of its own, and the whole '
                f'sandbox would have {limits.memory >> 20}'
            )
        if cpus is not None and own.cpus > cpus + _ROUNDING:
            reasons.append(
                f'{_named(container)} has {own.cpus:g} cores of its own, and the whole sandbox '
                f'would have {cpus:g}'
            )
        if disk_gb is not None and own.disk > disk_gb:
            reasons.append(
                f'{_named(container)} has a disk of {own.disk} GiB of its own, and the whole '
                f'sandbox would have {disk_gb}'
            )
    if reasons:
        raise TooSmall('; '.join(reasons))


def resize(
    docker: host.Host,
    cgroups: cgroup.Cgroups,
    sandboxes: lifecycle.Lifecycle,
    instance_id: str,
    old: cgroup.Limits,
    new: cgroup.Limits,
    disk_gb: int | None = None,
) -> None:
    """Change the limits of a sandbox, or leave all as it is.

    One that is stopped gets them when it starts.  Its record tells the old ones until
    `describe` is called.

    :param old: which it gets again if the kernel refuses the new ones
    :param disk_gb: that its containers may write from now on, in GiB; None for no new limit
    :raises TooSmall: it uses more than the new ones
    """
    with sandboxes.lock(instance_id):
        check_containers(docker, sandboxes, instance_id, new, disk_gb)
        made = sandboxes.running(instance_id)
        if made is None:
            return
        try:
            cgroups.update(made.record.cgroup_parent, new, old)
        except cgroup.CgroupError as error:
            raise TooSmall(str(error)) from error


def check_containers(
    docker: host.Host,
    sandboxes: lifecycle.Lifecycle,
    instance_id: str,
    limits: cgroup.Limits,
    disk_gb: int | None = None,
) -> None:
    """Refuse limits that are too small for one of a sandbox's containers.

    :param disk_gb: as for `resize`
    :raises TooSmall: naming the containers
    """
    users = []
    for found in docker.containers(instance_id):
        with contextlib.suppress(host.NotFound):  # the agent removes it just now
            if found.container_id:
                users.append(docker.inspect(found.id))
    record = sandboxes.record(instance_id)
    enforced = record is not None and record.limits.disk_enforced
    check_own_limits(limits, users, disk_gb if enforced else None)


def describe(sandboxes: lifecycle.Lifecycle, instance_id: str, limits: sandbox.Limits) -> None:
    """Write into a sandbox's record which limits it has now."""
    with sandboxes.lock(instance_id):
        record = sandboxes.record(instance_id)
        if record is not None and record.limits != limits:
            sandboxes.store.write(record.replace(limits=limits))
            LOG.info('Sandbox %s: its limits are now %s', instance_id, limits)


def _named(container: Container) -> str:
    return f'container {container.user_name}'
