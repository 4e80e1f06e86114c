"""The main job, with the stock commands: a sandbox from Nova, containers inside it."""

from __future__ import annotations

import re

from tests.cloud import settings
from tests.cloud.cloud import SMALL, User, Workspace, gateway
from tests.cloud.waiting import wait_until


def _row(listing: str, name: str) -> dict[str, str]:
    """Return the row of a table of the client that holds `name`, by the table's headings."""
    lines = [line for line in listing.splitlines() if line.startswith('|')]
    table = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    rows = [row for row in table[1:] if name in row]
    assert len(rows) == 1, f'{name} is {len(rows)} times in:\n{listing}'
    return dict(zip(table[0], rows[0], strict=True))


def _wait_stopped_by_cli(space: Workspace, name: str) -> dict[str, str]:
    return wait_until(
        f'{name} Stopped in zun list',
        lambda: next(
            (
                row
                for row in [_row(space.user.cli('zun', 'list'), name)]
                if row['status'] in ('Stopped', 'Error')
            ),
            None,
        ),
        timeout=60,
        interval=0.5,
    )


def test_ping_of_the_gateway_with_the_zun_command(space: Workspace) -> None:
    user, name = space.user, space.name('pingtest')
    router = gateway(user)

    said = user.cli('zun', 'run', '--name', name, 'alpine', 'ping', '-c', '4', router)
    container_id = re.search(r'\| uuid +\| ([0-9a-f-]{36})', said)
    assert container_id, said
    space.adopt(container_id[1])

    row = _wait_stopped_by_cli(space, name)
    assert row['status'] == 'Stopped'
    assert row['image'] == 'alpine'
    assert re.fullmatch(r'10\.20\.0\.\d+', row['addresses']), row
    assert '4 packets transmitted, 4 packets received, 0% packet loss' in user.cli(
        'zun', 'logs', name
    )
    shown = user.cli('zun', 'show', name)
    assert row['addresses'] in shown
    assert 'Exited(0)' in shown

    user.cli('zun', 'delete', name)
    user.wait(container_id[1], 'gone')
    assert name not in user.cli('zun', 'list')


def test_ping_of_the_gateway_with_the_openstack_command(space: Workspace) -> None:
    user, name = space.user, space.name('pingtest')
    router = gateway(user)

    made = user.cli_json('appcontainer', 'run', '--name', name, 'alpine', 'ping', '-c', '4', router)
    space.adopt(made['uuid'])
    assert made['status'] == 'Creating'

    user.wait(made['uuid'], 'Stopped')
    listed = {row['name']: row for row in user.cli_json('appcontainer', 'list')}
    assert listed[name]['status'] == 'Stopped'
    assert listed[name]['uuid'] == made['uuid']
    shown = user.cli_json('appcontainer', 'show', name)
    assert shown['addresses'] == listed[name]['addresses']
    assert re.search(r'10\.20\.0\.\d+', str(shown['addresses']))
    assert '0% packet loss' in user.cli('openstack', 'appcontainer', 'logs', name)

    user.cli('openstack', 'appcontainer', 'delete', name)
    user.wait(made['uuid'], 'gone')


def test_containers_in_a_sandbox_made_by_the_openstack_command(space: Workspace) -> None:
    user, box = space.user, space.name('mybox')
    server = user.cli_json(
        *('server', 'create', '--image', 'kubernetes/pause', '--flavor', SMALL),
        *('--network', 'private', box, '--wait'),
    )
    space.adopt_server(server['id'])
    assert server['status'] == 'ACTIVE'

    web = user.cli_json(
        'appcontainer', 'run', '--name', space.name('web'), '--hint', f'sandbox={box}', 'nginx'
    )
    space.adopt(web['uuid'])
    user.wait(web['uuid'], 'Running')
    assert web['uuid'] != server['id']

    name = space.name('wget')
    user.cli(
        *('openstack', 'appcontainer', 'run', '--name', name, '--hint', f'sandbox={box}'),
        *('alpine', 'wget', '-q', '-O', '-', 'http://127.0.0.1/'),
    )
    wget = user.show(name)
    space.adopt(wget.uuid)
    user.wait(wget.uuid, 'Stopped')
    assert 'nginx' in user.cli('openstack', 'appcontainer', 'logs', name)
    assert user.show(web['uuid']).addresses == user.show(wget.uuid).addresses


def test_commands_on_a_container(space: Workspace) -> None:
    user, name = space.user, space.name('busy')
    container_id = space.running(name=name)

    assert 'hello' in user.cli('zun', 'exec', name, 'sh', '-c', 'echo hello')
    assert 'hello' in user.cli('openstack', 'appcontainer', 'exec', name, 'echo', 'hello')
    user.cli('openstack', 'appcontainer', 'pause', name)
    user.wait(container_id, 'Paused')
    user.cli('openstack', 'appcontainer', 'unpause', name)
    user.wait(container_id, 'Running')
    user.cli('openstack', 'appcontainer', 'restart', name)
    wait_until('restart done', lambda: user.show(container_id).task_state is None, timeout=30)
    user.wait(container_id, 'Running')
    assert 'MEM USAGE(MiB)' in user.cli('openstack', 'appcontainer', 'stats', name)
    fresh = space.name('renamed')
    user.cli('openstack', 'appcontainer', 'set', '--name', fresh, container_id)
    assert user.show(fresh).uuid == container_id
    actions = {row['action'] for row in user.cli_json('appcontainer', 'action', 'list', fresh)}
    assert {'run', 'pause', 'unpause', 'reboot'} <= actions

    refused = user.cli_result('openstack', 'appcontainer', 'delete', fresh)
    assert user.status(container_id) == 'Running'
    assert 'Cannot delete container' in refused.stdout + refused.stderr
    user.cli('zun', 'stop', fresh)
    user.wait(container_id, 'Stopped')
    user.cli('zun', 'delete', fresh)
    user.wait(container_id, 'gone')


TALKS = ['sh', '-c', 'trap "exit 0" TERM; echo began; sleep 3600 & wait']


def test_the_life_of_a_container_by_zun(space: Workspace, sandbox: str) -> None:
    user, name = space.user, space.name('byzun')
    said = user.cli(
        'zun', 'create', '--name', name, '--hint', f'sandbox={sandbox}', 'alpine', *TALKS
    )
    one = space.adopt(re.search(r'\| uuid +\| ([0-9a-f-]{36})', said)[1])
    user.wait(one, 'Created')
    for command, status in (('start', 'Running'), ('pause', 'Paused'), ('unpause', 'Running')):
        user.cli('zun', command, name)
        user.wait(one, status)
    user.cli('zun', 'restart', '--timeout', '5', name)
    wait_until('began again', lambda: user.logs(one).count('began') == 2, timeout=20)
    assert 'MEM USAGE' in user.cli('zun', 'stats', name)
    user.cli('zun', 'update', '--memory', '64', name)
    wait_until('updated', lambda: user.show(one).task_state is None, timeout=20)
    assert user.show(one).memory == '64'
    fresh = space.name('renamed')
    user.cli('zun', 'update', '--name', fresh, name)
    assert user.show(fresh).uuid == one
    user.cli('zun', 'kill', '--signal', 'KILL', fresh)
    user.wait(one, 'Stopped')
    assert 'Exited(137)' in user.cli('zun', 'show', fresh)
    actions = user.cli('zun', 'action-list', fresh)
    request_id = re.search(r'req-[0-9a-f-]{36}', actions)
    assert request_id, actions
    assert request_id[0] in user.cli('zun', 'action-show', fresh, request_id[0])
    assert 'nova' in user.cli('zun', 'availability-zone-list')
    user.cli('zun', 'delete', fresh)
    user.wait(one, 'gone')


def test_the_life_of_a_container_by_openstack(space: Workspace, sandbox: str) -> None:
    user, name = space.user, space.name('byopenstack')

    def appcontainer(*words: str) -> str:
        return user.cli('openstack', 'appcontainer', *words)

    made = user.cli_json(
        'appcontainer', 'create', '--name', name, '--hint', f'sandbox={sandbox}', 'alpine', *TALKS
    )
    one = space.adopt(made['uuid'])
    user.wait(one, 'Created')
    appcontainer('start', name)
    user.wait(one, 'Running')
    assert 'began' in appcontainer('logs', name)
    appcontainer('stop', '--timeout', '5', name)
    user.wait(one, 'Stopped')
    appcontainer('start', name)
    wait_until('began again', lambda: user.logs(one).count('began') == 2, timeout=20)
    appcontainer('kill', name)
    user.wait(one, 'Stopped')
    (latest, *_) = user.cli_json('appcontainer', 'action', 'list', name)
    assert latest['action'] == 'kill'
    shown = user.cli_json('appcontainer', 'action', 'show', name, latest['request_id'])
    assert shown['request_id'] == latest['request_id']
    appcontainer('delete', name)
    user.wait(one, 'gone')


def test_listings_of_the_operator(admin: User, demo: User) -> None:
    def rows(user: User, *noun: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = user.cli_json('appcontainer', *noun, 'list')
        return found

    hostname = settings.load().host
    (service,) = [row for row in rows(admin, 'service') if row['Host'] == hostname]
    assert (service['Binary'], service['State']) == ('zun-agent', 'up')
    (machine,) = [row for row in rows(admin, 'host') if row['hostname'] == hostname]
    assert float(machine['cpus']) >= 1
    assert int(machine['mem_total']) > 500
    assert [row['availability_zone'] for row in rows(demo, 'availability', 'zone')] == ['nova']
    for noun in ('service', 'host'):
        assert demo.cli_result('openstack', 'appcontainer', noun, 'list').returncode != 0
