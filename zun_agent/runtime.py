"""The Docker Engine, as the agent uses it. The one module that imports docker.

Docker's errors end here: what leaves this module is of `zun_agent.errors`, with
Docker's own words as message where they speak of what the user did.
"""

from __future__ import annotations

import contextlib
import json
import typing
from collections.abc import Iterable, Iterator

import docker
import docker.errors
from docker.transport import UnixHTTPAdapter
from oslo_log import log as logging

from zun_agent import errors, execution
from zun_agent.errors import ContainerNotFound, ImageNotFound
from zun_agent.events import EVENTS, TRANSPORT_ERRORS, EventStream
from zun_agent.facts import Facts, Listed, parse_facts
from zun_agent.negotiation import Negotiating
from zun_virt import sandbox as contract

LOG = logging.getLogger(__name__)

_NO_CONTAINERD = ': unavailable'
"""With which Docker's words end that has lost containerd: nothing is wrong with the container."""

_CONNECTIONS = 64

_SOCKET = 'http+docker://localhost'
"""How docker calls an engine behind a socket, whatever the socket's path."""


class _OnePool(UnixHTTPAdapter):
    """Keeps its connections for whatever is asked next.

    docker's own keeps a pool for each URL, and so connects anew for each container, at a
    tenth of what the agent does for it.
    """

    def get_connection(self, url: str, proxies: object = None) -> typing.Any:
        """Return the pool."""
        return super().get_connection(_SOCKET, proxies)


class _Client(Negotiating, docker.APIClient):
    """Docker's own client, for an engine that may be replaced."""


class NameTaken(errors.Conflict):
    """A container of that name exists already in Docker."""


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
            api = _Client(
                self._url, version='auto', timeout=self._timeout, max_pool_size=_CONNECTIONS
            )
            # Proxies and passwords of the environment are not for Docker's socket, and to
            # look for them costs a tenth of each request.
            api.trust_env = False
            if api.base_url == _SOCKET:
                path = api.get_adapter(_SOCKET).socket_path
                api.mount(_SOCKET, _OnePool(path, self._timeout, max_pool_size=_CONNECTIONS))
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
        with _translated(f'unpause {docker_id}'), _unless('is not paused', 'container not paused'):
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
                try:
                    client._raise_for_status(response)
                except docker.errors.NotFound as error:
                    raise ImageNotFound(_words(error)) from error
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
        both = stdout == stderr
        options = {
            'stdout': stdout or both,
            'stderr': stderr or both,
            'timestamps': timestamps,
            'since': since if since and since > 0 else None,  # docker refuses what is before
        }
        if tail is None or both:
            return self._log(docker_id, tail=tail, **options).decode(errors='replace')
        # Docker counts the lines of both streams, also of the one that it does not show.
        for counted in (tail, tail * 8 + 100, None):
            lines = self._log(docker_id, tail=counted, **options).splitlines(keepends=True)
            if len(lines) >= tail:
                break
        return b''.join(lines[len(lines) - min(tail, len(lines)) :]).decode(errors='replace')

    def _log(self, docker_id: str, *, tail: int | None, **options: typing.Any) -> bytes:
        with _translated(f'read the log of {docker_id}'):
            number = 'all' if tail is None else tail
            return bytes(self._client.logs(docker_id, tail=number, **options))

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


def _words(error: docker.errors.APIError) -> str:
    return str(error.explanation or error).strip()


@contextlib.contextmanager
def _unless(*words: str) -> Iterator[None]:
    """Let pass Docker's complaint that what is asked for is so already."""
    try:
        yield
    except docker.errors.APIError as error:
        if not any(one in _words(error) for one in words):
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
        if error.status_code >= 500 and text.rstrip().endswith(_NO_CONTAINERD):
            LOG.warning('Docker cannot reach containerd to %s: %s', attempt, text)
            raise errors.ServiceUnavailable('The Docker Engine has lost containerd.') from error
        kinds: dict[int, type[errors.AgentError]] = {
            400: errors.Invalid,
            404: ContainerNotFound,
            409: errors.Conflict,
        }
        raise kinds.get(error.status_code, errors.DockerError)(text) from error
    except (*TRANSPORT_ERRORS, docker.errors.DockerException) as error:
        # Its words alone: the error itself would keep the connection alive in a log's record.
        LOG.warning('Docker does not answer the attempt to %s: %s', attempt, str(error))
        raise errors.ServiceUnavailable('The Docker Engine does not answer.') from error
