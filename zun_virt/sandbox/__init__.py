"""What the driver and the agent agree on: a sandbox's names, labels, files and lock.

The driver writes ``<state_path>/sandboxes/<instance uuid>/sandbox.json``; the agent
reads it and starts containers only in a sandbox whose state is ``ready``.  Both take
the sandbox's lock around what must not overlap: the driver around a change of state,
stop and removal, the agent around check-and-create and check-and-start.

This module imports neither nova nor os-vif nor docker, so that the agent can use it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import threading
import time
import uuid
from collections.abc import Iterator

from zun_virt.sandbox.record import (
    SCHEMA_VERSION,
    Address,
    Limits,
    PauseContainer,
    Sandbox,
    SandboxBusy,
    SandboxCorrupt,
    SandboxError,
    SandboxTooNew,
    State,
    Volume,
)

__all__ = [
    'SCHEMA_VERSION',
    'Address',
    'Limits',
    'PauseContainer',
    'Sandbox',
    'SandboxBusy',
    'SandboxCorrupt',
    'SandboxError',
    'SandboxStore',
    'SandboxTooNew',
    'State',
    'Volume',
    'boot_id',
    'cgroup_parent',
    'container_name',
    'sandbox_name',
    'volume_path',
]

LABEL_SANDBOX = 'org.openstack.zun.sandbox'
"""Label of the pause container and of every container in the sandbox: the instance uuid."""

LABEL_ROLE = 'org.openstack.zun.role'
"""Label that tells the pause container (`ROLE_PAUSE`) from a user's (`ROLE_CONTAINER`)."""

LABEL_CONTAINER = 'org.openstack.zun.container'
"""Label of a user's container: its uuid in the container API."""

LABEL_INCARNATION = 'org.openstack.zun.incarnation'
"""Label with the incarnation of the sandbox for which a container was made."""

LABEL_HOST = 'org.openstack.zun.host'
"""Label of the pause container: the nova host name that owns it."""

LABEL_NAME = 'org.openstack.zun.name'
"""Label of a user's container: the name that it had when it was made.  That of a pause
container is the name by which nova's driver interface knows the sandbox."""

LABEL_DISK = 'org.openstack.zun.disk'
"""Label of a user's container: the GiB that it asked for itself, empty where it has what its
sandbox had when it was made.  Always there: it could be an image's otherwise."""

ROLE_PAUSE = 'pause'
ROLE_CONTAINER = 'container'

SANDBOX_NAME_PREFIX = 'zun-sandbox-'
CONTAINER_NAME_PREFIX = 'zun-'

SANDBOX_IMAGES = 'zun-sandbox-image'
"""Repository, known to this machine alone, that holds the images taken from Glance."""

SNAPSHOT_IMAGES = 'zun-snapshot-image'
"""The same for the images of containers in snapshots."""

FILE_TARGETS = {
    'hosts': '/etc/hosts',
    'resolv.conf': '/etc/resolv.conf',
    'hostname': '/etc/hostname',
}
"""Files of the sandbox directory and where they are bound, read-only, in its containers.

They are bound into the pause container; ``--volumes-from`` brings them to the others.
"""


CONFIG_DRIVE_TARGET = '/config-drive'
"""Where the config drive of a sandbox that has one is in each of its containers."""

VOLUMES_TARGET = '/volumes'
"""Where the volumes of a sandbox are in each of its containers, each below its own id.

A directory of the host's, the mount points of `SandboxStore.volumes`, is bound there so that
what is mounted later appears in containers that run, and vanishes from them.
"""


def sandbox_name(instance_id: str) -> str:
    """Return the name of the sandbox's pause container in Docker."""
    return SANDBOX_NAME_PREFIX + instance_id


def container_name(container_id: str) -> str:
    """Return the name in Docker of the container with this id in the container API."""
    return CONTAINER_NAME_PREFIX + container_id


def volume_path(volume_id: str) -> str:
    """Return where a sandbox's containers find the volume."""
    return f'{VOLUMES_TARGET}/{volume_id}'


def cgroup_parent(instance_id: str, cgroup_driver: str) -> str:
    """Return Docker's ``--cgroup-parent`` for all containers of a sandbox.

    systemd nests a slice at every dash of its name, hence the bare digits.

    :param cgroup_driver: ``cgroupfs`` or ``systemd``, as Docker names its own
    :raises ValueError: for any other driver
    """
    digits = uuid.UUID(instance_id).hex
    if cgroup_driver == 'cgroupfs':
        return f'/zun/{digits}'
    if cgroup_driver == 'systemd':
        return f'zun-{digits}.slice'
    raise ValueError(f'unknown cgroup driver {cgroup_driver!r}')


def boot_id() -> str:
    """Return the id that the kernel chose for this boot."""
    return pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()


class SandboxStore:
    """The sandbox directories and locks below one state path.

    The state path belongs to a group of which both the driver's and the agent's user
    are members, and has the set-group-id bit; files are made writable for that group.
    """

    def __init__(self, state_path: str | os.PathLike[str]) -> None:
        """Use `state_path`, which `prepare` creates."""
        self.root = pathlib.Path(state_path) / 'sandboxes'
        self.volumes_root = pathlib.Path(state_path) / 'volumes'
        self.config_drives_root = pathlib.Path(state_path) / 'config-drives'
        self._locks = pathlib.Path(state_path) / 'locks'
        self._held = threading.local()

    def prepare(self) -> None:
        """Create the directories that are not there yet.

        No one else gets through them, to what tenants have on their volumes; below them a
        directory that containers see has to let in any of their users.
        """
        for directory in (self.root, self.volumes_root, self._locks):
            _make_directory(directory)
            if directory.stat().st_uid == os.geteuid():
                directory.chmod(0o2770)

    def directory(self, instance_id: str) -> pathlib.Path:
        """Return the directory of one sandbox, whether or not it exists."""
        return self.root / str(uuid.UUID(instance_id))

    def volumes(self, instance_id: str) -> pathlib.Path:
        """Return the directory in which one sandbox's volumes are mounted.

        It is not in the sandbox's own, which is removed with all that is in it.
        """
        return self.volumes_root / str(uuid.UUID(instance_id))

    def config_drive(self, instance_id: str) -> pathlib.Path:
        """Return the directory of one sandbox's config drive; most sandboxes have none.

        It holds passwords, and is in one that is the driver's alone.
        """
        return self.config_drives_root / str(uuid.UUID(instance_id))

    def create(self, instance_id: str) -> pathlib.Path:
        """Create the sandbox's directories if need be, and return its own."""
        directory = self.directory(instance_id)
        for made in (directory, self.volumes(instance_id)):
            _make_directory(made)
        return directory

    def ids(self) -> set[str]:
        """Return the ids of all sandboxes that have a directory."""
        found: set[str] = set()
        if not self.root.is_dir():
            return found
        for entry in self.root.iterdir():
            with contextlib.suppress(ValueError):
                found.add(str(uuid.UUID(entry.name)))
        return found

    def read(self, instance_id: str) -> Sandbox | None:
        """Return the sandbox's record, or None when it has none.

        :raises SandboxCorrupt: the file is not a record
        :raises SandboxTooNew: a later version wrote it
        """
        path = self.directory(instance_id) / 'sandbox.json'
        try:
            text = path.read_text(encoding='utf-8')
        except (FileNotFoundError, NotADirectoryError):
            return None
        except UnicodeDecodeError as error:
            raise SandboxCorrupt(f'{path}: not text: {error}') from error
        try:
            return Sandbox.from_json(text)
        except SandboxError as error:
            raise type(error)(f'{path}: {error}') from error

    def write(self, record: Sandbox) -> None:
        """Put the record in the place of the one before, whole or not at all.

        It is on the disk before the rename: a host that loses its power never finds
        half a record, which would have to be left alone for ever.
        """
        directory = self.directory(record.instance_id)
        fresh = directory / f'.sandbox.json.{threading.get_ident()}'
        with open(fresh, 'w', encoding='utf-8', opener=_open_for_group) as stream:
            stream.write(record.to_json())
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(directory / 'sandbox.json')

    def write_file(self, instance_id: str, name: str, content: str) -> None:
        """Write one of `FILE_TARGETS` in place.

        The file is bound into running containers, which would go on seeing the old
        inode if it were replaced.
        """
        path = self.directory(instance_id) / name
        data = content.encode()
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                os.fchmod(descriptor, 0o644)  # any user in a container may read it
            os.write(descriptor, data)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)

    def remove(self, instance_id: str) -> None:
        """Remove the sandbox's directories; one that is gone is fine.

        :raises OSError: a volume is still mounted there
        """
        self.remove_config_drive(instance_id)
        volumes = self.volumes(instance_id)
        with contextlib.suppress(FileNotFoundError):
            # Never with what is in it: that would be a tenant's data.
            for mount_point in volumes.iterdir():
                mount_point.rmdir()
            volumes.rmdir()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory(instance_id))

    def remove_config_drive(self, instance_id: str) -> None:
        """Remove the directory of a sandbox's config drive; one that is gone is fine."""
        drive = self.config_drive(instance_id)
        going = drive.with_suffix('.going')  # half of one is not taken for one
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(going)
        with contextlib.suppress(FileNotFoundError):
            drive.rename(going)
            shutil.rmtree(going)

    @contextlib.contextmanager
    def lock(self, instance_id: str, timeout: float) -> Iterator[None]:
        """Hold the sandbox's lock, against other threads and other processes.

        A thread that holds it may take it again.

        :param timeout: seconds to wait for it
        :raises SandboxBusy: it was not free in that time
        """
        key = str(uuid.UUID(instance_id))
        held: set[str] = self._held.__dict__.setdefault('keys', set())
        if key in held:
            yield
            return
        descriptor = self._lock_file(self._locks / key, timeout)
        held.add(key)
        try:
            yield
        finally:
            held.discard(key)
            os.close(descriptor)

    def discard_lock(self, instance_id: str) -> None:
        """Remove the lock's file. Only its holder may, when the sandbox is gone."""
        (self._locks / str(uuid.UUID(instance_id))).unlink(missing_ok=True)

    def _lock_file(self, path: pathlib.Path, timeout: float) -> int:
        """Lock the file and return its descriptor, whose closing unlocks it.

        flock belongs to the open file, where the POSIX locks of lockf (and so of
        oslo.concurrency) belong to the process: those would neither exclude another
        thread nor survive another thread's closing of the same file.
        """
        deadline = time.monotonic() + timeout
        delay = 0.001
        while True:
            descriptor = _open_for_group(str(path), os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last holder may have removed the file meanwhile; whoever comes
                # next would then lock another file of the same name.
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    return descriptor
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(descriptor)
            if time.monotonic() >= deadline:
                raise SandboxBusy(f'sandbox {path.name} was in use for {timeout:g} s')
            time.sleep(delay)
            delay = min(delay * 2, 0.05)


def _make_directory(directory: pathlib.Path) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o2775)


def _open_for_group(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o660)
    if os.fstat(descriptor).st_uid == os.geteuid():
        os.fchmod(descriptor, 0o660)  # whatever the umask is, the other service may write
    return descriptor
