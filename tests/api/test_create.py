"""POST /containers: what is taken, what is refused and why, and what the manager gets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.conftest import Api, post, title
from tests.api.fakes import FakeManager

DEFAULTS: dict[str, Any] = {
    'image': 'alpine',
    'name': 'box',
    'command': None,
    'entrypoint': None,
    'cpu': None,
    'cpu_policy': 'shared',
    'memory': None,
    'disk': None,
    'environment': {},
    'workdir': None,
    'labels': {},
    'hints': {},
    'hostname': None,
    'restart_policy': None,
    'interactive': False,
    'tty': False,
    'auto_remove': False,
    'auto_heal': False,
    'image_driver': None,
    'image_pull_policy': None,
    'security_groups': [],
    'nets': [],
    'availability_zone': None,
    'host': None,
}


def test_the_least(api: Api, manager: FakeManager) -> None:
    assert post(api, {}).status_code == 202
    (call,) = manager.called('create')
    assert (call['spec'], call['run']) == (DEFAULTS, False)
    context = call['context']
    assert (context.user_id, context.project_id) == ('user', 'project')
    assert context.roles == ['member', 'reader']
    assert context.auth_token == 'token'
    assert context.service_catalog == [{'type': 'compute'}]
    assert context.request_id.startswith('req-')
    assert context.is_admin is False


TAKEN = [
    ({'command': ['sh', '-c', 'a b']}, {'command': ['sh', '-c', 'a b']}),
    ({'command': []}, {}),
    ({'command': None}, {}),
    ({'entrypoint': ['/init']}, {'entrypoint': ['/init']}),
    ({'cpu': 0.5}, {'cpu': 0.5}),
    ({'cpu': '2'}, {'cpu': 2.0}),
    ({'cpu': ''}, {}),
    ({'cpu': 64}, {'cpu': 64.0}),
    ({'memory': '512'}, {'memory': 512}),
    ({'memory': 6}, {'memory': 6}),
    ({'memory': 100000}, {'memory': 100000}),
    ({'disk': '20'}, {'disk': 20}),
    ({'environment': {'A': 'b', 'PORT': 80}}, {'environment': {'A': 'b', 'PORT': '80'}}),
    ({'environment': None, 'labels': None, 'hints': None}, {}),
    ({'labels': {'app': 'web'}}, {'labels': {'app': 'web'}}),
    ({'hints': {'sandbox': 'mybox', 'flavor': None}}, {'hints': {'sandbox': 'mybox'}}),
    ({'workdir': '/srv'}, {'workdir': '/srv'}),
    ({'workdir': ''}, {}),
    ({'hostname': 'web.example'}, {'hostname': 'web.example'}),
    ({'hostname': None}, {}),
    ({'interactive': True}, {'interactive': True}),
    ({'interactive': 'true', 'tty': 'True'}, {'interactive': True, 'tty': True}),
    ({'interactive': 'False', 'tty': False}, {}),
    ({'auto_remove': 'true', 'auto_heal': True}, {'auto_remove': True, 'auto_heal': True}),
    (
        {'restart_policy': {'Name': 'on-failure', 'MaximumRetryCount': '3'}},
        {'restart_policy': {'Name': 'on-failure', 'MaximumRetryCount': 3}},
    ),
    (
        {'restart_policy': {'Name': 'always'}},
        {'restart_policy': {'Name': 'always', 'MaximumRetryCount': 0}},
    ),
    (
        {'restart_policy': {'Name': 'no'}, 'auto_remove': True},
        {'restart_policy': {'Name': 'no', 'MaximumRetryCount': 0}, 'auto_remove': True},
    ),
    ({'restart_policy': {}}, None),
    ({'image_driver': 'glance'}, {'image_driver': 'glance'}),
    ({'image_driver': 'None'}, {}),
    ({'image_pull_policy': ''}, {}),
    ({'image_pull_policy': 'always'}, {'image_pull_policy': 'always'}),
    ({'image_pull_policy': 'never'}, {'image_pull_policy': 'never'}),
    ({'security_groups': ['web', 'b7a2']}, {'security_groups': ['web', 'b7a2']}),
    ({'availability_zone': 'edge'}, {'availability_zone': 'edge'}),
    ({'cpu_policy': 'shared'}, {}),
    (
        {'nets': [{'network': 'a', 'port': '', 'v4-fixed-ip': '10.0.0.9', 'tag': None}]},
        {'nets': [{'network': 'a', 'v4-fixed-ip': '10.0.0.9'}]},
    ),
    (
        {'nets': [{'port': 'p', 'preserve': 'true'}, {'network': 'b', 'v6-fixed-ip': 'fd00::1'}]},
        {'nets': [{'port': 'p', 'preserve': True}, {'network': 'b', 'v6-fixed-ip': 'fd00::1'}]},
    ),
    # not there yet, but not asked for either
    ({'mounts': [], 'exposed_ports': {}, 'healthcheck': None, 'registry': None}, {}),
    ({'runtime': None, 'privileged': False}, {}),
    ({'privileged': 'false'}, {}),
]


@pytest.mark.parametrize(('body', 'spec'), [each for each in TAKEN if each[1] is not None])
def test_taken(api: Api, manager: FakeManager, body: dict[str, Any], spec: dict[str, Any]) -> None:
    answer = post(api, body)
    assert answer.status_code == 202, answer.text
    assert manager.called('create')[0]['spec'] == {**DEFAULTS, **spec}


REFUSED = [
    ({'image': None}, 'image'),
    ({'image': 'a'}, 'image'),
    ({'image': '..'}, 'image'),
    ({'image': 7}, 'image'),
    ({'name': 'x'}, 'name'),
    ({'name': 'a b'}, 'name'),
    ({'name': 'ab\n'}, 'name'),
    ({'name': 'a' * 256}, 'name'),
    ({'command': 'ls -l'}, 'command'),
    ({'command': [1]}, 'command/0'),
    ({'entrypoint': 'sh'}, 'entrypoint'),
    ({'cpu': 0.05}, 'cpu'),
    ({'cpu': '0'}, 'cpu'),
    ({'cpu': 'much'}, 'cpu'),
    ({'cpu': -1}, 'cpu'),
    ({'cpu': True}, 'cpu'),
    ({'memory': 3}, 'memory'),
    ({'memory': '512m'}, 'memory'),
    ({'memory': 1.5}, 'memory'),
    ({'memory': -5}, 'memory'),
    ({'memory': 10**12}, 'memory'),
    ({'disk': 0}, 'disk'),
    ({'environment': ['A=b']}, 'environment'),
    ({'environment': {'A': None}}, 'environment/A'),
    ({'environment': {'A=B': 'c'}}, 'environment'),
    ({'environment': {'': 'c'}}, 'environment'),
    ({'labels': {'a': []}}, 'labels/a'),
    ({'hints': {'group': 'x'}}, 'hints'),
    ({'workdir': 'srv'}, 'workdir'),
    ({'hostname': 'a b'}, 'hostname'),
    ({'interactive': 'yes'}, 'interactive'),
    ({'auto_remove': 1}, 'auto_remove'),
    ({'restart_policy': 'always'}, 'restart_policy'),
    ({'restart_policy': {'Name': 'maybe'}}, 'restart_policy/Name'),
    ({'restart_policy': {'MaximumRetryCount': 1}}, 'restart_policy'),
    ({'restart_policy': {'Name': 'always', 'MaximumRetryCount': 2}}, 'restart_policy'),
    ({'restart_policy': {'Name': 'always'}, 'auto_remove': True}, 'restart_policy'),
    ({'image_driver': 'floppy'}, 'image_driver'),
    ({'image_pull_policy': 'sometimes'}, 'image_pull_policy'),
    ({'security_groups': 'web'}, 'security_groups'),
    ({'security_groups': ['']}, 'security_groups/0'),
    ({'nets': [{}]}, 'nets/0'),
    ({'nets': [{'network': 'a', 'port': 'b'}]}, 'nets/0'),
    ({'nets': [{'network': 'a'}, {'network': 'a', 'v4-fixed-ip': '10.0.0.300'}]}, 'nets/1'),
    ({'nets': [{'network': 'a', 'v6-fixed-ip': '10.0.0.3'}]}, 'nets/0/v6-fixed-ip'),
    ({'nets': [{'network': 'a', 'fixed_ip': '10.0.0.3'}]}, "'fixed_ip' was unexpected"),
    ({'cpu_policy': 'dedicated'}, 'cpu_policy'),
    ({'foo': 1}, "('foo' was unexpected)"),
    # Zun's, and not there yet
    ({'mounts': [{'source': 'vol', 'destination': '/data'}]}, "'mounts' is not supported"),
    ({'mounts': [{'source': 'vol'}]}, 'mounts/0'),
    ({'healthcheck': {'cmd': 'true'}}, "'healthcheck' is not supported"),
    ({'exposed_ports': {'80/tcp': {}}}, "'exposed_ports' is not supported"),
    ({'registry': 'mine'}, "'registry' is not supported"),
]


@pytest.mark.parametrize(('body', 'named'), REFUSED)
def test_refused(api: Api, manager: FakeManager, body: dict[str, Any], named: str) -> None:
    answer = post(api, body)
    assert answer.status_code == 400
    assert named in title(answer)
    assert not manager.called('create')


def test_an_image_is_needed(api: Api) -> None:
    answer = api('POST', '/v1/containers', {'name': 'box'})
    assert answer.status_code == 400
    assert title(answer) == "'image' is a required property"
    assert answer.json['errors'][0]['code'] == 'container.schema-validation-error'


def test_a_name_is_found_when_none_is_given(api: Api) -> None:
    for body in ({'image': 'alpine'}, {'image': 'alpine', 'name': None}):
        name = api('POST', '/v1/containers', body).json['name']
        word, number, end = name.split('-')
        assert word.isalpha()
        assert number.isdigit()
        assert end == 'container'


def test_the_message_does_not_repeat_a_novel(api: Api) -> None:
    assert len(title(post(api, {'command': 'x' * 50000}))) < 700


@pytest.mark.parametrize(
    ('url', 'run'),
    [
        ('/v1/containers', False),
        ('/v1/containers/?run=true', True),
        ('/v1/containers?run=True', True),
        ('/v1/containers?run=false', False),
        ('/v1/containers?run=None', False),
        ('/containers?run=1', True),
    ],
)
def test_run(api: Api, manager: FakeManager, url: str, run: bool) -> None:
    assert api('POST', url, {'image': 'alpine'}).status_code == 202
    assert manager.called('create')[0]['run'] is run


@pytest.mark.parametrize('query', ['run=maybe', 'walk=true'])
def test_query_of_create_is_checked(api: Api, query: str) -> None:
    answer = api('POST', f'/v1/containers?{query}', {'image': 'alpine'})
    assert answer.status_code == 400


# --- policy


@pytest.mark.parametrize(
    ('body', 'rule'),
    [
        ({'privileged': True}, 'container:create:privileged'),
        ({'privileged': 'true'}, 'container:create:privileged'),
        ({'runtime': 'runc'}, 'container:create:runtime'),
        ({'host': 'one'}, 'container:create:requested_destination'),
    ],
)
def test_guarded_members(api: Api, manager: FakeManager, body: dict[str, Any], rule: str) -> None:
    answer = post(api, body)
    assert answer.status_code == 403
    assert rule in title(answer)
    assert answer.json['errors'][0]['code'] == 'container.policy-not-authorized'
    assert not manager.called('create')


@pytest.mark.parametrize(
    ('default', 'asked', 'status'),
    [
        ('always', 'always', 202),
        ('always', 'ifnotpresent', 403),
        ('always', 'never', 403),
        ('never', 'never', 202),
        ('never', 'always', 403),
        ('ifnotpresent', 'always', 202),
    ],
)
def test_an_operators_pull_policy_stands(
    api: Api, conf: Any, default: str, asked: str, status: int
) -> None:
    conf.set_override('default_image_pull_policy', default, 'container')
    answer = post(api, {'image_pull_policy': asked})
    assert answer.status_code == status
    if status == 403:
        assert 'container:create:image_pull_policy' in title(answer)
    assert post(api, {'image_pull_policy': asked}, token='admin').status_code == 202


def test_what_administrators_may(api: Api, manager: FakeManager) -> None:
    body = {'image_pull_policy': 'always', 'host': 'one'}
    answer = post(api, body, token='admin')
    assert answer.status_code == 202
    assert manager.called('create')[0]['spec'] == {**DEFAULTS, **body}
    assert manager.called('create')[0]['context'].is_admin is True
    assert post(api, {'privileged': True}, token='admin').status_code == 403
    runtime = post(api, {'runtime': 'runc'}, token='admin')
    assert (runtime.status_code, title(runtime)) == (
        400,
        "Field 'runtime' is not supported by this service yet.",
    )


# --- bodies that are none


@pytest.mark.parametrize(
    ('data', 'kind', 'status'),
    [
        ('', 'application/json', 400),
        ('{', 'application/json', 400),
        ('[]', 'application/json', 400),
        ('null', 'application/json', 400),
        ('"text"', 'application/json', 400),
        ('{"image": "alpine", "cpu": NaN}', 'application/json', 400),
        ('{"image": "alpine", "command": ["\\ud800"]}', 'application/json', 400),
        ('[' * 100000, 'application/json', 400),
        (b'\xff\xfe', 'application/json', 400),
        ('{"image": "alpine"}', 'application/json; charset=utf-8', 202),
        ('{"image": "alpine", "command": ["h\\u00e4"]}', 'application/json', 202),
        ('{"image": "alpine"}', 'text/plain', 415),
        ('image=alpine', 'application/x-www-form-urlencoded', 415),
        ('{"image": "alpine"}', None, 415),
        ('', None, 415),
    ],
)
def test_bodies(api: Api, data: Any, kind: str | None, status: int) -> None:
    answer = api('POST', '/v1/containers', data=data, content_type=kind)
    assert answer.status_code == status, answer.text
    if status != 202:
        assert answer.json['errors'][0]['status'] == status


def test_large_bodies(api: Api, manager: FakeManager) -> None:
    body = json.dumps({'image': 'alpine', 'environment': {'A': 'x' * 120000}})
    answer = api('POST', '/v1/containers', data=body, content_type='application/json')
    assert answer.status_code == 413
    assert answer.json['errors'][0]['code'] == 'container.request-too-large'
    assert answer.headers['OpenStack-API-Version'] == 'container 1.40'
    assert not manager.called('create')
