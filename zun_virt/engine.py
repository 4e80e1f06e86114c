"""The way to the Docker Engine: the one module that knows its library.

Errors of the engine and of the way to it leave here as `HostError` and its kin. A restart of the
engine is no error, if it does not take long.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import time
import typing
from collections.abc import Iterator

import docker
import docker.errors
import requests
from oslo_log import log as logging

LOG = logging.getLogger(__name__)

PATIENCE = 20.0
"""Seconds that an engine with live-restore, or its containerd, has to be there again.

An upgrade of their packages restarts them, and what a tenant asked for just then shall not end
in ERROR for it.
"""

_INTERVAL = 0.2

_REPEATABLE = ('/start', '/stop', '/pause', '/unpause')
"""What may be asked for again where it is not known whether it was done."""

_NEED_CONTAINERD = ('/start', '/pause', '/unpause')

_REFUSED = re.compile(r'client version ([0-9.]+) is too (?:new|old)')
"""What an engine says that was replaced by an older or a much newer one."""


class HostError(Exception):
    """Docker could not do what it was asked; the message says what that was."""


class HostUnavailable(HostError):
    """Docker did not answer, or not in time."""


class NotFound(HostError):
    """The container or image does not exist."""


class Conflict(HostError):
    """The container's state does not allow it."""


def connect(url: str, timeout: int, patience: float = 0) -> typing.Any:
    """Return a client of the engine at `url`, at the newest API version both know.

    :param timeout: seconds to wait for an answer
    :param patience: seconds to wait for an engine that is not there
    :raises HostUnavailable: the engine does not answer
    """
    # One client serves all threads; its pool is a number to keep, not a limit.
    settings = {'base_url': url, 'version': 'auto', 'max_pool_size': 32}
    with translated(f'Connecting to {url}'):
        return Client(patience=patience, timeout=timeout, **settings)


class Client(docker.APIClient):
    """Docker's own client; what the engine did not take because it was not there, it asks again."""

    def __init__(self, *, patience: float, **settings: typing.Any) -> None:
        """Wait so many seconds for an engine that is not there."""
        self._patience = patience
        super().__init__(**settings)

    def send(self, request: requests.PreparedRequest, **settings: typing.Any) -> requests.Response:
        """Send a request, and again while the engine restarts, in the version that it has then.

        :raises requests.ConnectionError: it is not there, or went away in the middle of what may
            not be done twice
        """
        answer = self._send_patiently(request, **settings)
        refused = answer.status_code == requests.codes.bad_request and _REFUSED.search(answer.text)
        # It could be a user's words, as the name of a program that there is not.
        if not refused or not request.path_url.startswith(f'/v{refused[1]}/'):
            return answer
        self._version = self._retrieve_server_version()
        if self._version == refused[1] or not isinstance(request.body, str | bytes | None):
            return answer  # what was sent piece by piece has gone
        LOG.info('The engine says: %s; going on in version %s', refused[0], self._version)
        url = str(request.url)
        request.url = url.replace(f'/v{refused[1]}/', f'/v{self._version}/', 1)
        return self.send(request, **settings)

    def _send_patiently(
        self, request: requests.PreparedRequest, **settings: typing.Any
    ) -> requests.Response:
        deadline: float | None = None
        while True:
            try:
                answer: requests.Response = super().send(request, **settings)
                if not _lacks_containerd(request, answer):
                    return answer
                failure: Exception | None = None
                reason = answer.text.strip()
            except requests.RequestException as error:
                if not _may_be_sent_again(request, error):
                    raise
                failure, reason = error, str(error)
            if deadline is None:
                deadline = time.monotonic() + self._patience
                LOG.debug('%s %s is tried again: %s', request.method, request.path_url, reason)
            if time.monotonic() >= deadline:
                if failure is not None:
                    raise failure
                return answer
            time.sleep(_INTERVAL)


def _lacks_containerd(request: requests.PreparedRequest, answer: requests.Response) -> bool:
    """Return whether something was not done because containerd is or was away.

    What a start that was cut off left with runc, the next one clears, and fails itself.
    """
    codes = (requests.codes.server_error, requests.codes.conflict)
    if answer.status_code not in codes or not _path(request).endswith(_NEED_CONTAINERD):
        return False
    said = str(answer.text).rstrip('"}\n')
    return said.endswith(
        (': unavailable', 'id already in use', ': already exists', ': file exists: unknown')
    )


def _may_be_sent_again(request: requests.PreparedRequest, error: Exception) -> bool:
    cause = _cause(error)
    if isinstance(cause, ConnectionRefusedError | FileNotFoundError):
        return True  # nobody heard it
    cut = (ConnectionResetError, BrokenPipeError, http.client.IncompleteRead)
    repeatable = request.method in ('GET', 'DELETE') or _path(request).endswith(_REPEATABLE)
    return isinstance(cause, cut) and repeatable


def _cause(error: BaseException) -> BaseException:
    """Return what the libraries in between have wrapped; they do so in arguments."""
    inner = [one for one in error.args if isinstance(one, BaseException)]
    return _cause(inner[-1]) if inner else error


def _path(request: requests.PreparedRequest) -> str:
    return str(request.path_url).partition('?')[0]


@contextlib.contextmanager
def translated(attempt: str) -> Iterator[None]:
    """Raise errors of the library as ours, with what was attempted.

    :raises HostError: or one of its kin
    """
    try:
        yield
    except docker.errors.APIError as error:
        text = f'{attempt}: {error.explanation or error}'
        kinds: dict[int, type[HostError]] = {404: NotFound, 409: Conflict}
        raise kinds.get(error.status_code or 0, HostError)(text) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        # Among them the library's failure to read an empty answer.
        raise HostUnavailable(f'{attempt}: {error}') from error
