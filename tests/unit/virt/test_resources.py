"""What flavors ask for and what hosts offer."""

import os

import pytest
from nova import exception

from tests.unit.virt.conftest import make_instance
from zun_virt import cgroup, cores, host, resources


def limits(**flavor):
    defaults = resources.Defaults(pids=4096, disk='8:0')
    return resources.limits(make_instance(**flavor).flavor, defaults, cores.Use(None))


@pytest.mark.parametrize(
    ('flavor', 'expected'),
    [
        (
            {'vcpus': 1, 'memory_mb': 64},
            {'quota': 100_000, 'period': 100_000, 'shares': 1024, 'memory': 64 << 20, 'pids': 4096},
        ),
        ({'vcpus': 64}, {'quota': 6_400_000, 'shares': 65_536}),
        ({'vcpus': 999}, {'shares': 262_144}),
        (
            {'vcpus': 2, 'extra_specs': {'quota:cpu_quota': '20000'}},
            {'quota': 40_000, 'period': 100_000},
        ),
        (
            {'vcpus': 2, 'extra_specs': {'quota:cpu_period': '50000'}},
            {'quota': 100_000, 'period': 50_000},
        ),
        (
            {'extra_specs': {'quota:cpu_shares': '77', 'zun:pids_limit': '100', 'other': 'x'}},
            {'shares': 77, 'pids': 100, 'io': None},
        ),
        ({'extra_specs': {'quota:cpu_quota': '-1'}}, {'quota': None, 'cores': None}),
        ({'vcpus': 1, 'extra_specs': {'quota:cpu_period': '0'}}, {'quota': 100_000}),
        (
            {
                'extra_specs': {
                    'quota:disk_read_bytes_sec': '1000',
                    'quota:disk_write_iops_sec': '20',
                    'quota:disk_read_iops_sec': '0',
                    'quota:disk_total_bytes_sec': '5',
                    'quota:vif_inbound_average': '5',
                    'quota:made_up': 'x',
                }
            },
            {'io': cgroup.Io(device='8:0', read_bytes=1000, write_requests=20)},
        ),
    ],
)
def test_limits(flavor, expected):
    found = limits(**flavor)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    'specs',
    [
        {'zun:pids_limit': '3'},
        {'zun:pids_limit': 'many'},
        {'quota:cpu_quota': '999'},
        {'quota:disk_read_bytes_sec': '-1'},
        {'quota:cpu_period': '10000000'},
        {'quota:cpu_shares': '1'},
    ],
)
def test_limits_that_cannot_be_are_the_requests_fault(specs):
    with pytest.raises(exception.InvalidInput, match=next(iter(specs))):
        limits(extra_specs=specs)


FACTS = host.Facts(
    cpus=8,
    memory_mb=4096,
    data_root='/',
    architecture='aarch64',
    version=20_010_024,
    cgroup_driver='cgroupfs',
    cgroup_version=2,
    storage_driver='overlay2',
    live_restore=True,
    swap_limit=True,
)


def test_inventory():
    ratios = {'VCPU': 4.0, 'MEMORY_MB': 1.0, 'DISK_GB': 1.5}
    reserved = {'VCPU': 1, 'MEMORY_MB': 512, 'DISK_GB': 2}
    found = resources.inventory(FACTS, ratios, reserved)
    assert found['VCPU'] == {
        'total': 8,
        'min_unit': 1,
        'max_unit': 8,
        'step_size': 1,
        'allocation_ratio': 4.0,
        'reserved': 1,
    }
    assert found['MEMORY_MB']['total'] == 4096
    assert found['DISK_GB']['reserved'] == 2


def test_where_the_kernel_bounds_no_io_nothing_is_bounded():
    specs = {'quota:disk_read_bytes_sec': '1000'}
    flavor = make_instance(extra_specs=specs).flavor
    found = resources.limits(flavor, resources.Defaults(pids=99), cores.Use(None))
    assert found.io is None


def test_own_cores_take_no_quota_but_the_flavors():
    use = cores.Use('2,3', own=True)
    defaults = resources.Defaults(pids=99)
    found = resources.limits(make_instance(vcpus=2).flavor, defaults, use)
    assert (found.quota, found.cpus, found.cores) == (None, '2,3', 2.0)
    flavor = make_instance(vcpus=2, extra_specs={'quota:cpu_quota': '50000'}).flavor
    assert resources.limits(flavor, defaults, use).cores == 1.0


@pytest.mark.parametrize(
    ('block', 'files', 'expected'),
    [
        ('sda', ['dev'], '8:0'),
        ('sda/sda1', ['dev', 'partition'], '8:0'),
        (None, [], None),
    ],
)
def test_the_disk_of_a_path(tmp_path, block, files, expected):
    number = tmp_path.stat().st_dev
    (tmp_path / 'numbers').mkdir()
    if block:
        place = tmp_path / 'block' / block
        place.mkdir(parents=True)
        for name in files:
            (place / name).write_text('8:1\n' if 'partition' in files else '8:0\n')
        (tmp_path / 'block' / 'sda' / 'dev').write_text('8:0\n')
        (tmp_path / 'numbers' / f'{os.major(number)}:{os.minor(number)}').symlink_to(place)
    assert resources.disk_of(str(tmp_path), tmp_path / 'numbers') == expected


def test_available():
    found = resources.available(
        FACTS,
        [cores.Node(id=0, cpus=frozenset({0}), memory_mb=9, siblings=(frozenset({0}),))],
        'node1',
        3,
    )
    assert found['hypervisor_hostname'] == 'node1'
    assert found['hypervisor_type'] == 'docker'
    assert found['hypervisor_version'] == 20_010_024
    assert found['supported_instances'] == [('aarch64', 'docker', 'exe')]
    assert 'uuid' not in found
    assert isinstance(found['cpu_info'], str)


def test_uptime_reads_as_the_command_writes_it():
    assert ' up 2 days,  1:01,' in resources.uptime(2 * 86_400 + 3_700)
