"""What the driver and the agent agree on: a sandbox's names, labels, files and lock.

The driver writes ``<state_path>/sandboxes/<instance uuid>/sandbox.json``; the agent
reads it and starts containers only in a sandbox whose state is ``ready``.  Both take
the sandbox's lock around what must not overlap: the driver around a change of state,
stop and removal, the agent around check-and-create and check-and-start.

This module imports neither nova nor os-vif nor docker, so that the agent can use it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import fcntl
import json
import os
import pathlib
import shutil
import threading
import time
import typing
import uuid
from collections.abc import Iterator

SCHEMA_VERSION = 2

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

ROLE_PAUSE = 'pause'
ROLE_CONTAINER = 'container'

SANDBOX_NAME_PREFIX = 'zun-sandbox-'
CONTAINER_NAME_PREFIX = 'zun-'

FILE_TARGETS = {
    'hosts': '/etc/hosts',
    'resolv.conf': '/etc/resolv.conf',
    'hostname': '/etc/hostname',
}
"""Files of the sandbox directory and where they are bound, read-only, in its containers.

They are bound into the pause container; ``--volumes-from`` brings them to the others.
"""


class SandboxError(Exception):
    """A sandbox's record or lock cannot be used; the message says which and why."""


class SandboxCorrupt(SandboxError):
    """``sandbox.json`` is not what any version of this module writes."""


class SandboxTooNew(SandboxError):
    """``sandbox.json`` was written by a later version; it must not be touched."""


class SandboxBusy(SandboxError):
    """The sandbox's lock was not free within the time allowed."""


class State(enum.StrEnum):
    """The life of a sandbox, as the driver tells it to the agent."""

    BUILDING = 'building'
    """Its pause container starts or runs; the network is not there yet."""
    READY = 'ready'
    """Its network is there: containers may start."""
    PAUSED = 'paused'
    """Every container in it is frozen."""
    STOPPING = 'stopping'
    """Its containers are being stopped; `Sandbox.running` names those that ran."""
    STOPPED = 'stopped'
    DELETING = 'deleting'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Address:
    """One fixed address of one port.

    :ivar prefix_length: of the subnet, in bits
    :ivar version: of the internet protocol, 4 or 6
    :ivar preserve_on_delete: whether the port outlives the server
    :ivar fqdn: the full name that Neutron has for it, '' for none
    """

    network_id: str
    port_id: str
    mac: str
    address: str
    prefix_length: int
    version: int
    preserve_on_delete: bool = False
    fqdn: str = ''


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What the containers of a sandbox may use together; None where there is no limit.

    :ivar cpus: cores, as a fraction
    :ivar memory_mb: MiB
    :ivar pids: processes and threads
    :ivar disk_gb: GiB, as the flavor says
    :ivar disk_enforced: whether Docker can hold what a container writes outside of volumes to
        it, each for itself
    """

    cpus: float | None
    memory_mb: int | None
    pids: int | None
    disk_gb: int | None = None
    disk_enforced: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class PauseContainer:
    """The pause container that `State.READY` speaks of.

    A record whose identity differs from Docker's is out of date: the container was
    started anew (``started_at``) or the host was (``boot_id``), and with it went the
    network that the record promises.
    """

    id: str
    started_at: str
    boot_id: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sandbox:
    """The content of ``sandbox.json``.

    :ivar metadata: the server's metadata, where the agent finds its intent
    :ivar incarnation: a uuid, new whenever the pause container is made anew
    :ivar running: ids in the container API of those that ran when the sandbox was
        stopped, and that run again when it starts
    :ivar held: no container runs for now, although the sandbox does: it is being rescued
    :ivar images: of a sandbox that comes from a snapshot, Docker's name of the image that
        takes the place of its own for each container that the snapshot holds
    """

    instance_id: str
    project_id: str
    user_id: str
    name: str
    hostname: str
    host: str
    state: State
    incarnation: str
    cgroup_parent: str
    limits: Limits
    pause: PauseContainer | None = None
    addresses: tuple[Address, ...] = ()
    volumes: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    held: bool = False
    images: dict[str, str] = dataclasses.field(default_factory=dict)
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)

    def replace(self, **changes: typing.Any) -> Sandbox:
        """Return a copy with the given fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """Return the record as the text of ``sandbox.json``."""
        return json.dumps({'version': SCHEMA_VERSION, **dataclasses.asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Sandbox:
        """Read the text of ``sandbox.json``.

        :raises SandboxTooNew: a later version of this module wrote it
        :raises SandboxCorrupt: no version of this module did
        """
        try:
            fields = json.loads(text)
            version = fields.pop('version')
            if version > SCHEMA_VERSION:
                raise SandboxTooNew(f'schema version {version}, at most {SCHEMA_VERSION} is known')
            fields['state'] = State(fields['state'])
            fields['limits'] = Limits(**fields['limits'])
            fields['pause'] = PauseContainer(**fields['pause']) if fields['pause'] else None
            fields['addresses'] = tuple(Address(**address) for address in fields['addresses'])
            fields['volumes'] = tuple(fields['volumes'])
            fields['running'] = tuple(fields['running'])
            return cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SandboxCorrupt(f'not a sandbox record: {error!r}') from error


def sandbox_name(instance_id: str) -> str:
    """Return the name of the sandbox's pause container in Docker."""
    return SANDBOX_NAME_PREFIX + instance_id


def container_name(container_id: str) -> str:
    """Return the name in Docker of the container with this id in the container API."""
    return CONTAINER_NAME_PREFIX + container_id


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
        self._locks = pathlib.Path(state_path) / 'locks'
        self._held = threading.local()

    def prepare(self) -> None:
        """Create the directories that are not there yet."""
        for directory in (self.root, self._locks):
            _make_directory(directory)

    def directory(self, instance_id: str) -> pathlib.Path:
        """Return the directory of one sandbox, whether or not it exists."""
        return self.root / str(uuid.UUID(instance_id))

    def create(self, instance_id: str) -> pathlib.Path:
        """Create the sandbox's directory if need be, and return it."""
        directory = self.directory(instance_id)
        _make_directory(directory)
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
        """Remove the sandbox's directory; one that is gone is fine."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory(instance_id))

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
