"""What a sandbox's containers have written survives snapshots and shelving; rescue."""

from __future__ import annotations

import openstack
import pytest

from tests.cloud import faults, host
from tests.cloud.cloud import User, Workspace
from tests.cloud.waiting import stays, wait_until

WRITES = ['sh', '-c', 'test -e /kept || date +%s%N > /kept; trap "exit 0" TERM; sleep 3600 & wait']


def _kept(user: User, container: str) -> str:
    return user.shell(container, 'cat /kept')


def test_shelved_and_back(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=WRITES)
    job = space.run(sandbox=server, command=['echo', 'began'])
    user.wait(job, 'Stopped')
    wrote, images = _kept(user, one), host.image_tags()
    address = [record.address for record in host.sandboxes().read(server).addresses]

    user.compute.shelve_server(server)
    space.until_server(server, 'SHELVED_OFFLOADED')
    user.wait(one, 'Stopped', timeout=30)
    assert host.containers(server) == []
    assert host.sandboxes().read(server) is None

    user.compute.unshelve_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running', timeout=30)
    assert _kept(user, one) == wrote
    assert user.status(job) == 'Stopped'
    assert 'snapshot' in user.show(one).status_reason
    record = host.sandboxes().read(server)
    assert record is not None
    assert [found.address for found in record.addresses] == address
    assert user.execute(one, 'ping -c 1 10.20.0.1')[1] == 0
    space.delete_server(server)
    left = {tag for tag in host.image_tags() - images if 'zun-snapshot-image' in tag}
    assert left == set()


@pytest.mark.alone
def test_shelved_where_it_is(space: Workspace, admin: User) -> None:
    """Where the operator has shelved servers keep their place, their containers stay, too."""
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=WRITES)
    wrote, container = _kept(user, one), host.container(one).id
    with faults.compute_with(admin, '[DEFAULT]\nshelved_offload_time = -1'):
        user.compute.shelve_server(server)
        space.until_server(server, 'SHELVED')
        user.wait(one, 'Stopped', timeout=10)
        assert {found.status for found in host.containers(server)} == {'exited'}
        user.compute.unshelve_server(server)
        space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running', timeout=30)
    assert host.container(one).id == container
    assert _kept(user, one) == wrote


def test_a_snapshot_brings_back_what_was_written(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server, command=WRITES)
    wrote, started = _kept(user, one), host.container(one).attrs['State']['StartedAt']
    image = user.compute.create_server_image(server, space.name('snapshot'), wait=True, timeout=90)
    space.finally_do(user.image.delete_image, image.id)
    assert user.image.get_image(image.id).container_format == 'docker'
    assert host.container(one).attrs['State']['StartedAt'] == started
    user.shell(one, 'echo later > /kept')

    user.compute.rebuild_server(server, image=image.id)
    wait_until('rebuilding', lambda: host.copies(one) == [], timeout=60, interval=0.02)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running', timeout=30)
    assert _kept(user, one) == wrote


def test_rescue(space: Workspace) -> None:
    user, server = space.user, space.server()
    one = space.running(sandbox=server)
    user.compute.rescue_server(server)
    space.until_server(server, 'RESCUE')
    user.wait(one, 'Stopped', timeout=10)
    assert host.pause(server).status == 'running'
    stays('held', lambda: user.status(one) == 'Stopped', seconds=2)
    user.compute.unrescue_server(server)
    space.until_server(server, 'ACTIVE')
    user.wait(one, 'Running', timeout=20)


def test_soft_lock_and_rename(space: Workspace) -> None:
    user, server, name = space.user, space.server(), space.name('renamed')
    one = space.running(sandbox=server)
    started = host.container(one).attrs['State']['StartedAt']
    user.compute.lock_server(server)
    with pytest.raises(openstack.exceptions.ConflictException, match='locked'):
        user.compute.stop_server(server)
    user.compute.update_server(server, name=name)
    user.compute.unlock_server(server)
    assert user.compute.get_server(server).name == name
    assert host.container(one).attrs['State']['StartedAt'] == started
