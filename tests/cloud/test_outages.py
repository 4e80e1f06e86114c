"""What driver and agent stand on goes away in the middle of their work, and comes back."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from tests.cloud import faults, host, settings
from tests.cloud.cloud import User, Workspace, address, gateway, shown_addresses
from tests.cloud.waiting import wait_until

pytestmark = pytest.mark.faults

TALKS = ['sh', '-c', 'trap "exit 0" TERM; echo began; sleep 3600 & wait']


@pytest.fixture(autouse=True)
def everything_runs(space: Workspace, admin: User) -> Iterator[None]:
    """Have everything run again, whatever the test did to it, before its things are removed."""
    yield
    faults.mend(admin)


def _ask(space: Workspace, name: str, sandbox: str) -> requests.Response:
    body = {'name': name, 'image': 'alpine', 'command': TALKS, 'hints': {'sandbox': sandbox}}
    return space.user.request('POST', '/v1/containers?run=true', json=body)


def _adopt(space: Workspace, names: list[str]) -> dict[str, str]:
    """See to it that every container of these names goes; returns name to id."""
    found = {one.name: one.uuid for one in space.user.containers.list() if one.name in names}
    for container_id in found.values():
        space.adopt(container_id)
    return found


@pytest.mark.parametrize('delay', [0.1, 0.4])
def test_containerd_killed_while_containers_are_made(
    space: Workspace, sandbox: str, delay: float
) -> None:
    user = space.user
    lives = space.running(sandbox=sandbox, command=TALKS)
    names = [space.name('made') for _ in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(_ask, space, name, sandbox) for name in names]
        time.sleep(delay)
        faults.kill_containerd()
        assert {one.result().status_code for one in asked} == {202}
    time.sleep(0.5)
    faults.restart_containerd()
    for container_id in _adopt(space, names).values():
        user.wait(container_id, 'Running', timeout=60)
        assert len(host.copies(container_id)) == 1
        assert user.logs(container_id).count('began') == 1
    assert user.logs(lives).count('began') == 1
    assert user.shell(lives, 'echo hello') == 'hello\n'


def test_containerd_killed_while_a_server_is_made(space: Workspace) -> None:
    user = space.user
    server = space.server(wait=False)
    time.sleep(1)
    faults.kill_containerd()
    time.sleep(1)
    faults.restart_containerd()
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
    space.running(sandbox=space.server())


@pytest.mark.parametrize(
    ('kill', 'start'),
    [
        (faults.kill_docker, faults.restart_docker),
        (faults.kill_containerd, faults.restart_containerd),
    ],
    ids=['dockerd', 'containerd'],
)
def test_engine_restarted_while_nova_asks(
    space: Workspace, kill: Callable[[], None], start: Callable[[], None]
) -> None:
    """As by an upgrade of its package: what was asked for meanwhile is done, only later."""
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=TALKS)
    kill()
    user.compute.reboot_server(server, 'HARD')
    new = space.server(wait=False)
    time.sleep(3)
    start()
    for each in (server, new):
        space.until_server(each, 'ACTIVE')
    user.wait(one, 'Running', timeout=30)
    space.running(sandbox=new)


def test_database_killed_while_containers_are_made(space: Workspace, sandbox: str) -> None:
    """What was accepted is done; what was not is refused in a way that tells to try again."""
    user = space.user
    lives = space.running(sandbox=sandbox, command=TALKS)
    names = [space.name('made') for _ in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        asked = []
        for name in names:
            asked.append(pool.submit(_ask, space, name, sandbox))
            time.sleep(0.03)
        faults.kill('mariadb')
        answers = dict(zip(names, [one.result() for one in asked], strict=True))
    assert {answer.status_code for answer in answers.values()} <= {202, 503}
    assert faults.agent_answers()
    for method, path in (
        ('GET', '/v1/containers'),
        ('GET', f'/v1/containers/{lives}'),
        ('POST', f'/v1/containers/{lives}/stop'),
    ):
        begin = time.monotonic()
        answer = user.request(method, path)
        assert answer.status_code == 503, f'{method} {path}: {answer.text}'
        assert answer.json()['errors'][0]['status'] == 503
        assert time.monotonic() - begin < 20
    assert host.container(lives).status == 'running'

    faults.restart('mariadb')
    wait_until(
        'the API answers',
        lambda: user.request('GET', '/v1/containers').status_code == 200,
        timeout=30,
    )
    found = _adopt(space, names)
    for name, answer in answers.items():
        assert answer.status_code != 202 or name in found, 'an accepted container was forgotten'
    for container_id in found.values():
        user.wait(container_id, 'Running', timeout=60)
        assert len(host.copies(container_id)) == 1
    user.containers.stop(lives, timeout=5)
    user.wait(lives, 'Stopped', timeout=20)
    wait_until('Nova answers', lambda: _nova_answers(space.admin), timeout=60, interval=1)
    space.running()


def test_switch_killed(space: Workspace, sandbox: str) -> None:
    """Open vSwitch dies and comes back: sandboxes go on, and reach each other and no one else.

    What is deleted meanwhile leaves nothing in the switch's database, which keeps its ports.
    """
    user, shut_in = space.user, space.group()
    other, doomed, shut = space.servers({}, {}, {'security_groups': [{'name': shut_in}]})
    lives, reached = (space.running(sandbox=one, command=TALKS) for one in (sandbox, other))
    target, closed = address(user, other), address(user, shut)
    ping = 'ping -c 1 -W 1 '
    wait_until('reached', lambda: user.execute(lives, ping + target)[1] == 0, timeout=15)
    faults.kill_switch()
    assert user.execute(lives, ping + target)[1] != 0
    space.delete_server(doomed)
    faults.restart_switch()
    for what in (target, gateway(user)):
        wait_until(
            f'{what} is reached',
            lambda what=what: user.execute(lives, ping + what)[1] == 0,
            timeout=60,
            interval=1,
            explain=lambda: host.describe([sandbox, other]),
        )
    assert user.execute(lives, ping + closed)[1] != 0
    space.allow(shut_in, protocol='icmp', ether_type='IPv4')
    wait_until('let in', lambda: user.execute(lives, ping + closed)[1] == 0, timeout=30)
    for server in (sandbox, other, shut):
        assert user.compute.get_server(server).status == 'ACTIVE'
    assert [user.logs(one).count('began') for one in (lives, reached)] == [1, 1]
    late = space.running(sandbox=space.server())
    wait_until('reached', lambda: user.execute(late, ping + target)[1] == 0, timeout=15)


def _nova_answers(admin: User) -> bool:
    try:
        return all(service.state == 'up' for service in admin.compute.services())
    except Exception:  # noqa: BLE001  as any of its services, and Keystone, may answer now
        return False


def _lose_power(servers: list[str]) -> None:
    """End all that runs in sandboxes at once, unseen, and with it what the kernel kept for it.

    Records of the sandboxes come to be of an earlier boot.
    """
    containers = [each for server in servers for each in host.containers(server)]
    running = [each for each in containers if each.status == 'running']
    pids = [str(pid) for each in running for pid in host.processes(each)]
    faults.kill_docker()
    faults.kill_containerd()
    for each in running:
        host.command('pkill', '-KILL', '-f', f'shim.*{each.id}')
    host.command('kill', '-KILL', *pids)
    wait_until('all dead', lambda: not any(map(faults.exists, map(int, pids))), timeout=10)
    for group in sorted(host.control_groups(), key=len, reverse=True):
        if any(server.replace('-', '') in group for server in servers):
            host.remove_group(group)
    store = host.sandboxes()
    for server in servers:
        record = store.read(server)
        assert record is not None and record.pause is not None
        earlier = record.pause.__class__(**{**vars(record.pause), 'boot_id': 'of before'})
        store.write(record.replace(pause=earlier))
    faults.restart_containerd()
    faults.restart_docker()


def _shut_down(servers: list[str]) -> None:
    """Tell all containers to end at once, as an engine does that is told to stop."""
    containers = [each for server in servers for each in host.containers(server)]
    with concurrent.futures.ThreadPoolExecutor(len(containers)) as pool:
        list(pool.map(lambda each: each.stop(timeout=10), containers))


@pytest.mark.parametrize('how', [_lose_power, _shut_down])
def test_host_started_anew(space: Workspace, how: object) -> None:
    """Sandboxes that ran run again, and what ran in them; what had ended or was stopped does not.

    With ``resume_guests_state_on_host_boot``, as allinone has it.
    """
    user = space.user
    server, stopped = space.servers({}, {})
    runs = space.running(sandbox=server, command=TALKS)
    own = space.running(command=TALKS)
    job = space.run(sandbox=server, command=['echo', 'done'])
    halted = space.running(sandbox=server, command=TALKS)
    user.wait(job, 'Stopped')
    user.containers.stop(halted, timeout=5)
    user.wait(halted, 'Stopped')
    user.compute.stop_server(stopped)
    space.until_server(stopped, 'SHUTOFF')
    addresses = shown_addresses(user, runs)
    time.sleep(2.5)  # whoever ends in the last moments may have been told to

    faults.kill('nova-compute')
    faults.kill('zun-agent')
    assert callable(how)
    how([server, own])
    assert host.pause(server).status == 'exited'
    faults.restart_agent()
    faults.restart_compute(space.admin)

    for container_id, sandbox in ((runs, server), (own, own)):
        space.until_server(sandbox, 'ACTIVE', timeout=60)
        wait_until(
            'began again',
            lambda one=container_id: host.container(one).logs().count(b'began') == 2,
            timeout=60,
            explain=lambda one=container_id: user.describe(one),
        )
        user.wait(container_id, 'Running', timeout=10)
        user.shell(container_id, f'ping -c 2 {gateway(user)}')
    assert shown_addresses(user, runs) == addresses
    assert user.status(job) == user.status(halted) == 'Stopped'
    assert user.logs(job) == 'done\n'
    assert user.logs(halted).count('began') == 1
    assert user.compute.get_server(stopped).status == 'SHUTOFF'


def test_host_started_anew_without_the_option(space: Workspace) -> None:
    """Without ``resume_guests_state_on_host_boot`` what ran is shut off until it is started."""
    user, server = space.user, space.server()
    runs = space.running(sandbox=server, command=TALKS)
    faults.kill('nova-compute')
    faults.kill('zun-agent')
    _lose_power([server])
    faults.restart_agent()
    with settings.compute_options('[DEFAULT]\nresume_guests_state_on_host_boot = false'):
        faults.restart_compute(space.admin)
    space.until_server(server, 'SHUTOFF', timeout=60)
    user.wait(runs, 'Stopped', timeout=10)
    assert {one.status for one in host.containers(server)} == {'exited'}
    assert user.logs(runs).count('began') == 1
    user.compute.start_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(runs, 'Running', timeout=20)
    assert user.logs(runs).count('began') == 2
    user.shell(runs, f'ping -c 2 {gateway(user)}')
