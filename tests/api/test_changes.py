"""Containers changed, renamed and deleted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Api, title
from tests.api.fakes import FakeManager
from zun_agent.models import Status


def test_update(api: Api, manager: FakeManager) -> None:
    manager.add(name='web')
    body = {'name': 'shop', 'cpu': '0.5', 'memory': 128, 'auto_heal': 'true'}
    answer = api('PATCH', '/v1/containers/web', body)
    assert (answer.status_code, answer.json['name']) == (200, 'shop')
    assert manager.called('update')[0]['changes'] == {
        'name': 'shop',
        'cpu': 0.5,
        'memory': 128,
        'auto_heal': True,
    }


@pytest.mark.parametrize(
    ('body', 'status', 'named'),
    [
        ({'name': 'x'}, 400, 'name'),
        ({'image': 'nginx'}, 400, "'image' was unexpected"),
        ({'cpu': 0}, 400, 'cpu'),
        ({'memory': '1'}, 400, 'memory'),
        ({}, 400, 'changes nothing'),
        ([], 400, 'object'),
    ],
)
def test_bad_updates(api: Api, manager: FakeManager, body: Any, status: int, named: str) -> None:
    manager.add(name='web')
    answer = api('PATCH', '/v1/containers/web', body)
    assert answer.status_code == status
    assert named in title(answer)
    assert not manager.called('update')


def test_rename_through_the_ages(api: Api, manager: FakeManager) -> None:
    manager.add(name='c1')
    old = api('POST', '/v1/containers/c1/rename?name=c2', version='1.13')
    assert (old.status_code, old.json['name']) == (200, 'c2')
    by_body = api('POST', '/v1/containers/c2/rename', {'name': 'c3'}, version='1.1')
    assert by_body.json['name'] == 'c3'
    assert api('POST', '/v1/containers/c3/rename?name=c4', version='1.14').status_code == 406
    assert api('POST', '/v1/containers/c3/rename', version='1.13').status_code == 400
    early = api('PATCH', '/v1/containers/c3', {'name': 'c4'}, version='1.13')
    assert early.json['errors'][0]['code'] == 'container.invalid-param-in-version'
    assert api('PATCH', '/v1/containers/c3', {'cpu': 1}, version='1.13').status_code == 200
    assert api('PATCH', '/v1/containers/c3', {'name': 'c4'}, version='1.14').status_code == 200


def test_resize_container(api: Api, manager: FakeManager) -> None:
    manager.add(name='c1')
    answer = api('POST', '/v1/containers/c1/resize_container', {'cpu': 2, 'memory': '64'})
    assert (answer.status_code, answer.json['memory']) == (202, '64')
    assert api('POST', '/v1/containers/c1/resize_container', {'name': 'b'}).status_code == 400


@pytest.mark.parametrize(
    ('version', 'query', 'token', 'status', 'call'),
    [
        ('1.40', '', 'token', 204, (False, False, None)),
        ('1.40', '?stop=True', 'token', 204, (False, True, None)),
        ('1.12', '?stop=true&timeout=3', 'token', 204, (False, True, 3)),
        ('1.11', '?stop=True', 'token', 400, None),
        ('1.40', '?force=True', 'token', 403, None),
        ('1.7', '?force=True', 'token', 403, None),
        ('1.6', '?force=True', 'token', 204, (True, False, None)),
        ('1.40', '?force=True', 'admin', 204, (True, False, None)),
        ('1.40', '?force=False&stop=False', 'token', 204, (False, False, None)),
        ('1.40', '?force=maybe', 'token', 400, None),
        ('1.40', '?now=True', 'token', 400, None),
    ],
)
def test_delete(
    api: Api, manager: FakeManager, version: str, query: str, token: str, status: int, call: Any
) -> None:
    manager.add(name='c1', status=Status.STOPPED)
    answer = api(
        'DELETE',
        f'/v1/containers//c1{query}',
        token=token,
        version=version,
        content_type='application/octet-stream',
    )
    assert answer.status_code == status, answer.text
    expected = [] if call is None else [dict(zip(('force', 'stop', 'timeout'), call, strict=True))]
    assert manager.called('delete') == expected
    if status == 204:
        assert answer.data == b''
        assert answer.headers['OpenStack-API-Version'] == f'container {version}'
