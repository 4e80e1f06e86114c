"""Sandboxes that get another size while their containers run."""

from __future__ import annotations

import pytest

from tests.cloud import host
from tests.cloud.cloud import Workspace
from tests.cloud.waiting import wait_until

MIB = 1 << 20


def _flavor(space: Workspace, name: str) -> str:
    return str(space.user.compute.find_flavor(name, ignore_missing=False).id)


@pytest.mark.parametrize('answer', ['confirm', 'revert'])
def test_a_resize_while_containers_run(space: Workspace, answer: str) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server)
    started = host.container(one).attrs['State']['StartedAt']

    user.compute.resize_server(server, _flavor(space, 'sandbox.small'))
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


def test_a_resize_below_what_is_in_use_changes_nothing(space: Workspace) -> None:
    user, server = space.user, space.server(flavor='sandbox.small')
    one = space.running(
        sandbox=server,
        command=['sh', '-c', 'mkfifo /f; sleep 3600 </f & exec dd if=/dev/zero of=/f bs=200M'],
    )
    wait_until('the memory taken', lambda: host.memory_used(server) > 180 * MIB, timeout=20)
    user.compute.resize_server(server, _flavor(space, 'sandbox.tiny'))
    space.until_server(server, 'ACTIVE')
    assert host.limit(server, 'memory') == 512 * MIB
    assert user.compute.get_server(server).flavor['ram'] == 512
    assert user.status(one) == 'Running'


def test_a_resize_below_a_containers_own_limit_changes_nothing(space: Workspace) -> None:
    user, server = space.user, space.server(flavor='sandbox.small')
    one = space.running(sandbox=server, memory='256')
    user.compute.resize_server(server, _flavor(space, 'sandbox.tiny'))
    space.until_server(server, 'ACTIVE')
    assert host.limit(server, 'memory') == 512 * MIB
    assert user.status(one) == 'Running'
