from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from oslo_config import cfg
from werkzeug.test import Client, TestResponse

from tests.api import fakes
from zun_agent import conf as agent_conf
from zun_agent.api import app, routes

IDENTITIES = {
    'token': ('user', 'project', 'member,reader'),
    'other': ('stranger', 'elsewhere', 'member,reader'),
    'admin': ('root', 'operators', 'admin,member,reader'),
}


def authenticate(application: Any) -> Any:
    """Stands for keystonemiddleware: its headers, and its answer without a good token."""

    def guarded(environ: dict[str, Any], start_response: Any) -> Any:
        if environ['PATH_INFO'] in routes.PUBLIC:
            return application(environ, start_response)
        identity = IDENTITIES.get(environ.get('HTTP_X_AUTH_TOKEN', ''))
        if identity is None:
            start_response('401 Unauthorized', [('Content-Type', 'application/json')])
            message = 'The request you have made requires authentication.'
            error = {'message': message, 'code': 401, 'title': 'Unauthorized'}
            return [json.dumps({'error': error}).encode()]
        user, project, roles = identity
        environ.update(
            HTTP_X_USER_ID=user,
            HTTP_X_PROJECT_ID=project,
            HTTP_X_ROLES=roles,
            HTTP_X_SERVICE_CATALOG=json.dumps([{'type': 'compute'}]),
        )
        return application(environ, start_response)

    return guarded


class Api:
    """Requests as a client makes them, with a token and a version."""

    def __init__(self, application: Any) -> None:
        self.client = Client(application)

    def __call__(
        self,
        method: str,
        url: str,
        body: Any = None,
        *,
        token: str | None = 'token',
        version: str | None = '1.40',
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> TestResponse:
        given = dict(headers or {})
        if token:
            given['X-Auth-Token'] = token
        if version:
            given['OpenStack-API-Version'] = f'container {version}'
        if body is not None:
            more['json'] = body
        return self.client.open(url, method=method, headers=given, **more)


def post(api: Api, body: dict[str, Any], version: str = '1.40', **more: Any) -> TestResponse:
    return api(
        'POST',
        '/v1/containers',
        {'image': 'alpine', 'name': 'box', **body},
        version=version,
        **more,
    )


def title(answer: TestResponse) -> str:
    text: str = answer.json['errors'][0]['title']
    return text


@pytest.fixture
def conf() -> cfg.ConfigOpts:
    made = cfg.ConfigOpts()
    agent_conf.register(made)
    made(args=[], project='zun-agent', default_config_files=[], default_config_dirs=[])
    made.set_override('host', 'one')
    return made


@pytest.fixture
def manager() -> fakes.FakeManager:
    return fakes.FakeManager()


@pytest.fixture
def application(conf: cfg.ConfigOpts, manager: fakes.FakeManager) -> Any:
    return app.build(conf, manager, authenticate)


@pytest.fixture
def api(application: Any) -> Api:
    return Api(application)


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Return a function that serves an application on loopback and returns its URL."""
    import threading

    from cheroot import wsgi

    servers = []

    def start(application: Any) -> str:
        server = wsgi.Server(('127.0.0.1', 0), application, numthreads=4, shutdown_timeout=0.1)
        server.expiration_interval = 0.05
        server.prepare()
        thread = threading.Thread(target=server.serve)
        thread.start()
        servers.append((server, thread))
        return f'http://127.0.0.1:{server.bind_addr[1]}'

    yield start
    for server, thread in servers:
        server.stop()
        thread.join()
