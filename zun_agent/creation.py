"""What Docker is asked for when a container is made: pure functions of the record."""

from __future__ import annotations

import dataclasses
import typing

from zun_agent.models import Container
from zun_virt import sandbox as contract

CPU_PERIOD = 100_000
"""Microseconds over which a container's share of the processors is measured."""

LABEL_NAMESPACE = 'org.openstack.zun.label.'
"""Before the user's own labels in Docker, where some tools on a host obey bare ones."""

CAPABILITIES = (
    'CHOWN',
    'DAC_OVERRIDE',
    'FOWNER',
    'FSETID',
    'KILL',
    'NET_BIND_SERVICE',
    'NET_RAW',  # ping; Neutron's port security stops forged packets
    'SETFCAP',
    'SETGID',
    'SETPCAP',
    'SETUID',
    'SYS_CHROOT',
)
"""All that root in a container may do: Docker's default set but for device nodes and audit."""

OOM_SCORE = 300
"""A host short of memory sacrifices users' processes before its own services."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the operator decides about every container.

    :ivar log_max_size: MiB
    :ivar runtime: OCI runtime, None for Docker's default
    """

    log_max_size: int = 10
    log_max_files: int = 3
    runtime: str | None = None


def build_create(
    container: Container, sandbox: contract.Sandbox, image: str, settings: Settings
) -> dict[str, typing.Any]:
    """Return the body of Docker's create request for a container in its sandbox.

    :param image: as Docker shall look it up
    :raises ValueError: the sandbox has no pause container yet
    """
    if sandbox.pause is None:
        raise ValueError(f'sandbox {sandbox.instance_id} has no pause container')
    body: dict[str, typing.Any] = {
        'Image': image,
        'Labels': labels(container, sandbox),
        'Env': [f'{name}={value}' for name, value in container.environment.items()],
        'Tty': container.tty,
        'OpenStdin': container.interactive,
        'Healthcheck': {'Test': ['NONE']},
        'HostConfig': host_config(container, sandbox, sandbox.pause.id, settings),
    }
    if container.command:
        body['Cmd'] = list(container.command)
    if container.entrypoint:
        body['Entrypoint'] = list(container.entrypoint)
    if container.workdir:
        body['WorkingDir'] = container.workdir
    return body


def labels(container: Container, sandbox: contract.Sandbox) -> dict[str, str]:
    """Return the labels in Docker: the user's under a name of their own, and ours."""
    theirs = {LABEL_NAMESPACE + name: str(value) for name, value in container.labels.items()}
    return theirs | {
        contract.LABEL_SANDBOX: sandbox.instance_id,
        contract.LABEL_ROLE: contract.ROLE_CONTAINER,
        contract.LABEL_CONTAINER: container.uuid,
        contract.LABEL_INCARNATION: sandbox.incarnation,
        contract.LABEL_NAME: container.name or '',
        contract.LABEL_DISK: str(container.disk or ''),
    }


def host_config(
    container: Container, sandbox: contract.Sandbox, pause_id: str, settings: Settings
) -> dict[str, typing.Any]:
    """Return the host side of the request: where the container lives and what it may.

    Docker restarts no container: it gives up for ever on one whose sandbox is not there.
    """
    joined = f'container:{pause_id}'
    config: dict[str, typing.Any] = {
        'NetworkMode': joined,
        'IpcMode': joined,
        'PidMode': joined,
        'VolumesFrom': [pause_id],
        'CgroupParent': sandbox.cgroup_parent,
        'RestartPolicy': {'Name': 'no'},
        'Privileged': False,
        'CapDrop': ['ALL'],
        'CapAdd': list(CAPABILITIES),
        'OomScoreAdj': OOM_SCORE,
        'LogConfig': {
            'Type': 'json-file',
            'Config': {
                'max-size': f'{settings.log_max_size}m',
                'max-file': str(settings.log_max_files),
            },
        },
        **resources(container),
    }
    size = container.disk or sandbox.limits.disk_gb
    if size and sandbox.limits.disk_enforced:
        config['StorageOpt'] = {'size': f'{size}G'}
    if settings.runtime:
        config['Runtime'] = settings.runtime
    return config


def resources(container: Container) -> dict[str, int]:
    """Return the container's own limits, 0 for none, as create and update take them.

    Swap is not to be had: the limit with it is the limit without.
    """
    memory = (container.memory or 0) * 1024 * 1024
    quota = round(container.cpu * CPU_PERIOD) if container.cpu else 0
    return {
        'Memory': memory,
        'MemorySwap': memory,
        'CpuPeriod': CPU_PERIOD if quota else 0,
        'CpuQuota': quota,
    }


def limits(resources: dict[str, int]) -> dict[str, float | None]:
    """Return a container's own limits in the terms of its record: `resources` undone."""
    quota, period = resources.get('CpuQuota') or 0, resources.get('CpuPeriod') or CPU_PERIOD
    memory = resources.get('Memory') or 0
    return {
        'cpu': quota / period if quota > 0 else None,
        'memory': memory >> 20 if memory else None,
    }
