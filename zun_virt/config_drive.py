"""A server's config drive, which here is a directory that its containers see.

cloud-init looks for one there in containers (DataSourceConfigDrive). What is in it is Nova's: the
layout is that of the drive of a virtual machine.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
import typing

from nova.api.metadata import base as metadata
from nova.virt import configdrive

from zun_virt import sandbox

_LAST = 'openstack'
"""What of a drive is put in its place last: where it is, the drive is whole."""


class Injected(typing.NamedTuple):
    """What comes with a request for a server, and is stored nowhere.

    :ivar files: paths and contents of its user
    :ivar password: that Nova made for its administrator
    """

    files: typing.Any = ()
    password: str | None = None


NOTHING = Injected()


def prepare(
    store: sandbox.SandboxStore, instance: typing.Any, *, anew: bool = False
) -> pathlib.Path | None:
    """Make the directory of a server that shall have a config drive.

    It is bound into the sandbox's pause container, and has to be there before that.

    :param anew: whether what an earlier attempt has made there goes
    :returns: the directory if it is to be written (see `write`), else None
    """
    if not configdrive.required_by(instance):
        return None
    store.create(instance.uuid)  # by which it is found when its server is nobody's any more
    store.config_drives_root.mkdir(mode=0o700, exist_ok=True)
    directory = store.config_drive(instance.uuid)
    if (directory / _LAST).is_dir() and not anew:
        return None
    _make_readable(directory)
    for old in directory.iterdir():  # and not the directory, which a container may have
        shutil.rmtree(old)
    return directory


def write(
    directory: pathlib.Path,
    instance: typing.Any,
    network_info: typing.Any,
    injected: Injected = NOTHING,
) -> None:
    """Write what Nova knows of a server into its directory; see `prepare`."""
    drive = metadata.InstanceMetadata(
        instance,
        content=injected.files,
        extra_md={'admin_pass': injected.password} if injected.password else {},
        network_info=network_info,
    )
    # In there, which is bound into a container already: other file systems would not do.
    with tempfile.TemporaryDirectory(prefix='.', dir=directory) as made:
        root = pathlib.Path(made)
        for name, content in drive.metadata_for_config_drive():
            _write(root, name, content)
        for part in sorted(root.iterdir(), key=lambda part: part.name == _LAST):
            part.rename(directory / part.name)


def _write(root: pathlib.Path, name: str, content: str | bytes) -> None:
    for parent in reversed(pathlib.PurePath(name).parents[:-1]):
        _make_readable(root / parent)
    with (root / name).open('wb') as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())  # or it may be empty after a power cut, and seem whole
        os.fchmod(stream.fileno(), 0o444)  # any user in a container may read it


def _make_readable(directory: pathlib.Path) -> None:
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
