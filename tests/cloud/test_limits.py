"""The flavor's limits hold for the sum of what runs in a sandbox."""

from __future__ import annotations

import re
import time

import pytest

from tests.cloud import host
from tests.cloud.cloud import User, Workspace
from tests.cloud.waiting import stays, wait_until

pytestmark = pytest.mark.alone

MIB = 1 << 20
HUNGRY = ['sh', '-c', 'while :; do :; done']
# holds 70 MiB in its one process, and waits for somebody to read them
HOLDS_70_MIB = [
    'sh',
    '-c',
    'mkfifo /tmp/f; sleep 3600 </tmp/f & exec dd if=/dev/zero of=/tmp/f bs=70M count=1',
]


@pytest.fixture(scope='module')
def narrow(admin: User, shared: Workspace) -> str:
    """A flavor of a fifth of a core, of less weight, and of 60 processes: its name."""
    flavor = admin.compute.create_flavor(
        name=shared.name('sandbox.narrow'), vcpus=1, ram=128, disk=1
    )
    shared.finally_do(admin.compute.delete_flavor, flavor.id)
    admin.compute.create_flavor_extra_specs(
        flavor,
        {
            'trait:CUSTOM_ZUN_SANDBOX': 'required',
            'quota:cpu_quota': '20000',
            'quota:cpu_period': '100000',
            'quota:cpu_shares': '300',
            'zun:pids_limit': '60',
        },
    )
    return str(flavor.name)


def test_processors_of_one_core(space: Workspace, sandbox: str) -> None:
    for _ in range(2):
        space.running(sandbox=sandbox, command=HUNGRY)
    used = host.cores_used(sandbox, 4)
    assert 0.4 < used < 1.1, f'{used:.2f} cores by two containers in a sandbox of 1'


def test_processors_of_a_fifth_of_a_core(space: Workspace, narrow: str) -> None:
    server = space.server(flavor=narrow)
    hungry = [space.running(sandbox=server, command=HUNGRY) for _ in range(2)]
    used = host.cores_used(server, 4)
    assert 0.1 < used < 0.23, f'{used:.2f} cores by two containers in a sandbox of 0.2'
    for one in hungry:
        space.user.containers.pause(one)
    for one in hungry:
        space.user.wait(one, 'Paused', timeout=30)
    assert host.cores_used(server, 1) < 0.05


def test_weight_and_swap(space: Workspace, sandbox: str, narrow: str) -> None:
    """By the flavor, or one core's weight; there is no swap beyond the memory."""
    weights = {sandbox: 1024, space.server(flavor=narrow): 300}
    for server, shares in weights.items():
        if host.version_1():
            assert host.limit(server, 'weight') == shares
            assert host.limit(server, 'swap') == host.limit(server, 'memory') == 128 * MIB
        else:  # as runc counts them
            assert host.limit(server, 'weight') == 1 + (shares - 2) * 9999 // 262142
            assert host.limit(server, 'swap') == 0


def test_own_limit_within_the_sandboxs(space: Workspace, sandbox: str) -> None:
    space.running(sandbox=sandbox, command=HUNGRY, cpu=0.1)
    used = host.cores_used(sandbox, 3)
    assert 0.03 < used < 0.2, f'{used:.2f} cores by a container of 0.1'


def test_memory_of_two_is_the_sandboxs(space: Workspace) -> None:
    user, server = space.user, space.server()
    assert host.limit(server, 'memory') == 128 * MIB
    bystander = space.running(sandbox=server)
    first = space.running(sandbox=server, command=HOLDS_70_MIB)
    time.sleep(1)
    assert user.status(first) == 'Running'
    second = space.run(sandbox=server, command=HOLDS_70_MIB)
    wait_until(
        'one of them killed',
        lambda: 'Stopped' in {user.status(first), user.status(second)},
        timeout=30,
        explain=lambda: user.describe(second),
    )
    time.sleep(1)
    states = {one: host.container(one).attrs['State'] for one in (first, second)}
    # The kernel may find the second in want of memory before it has that of its first victim.
    victims = [one for one, state in states.items() if state['ExitCode'] == 137]
    assert victims, states
    for one, state in states.items():
        assert one in victims or state['Running'], states
        assert one not in victims or 'Exited(137)' in user.show(one).status_detail
    assert host.pause(server).status == 'running'
    assert user.status(bystander) == 'Running'
    assert user.compute.get_server(server).status == 'ACTIVE'


def test_processes_of_the_sandbox(space: Workspace, narrow: str) -> None:
    user, server = space.user, space.server(flavor=narrow)
    assert host.limit(server, 'pids') == 60
    one = space.run(
        sandbox=server,
        command=['sh', '-c', 'while sleep 60 & do :; done; echo full; sleep 3600'],
    )
    user.wait(one, 'Running', 'Stopped')
    wait_until('no more processes', lambda: "can't fork" in user.logs(one), timeout=20)
    stays('sandbox up', lambda: host.pause(server).status == 'running', seconds=1)


def test_limits_survive_a_reboot_of_the_sandbox(space: Workspace) -> None:
    server = space.server()
    user = space.user
    one = space.running(sandbox=server)
    started = host.pause(server).attrs['State']['StartedAt']
    user.compute.reboot_server(server, 'HARD')
    wait_until(
        'a new start',
        lambda: host.pause(server).attrs['State']['StartedAt'] != started,
        timeout=60,
    )
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running')
    assert host.limit(server, 'memory') == 128 * MIB
    group = user.shell(one, 'cat /proc/self/cgroup')
    assert re.search(r'/zun/|zun-', group), group
