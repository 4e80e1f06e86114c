"""Containers shown and listed, with their networks and what was done to them."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

import pytest

from tests.api.conftest import Api, title
from tests.api.fakes import NET, PORT, FakeManager
from zun_agent import models
from zun_agent.api import views
from zun_agent.models import Status

# --- show


EVERY_MEMBER = {
    'user_id': 'user',
    'project_id': 'project',
    'name': 'web',
    'image': 'alpine',
    'command': ['nginx'],
    'entrypoint': None,
    'status': 'Running',
    'status_reason': 'why',
    'status_detail': 'Up 3 mins',
    'task_state': None,
    'cpu': 0.5,
    'cpu_policy': None,
    'memory': '256',
    'disk': 10,
    'environment': {'A': 'b'},
    'workdir': None,
    'ports': [80],
    'hostname': None,
    'labels': {'app': 'web'},
    'image_driver': 'docker',
    'image_pull_policy': 'ifnotpresent',
    'host': 'one',
    'restart_policy': {'Name': 'on-failure', 'MaximumRetryCount': '3'},
    'interactive': False,
    'tty': False,
    'security_groups': [],
    'auto_remove': False,
    'auto_heal': False,
    'runtime': None,
    'privileged': False,
    'healthcheck': {},
    'registry_id': None,
    'created_at': '2026-03-04 05:06:07.000089',
    'updated_at': None,
}


def test_every_member(api: Api, manager: FakeManager) -> None:
    made = datetime.datetime(2026, 3, 4, 5, 6, 7, 89)
    container = manager.add(
        name='web',
        command=['nginx'],
        cpu=0.5,
        memory=256,
        disk=10,
        restart_policy={'Name': 'on-failure', 'MaximumRetryCount': 3},
        environment={'A': 'b'},
        labels={'app': 'web'},
        created_at=made,
        status_reason='why',
        ports=[80],
    )
    view = api('GET', '/v1/containers/web', token='admin').json
    addresses = view.pop('addresses')
    assert addresses[NET][0]['addr'] == '10.0.0.5'
    assert view.pop('uuid') == container.uuid
    places = {link['rel']: link['href'] for link in view.pop('links')}
    assert places == {
        'self': f'http://localhost/v1/containers/{container.uuid}',
        'bookmark': f'http://localhost/containers/{container.uuid}',
    }
    assert view == EVERY_MEMBER


def test_users_do_not_see_what_is_for_administrators(api: Api, manager: FakeManager) -> None:
    manager.add(name='web')
    hidden = {'host', 'image_pull_policy', 'runtime', 'privileged'}
    theirs = set(api('GET', '/v1/containers/web').json)
    everything = set(api('GET', '/v1/containers/web', token='admin').json)
    assert everything - theirs == hidden
    (listed,) = api('GET', '/v1/containers').json['containers']
    assert set(listed) == theirs


def test_without_limits_no_client_stumbles(api: Api, manager: FakeManager) -> None:
    manager.add(name='web', cpu=None, memory=None)
    view = api('GET', '/v1/containers/web').json
    assert (view['cpu'], view['memory'], view['disk']) == (None, '', 0)
    assert view['restart_policy'] == {}


NOW = datetime.datetime(2026, 1, 10, 12, 0, 0)


@pytest.mark.parametrize(
    ('status', 'seconds', 'code', 'text'),
    [
        ('Created', 0, None, 'Created'),
        ('Running', 5, None, 'Up 5 seconds'),
        ('Running', 59, None, 'Up 59 seconds'),
        ('Running', 60, None, 'Up 1 mins'),
        ('Running', 3 * 3600 + 5, None, 'Up 3 hours'),
        ('Running', 2 * 86400, None, 'Up 2 days'),
        ('Running', -3, None, 'Up 0 seconds'),
        ('Paused', 180, None, 'Up 3 mins (paused)'),
        ('Restarting', 5, None, 'Restarting'),
        ('Dead', 5, None, 'Dead'),
        ('Stopped', 5, 0, 'Exited(0) 5 seconds ago '),
        ('Stopped', 5, 1, 'Exited(1) 5 seconds ago (error)'),
        ('Stopped', 7200, 137, 'Exited(137) 2 hours ago (error)'),
        ('Stopped', 5, None, None),
        ('Creating', 5, None, None),
        ('Error', 5, 1, None),
        ('Unknown', 5, None, None),
        ('Deleting', 5, None, None),
    ],
)
def test_status_detail(status: str, seconds: int, code: int | None, text: str | None) -> None:
    moment = NOW - datetime.timedelta(seconds=seconds)
    container = models.Container(
        status=status, started_at=moment, finished_at=moment, exit_code=code
    )
    assert views.status_detail(container, NOW) == text


def test_status_detail_without_times() -> None:
    assert views.status_detail(models.Container(status='Running'), NOW) is None
    assert views.status_detail(models.Container(status='Stopped', exit_code=0), NOW) is None


# --- list


def test_filters(api: Api, manager: FakeManager) -> None:
    manager.add(name='a1', image='nginx', memory=64)
    manager.add(name='b1', status=Status.STOPPED, task_state='container_starting')

    def names(query: str) -> list[str]:
        found = api('GET', f'/v1/containers?{query}').json['containers']
        return [each['name'] for each in found]

    assert names('') == ['a1', 'b1']
    assert names('name=a1') == ['a1']
    assert names('image=nginx&status=Running') == ['a1']
    assert names('memory=64') == ['a1']
    assert names('status=Stopped') == ['b1']
    assert names('task_state=container_starting') == ['b1']
    assert names('project_id=elsewhere') == []
    assert names('name=&image=None&limit=None&marker=') == ['a1', 'b1']
    assert names('sort_key=name&sort_dir=desc') == ['b1', 'a1']


@pytest.mark.parametrize(
    ('query', 'named'),
    [
        ('colour=red&size=1', 'Unknown parameters: colour, size'),
        ('limit=0', 'limit'),
        ('limit=-1', 'limit'),
        ('limit=ten', 'limit'),
        ('limit=٣', 'limit'),
        ('sort_dir=up', 'sort_dir'),
        ('sort_key=secret', 'secret'),
        ('all_projects=perhaps', 'all_projects'),
    ],
)
def test_bad_queries(api: Api, query: str, named: str) -> None:
    answer = api('GET', f'/v1/containers?{query}')
    assert answer.status_code == 400
    assert named in title(answer)


def test_pages(api: Api, manager: FakeManager) -> None:
    for number in range(5):
        manager.add(name=f'c{number}', status=Status.STOPPED)
    manager.add(name='running')
    seen: list[str] = []
    url = '/v1/containers?limit=2&status=Stopped&all_projects=true&sort_key=name'
    pages = 0
    while url:
        page = api('GET', url, token='admin').json
        seen += [each['name'] for each in page['containers']]
        url, pages = page['next'], pages + 1
        if url:
            assert url.startswith('http://localhost/v1/containers/?')
            assert 'status=Stopped' in url
            assert 'all_projects=true' in url
    assert seen == ['c0', 'c1', 'c2', 'c3', 'c4']
    assert pages == 3


def test_the_longest_page(api: Api, manager: FakeManager, conf: Any) -> None:
    conf.set_override('max_limit', 3, 'api')
    for _ in range(5):
        manager.add()
    for query in ('', '?limit=100'):
        page = api('GET', f'/v1/containers{query}').json
        assert len(page['containers']) == 3
        assert 'limit=3' in page['next']


# --- networks


def test_networks(api: Api, manager: FakeManager) -> None:
    manager.add(name='c1')
    url = '/v1/containers/c1/network_list'
    assert api('GET', url, version='1.18').json == {
        'networks': [
            {
                'net_id': NET,
                'port_id': PORT,
                'fixed_ips': [
                    {'subnet_id': 'subnet4', 'version': 4, 'ip_address': '10.0.0.5'},
                    {'subnet_id': 'subnet6', 'version': 6, 'ip_address': 'fd00::5'},
                ],
            }
        ]
    }
    flat = api('GET', url, version='1.17').json['networks']
    assert flat[1] == {
        'net_id': NET,
        'port_id': PORT,
        'subnet_id': 'subnet6',
        'version': 6,
        'ip_address': 'fd00::5',
    }
    manager.add(name='c2', addresses={})
    assert api('GET', '/v1/containers/c2/network_list').json == {'networks': []}


# --- what was done to it


def test_container_actions(api: Api, manager: FakeManager) -> None:
    container = manager.add(name='c1')
    answer = api('POST', '/v1/containers/c1/stop')
    request_id = answer.headers['X-Openstack-Request-Id']
    (action,) = api('GET', '/v1/containers/c1/container_actions/').json['containerActions']
    assert action['action'] == 'stop'
    assert action['container_uuid'] == container.uuid
    assert action['request_id'] == request_id
    assert action['message'] is None
    assert action['finish_time']
    manager.acts[container.uuid][0].message = 'what Docker said'
    (action,) = api('GET', '/v1/containers/c1/container_actions/').json['containerActions']
    assert action['message'] == 'Error'
    manager.acts[container.uuid][0].message = None
    url = f'/v1/containers/c1/container_actions/{request_id}'
    assert 'finish_time' not in api('GET', url, version='1.32').json
    (event,) = api('GET', url).json['events']
    assert set(event) == {'event', 'start_time', 'finish_time', 'result', 'message'}
    assert (event['event'], event['result'], event['message']) == ('stop', 'Success', None)
    assert (event['start_time'], event['finish_time']) == (
        action['start_time'], action['finish_time']
    )  # fmt: skip
    assert 'traceback' in api('GET', url, token='admin').json['events'][0]
    kept = manager.acts[container.uuid][0]
    kept.message = 'what Docker said'
    (event,) = api('GET', url).json['events']
    assert (event['result'], event['message']) == ('Error', 'what Docker said')
    kept.finish_time = kept.message = None
    (event,) = api('GET', url).json['events']
    assert (event['result'], event['finish_time']) == (None, None)
    unknown = api('GET', f'/v1/containers/c1/container_actions/req-{uuid.uuid4()}')
    assert unknown.status_code == 404
