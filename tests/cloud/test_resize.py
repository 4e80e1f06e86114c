"""Sandboxes that get another size while their containers run."""

from __future__ import annotations

import pytest

from tests.cloud import host
from tests.cloud.cloud import Workspace, flavor_id
from tests.cloud.storage import Storage, path
from tests.cloud.waiting import wait_until
from zun_virt.sandbox import State

MIB = 1 << 20


@pytest.mark.parametrize('answer', ['confirm', 'revert'])
def test_a_resize_while_containers_run(space: Workspace, answer: str) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server)
    started = host.container(one).attrs['State']['StartedAt']

    user.compute.resize_server(server, flavor_id(space.user, 'sandbox.small'))
    space.until_server(server, 'VERIFY_RESIZE')
    assert host.limit(server, 'memory') == 512 * MIB
    getattr(user.compute, f'{answer}_server_resize')(server)
    space.until_server(server, 'ACTIVE')

    kept = 512 if answer == 'confirm' else 128
    assert host.limit(server, 'memory') == kept * MIB
    record = host.sandboxes().read(server)
    assert record is not None
    assert record.limits.memory_mb == kept
    assert host.container(one).attrs['State']['StartedAt'] == started
    assert user.execute(one, 'ping -c 1 10.20.0.1')[1] == 0
    (port,) = user.network.ports(device_id=server)
    assert port.status == 'ACTIVE'


def test_a_resize_with_a_volume(space: Workspace, storage: Storage) -> None:
    """What is on it stays where it is and in use, with the new size and with the old one again."""
    user, server, volume = space.user, space.server(), storage.volume()
    storage.attach(server, volume)
    writes = f'exec 3>>{path(volume)}/log; while sleep 0.1; do echo x >&3; done'
    one = space.running(sandbox=server, command=['sh', '-c', writes])
    started, loops = host.container(one).attrs['State']['StartedAt'], storage.loops()
    assert len(loops) == 1

    def goes_on() -> None:
        assert host.container(one).attrs['State']['StartedAt'] == started
        assert storage.loops() == loops
        size = f'stat -c %s {path(volume)}/log'
        before = int(user.shell(one, size))
        wait_until('it writes', lambda: int(user.shell(one, size)) > before, timeout=10)
        assert storage.devices(server) == {volume: '/dev/vdb'}
        assert storage.status(volume) == 'in-use'

    user.compute.resize_server(server, flavor_id(space.user, 'sandbox.small'))
    space.until_server(server, 'VERIFY_RESIZE')
    assert host.limit(server, 'memory') == 512 * MIB
    goes_on()
    user.compute.revert_server_resize(server)
    space.until_server(server, 'ACTIVE')
    assert host.limit(server, 'memory') == 128 * MIB
    goes_on()
    space.remove([one])
    storage.detach(server, volume)


def test_down_while_it_runs_and_up_while_it_is_stopped(space: Workspace) -> None:
    user, server = space.user, space.server(flavor='sandbox.small')
    one = space.running(sandbox=server)
    started = host.container(one).attrs['State']['StartedAt']

    def resize(flavor: str, status: str) -> None:
        user.compute.resize_server(server, flavor_id(space.user, flavor))
        space.until_server(server, 'VERIFY_RESIZE')
        user.compute.confirm_server_resize(server)
        space.until_server(server, status)

    resize('sandbox.tiny', 'ACTIVE')
    assert user.compute.get_server(server).flavor['ram'] == 128
    assert host.limit(server, 'memory') == 128 * MIB
    assert host.container(one).attrs['State']['StartedAt'] == started

    user.compute.stop_server(server)
    space.until_server(server, 'SHUTOFF')
    resize('sandbox.small', 'SHUTOFF')
    assert {found.status for found in host.containers(server)} == {'exited'}
    record = host.sandboxes().read(server)
    assert record is not None
    assert (record.state, record.limits.memory_mb) == (State.STOPPED, 512)
    user.compute.start_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running')
    assert host.limit(server, 'memory') == 512 * MIB


def test_a_resize_below_what_is_in_use_changes_nothing(space: Workspace) -> None:
    user, server = space.user, space.server(flavor='sandbox.small')
    one = space.running(
        sandbox=server,
        command=['sh', '-c', 'mkfifo /f; sleep 3600 </f & exec dd if=/dev/zero of=/f bs=200M'],
    )
    wait_until('the memory taken', lambda: host.memory_used(server) > 180 * MIB, timeout=20)
    user.compute.resize_server(server, flavor_id(space.user, 'sandbox.tiny'))
    space.until_server(server, 'ACTIVE')
    assert host.limit(server, 'memory') == 512 * MIB
    assert user.compute.get_server(server).flavor['ram'] == 512
    assert user.status(one) == 'Running'


def test_a_resize_below_a_containers_own_limit_changes_nothing(space: Workspace) -> None:
    user, server = space.user, space.server(flavor='sandbox.small')
    one = space.running(sandbox=server, memory='256')
    user.compute.resize_server(server, flavor_id(space.user, 'sandbox.tiny'))
    space.until_server(server, 'ACTIVE')
    assert host.limit(server, 'memory') == 512 * MIB
    assert user.status(one) == 'Running'
