"""Cinder's volumes, as a tenant makes them and gives them to servers."""

from __future__ import annotations

import errno
import hashlib
import os
import pathlib
import subprocess
import typing

import openstack

from tests.cloud import host, settings
from tests.cloud.cloud import MADE, Workspace, image_id
from tests.cloud.waiting import wait_until


class Storage:
    """The tenant's volumes."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.user = space.user
        self.api = space.user.sdk.block_storage
        self._made: set[str] = set()

    def volume(self, size: int = 1, **spec: typing.Any) -> str:
        """Make a volume, which goes when the servers have; returns its id."""
        made = self.api.create_volume(size=size, name=self.space.name('volume'), **spec)
        self.space.finally_do(self.delete, made.id)
        self._made |= host.ids(made.id)
        MADE.update(host.ids(made.id))
        self.until(made.id, 'available')
        return str(made.id)

    def delete(self, volume_id: str) -> None:
        """Delete a volume, and wait for it."""
        self.api.delete_volume(volume_id)
        self.until(volume_id, 'gone')

    def status(self, volume_id: str) -> str:
        try:
            return str(self.api.get_volume(volume_id).status)
        except openstack.exceptions.NotFoundException:
            return 'gone'

    def until(self, volume_id: str, status: str) -> None:
        wait_until(
            f'volume {volume_id} {status}',
            lambda: self.status(volume_id) == status,
            timeout=60,
            interval=0.3,
            explain=lambda: self.status(volume_id),
        )

    def attach(self, server: str, volume_id: str, **spec: typing.Any) -> None:
        self.user.compute.create_volume_attachment(server, volume_id=volume_id, **spec)
        self.until(volume_id, 'in-use')

    def ask_detach(self, server: str, volume_id: str) -> None:
        self.user.compute.delete_volume_attachment(server, volume_id)

    def detach(self, server: str, volume_id: str) -> None:
        self.ask_detach(server, volume_id)
        self.until(volume_id, 'available')
        wait_until(
            'Nova has forgotten it', lambda: volume_id not in self.devices(server), timeout=30
        )

    def devices(self, server: str) -> dict[str, str]:
        """Return the names of a server's volumes in Nova, by their ids."""
        return {one.volume_id: one.device for one in self.user.compute.volume_attachments(server)}

    def loops(self) -> set[str]:
        """Return the loop devices of these volumes, each with its file."""
        return {loop for loop in host.loop_devices() if host.ids(loop) & self._made}

    def file(self, volume_id: str) -> pathlib.Path:
        """Return where Cinder keeps a volume."""
        return pathlib.Path(settings.load()['STATE'], 'cinder/share', f'volume-{volume_id}')

    def reason(self, server: str, action: str) -> str:
        """Return what Nova tells the tenant of the last failed action of this name."""
        found = [
            event.details or ''
            for one in self.user.compute.server_actions(server)
            if one.action == action
            for event in self.user.compute.get_server_action(one.request_id, server).events
        ]
        fault = self.user.compute.get_server(server).fault
        return ' '.join(map(str, [*found, fault]))


def path(volume_id: str) -> str:
    """Return where containers find a volume."""
    return f'/volumes/{volume_id}'


def disk(source: str, uuid: str | None = None, **spec: typing.Any) -> dict[str, typing.Any]:
    """Return what Nova takes for a volume of a new server, which is not to boot from it."""
    asked = {'source_type': source, 'destination_type': 'volume', 'boot_index': -1, **spec}
    return asked | ({'uuid': uuid} if uuid else {})


def root(space: Workspace) -> dict[str, typing.Any]:
    """Return what Nova takes for what a sandbox starts from, beside its volumes."""
    return {
        'source_type': 'image',
        'destination_type': 'local',
        'uuid': image_id(space.user, 'kubernetes/pause'),
        'boot_index': 0,
        'delete_on_termination': True,
    }


def file_system(file: pathlib.Path, directory: pathlib.Path, size: int | None = None) -> None:
    """Make an ext4 file system in a file, with what is in a directory.

    :param size: in MiB, of a file that is to be made; that of the file by default
    """
    command = ['mkfs.ext4', '-q', '-F', '-d', directory, file, *([f'{size}M'] if size else [])]
    subprocess.run(command, check=True, timeout=60, env={'PATH': '/usr/sbin:/sbin:/usr/bin:/bin'})


_CHUNK = 1 << 20


def digest(file: pathlib.Path) -> str:
    """Return what tells whether anything in a file has changed; a hole in it is zeros."""
    found, at = hashlib.sha256(b'%d ' % file.stat().st_size), 0
    with file.open('rb') as stream:
        while (data := _next_data(stream.fileno(), at)) is not None:
            at = stream.seek(data - data % _CHUNK)
            chunk = stream.read(_CHUNK)
            if chunk.strip(b'\0'):
                found.update(b'%d ' % at + chunk)
            at += _CHUNK
    return found.hexdigest()


def _next_data(file: int, at: int) -> int | None:
    """Return where a file has something else than a hole, None when not from there on."""
    try:
        return os.lseek(file, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None
