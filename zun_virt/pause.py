"""What Docker is asked for when a sandbox's pause container is made."""

from __future__ import annotations

import pathlib
import typing

from oslo_log import log as logging

from zun_virt import sandbox

LOG = logging.getLogger(__name__)

_OOM_SCORE = -998
"""The kernel ends what scores lowest last: after all that runs in the sandbox."""

_SYS_RESOURCE = 24
_FIRST_PROCESS = pathlib.Path('/proc/1/status')


def oom_score(status: str | None = None) -> int:
    """Return what the pause process gets for its ``oom_score_adj``.

    Where nothing on the machine may lower a score, it is 0: users' containers have a higher
    one, and more memory.

    :param status: of the machine's first process, which bounds what others may do; None
        to read it
    """
    if status is None:
        try:
            status = _FIRST_PROCESS.read_text()
        except OSError as error:  # /proc may be mounted with hidepid
            LOG.debug('What Docker may do is not known: %s', error)
            return 0
    for line in status.splitlines():
        if line.startswith('CapBnd:') and int(line.split()[1], 16) >> _SYS_RESOURCE & 1:
            return _OOM_SCORE
    return 0


def request(
    record: sandbox.Sandbox,
    *,
    image: str,
    store: sandbox.SandboxStore,
    name: str,
    score: int | None = None,
) -> dict[str, typing.Any]:
    """Return the body of Docker's request that creates a sandbox's pause container.

    Its process is root's and has no capability, which lets the driver's own process, with
    few of them, open its network namespace.  Without Docker's network it starts twice as
    fast; Docker then writes none of the files below /etc, so that all are the sandbox's.

    :param store: knows the sandbox's directories
    :param name: by which nova's driver interface knows it
    :param score: as `oom_score` returns it; None to ask it
    """
    return {
        'Image': image,
        'Hostname': record.hostname[:63],
        'User': '0:0',
        'NetworkDisabled': True,
        'Healthcheck': {'Test': ['NONE']},
        'Labels': _labels(record, name),
        'HostConfig': {
            'NetworkMode': 'none',
            'IpcMode': 'shareable',
            'CgroupParent': record.cgroup_parent,
            'RestartPolicy': {'Name': 'no'},
            'CapDrop': ['ALL'],
            'OomScoreAdj': oom_score() if score is None else score,
            'SecurityOpt': ['no-new-privileges'],
            'ReadonlyRootfs': True,
            'LogConfig': {'Type': 'json-file', 'Config': {'max-size': '1m', 'max-file': '1'}},
            'Binds': _binds(store, record.instance_id),
            'Mounts': [_volumes(store.volumes(record.instance_id))],
        },
    }


def _labels(record: sandbox.Sandbox, name: str) -> dict[str, str]:
    return {
        sandbox.LABEL_SANDBOX: record.instance_id,
        sandbox.LABEL_ROLE: sandbox.ROLE_PAUSE,
        sandbox.LABEL_INCARNATION: record.incarnation,
        sandbox.LABEL_HOST: record.host,
        sandbox.LABEL_NAME: name,
    }


def _binds(store: sandbox.SandboxStore, instance_id: str) -> list[str]:
    directory, drive = store.directory(instance_id), store.config_drive(instance_id)
    sources = {directory / source: target for source, target in sandbox.FILE_TARGETS.items()}
    if drive.is_dir():
        sources[drive] = sandbox.CONFIG_DRIVE_TARGET
    return [f'{source}:{target}:ro' for source, target in sources.items()]


def _volumes(directory: pathlib.Path) -> dict[str, typing.Any]:
    """Bind the directory of mount points, so that mounts to come are seen.

    Containers write to volumes and not beside them, on the host's own disk; but what is
    mounted there must not become read-only with it, as newer engines have it.
    """
    return {
        'Type': 'bind',
        'Source': str(directory),
        'Target': sandbox.VOLUMES_TARGET,
        'ReadOnly': True,
        'BindOptions': {'Propagation': 'rslave', 'ReadOnlyNonRecursive': True},
    }
