"""The Docker Engine, as the agent uses it. The one module that imports docker.

Docker's errors end here: what leaves this module is of `zun_agent.errors`, with
Docker's own words as message where they speak of what the user did.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import re
import socket
import typing
from collections.abc import Iterable, Iterator

import docker
import docker.errors
import requests.exceptions
import urllib3.exceptions
from oslo_log import log as logging

from zun_agent import errors, execution
from zun_agent.errors import ContainerNotFound, ImageNotFound
from zun_virt import sandbox as contract

LOG = logging.getLogger(__name__)

EVENTS = ('start', 'die', 'pause', 'unpause', 'destroy')
"""What happens to a container in Docker and may change its status."""

_TRANSPORT_ERRORS = (
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
)


class NameTaken(errors.Conflict):
    """A container of that name exists already in Docker."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What Docker shows of one container.

    :ivar state: created, running, paused, restarting, removing, exited or dead
    :ivar started: Docker's own text for `started_at`, to be compared exactly
    :ivar started_at: of its latest run, in UTC without a zone; None before the first
    :ivar exit_code: of its latest run, or of its failure to start
    :ivar error: Docker's words when the latest start failed
    :ivar resources: its limits, in the terms of `creation.resources`
    """

    id: str
    state: str
    started: str = ''
    started_at: datetime.datetime | None = None
    finished_at: datetime.datetime | None = None
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ''
    pid: int = 0
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    stop_signal: str = 'SIGTERM'
    tty: bool = False
    resources: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether its process exists, frozen or not."""
        return self.state in ('running', 'paused', 'restarting')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed:
    """One of our containers in Docker's list."""

    id: str
    state: str
    role: str
    sandbox_id: str
    container_uuid: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened to one of our containers.

    :ivar time_ns: nanoseconds since the epoch, on this host's clock
    """

    action: str
    docker_id: str
    role: str
    sandbox_id: str
    container_uuid: str | None
    time_ns: int


class Runtime:
    """One Docker Engine."""

    def __init__(self, url: str, timeout: float = 60, pull_timeout: float = 60) -> None:
        """Talk to the engine at `url`; nothing is connected to yet.

        :param timeout: seconds to wait for one answer
        :param pull_timeout: seconds without progress after which a pull is given up
        """
        self._url = url
        self._timeout = timeout
        self._pull_timeout = pull_timeout
        self._api: docker.APIClient | None = None

    @property
    def _client(self) -> typing.Any:
        """The client, made at its first use: the engine may start later than the agent."""
        if self._api is None:
            api = docker.APIClient(
                self._url, version='auto', timeout=self._timeout, max_pool_size=64
            )
            # Proxies and passwords of the environment are not for Docker's socket, and to
            # look for them costs a tenth of each request.
            api.trust_env = False
            self._api = api
        return self._api

    def close(self) -> None:
        """Close the connections to the engine; the next call opens another."""
        if self._api is not None:
            self._api.close()
            self._api = None

    # What the reconciler does

    def inspect(self, name: str) -> Facts | None:
        """Return what Docker shows of the container with this name or id, or None."""
        with _translated(f'inspect {name}'):
            try:
                return parse_facts(self._client.inspect_container(name))
            except docker.errors.NotFound:
                return None

    def create(self, name: str, body: dict[str, typing.Any]) -> str:
        """Create a container, and return its id.

        :raises NameTaken: there is one of this name
        :raises errors.ImageNotFound: the image is not on this host
        """
        with _translated(f'create {name}'):
            try:
                answer = self._client.create_container_from_config(body, name)
            except docker.errors.APIError as error:
                text = _words(error)
                if error.status_code == 409 and 'is already in use' in text:
                    raise NameTaken(text) from error
                if error.status_code == 404 and 'no such image' in text.lower():
                    raise ImageNotFound(text) from error
                raise
            return str(answer['Id'])

    def start(self, docker_id: str) -> None:
        """Start a container; one that runs is fine.

        :raises errors.Invalid: its command cannot be run; the message is Docker's
        :raises errors.Conflict: its sandbox does not run
        """
        with _translated(f'start {docker_id}'):
            self._client.start(docker_id)

    def kill(self, docker_id: str, signal: str) -> None:
        """Send a signal to the container's first process.

        :raises errors.Conflict: it does not run
        """
        with _translated(f'signal {docker_id}'):
            self._client.kill(docker_id, signal)

    def pause(self, docker_id: str) -> None:
        """Freeze a container; one that is frozen is fine."""
        with _translated(f'pause {docker_id}'), _unless('is already paused'):
            self._client.pause(docker_id)

    def unpause(self, docker_id: str) -> None:
        """Thaw a container; one that is not frozen is fine."""
        with _translated(f'unpause {docker_id}'), _unless('is not paused'):
            self._client.unpause(docker_id)

    def update(self, docker_id: str, resources: dict[str, int]) -> None:
        """Change the limits of a container, whether or not it runs."""
        with _translated(f'update {docker_id}'):
            client = self._client
            # The client's own method leaves out what is 0, which lifts a limit.
            client._result(
                client._post_json(client._url('/containers/{0}/update', docker_id), resources),
                json=True,
            )

    def remove(self, docker_id: str) -> None:
        """Remove a container with its anonymous volumes, running or not; gone is fine."""
        with (
            _translated(f'remove {docker_id}'),
            contextlib.suppress(docker.errors.NotFound),
            _unless('removal of container'),
        ):
            self._client.remove_container(docker_id, v=True, force=True)

    def list(self) -> tuple[Listed, ...]:
        """Return all of our containers on this host, the pause containers too."""
        with _translated('list containers'):
            found = self._client.containers(all=True, filters={'label': contract.LABEL_SANDBOX})
        return tuple(
            Listed(
                id=item['Id'],
                state=item['State'],
                role=item['Labels'].get(contract.LABEL_ROLE, ''),
                sandbox_id=item['Labels'][contract.LABEL_SANDBOX],
                container_uuid=item['Labels'].get(contract.LABEL_CONTAINER),
            )
            for item in found
        )

    def events(self) -> EventStream:
        """Subscribe to what happens to our containers from now on.

        :raises errors.ServiceUnavailable: Docker does not answer
        """
        with _translated('subscribe to events'):
            client = self._client
            filters = {
                'type': ['container'],
                'label': [contract.LABEL_SANDBOX],
                'event': list(EVENTS),
            }
            response = client._get(
                client._url('/events'),
                params={'filters': json.dumps(filters)},
                stream=True,
                timeout=(self._timeout, None),
            )
            client._raise_for_status(response)
            return EventStream(response, client._stream_helper(response, decode=True))

    def info(self) -> dict[str, typing.Any]:
        """Return what Docker tells of itself and its host."""
        with _translated('ask for information'):
            return dict(self._client.info())

    # Images

    def image_id(self, reference: str) -> str | None:
        """Return the id of an image on this host, or None."""
        with _translated(f'inspect image {reference}'):
            try:
                return str(self._client.inspect_image(reference)['Id'])
            except docker.errors.ImageNotFound:
                return None

    def pull(self, repository: str, tag: str) -> None:
        """Fetch an image from its registry.

        :param tag: or digest
        :raises errors.ImageNotFound: the registry does not know it, or not for us
        :raises errors.ServiceUnavailable: there was no progress for too long
        """
        reference = f'{repository}:{tag}'
        with _translated(f'pull {reference}'):
            client = self._client
            response = client._post(
                client._url('/images/create'),
                params={'fromImage': repository, 'tag': tag},
                stream=True,
                timeout=(self._timeout, self._pull_timeout),
            )
            with contextlib.closing(response):
                if response.status_code == 404:
                    raise ImageNotFound(_error_text(response.content))
                client._raise_for_status(response)
                # A failure in the middle comes as one line of an answer that is a success.
                for line in client._stream_helper(response, decode=True):
                    if 'error' in line:
                        raise errors.DockerError(f'Image {reference}: {line["error"]}')

    def load(self, chunks: Iterable[bytes]) -> None:
        """Load an archive of images.

        :raises errors.Invalid: it is none that Docker can use; the message is Docker's
        """
        with _translated('load an image'):
            client = self._client
            response = client._post(
                client._url('/images/load'), data=iter(chunks), params={'quiet': True}, stream=True
            )
            with contextlib.closing(response):
                client._raise_for_status(response)
                for line in client._stream_helper(response, decode=True):
                    if 'error' in line:
                        raise errors.Invalid(f'not an image that Docker can use: {line["error"]}')

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image on this host another name."""
        with _translated(f'tag {image}'):
            self._client.tag(image, repository, tag, force=True)

    # What users read

    def logs(
        self,
        docker_id: str,
        *,
        stdout: bool = True,
        stderr: bool = True,
        timestamps: bool = False,
        tail: int | None = None,
        since: int | None = None,
    ) -> str:
        """Return what a container wrote; bytes that are no text are replaced.

        :param tail: number of lines from the end, None for all
        :param since: seconds since the epoch
        :raises errors.ContainerNotFound: Docker has no such container
        """
        neither = not (stdout or stderr)
        with _translated(f'read the log of {docker_id}'):
            data = self._client.logs(
                docker_id,
                stdout=stdout or neither,
                stderr=stderr or neither,
                timestamps=timestamps,
                tail='all' if tail is None else tail,
                since=since,
            )
        return bytes(data).decode(errors='replace')

    def execute(self, docker_id: str, command: typing.Sequence[str]) -> tuple[str, int | None]:
        """Run a command in a container to its end; return its output and exit code.

        :raises errors.Conflict: the container does not run
        :raises errors.ServiceUnavailable: Docker went away; whether it ended is unknown
        """
        with _translated(f'run a command in {docker_id}'):
            client = self._client
            exec_id = client.exec_create(docker_id, [*command], stdin=False, tty=False)['Id']
            response = client._post_json(
                client._url('/exec/{0}/start', exec_id),
                headers={'Connection': 'Upgrade', 'Upgrade': 'tcp'},
                data={'Tty': False, 'Detach': False},
                stream=True,
                timeout=(self._timeout, self._timeout),
            )
            with contextlib.closing(response):
                client._raise_for_status(response)
                output = execution.collect(
                    response.raw._fp.fp, lambda: self._exec_state(exec_id).running
                )
            code = execution.exit_code(lambda: self._exec_state(exec_id))
        return output.decode(errors='replace'), code

    def _exec_state(self, exec_id: str) -> execution.State:
        with _translated('inspect a command'):
            try:
                found = self._client.exec_inspect(exec_id)
            except docker.errors.NotFound:  # it went with its container, killed
                return execution.State(running=False, exit_code=execution.KILLED)
            return execution.State(running=found['Running'], exit_code=found['ExitCode'])

    def top(self, docker_id: str, ps_args: str | None = None) -> dict[str, typing.Any]:
        """Return the processes of a container, as ``docker top`` shows them.

        :raises errors.Conflict: the container does not run
        """
        with _translated(f'list the processes of {docker_id}'):
            found = self._client.top(docker_id, ps_args or None)
        return {'Titles': found['Titles'], 'Processes': found['Processes'] or []}

    def stats(self, docker_id: str) -> dict[str, typing.Any]:
        """Return what a container uses, in the terms of the Zun API.

        :raises errors.Conflict: the container does not run
        """
        from zun_agent import usage

        facts = self.inspect(docker_id)
        if facts is None:
            raise ContainerNotFound(f'Docker has no container {docker_id}.')
        if not facts.pid:
            raise errors.Conflict(f'Container {docker_id} is not running.')
        return usage.stats(docker_id, facts.pid)


class EventStream:
    """A subscription to Docker's events; iterating ends when Docker ends it."""

    def __init__(self, response: typing.Any, lines: Iterator[dict[str, typing.Any]]) -> None:
        self._response = response
        self._lines = lines

    def __iter__(self) -> Iterator[Event]:
        """Yield events until the stream ends, for whatever reason."""
        try:
            for line in self._lines:
                yield _event(line)
        except (*_TRANSPORT_ERRORS, ValueError, AttributeError) as error:
            # The last two: the connection was closed under the reader, by `close`.
            LOG.debug("Docker's events ended: %s", error)
        finally:
            self._response.close()

    def close(self) -> None:
        """End the subscription, from any thread."""
        with contextlib.suppress(OSError, AttributeError):
            self._response.raw._fp.fp.raw._sock.shutdown(socket.SHUT_RDWR)


def _event(line: dict[str, typing.Any]) -> Event:
    attributes = line['Actor']['Attributes']
    return Event(
        action=line['Action'],
        docker_id=line['Actor']['ID'],
        role=attributes.get(contract.LABEL_ROLE, ''),
        sandbox_id=attributes[contract.LABEL_SANDBOX],
        container_uuid=attributes.get(contract.LABEL_CONTAINER),
        time_ns=line['timeNano'],
    )


def parse_facts(found: dict[str, typing.Any]) -> Facts:
    """Return the facts in what Docker's inspect shows."""
    state, config, host = found['State'], found['Config'], found['HostConfig']
    return Facts(
        id=found['Id'],
        state=state['Status'],
        started=state['StartedAt'],
        started_at=parse_time(state['StartedAt']),
        finished_at=parse_time(state['FinishedAt']),
        exit_code=state['ExitCode'],
        oom_killed=state['OOMKilled'],
        error=state['Error'],
        pid=state['Pid'],
        labels=config['Labels'] or {},
        stop_signal=config.get('StopSignal') or 'SIGTERM',
        tty=config['Tty'],
        resources={
            name: host.get(name) or 0 for name in ('Memory', 'MemorySwap', 'CpuPeriod', 'CpuQuota')
        },
    )


def parse_time(text: str) -> datetime.datetime | None:
    """Return Docker's time in UTC without a zone, to the microsecond; None for never.

    >>> parse_time('2026-11-21T07:44:00.123456789Z')
    datetime.datetime(2026, 11, 21, 7, 44, 0, 123456)
    """
    match = re.fullmatch(r'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)', text)
    if match is None or text.startswith('0001-'):
        return None
    seconds, fraction, zone = match.groups()
    micro = (fraction or '')[:6].ljust(6, '0')
    moment = datetime.datetime.fromisoformat(f'{seconds}.{micro}{zone.replace("Z", "+00:00")}')
    return moment.astimezone(datetime.UTC).replace(tzinfo=None)


def _words(error: docker.errors.APIError) -> str:
    return str(error.explanation or error).strip()


def _error_text(content: bytes) -> str:
    try:
        return str(json.loads(content)['message'])
    except (ValueError, KeyError, TypeError):
        return content.decode(errors='replace').strip()


@contextlib.contextmanager
def _unless(words: str) -> Iterator[None]:
    """Let pass Docker's complaint that what is asked for is so already."""
    try:
        yield
    except docker.errors.APIError as error:
        if words not in _words(error):
            raise


@contextlib.contextmanager
def _translated(attempt: str) -> Iterator[None]:
    """Turn what Docker and the way to it raise into errors of the agent."""
    try:
        yield
    except errors.AgentError:
        raise
    except docker.errors.APIError as error:
        text = _words(error)
        kinds: dict[int, type[errors.AgentError]] = {
            400: errors.Invalid,
            404: ContainerNotFound,
            409: errors.Conflict,
        }
        raise kinds.get(error.status_code, errors.DockerError)(text) from error
    except (*_TRANSPORT_ERRORS, docker.errors.DockerException) as error:
        # Its words alone: the error itself would keep the connection alive in a log's record.
        LOG.warning('Docker does not answer the attempt to %s: %s', attempt, str(error))
        raise errors.ServiceUnavailable('The Docker Engine does not answer.') from error
