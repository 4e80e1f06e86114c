"""Fixtures of the tests against the cloud that ``tools/allinone up`` starts.

No test leaves anything behind: what is on the host and in the databases is compared
before and after each test, and before and after each module for what its tests share.
Where others use the same cloud at the same time, set ``ZUN_TEST_SHARED``: then only what
bears the id of a server or container of the tests' own counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cloud import cloud, host, hosts, settings
from tests.cloud.storage import Storage
from tests.cloud.waiting import wait_until

WATCHED_LOGS = ('zun-agent', 'nova-compute', 'zun-agent-2', 'nova-compute-2')
CLEAN_AGAIN = 60.0  # seconds for what deletion does, and the search for orphans after a fault


def pytest_configure(config: pytest.Config) -> None:
    """Do not fail for what the clients' libraries are warned of."""
    for module in ('zunclient', 'openstack', 'keystoneauth1', 'docker', 'os_service_types'):
        config.addinivalue_line('filterwarnings', f'ignore:::{module}')
    config.addinivalue_line('markers', 'faults: services are killed in the middle of their work')
    config.addinivalue_line('markers', 'two_hosts: needs `tools/allinone up --hosts 2`')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what one host cannot show."""
    if not hosts.there_are_two():
        for item in items:
            if item.get_closest_marker('two_hosts'):
                item.add_marker(pytest.mark.skip(reason='needs tools/allinone up --hosts 2'))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add to a failure what the services logged meanwhile."""
    report = yield
    if report.failed:
        for service, since in item.stash.get(_LOG_SIZES, {}).items():
            text = host.tail(settings.load().log(service), lines=60, since=since)
            report.sections.append((f'{service}.log', text))
    return report


_LOG_SIZES = pytest.StashKey[dict[str, int]]()


@pytest.fixture(autouse=True)
def log_positions(request: pytest.FixtureRequest) -> None:
    """Remember where the logs end when a test begins."""
    paths = {service: settings.load().log(service) for service in WATCHED_LOGS}
    request.node.stash[_LOG_SIZES] = {
        service: path.stat().st_size for service, path in paths.items() if path.exists()
    }


def _assert_clean(before: dict[str, set[str]]) -> None:
    def remains() -> dict[str, list[str]]:
        found = host.left_behind(before)
        if 'ZUN_TEST_SHARED' not in os.environ:
            return found
        return {
            what: ours
            for what, names in found.items()
            if (ours := [name for name in names if host.ids(name) & cloud.MADE])
        }

    wait_until(
        'nothing left behind',
        lambda: not remains(),
        timeout=CLEAN_AGAIN,
        interval=0.5,
        explain=lambda: f'{remains()}\n{host.describe()}',
    )


@pytest.fixture(autouse=True, scope='session')
def second_host_rests(admin: cloud.User) -> Iterator[None]:
    """Let every sandbox be made on the first host, but by tests of two hosts."""
    _second_host(admin, in_service=False)
    yield
    _second_host(admin, in_service=True)


@pytest.fixture(autouse=True, scope='module')
def second_host_in_service(
    request: pytest.FixtureRequest, admin: cloud.User, second_host_rests: None
) -> Iterator[None]:
    """Put it into service for a module with ``pytestmark = pytest.mark.two_hosts``."""
    wanted = request.node.get_closest_marker('two_hosts') is not None
    if wanted:
        _second_host(admin, in_service=True)
    yield
    if wanted:
        _second_host(admin, in_service=False)


def _second_host(admin: cloud.User, *, in_service: bool) -> None:
    if not hosts.there_are_two():
        return
    for service in admin.compute.services(binary='nova-compute', host=hosts.second().name):
        change = admin.compute.enable_service if in_service else admin.compute.disable_service
        change(service)


@pytest.fixture(autouse=True, scope='module')
def module_leaves_nothing(admin: cloud.User, second_host_in_service: None) -> Iterator[None]:
    """Compare before and after what the tests of a module share."""
    before = host.look()
    yield
    _assert_clean(before)


@pytest.fixture(autouse=True)
def leaves_nothing(module_leaves_nothing: None) -> Iterator[None]:
    """Compare before and after a test."""
    before = host.look()
    yield
    _assert_clean(before)


@pytest.fixture(scope='session')
def admin() -> Iterator[cloud.User]:
    """The operator."""
    user = cloud.User('admin')
    yield user
    user.sdk.close()


@pytest.fixture(scope='session')
def demo(admin: cloud.User) -> Iterator[cloud.User]:
    """The tenant."""
    user = cloud.User('demo')
    yield user
    user.sdk.close()


@pytest.fixture(scope='session')
def other(admin: cloud.User) -> Iterator[cloud.User]:
    """Another tenant, who has no network."""
    user = cloud.User('other')
    yield user
    user.sdk.close()


@pytest.fixture
def space(leaves_nothing: None, demo: cloud.User, admin: cloud.User) -> Iterator[cloud.Workspace]:
    """What one test makes as the tenant."""
    with cloud.workspace(demo, admin) as made:
        yield made


@pytest.fixture
def storage(space: cloud.Workspace) -> Storage:
    """The tenant's volumes."""
    return Storage(space)


@pytest.fixture(scope='module')
def shared(
    module_leaves_nothing: None, demo: cloud.User, admin: cloud.User
) -> Iterator[cloud.Workspace]:
    """What the tests of one module share."""
    with cloud.workspace(demo, admin) as made:
        yield made


@pytest.fixture(scope='module')
def sandbox(shared: cloud.Workspace) -> str:
    """A sandbox that the tests of one module share: its id."""
    return shared.server()
