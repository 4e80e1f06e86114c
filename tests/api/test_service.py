"""The service around the containers: errors, habits of clients, agents, hosts, zones."""

from __future__ import annotations

import http.client
import json
import logging
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.api.conftest import Api
from tests.api.fakes import FakeManager, service
from zun_agent import errors
from zun_agent.api import app
from zun_agent.api.routes import ROUTES, normalised
from zun_agent.api.unsupported import refuse


def error(answer: TestResponse) -> dict[str, Any]:
    (only,) = answer.json['errors']
    assert set(only) >= {'request_id', 'code', 'status', 'title', 'detail', 'links'}
    assert only['status'] == answer.status_code
    assert only['request_id'] == answer.headers['X-Openstack-Request-Id']
    found: dict[str, Any] = only
    return found


@pytest.mark.parametrize(
    ('given', 'path'),
    [
        ('/', '/'),
        ('', '/'),
        ('//', '/'),
        ('/v1', '/v1'),
        ('/v1/', '/v1'),
        ('//v1//containers//', '/v1/containers'),
        ('/containers', '/v1/containers'),
        ('/containers/v1', '/v1/containers/v1'),
        ('/v1/containers//c1//stop/', '/v1/containers/c1/stop'),
        ('/v2/containers', '/v2/containers'),
        ('/healthcheck', '/healthcheck'),
        ('/healthcheck/', '/healthcheck'),
    ],
)
def test_paths(given: str, path: str) -> None:
    assert normalised(given) == path


@pytest.mark.parametrize(
    'path', ['/v1/nothing', '/nothing', '/v1/containers/c1/nothing', '/v2/containers', '/v1/v1']
)
def test_no_such_url(api: Api, path: str) -> None:
    assert error(api('GET', path))['code'] == 'container.not-found'
    assert api('GET', path).status_code == 404
    assert api('GET', path, token=None).status_code == 401


@pytest.mark.parametrize(
    ('method', 'path', 'allow'),
    [
        ('PUT', '/v1/containers', 'GET, HEAD, POST'),
        ('POST', '/v1/containers/c1', 'DELETE, GET, HEAD, PATCH'),
        ('GET', '/v1/containers/c1/start', 'POST'),
        ('POST', '/v1/hosts', 'GET, HEAD'),
        ('OPTIONS', '/v1/containers', 'GET, HEAD, POST'),
    ],
)
def test_no_such_method(api: Api, method: str, path: str, allow: str) -> None:
    answer = api(method, path)
    assert answer.status_code == 405
    assert answer.headers['Allow'] == allow
    assert error(answer)['code'] == 'container.method-not-allowed'


def test_head(api: Api) -> None:
    answer = api('HEAD', '/v1/containers')
    assert (answer.status_code, answer.data) == (200, b'')


def test_healthcheck(api: Api) -> None:
    answer = api('GET', '/healthcheck', token=None, version=None)
    assert answer.status_code == 200
    assert 'Vary' not in answer.headers


def test_bodies_of_unannounced_length(serve: Any, application: Any, manager: FakeManager) -> None:
    address = serve(application).removeprefix('http://')

    def post(body: bytes) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(address, timeout=10)
        headers = {'X-Auth-Token': 'token', 'Content-Type': 'application/json'}
        pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
        connection.request('POST', '/v1/containers', pieces, headers, encode_chunked=True)
        answer = connection.getresponse()
        told = json.loads(answer.read())
        connection.close()
        return answer.status, told

    assert post(b'{"image": "alpine", "workdir": "/srv"}')[0] == 202
    assert manager.called('create')[0]['spec']['workdir'] == '/srv'
    status, told = post(b'{"image": "' + b'x' * 200_000 + b'"}')
    assert (status, told['errors'][0]['code']) == (413, 'container.request-too-large')
    assert len(manager.called('create')) == 1


def test_no_token(api: Api, manager: FakeManager) -> None:
    for token in (None, 'wrong'):
        answer = api('GET', '/v1/containers', token=token)
        assert answer.status_code == 401
        assert answer.json['error']['title'] == 'Unauthorized'
    assert not manager.calls


def test_keystonemiddleware_guards_all_but_the_documents(conf: Any, manager: FakeManager) -> None:
    app.build(conf, manager)  # type: ignore[arg-type]  registers the options
    conf.set_override('www_authenticate_uri', 'http://keystone/v3', 'keystone_authtoken')
    api = Api(app.build(conf, manager))  # type: ignore[arg-type]
    for path in ('/', '/v1', '/healthcheck'):
        assert api('GET', path, token=None).status_code == 200
    for path in ('/v1/containers', '/containers', '/v1//containers', '/v1/nothing', '/v2'):
        answer = api('GET', path, token=None, headers={'X-Roles': 'admin', 'X-User-Id': 'me'})
        assert answer.status_code == 401, path
        assert answer.json['error']['code'] == 401
        assert answer.headers['WWW-Authenticate'] == 'Keystone uri="http://keystone/v3"'
        assert answer.headers['X-Openstack-Request-Id'].startswith('req-')
    assert not manager.calls


# --- errors


EVERY_ERROR = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.AgentError)
]


@pytest.mark.parametrize('kind', EVERY_ERROR, ids=lambda kind: kind.__name__)
def test_every_error_of_the_manager(
    api: Api, manager: FakeManager, kind: type[errors.AgentError], caplog: Any
) -> None:
    manager.failure = kind('the inner reason')
    answer = api('GET', '/v1/containers')
    assert answer.status_code == kind.status
    told = error(answer)
    assert told['code'] == kind('').code
    if kind.status != 500:
        assert told['title'] == told['detail'] == 'the inner reason'
        return
    assert told['title'] == 'Internal Server Error'
    assert 'the inner reason' not in answer.text
    correlation = told['detail'].rpartition(' ')[2]
    (record,) = [each for each in caplog.records if correlation in each.getMessage()]
    assert record.levelno == logging.ERROR
    assert 'the inner reason' in caplog.text


def test_a_bug_is_a_500(api: Api, manager: FakeManager, caplog: Any) -> None:
    manager.failure = ZeroDivisionError('oops')
    answer = api('POST', '/v1/containers', {'image': 'alpine'})
    assert answer.status_code == 500
    assert error(answer)['detail'].startswith('Your request could not be handled')
    assert 'oops' not in answer.text
    assert 'ZeroDivisionError' in caplog.text
    assert answer.headers['OpenStack-API-Version'] == 'container 1.40'


def test_codes_are_kebab() -> None:
    assert errors.ContainerHostNotUp().code == 'container.container-host-not-up'


# --- what is not there yet


UNSUPPORTED = [route for route in ROUTES if route.handler is refuse]


@pytest.mark.parametrize('route', UNSUPPORTED, ids=lambda route: f'{route.method} {route.path}')
def test_unsupported(api: Api, route: Any) -> None:
    path = (
        route.path.replace('<any(enable, disable, force_down):act>', 'enable')
        .replace('<path:name>', 'library/nginx')
        .replace('<', '')
        .replace('>', '')
    )
    version = str(route.until)
    more = {'json': {}} if route.needs_json else {}
    answer = api(route.method, path, version=version, **more)
    assert answer.status_code == 501
    told = error(answer)
    assert told['code'] == 'container.not-supported'
    assert route.method in told['title']
    assert '<' not in told['title']
    assert api(route.method, path, token=None, **more).status_code == 401


def test_a_network_of_docker_is_never_there(api: Api) -> None:
    answer = api('DELETE', '/v1/networks/b7a2', token='admin')
    assert answer.status_code == 404
    assert error(answer)['code'] == 'container.network-not-found'
    assert api('DELETE', '/v1/networks/b7a2').status_code == 403


# --- agents, hosts, zones


def test_services(api: Api, manager: FakeManager) -> None:
    manager.known_services.append(service('two', id=2, disabled=True, disabled_reason='repair'))
    manager.down.add('two')
    assert api('GET', '/v1/services').status_code == 403
    one, two = api('GET', '/v1/services/', token='admin').json['services']
    assert set(one) == {
        'id', 'host', 'binary', 'state', 'disabled', 'disabled_reason', 'last_seen_up',
        'forced_down', 'report_count', 'availability_zone', 'created_at', 'updated_at',
    }  # fmt: skip
    assert (one['host'], one['state'], one['disabled']) == ('one', 'up', False)
    assert (two['host'], two['state'], two['disabled_reason']) == ('two', 'down', 'repair')


def test_hosts(api: Api, manager: FakeManager) -> None:
    manager.known_services = [service('b'), service('a'), service('c')]
    assert api('GET', '/v1/hosts').status_code == 403
    everyone = api('GET', '/v1/hosts/', token='admin').json
    assert [host['hostname'] for host in everyone['hosts']] == ['a', 'b', 'c']
    assert everyone['next'] is None
    page = api('GET', '/v1/hosts?limit=2', token='admin').json
    assert len(page['hosts']) == 2
    rest = api('GET', page['next'], token='admin').json
    assert [host['hostname'] for host in rest['hosts']] == ['c']
    host = everyone['hosts'][0]
    assert (host['mem_total'], host['cpus'], host['os'], host['runtimes']) == (
        4096, 2, 'Debian', [],
    )  # fmt: skip
    for ident in ('a', host['uuid']):
        assert api('GET', f'/v1/hosts/{ident}', token='admin').json == host
    assert 'enable_cpu_pinning' in host
    older = api('GET', '/v1/hosts/a', token='admin', version='1.28').json
    assert 'enable_cpu_pinning' not in older
    unknown = api('GET', '/v1/hosts/z', token='admin')
    assert (unknown.status_code, error(unknown)['code']) == (
        404,
        'container.compute-node-not-found',
    )
    assert api('GET', '/v1/hosts?sort_key=cpus', token='admin').status_code == 400
    assert api('GET', '/v1/hosts?marker=x', token='admin').status_code == 400
    assert api('GET', '/v1/hosts/a').status_code == 403


def test_availability_zones(api: Api) -> None:
    assert api('GET', '/v1/availability_zones').json == {
        'availability_zones': [{'availability_zone': 'edge'}, {'availability_zone': 'nova'}],
        'next': None,
    }


# --- the log


def test_the_log_tells_each_request_and_no_secret(
    api: Api, manager: FakeManager, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    manager.add(name='c1')
    answer = api('POST', '/v1/containers/c1/execute?command=export+PASSWORD%3Dhush')
    body = {'image': 'alpine', 'environment': {'PASSWORD': 'hush'}}
    api('POST', '/v1/containers', body, token='token')
    assert 'hush' not in caplog.text
    lines = [record.getMessage() for record in caplog.records]
    request_id = answer.headers['X-Openstack-Request-Id']
    (line,) = [each for each in lines if request_id in each and 'status' in each]
    assert line.startswith('POST /v1/containers/c1/execute status 200 in ')
    assert 'microversion 1.40' in line


def test_a_token_is_looked_up_once_in_a_burst(conf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from keystonemiddleware import auth_token

    asked: list[tuple[str, bool]] = []

    def fetch(self: Any, token: str, allow_expired: bool = False) -> Any:
        asked.append((token, allow_expired))
        if token == 'bad':
            raise ValueError(token)
        return {'token': token}

    monkeypatch.setattr(auth_token.AuthProtocol, 'fetch_token', fetch)
    middleware = app._Authentication(lambda *_: [], {'oslo_config_config': conf})
    for _ in range(3):
        assert middleware.fetch_token('a') == {'token': 'a'}
        assert middleware.fetch_token('a', allow_expired=True) == {'token': 'a'}
        assert middleware.fetch_token('b') == {'token': 'b'}
    assert asked == [('a', False), ('a', True), ('b', False)]
    asked.clear()
    for _ in range(2):
        with pytest.raises(ValueError, match='bad'):
            middleware.fetch_token('bad')
    assert len(asked) == 2  # a refusal is not kept
    for number in range(app.TOKENS):
        middleware.fetch_token(str(number))
    assert len(middleware._tokens._answers) <= app.TOKENS
