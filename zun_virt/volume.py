"""Cinder volumes as file systems that a sandbox's containers see.

os-brick connects a volume to the host, as a block device or a file; what is on it is mounted
below the sandbox's directory of volumes, which is bound into its containers.  Every step may
be done again, from wherever an earlier attempt was interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import pathlib
import time
import typing
from collections.abc import Callable, Iterable, Iterator

import os_brick.exception
from nova import exception
from os_brick.initiator import connector
from oslo_concurrency import processutils
from oslo_log import log as logging

from zun_virt import counters, sandbox
from zun_virt.privsep import FAILURES, filesystems

LOG = logging.getLogger(__name__)

PROPERTY = 'zun:file_system'
"""Property of a volume: the file system to be made on it when it is blank."""

_SHARES = ('nfs', 'glusterfs', 'quobyte', 'smbfs', 'vzstorage')
_FAILURES = (*FAILURES, os_brick.exception.BrickException, processutils.ProcessExecutionError)
_ENDING_SECONDS = 5.0
"""How long what died with its container may still hold a volume."""


class Request(typing.NamedTuple):
    """A volume as nova asks for it.

    :ivar connection: what Cinder says of the way to it
    :ivar device: its name in nova
    """

    connection: dict[str, typing.Any]
    device: str

    @property
    def id(self) -> str:
        """The volume's id."""
        found = self.connection.get('serial') or self.data.get('volume_id')
        if not found:
            raise exception.InvalidInput(reason='nova does not say which volume it is')
        return str(found)

    @property
    def data(self) -> dict[str, typing.Any]:
        """What os-brick needs to know."""
        found: dict[str, typing.Any] = self.connection.setdefault('data', {})
        return found

    @property
    def read_only(self) -> bool:
        """Whether Cinder lets nobody write to it."""
        return bool(self.data.get('access_mode') == 'ro')

    @property
    def is_file(self) -> bool:
        """Whether it stays within reach when Cinder gives up an attachment."""
        return self.connection.get('driver_volume_type') in _SHARES

    def refusal(self) -> str | None:
        """Return why a sandbox cannot have such a volume, None when it can."""
        if self.connection.get('multiattach'):
            return 'its file system would be mounted on two hosts, which destroys it'
        if self.data.get('encrypted'):
            return 'it is encrypted, and sandboxes have nothing to decrypt it with'
        kind = self.data.get('format') or 'raw'
        return None if kind == 'raw' else f'it is a {kind} file, and only raw ones can be mounted'


class Brick:
    """The way to volumes: os-brick."""

    def __init__(self, root_helper: str, host: str, share_base: str) -> None:
        """Connect volumes to this host.

        :param host: nova's name of this host
        :param share_base: directory below which shares are mounted
        """
        self._root_helper, self._host, self._share_base = root_helper, host, share_base

    def properties(self, address: str) -> dict[str, typing.Any]:
        """Return what Cinder must know of this host.

        :param address: from which storage is reached
        """
        with _translated('Asking os-brick for this host'):
            found: dict[str, typing.Any] = connector.get_connector_properties(
                self._root_helper,
                address,
                multipath=False,
                enforce_multipath=False,
                host=self._host,
            )
        return found

    def connect(self, request: Request) -> str:
        """Connect a volume, and return the path of its device or file."""
        with _translated(f'Connecting volume {request.id}'):
            data = request.data
            path = str(self._connector(request).connect_volume(data)['path'])
            data['device_path'] = path
        return path

    def paths(self, request: Request) -> list[str]:
        """Return where a volume may be connected."""
        with _translated(f'Looking for volume {request.id}'):
            return [str(path) for path in self._connector(request).get_volume_paths(request.data)]

    def disconnect(self, request: Request) -> None:
        """Disconnect a volume; one that is not connected is fine."""
        with _translated(f'Disconnecting volume {request.id}'):
            data = request.data
            self._connector(request).disconnect_volume(data, {'path': data.get('device_path')})

    def extend(self, request: Request) -> None:
        """Make a connected device show its new size; a file shows it anyway."""
        with (
            _translated(f'Extending volume {request.id}'),
            contextlib.suppress(NotImplementedError),
        ):
            self._connector(request).extend_volume(request.data)

    def _connector(self, request: Request) -> typing.Any:
        return connector.InitiatorConnector.factory(
            request.connection['driver_volume_type'].upper(),
            self._root_helper,
            conn=request.connection,
            nfs_mount_point_base=self._share_base,
            do_local_attach=True,
        )


class Volumes:
    """Mounts the volumes of sandboxes."""

    def __init__(self, brick: Brick, store: sandbox.SandboxStore) -> None:
        """Mount what `brick` connects where `store` has the places for it."""
        self._brick = brick
        self._store = store
        self._counters = counters.Counters()

    def prepare(self) -> None:
        """See to it that what is mounted later appears in running containers.

        :raises OSError: it cannot be
        """
        try:
            filesystems.share()
            filesystems.sweep()
        except FAILURES as error:
            raise OSError(f'{self._store.volumes_root} cannot be shared: {error}') from error

    def connector(self, address: str) -> dict[str, typing.Any]:
        """Return what Cinder must know of this host, which reaches storage from there."""
        return self._brick.properties(address)

    def mount(self, instance_id: str, request: Request, kind: Callable[[], str]) -> sandbox.Volume:
        """Mount a volume; one that is mounted stays as it is.

        :param kind: returns the file system to be made should the volume be blank
        :raises nova.exception.InvalidInput: a sandbox cannot have this volume
        :raises nova.exception.VolumeAttachFailed: it could not be mounted
        """
        why_not = request.refusal()
        if why_not:
            raise _refused(request, why_not)
        target = self._place(instance_id) / request.id
        with _attaching(request), contextlib.ExitStack() as undo:
            source = self._brick.connect(request)
            if request.id in filesystems.mounted(target.parent):
                file_system = filesystems.kind_of(target)
            else:
                undo.callback(self.forget, instance_id, request)
                device = filesystems.connect(source, request.read_only)
                file_system = self._file_system(request, device, kind)
                self._store.create(instance_id)
                target.mkdir(exist_ok=True)
                filesystems.mount(device, str(target), file_system, request.read_only)
                self._counters.since_first(str(target), device)
            undo.pop_all()
        LOG.info('Sandbox %s: mounted %s on volume %s', instance_id, file_system, request.id)
        return sandbox.Volume(
            id=request.id,
            path=sandbox.volume_path(request.id),
            device=request.device,
            file_system=file_system,
            read_only=request.read_only,
        )

    def _file_system(self, request: Request, device: str, kind: Callable[[], str]) -> str:
        """Return what is on a volume, which is made if nothing is."""
        found: str
        found, blank = filesystems.probe(device)
        if found in filesystems.KINDS:
            return found
        if not blank:
            what = f'there is {found} on it' if found else 'there is something unknown on it'
            raise _refused(request, f'{what}: neither ext4 nor xfs, nor is it blank')
        if request.read_only:
            raise _refused(request, 'it is blank, and read-only')
        chosen = kind()
        if chosen not in filesystems.KINDS:
            raise _refused(request, f'{PROPERTY}={chosen!r}: it can be ext4 or xfs')
        LOG.info('Making %s on volume %s, which is blank', chosen, request.id)
        filesystems.make(device, chosen)
        return chosen

    def unmount(self, instance_id: str, request: Request) -> None:
        """Unmount and disconnect a volume, as far as it is mounted and connected.

        :raises nova.exception.DeviceDetachFailed: something in it is open, and all stays
        """
        place = self._place(instance_id)
        self._unmount(place / request.id, time.monotonic(), 'in the sandbox')
        try:
            self._disconnect(request)
        except _FAILURES as error:
            raise exception.DeviceDetachFailed(device=request.id, reason=str(error)) from error

    def forget(self, instance_id: str, request: Request) -> None:
        """Undo what a failed attachment began; nova shows the user what made it fail."""
        try:
            self.unmount(instance_id, request)
        except (*_FAILURES, exception.NovaException):
            LOG.exception('Sandbox %s: volume %s was left connected', instance_id, request.id)

    def release(self, instance_id: str, requests: Iterable[Request] = ()) -> None:
        """Unmount all volumes of a sandbox in which nothing runs.

        :param requests: those to be disconnected from the host, too
        :raises nova.exception.DeviceDetachFailed: one is in use by somebody else on this
            host; all have been tried
        """
        place, failed = self._place(instance_id), []
        deadline = time.monotonic() + _ENDING_SECONDS
        left = {entry.name for entry in place.iterdir()} if place.is_dir() else set()
        for name in left | set(filesystems.mounted(place)):
            try:
                self._unmount(place / name, deadline, 'of the host')
            except exception.DeviceDetachFailed as error:
                LOG.warning('Sandbox %s: %s', instance_id, error)
                failed.append(error)
        if failed:
            raise failed[0]
        for request in requests:
            try:
                self._disconnect(request)
            except _FAILURES as error:
                raise exception.DeviceDetachFailed(device=request.id, reason=str(error)) from error

    def grow(self, instance_id: str, request: Request) -> None:
        """Grow a mounted volume to its new size; another grows when it is mounted.

        :raises nova.exception.NovaException: it cannot be while it is in use
        """
        self._brick.extend(request)
        place = self._place(instance_id)
        if request.id not in filesystems.mounted(place):
            return
        try:
            size = filesystems.grow(str(place / request.id))
        except FAILURES as error:
            raise exception.NovaException(
                f'Volume {request.id} has its new size, but its file system will grow only at the '
                f"server's next start: {error}"
            ) from error
        LOG.info('Sandbox %s: volume %s has %d bytes', instance_id, request.id, size)

    def usage(self, instance_id: str) -> dict[str, counters.Counts]:
        """Return how much was read and written of each mounted volume since it was mounted.

        Of one that was mounted before this service started: since that was asked first.
        """
        place, found = self._place(instance_id), {}
        for volume_id, device in filesystems.mounted(place).items():
            used = self._counters.since_first(str(place / volume_id), device)
            if used is not None:
                found[volume_id] = used
        return found

    def _place(self, instance_id: str) -> pathlib.Path:
        # As the kernel tells of mounts, whatever links lead there.
        return self._store.volumes(instance_id).resolve()

    def _unmount(self, target: pathlib.Path, deadline: float, whose: str) -> None:
        while True:
            try:
                filesystems.unmount(str(target))
                break
            except FAILURES as error:
                busy = isinstance(error, OSError) and error.errno == errno.EBUSY
                if busy and time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                reason = f'a process {whose} has it open' if busy else str(error)
                raise exception.DeviceDetachFailed(device=target.name, reason=reason) from error
        self._counters.forget(str(target))
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()

    def _disconnect(self, request: Request) -> None:
        for path in self._brick.paths(request):
            filesystems.disconnect(path)
        self._brick.disconnect(request)


def _refused(request: Request, why: str) -> exception.InvalidInput:
    return exception.InvalidInput(reason=f'a sandbox cannot have volume {request.id}: {why}')


@contextlib.contextmanager
def _attaching(request: Request) -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise exception.VolumeAttachFailed(volume_id=request.id, reason=str(error)) from error


@contextlib.contextmanager
def _translated(attempt: str) -> Iterator[None]:
    """Raise what comes out of os-brick as one kind of error, with what was attempted."""
    try:
        yield
    except (os_brick.exception.BrickException, processutils.ProcessExecutionError) as error:
        raise os_brick.exception.BrickException(f'{attempt}: {error}') from error
