"""Another Docker Engine: newer than the first host's, and restarted without live-restore."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import time
from collections.abc import Iterator

import pytest

from tests.cloud import faults, host, hosts, settings
from tests.cloud.cloud import User, Workspace, gateway, shown_addresses
from tests.cloud.waiting import wait_until
from zun_virt import sandbox as contract

pytestmark = pytest.mark.two_hosts

SECOND = hosts.second()
TALKS = ['sh', '-c', 'trap "exit 0" TERM; echo began; sleep 3600 & wait']


def test_the_second_host_has_a_newer_engine() -> None:
    """With which all tests of two hosts are run."""
    suite = settings.load()['SECOND_SUITE']
    if not suite:
        pytest.skip('ALLINONE_SECOND_SUITE is empty: both hosts have the same engine')
    ours, its = (_version(one) for one in (hosts.first(), SECOND))
    assert its > ours, f'the engine of {suite} is of version {its}, that of the machine {ours}'


def _version(sandbox_host: hosts.SandboxHost) -> tuple[int, ...]:
    said = sandbox_host.engine().version()['Version']
    return tuple(int(part) for part in said.split('+')[0].split('.'))


@pytest.fixture
def without_live_restore(space: Workspace, admin: User) -> Iterator[None]:
    """Have the second host's engine end its containers with itself."""
    _live_restore(on=False)
    yield
    _live_restore(on=True)
    if not faults.runs('nova-compute-2'):
        settings.allinone('restart', 'nova-compute-2')


def _live_restore(*, on: bool) -> None:
    file = pathlib.Path(settings.load()['ETC'], 'docker-2.json')
    file.write_text(json.dumps(json.loads(file.read_text()) | {'live-restore': on}))
    os.kill(faults.main_process('dockerd-2'), signal.SIGHUP)  # it reads its file again
    wait_until(
        f'live-restore {on}',
        lambda: SECOND.engine().info()['LiveRestoreEnabled'] is on,
        timeout=10,
    )


@pytest.mark.parametrize('compute', ['up', 'down'])
def test_engine_restarted_without_live_restore(
    space: Workspace, without_live_restore: None, compute: str
) -> None:
    """What ran runs again when the engine is back, nova-compute up or not meanwhile."""
    user = space.user
    server = space.server(host=SECOND.name)
    runs = space.running(sandbox=server, command=TALKS)
    job = space.run(sandbox=server, command=['echo', 'done'])
    user.wait(job, 'Stopped')
    addresses = shown_addresses(user, runs)
    (before,) = SECOND.containers(server, contract.ROLE_PAUSE)
    time.sleep(2.5)  # whoever ends in the last moments may have been told to by the engine

    if compute == 'down':
        faults.kill('nova-compute-2')
    SECOND.engine().close()  # its kept connections would end with the engine, and stay open here
    settings.allinone('restart', 'dockerd-2')
    if compute == 'down':
        (dead,) = SECOND.containers(server, contract.ROLE_PAUSE)
        assert dead.status == 'exited'
        settings.allinone('restart', 'nova-compute-2')

    wait_until(
        'began again',
        lambda: user.logs(runs).count('began') == 2,
        timeout=90,
        explain=lambda: f'{user.describe(runs)}\n{host.describe([server])}',
    )
    user.wait(runs, 'Running', timeout=20)
    (after,) = SECOND.containers(server, contract.ROLE_PAUSE)
    assert after.id == before.id
    assert after.attrs['State']['StartedAt'] != before.attrs['State']['StartedAt']
    user.shell(runs, f'ping -c 2 -W 2 {gateway(user)}')
    assert shown_addresses(user, runs) == addresses
    assert user.logs(job) == 'done\n'
    space.until_server(server, 'ACTIVE')
