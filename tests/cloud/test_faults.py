"""Whatever is killed, and whenever: what was accepted is done, and nothing is done twice."""

from __future__ import annotations

import concurrent.futures
import contextlib
import random
import re
import time
from collections.abc import Iterator

import openstack
import pytest
import requests
from keystoneauth1 import exceptions as keystone_errors

from tests.cloud import agreement, faults, host, settings
from tests.cloud.cloud import User, Workspace, gateway, network_id
from tests.cloud.storage import Storage
from tests.cloud.waiting import wait_until
from zun_virt import sandbox as contract

pytestmark = pytest.mark.faults

SEED = 20261121
ROUNDS = 6
CHANCE = random.Random(SEED)
# one moment in each sixth of the time that it takes, at most, to accept and make four containers
DELAYS = [round((number + CHANCE.random()) / ROUNDS * 1.5, 3) for number in range(ROUNDS)]
TALKS = ['sh', '-c', 'trap "exit 0" TERM; echo began; sleep 3600 & wait']


@pytest.fixture(autouse=True)
def everything_runs(space: Workspace, admin: User) -> Iterator[None]:
    """Have everything run again, whatever the test did to it, before its things are removed."""
    yield
    faults.mend(admin)


def _ask(space: Workspace, name: str, sandbox: str | None) -> bool:
    """Ask for a container; returns whether the agent accepted it."""
    body = {'name': name, 'image': 'alpine', 'command': TALKS}
    if sandbox:
        body['hints'] = {'sandbox': sandbox}
    try:
        answer = space.user.request('POST', '/v1/containers?run=true', json=body)
    except (requests.ConnectionError, requests.Timeout):
        return False
    assert answer.status_code == 202, answer.text
    return True


def _adopt_by_name(space: Workspace, names: list[str]) -> dict[str, str]:
    """See to it that every container of these names goes; returns name to id."""
    found = {one.name: one.uuid for one in space.user.containers.list() if one.name in names}
    for container_id in found.values():
        space.adopt(container_id)
    return found


@pytest.mark.parametrize('delay', DELAYS)
def test_agent_killed_while_it_makes_containers(
    space: Workspace, sandbox: str, delay: float
) -> None:
    user = space.user
    names = [space.name('made') for _ in range(4)]
    targets = [sandbox, sandbox, sandbox, None]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(_ask, space, name, target)
            for name, target in zip(names, targets, strict=True)
        ]
        time.sleep(delay)
        faults.kill('zun-agent')
        accepted = [name for name, one in zip(names, asked, strict=True) if one.result()]
    faults.restart_agent()
    found = _adopt_by_name(space, names)
    assert set(accepted) <= set(found), 'an accepted container was forgotten'
    for name in accepted:
        user.wait(found[name], 'Running', timeout=60)
    time.sleep(2)
    found = _adopt_by_name(space, names)
    for name, container_id in found.items():
        assert len(host.copies(container_id)) <= 1, f'{name} is there twice'
    for name in accepted:
        assert user.logs(found[name]).count('began') == 1, f'{name} was started twice'
    servers = [server.id for server in user.compute.servers() if server.name in names]
    assert len(servers) <= 1, 'two sandboxes were made for one container'
    for server in servers:
        if server not in found.values():
            space.adopt_server(server)


@pytest.mark.parametrize('delay', DELAYS[::2])
def test_agent_killed_while_it_stops_and_deletes(
    space: Workspace, sandbox: str, delay: float
) -> None:
    user = space.user
    doomed, halted, restarted = (space.running(sandbox=sandbox, command=TALKS) for _ in range(3))
    user.containers.delete(doomed, stop=True)
    user.containers.stop(halted, timeout=5)
    user.containers.restart(restarted, timeout=5)
    time.sleep(delay / 3)
    faults.kill('zun-agent')
    faults.restart_agent()
    user.wait(doomed, 'gone', timeout=30)
    user.wait(halted, 'Stopped', timeout=30)
    wait_until(
        'restarted',
        lambda: user.show(restarted).task_state is None and user.status(restarted) == 'Running',
        timeout=30,
        explain=lambda: user.describe(restarted),
    )
    assert not host.copies(doomed)
    assert user.logs(restarted).count('began') == 2


def test_what_happens_while_the_agent_is_away(space: Workspace) -> None:
    user, (server, deleted) = space.user, space.servers({}, {})
    ended = space.running(sandbox=server, command=TALKS)
    lives = space.running(sandbox=server, command=TALKS)
    goes = space.running(sandbox=deleted, command=TALKS)
    own = space.running(command=TALKS)
    faults.kill('zun-agent')
    host.container(ended).kill()
    space.delete_server(deleted)
    space.delete_server(own)
    faults.restart_agent()
    user.wait(ended, 'Stopped', timeout=10)
    user.wait(lives, 'Running', timeout=10)
    user.wait(goes, 'gone', timeout=90)
    user.wait(own, 'gone', timeout=90)
    assert user.logs(lives).count('began') == 1


def test_server_stopped_and_started_while_the_agent_is_away(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=TALKS)
    faults.kill('zun-agent')
    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF')
    assert {each.status for each in host.containers(server)} == {'exited'}
    user.compute.start_server(server)
    space.until_server(server, 'ACTIVE')
    faults.restart_agent()
    wait_until('run again', lambda: host.container(one).logs().count(b'began') == 2, timeout=30)
    user.wait(one, 'Running', timeout=5)


@pytest.mark.parametrize('delay', [0.4, 0.9, 1.6])
def test_compute_killed_while_it_makes_a_server(space: Workspace, delay: float) -> None:
    user = space.user
    server = space.server(wait=False)
    time.sleep(delay)
    faults.kill('nova-compute')
    faults.restart_compute(space.admin)
    wait_until(
        'ACTIVE or ERROR',
        lambda: user.compute.get_server(server).status in ('ACTIVE', 'ERROR'),
        timeout=90,
        interval=0.5,
    )
    if user.compute.get_server(server).status == 'ACTIVE':
        space.running(sandbox=server)
    space.delete_server(server)
    space._servers.remove(server)


def test_compute_killed_while_it_deletes_and_stops(space: Workspace) -> None:
    user = space.user
    deleted, stopped = space.servers({}, {})
    one = space.running(sandbox=deleted, command=TALKS)
    two = space.running(sandbox=stopped, command=TALKS)
    user.compute.delete_server(deleted)
    user.compute.stop_server(stopped)
    time.sleep(0.3)
    faults.kill('nova-compute')
    faults.restart_compute(space.admin)
    wait_until(
        'deleted',
        lambda: deleted not in [server.id for server in user.compute.servers()],
        timeout=60,
        interval=0.5,
    )
    user.wait(one, 'gone', timeout=30)
    wait_until(
        'Nova has done with it',
        lambda: not user.compute.get_server(stopped).task_state,
        timeout=60,
        interval=0.5,
    )
    if user.compute.get_server(stopped).status == 'ACTIVE':
        user.compute.stop_server(stopped)
        space.until_server(stopped, 'SHUTOFF')
    user.wait(two, 'Stopped', timeout=10)
    user.compute.start_server(stopped)
    space.until_server(stopped, 'ACTIVE')
    user.wait(two, 'Running', timeout=20)


def _attach(user: User, server: str, kind: str, body: dict[str, str]) -> None:
    """Ask Nova for it, whose answer waits for nova-compute, and has no patience with that."""
    names = {'volumeId': 'volume_attachments', 'net_id': 'interface'}
    with contextlib.suppress(requests.Timeout):
        requests.post(
            f'{settings.load().endpoint("NOVA")}/v2.1/servers/{server}/os-{names[next(iter(body))]}',
            json={kind: body},
            headers={'X-Auth-Token': user.sdk.session.get_token()},
            timeout=10,
        )


@pytest.mark.parametrize('kind', ['volumeAttachment', 'interfaceAttachment'])
def test_compute_killed_while_it_attaches(space: Workspace, storage: Storage, kind: str) -> None:
    """As soon as something of it is on the host; Nova may leave a volume ``attaching``."""
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=TALKS)
    volume = storage.volume() if kind == 'volumeAttachment' else ''
    body = {'volumeId': volume} if volume else {'net_id': network_id(user, 'private')}
    devices = host.loop_devices if volume else host.links
    before = devices()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_attach, user, server, kind, body)
        wait_until('it is at work', lambda: devices() - before, timeout=30, interval=0)
        faults.kill('nova-compute')
        faults.restart_compute(space.admin)
        asked.result()
    wait_until(
        'Nova and the host agree',
        lambda: agreement.of_server(user, space.admin, server, runs=True) is None,
        timeout=90,
        interval=0.5,
        explain=lambda: f'{agreement.of_server(user, space.admin, server, runs=True)}',
    )
    assert user.logs(one).count('began') == 1
    user.shell(one, f'ping -c 1 -W 5 {gateway(user)}')
    space.delete_server(server)
    space._servers.remove(server)
    if volume:
        storage.until(volume, 'available')
    assert not devices() - before


def test_compute_away_disturbs_nobody(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=['ping', gateway(user)])
    faults.kill('nova-compute')
    two = space.running(sandbox=server)
    assert user.shell(two, 'echo hello') == 'hello\n'
    faults.restart_compute(space.admin)
    time.sleep(2)
    lines = user.logs(one).splitlines()
    numbers = [int(match[1]) for line in lines if (match := re.search(r'seq=(\d+)', line))]
    assert numbers == list(range(len(numbers))), 'a packet was lost'
    assert len(numbers) > 3
    record = host.sandboxes().read(server)
    assert record is not None
    assert record.state is contract.State.READY
    assert user.compute.get_server(server).status == 'ACTIVE'


def test_helpers_of_a_killed_compute_end_with_it(space: Workspace) -> None:
    """privsep's daemons and their sudo live no longer than the service they work for."""

    def helpers() -> list[str]:
        listing = host.command('ps', '-ww', '-eo', 'pid,args').splitlines()
        conf = f'nova-compute-{settings.load().host}/nova.conf'
        return [line for line in listing if 'privsep-helper' in line and conf in line]

    space.server()
    assert helpers()
    faults.kill('nova-compute')
    wait_until('helpers ended', lambda: not helpers(), timeout=10)


def test_docker_killed_and_containers_go_on(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=['ping', gateway(user)])
    dies = space.running(sandbox=server, command=['sleep', '3600'])
    before = host.processes(host.container(one))
    (victim,) = host.processes(host.container(dies))
    faults.kill_docker()
    host.command('kill', '-9', str(victim))
    assert user.show(one).uuid == one
    faults.restart_docker()
    assert host.processes(host.container(one)) == before
    user.wait(one, 'Running', timeout=20)
    user.wait(dies, 'Stopped', timeout=20)
    assert 'Exited(137)' in user.show(dies).status_detail
    assert user.shell(one, 'echo hello') == 'hello\n'
    space.running(sandbox=server)
    assert user.compute.get_server(server).status == 'ACTIVE'


def test_docker_killed_while_containers_are_made(space: Workspace, sandbox: str) -> None:
    names = [space.name('made') for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(_ask, space, name, sandbox) for name in names]
        time.sleep(0.25)
        faults.kill_docker()
        assert all(one.result() for one in asked), 'Docker is not asked for the answer'
    faults.restart_docker()
    for container_id in _adopt_by_name(space, names).values():
        space.user.wait(container_id, 'Running', timeout=60)
        assert len(host.copies(container_id)) == 1


def test_docker_killed_while_a_server_is_made(space: Workspace) -> None:
    user = space.user
    server = space.server(wait=False)
    time.sleep(1)
    faults.kill_docker()
    time.sleep(2)
    faults.restart_docker()
    wait_until(
        'ACTIVE or ERROR',
        lambda: user.compute.get_server(server).status in ('ACTIVE', 'ERROR'),
        timeout=90,
        interval=0.5,
    )
    space.delete_server(server)
    space._servers.remove(server)
    assert user.compute.get_server(space.server()).status == 'ACTIVE'


def test_container_removed_behind_our_back(space: Workspace, sandbox: str) -> None:
    """It is made anew from its record, and its user is told that what it wrote is lost."""
    user = space.user
    one = space.running(sandbox=sandbox, command=TALKS)
    lost = host.container(one)
    lost.remove(force=True)
    wait_until(
        'made anew',
        lambda: [found.id for found in host.copies(one)] not in ([], [lost.id]),
        timeout=10,
        interval=0.1,
        explain=lambda: user.describe(one),
    )
    shown = user.wait(one, 'Running', timeout=10)
    assert shown.status_reason
    assert len(host.copies(one)) == 1


def test_nova_away_while_a_container_is_asked_for(space: Workspace, sandbox: str) -> None:
    """Those in a known sandbox go on; a new one is refused clearly."""
    user = space.user
    one = space.running(sandbox=sandbox, command=TALKS)
    name = space.name('refused')
    faults.kill('nova-api')
    try:
        answer = user.request(
            'POST', '/v1/containers?run=true', json={'image': 'alpine', 'name': name}
        )
        assert answer.status_code == 503, answer.text
        user.containers.stop(one, timeout=5)
        user.wait(one, 'Stopped', timeout=10)
        user.containers.start(one)
        user.wait(one, 'Running', timeout=10)
    finally:
        faults.restart('nova-api')
        wait_until('Nova answers', lambda: _answers(user), timeout=60)
    assert name not in [each.name for each in user.containers.list()]


def _answers(user: User) -> bool:
    try:
        return list(user.compute.servers()) is not None
    except (openstack.exceptions.SDKException, keystone_errors.ConnectFailure):
        return False
