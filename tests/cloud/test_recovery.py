"""What ends without anybody's wish comes back, and what is nobody's goes."""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Iterator

import docker
import pytest

from tests.cloud import faults, host, settings
from tests.cloud.cloud import Workspace, gateway
from tests.cloud.users import User
from tests.cloud.waiting import stays, wait_until
from zun_virt import sandbox as contract

TALKS = ['sh', '-c', 'trap "exit 0" TERM; echo began; sleep 3600 & wait']
BACK = 30.0  # seconds within which a sandbox must run again
DRY_RUN = """
[DEFAULT]
# nova shall not be quicker
running_deleted_instance_action = noop
[zun_virt]
orphan_dry_run = true
orphan_grace = 2
recovery_interval = 2
"""


@pytest.fixture(autouse=True)
def everything_runs(
    request: pytest.FixtureRequest, space: Workspace, admin: User
) -> Iterator[None]:
    """Have everything run again that the test may have killed, before its things are removed."""
    yield
    if request.node.get_closest_marker('faults'):
        faults.mend(admin)


def _until_it_runs_again(space: Workspace, server: str, container: str, times: int = 2) -> None:
    wait_until(
        'the container began again',
        lambda: host.container(container).logs().count(b'began') == times,
        timeout=BACK,
        explain=lambda: host.describe([server]),
    )
    space.user.wait(container, 'Running', timeout=10)
    found = space.user.compute.get_server(server)
    assert (found.status, found.task_state) == ('ACTIVE', None)
    assert space.user.execute(container, f'ping -c 2 {gateway(space.user)}')[1] == 0


def test_a_killed_sandbox_runs_again(space: Workspace) -> None:
    server = space.server()
    one = space.running(sandbox=server, command=TALKS)
    before = host.pause(server).id
    host.pause(server).kill()
    _until_it_runs_again(space, server, one)
    assert host.pause(server).id == before


def test_a_suspended_sandbox_that_was_killed_runs_again_when_resumed(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=TALKS)
    user.compute.suspend_server(server)
    space.until_server(server, 'SUSPENDED')
    user.wait(one, 'Paused', timeout=5)
    # It cannot end before what is frozen in it does; Docker goes on to call it frozen, too.
    with pytest.raises(docker.errors.APIError, match='ould not kill'):
        host.pause(server).remove(force=True)
    user.compute.resume_server(server)
    space.until_server(server, 'ACTIVE')
    _until_it_runs_again(space, server, one)


def test_a_suspended_sandbox_that_is_lost_is_made_anew_when_resumed(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=TALKS)
    before = {each.id for each in host.containers(server)}
    user.compute.suspend_server(server)
    space.until_server(server, 'SUSPENDED')
    user.wait(one, 'Paused', timeout=5)
    # a pause container can be removed only when nothing is frozen that ends with it
    host.container(one).unpause()
    host.pause(server).remove(force=True)
    user.compute.resume_server(server)
    space.until_server(server, 'ACTIVE')

    def made_anew() -> bool:
        now = {each.id for each in host.containers(server)}
        return len(now) == len(before) and not now & before

    wait_until('made anew', made_anew, timeout=BACK, explain=lambda: host.describe([server]))
    _until_it_runs_again(space, server, one, times=1)


def test_a_sandbox_that_its_tenant_shuts_down_is_shut_off(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=TALKS)
    user.execute(one, 'kill -TERM 1')
    space.until_server(server, 'SHUTOFF', timeout=40)
    user.wait(one, 'Stopped', timeout=10)
    user.compute.start_server(server)
    space.until_server(server, 'ACTIVE')
    _until_it_runs_again(space, server, one)


@pytest.mark.faults
def test_sandboxes_that_went_with_the_engine_run_again(space: Workspace) -> None:
    """An engine without live-restore ends some gently and kills others."""
    killed, ended = space.servers({}, {})
    ones = {server: space.running(sandbox=server, command=TALKS) for server in (killed, ended)}
    pids = {server: host.pause(server).attrs['State']['Pid'] for server in (killed, ended)}
    faults.kill_docker()
    os.kill(pids[killed], signal.SIGKILL)
    os.kill(pids[ended], signal.SIGTERM)
    faults.restart_docker()
    for server, one in ones.items():
        _until_it_runs_again(space, server, one)


@pytest.mark.faults
def test_one_that_died_while_nova_compute_was_away(space: Workspace) -> None:
    server, stopped = space.servers({}, {})
    one = space.running(sandbox=server, command=TALKS)
    space.user.compute.stop_server(stopped)
    space.until_server(stopped, 'SHUTOFF')
    faults.kill('nova-compute')
    host.pause(server).kill()
    faults.restart_compute(space.admin)
    _until_it_runs_again(space, server, one)
    assert space.user.compute.get_server(stopped).status == 'SHUTOFF'
    assert host.pause(stopped).status == 'exited'


def test_a_port_that_the_switch_lost_is_plugged_again(space: Workspace, sandbox: str) -> None:
    one = space.running(sandbox=sandbox, command=TALKS)
    (port,) = space.user.network.ports(device_id=sandbox)
    host.command('ovs-vsctl', '--timeout=10', 'del-port', f'tap{port.id}'[:14])
    assert space.user.execute(one, f'ping -c 1 -W 1 {gateway(space.user)}')[1] != 0
    _until_it_reaches_the_gateway(space, one)
    assert space.user.compute.get_server(sandbox).status == 'ACTIVE'
    assert space.user.logs(one).count('began') == 1


def _until_it_reaches_the_gateway(space: Workspace, container: str) -> None:
    wait_until(
        'the network works again',
        lambda: space.user.execute(container, f'ping -c 1 -W 1 {gateway(space.user)}')[1] == 0,
        timeout=60,
        interval=1,
        explain=host.describe,
    )


@pytest.mark.faults
def test_orphans_are_removed(space: Workspace, admin: User) -> None:
    """Of a server deleted while nova-compute was away, and of one cut off as it was made.

    With ``orphan_dry_run`` they are only told of.
    """
    server = space.server()
    one = space.running(sandbox=server, command=TALKS)
    cut_off = str(uuid.uuid4())
    record = host.sandboxes().read(server)
    assert record is not None
    faults.kill('nova-compute')
    service = next(iter(admin.compute.services(binary='nova-compute', host=settings.load().host)))
    admin.compute.update_service_forced_down(service, forced=True)
    try:
        space.delete_server(server)
    finally:
        admin.compute.update_service_forced_down(service, forced=False)
    host.sandboxes().create(cut_off)
    host.sandboxes().write(
        record.replace(instance_id=cut_off, state=contract.State.BUILDING, pause=None)
    )
    log = settings.load().log('nova-compute')
    since = log.stat().st_size
    said = re.compile(r'Sandbox (\S+) is an orphan \(.+\), and would be removed')
    with faults.compute_with(admin, DRY_RUN):
        wait_until(
            'told of both',
            lambda: set(said.findall(host.tail(log, 200, since))) == {server, cut_off},
            timeout=30,
            explain=lambda: host.tail(log, 40, since),
        )
        stays('both there', lambda: {server, cut_off} <= host.sandboxes().ids(), seconds=5)
        assert host.container(one).status == host.pause(server).status == 'running'
    wait_until(
        'both gone',
        lambda: not host.sandboxes().ids() & {server, cut_off},
        timeout=90,
        interval=1,
        explain=lambda: host.describe([server, cut_off]),
    )
    assert not host.containers(server)
