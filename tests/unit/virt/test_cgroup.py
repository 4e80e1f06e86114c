"""Limits as control files and as systemd's properties."""

import dataclasses

import pytest

from tests.unit.virt import fakes
from zun_virt import cgroup, privsep

LIMITS = cgroup.Limits(quota=150_000, period=100_000, shares=1024, memory=64 << 20, pids=99)
PARENT = '/zun/0123456789abcdef0123456789abcdef'
SLICE = 'zun-0123456789abcdef0123456789abcdef.slice'


def with_cpus(cpus):
    return dataclasses.replace(LIMITS, cpus=cpus)


def test_legacy_settings():
    assert [tuple(setting)[1:] for setting in cgroup.legacy_settings(with_cpus('0,2'))] == [
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
    assert [tuple(setting)[1:] for setting in cgroup.unified_settings(LIMITS)] == [
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
    assert cgroup.weight(shares) == weight


@pytest.mark.parametrize(
    ('cpus', 'mask'),
    [('0', b'\x01'), ('0-2,7', b'\x87'), ('8', b'\x00\x01'), ('1,3', b'\x0a')],
)
def test_cpu_mask(cpus, mask):
    assert cgroup.cpu_mask(cpus) == mask


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
            },
        ),
    ],
)
def test_slice_properties(version, properties):
    assert dict(cgroup.slice_properties(with_cpus('0-1'), version)) == properties


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

    monkeypatch.setattr(privsep, 'make_cgroup', make)
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
    monkeypatch.setattr(privsep, 'remove_cgroup', lambda directories, seconds: directories[:1])
    with pytest.raises(cgroup.CgroupError, match='in use'):
        cgroups.remove(PARENT)


def test_the_privileged_part_writes_and_removes_a_tree(tmp_path):
    privsep.network.set_client_mode(False)
    try:
        (tmp_path / 'own').mkdir()
        (tmp_path / 'own' / 'there').write_text('')
        own = str(tmp_path / 'own')
        settings = [(f'{own}/there', '1', False), (f'{own}/missing', '2', True)]
        privsep.make_cgroup([own], settings)
        assert (tmp_path / 'own' / 'there').read_text() == '1'
        with pytest.raises(OSError, match='missing'):
            privsep.make_cgroup([own], [(f'{own}/missing', '2', False)])
        (tmp_path / 'own' / 'there').unlink()
        (tmp_path / 'own' / 'child' / 'grandchild').mkdir(parents=True)
        assert privsep.remove_cgroup([own, f'{tmp_path}/never'], 0.0) == []
        assert not (tmp_path / 'own').exists()
    finally:
        privsep.network.set_client_mode(True)
