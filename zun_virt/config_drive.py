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

from keystoneauth1 import exceptions as keystone_errors
from neutronclient.common import exceptions as neutron_errors
from nova import exception
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


def prepare(store: sandbox.SandboxStore, instance: typing.Any, *, anew: bool = False) -> None:
    """Make the directory of a server that shall have a config drive; `complete` fills it.

    It is bound into the sandbox's pause container, and has to be there before that.

    :param anew: whether what is there is of an earlier server, and goes
    """
    if anew:
        store.remove_config_drive(instance.uuid)
    if not configdrive.required_by(instance):
        return
    store.create(instance.uuid)  # by which it is found when its server is nobody's any more
    store.config_drives_root.mkdir(exist_ok=True)
    store.config_drives_root.chmod(0o700)
    _make_readable(store.config_drive(instance.uuid))


def complete(
    store: sandbox.SandboxStore,
    instance: typing.Any,
    network_info: typing.Any,
    injected: Injected = NOTHING,
) -> bool:
    """Write what Nova knows of a server into its directory, if it has one that is not whole.

    :returns: whether it was written
    :raises nova.exception.NovaException: Nova or Neutron do not tell it
    """
    directory = store.config_drive(instance.uuid)
    if not directory.is_dir() or (directory / _LAST).is_dir():
        return False
    for old in directory.iterdir():  # and not the directory, which a container may have
        shutil.rmtree(old)
    # Within it, since what is put in its place is to be there at once.
    with tempfile.TemporaryDirectory(prefix='.', dir=directory) as made:
        root = pathlib.Path(made)
        for name, content in _content(instance, network_info, injected):
            _write(root / name, content)
        for path in root.rglob('*'):  # or one may be empty after a power cut
            _flush(path)
        for part in sorted(root.iterdir(), key=lambda part: part.name == _LAST):
            part.rename(directory / part.name)
    return True


def _content(
    instance: typing.Any, network_info: typing.Any, injected: Injected
) -> list[tuple[str, str | bytes]]:
    try:
        drive = metadata.InstanceMetadata(
            instance,
            content=injected.files,
            extra_md={'admin_pass': injected.password} if injected.password else {},
            network_info=network_info,
        )
        return list(drive.metadata_for_config_drive())
    except (
        keystone_errors.ClientException,
        neutron_errors.NeutronException,
        metadata.InvalidMetadataPath,
    ) as error:
        raise exception.NovaException(f'The config drive cannot be made: {error}') from error


def _write(path: pathlib.Path, content: str | bytes) -> None:
    made = [parent for parent in path.parents if not parent.is_dir()]
    for parent in reversed(made):
        _make_readable(parent)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o444)  # any user in a container may read it


def _flush(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_readable(directory: pathlib.Path) -> None:
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
