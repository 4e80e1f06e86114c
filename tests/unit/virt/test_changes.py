"""Limits of a sandbox that change while its containers run."""

import dataclasses
import errno

import pytest

from tests.unit.virt import fakes
from zun_virt import cgroup, confined
from zun_virt.cgroup import limits as settings
from zun_virt.cgroup import usage
from zun_virt.privsep import PrivilegedError
from zun_virt.privsep import cgroups as privileged

MIB = 1 << 20
PARENT = '/zun/0123456789abcdef0123456789abcdef'
SLICE = 'zun-0123456789abcdef0123456789abcdef.slice'
CONTAINER = 'c' * 64
LIMITS = cgroup.Limits(quota=200_000, period=100_000, shares=2048, memory=128 * MIB, pids=99)


def limits(**changes):
    return dataclasses.replace(LIMITS, **changes)


@pytest.fixture
def kernel(tmp_path):
    machine = fakes.FakeMachine(tmp_path)
    with machine.installed():
        yield machine.kernel


@pytest.fixture
def legacy(kernel):
    cgroups = cgroup.make('cgroupfs', 1, str(kernel.cgroups))
    cgroups.create(PARENT, LIMITS)
    return cgroups


def uses(kernel, memory, cache=0, pids=2):
    own = kernel.cgroups / 'memory' / PARENT[1:]
    (own / 'memory.usage_in_bytes').write_text(str(memory))
    (own / 'memory.stat').write_text(f'cache 1\ntotal_cache {cache}\ntotal_shmem 0\n')
    (kernel.cgroups / 'pids' / PARENT[1:] / 'pids.current').write_text(str(pids))


def add_container(kernel, memory=2**63 - 4096, quota=-1, cpus=''):
    for controller, files in {
        'memory': {'memory.limit_in_bytes': memory},
        'cpu,cpuacct': {'cpu.cfs_quota_us': quota, 'cpu.cfs_period_us': 100_000},
        'cpuset': {'cpuset.cpus': cpus},
    }.items():
        directory = kernel.cgroups / controller / PARENT[1:] / CONTAINER
        directory.mkdir(parents=True)
        for name, value in files.items():
            (directory / name).write_text(str(value))


def state(kernel):
    """Return all that is set for the sandbox."""
    names = ('cpu.cfs_quota_us', 'memory.limit_in_bytes', 'pids.max', 'cpu.shares')
    return {name: kernel.setting(PARENT, name) for name in names}


def test_all_limits_change(kernel, legacy):
    uses(kernel, 20 * MIB)
    add_container(kernel, memory=30 * MIB, quota=50_000)
    legacy.update(PARENT, limits(quota=100_000, memory=64 * MIB, pids=50, shares=1024), LIMITS)
    assert state(kernel) == {
        'cpu.cfs_quota_us': '100000',
        'memory.limit_in_bytes': str(64 * MIB),
        'pids.max': '50',
        'cpu.shares': '1024',
    }


@pytest.mark.parametrize(
    ('use', 'container', 'changes', 'text'),
    [
        (
            {'memory': 100 * MIB},
            {},
            {'memory': 64 * MIB},
            '64 MiB of memory would be less than the 100 MiB of memory in use',
        ),
        (
            {'memory': 1, 'pids': 60},
            {},
            {'pids': 50},
            '50 processes would be less than the 60 processes in use',
        ),
        (
            {'memory': 1},
            {'memory': 100 * MIB},
            {'memory': 64 * MIB},
            f'less than the 100 MiB of memory of container {CONTAINER}',
        ),
        (
            {'memory': 1},
            {'quota': 150_000},
            {'quota': 100_000},
            f'1 cores would be less than the 1.5 cores of container {CONTAINER}',
        ),
        (
            {'memory': 1},
            {'quota': 150_000},
            {'quota': None, 'cpus': '3'},
            '1 cores would be less than the 1.5',
        ),
    ],
)
def test_what_is_in_the_way_is_named(kernel, legacy, use, container, changes, text):
    uses(kernel, **use)
    add_container(kernel, **container)
    before = state(kernel)
    with pytest.raises(cgroup.LimitsInUse, match=text):
        legacy.update(PARENT, limits(**changes), LIMITS)
    assert state(kernel) == before


def test_what_the_kernel_can_take_back_is_not_in_use(kernel, legacy, monkeypatch):
    uses(kernel, 100 * MIB, cache=90 * MIB)
    own = kernel.cgroups / 'memory' / PARENT[1:]
    write = kernel._write_limit

    def reclaims(path, value):
        (own / 'memory.usage_in_bytes').write_text(str(10 * MIB))
        write(path, value)

    monkeypatch.setattr(kernel, '_write_limit', reclaims)
    legacy.update(PARENT, limits(memory=64 * MIB), LIMITS)
    assert kernel.setting(PARENT, 'memory.limit_in_bytes') == str(64 * MIB)


def test_memory_that_cannot_be_taken_back_after_all_is_rolled_back(kernel, legacy):
    # The cache is being written to, say, and the kernel gives up.
    uses(kernel, 100 * MIB, cache=90 * MIB)
    before = state(kernel)
    with pytest.raises(cgroup.LimitsInUse, match='100 MiB of memory in use'):
        legacy.update(PARENT, limits(quota=100_000, memory=64 * MIB, pids=50), LIMITS)
    assert state(kernel) == before


def test_swap_that_stays_allowed_is_rolled_back(kernel, legacy, monkeypatch):
    uses(kernel, MIB)
    write = kernel._write_limit

    def keeps_swap(path, value):
        if path.name == 'memory.memsw.limit_in_bytes':
            raise OSError(errno.EBUSY, 'busy')
        write(path, value)

    monkeypatch.setattr(kernel, '_write_limit', keeps_swap)
    before = state(kernel)
    with pytest.raises(cgroup.LimitsInUse):
        legacy.update(PARENT, limits(memory=64 * MIB), LIMITS)
    assert state(kernel) == before


def test_another_refusal_is_an_error_and_rolled_back(kernel, legacy, monkeypatch):
    uses(kernel, MIB)
    before = state(kernel)
    write = kernel._write_limit

    def refuses(path, value):
        if path.name == 'pids.max' and value == '50':
            raise OSError(errno.EINVAL, 'invalid')
        write(path, value)

    monkeypatch.setattr(kernel, '_write_limit', refuses)
    with pytest.raises(cgroup.CgroupError, match='invalid') as caught:
        legacy.update(PARENT, limits(pids=50, quota=100_000), LIMITS)
    assert not isinstance(caught.value, cgroup.LimitsInUse)
    assert state(kernel) == before


def test_cores_go_to_the_containers_before_the_sandbox_loses_them(kernel, legacy):
    uses(kernel, MIB)
    legacy.update(PARENT, limits(cpus='0-1'), LIMITS)
    add_container(kernel, cpus='0-1')
    written = []
    write = kernel._write_limit

    def record(path, value):
        if path.name == 'cpuset.cpus' and PARENT[1:] in str(path):
            written.append((path.parent.name, value))
        write(path, value)

    kernel._write_limit = record
    legacy.update(PARENT, limits(cpus='1,3'), limits(cpus='0-1'))
    assert written == [
        (PARENT.rpartition('/')[2], '0,1,3'),
        (CONTAINER, '1,3'),
        (PARENT.rpartition('/')[2], '1,3'),
    ]


def test_unified_changes_or_refuses(tmp_path, kernel):
    root = tmp_path / 'unified'
    root.mkdir()
    cgroups = cgroup.make('cgroupfs', 2, str(root))
    cgroups.create(PARENT, LIMITS)
    own = root / PARENT[1:]
    (own / 'memory.current').write_text(str(100 * MIB))
    (own / 'memory.stat').write_text(f'anon 1\nfile {90 * MIB}\nshmem {MIB}\n')
    (own / 'pids.current').write_text('3')
    child = own / f'docker-{CONTAINER}.scope'
    child.mkdir()
    (child / 'cpu.max').write_text('150000 100000\n')
    (child / 'memory.max').write_text('max\n')

    cgroups.update(PARENT, limits(memory=64 * MIB, quota=150_000), LIMITS)
    assert (own / 'memory.max').read_text() == str(64 * MIB)
    with pytest.raises(cgroup.LimitsInUse, match='11 MiB of memory in use'):
        cgroups.update(PARENT, limits(memory=8 * MIB), LIMITS)
    with pytest.raises(cgroup.LimitsInUse, match=r'1\.5 cores'):
        cgroups.update(PARENT, limits(quota=100_000), LIMITS)
    assert (own / 'cpu.max').read_text() == '150000 100000'


def test_systemd_changes_or_refuses(tmp_path, kernel):
    own = tmp_path / 'zun.slice' / SLICE
    own.mkdir(parents=True)
    (own / 'memory.current').write_text(str(100 * MIB))
    cgroups = cgroup.make('systemd', 2, str(tmp_path))
    with pytest.raises(cgroup.LimitsInUse):
        cgroups.update(SLICE, limits(memory=64 * MIB), LIMITS)
    assert kernel.systemd_calls == []
    cgroups.update(SLICE, limits(pids=50), LIMITS)
    assert [call[0] for call in kernel.systemd_calls] == ['SetUnitProperties']
    kernel.fail('systemd', PrivilegedError('org.freedesktop.DBus.Error.AccessDenied: x'))
    with pytest.raises(cgroup.CgroupError, match='AccessDenied'):
        cgroups.update(SLICE, limits(pids=40), LIMITS)
    _, _, body = kernel.systemd_calls[-1]
    assert ('TasksMax', ('t', 99)) in body[2]


def test_what_systemd_does_not_tell_is_seen(tmp_path, kernel):
    own = tmp_path / 'memory' / 'zun.slice' / SLICE
    own.mkdir(parents=True)
    (own / 'memory.limit_in_bytes').write_text(str(128 * MIB))
    (own / 'memory.usage_in_bytes').write_text(str(100 * MIB))
    (own / 'memory.stat').write_text(f'total_cache {90 * MIB}\ntotal_shmem 0\n')
    with pytest.raises(cgroup.LimitsInUse, match='100 MiB of memory in use'):
        cgroup.make('systemd', 1, str(tmp_path)).update(SLICE, limits(memory=64 * MIB), LIMITS)
    assert [call[2][2] for call in kernel.systemd_calls][-1] == settings.slice_properties(LIMITS, 1)


IO = cgroup.Io(device='8:0', read_bytes=1000, write_requests=20)


def test_bounds_on_io():
    unified = settings.unified_settings(limits(io=IO))
    assert unified[-1].file == 'io.max'
    assert unified[-1].value == '8:0 rbps=1000 wbps=max riops=max wiops=20'
    assert not [s for s in settings.legacy_settings(limits(io=IO)) if s.controller == 'blkio']
    properties = settings.slice_properties(limits(io=IO), 2)
    assert [pair for pair in properties if pair[0].startswith('IORead')] == [
        ('IOReadBandwidthMax', ('a(st)', [])),
        ('IOReadBandwidthMax', ('a(st)', [('/dev/block/8:0', 1000)])),
        ('IOReadIOPSMax', ('a(st)', [])),
    ]
    confined.check_systemd('SetUnitProperties', 'sba(sv)', [SLICE, True, properties])


def test_bounds_on_io_are_lifted_with_the_flavor_that_had_them(tmp_path, kernel):
    own = tmp_path / PARENT[1:]
    own.mkdir(parents=True)
    (own / 'io.max').write_text(
        '8:0 rbps=1000 wbps=max riops=max wiops=20\n8:16 rbps=9 wbps=max riops=max wiops=max\n'
    )
    written = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(privileged, 'make_cgroup', lambda _, changes: written.append(changes))
        cgroups = cgroup.make('cgroupfs', 2, str(tmp_path))
        cgroups.create(PARENT, LIMITS)
        # A revert knows only what is to be.
        cgroups.update(PARENT, LIMITS, LIMITS)
        cgroups.update(PARENT, limits(io=IO), LIMITS)
    none = 'rbps=max wbps=max riops=max wiops=max'
    bounds = [[value for path, value, _ in changes if 'io.max' in path] for changes in written]
    assert bounds == [
        [f'8:0 {none}', f'8:16 {none}'],
        [f'8:0 {none}', f'8:16 {none}'],
        [f'8:16 {none}', '8:0 rbps=1000 wbps=max riops=max wiops=20'],
    ]
    cgroup.make('systemd', 2, str(tmp_path)).update(SLICE, LIMITS, LIMITS)
    properties = kernel.systemd_calls[-1][2][2]
    assert [value for name, (_, value) in properties if name.startswith('IO')] == [[]] * 4


def test_own_cores_take_no_quota():
    own = limits(quota=None, cpus='2,3')
    assert own.cores == 2
    assert settings.legacy_settings(own)[2].value == '-1'
    assert settings.unified_settings(own)[0].value == 'max 100000'
    assert settings.slice_properties(own, 2)[0] == ('CPUQuotaPerSecUSec', ('t', 2**64 - 1))


@pytest.mark.parametrize(
    ('files', 'expected'),
    [
        ({}, {}),
        (
            {
                'memory.current': '5',
                'memory.events': 'low 0\noom 3\noom_kill 2\n',
                'io.stat': '8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=9 dios=9\n'
                '8:16 rbytes=1 wbytes=1 rios=1 wios=1 dbytes=0 dios=0\n',
            },
            {
                'memory': 5,
                'oom_kills': 2,
                'read_bytes': 11,
                'write_bytes': 21,
                'read_requests': 2,
                'write_requests': 3,
            },
        ),
    ],
)
def test_unified_usage(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert usage.unified(tmp_path) == expected


def test_legacy_usage_of_disks(tmp_path):
    (tmp_path / 'blkio.throttle.io_service_bytes_recursive').write_text(
        '254:0 Read 10\n254:0 Write 20\n254:0 Sync 30\n254:0 Total 30\n7:0 Read 1\nTotal 31\n'
    )
    (tmp_path / 'blkio.throttle.io_serviced_recursive').write_text('254:0 Write 3\nTotal 3\n')
    assert usage.legacy({'blkio': tmp_path}) == {
        'read_bytes': 11,
        'write_bytes': 20,
        'read_requests': 0,
        'write_requests': 3,
    }


def test_root_gives_a_container_cores_and_nothing_else(tmp_path, monkeypatch):
    own = tmp_path / PARENT[1:] / CONTAINER
    own.mkdir(parents=True)
    for name in ('cpuset.cpus', 'memory.limit_in_bytes'):
        (own / name).write_text('')
    mounts = [str(tmp_path)]
    with confined.control_file(f'{own}/cpuset.cpus', mounts):
        pass
    with (
        pytest.raises(confined.Refused),
        confined.control_file(f'{own}/memory.limit_in_bytes', mounts),
    ):
        pass
