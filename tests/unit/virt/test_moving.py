"""Moves of sandboxes that nova's own services do not make easily: cut short, or refused."""

import dataclasses
import types

import pytest
from nova import exception, objects
from nova.virt import hardware

from tests.unit.virt import fake_docker
from tests.unit.virt.conftest import make_image, make_instance, make_vif, record
from zun_virt import cgroup, containers, moving, resizing, sandbox, servers
from zun_virt.sandbox import State

HERE = types.SimpleNamespace(source_compute='host1', dest_compute='host1')
AWAY = types.SimpleNamespace(source_compute='host1', dest_compute='host2')


@pytest.fixture
def instance(zun):
    made = make_instance(vm_state='active')
    zun.spawn(None, made, make_image(), None, None, None, network_info=[make_vif()])
    return made


def limits(memory_mb, cpus=1.0):
    return cgroup.Limits(
        quota=int(cpus * 100_000), period=100_000, shares=1024, memory=memory_mb << 20, pids=100
    )


def user(memory_mb=0, cpus=0.0):
    own = containers.OwnLimits(cpus=cpus, memory=memory_mb << 20)
    return containers.Container(
        id='1',
        name='web',
        state='running',
        labels={sandbox.LABEL_CONTAINER: 'c1'},
        own_limits=own,
    )


@pytest.mark.parametrize(
    ('ours', 'theirs', 'told'),
    [
        (limits(128), [], None),
        (limits(128), [user(), user(memory_mb=128, cpus=1.0)], None),
        (limits(128), [user(memory_mb=129)], 'c1 has 129 MiB .* would have 128'),
        (limits(128, 0.5), [user(), user(cpus=0.6)], 'c1 has 0.6 cores .* would have 0.5'),
    ],
)
def test_a_containers_own_limit_stays_within_the_sandboxs(ours, theirs, told):
    if told is None:
        resizing.check_own_limits(ours, theirs)
    else:
        with pytest.raises(resizing.TooSmall, match=told):
            resizing.check_own_limits(ours, theirs)


@pytest.mark.parametrize(
    ('new', 'own', 'refused'), [(5, 7, True), (5, 5, False), (None, 7, False), (5, 0, False)]
)
def test_a_containers_own_disk_stays_within_the_sandboxs(new, own, refused):
    web = dataclasses.replace(user(), own_limits=containers.OwnLimits(disk=own))
    if refused:
        with pytest.raises(resizing.TooSmall, match=r'disk of 7 GiB .* would have 5'):
            resizing.check_own_limits(limits(128), [web], new)
    else:
        resizing.check_own_limits(limits(128), [web], new)


@pytest.mark.parametrize('migration', [HERE, AWAY])
@pytest.mark.parametrize(
    ('had', 'asked', 'enforced', 'refused'),
    [
        (10, '7', True, True),
        (10, '7', False, False),
        # As much as its sandbox has, which was made for it.
        (7, '7', True, True),
        # What its sandbox had when it was made, which was resized since or was not.
        (10, '', True, False),
        (7, '', True, False),
        (5, '', True, False),
    ],
)
def test_a_smaller_disk_where_it_is_enforced(
    zun, machine, instance, monkeypatch, migration, had, asked, enforced, refused
):
    mine = machine.add_container(instance.uuid)
    web = machine.docker.named(sandbox.container_name(mine))
    web['HostConfig']['StorageOpt'] = {'size': '7G'}
    web['Config']['Labels'][sandbox.LABEL_DISK] = asked
    before = record(machine, instance)
    former = dataclasses.replace(before.limits, disk_gb=had, disk_enforced=enforced)
    machine.store.write(before.replace(limits=former))
    monkeypatch.setattr(servers, 'migration_of', lambda _instance: migration)
    smaller = objects.Flavor(vcpus=2, memory_mb=256, root_gb=5, extra_specs={})
    if refused:
        with pytest.raises(exception.InstanceFaultRollback) as raised:
            zun.migrate_disk_and_power_off(None, instance, '1.2.3.4', smaller, [])
        assert 'disk of 7 GiB' in str(raised.value.inner_exception)
        assert record(machine, instance).state is State.READY
    else:
        zun.migrate_disk_and_power_off(None, instance, '1.2.3.4', smaller, [])


@pytest.mark.parametrize(
    ('config', 'cpus', 'memory'),
    [
        ({}, 0, 0),
        ({'NanoCpus': 1_500_000_000, 'Memory': 7}, 1.5, 7),
        ({'CpuQuota': 50_000, 'CpuPeriod': 0}, 0.5, 0),
        ({'CpuQuota': 50_000, 'CpuPeriod': 25_000}, 2, 0),
        ({'CpuQuota': -1, 'CpuPeriod': 100_000, 'Memory': None}, 0, 0),
    ],
)
def test_own_limits_as_docker_shows_them(config, cpus, memory):
    assert containers.own_limits(config, {}) == containers.OwnLimits(cpus=cpus, memory=memory)


@pytest.mark.parametrize(
    ('labels', 'disk'),
    [
        ({}, 0),
        ({sandbox.LABEL_DISK: ''}, 0),
        ({sandbox.LABEL_DISK: '7'}, 7),
        ({sandbox.LABEL_DISK: 'what an image says'}, 0),
        ({sandbox.LABEL_DISK: '7' * 5000}, 0),
    ],
)
def test_own_disk_as_its_label_tells_it(labels, disk):
    config = {'StorageOpt': {'size': '9G'}}
    assert containers.own_limits(config, labels) == containers.OwnLimits(disk=disk)


@pytest.mark.parametrize('text', ['', None, 'x', '[]', '{"running": 3}', '{}'])
def test_what_another_host_says_may_be_missing(text):
    assert moving.ran(text) == ()


def test_a_flavor_that_no_sandbox_can_have_is_rolled_back(zun, machine, instance):
    before = record(machine, instance)
    bad = objects.Flavor(vcpus=1, memory_mb=64, root_gb=1, extra_specs={'zun:pids_limit': 'x'})
    with pytest.raises(exception.InstanceFaultRollback) as raised:
        zun.migrate_disk_and_power_off(None, instance, '1.2.3.4', bad, [])
    assert 'zun:pids_limit' in str(raised.value.inner_exception)
    assert record(machine, instance) == before


def test_the_cores_of_this_host_are_not_in_the_way_of_a_move(zun, machine, instance, monkeypatch):
    monkeypatch.setattr(servers, 'migration_of', lambda _instance: AWAY)
    monkeypatch.setattr(hardware, 'get_cpu_shared_set', lambda: None)
    monkeypatch.setattr(hardware, 'get_cpu_dedicated_set', lambda: {0, 1})
    zun.migrate_disk_and_power_off(None, instance, '1.2.3.4', instance.flavor, [])
    assert record(machine, instance).state is State.STOPPED


def break_stop(machine):
    machine.docker.fail('stop', fake_docker.api_error(500, 'it hangs'))


def break_unplugging(machine):
    machine.switch.fail(ValueError('it hangs'))


@pytest.mark.parametrize('broken', [break_stop, break_unplugging])
def test_what_cannot_be_stopped_for_a_move_runs_on(zun, machine, instance, monkeypatch, broken):
    mine = machine.add_container(instance.uuid)
    monkeypatch.setattr(servers, 'migration_of', lambda _instance: AWAY)
    broken(machine)
    with pytest.raises(exception.InstanceFaultRollback) as raised:
        zun.migrate_disk_and_power_off(
            None, instance, '1.2.3.4', instance.flavor, [make_vif()], None
        )
    assert 'cannot be moved' in str(raised.value.inner_exception)
    assert 'it hangs' in str(raised.value.inner_exception)
    after = record(machine, instance)
    assert (after.state, after.running) == (State.READY, (mine,))
    assert len(machine.kernel.devices) == 1


def test_a_stopped_one_that_cannot_move_stays_stopped(zun, machine, instance, monkeypatch):
    zun.power_off(instance)
    monkeypatch.setattr(servers, 'migration_of', lambda _instance: AWAY)
    break_unplugging(machine)
    with pytest.raises(exception.InstanceFaultRollback):
        zun.migrate_disk_and_power_off(
            None, instance, '1.2.3.4', instance.flavor, [make_vif()], None
        )
    assert record(machine, instance).state is State.STOPPED


def test_a_nova_that_ended_in_the_middle_of_a_resize_gets_the_size_back(zun, machine, instance):
    parent = record(machine, instance).cgroup_parent
    zun._cgroups.create(parent, limits(512))
    started = record(machine, instance).pause.started_at
    zun.finish_revert_migration(None, instance, [make_vif()], HERE)
    assert machine.kernel.setting(parent, 'memory.limit_in_bytes') == str(256 << 20)
    assert record(machine, instance).pause.started_at == started


def test_a_nova_that_ended_before_it_stopped_anything_leaves_it_running(zun, machine, instance):
    before = record(machine, instance)
    zun.finish_revert_migration(None, instance, [make_vif()], AWAY)
    assert record(machine, instance) == before


def test_a_nova_that_ended_while_it_stopped_a_sandbox_starts_it_again(zun, machine, instance):
    mine = machine.add_container(instance.uuid)
    machine.store.write(record(machine, instance).replace(state=State.STOPPING, running=(mine,)))
    zun.finish_revert_migration(None, instance, [make_vif()], AWAY)
    after = record(machine, instance)
    assert (after.state, after.running) == (State.READY, (mine,))


def test_the_sandbox_that_stayed_behind_goes_when_nova_confirms(zun, machine, instance):
    zun.confirm_migration(None, HERE, instance, [make_vif()])
    assert record(machine, instance).state is State.READY
    zun.confirm_migration(None, AWAY, instance, [make_vif()])
    assert machine.leftovers() == {}
    zun.confirm_migration(None, AWAY, instance, [make_vif()])


def test_what_a_deleted_server_left_here_goes(zun, machine, instance):
    assert zun.delete_instance_files(instance) is True
    assert machine.leftovers() == {}


def test_what_cannot_be_removed_now_is_tried_again(zun, machine, instance):
    machine.docker.fail('remove', fake_docker.api_error(500, 'busy'))
    assert zun.delete_instance_files(instance) is False
    assert zun.delete_instance_files(instance) is True
    assert machine.leftovers() == {}


def test_a_container_that_goes_meanwhile_is_in_nobodys_way(zun, machine, instance):
    machine.add_container(instance.uuid)
    machine.docker.fail('inspect_container', fake_docker.api_error(404, 'No such container'))
    resizing.check_containers(zun._host, zun._sandboxes, instance.uuid, limits(64))


def test_a_resize_below_what_is_used_is_undone(zun, machine, instance):
    parent = record(machine, instance).cgroup_parent
    (machine.kernel.cgroups / f'memory{parent}' / 'memory.usage_in_bytes').write_text(
        str(100 << 20)
    )
    with pytest.raises(resizing.TooSmall, match=r'64 MiB .* 100 MiB'):
        resizing.resize(
            zun._host, zun._cgroups, zun._sandboxes, instance.uuid, limits(256), limits(64)
        )
    assert machine.kernel.setting(parent, 'memory.limit_in_bytes') == str(256 << 20)
