"""The other services of the cloud: sessions, endpoints, and the one seam for their errors."""

from __future__ import annotations

import contextlib
import logging as python_logging
import re
import threading
import time
import typing
from collections.abc import Callable, Generator, Hashable, Mapping

import requests
import urllib3.exceptions
from keystoneauth1 import adapter, loading, token_endpoint
from keystoneauth1 import exceptions as ksa
from keystoneauth1.access import service_catalog
from oslo_log import log as logging

from zun_agent import conf as options
from zun_agent import errors

LOG = logging.getLogger(__name__)

T = typing.TypeVar('T')
Json = dict[str, typing.Any]

NAMES = {'compute': 'Nova', 'network': 'Neutron', 'image': 'Glance'}
"""What the services are called towards users, by their type in the catalog."""

# Endpoints in catalogs name a version or leave it out.
_VERSIONS = {'compute': 'v2.1', 'network': 'v2.0', 'image': 'v2'}


CHUNK = 1 << 20
"""Bytes of a download that are taken at one time."""


class Unanswered(errors.ServiceUnavailable):
    """A service did not answer, or broke off: what was asked may have been done or not."""


class Client:
    """One service of the cloud, used in one person's name.

    Each method raises what `translate` makes of a failure.
    """

    def __init__(self, service_type: str, http: adapter.Adapter, timeout: float) -> None:
        """Use the service behind `http`, waiting `timeout` seconds for each answer."""
        self._name = NAMES[service_type]
        self._http = http
        self._timeout = timeout

    def get(self, path: str, params: Mapping[str, object] | None = None, **kwargs: str) -> Json:
        """Return the body of a GET; ``microversion`` is the one that is asked for."""
        return self._request('GET', path, params=dict(params or {}), **kwargs)

    def post(self, path: str, body: Json, **kwargs: str) -> Json:
        """Return the body of the answer to a POST."""
        return self._request('POST', path, json=body, **kwargs)

    def delete(self, path: str, **kwargs: str) -> None:
        """Send a DELETE."""
        self._request('DELETE', path, **kwargs)

    def download(self, path: str) -> Generator[bytes, None, None]:
        """Return the content of a file, in pieces, as it comes in.

        :raises Unanswered: it broke off, while the pieces are taken
        """
        answer = self._send('GET', path, stream=True, headers={'Accept': '*/*'})
        with contextlib.closing(answer):
            try:
                yield from answer.iter_content(CHUNK)
            except requests.RequestException as error:
                raise Unanswered(f'{self._name} broke off a download.') from error

    def _request(self, method: str, path: str, **kwargs: typing.Any) -> Json:
        answer = self._send(method, path, **kwargs)
        try:
            found: Json = answer.json() if answer.content else {}
        except ValueError as error:
            raise Unanswered(f'{self._name} answered with what is not JSON.') from error
        return found

    def _send(self, method: str, path: str, **kwargs: typing.Any) -> requests.Response:
        try:
            # A redirect would repeat a POST elsewhere, or send the token there.
            answer = self._http.request(
                path, method, timeout=self._timeout, redirect=False, raise_exc=True, **kwargs
            )
        except ksa.ClientException as error:
            raise translate(self._name, f'{method} {path}', error) from error
        if answer.status_code >= 300:
            raise Unanswered(f'{self._name} answered with a redirect ({answer.status_code}).')
        return typing.cast(requests.Response, answer)


class OpenStack:
    """The way to the other services, as a user or as the agent itself."""

    def __init__(self, conf: typing.Any) -> None:
        """Read the credentials; nothing is asked of any service yet."""
        self._conf = conf
        self._timeout: float = conf.sandbox.nova_timeout
        self._auth = loading.load_auth_from_conf_options(conf, options.KEYSTONE_AUTH_GROUP)
        self._session = loading.load_session_from_conf_options(
            conf,
            options.KEYSTONE_AUTH_GROUP,
            timeout=conf[options.KEYSTONE_AUTH_GROUP].timeout or self._timeout,
            session=_connections(conf.api.threads),
        )

    def as_user(self, context: typing.Any, service_type: str) -> Client:
        """Return a service as the user of this request, by the token that came with it.

        :raises errors.ServiceUnavailable: the service is in no catalog
        """
        endpoint = self._users_endpoint(context, service_type)
        plugin = token_endpoint.Token(endpoint, context.auth_token)
        return self._client(service_type, plugin, endpoint)

    def as_service(self, service_type: str) -> Client:
        """Return a service by the agent's own credentials.

        :raises errors.ServiceUnavailable: there are none, or Keystone does not answer
        """
        return self._client(service_type, self._auth, self._own_endpoint(service_type))

    def _client(self, service_type: str, auth: typing.Any, endpoint: str) -> Client:
        http = adapter.Adapter(
            self._session,
            auth=auth,
            service_type=service_type,
            endpoint_override=versioned(endpoint, _VERSIONS[service_type]),
            user_agent='zun-agent',
        )
        return Client(service_type, http, timeout=self._timeout)

    def _users_endpoint(self, context: typing.Any, service_type: str) -> str:
        catalog = getattr(context, 'service_catalog', None)
        if not catalog:  # keystonemiddleware was told to leave it out
            return self._own_endpoint(service_type)
        try:
            # The form in which keystonemiddleware hands catalogs on is that of Keystone v2.
            found = service_catalog.ServiceCatalogV2(catalog).url_for(
                service_type=service_type,
                interface=self._conf.openstack.interface,
                region_name=self._conf.openstack.region_name,
            )
        except ksa.CatalogException as error:
            raise errors.ServiceUnavailable(
                f"{NAMES[service_type]} is not in the token's catalog."
            ) from error
        return typing.cast(str, found)

    def _own_endpoint(self, service_type: str) -> str:
        if self._auth is None:
            raise errors.ServiceUnavailable(
                'The agent has no credentials of its own: the operator sets [keystone_auth].'
            )
        try:
            found = self._session.get_endpoint(
                auth=self._auth,
                service_type=service_type,
                interface=self._conf.openstack.interface,
                region_name=self._conf.openstack.region_name,
                skip_discovery=True,
            )
        except ksa.ClientException as error:
            raise translate('Keystone', 'asking for a token', error) from error
        if not found:
            raise errors.ServiceUnavailable(f'{NAMES[service_type]} is not in the catalog.')
        return typing.cast(str, found)


class Cache:
    """Answers that are believed for some seconds."""

    def __init__(
        self, seconds: float, clock: Callable[[], float] = time.monotonic, most: int = 1024
    ) -> None:
        """Believe an answer for `seconds`; 0 believes none.

        :param most: answers that are kept
        """
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: dict[Hashable, tuple[float, typing.Any]] = {}
        self._asking: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, ask: Callable[[], T]) -> T:
        """Return the answer to `key`, which `ask` gives where none is believed any more.

        Of several threads that need the same answer one asks, and the others wait for
        it. What `ask` raises is raised, and not kept: the next one asks again.
        """
        with self._lock:
            until, answer = self._answers.get(key, (0.0, None))
            if self._clock() < until:
                return typing.cast(T, answer)
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:
            with self._lock:
                until, answer = self._answers.get(key, (0.0, None))
            if self._clock() < until:
                return typing.cast(T, answer)
            answer = ask()
            with self._lock:
                self._forget_old()
                self._answers[key] = (self._clock() + self._seconds, answer)
                self._asking.pop(key, None)
            return answer

    def drop(self, key: Hashable) -> None:
        """Believe this answer no more."""
        with self._lock:
            self._answers.pop(key, None)

    def forget(self, project_id: str) -> None:
        """Believe nothing any more whose key's second part is this project."""
        with self._lock:
            for key in [k for k in self._answers if isinstance(k, tuple) and k[1] == project_id]:
                del self._answers[key]

    def _forget_old(self) -> None:
        if len(self._answers) >= self._most:
            now = self._clock()
            self._answers = {key: kept for key, kept in self._answers.items() if kept[0] > now}
        if len(self._answers) >= self._most:
            self._answers.clear()
        if len(self._asking) >= 1024:  # of those who were refused
            self._asking.clear()


def versioned(endpoint: str, version: str) -> str:
    """Return the endpoint with a version in it, `version` where it names none."""
    endpoint = endpoint.rstrip('/')
    if re.search(r'/v\d+(\.\d+)?(/[^/]+)?$', endpoint):
        return endpoint
    return f'{endpoint}/{version}'


def translate(service: str, what: str, error: ksa.ClientException) -> errors.AgentError:
    """Return the agent's own error for a failure of another service."""
    if not isinstance(error, ksa.HttpError):
        LOG.warning('%s: %s failed: %s', service, what, error)
        if isinstance(error, ksa.ConnectionError) and not _never_connected(error):
            return Unanswered(f'{service} does not answer.')
        return errors.ServiceUnavailable(f'{service} cannot be reached.')
    status = error.http_status
    message = _message(error)
    # Who looks for something by id and then by name expects not to find it.
    level = python_logging.DEBUG if status == 404 else python_logging.INFO
    LOG.log(level, '%s: %s was refused with %s: %s', service, what, status, message)
    if status == 401:
        return errors.ServiceUnavailable(f'{service} does not accept the token.')
    if status in (403, 413, 429):
        return _forbidden(status, message)
    if 400 <= status < 500:
        kinds: dict[int, type[errors.AgentError]] = {404: errors.NotFound, 409: errors.Conflict}
        return kinds.get(status, errors.Invalid)(message)
    if status == 500:
        return errors.NovaError(f'{service} failed: {message}')
    return Unanswered(f'{service} does not answer.')


def _forbidden(status: int, message: str) -> errors.Forbidden:
    over = status in (413, 429) or re.search(r'quota|exceed|maximum number', message, re.I)
    return errors.OverQuota(message) if over else errors.Forbidden(message)


def _message(error: ksa.HttpError) -> str:
    """Return what the service says to its user; each wraps it in its own way."""
    try:
        body = error.response.json()
        value = next(iter(body.values()))
        message = value.get('message') if isinstance(value, dict) else value
        if isinstance(message, str) and message:
            return message
    except (ValueError, AttributeError, StopIteration):
        pass
    return str(error.message or error)


def _never_connected(error: ksa.ClientException) -> bool:
    """Tell whether the request cannot have reached the service."""
    cause: object = error.__cause__ or error.__context__
    while cause is not None:
        if isinstance(
            cause, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError
        ):
            return True
        reason = getattr(cause, 'reason', None) or next(iter(getattr(cause, 'args', ())), None)
        cause = reason if isinstance(reason, BaseException) else None
    return False


def _connections(threads: int) -> requests.Session:
    """Return a pool with one connection for each request that is served at one time."""
    session = requests.Session()
    for scheme in ('http://', 'https://'):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=threads))
    return session
