"""Limits as control files and as systemd's properties."""

import dataclasses
import os
import pathlib

import pytest

from tests.unit.virt import fakes
from zun_virt import cgroup, confined, privsep
from zun_virt.cgroup import limits
from zun_virt.privsep import cgroups as privileged
from zun_virt.privsep import interfaces

LIMITS = cgroup.Limits(quota=150_000, period=100_000, shares=1024, memory=64 << 20, pids=99)
PARENT = '/zun/0123456789abcdef0123456789abcdef'
SLICE = 'zun-0123456789abcdef0123456789abcdef.slice'


def with_cpus(cpus):
    return dataclasses.replace(LIMITS, cpus=cpus)


def test_legacy_settings():
    assert [tuple(setting)[1:] for setting in limits.legacy_settings(with_cpus('0,2'))] == [
        ('cpu.cfs_quota_us', '-1', False),
        ('cpu.cfs_period_us', '100000', False),
        ('cpu.cfs_quota_us', '150000', False),
        ('cpu.shares', '1024', False),
        ('memory.limit_in_bytes', '67108864', True),
        ('memory.memsw.limit_in_bytes', '67108864', True),
        ('memory.limit_in_bytes', '67108864', False),
        ('pids.max', '99', False),
        ('cpuset.cpus', '0,2', False),
    ]


def test_unified_settings():
    assert [tuple(setting)[1:] for setting in limits.unified_settings(LIMITS)] == [
        ('cpu.max', '150000 100000', False),
        ('cpu.weight', '39', False),
        ('memory.max', '67108864', False),
        ('memory.swap.max', '0', True),
        ('pids.max', '99', False),
    ]


@pytest.mark.parametrize(
    ('shares', 'weight'), [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (999_999, 10_000)]
)
def test_weight(shares, weight):
    assert limits.weight(shares) == weight


@pytest.mark.parametrize(
    ('cpus', 'mask'),
    [('0', b'\x01'), ('0-2,7', b'\x87'), ('8', b'\x00\x01'), ('1,3', b'\x0a')],
)
def test_cpu_mask(cpus, mask):
    assert limits.cpu_mask(cpus) == mask


@pytest.mark.parametrize(
    ('version', 'properties'),
    [
        (
            1,
            {
                'CPUQuotaPerSecUSec': ('t', 1_500_000),
                'TasksMax': ('t', 99),
                'CPUShares': ('t', 1024),
                'MemoryLimit': ('t', 64 << 20),
            },
        ),
        (
            2,
            {
                'CPUQuotaPerSecUSec': ('t', 1_500_000),
                'TasksMax': ('t', 99),
                'CPUWeight': ('t', 39),
                'MemoryMax': ('t', 64 << 20),
                'MemorySwapMax': ('t', 0),
                'AllowedCPUs': ('ay', b'\x03'),
                'IOReadBandwidthMax': ('a(st)', []),
                'IOWriteBandwidthMax': ('a(st)', []),
                'IOReadIOPSMax': ('a(st)', []),
                'IOWriteIOPSMax': ('a(st)', []),
            },
        ),
    ],
)
def test_slice_properties(version, properties):
    assert dict(limits.slice_properties(with_cpus('0-1'), version)) == properties


@pytest.fixture
def kernel(tmp_path):
    machine = fakes.FakeMachine(tmp_path)
    with machine.installed():
        yield machine.kernel


def test_legacy_tree_is_made_and_removed(kernel):
    cgroups = cgroup.make('cgroupfs', 1, str(kernel.cgroups))
    (kernel.cgroups / 'cpu').symlink_to('cpu,cpuacct')
    cgroups.create(PARENT, LIMITS)
    assert kernel.setting(PARENT, 'cpu.cfs_quota_us') == '150000'
    assert kernel.setting(PARENT, 'pids.max') == '99'
    assert kernel.setting(PARENT, 'cpuset.cpus') is None
    # As the engine does, in every hierarchy.
    (kernel.cgroups / 'blkio' / PARENT.lstrip('/')).mkdir(parents=True)
    cgroups.remove(PARENT)
    cgroups.remove(PARENT)
    assert [p for p in kernel.cgroups.glob('*/zun/*') if p.is_dir()] == []


def test_legacy_cpuset_gets_what_a_new_one_lacks(kernel):
    cgroup.make('cgroupfs', 1, str(kernel.cgroups)).create(PARENT, with_cpus('1,2'))
    assert kernel.setting('/zun', 'cpuset.cpus') == '0-7'
    assert kernel.setting('/zun', 'cpuset.mems') == '0'
    assert kernel.setting(PARENT, 'cpuset.mems') == '0'
    assert kernel.setting(PARENT, 'cpuset.cpus') == '1,2'


def test_cores_are_all_again_where_none_are_named_any_more(kernel, tmp_path):
    legacy = cgroup.make('cgroupfs', 1, str(kernel.cgroups))
    legacy.create(PARENT, with_cpus('1,2'))
    legacy.create(PARENT, LIMITS)
    assert kernel.setting(PARENT, 'cpuset.cpus') == '0-7'
    root = tmp_path / 'unified'
    root.mkdir()
    unified = cgroup.make('cgroupfs', 2, str(root))
    unified.create(PARENT, with_cpus('1,2'))
    cpus = root / PARENT.lstrip('/') / 'cpuset.cpus'
    assert cpus.read_text() == '1,2'
    unified.create(PARENT, LIMITS)
    assert cpus.read_text() == '\n'
    assert dict(limits.slice_properties(LIMITS, 2))['AllowedCPUs'] == ('ay', b'')


def test_legacy_without_a_controller_is_refused(kernel):
    (kernel.cgroups / 'pids').rmdir()
    with pytest.raises(cgroup.CgroupError, match='pids'):
        cgroup.make('cgroupfs', 1, str(kernel.cgroups)).create(PARENT, LIMITS)


def test_unified_tree_hands_controllers_on(kernel, tmp_path, monkeypatch):
    written = []
    root = tmp_path / 'unified'
    root.mkdir()

    def make(directories, settings):
        written.extend(settings)
        kernel.make_cgroup(directories, settings)

    monkeypatch.setattr(privileged, 'make_cgroup', make)
    cgroups = cgroup.make('cgroupfs', 2, str(root))
    cgroups.create(PARENT, LIMITS)
    enabled = [(path, value) for path, value, _ in written if path.endswith('subtree_control')]
    assert [
        (f'{root}{level}/cgroup.subtree_control', f'+{name}')
        for level in ('', '/zun')
        for name in ('cpu', 'memory', 'pids')
    ] == enabled
    own = root / PARENT.lstrip('/')
    assert (own / 'cpu.max').read_text() == '150000 100000'
    (own / 'cpu.stat').write_text('usage_usec 12\nuser_usec 10\n')
    (own / 'memory.current').write_text('4096\n')
    assert cgroups.usage(PARENT) == {'cpu': 12_000, 'memory': 4096}
    cgroups.remove(PARENT)
    assert not own.exists()


def test_systemd_makes_and_stops_a_slice(kernel):
    cgroups = cgroup.make('systemd', 2, str(kernel.cgroups))
    cgroups.create(SLICE, LIMITS)
    method, signature, body = kernel.systemd_calls[0]
    assert (method, signature) == ('StartTransientUnit', 'ssa(sv)a(sa(sv))')
    assert body[:2] == [SLICE, 'fail']
    assert ('MemoryMax', ('t', 64 << 20)) in body[2]
    assert body[3] == []
    cgroups.remove(SLICE)
    assert kernel.systemd_calls[1] == ('StopUnit', 'ss', [SLICE, 'replace'])


def test_systemd_changes_a_slice_that_is_there(kernel):
    kernel.fail('systemd', privsep.PrivilegedError('org.freedesktop.systemd1.UnitExists: x'))
    cgroup.make('systemd', 2, str(kernel.cgroups)).create(SLICE, LIMITS)
    method, signature, body = kernel.systemd_calls[0]
    assert (method, signature, body[:2]) == ('SetUnitProperties', 'sba(sv)', [SLICE, True])
    assert ('TasksMax', ('t', 99)) in body[2]
    assert kernel.systemd_calls[1] == ('StartUnit', 'ss', [SLICE, 'replace'])


def test_a_slice_that_systemd_does_not_get_stopped_is_an_error(kernel, monkeypatch):
    monkeypatch.setattr(cgroup.slices, '_DONE_SECONDS', 0.05)
    (kernel.cgroups / 'zun.slice' / SLICE).mkdir(parents=True)
    with pytest.raises(cgroup.CgroupError, match='in use'):
        cgroup.make('systemd', 2, str(kernel.cgroups)).remove(SLICE)


def test_systemd_refusing_is_an_error_and_a_lost_slice_is_none(kernel):
    cgroups = cgroup.make('systemd', 2, str(kernel.cgroups))
    kernel.fail('systemd', privsep.PrivilegedError('org.freedesktop.systemd1.NoSuchUnit: x'))
    cgroups.remove(SLICE)
    kernel.fail('systemd', privsep.PrivilegedError('org.freedesktop.DBus.Error.AccessDenied: x'))
    with pytest.raises(cgroup.CgroupError, match='AccessDenied'):
        cgroups.create(SLICE, LIMITS)


def test_the_calls_can_be_marshalled(kernel):
    jeepney = pytest.importorskip('jeepney')
    cgroup.make('systemd', 2, str(kernel.cgroups)).create(SLICE, with_cpus('0-1'))
    manager = jeepney.DBusAddress('/o', bus_name='a.b', interface='a.b.c')
    for method, signature, body in kernel.systemd_calls:
        assert jeepney.new_method_call(manager, method, signature, tuple(body)).serialise(1)


def test_an_unknown_driver_is_refused():
    with pytest.raises(ValueError, match='none'):
        cgroup.make('none', 2, '/')


def test_removal_that_does_not_end_is_an_error(kernel, monkeypatch):
    cgroups = cgroup.make('cgroupfs', 1, str(kernel.cgroups))
    cgroups.create(PARENT, LIMITS)
    monkeypatch.setattr(privileged, 'remove_cgroup', lambda directories, seconds: directories[:1])
    with pytest.raises(cgroup.CgroupError, match='in use'):
        cgroups.remove(PARENT)


@pytest.fixture
def in_process():
    for context in (privsep.network, privsep.mounts):
        context.set_client_mode(False)
    yield
    for context in (privsep.network, privsep.mounts):
        context.set_client_mode(True)


@pytest.fixture
def tree(tmp_path, monkeypatch, in_process):
    monkeypatch.setattr(confined, 'cgroup_mounts', lambda: [str(tmp_path)])
    return tmp_path


def test_the_privileged_part_writes_and_removes_a_tree(tree):
    own = f'{tree}{PARENT}'
    privileged.make_cgroup([f'{tree}/zun', own], [])
    limit = pathlib.Path(own, 'pids.max')
    limit.write_text('')
    settings = [(str(limit), '1', False), (f'{own}/cpu.shares', '2', True)]
    privileged.make_cgroup([f'{tree}/zun', own], settings)
    assert limit.read_text() == '1'
    with pytest.raises(OSError, match=r'cpu\.shares'):
        privileged.make_cgroup([own], [(f'{own}/cpu.shares', '2', False)])
    limit.unlink()
    pathlib.Path(own, 'child', 'grandchild').mkdir(parents=True)
    assert privileged.remove_cgroup([own, f'{tree}/never{PARENT}'], 0.0) == []
    assert not pathlib.Path(own).exists()


OTHER = '/zun/' + 'f' * 32


@pytest.mark.parametrize(
    'path',
    [
        '/outside/pids.max',
        '/release_agent',
        '/pids.max',
        '/system.slice/pids.max',
        f'{PARENT}/cgroup.procs',
        f'{PARENT}/../../system.slice/pids.max',
        f'{PARENT}/child/pids.max',
        f'{OTHER}/pids.max',
        f'{PARENT}/cpu.max',
    ],
)
def test_root_writes_nothing_but_limits_of_sandboxes(tree, path):
    for directory in (PARENT, '/system.slice', f'{PARENT}/child', '/outside'):
        (tree / directory[1:]).mkdir(parents=True, exist_ok=True)
        (tree / directory[1:] / 'pids.max').write_text('')
    (tree / 'release_agent').write_text('')
    (tree / 'pids.max').write_text('')
    (tree / PARENT[1:] / 'cgroup.procs').write_text('')
    # Names that are as they must be, for what lies elsewhere.
    (tree / OTHER[1:]).symlink_to(tree / 'system.slice')
    (tree / PARENT[1:] / 'cpu.max').symlink_to(tree / 'release_agent')
    with pytest.raises((privsep.PrivilegedError, OSError)):
        privileged.make_cgroup([], [(f'{tree}{path}', 'x', False)])
    assert [file for file in tree.rglob('*') if file.is_file() and file.read_text()] == []


@pytest.mark.parametrize('path', ['/etc/passwd', '/proc/sys/kernel/core_pattern'])
def test_root_writes_no_other_file(in_process, path):
    with pytest.raises(privsep.PrivilegedError, match='refused'):
        privileged.make_cgroup([], [(path, 'x', True)])


@pytest.mark.parametrize('path', ['/system.slice', '/zun', '/zun/x', f'{PARENT}/child'])
def test_root_makes_and_removes_no_other_directory(tree, path):
    (tree / PARENT[1:]).mkdir(parents=True)
    if path != '/zun':
        with pytest.raises(privsep.PrivilegedError, match='refused'):
            privileged.make_cgroup([f'{tree}{path}'], [])
        assert not (tree / path[1:]).exists()
        (tree / path[1:]).mkdir()
    with pytest.raises(privsep.PrivilegedError, match='refused'):
        privileged.remove_cgroup([f'{tree}{path}'], 0.0)
    assert (tree / path[1:]).is_dir()


@pytest.mark.parametrize(
    ('method', 'signature', 'body'),
    [
        ('StartUnit', 'ss', ['x.service', 'replace']),
        ('StopUnit', 'ss', ['sshd.service', 'replace']),
        ('StartUnit', 'ss', ['system.slice', 'replace']),
        ('StopUnit', 'ssb', [SLICE, 'replace', True]),
        ('SetUnitProperties', 'sba(sv)', ['user.slice', True, []]),
        (
            'StartTransientUnit',
            'ssa(sv)a(sa(sv))',
            [SLICE, 'fail', [('ExecStart', ('a(sasb)', []))], []],
        ),
        (
            'StartTransientUnit',
            'ssa(sv)a(sa(sv))',
            [SLICE, 'fail', [], [('x.service', [('ExecStart', ('a(sasb)', []))])]],
        ),
    ],
)
def test_systemd_is_asked_for_slices_of_sandboxes_only(in_process, method, signature, body):
    with pytest.raises(privsep.PrivilegedError, match='refused'):
        privileged.systemd(method, signature, body, 1.0)


def test_what_the_driver_asks_of_systemd_is_not_refused(kernel):
    cgroups = cgroup.make('systemd', 2, str(kernel.cgroups))
    cgroups.create(SLICE, with_cpus('0-1'))
    kernel.fail('systemd', privsep.PrivilegedError('org.freedesktop.systemd1.UnitExists: x'))
    cgroups.create(SLICE, LIMITS)
    cgroup.make('systemd', 1, str(kernel.cgroups)).create(SLICE, LIMITS)
    cgroups.remove(SLICE)
    assert len(kernel.systemd_calls) == 5
    for method, signature, body in kernel.systemd_calls:
        confined.check_systemd(method, signature, body)


@pytest.mark.parametrize('version', [1, 2])
def test_what_the_driver_asks_of_root_is_not_refused(kernel, tree, version):
    (tree / 'unified').mkdir()
    root = kernel.cgroups if version == 1 else tree / 'unified'
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(privileged, 'make_cgroup', lambda *request: asked.append(request))
        cgroup.make('cgroupfs', version, str(root)).create(PARENT, with_cpus('1'))
    for directory in asked[0][0]:
        pathlib.Path(directory).mkdir(exist_ok=True)
    for path, _, _ in asked[0][1]:
        pathlib.Path(path).write_text('')
    trees = [str(place) for place in root.iterdir()] if version == 1 else [str(root)]
    for path, _, _ in asked[0][1]:
        with confined.control_file(path, trees):
            pass
    for directory in asked[0][0]:
        confined.make_directory(directory, trees)


def test_the_network_of_the_host_is_left_alone(in_process):
    with pytest.raises(privsep.PrivilegedError, match='the host'):
        interfaces.counters(os.getpid())
