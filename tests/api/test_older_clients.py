"""POST /containers as older clients send it: members that came later, and commands in one line."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Api, post, title
from tests.api.fakes import FakeManager


@pytest.mark.parametrize(
    ('field', 'value', 'since'),
    [
        ('auto_remove', True, 3),
        ('runtime', 'runc', 5),
        ('hostname', 'web', 9),
        ('mounts', [{'source': 'vol', 'destination': '/data'}], 11),
        ('privileged', True, 21),
        ('healthcheck', {'cmd': 'true'}, 22),
        ('exposed_ports', {'80/tcp': {}}, 24),
        ('registry', 'mine', 31),
    ],
)
def test_members_that_came_later(api: Api, field: str, value: Any, since: int) -> None:
    before = post(api, {field: value}, version=f'1.{since - 1}')
    assert before.status_code == 400
    assert before.json['errors'][0]['code'] == 'container.invalid-param-in-version'
    assert f'microversion 1.{since}' in title(before)
    after = post(api, {field: value}, version=f'1.{since}')
    assert 'microversion' not in after.text
    assert post(api, {field: None}, version='1.1').status_code == 202


@pytest.mark.parametrize('version', ['1.1', '1.12', '1.18', '1.19'])
def test_a_command_was_a_line(api: Api, manager: FakeManager, version: str) -> None:
    line = '"sh" "-c" "echo hello"'  # as python-zunclient quotes
    assert post(api, {'command': line}, version=version).status_code == 202
    assert manager.called('create')[0]['spec']['command'] == ['sh', '-c', 'echo hello']
    assert post(api, {'command': ['sh']}, version=version).status_code == 400
    broken = post(api, {'command': 'echo "'}, version=version)
    assert broken.status_code == 400
    assert 'command' in title(broken)
    assert post(api, {'command': ''}, version=version).status_code == 202
    assert manager.called('create')[1]['spec']['command'] is None


@pytest.mark.parametrize(
    ('version', 'body', 'tty'),
    [
        ('1.1', {'interactive': True}, True),
        ('1.12', {'interactive': True}, True),
        ('1.35', {'interactive': False}, False),
        ('1.35', {'interactive': True, 'tty': False}, True),
        ('1.36', {'interactive': True}, False),
        ('1.36', {'interactive': False, 'tty': True}, True),
    ],
)
def test_tty(api: Api, manager: FakeManager, version: str, body: dict[str, Any], tty: bool) -> None:
    assert post(api, body, version=version).status_code == 202
    assert manager.called('create')[0]['spec']['tty'] is tty


def test_as_heat_creates(api: Api, manager: FakeManager) -> None:
    body = {
        'name': 'stack-web-abc',
        'image': 'nginx',
        'command': '"nginx" "-g" "daemon off;"',
        'cpu': 0.5,
        'memory': '256',
        'environment': {'MODE': 'fast', 'PORT': 8080},
        'workdir': '/srv',
        'labels': {'a': 'b'},
        'restart_policy': {'Name': 'on-failure', 'MaximumRetryCount': '3'},
        'interactive': False,
        'image_driver': 'docker',
        'hints': {'sandbox': 'box'},
        'hostname': 'web',
        'security_groups': [],
        'nets': [{'network': 'net', 'v4-fixed-ip': '10.0.0.8', 'tag': None}],
    }
    answer = api('POST', '/v1/containers?run=true', body, version='1.12')
    assert answer.status_code == 202, answer.text
    spec = manager.called('create')[0]['spec']
    assert spec['command'] == ['nginx', '-g', 'daemon off;']
    assert spec['environment'] == {'MODE': 'fast', 'PORT': '8080'}
    assert answer.json['restart_policy'] == {'Name': 'on-failure', 'MaximumRetryCount': '3'}
    assert answer.json['memory'] == '256'
