"""Sandboxes that go from one host to another, and their containers with them."""

from __future__ import annotations

import contextlib

import openstack
import pytest

from tests.cloud import hosts
from tests.cloud.cloud import Workspace, address, gateway
from tests.cloud.waiting import wait_until
from zun_virt import sandbox as contract

pytestmark = pytest.mark.two_hosts

FIRST, SECOND = hosts.first(), hosts.second()
WRITES = ['sh', '-c', 'test -e /kept || echo here > /kept; trap "exit 0" TERM; sleep 3600 & wait']


class Moved:
    """A sandbox on the first host with a container that runs and a job that has ended."""

    def __init__(self, space: Workspace) -> None:
        self.space, self.user = space, space.user
        self.server = space.server(host=FIRST.name)
        self.one = space.running(sandbox=self.server, command=WRITES)
        self.job = space.run(sandbox=self.server, command=['echo', 'began'])
        self.user.wait(self.job, 'Stopped')
        self.address = address(self.user, self.server)

    def assert_runs_on(self, host: hosts.SandboxHost) -> None:
        shown = self.space.admin.compute.get_server(self.server)
        assert shown.compute_host == host.name
        self.user.wait(self.one, 'Running', timeout=40)
        wait_until(
            f'its container on {host.name}',
            lambda: self.space.admin.show(self.one).host == host.name,
            timeout=20,
        )
        assert self.one in {
            found.labels.get(contract.LABEL_CONTAINER) for found in host.containers(self.server)
        }
        assert self.user.status(self.job) == 'Stopped'
        assert self.address in self.user.shell(self.one, 'ip addr')
        self.user.shell(self.one, f'ping -c 2 -W 3 {gateway(self.user)}')

    def assert_clean(self, host: hosts.SandboxHost) -> None:
        wait_until(
            f'nothing left on {host.name}',
            lambda: not host.containers(self.server) and not host.sandboxes().read(self.server),
            timeout=20,
        )


def test_migrated_and_confirmed(space: Workspace) -> None:
    moved = Moved(space)
    space.admin.compute.migrate_server(moved.server, host=SECOND.name)
    space.until_server(moved.server, 'VERIFY_RESIZE')
    moved.assert_runs_on(SECOND)
    assert all(found.status == 'exited' for found in FIRST.containers(moved.server))
    space.user.compute.confirm_server_resize(moved.server)
    space.until_server(moved.server, 'ACTIVE')
    moved.assert_clean(FIRST)
    moved.assert_runs_on(SECOND)


def test_migrated_and_reverted(space: Workspace) -> None:
    moved = Moved(space)
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
    moved = Moved(space)
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
