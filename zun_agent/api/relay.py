"""A request about a container on another host is handed to the agent there."""

from __future__ import annotations

import socket
import typing
import urllib.parse
from collections.abc import Mapping

import requests
import requests.adapters
from oslo_log import log
from urllib3 import connection
from werkzeug import wrappers

from zun_agent import errors
from zun_agent.conf import KEYSTONE_AUTH_GROUP

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from zun_agent.api.request import Request
    from zun_agent.manager import Manager
    from zun_agent.models import Container, Service

LOG = log.getLogger(__name__)

RELAYED = 'X-Zun-Relayed-From'
"""Header of a relayed request: the URL under which the client asked. It goes one hop only."""

_CONNECT_TIMEOUT = 5.0
_NUDGE_TIMEOUT = 2.0
"""Seconds."""

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


def is_relayed(environ: Mapping[str, typing.Any]) -> bool:
    """Tell whether an agent sent the request on."""
    return original_url(environ) is not None


class _Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        super().init_poolmanager(*args, socket_options=_KEEPALIVE, **kwargs)


class Relay:
    """Hands requests to the agents of other hosts, with the user's own token."""

    def __init__(self, conf: cfg.ConfigOpts, manager: Manager, host: str | None) -> None:
        """Find the agents in the manager's services.

        :param host: the one whose reconciler runs in this process; None where none does
        """
        self._conf = conf
        self._manager = manager
        self._host = host
        self._session = requests.Session()
        self._session.trust_env = False  # agents are reached without a proxy
        tls = conf[KEYSTONE_AUTH_GROUP]
        self._session.verify = not tls.insecure and (tls.cafile or True)
        for scheme in ('http://', 'https://'):
            self._session.mount(scheme, _Adapter(pool_maxsize=conf.api.threads))

    def read(self, request: Request, container: Container) -> wrappers.Response | None:
        """Let the container's host answer what only it knows.

        :return: its answer; None where this host is the one
        :raises ContainerHostNotUp: it does not answer, or another host's agent does in its place
        """
        if self._is_here(request, container):
            if container.host not in (None, self._host):
                raise self._misled(container)
            return None
        service = self._service(container)
        if service is None:
            raise self._down(container)
        try:
            return self._forward(request, service)
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
            return self._forward(request, service)
        except requests.ConnectTimeout:
            return None
        except requests.ConnectionError as error:
            if _was_refused(error):
                return None
            raise self._down(container) from error
        except requests.RequestException as error:
            raise self._down(container) from error

    def nudge(self, request: Request, container: Container) -> None:
        """Let the container's host know of it, which would find it in the store by and by."""
        if self._is_here(request, container):
            return
        service = self._service(container)
        if service is None:
            return
        path = f'/v1/containers/{container.uuid}'
        try:
            self._send(request, service, 'GET', path, read_timeout=_NUDGE_TIMEOUT)
        except requests.RequestException as error:
            LOG.info(
                'host %s could not be told of container %s and finds it in its next full pass: %s',
                container.host,
                container.uuid,
                error,
            )

    def _is_here(self, request: Request, container: Container) -> bool:
        return container.host in (None, self._host) or is_relayed(request.environ)

    def _service(self, container: Container) -> Service | None:
        """Return the container's agent if it is up."""
        for service in self._manager.services():
            if service.host == container.host and self._manager.service_is_up(service):
                return service
        return None

    def _forward(self, request: Request, service: Service) -> wrappers.Response:
        reply = self._send(
            request,
            service,
            request.method,
            request.path,
            # A user's command may take as long as it takes.
            read_timeout=None if request.path.endswith('/execute') else self._conf.docker.timeout,
            params=request.args.to_dict(),
            data=request.get_data(),
        )
        return wrappers.Response(
            reply.content,
            status=reply.status_code,
            content_type=reply.headers.get('Content-Type', 'application/json'),
        )

    def _send(
        self,
        request: Request,
        service: Service,
        method: str,
        path: str,
        *,
        read_timeout: float | None,
        **more: typing.Any,
    ) -> requests.Response:
        """Send one request on, with the user's token.

        :param read_timeout: seconds
        :raises requests.RequestException: there is no answer
        """
        url = service.endpoint.rstrip('/').removesuffix('/v1') + urllib.parse.quote(path)
        headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
        headers[RELAYED] = request.base_url
        headers['X-Openstack-Request-Id'] = request.request_id
        LOG.debug('%s %s is relayed to host %s', method, path, service.host)
        return self._session.request(
            method,
            url,
            headers=headers,
            timeout=(_CONNECT_TIMEOUT, read_timeout),
            allow_redirects=False,
            **more,
        )

    def _down(self, container: Container) -> errors.ContainerHostNotUp:
        return errors.ContainerHostNotUp(f'The host of container {container.uuid} does not answer.')

    def _misled(self, container: Container) -> errors.ContainerHostNotUp:
        """Tell of an agent under whose URL this one is reached; its Docker is another."""
        LOG.error(
            'container %s: a request for the agent of host %s came to that of host %s; [api] '
            'bind_host or endpoint of the former has to name where other hosts reach it',
            container.uuid,
            container.host,
            self._host,
        )
        return self._down(container)


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
