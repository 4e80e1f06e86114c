"""What Nova's operations do to a sandbox and to what runs in it."""

from __future__ import annotations

import pathlib
import time
import typing
from collections.abc import Callable

import openstack
import pytest
import requests

from tests.cloud import host, second_api, settings
from tests.cloud.cloud import NotFound, User, Workspace, address, gateway
from tests.cloud.waiting import stays, wait_until
from zun_virt import sandbox as contract

TALKS = ['sh', '-c', 'trap "echo stopped well; exit 0" TERM; echo began; sleep 3600 & wait']


def _began(user: User, container_id: str) -> int:
    return user.logs(container_id).count('began')


def test_a_server_is_a_sandbox(space: Workspace) -> None:
    """What the driver promises to the agent, to Docker and to Nova, all in one place."""
    name = space.name('box')
    server = space.server(name, metadata={'purpose': 'test'})
    record = host.sandboxes().read(server)
    assert record is not None
    assert record.state is contract.State.READY
    assert record.project_id == space.user.project_id
    assert record.host == settings.load().host
    assert record.metadata['purpose'] == 'test'
    assert [one.address for one in record.addresses] == [address(space.user, server)]
    pause = host.pause(server)
    assert record.pause is not None
    assert record.pause.id == pause.id
    assert record.pause.started_at == pause.attrs['State']['StartedAt']
    assert pause.name == contract.sandbox_name(server)
    assert pause.attrs['HostConfig']['CgroupParent'] == record.cgroup_parent
    assert pause.attrs['HostConfig']['RestartPolicy']['Name'] in ('', 'no')
    assert pause.attrs['Config']['Hostname'] == name
    shown = space.admin.compute.get_server(server)
    assert shown.instance_name or shown.name == name
    assert shown.power_state == 1
    (port,) = space.user.network.ports(device_id=server)
    assert port.status == 'ACTIVE'


def test_stop_and_start_run_again_what_ran(space: Workspace) -> None:
    user, server = space.user, space.server()
    stays_up = space.running(sandbox=server, command=TALKS)
    second = space.running(sandbox=server, command=TALKS)
    job = space.run(sandbox=server, command=['echo', 'began'])
    user.wait(job, 'Stopped')
    stopped = space.running(sandbox=server, command=TALKS)
    user.containers.stop(stopped, timeout=5)
    user.wait(stopped, 'Stopped')
    before = {one: host.container(one).id for one in (stays_up, second, job, stopped)}
    pause_id, old_address = host.pause(server).id, address(user, server)

    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF')
    assert {one.status for one in host.containers(server)} == {'exited'}
    for one in (stays_up, second):
        user.wait(one, 'Stopped', timeout=5)
        assert 'stopped well' in user.logs(one)
        assert host.container(one).attrs['State']['ExitCode'] == 0

    user.compute.start_server(server)
    space.until_server(server, 'ACTIVE')
    for one in (stays_up, second):
        wait_until('run again', lambda one=one: _began(user, one) == 2, timeout=20)
        user.wait(one, 'Running', timeout=5)
    time.sleep(2)
    assert {job: _began(user, job), stopped: _began(user, stopped)} == {job: 1, stopped: 1}
    assert user.status(job) == user.status(stopped) == 'Stopped'
    assert host.pause(server).id == pause_id
    assert {one: host.container(one).id for one in before} == before
    assert old_address in user.shell(stays_up, 'ip addr')


@pytest.mark.parametrize('kind', ['SOFT', 'HARD'])
def test_reboot(space: Workspace, kind: str) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=TALKS)
    job = space.run(sandbox=server, command=['echo', 'began'])
    user.wait(job, 'Stopped')
    pause = host.pause(server)
    user.compute.reboot_server(server, kind)
    wait_until(
        'a new start of the sandbox',
        lambda: host.pause(server).attrs['State']['StartedAt'] != pause.attrs['State']['StartedAt'],
        timeout=60,
    )
    space.until_server(server, 'ACTIVE')
    wait_until('run again', lambda: _began(user, one) == 2, timeout=20)
    user.wait(one, 'Running', timeout=5)
    if kind == 'SOFT':  # a hard one may leave it the time for that, or not
        assert 'stopped well' in user.logs(one)
    assert _began(user, job) == 1
    assert host.pause(server).id == pause.id
    gateway_answers = user.execute(one, 'ping -c 3 10.20.0.1')
    assert gateway_answers[1] == 0, gateway_answers


@pytest.mark.parametrize(
    ('freeze', 'frozen', 'thaw'),
    [('pause', 'PAUSED', 'unpause'), ('suspend', 'SUSPENDED', 'resume')],
)
def test_frozen_server(space: Workspace, freeze: str, frozen: str, thaw: str) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=['sh', '-c', 'while :; do echo x; sleep 0.1; done'])
    getattr(user.compute, f'{freeze}_server')(server)
    space.until_server(server, frozen)
    user.wait(one, 'Paused', timeout=5)
    assert {each.status for each in host.containers(server)} == {'paused'}
    lines = len(user.logs(one))
    stays('frozen', lambda: len(user.logs(one)) == lines, seconds=1)
    getattr(user.compute, f'{thaw}_server')(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running', timeout=5)
    wait_until('goes on', lambda: len(user.logs(one)) > lines, timeout=5)


def test_stop_with_a_paused_container(space: Workspace) -> None:
    """Docker hangs when a sandbox is stopped while a container in it is frozen."""
    user, server = space.user, space.server()
    one = space.running(sandbox=server)
    user.containers.pause(one)
    user.wait(one, 'Paused')
    begin = time.monotonic()
    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF', timeout=40)
    assert time.monotonic() - begin < 14
    user.wait(one, 'Stopped', timeout=5)


def test_deleting_a_server_ends_the_records_of_its_containers(space: Workspace) -> None:
    user, server = space.user, space.server()
    running = space.running(sandbox=server)
    created = space.create(sandbox=server)
    user.wait(created, 'Created')
    ended = space.run(sandbox=server, command=['true'])
    user.wait(ended, 'Stopped')
    space.delete_server(server)
    for one in (running, created, ended):
        user.wait(one, 'gone', timeout=15)
        assert not host.copies(one)


def test_deleting_the_server_of_a_container_ends_it(space: Workspace) -> None:
    one = space.running()
    space.delete_server(one)
    space.user.wait(one, 'gone', timeout=15)
    with pytest.raises(NotFound):
        space.user.show(one)


def test_deleting_a_stopped_and_a_paused_server(space: Workspace) -> None:
    stopped, paused = space.servers({}, {})
    space.running(sandbox=paused)
    space.user.compute.stop_server(stopped)
    space.user.compute.pause_server(paused)
    space.until_server(stopped, 'SHUTOFF')
    space.until_server(paused, 'PAUSED')
    space.delete_server(stopped)
    space.delete_server(paused)


def test_console_output(space: Workspace, sandbox: str) -> None:
    """What containers say, of each line who says it, in the order in which they said it."""
    user, names = space.user, {word: space.name(word) for word in ('first', 'second')}
    for word, name in names.items():
        says = f'echo {word} out; echo {word} error >&2'
        one = space.run(sandbox=sandbox, name=name, command=['sh', '-c', says])
        user.wait(one, 'Stopped')
    shown = user.cli('openstack', 'console', 'log', 'show', sandbox).splitlines()
    said = [line for line in shown if line.startswith(tuple(names.values()))]
    wanted = [[f'{names[word]}: {word} {stream}' for stream in ('out', 'error')] for word in names]
    assert list(map(sorted, (said[:2], said[2:]))) == list(map(sorted, wanted)), shown
    shown = user.cli('openstack', 'console', 'log', 'show', '--lines', '1', sandbox).split()
    assert len(shown) == 3, shown


REFUSED: dict[str, Callable[[Workspace, str], typing.Any]] = {
    'live migration': lambda space, server: space.admin.compute.live_migrate_server(
        server, block_migration='auto'
    ),
    'cold migration': lambda space, server: space.admin.compute.migrate_server(server),
}


@pytest.fixture(scope='module')
def lived_in(shared: Workspace, sandbox: str) -> str:
    """A container that runs in the shared sandbox while Nova refuses things."""
    return shared.running(sandbox=sandbox, command=TALKS)


@pytest.mark.parametrize('operation', REFUSED)
def test_refused_operation_leaves_the_server_as_it_was(
    space: Workspace, sandbox: str, lived_in: str, operation: str
) -> None:
    ports = {port.id for port in space.user.network.ports(device_id=sandbox)}
    compute = space.user.compute
    before = {action.request_id for action in compute.server_actions(sandbox)}
    refused = False
    try:
        REFUSED[operation](space, sandbox)
    except openstack.exceptions.HttpException:
        refused = True
    wait_until(
        'Nova has done with it',
        lambda: not space.user.compute.get_server(sandbox).task_state,
        timeout=60,
    )
    time.sleep(1)
    server = space.user.compute.get_server(sandbox)
    assert (server.status, server.task_state) == ('ACTIVE', None)
    told = [one for one in compute.server_actions(sandbox) if one.request_id not in before]
    assert refused or [one.message for one in told] == ['Error']
    assert {port.id for port in space.user.network.ports(device_id=sandbox)} == ports
    assert host.container(lived_in).status == 'running'
    assert _began(space.user, lived_in) == 1


def test_many_servers_at_once(space: Workspace) -> None:
    servers = space.servers(*[{}] * 4)
    assert len({address(space.user, server) for server in servers}) == 4
    for server in servers:
        space.user.compute.delete_server(server)


def test_server_deleted_while_it_is_built(space: Workspace) -> None:
    for delay in (0.3, 1.0):
        server = space.server(wait=False)
        time.sleep(delay)
        space.delete_server(server)


def test_soft_delete_and_restore(space: Workspace, tmp_path: pathlib.Path) -> None:
    """By a server of Nova's API whose operator wants deleted servers kept for a while."""
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=TALKS)
    user.shell(one, 'echo written > /kept')
    at = address(user, server)
    with second_api.running(tmp_path, 'reclaim_instance_interval = 3600') as url:
        answer = requests.delete(
            f'{url}/servers/{server}',
            headers={'X-Auth-Token': user.sdk.session.get_token()},
            timeout=60,
        )
        assert answer.status_code == 204, answer.text
    space.until_server(server, 'SOFT_DELETED')
    user.wait(one, 'Stopped')
    record = host.sandboxes().read(server)
    assert record is not None
    assert record.state is contract.State.STOPPED
    stays('kept', lambda: user.status(one) == 'Stopped', seconds=1)

    user.compute.restore_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running')
    assert user.shell(one, 'cat /kept') == 'written\n'
    assert at in user.shell(one, 'ip addr')
    user.shell(one, f'ping -c 2 -W 3 {gateway(user)}')
