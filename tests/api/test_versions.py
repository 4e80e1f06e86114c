"""Discovery and microversions."""

from __future__ import annotations

import pytest

from tests.api.conftest import Api
from tests.api.fakes import FakeManager
from zun_agent import errors
from zun_agent.api import versions
from zun_agent.api.routes import ROUTES, Route
from zun_agent.api.versions import FIRST, LATEST, Version


def test_history_is_whole() -> None:
    assert tuple(f'1.{minor}' for minor in range(1, 41)) == versions.HISTORY
    assert Version(1, 9) < Version(1, 10)


@pytest.mark.parametrize(
    ('header', 'version'),
    [
        (None, '1.1'),
        ('', '1.1'),
        ('container 1.1', '1.1'),
        ('container 1.40', '1.40'),
        ('container latest', '1.40'),
        ('CONTAINER  1.12 ', '1.12'),
    ],
)
def test_negotiated(header: str | None, version: str) -> None:
    assert str(versions.negotiate(header)) == version


@pytest.mark.parametrize(
    'header',
    [
        'container 1.0',
        'container 1.41',
        'container 2.1',
        'container 0.1',
        'container x',
        'container 1',
        'container 1.1.1',
        'container 1.01',
        'container -1.1',
        'container',
        'compute 1.1',
        '1.1',
    ],
)
def test_not_negotiated(header: str, api: Api) -> None:
    with pytest.raises(errors.NotAcceptable):
        versions.negotiate(header)
    answer = api('GET', '/v1/containers', version=None, headers={'OpenStack-API-Version': header})
    assert answer.status_code == 406
    error = answer.json['errors'][0]
    assert (error['status'], error['min_version'], error['max_version']) == (406, '1.1', '1.40')
    assert answer.headers['OpenStack-API-Minimum-Version'] == 'container 1.1'
    assert answer.headers['OpenStack-API-Maximum-Version'] == 'container 1.40'
    assert 'OpenStack-API-Version' not in answer.headers


def test_root_document(api: Api) -> None:
    for token, version in ((None, None), (None, '1.1'), (None, '7.7')):
        answer = api('GET', '/', token=token, version=version)
        assert answer.status_code == 200
        (only,) = answer.json['versions']
        assert only == answer.json['default_version']
        assert only['status'] == 'CURRENT'
        assert (only['min_version'], only['max_version']) == ('1.1', '1.40')
        assert only['links'] == [{'href': 'http://localhost/v1/', 'rel': 'self'}]
        assert 'Vary' not in answer.headers
        assert answer.headers['X-Openstack-Request-Id'].startswith('req-')


@pytest.mark.parametrize('path', ['/v1', '/v1/', '/v1//'])
def test_v1_document(api: Api, path: str) -> None:
    answer = api('GET', path, token=None, version=None)
    assert answer.status_code == 200
    assert answer.json['id'] == 'v1'
    for resource in ('containers', 'capsules', 'quota_classes', 'registries'):
        assert answer.json[resource] == [
            {'href': f'http://localhost/v1/{resource}/', 'rel': 'self'},
            {'href': f'http://localhost/{resource}/', 'rel': 'bookmark'},
        ]
    assert answer.headers['OpenStack-API-Version'] == 'container 1.1'


def test_links_follow_the_proxy_when_told_to(conf, manager) -> None:  # type: ignore[no-untyped-def]
    from tests.api.conftest import authenticate
    from zun_agent.api import app

    headers = {'X-Forwarded-Proto': 'https', 'X-Forwarded-Host': 'cloud.example'}

    def self_link() -> str:
        api = Api(app.build(conf, manager, authenticate))
        link: str = api('GET', '/', headers=headers).json['versions'][0]['links'][0]['href']
        return link

    assert self_link() == 'http://localhost/v1/'
    conf.set_override('enable_proxy_headers_parsing', True, 'oslo_middleware')
    assert self_link() == 'https://cloud.example/v1/'


@pytest.mark.parametrize(
    ('url', 'token', 'status'),
    [
        ('/v1/containers', 'token', 200),
        ('/v1/containers/none', 'token', 404),
        ('/v1/nothing', 'token', 404),
        ('/v1/services', 'token', 403),
        ('/v1/containers?limit=x', 'token', 400),
        ('/v1/containers', None, 401),
        ('/v1/images', 'token', 501),
    ],
)
def test_headers_are_on_every_answer(api: Api, url: str, token: str | None, status: int) -> None:
    answer = api('GET', url, token=token, version='1.18')
    assert answer.status_code == status
    assert answer.headers['OpenStack-API-Version'] == 'container 1.18'
    assert answer.headers['OpenStack-API-Minimum-Version'] == 'container 1.1'
    assert answer.headers['OpenStack-API-Maximum-Version'] == 'container 1.40'
    assert answer.headers['Vary'] == 'OpenStack-API-Version'
    assert answer.headers['X-Openstack-Request-Id'].startswith('req-')


GATED = [route for route in ROUTES if (route.since, route.until) != (FIRST, LATEST)]


def _url(route: Route) -> str:
    return route.path.replace('<ident>', 'c1')


@pytest.mark.parametrize('route', GATED, ids=lambda route: f'{route.method} {route.path}')
def test_gates(api: Api, manager: FakeManager, route: Route) -> None:
    manager.add(name='c1')

    def status(version: Version) -> int:
        return api(route.method, _url(route), token='admin', version=str(version)).status_code

    assert status(route.since) != 406
    assert status(route.until) != 406
    if route.since != FIRST:
        assert status(Version(1, route.since.minor - 1)) == 406
    if route.until != LATEST:
        assert status(Version(1, route.until.minor + 1)) == 406


def test_the_gates_are_those_of_zun() -> None:
    assert {(r.path.rpartition('/')[2], str(r.since), str(r.until)) for r in GATED} == {
        ('rename', '1.1', '1.13'),
        ('resize_container', '1.19', '1.40'),
        ('network_list', '1.13', '1.40'),
        ('network_attach', '1.8', '1.40'),
        ('network_detach', '1.6', '1.40'),
        ('add_security_group', '1.1', '1.14'),
        ('remove_security_group', '1.1', '1.14'),
        ('hosts', '1.4', '1.40'),
        ('<ident>', '1.4', '1.40'),  # of hosts
        ('<ident>', '1.27', '1.40'),  # of networks
    }
