"""Cores of one's own, and memory that runs out."""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Iterator

import pytest

from tests.cloud import faults, host, settings
from tests.cloud.cloud import User, Workspace
from tests.cloud.waiting import wait_until

HUNGRY = ['sh', '-c', 'while :; do :; done']
TAKES_200_MIB = ['dd', 'if=/dev/zero', 'of=/dev/null', 'bs=200M', 'count=1']
FILLS_SHARED_MEMORY = ['sh', '-c', 'dd if=/dev/zero of=/dev/shm/f bs=1M count=60; sleep 3600']


def test_memory_that_runs_out_never_ends_the_sandbox(space: Workspace) -> None:
    user, server = space.user, space.server()
    before = host.pause(server).attrs['State']
    bystander = space.running(sandbox=server)
    space.running(sandbox=server, command=FILLS_SHARED_MEMORY)
    for _ in range(3):
        victim = space.run(sandbox=server, command=TAKES_200_MIB)
        user.wait(victim, 'Stopped')
        shown = user.show(victim)
        assert 'Exited(137)' in shown.status_detail
        assert 'ran out of memory' in shown.status_reason
    state = host.pause(server).attrs['State']
    assert (state['Pid'], state['StartedAt']) == (before['Pid'], before['StartedAt'])
    assert user.status(bystander) == 'Running'
    # Docker remembers of it that memory ran out, which is not why it ends.
    user.containers.kill(bystander, 'KILL')
    user.wait(bystander, 'Stopped')
    assert 'memory' not in (user.show(bystander).status_reason or '')
    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF')
    user.compute.start_server(server)
    space.until_server(server, 'ACTIVE')


def test_the_pause_process_has_the_lowest_score_that_there_can_be(space: Workspace) -> None:
    server = space.server()
    one = space.running(sandbox=server)
    status = pathlib.Path('/proc/1/status').read_text()
    allowed = int(re.search(r'CapBnd:\t(\w+)', status)[1], 16) >> 24 & 1  # type: ignore[index]
    pid = host.pause(server).attrs['State']['Pid']
    ours = int(pathlib.Path(f'/proc/{pid}/oom_score_adj').read_text())
    assert ours == (-998 if allowed else 0)
    theirs = host.container(one).attrs['State']['Pid']
    assert int(pathlib.Path(f'/proc/{theirs}/oom_score_adj').read_text()) > ours


@pytest.fixture(scope='module')
def dedicated(admin: User) -> Iterator[None]:
    """The host, with one core that sandboxes share and one that a sandbox can have."""
    conf = settings.load()
    path = pathlib.Path(conf['ETC'], f'nova-compute-{conf.host}', 'nova.conf')
    before = path.read_text()
    with contextlib.ExitStack() as undo:
        undo.callback(faults.restart_compute, admin)
        undo.callback(path.write_text, before)
        path.write_text(f'{before}\n[compute]\ncpu_shared_set = 0\ncpu_dedicated_set = 1\n')
        faults.restart_compute(admin)
        yield


@pytest.fixture
def own_core(admin: User, space: Workspace) -> str:
    """A flavor with a core of its own: its name."""
    flavor = admin.compute.create_flavor(name=space.name('own'), vcpus=1, ram=64, disk=1)
    space.finally_do(admin.compute.delete_flavor, flavor.id)
    specs = {'trait:CUSTOM_ZUN_SANDBOX': 'required', 'hw:cpu_policy': 'dedicated'}
    admin.compute.create_flavor_extra_specs(flavor, specs)
    return str(flavor.name)


def _cores_of(container_id: str) -> str:
    pid = host.container(container_id).attrs['State']['Pid']
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
    found = re.search(r'Cpus_allowed_list:\t(\S+)', status)
    assert found
    return found[1]


@pytest.mark.usefixtures('dedicated')
def test_a_core_of_ones_own(admin: User, space: Workspace, own_core: str) -> None:
    def inventory() -> dict[str, int]:
        rows = host.query(
            'select c.name, i.total from placement.inventories i join'
            ' placement.resource_classes c on c.id = i.resource_class_id join'
            ' placement.resource_providers p on p.id = i.resource_provider_id where p.name = %s',
            settings.load().host,
        )
        return {str(name): int(total) for name, total in rows}

    wait_until(
        'inventory', lambda: 'PCPU' in inventory(), timeout=30, explain=lambda: str(inventory())
    )
    assert (inventory()['VCPU'], inventory()['PCPU']) == (1, 1)
    own, common = space.server(flavor=own_core), space.server()
    mine = space.running(sandbox=own, command=HUNGRY)
    others = [space.running(sandbox=common, command=HUNGRY) for _ in range(2)]
    assert _cores_of(mine) == '1'
    assert {_cores_of(one) for one in others} == {'0'}
    second = space.server(flavor=own_core, wait=False)
    space.until_server(second, 'ERROR')
    assert 'No valid host' in space.user.compute.get_server(second).fault['message']
    space.user.compute.reboot_server(own, 'HARD')
    wait_until('runs', lambda: space.user.status(mine) == 'Running', timeout=60)
    space.until_server(own, 'ACTIVE')
    assert _cores_of(mine) == '1'
