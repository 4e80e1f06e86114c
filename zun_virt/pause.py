"""What Docker is asked for when a sandbox's pause container is made."""

from __future__ import annotations

import os
import typing

from zun_virt import sandbox

LABEL_NAME = 'org.openstack.zun.name'
"""Label of the pause container: the name by which nova's driver interface knows it."""


def request(
    record: sandbox.Sandbox, *, image: str, directory: str | os.PathLike[str], name: str
) -> dict[str, typing.Any]:
    """Return the body of Docker's request that creates a sandbox's pause container.

    Its process is root's and has no capability, which lets the driver's own process, with
    few of them, open its network namespace.  Without Docker's network it starts twice as
    fast; Docker then writes none of the files below /etc, so that all are the sandbox's.

    :param directory: of the sandbox
    :param name: by which nova's driver interface knows it
    """
    return {
        'Image': image,
        'Hostname': record.hostname[:63],
        'User': '0:0',
        'NetworkDisabled': True,
        'Healthcheck': {'Test': ['NONE']},
        'Labels': {
            sandbox.LABEL_SANDBOX: record.instance_id,
            sandbox.LABEL_ROLE: sandbox.ROLE_PAUSE,
            sandbox.LABEL_INCARNATION: record.incarnation,
            sandbox.LABEL_HOST: record.host,
            LABEL_NAME: name,
        },
        'HostConfig': {
            'NetworkMode': 'none',
            'IpcMode': 'shareable',
            'CgroupParent': record.cgroup_parent,
            'RestartPolicy': {'Name': 'no'},
            'CapDrop': ['ALL'],
            'SecurityOpt': ['no-new-privileges'],
            'ReadonlyRootfs': True,
            'LogConfig': {'Type': 'json-file', 'Config': {'max-size': '1m', 'max-file': '1'}},
            'Binds': [
                f'{os.fspath(directory)}/{source}:{target}:ro'
                for source, target in sandbox.FILE_TARGETS.items()
            ],
        },
    }
