"""Quota is Nova's, and a tenant's things are nobody else's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from zunclient.common.apiclient import exceptions as errors

from tests.cloud import cloud
from tests.cloud.cloud import NotFound, User, Workspace


@pytest.fixture
def quota(admin: User, demo: User) -> Iterator[None]:
    """Give the tenant's quota back its numbers."""
    before = admin.compute.get_quota_set(demo.project_id)
    yield
    admin.compute.update_quota_set(
        demo.project_id,
        force=True,
        instances=before.instances,
        cores=before.cores,
        ram=before.ram,
    )


@pytest.mark.alone
@pytest.mark.parametrize(
    ('numbers', 'word'),
    [({'instances': 0}, 'instances'), ({'cores': 0}, 'cores'), ({'ram': 64}, 'ram')],
    ids=['instances', 'cores', 'ram'],
)
def test_used_up_quota_is_a_clear_403(
    space: Workspace, quota: None, numbers: dict[str, int], word: str
) -> None:
    space.admin.compute.update_quota_set(space.user.project_id, force=True, **numbers)
    name = space.name('greedy')
    with pytest.raises(errors.Forbidden, match=rf'(?i)quota exceeded for {word}'):
        space.run(name=name, command=['true'])
    assert not _known(space.user, name)


def _known(user: User, name: str) -> list[str]:
    """Return the ids of the user's containers and servers of that name."""
    return [one.uuid for one in user.containers.list() if one.name == name] + [
        server.id for server in user.compute.servers() if server.name == name
    ]


@pytest.mark.alone
def test_used_up_quota_of_ports(space: Workspace, admin: User) -> None:
    used = len(list(admin.network.ports(project_id=space.user.project_id)))
    before = admin.network.get_quota(space.user.project_id).ports
    admin.network.update_quota(space.user.project_id, ports=used)
    name = space.name('greedy')
    try:
        with pytest.raises(errors.Forbidden, match=r'(?i)port'):
            space.run(name=name, command=['true'])
    finally:
        admin.network.update_quota(space.user.project_id, ports=before)
    assert not _known(space.user, name)


@pytest.mark.alone
def test_quota_does_not_count_containers_in_a_sandbox(
    space: Workspace, sandbox: str, quota: None
) -> None:
    space.admin.compute.update_quota_set(space.user.project_id, force=True, instances=1)
    for _ in range(2):
        space.running(sandbox=sandbox)


def test_another_tenants_containers_are_not_there(
    space: Workspace, sandbox: str, other: User
) -> None:
    name = space.name('mine')
    one = space.running(sandbox=sandbox, name=name)
    theirs = other.containers
    refused = {
        'show': lambda: theirs.get(one),
        'show by name': lambda: theirs.get(name),
        'logs': lambda: theirs.logs(one, stdout=True, stderr=True),
        'execute': lambda: theirs.execute(one, command='id', run=True, interactive=False),
        'top': lambda: theirs.top(one),
        'stats': lambda: theirs.stats(one),
        'stop': lambda: theirs.stop(one, timeout=1),
        'kill': lambda: theirs.kill(one),
        'restart': lambda: theirs.restart(one, timeout=1),
        'pause': lambda: theirs.pause(one),
        'update': lambda: theirs.update(one, name='stolen'),
        'delete': lambda: theirs.delete(one, stop=True),
        'actions': lambda: other.zun.actions.list(one),
    }
    for what, attempt in refused.items():
        with pytest.raises(NotFound):
            attempt()
            pytest.fail(f'{what} was allowed')
    assert theirs.list() == []
    for call in (
        lambda: theirs.list(all_projects=True),
        lambda: other.zun.services.list(),
        lambda: other.zun.hosts.list(),
    ):
        with pytest.raises(errors.Forbidden):
            call()
    assert space.user.status(one) == 'Running'


@pytest.mark.parametrize('by', ['id', 'name'])
def test_another_tenants_sandbox_is_not_there(
    space: Workspace, sandbox: str, other: User, admin: User, by: str
) -> None:
    hint = sandbox if by == 'id' else space.user.compute.get_server(sandbox).name
    with cloud.workspace(other, admin) as theirs, pytest.raises(NotFound):
        theirs.run(sandbox=hint)


def test_the_operator_sees_all_projects(space: Workspace, sandbox: str, admin: User) -> None:
    one = space.running(sandbox=sandbox)
    assert one not in [each.uuid for each in admin.containers.list()]
    (seen,) = [each for each in admin.containers.list(all_projects=True) if each.uuid == one]
    assert seen.project_id == space.user.project_id
    assert seen.host
    assert not hasattr(space.user.show(one), 'host')


def test_other_tenants_use_the_same_host(
    space: Workspace, sandbox: str, other: User, admin: User
) -> None:
    """Two tenants with the same addresses and names do not meet."""
    with cloud.workspace(other, admin) as theirs:
        network = theirs.new_network('10.20.0.0/24')
        name = space.name('same')
        mine = space.running(sandbox=sandbox, name=name)
        nets = [{'network': network, 'v4-fixed-ip': '10.20.0.251'}]
        yours = theirs.running(name=name, nets=nets)
        assert other.show(name).uuid == yours
        assert space.user.show(name).uuid == mine
        neighbour = cloud.address(space.user, sandbox)
        assert other.execute(yours, f'ping -c 2 -W 1 {neighbour}')[1] != 0
