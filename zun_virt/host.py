"""What the driver asks of Docker, and what it is told.

The way to it is `zun_virt.engine`, whose errors leave here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
import typing
from collections.abc import Callable, Iterator

from oslo_log import log as logging

from zun_virt import sandbox
from zun_virt.containers import Container as Container
from zun_virt.containers import moment, own_limits
from zun_virt.engine import Conflict as Conflict
from zun_virt.engine import HostError as HostError
from zun_virt.engine import HostUnavailable as HostUnavailable
from zun_virt.engine import NotFound as NotFound
from zun_virt.engine import connect as connect
from zun_virt.engine import translated as translated

LOG = logging.getLogger(__name__)

MINIMUM_API_VERSION = (1, 41)  # Docker 20.10's

_NOT_FROZEN = ('is not paused', 'container not paused')
"""Docker's words for it, and those of its runtime."""

_REMOVAL_SECONDS = 30.0
_ENDS = 4096
"""Of how many containers the last end is remembered."""


class ImageRefused(HostError):
    """Docker does not take the archive."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What Docker says of itself and of the machine.

    :ivar memory_mb: of the machine, in MiB
    :ivar version: of the engine, as an integer that grows with it
    :ivar backing: the file system below the storage driver, empty where it does not say
    """

    cpus: int
    memory_mb: int
    data_root: str
    architecture: str
    version: int
    cgroup_driver: str
    cgroup_version: int
    storage_driver: str
    live_restore: bool
    swap_limit: bool
    version_text: str = ''
    backing: str = ''


class Host:
    """The containers and images of this machine."""

    def __init__(self, client: typing.Any, owner: str, parallel_starts: int = 0) -> None:
        """Use a client that `connect` returned.

        :param owner: nova's name of this host; other hosts' sandboxes are not touched
        :param parallel_starts: that Docker does at a time, 0 for twice the cores
        """
        self._client = client
        self._owner = owner
        self._ends: dict[str, float] = {}
        self._starts = threading.BoundedSemaphore(parallel_starts or 2 * (os.cpu_count() or 1))

    def facts(self) -> Facts:
        """Return what Docker says of itself and of the machine."""
        with translated('Reading the facts of the engine'):
            info = self._client.info()
        numbers = [*info['ServerVersion'].split('+')[0].split('-')[0].split('.'), '0', '0'][:3]
        return Facts(
            cpus=info['NCPU'],
            memory_mb=info['MemTotal'] >> 20,
            data_root=info['DockerRootDir'],
            architecture=info['Architecture'],
            version=sum(
                int(number) * 1000**place
                for number, place in zip(numbers, (2, 1, 0), strict=True)
                if number.isdigit()
            ),
            cgroup_driver=info['CgroupDriver'],
            cgroup_version=int(info.get('CgroupVersion', 1)),
            storage_driver=info['Driver'],
            live_restore=info.get('LiveRestoreEnabled', False),
            swap_limit=info.get('SwapLimit', False),
            version_text=info['ServerVersion'],
            backing=dict(info.get('DriverStatus') or ()).get('Backing Filesystem', ''),
        )

    def check(self) -> Facts:
        """Return what Docker says of itself, or refuse it.

        :raises HostError: it cannot hold sandboxes
        """
        version = tuple(int(number) for number in self._client.api_version.split('.'))
        if version < MINIMUM_API_VERSION:
            raise HostError(f'API version {self._client.api_version} of the engine is too old')
        return self.facts()

    def sandboxes(self) -> list[Container]:
        """Return the pause containers of this host's sandboxes, in any state."""
        return self._list(
            f'{sandbox.LABEL_ROLE}={sandbox.ROLE_PAUSE}', f'{sandbox.LABEL_HOST}={self._owner}'
        )

    @property
    def owner(self) -> str:
        """Nova's name of this host."""
        return self._owner

    def everything(self) -> set[str]:
        """Return the ids of all sandboxes of this host of which there is any container."""
        found = self._list(sandbox.LABEL_SANDBOX)
        others = {
            container.sandbox_id
            for container in found
            if container.labels.get(sandbox.LABEL_HOST, self._owner) != self._owner
        }
        return {container.sandbox_id for container in found} - others

    def containers(self, instance_id: str) -> list[Container]:
        """Return all containers of one sandbox, in any state."""
        return self._list(f'{sandbox.LABEL_SANDBOX}={instance_id}')

    def _list(self, *labels: str) -> list[Container]:
        with translated('Listing containers'):
            entries = self._client.containers(all=True, filters={'label': list(labels)})
        return [
            Container(
                id=entry['Id'],
                name=(entry['Names'] or ['/'])[0].lstrip('/'),
                state=entry['State'],
                labels=entry['Labels'],
            )
            for entry in entries
        ]

    def inspect(self, container: str) -> Container:
        """Return all that is known of a container.

        :param container: its id or name
        :raises NotFound: there is none
        """
        with translated(f'Inspecting container {container}'):
            data = self._client.inspect_container(container)
        labels = data['Config']['Labels'] or {}
        return Container(
            id=data['Id'],
            name=data['Name'].lstrip('/'),
            state=data['State']['Status'],
            labels=labels,
            pid=data['State']['Pid'],
            exit_code=data['State']['ExitCode'],
            started_at=data['State']['StartedAt'],
            finished_at=data['State']['FinishedAt'],
            own_limits=own_limits(data['HostConfig'], labels),
            image=data['Image'],
        )

    def pause_container(self, instance_id: str) -> Container | None:
        """Return the sandbox's pause container, or None when it has none."""
        try:
            found = self.inspect(sandbox.sandbox_name(instance_id))
        except NotFound:
            return None
        # Ownership is the label: anybody may have given a container this name.
        return found if found.labels.get(sandbox.LABEL_SANDBOX) == instance_id else None

    def create(self, name: str, request: dict[str, typing.Any]) -> str:
        """Create a container and return its id.

        :raises NotFound: its image does not exist
        :raises Conflict: the name is taken
        """
        with self._starts, translated(f'Creating container {name}'):
            created: str = self._client.create_container_from_config(request, name)['Id']
        return created

    def start(self, container: str) -> None:
        """Start a container; one that runs is fine."""
        with self._starts, translated(f'Starting container {container}'):
            self._client.start(container)

    def stop(self, container: str, timeout: int) -> None:
        """Stop a container; one that is not running or has gone is fine.

        :param timeout: seconds between its stop signal and SIGKILL
        """
        with contextlib.suppress(NotFound), translated(f'Stopping container {container}'):
            self._client.stop(container, timeout=timeout)

    def pause(self, container: str) -> None:
        """Freeze a container's processes; one that has ended or is frozen already is fine."""
        with contextlib.suppress(NotFound, Conflict), translated(f'Pausing container {container}'):
            self._client.pause(container)

    def unpause(self, container: str) -> None:
        """Thaw a container's processes; one that is not frozen or has gone is fine."""
        try:
            with translated(f'Unpausing container {container}'):
                self._client.unpause(container)
        except HostError as error:
            # The agent thaws what it is to stop, and asks nobody. What was killed is thawed by
            # the runtime, and Docker does not know that before it has ended.
            thawed = any(words in str(error) for words in _NOT_FROZEN)
            if not isinstance(error, NotFound) and not thawed:
                raise

    def remove(self, container: str) -> None:
        """Remove a container and its anonymous volumes; one that has gone is fine.

        :raises Conflict: somebody else removes it, and does not get done with that
        """
        deadline = time.monotonic() + _REMOVAL_SECONDS
        with contextlib.suppress(NotFound):
            while True:
                try:
                    with translated(f'Removing container {container}'):
                        self._client.remove_container(container, v=True, force=True)
                except Conflict as error:
                    # The agent does at the same moment what its user asked for.
                    if 'removal of' not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
                else:
                    return

    def log_tail(self, container: str, lines: int) -> bytes:
        """Return the last lines a container wrote, both of its streams together.

        Each begins with the time at which it was written, and a blank.
        """
        with translated(f'Reading the log of container {container}'):
            data: bytes = self._client.logs(container, tail=lines, timestamps=True)
        return data

    def image_id(self, name: str) -> str | None:
        """Return the id of the image with this name, or None when there is none."""
        try:
            with translated(f'Inspecting image {name}'):
                found: str = self._client.inspect_image(name)['Id']
        except NotFound:
            return None
        return found

    def image_like(self, pattern: str) -> str | None:
        """Return the id of the newest image whose name matches, None when none does.

        :param pattern: a name in which ``*`` stands for anything
        """
        with translated(f'Looking for images {pattern}'):
            found = self._client.images(filters={'reference': pattern})
        newest: str | None = max(found, key=lambda image: image['Created'])['Id'] if found else None
        return newest

    def pull(self, name: str) -> str:
        """Fetch an image from its registry and return its id.

        :raises NotFound: the registry does not have it
        """
        repository, tag = _reference(name)
        with translated(f'Pulling image {name}'):
            # Docker answers 200 and puts an error into the stream.
            for line in self._client.pull(repository, tag=tag, stream=True, decode=True):
                if 'error' in line:
                    raise HostError(f'Pulling image {name}: {line["error"]}')
        found = self.image_id(name)
        if found is None:
            raise NotFound(f'Pulling image {name}: the engine does not show it afterwards')
        return found

    def load(self, archive: typing.BinaryIO, tag: str) -> str:
        """Load an image archive, which gives its one image this tag, and return its id.

        :raises ImageRefused: Docker finds it damaged
        """
        with translated(f'Loading image {tag}'):
            for line in self._client.load_image(archive):
                if 'error' in line:
                    raise ImageRefused(f'Loading image {tag}: {line["error"]}')
        found = self.image_id(tag)
        if found is None:
            raise ImageRefused(f'Loading image {tag}: the engine does not show it afterwards')
        return found

    @contextlib.contextmanager
    def events(self) -> Iterator[tuple[Iterator[tuple[str, str]], Callable[[], None]]]:
        """Follow this host's pause containers.

        :returns: an iterator of Docker's word for what happened and the sandbox's instance
            uuid, which ends when the engine does; and a function that ends it from
            another thread
        """
        filters = {
            'type': 'container',
            'event': ['start', 'die', 'pause', 'unpause'],
            'label': [
                f'{sandbox.LABEL_ROLE}={sandbox.ROLE_PAUSE}',
                f'{sandbox.LABEL_HOST}={self._owner}',
            ],
        }
        with translated('Following events'):
            stream = self._client.events(filters=filters, decode=True)
        try:
            yield self._told(stream), stream.close
        finally:
            # Of the next engine nobody knows yet what it has seen.
            self._ends.clear()
            stream.close()

    def _told(self, stream: typing.Any) -> Iterator[tuple[str, str]]:
        with translated('Following events'):
            for event in stream:
                if event['Action'] == 'die':
                    self._ends.pop(event['Actor']['ID'], None)
                    self._ends[event['Actor']['ID']] = event['timeNano'] / 1e9
                    if len(self._ends) > _ENDS:
                        del self._ends[next(iter(self._ends))]
                yield event['Action'], event['Actor']['Attributes'][sandbox.LABEL_SANDBOX]

    def witnessed(self, container: Container) -> bool:
        """Return whether the engine that answers now saw the container's end.

        An engine forgets what happened before its own start, and all but the last few
        hundred events since: on a busy host, those of some seconds. What it said to who
        follows it, as long as that goes on, counts as well; but only an engine that answers
        counts, as one that shuts down tells of the ends that are its own doing.

        :param container: as `inspect` returned it
        """
        try:
            since = moment(container.finished_at).timestamp()
        except (ValueError, OverflowError):
            return False
        with translated(f'Looking for the end of container {container.id}'):
            stream = self._client.events(
                since=f'{since - 1:.6f}',
                until=f'{time.time():.6f}',
                filters={'type': 'container', 'event': ['die'], 'container': [container.id]},
                decode=True,
            )
            try:
                if any(True for _ in stream):
                    return True
            finally:
                stream.close()
        return self._ends.get(container.id, 0.0) >= since - 1

    def close(self) -> None:
        """Close the connections to the engine."""
        self._client.close()


def _reference(name: str) -> tuple[str, str]:
    """Split an image's name into repository and tag (or digest)."""
    if '@' in name:
        repository, _, digest = name.partition('@')
        return repository, digest
    head, colon, tag = name.rpartition(':')
    return (head, tag) if colon and '/' not in tag else (name, 'latest')
