"""What flavors ask for and what hosts offer."""

import pytest
from nova import exception

from tests.unit.virt.conftest import CONF, make_instance
from zun_virt import host, resources


def limits(**flavor):
    return resources.limits(make_instance(**flavor).flavor, 4096, None)


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
            {'shares': 77, 'pids': 100},
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
        {'quota:cpu_quota': '-1'},
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


def test_shared_cpus_are_what_sandboxes_get():
    assert resources.shared_cpus() is None
    CONF.set_override('cpu_shared_set', '0-2,5', group='compute')
    try:
        assert resources.shared_cpus() == '0,1,2,5'
        assert resources.vcpus(FACTS) == 4
    finally:
        CONF.clear_override('cpu_shared_set', group='compute')


def test_available():
    found = resources.available(FACTS, 'node1', 3)
    assert found['hypervisor_hostname'] == 'node1'
    assert found['hypervisor_type'] == 'docker'
    assert found['hypervisor_version'] == 20_010_024
    assert found['supported_instances'] == [('aarch64', 'docker', 'exe')]
    assert 'uuid' not in found
    assert isinstance(found['cpu_info'], str)


def test_uptime_reads_as_the_command_writes_it():
    assert ' up 2 days,  1:01,' in resources.uptime(2 * 86_400 + 3_700)
