"""The WSGI application: the middleware around the routes."""

from __future__ import annotations

import functools
import hashlib
import time
import typing
from collections.abc import Callable, Iterable

from keystonemiddleware import auth_token
from oslo_log import log
from oslo_middleware import healthcheck, http_proxy_to_wsgi, request_id, sizelimit
from werkzeug import exceptions

from zun_agent import errors
from zun_agent.api import faults, policies, relay, routes, versions
from zun_agent.api.commands import Commands
from zun_agent.api.request import Request, Services
from zun_agent.openstack import Cache

if typing.TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from oslo_config import cfg

    from zun_agent.api.request import Response
    from zun_agent.manager import Manager

    Wrap = Callable[[WSGIApplication], WSGIApplication]

LOG = log.getLogger(__name__)

TOKEN_SECONDS = 5.0
"""Seconds for which a token is good without a look into the shared cache of tokens."""

TOKENS = 32
"""Tokens that are kept so: each comes with a catalog."""


def build(
    conf: cfg.ConfigOpts,
    manager: Manager,
    authenticate: Wrap | None = None,
    *,
    reconciles: bool = True,
) -> WSGIApplication:
    """Return the whole service.

    :param conf: with the agent's options registered
    :param authenticate: stands for keystonemiddleware in tests
    :param reconciles: whether this process carries out what it accepts for its host
    """
    here = relay.Relay(conf, manager, conf.host if reconciles else None)
    places = Commands(max(1, conf.api.threads // 2))
    services = Services(conf, manager, policies.Policy(conf), here, places)
    application: WSGIApplication = Application(services)
    # From the inside out. A request passes, in this order: its id; the proxy's headers,
    # which change its URL; its path put right, so that the rest knows what it is about;
    # the log; the health check, which is asked often and logged as all others; the
    # version, whose headers are on every answer from further inside, 401 and 413
    # included; the size of its body; its token.
    for wrap in (
        authenticate or _keystone(conf),
        lambda inner: _SizeLimit(inner, conf),
        versions.Negotiation,
        lambda inner: _HealthCheck(inner, conf),
        _RequestLog,
        _PathNormaliser,
        lambda inner: http_proxy_to_wsgi.HTTPProxyToWSGI(inner, conf),
        lambda inner: request_id.RequestId(inner, conf),
    ):
        application = wrap(application)
    return application


def _keystone(conf: cfg.ConfigOpts) -> Wrap:
    """Return what puts keystonemiddleware in front of all that is not public."""

    def wrap(application: WSGIApplication) -> WSGIApplication:
        settings = {'oslo_config_config': conf, 'delay_auth_decision': False}
        protected = _Authentication(application, settings)

        def choose(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            public = environ['PATH_INFO'] in routes.PUBLIC
            return (application if public else protected)(environ, start_response)

        return choose

    return wrap


class _Authentication(auth_token.AuthProtocol):
    """keystonemiddleware, without a question to memcached for each request of a burst."""

    def __init__(self, application: WSGIApplication, settings: dict[str, typing.Any]) -> None:
        super().__init__(application, settings)
        self._tokens = Cache(TOKEN_SECONDS, most=TOKENS)

    def fetch_token(self, token: str, allow_expired: bool = False) -> typing.Any:
        """Return what Keystone says of a token; whether it has expired is judged by the caller."""
        ask = functools.partial(super().fetch_token, token, allow_expired=allow_expired)
        return self._tokens.get((hashlib.sha256(token.encode()).digest(), allow_expired), ask)


class Application:
    """Answers authenticated requests; whatever goes wrong, with Zun's error body."""

    def __init__(self, services: Services) -> None:
        """Serve with `services`."""
        self._services = services

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        request = Request(environ, self._services)
        return self._answer(request)(environ, start_response)

    def _answer(self, request: Request) -> Response:
        try:
            return routes.dispatch(request)
        except errors.AgentError as error:
            return faults.of_agent(error, request.request_id)
        except exceptions.HTTPException as error:
            return faults.of_http(error, request.request_id)
        except Exception as error:  # noqa: BLE001  the last resort: if it acts, there is a bug
            return faults.unexpected(error, 'container.internal-error', request.request_id)


class _PathNormaliser:
    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ['PATH_INFO'] = routes.normalised(environ.get('PATH_INFO', '/'))
        return self._application(environ, start_response)


class _HealthCheck:
    """Lets oslo.middleware's health check answer its own path."""

    def __init__(self, application: WSGIApplication, conf: cfg.ConfigOpts) -> None:
        self._application = application
        self._check = healthcheck.Healthcheck(None, conf)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        healthy = environ['PATH_INFO'] == '/healthcheck'
        answer = self._check if healthy else self._application
        return typing.cast('Iterable[bytes]', answer(environ, start_response))


class _SizeLimit:
    """oslo.middleware's limit of the body's size, told in Zun's error body."""

    def __init__(self, application: WSGIApplication, conf: cfg.ConfigOpts) -> None:
        self._limited = sizelimit.RequestBodySizeLimiter(application, conf)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        plain: list[bool] = []

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: typing.Any = None
        ) -> Callable[[bytes], object]:
            plain.append(status.startswith('413') and not _is_json(headers))
            if plain[-1]:
                return lambda data: None
            return start_response(status, headers, exc_info)

        body = self._limited(environ, start)
        if not plain or not plain[-1]:
            return typing.cast('Iterable[bytes]', body)
        error = errors.RequestTooLarge('The body is larger than max_request_body_size.')
        answer = faults.of_agent(error, environ.get('openstack.request_id', ''))
        return answer(environ, start_response)


def _is_json(headers: list[tuple[str, str]]) -> bool:
    return any(name.lower() == 'content-type' and 'json' in value for name, value in headers)


class _RequestLog:
    """Logs each request's end, without its query, which may hold what is secret."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        begun = time.monotonic()
        method, path = environ['REQUEST_METHOD'], environ['PATH_INFO']
        id_ = environ.get('openstack.request_id', '-')
        LOG.debug('%s %s begins, request %s', method, path, id_)

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: typing.Any = None
        ) -> Callable[[bytes], object]:
            LOG.info(
                '%s %s status %s in %.3f s, from %s, microversion %s, request %s',
                method,
                path,
                status.partition(' ')[0],
                time.monotonic() - begun,
                environ.get('REMOTE_ADDR', '-'),
                environ.get(versions.ENVIRON_KEY, '-'),
                id_,
            )
            return start_response(status, headers, exc_info)

        return self._application(environ, start)
