"""The API as clients of other ages call it, with the real token middleware before it."""

from __future__ import annotations

import pytest
import requests

from tests.cloud import settings
from tests.cloud.cloud import User, Workspace


def test_version_documents_need_no_token() -> None:
    base = settings.load().endpoint('AGENT')
    for path in ('/', '/v1', '/v1/', '/healthcheck'):
        assert requests.get(base + path, timeout=10).status_code == 200, path
    (version,) = requests.get(base + '/', timeout=10).json()['versions']
    assert (version['min_version'], version['max_version']) == ('1.1', '1.40')
    assert version['status'] == 'CURRENT'


@pytest.mark.parametrize('token', [None, 'no-token-at-all'])
def test_no_token_no_answer(token: str | None) -> None:
    answer = requests.get(
        settings.load().endpoint('AGENT') + '/v1/containers',
        headers={'X-Auth-Token': token} if token else {},
        timeout=10,
    )
    assert answer.status_code == 401
    assert 'containers' not in answer.text


def test_the_oldest_client(space: Workspace, sandbox: str) -> None:
    """1.1: the command is one string, and a terminal comes with `interactive`."""
    user = space.user
    old = user.at('1.1')
    made = old.containers.run(
        image='alpine', command=['sh', '-c', 'echo one two'], hints={'sandbox': sandbox}
    )
    space.adopt(made.uuid)
    user.wait(made.uuid, 'Stopped')
    assert old.containers.logs(made.uuid, stdout=True, stderr=True) == 'one two\n'
    fresh = space.name('renamed')
    old.containers.rename(made.uuid, fresh)
    assert old.containers.get(fresh).uuid == made.uuid


def test_heat(space: Workspace) -> None:
    """What OS::Zun::Container sends at 1.12 from create to delete."""
    user = space.user
    heat = user.at('1.12')
    made = heat.containers.run(
        name=space.name('heat'),
        image='alpine',
        command=['sh', '-c', 'sleep 3600'],
        cpu=0.5,
        memory='64',
        environment={'A': '1'},
        labels={'stack': 'x'},
        hints={},
        restart_policy={'Name': 'on-failure', 'MaximumRetryCount': '3'},
        security_groups=[],
        nets=[{'network': user.network.find_network('private').id}],
    )
    space.adopt(made.uuid)
    statuses = set()

    def seen() -> str:
        status = str(heat.containers.get(made.uuid).status)
        statuses.add(status)
        return status

    user.wait(made.uuid, 'Running')
    assert seen() == 'Running'
    assert heat.containers.get(made.uuid).addresses
    heat.containers.update(made.uuid, memory='96')
    assert heat.containers.get(made.uuid).memory == '96'
    heat.containers.delete(made.uuid, stop=True)
    user.wait(made.uuid, 'gone')


def test_clients_that_double_the_slash(space: Workspace, sandbox: str) -> None:
    one = space.running(sandbox=sandbox)
    for path in (f'/v1/containers//{one}', f'/containers/{one}', f'/v1/containers/{one}/'):
        answer = space.user.request('GET', path)
        assert (answer.status_code, answer.json()['uuid']) == (200, one), path
    answer = space.user.request(
        'POST', f'/v1/containers//{one}/execute', json={'command': 'echo hello'}
    )
    assert answer.json()['output'] == 'hello\n'


def test_version_that_is_not_served(demo: User) -> None:
    answer = demo.request('GET', '/v1/containers', version='1.99')
    assert answer.status_code == 406
    assert demo.request('GET', '/v1/containers', version='latest').status_code == 200
    assert answer.headers['OpenStack-API-Maximum-Version'] == 'container 1.40'


def test_filters_and_pages(space: Workspace, sandbox: str) -> None:
    user = space.user
    names = [space.name('page') for _ in range(3)]
    memory = '37'  # MiB, as no other container has
    made = [space.create(sandbox=sandbox, name=name, memory=memory) for name in names]
    for one in made:
        user.wait(one, 'Created')
    listed = [one.name for one in user.containers.list(sort_key='name', sort_dir='asc')]
    assert [name for name in listed if name in names] == sorted(names)
    assert [one.uuid for one in user.containers.list(name=names[1])] == [made[1]]
    running = {one.uuid for one in user.containers.list(status='Running')}
    assert not running & set(made)
    created = {one.uuid for one in user.containers.list(status='Created', image='alpine')}
    assert created >= set(made)
    ours = f'status=Created&memory={memory}'
    first = user.request('GET', f'/v1/containers?limit=2&sort_key=name&{ours}').json()
    assert [one['name'] for one in first['containers']] == sorted(names)[:2]
    second = user.request('GET', first['next'].split('9517')[1]).json()
    assert [one['name'] for one in second['containers']] == sorted(names)[2:]
