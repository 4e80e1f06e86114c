"""Cores of one's own, and memory that runs out."""

from __future__ import annotations

import pathlib
import re
import tempfile
import typing
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


OPTIONS = """
[DEFAULT]
reserved_host_memory_mb = 300
reserved_host_disk_mb = 2048
cpu_allocation_ratio = 3.0
ram_allocation_ratio = 1.25
disk_allocation_ratio = 1.5
[compute]
cpu_shared_set = 0
cpu_dedicated_set = 1
provider_config_location = {}
"""
PROVIDER = """
meta: {schema_version: '1.0'}
providers:
- identification: {uuid: $COMPUTE_NODE}
  inventories: {additional: [CUSTOM_LICENSE: {total: 7}]}
  traits: {additional: [CUSTOM_GOLD]}
"""


class Provider:
    """The host in Placement."""

    def __init__(self, admin: User) -> None:
        self._api = admin.sdk.placement
        found = self._api.find_resource_provider(settings.load().host, ignore_missing=False)
        self._url = f'/resource_providers/{found.id}'

    def get(self, what: str) -> typing.Any:
        """Return its inventories or traits."""
        return self._api.get(f'{self._url}/{what}', microversion='1.39').json()[what]

    def put(self, what: str, value: typing.Any) -> None:
        generation = self._api.get(self._url).json()['generation']
        body = {'resource_provider_generation': generation, what: value}
        answer = self._api.put(f'{self._url}/{what}', json=body, microversion='1.39')
        assert answer.status_code == 200, answer.text

    def forget(self, *paths: str) -> None:
        """Delete what is no provider's."""
        for path in paths:
            answer = self._api.delete(path, microversion='1.39')
            assert answer.status_code == 204, answer.text


@pytest.fixture(scope='module')
def shaped(admin: User) -> Iterator[Provider]:
    """The host, with one core that sandboxes share and one that a sandbox can have."""
    provider = Provider(admin)
    before = {what: provider.get(what) for what in ('inventories', 'traits')}
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory)
        path.chmod(0o755)
        (path / 'provider.yaml').write_text(PROVIDER)
        with faults.compute_with(admin, OPTIONS.format(path)):
            wait_until('told', lambda: 'PCPU' in provider.get('inventories'), timeout=30)
            yield provider
            # Ratios that its options do not say it takes from Placement when it starts.
            faults.kill('nova-compute')
            for what, value in before.items():
                provider.put(what, value)
    provider.forget('/traits/CUSTOM_GOLD', '/resource_classes/CUSTOM_LICENSE')


@pytest.mark.alone
def test_placement_has_what_the_options_say(shaped: Provider) -> None:
    def told() -> dict[str, tuple[int, float]]:
        found = shaped.get('inventories')
        return {name: (one['reserved'], one['allocation_ratio']) for name, one in found.items()}

    wanted = {
        'VCPU': (0, 3.0),
        'PCPU': (0, 1.0),
        'MEMORY_MB': (300, 1.25),
        'DISK_GB': (2, 1.5),
        'CUSTOM_LICENSE': (0, 1.0),
    }
    wait_until('told', lambda: told() == wanted, timeout=30, explain=lambda: str(told()))
    totals = {name: one['total'] for name, one in shaped.get('inventories').items()}
    assert (totals['VCPU'], totals['PCPU'], totals['CUSTOM_LICENSE']) == (1, 1, 7)
    assert totals['MEMORY_MB'] == host.engine().info()['MemTotal'] >> 20
    assert {'CUSTOM_GOLD', 'CUSTOM_ZUN_SANDBOX'} <= set(shaped.get('traits'))


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


@pytest.mark.alone
@pytest.mark.usefixtures('shaped')
def test_a_core_of_ones_own(space: Workspace, own_core: str) -> None:
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
