"""The record of a sandbox, ``sandbox.json``: what the driver tells the agent."""

from __future__ import annotations

import dataclasses
import enum
import json
import typing

SCHEMA_VERSION = 3


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
    """Every container in it is frozen, or is being frozen or thawed."""
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
class Volume:
    """A Cinder volume that the sandbox's containers see.

    :ivar path: in every container
    :ivar device: as nova names it; no container has such a device
    :ivar file_system: what is on it
    """

    id: str
    path: str
    device: str
    file_system: str
    read_only: bool = False


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
    :ivar frozen: ids in the container API of those that were alive when the sandbox was frozen
    :ivar paused: ids in the container API of those that their users had frozen when the sandbox
        was, and that stay so when it is thawed
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
    volumes: tuple[Volume, ...] = ()
    running: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    paused: tuple[str, ...] = ()
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
            fields['volumes'] = tuple(Volume(**volume) for volume in fields['volumes'])
            fields['running'] = tuple(fields['running'])
            for name in ('frozen', 'paused'):  # newer than the first records
                fields[name] = tuple(fields.get(name, ()))
            return cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SandboxCorrupt(f'not a sandbox record: {error!r}') from error
