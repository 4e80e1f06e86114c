"""A sandbox host that is lost, whose sandboxes go on elsewhere, and that comes back."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
from collections.abc import Iterator

import openstack
import pytest

from tests.cloud import faults, host, hosts, settings
from tests.cloud.cloud import User, Workspace
from tests.cloud.moved import Moved, assert_nothing_to_heal
from tests.cloud.storage import Storage
from tests.cloud.waiting import stays, wait_until
from zun_virt import sandbox as contract

pytestmark = pytest.mark.two_hosts

FIRST, SECOND = hosts.first(), hosts.second()
HOST = ('host-2', 'ovsdb-2', 'vswitchd-2', 'containerd-2', 'dockerd-2')
SERVICES = ('nova-compute-2', 'zun-agent-2')


@pytest.fixture(autouse=True)
def second_host_comes_back(space: Workspace, admin: User) -> Iterator[None]:
    """Have it back, whatever became of the test, before what the test made is removed."""
    yield
    come_back(admin)


def cut_power() -> None:
    """End at once all that runs on the second host, as when its power fails."""

    def processes() -> set[int]:
        found = set()
        for group in pathlib.Path('/sys/fs/cgroup').glob(f'*/{SECOND.groups}'):
            for directory, _, _ in os.walk(group):
                with contextlib.suppress(OSError):  # the group went with its last process
                    told = pathlib.Path(directory, 'cgroup.procs').read_text()
                    found |= {int(pid) for pid in told.split()}
        return {pid for pid in found if faults.exists(pid)}

    def dead() -> bool:
        for pid in processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not processes()

    SECOND.engine().close()  # its kept connections would end with the engine, and stay open here
    wait_until('nothing runs there', dead, timeout=30)


def come_back(admin: User) -> None:
    """Start what does not run of the second host, and let Nova use it again."""
    if not all(map(faults.runs, HOST)):
        settings.allinone('restart', 'host-2')
    lost = [service for service in SERVICES if not faults.runs(service)]
    if lost:
        settings.allinone('restart', *lost)

    def in_use() -> bool:
        (service,) = admin.compute.services(binary='nova-compute', host=SECOND.name)
        if service.is_forced_down:
            # Nova refuses that until nova-compute has removed what was evacuated.
            with contextlib.suppress(openstack.exceptions.BadRequestException):
                admin.compute.update_service_forced_down(service, forced=False)
            return False
        return bool(service.state == 'up')

    wait_until('Nova uses the second host', in_use, timeout=120, interval=1)


def evacuate(moved: Moved) -> None:
    """Bring a sandbox of the second host, which is down, to the first one."""
    compute = moved.space.admin.compute
    (service,) = compute.services(binary='nova-compute', host=SECOND.name)
    compute.update_service_forced_down(service, forced=True)
    compute.evacuate_server(moved.server, host=FIRST.name)
    moved.space.until_server(moved.server, 'SHUTOFF')
    moved.assert_placed_on(FIRST)


def assert_stopped(moved: Moved) -> None:
    """It is on the first host, and nothing runs in it."""
    moved.user.wait(moved.one, 'Stopped', timeout=60)
    stays('stopped', lambda: moved.user.status(moved.one) == 'Stopped', seconds=2)
    record = FIRST.sandboxes().read(moved.server)
    assert record is not None
    assert record.state is contract.State.STOPPED
    assert {found.status for found in FIRST.containers(moved.server)} <= {'created', 'exited'}


def test_a_host_that_is_lost_with_a_volume(space: Workspace, storage: Storage) -> None:
    moved = Moved(space, SECOND)
    moved.give_volume(storage)
    assert moved.volume
    cut_power()
    wait_until('the volume is let go', lambda: not host.loop_devices(), timeout=30)
    evacuate(moved)
    assert_stopped(moved)
    assert host.loop_devices() == set(), 'a stopped server holds its volume'
    assert storage.devices(moved.server) == {moved.volume: '/dev/vdb'}

    space.user.compute.start_server(moved.server)
    space.until_server(moved.server, 'ACTIVE')
    moved.assert_runs_on(FIRST)

    come_back(space.admin)
    moved.assert_clean(SECOND)
    moved.assert_runs_on(FIRST)
    assert storage.status(moved.volume) == 'in-use'
    moved.assert_accounted_on(FIRST)
    assert_nothing_to_heal(moved.server)


def test_a_host_whose_containers_went_on_running(space: Workspace) -> None:
    """Only its services were lost: when they come back, they end what is elsewhere now."""
    moved = Moved(space, SECOND)
    for service in SERVICES:
        faults.kill(service)
    evacuate(moved)
    assert_stopped(moved)
    assert {found.status for found in SECOND.containers(moved.server)} >= {'running'}

    come_back(space.admin)
    moved.assert_clean(SECOND)
    space.user.compute.start_server(moved.server)
    space.until_server(moved.server, 'ACTIVE')
    moved.assert_runs_on(FIRST)
    moved.assert_accounted_on(FIRST)
