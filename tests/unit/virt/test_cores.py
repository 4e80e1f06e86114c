"""Cores that sandboxes share, and those that they have for their own."""

import pytest
from nova import exception, objects
from nova.virt import hardware

from tests.unit.virt.conftest import CONF
from zun_virt import cores, host, resources


@pytest.fixture
def options():
    names = []

    def choose(**values):
        for name, value in values.items():
            CONF.set_override(name, value, group='compute')
            names.append(name)

    yield choose
    for name in names:
        CONF.clear_override(name, group='compute')


def node(number=0, cpus=range(8), memory_mb=4096, threads=1):
    cpus = sorted(cpus)
    groups = [frozenset(cpus[at : at + threads]) for at in range(0, len(cpus), threads)]
    return cores.Node(
        id=number, cpus=frozenset(cpus), memory_mb=memory_mb, siblings=tuple(groups), socket=number
    )


def asked(cpus=2, policy='dedicated', shared=0):
    """Return what nova makes of a flavor's wish for cores of its own."""
    cell = objects.InstanceNUMACell(
        id=0,
        cpuset=set(range(shared)),
        pcpuset=set(range(shared, cpus)),
        memory=256,
        cpu_policy=policy,
    )
    return objects.InstanceNUMATopology(cells=[cell])


def fit(machine, wanted):
    """Return what nova's resource tracker makes of a wish, None where it cannot be had."""
    return hardware.numa_fit_instance_to_host(machine, wanted, None)


@pytest.mark.parametrize(
    ('options_', 'shared', 'dedicated', 'use'),
    [
        ({}, None, set(), None),
        ({'cpu_shared_set': '0-2,5'}, {0, 1, 2, 5}, set(), '0,1,2,5'),
        ({'cpu_shared_set': '0', 'cpu_dedicated_set': '2-3'}, {0}, {2, 3}, '0'),
    ],
)
def test_which_cores(options, options_, shared, dedicated, use):
    options(**options_)
    assert cores.shared() == shared
    assert cores.dedicated() == dedicated
    assert cores.of(None) == cores.Use(use)


@pytest.mark.parametrize(
    ('options_', 'reserved', 'cpusets', 'named'),
    [
        ({'cpu_shared_set': '0-2', 'cpu_dedicated_set': '2-3'}, 0, True, 'both have the cores 2'),
        ({'cpu_shared_set': '0-9'}, 0, True, 'cpu_shared_set: this host has no cores 8,9'),
        ({'cpu_dedicated_set': '9'}, 0, True, 'cpu_dedicated_set: this host has no cores 9'),
        ({'cpu_dedicated_set': '3'}, 1, True, 'reserved_host_cpus'),
        ({'cpu_dedicated_set': '3'}, 0, False, 'cgroupfs'),
        ({'cpu_shared_set': '3'}, 0, False, 'cgroupfs'),
    ],
)
def test_what_cannot_hold_is_refused(options, options_, reserved, cpusets, named):
    options(**options_)
    with pytest.raises(exception.InvalidConfiguration, match=named):
        cores.check([node()], reserved, cpusets=cpusets)


def test_what_can_hold_is_not(options):
    cores.check([node()], 1, cpusets=False)
    options(cpu_shared_set='0-2', cpu_dedicated_set='3-7')
    cores.check([node()], 0, cpusets=True)


def test_nova_gives_cores_by_the_topology(options):
    options(cpu_shared_set='0-1', cpu_dedicated_set='4-6')
    machine = objects.NUMATopology.obj_from_db_obj(cores.topology([node()])._to_json())
    first = fit(machine, asked())
    use = cores.of(first)
    assert use.own
    assert use.cpus in ('4,5', '4,6', '5,6')
    machine = hardware.numa_usage_from_instance_numa(machine, first)
    assert fit(machine, asked()) is None
    last = cores.of(fit(machine, asked(cpus=1)))
    assert {int(cpu) for use in (use, last) for cpu in use.cpus.split(',')} == {4, 5, 6}


def test_a_host_without_cores_to_give_away_gives_none():
    machine = cores.topology([node()])
    assert fit(machine, asked()) is None


def test_threads_of_one_core_are_known(options):
    options(cpu_dedicated_set='0-3')
    (cell,) = cores.topology([node(threads=2)]).cells
    assert cell.siblings == [{0, 1}, {2, 3}]
    assert cores.threaded([node(threads=2)])
    assert not cores.threaded([node()])


def test_a_mixed_sandbox_has_both(options):
    options(cpu_shared_set='0-1', cpu_dedicated_set='4-6')
    machine = cores.topology([node()])
    found = fit(machine, asked(cpus=3, policy='mixed', shared=2))
    use = cores.of(found)
    assert not use.own
    assert use.cpus.startswith('0,1,')


def test_where_all_cores_are_dedicated_a_sandbox_must_ask_for_some(options):
    options(cpu_dedicated_set='2-3')
    assert cores.shared() == set()
    with pytest.raises(exception.ComputeResourcesUnavailable, match='cpu_shared_set'):
        cores.of(None)


@pytest.mark.parametrize(
    ('topology', 'own'),
    [
        (None, False),
        (asked(policy=None), False),
        (asked(), True),
        (asked(cpus=3, policy='mixed', shared=2), False),
    ],
)
def test_the_cores_of_another_host_are_not_judged_by_this_ones_options(options, topology, own):
    options(cpu_dedicated_set='2-3')
    assert cores.elsewhere(topology) == cores.Use(None, own=own)


def test_a_wish_that_was_not_granted_is_refused():
    with pytest.raises(exception.ComputeResourcesUnavailable, match='cpu_dedicated_set'):
        cores.of(asked())


def test_a_topology_without_own_cores_changes_nothing(options):
    options(cpu_shared_set='0-1')
    assert cores.of(asked(policy=None)) == cores.Use('0,1')


FACTS = host.Facts(
    cpus=8,
    memory_mb=4096,
    data_root='/',
    architecture='x86_64',
    version=20_010_024,
    cgroup_driver='cgroupfs',
    cgroup_version=1,
    storage_driver='overlay2',
    live_restore=True,
    swap_limit=True,
)


def inventory():
    ratios = {'VCPU': 4.0, 'MEMORY_MB': 1.0, 'DISK_GB': 1.5, 'PCPU': 4.0}
    return resources.inventory(FACTS, ratios, {'VCPU': 1, 'MEMORY_MB': 512, 'DISK_GB': 2})


def test_inventory_of_own_cores_is_not_overcommitted(options):
    assert 'PCPU' not in inventory()
    options(cpu_shared_set='0-1', cpu_dedicated_set='4-6')
    found = inventory()
    assert found['VCPU']['total'] == 2
    assert found['PCPU'] == {
        'total': 3,
        'min_unit': 1,
        'max_unit': 3,
        'step_size': 1,
        'allocation_ratio': 1.0,
        'reserved': 0,
    }


def test_without_shared_cores_there_are_none_to_share(options):
    options(cpu_dedicated_set='4-6')
    assert 'VCPU' not in inventory()


def test_the_machine_is_read_from_the_kernel(tmp_path):
    for path, text in {
        'cpu/online': '0-3\n',
        'node/node0/cpulist': '0-1\n',
        'node/node0/meminfo': 'Node 0 MemTotal:       2097152 kB\nNode 0 MemFree: 1 kB\n',
        'node/node1/cpulist': '2-4\n',
        'node/node1/meminfo': 'Node 1 MemTotal:       1048576 kB\n',
        **{f'cpu/cpu{n}/topology/physical_package_id': f'{n // 2}\n' for n in range(4)},
        **{
            f'cpu/cpu{n}/topology/thread_siblings_list': f'{n // 2 * 2}-{n // 2 * 2 + 1}\n'
            for n in range(4)
        },
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    first, second = cores.nodes(9999, tmp_path)
    assert first == cores.Node(
        id=0,
        cpus=frozenset({0, 1}),
        memory_mb=2048,
        siblings=(frozenset({0, 1}),),
        socket=0,
    )
    assert second.cpus == {2, 3}  # the fifth is offline
    assert second.memory_mb == 1024


def test_a_kernel_without_numa_is_one_node(tmp_path):
    (tmp_path / 'cpu').mkdir()
    (tmp_path / 'cpu' / 'online').write_text('0-1\n')
    (only,) = cores.nodes(512, tmp_path)
    assert (only.id, only.cpus, only.memory_mb) == (0, {0, 1}, 512)
