"""Sandboxes that go from one host to another, and their containers with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import openstack
import pytest

from tests.cloud import host, hosts
from tests.cloud.cloud import Workspace, flavor_id
from tests.cloud.moved import Moved, assert_nothing_to_heal
from tests.cloud.storage import Storage

pytestmark = pytest.mark.two_hosts

FIRST, SECOND = hosts.first(), hosts.second()
MIB = 1 << 20


def test_migrated_and_confirmed(space: Workspace) -> None:
    moved = Moved(space, FIRST)
    space.admin.compute.migrate_server(moved.server, host=SECOND.name)
    space.until_server(moved.server, 'VERIFY_RESIZE')
    moved.assert_runs_on(SECOND)
    assert all(found.status == 'exited' for found in FIRST.containers(moved.server))
    space.user.compute.confirm_server_resize(moved.server)
    space.until_server(moved.server, 'ACTIVE')
    moved.assert_clean(FIRST)
    moved.assert_runs_on(SECOND)


def test_migrated_and_reverted(space: Workspace) -> None:
    moved = Moved(space, FIRST)
    space.admin.compute.migrate_server(moved.server, host=SECOND.name)
    space.until_server(moved.server, 'VERIFY_RESIZE')
    moved.assert_runs_on(SECOND)
    space.user.shell(moved.one, 'echo there > /kept')
    space.user.compute.revert_server_resize(moved.server)
    space.until_server(moved.server, 'ACTIVE')
    moved.assert_clean(SECOND)
    moved.assert_runs_on(FIRST)
    assert space.user.shell(moved.one, 'cat /kept') == 'here\n'


def test_live_migration_changes_nothing(space: Workspace) -> None:
    moved = Moved(space, FIRST)
    started = _started(moved)
    # By the API's version the refusal is its answer, or the end of the migration.
    with contextlib.suppress(openstack.exceptions.BadRequestException):
        space.admin.compute.live_migrate_server(
            moved.server, host=SECOND.name, force=False, block_migration='auto'
        )
    space.until_server(moved.server, 'ACTIVE')
    moved.assert_runs_on(FIRST)
    assert _started(moved) == started
    moved.assert_clean(SECOND)


def _started(moved: Moved) -> dict[str, str]:
    return {
        str(found.id): found.attrs['State']['StartedAt'] for found in FIRST.containers(moved.server)
    }


@contextlib.contextmanager
def _nothing_new_on(space: Workspace, there: hosts.SandboxHost) -> Iterator[None]:
    """Have the scheduler choose another host."""
    (service,) = space.admin.compute.services(binary='nova-compute', host=there.name)
    space.admin.compute.disable_service(service)
    try:
        yield
    finally:
        space.admin.compute.enable_service(service)


def test_resized_to_another_host_and_migrated_back_with_a_volume(
    space: Workspace, storage: Storage
) -> None:
    moved = Moved(space, FIRST)
    moved.give_volume(storage)
    assert moved.volume
    flavor = flavor_id(space.user, 'sandbox.small')
    with _nothing_new_on(space, FIRST):
        space.user.compute.resize_server(moved.server, flavor)
        space.until_server(moved.server, 'VERIFY_RESIZE')
    space.user.compute.confirm_server_resize(moved.server)
    space.until_server(moved.server, 'ACTIVE')
    moved.assert_runs_on(SECOND)
    moved.assert_clean(FIRST)
    assert SECOND.memory_limit(moved.server) == 512 * MIB
    record = SECOND.sandboxes().read(moved.server)
    assert record is not None
    assert record.limits.memory_mb == 512
    assert storage.devices(moved.server) == {moved.volume: '/dev/vdb'}
    assert storage.status(moved.volume) == 'in-use'

    space.admin.compute.migrate_server(moved.server, host=FIRST.name)
    space.until_server(moved.server, 'VERIFY_RESIZE')
    space.user.compute.confirm_server_resize(moved.server)
    space.until_server(moved.server, 'ACTIVE')
    moved.assert_runs_on(FIRST)
    moved.assert_clean(SECOND)
    assert host.limit(moved.server, 'memory') == 512 * MIB
    moved.assert_accounted_on(FIRST)
    assert_nothing_to_heal(moved.server)


def test_shelved_here_and_unshelved_there_with_a_volume(space: Workspace, storage: Storage) -> None:
    moved = Moved(space, FIRST)
    moved.give_volume(storage)
    assert moved.volume
    space.user.shell(moved.one, 'echo written > /kept')
    space.user.compute.shelve_server(moved.server)
    space.until_server(moved.server, 'SHELVED_OFFLOADED')
    moved.assert_clean(FIRST)
    assert host.loop_devices() == set()
    assert set(storage.devices(moved.server)) == {moved.volume}

    space.admin.compute.unshelve_server(moved.server, host=SECOND.name)
    space.until_server(moved.server, 'ACTIVE')
    moved.assert_runs_on(SECOND)
    assert space.user.shell(moved.one, 'cat /kept') == 'written\n'
    assert storage.status(moved.volume) == 'in-use'
    moved.assert_accounted_on(SECOND)
    assert_nothing_to_heal(moved.server)
