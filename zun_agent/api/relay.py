"""A request about a container on another host is handed to the agent there."""

from __future__ import annotations

import socket
import typing
from collections.abc import Mapping

import requests
import requests.adapters
from oslo_log import log
from urllib3 import connection
from werkzeug import wrappers

from zun_agent import errors

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from zun_agent.api.request import Request
    from zun_agent.manager import Manager
    from zun_agent.models import Container, Service

LOG = log.getLogger(__name__)

RELAYED = 'X-Zun-Relayed-From'
"""Header of a relayed request: the URL under which the client asked. It goes one hop only."""

CONNECT_TIMEOUT = 5.0

_KEEPALIVE = [
    *connection.HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
"""A command may run for hours in silence; a host that died meanwhile shows within a minute."""

_PASSED = ('X-Auth-Token', 'OpenStack-API-Version', 'Content-Type', 'Accept')


def original_url(environ: Mapping[str, typing.Any]) -> str | None:
    """Return the URL under which a relayed request was made, None for one that is not."""
    return environ.get('HTTP_' + RELAYED.upper().replace('-', '_'))


class _Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().init_poolmanager(*args, socket_options=_KEEPALIVE, **kwargs)


class Relay:
    """Hands requests to the agents of other hosts, with the user's own token."""

    def __init__(self, conf: cfg.ConfigOpts, manager: Manager) -> None:
        """Find the agents in the manager's services."""
        self._conf = conf
        self._manager = manager
        self._session = requests.Session()
        self._session.trust_env = False  # agents are reached without a proxy
        for scheme in ('http://', 'https://'):
            self._session.mount(scheme, _Adapter(pool_maxsize=conf.api.threads))

    def read(self, request: Request, container: Container) -> wrappers.Response | None:
        """Let the container's host answer what only it knows.

        :return: its answer; None where this host is the one
        :raises ContainerHostNotUp: it does not answer
        """
        if self._is_here(request, container):
            return None
        service = self._service(container)
        if service is None:
            raise self._down(container)
        try:
            return self._send(request, service)
        except requests.RequestException as error:
            raise self._down(container) from error

    def change(self, request: Request, container: Container) -> wrappers.Response | None:
        """Let the container's host take a request that changes it, and start on it at once.

        Where that host cannot be reached the request is stored from here: it finds it
        when it is back.

        :return: its answer; None where the request is this host's to store
        :raises ContainerHostNotUp: whether it took the request cannot be told
        """
        if self._is_here(request, container):
            return None
        service = self._service(container)
        if service is None:
            return None
        try:
            return self._send(request, service)
        except requests.ConnectTimeout:
            return None
        except requests.ConnectionError as error:
            if _was_refused(error):
                return None
            raise self._down(container) from error
        except requests.RequestException as error:
            raise self._down(container) from error

    def _is_here(self, request: Request, container: Container) -> bool:
        return container.host in (None, self._conf.host) or RELAYED in request.headers

    def _service(self, container: Container) -> Service | None:
        """Return the container's agent if it is up."""
        for service in self._manager.services():
            if service.host == container.host and self._manager.service_is_up(service):
                return service
        return None

    def _send(self, request: Request, service: Service) -> wrappers.Response:
        # The path as this agent understands it, which the other one does as well.
        url = service.endpoint.rstrip('/').removesuffix('/v1') + request.path
        headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
        headers[RELAYED] = request.base_url
        headers['X-Openstack-Request-Id'] = request.request_id
        patient = request.path.endswith('/execute')
        LOG.debug('%s %s is relayed to host %s', request.method, request.path, service.host)
        reply = self._session.request(
            request.method,
            url,
            params=request.args.to_dict(),
            data=request.get_data(),
            headers=headers,
            timeout=(CONNECT_TIMEOUT, None if patient else self._conf.docker.timeout),
            allow_redirects=False,
        )
        return wrappers.Response(
            reply.content,
            status=reply.status_code,
            content_type=reply.headers.get('Content-Type', 'application/json'),
        )

    def _down(self, container: Container) -> errors.ContainerHostNotUp:
        return errors.ContainerHostNotUp(f'The host of container {container.uuid} does not answer.')


def _was_refused(error: BaseException | None) -> bool:
    """Tell whether the connection was never made, so that nothing can have been done."""
    while error is not None:
        if 'NewConnectionError' in type(error).__name__:
            return True
        reason = getattr(error, 'reason', None) or next(
            (arg for arg in error.args if isinstance(arg, BaseException)), None
        )
        error = reason if isinstance(reason, BaseException) else None
    return False
