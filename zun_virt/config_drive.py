"""A server's config drive, which here is a directory that its containers see.

cloud-init looks for one there in containers (DataSourceConfigDrive). What is in it is Nova's: the
layout is that of the drive of a virtual machine.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import typing

from nova.api.metadata import base as metadata
from nova.virt import configdrive

from zun_virt import sandbox


class Injected(typing.NamedTuple):
    """What comes with a request for a server, and is stored nowhere.

    :ivar files: paths and contents of its user
    :ivar password: that Nova made for its administrator
    """

    files: typing.Any = ()
    password: str | None = None


NOTHING = Injected()


def prepare(store: sandbox.SandboxStore, instance: typing.Any) -> pathlib.Path | None:
    """Make the directory of a server that shall have a config drive, and return it, else None.

    It is bound into the sandbox's pause container, and has to be there before that.
    """
    if not configdrive.required_by(instance):
        return None
    store.create(instance.uuid)
    directory = store.config_drive(instance.uuid)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)  # of an earlier attempt
    _make_readable(directory)
    return directory


def write(
    directory: pathlib.Path, instance: typing.Any, network_info: typing.Any, injected: Injected
) -> None:
    """Write what Nova knows of a server into its directory; see `prepare`."""
    drive = metadata.InstanceMetadata(
        instance,
        content=injected.files,
        extra_md={'admin_pass': injected.password} if injected.password else {},
        network_info=network_info,
    )
    for name, content in drive.metadata_for_config_drive():
        path = directory / name
        for parent in reversed(pathlib.PurePath(name).parents[:-1]):
            _make_readable(directory / parent)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(0o444)  # any user in a container may read it


def _make_readable(directory: pathlib.Path) -> None:
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
