"""Fixtures of the tests against the cloud that ``tools/allinone up`` starts.

No test leaves anything behind: what is on the host and in the databases is compared
before and after each test, and before and after each module for what its tests share.

Several workers of pytest-xdist may share the cloud. Then a test is blamed only for what bears an
id of its worker's making, and everything is compared before the first and after the last test. A
test that would disturb others, or that others would disturb, is marked ``alone``. Where somebody
else uses the cloud, set ``ZUN_TEST_SHARED``: then nothing else than what bears such an id counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from tests.cloud import cloud, host, hosts, settings
from tests.cloud.storage import Storage
from tests.cloud.waiting import wait_until

WATCHED_LOGS = ('zun-agent', 'nova-compute', 'zun-agent-2', 'nova-compute-2', 'nova-compute-vm')
CLEAN_AGAIN = 60.0  # seconds for what deletion does, and the search for orphans after a fault


def pytest_configure(config: pytest.Config) -> None:
    """Do not fail for what the clients' libraries are warned of."""
    for module in ('zunclient', 'openstack', 'keystoneauth1', 'docker', 'os_service_types'):
        config.addinivalue_line('filterwarnings', f'ignore:::{module}')
    config.addinivalue_line('markers', 'faults: services are killed in the middle of their work')
    config.addinivalue_line('markers', 'two_hosts: needs `tools/allinone up --hosts 2`')
    config.addinivalue_line('markers', 'alone: nothing else may use the cloud; so are those two')


def _one_of_several(config: pytest.Config) -> bool:
    """Whether this process is a worker, and other workers use the cloud, too."""
    return bool(getattr(config, 'workerinput', {}).get('workercount', 1) > 1)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what one host, and what one worker of several cannot show."""
    for item in items:
        if item.get_closest_marker('faults') or item.get_closest_marker('two_hosts'):
            item.add_marker('alone')
        if item.get_closest_marker('two_hosts') and not hosts.there_are_two():
            item.add_marker(pytest.mark.skip(reason='needs tools/allinone up --hosts 2'))
        if item.get_closest_marker('alone') and _one_of_several(config):
            item.add_marker(pytest.mark.skip(reason='needs the cloud for itself: no workers'))


_BEFORE = pytest.StashKey[dict[str, set[str]]]()
_LEFT = pytest.StashKey[str]()


def _has_workers(config: pytest.Config) -> bool:
    """Whether this process runs no tests, but has workers run them."""
    return config.pluginmanager.has_plugin('dsession')


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember what is there before workers share the cloud."""
    if _has_workers(session.config) and 'ZUN_TEST_SHARED' not in os.environ:
        session.config.stash[_BEFORE] = host.look()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for whatever the workers, which have ended, left behind."""
    if _has_workers(session.config) and hosts.there_are_two():
        admin = cloud.User('admin')
        hosts.second_in_service(admin.compute, True)
        admin.sdk.close()
    before = session.config.stash.get(_BEFORE, None)
    if before is None:
        return
    try:
        _assert_clean(before)
    except AssertionError as left:
        session.config.stash[_LEFT] = str(left)
        # not as by a failed test, which may pass when it is run again
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what the workers left behind."""
    if left := config.stash.get(_LEFT, ''):
        terminalreporter.section('left behind by the workers', red=True)
        terminalreporter.line(left)


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
    request.node.stash[_LOG_SIZES] = _log_sizes()


def _log_sizes() -> dict[str, int]:
    paths = {service: settings.load().log(service) for service in WATCHED_LOGS}
    return {service: path.stat().st_size for service, path in paths.items() if path.exists()}


def _assert_clean(before: dict[str, set[str]], *, ours_only: bool = False) -> None:
    def remains() -> dict[str, list[str]]:
        found = host.left_behind(before)
        if not ours_only:
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


@pytest.fixture(scope='session')
def ours_only(pytestconfig: pytest.Config) -> bool:
    """Whether others use the cloud meanwhile."""
    return _one_of_several(pytestconfig) or 'ZUN_TEST_SHARED' in os.environ


@pytest.fixture(autouse=True, scope='session')
def second_host_rests(pytestconfig: pytest.Config, admin: cloud.User) -> Iterator[None]:
    """Let every sandbox be made on the first host, but by tests of two hosts."""
    hosts.second_in_service(admin.compute, False)
    yield
    if not _one_of_several(pytestconfig):  # the others may not have ended
        hosts.second_in_service(admin.compute, True)


@pytest.fixture(autouse=True, scope='module')
def second_host_in_service(
    request: pytest.FixtureRequest, admin: cloud.User, second_host_rests: None
) -> Iterator[None]:
    """Put it into service for a module with ``pytestmark = pytest.mark.two_hosts``."""
    wanted = request.node.get_closest_marker('two_hosts') is not None
    if wanted:
        hosts.second_in_service(admin.compute, True)
    yield
    if wanted:
        hosts.second_in_service(admin.compute, False)


def _assert_no_orphans(sizes: dict[str, int]) -> None:
    """Assert that deletions left nothing to the search for orphans.

    That runs every few seconds here, and would hide what they leave.

    :param sizes: how much of each log is of before
    """
    for service, since in sizes.items():
        text = host.since(settings.load().log(service), since)
        orphans = re.findall('Sandbox (.*) is an orphan', text)
        ours = [one for one in orphans if host.ids(one) & cloud.MADE]
        assert not ours, f'{service} removed what the deletion of {ours} left'


@pytest.fixture(autouse=True, scope='module')
def module_leaves_nothing(
    request: pytest.FixtureRequest,
    admin: cloud.User,
    second_host_in_service: None,
    ours_only: bool,
) -> Iterator[None]:
    """Compare before and after what the tests of a module share."""
    before, sizes = host.look(), _log_sizes()
    yield
    _assert_clean(before, ours_only=ours_only)
    here = [item for item in request.session.items if item.path == request.path]
    if not any(item.get_closest_marker('alone') for item in here):
        _assert_no_orphans(sizes)


@pytest.fixture(autouse=True)
def leaves_nothing(
    request: pytest.FixtureRequest,
    log_positions: None,
    module_leaves_nothing: None,
    ours_only: bool,
) -> Iterator[None]:
    """Compare before and after a test, as `_assert_no_orphans` does."""
    before = host.look()
    yield
    _assert_clean(before, ours_only=ours_only)
    if not request.node.get_closest_marker('alone'):
        _assert_no_orphans(request.node.stash[_LOG_SIZES])


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
