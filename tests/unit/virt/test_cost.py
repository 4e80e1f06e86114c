"""How often Docker is asked, on hosts with few and with many sandboxes."""

import uuid

import pytest
from nova.compute import power_state, provider_tree
from nova.network import model

from tests.unit.virt.conftest import make_image, make_instance, make_vif
from zun_virt import inspection, sandbox
from zun_virt.sandbox import State

FEW, MANY = 3, 12


@pytest.fixture
def quiet(zun):
    """The driver, alone with the test: its own passes and Docker's events would ask, too."""
    zun._passes.stop()
    zun._watcher.stop()
    return zun


def spawn(zun, number):
    instance = make_instance(uuid=str(uuid.uuid4()))
    vifs = [make_vif(number)]
    zun.spawn(None, instance, make_image(), None, None, None, network_info=vifs)
    instance.vm_state = 'active'
    instance.info_cache.network_info = model.NetworkInfo(vifs)
    return instance


def update_resources(zun, instances):
    tree = provider_tree.ProviderTree()
    tree.new_root('host1', str(uuid.uuid4()))
    zun.update_provider_tree(tree, 'host1')
    zun.get_available_resource('host1')


def sync_power_states(zun, instances):
    """As `ComputeManager._sync_power_states` does it."""
    assert zun.get_num_instances() == len(instances)
    for instance in instances:
        assert zun.get_info(instance).state == power_state.RUNNING


def look_for_ends(zun, instances):
    zun._recovery.look_around()


def look_for_orphans(zun, instances):
    zun._orphans.look_around()


def follow_ports(zun, instances):
    zun._follow_ports()


def requests(machine, act, *arguments):
    machine.docker.calls.clear()
    act(*arguments)
    return [call[0] for call in machine.docker.calls]


@pytest.mark.parametrize(
    ('act', 'cost'),
    [
        (update_resources, 3),
        (sync_power_states, 1),
        (look_for_ends, 1),
        (look_for_orphans, 1),
        (follow_ports, 0),
    ],
)
def test_what_comes_again_and_again_costs_the_same_for_many(quiet, machine, act, cost):
    quiet._recovery.begin()
    instances, seen = [], []
    for count in (FEW, MANY):
        while len(instances) < count:
            instances.append(spawn(quiet, len(instances) + 1))
        for instance in instances:
            machine.servers.add(instance)
            machine.ports.tell(instance, *instance.get_network_info())
        seen.append(requests(machine, act, quiet, instances))
    assert seen[0] == seen[1]
    assert len(seen[1]) == cost


@pytest.mark.parametrize('state', [State.READY, State.PAUSED, State.STOPPED])
def test_a_count_answers_for_every_settled_state(quiet, machine, state):
    instance = spawn(quiet, 1)
    if state is State.PAUSED:
        quiet.pause(instance)
    elif state is State.STOPPED:
        quiet.power_off(instance)
    fresh = quiet.get_info(instance, use_cache=False).state
    quiet.get_num_instances()
    machine.docker.calls.clear()
    assert quiet.get_info(instance).state == fresh
    assert machine.docker.calls == []


def test_whoever_wants_to_know_it_exactly_asks_docker(quiet, machine):
    instance = spawn(quiet, 1)
    quiet.get_num_instances()
    machine.docker.kill(sandbox.sandbox_name(instance.uuid))
    assert quiet.get_info(instance, use_cache=False).state == power_state.NOSTATE


def test_a_count_answers_once(quiet, machine):
    instance = spawn(quiet, 1)
    quiet.get_num_instances()
    assert quiet.get_info(instance).state == power_state.RUNNING
    machine.docker.kill(sandbox.sandbox_name(instance.uuid))
    assert quiet.get_info(instance).state == power_state.NOSTATE


def test_a_count_that_shows_an_end_is_looked_at_again(quiet, machine):
    instance = spawn(quiet, 1)
    machine.docker.kill(sandbox.sandbox_name(instance.uuid))
    quiet.get_num_instances()
    assert quiet.get_info(instance).state == power_state.NOSTATE


def test_a_count_before_an_act_of_ours_does_not_answer_after_it(quiet):
    instance = spawn(quiet, 1)
    quiet.get_num_instances()
    quiet.power_off(instance)
    assert quiet.get_info(instance).state == power_state.SHUTDOWN
    quiet.get_num_instances()
    quiet.power_on(None, instance, [make_vif(1)])
    assert quiet.get_info(instance).state == power_state.RUNNING


def test_an_old_count_does_not_answer(quiet, machine, monkeypatch):
    instance = spawn(quiet, 1)
    quiet.get_num_instances()
    monkeypatch.setattr(inspection, '_COUNT_SECONDS', 0.0)
    machine.docker.kill(sandbox.sandbox_name(instance.uuid))
    assert quiet.get_info(instance).state == power_state.NOSTATE
