"""How containers come into being and to life, with Docker and Nova in memory."""

import time

import pytest

from tests.unit.agent.fakes import HOST
from zun_agent import claims, errors
from zun_agent.models import Status
from zun_virt import sandbox as contract
from zun_virt.sandbox import State


def test_run(world, box):
    container = world.settle(world.container(box))
    assert container.status == Status.RUNNING
    assert container.host == HOST
    assert container.incarnation == box.incarnation
    assert container.docker_id == world.docker(container.uuid).id
    assert container.observed_generation == container.generation
    assert container.task_state is None
    assert container.addresses == {'a-network': [{'addr': '10.0.0.5', 'version': 4}]}
    assert world.actions(container.uuid) == {'run': (True, None)}


@pytest.fixture
def reads(world, monkeypatch):
    """Uuids of the containers that the store was asked for."""
    asked, ask = [], world.store.container
    monkeypatch.setattr(world.store, 'container', lambda uuid: asked.append(uuid) or ask(uuid))
    return asked


def hand(world, uuid, since=None, **changes):
    """Hand a record over as a request does that just stored it, and forget that it was read."""
    since = time.monotonic() if since is None else since
    (record,) = [one for one in world.store.containers_on(HOST) if one.uuid == uuid]
    for name, value in changes.items():
        setattr(record, name, value)
    world.agent.wake_with(record, since)


def test_who_is_handed_a_record_does_not_read_it(world, box, reads):
    uuid = world.container(box)
    hand(world, uuid)
    assert world.agent.converge(uuid) is None
    assert reads == []
    assert world.store.container(uuid).status == Status.RUNNING
    assert world.actions(uuid) == {'run': (True, None)}


def test_a_record_is_handed_over_for_once(world, running, reads):
    hand(world, running)
    world.agent.converge(running)
    world.agent.converge(running)
    assert reads == [running]


@pytest.mark.parametrize(
    'case', ['recorded since', 'worked on since', 'too old', 'being deleted', 'superseded']
)
def test_a_record_that_may_be_out_of_date_is_read_again(world, box, reads, case):
    uuid = world.container(box)
    if case in ('recorded since', 'worked on since'):
        since = time.monotonic()
        world.settle(uuid)
        if case == 'worked on since':
            world.request(uuid, 'update')
            world.agent.converge(uuid)
            hand(world, uuid, generation=1)
        else:
            hand(world, uuid, since, status=Status.CREATING, docker_id=None)
    elif case == 'too old':
        hand(world, uuid, time.monotonic() - 60, desired='created')
    elif case == 'being deleted':
        world.request(uuid, 'delete')
        hand(world, uuid)
    else:
        world.request(uuid, 'update')
        hand(world, uuid)
        hand(world, uuid, generation=1, desired='created')
    reads.clear()
    world.agent.converge(uuid)
    assert bool(reads) is (case != 'superseded')
    if case != 'being deleted':
        assert world.store.container(uuid).status == Status.RUNNING
    assert world.runtime.calls.count('create') == 2 - (case == 'being deleted')


def test_a_container_whose_record_ended_while_it_was_made_is_removed(world, box):
    uuid = world.container(box)
    hand(world, uuid)
    world.store.remove_container(uuid)
    world.agent.converge(uuid)
    assert world.docker(uuid) is None


def test_create_does_not_start(world, box):
    container = world.settle(world.container(box, run=False))
    assert container.status == Status.CREATED
    assert world.docker(container.uuid).state == 'created'
    assert container.observed_generation == container.generation


def test_created_while_building_and_started_when_ready(world):
    box = world.box(State.BUILDING)
    uuid = world.container(box)
    assert world.settle(uuid).status == Status.CREATED
    assert 'start' not in world.runtime.calls[2:]
    world.write(box, state=State.READY)
    assert world.settle(uuid).status == Status.RUNNING


def test_nothing_is_looked_for_between_ready_and_the_start(world, monkeypatch):
    box = world.box(State.BUILDING)
    uuid = world.container(box)
    world.settle(uuid)
    world.look(box.instance_id)
    world.local.write(box.replace(state=State.READY))
    looks, before = [], []
    inspect, start = world.runtime.inspect, world.runtime.start
    monkeypatch.setattr(world.runtime, 'inspect', lambda name: looks.append(name) or inspect(name))
    monkeypatch.setattr(
        world.runtime, 'start', lambda docker_id: (before.extend(looks), start(docker_id))
    )
    assert world.agent.converge(uuid) is None
    assert world.store.container(uuid).status == Status.RUNNING
    assert before == []


def test_neutron_is_asked_when_the_containers_run(world, monkeypatch):
    asked, ask = [], world.sandboxes.addresses
    monkeypatch.setattr(
        world.sandboxes, 'addresses', lambda record: asked.append(record) or ask(record)
    )
    box = world.box(State.BUILDING)
    uuid = world.container(box)
    world.settle(uuid)
    world.local.write(box.replace(state=State.READY))
    assert world.agent._claims.look(box.instance_id) == claims.STARTS
    assert world.settle(uuid).status == Status.RUNNING
    assert asked == []
    assert world.agent._claims.look(box.instance_id) is None
    assert len(asked) == 1
    assert world.settle(uuid).addresses == {'a-network': [{'addr': '10.0.0.5', 'version': 4}]}


def test_a_container_that_went_before_its_start_is_made_again(world):
    box = world.box(State.BUILDING)
    uuid = world.container(box)
    world.settle(uuid)
    world.runtime.remove(world.docker(uuid).id)
    world.write(box, state=State.READY)
    for _ in range(4):
        world.agent.converge(uuid)
    assert world.store.container(uuid).status == Status.RUNNING


def test_nothing_is_made_before_the_pause_container(world):
    box = world.box(State.BUILDING, pause=None)
    container = world.settle(world.container(box))
    assert container.status == Status.CREATING
    assert world.docker(container.uuid) is None


@pytest.mark.parametrize('state', [State.STOPPING, State.STOPPED, State.PAUSED, State.DELETING])
def test_nothing_starts_in_a_sandbox_that_is_not_ready(world, box, state):
    uuid = world.container(box, run=False)
    world.settle(uuid)
    world.request(uuid, 'start')
    world.write(box, state=state)
    world.settle(uuid)
    assert world.docker(uuid).state == 'created'
    assert world.store.container(uuid).observed_generation == 1


@pytest.mark.parametrize(
    'change',
    [
        {'started_at': '2020-01-01T00:00:00Z'},
        {'boot_id': 'of another boot'},
        {'id': 'another'},
    ],
)
def test_a_record_that_is_out_of_date_is_not_believed(world, box, change):
    pause = contract.PauseContainer(**{**vars(box.pause), **change})
    world.write(box, pause=pause)
    uuid = world.container(box)
    world.settle(uuid)
    assert world.docker(uuid) is None


def test_a_bad_command(world, box):
    world.runtime.fail['start'] = [errors.Invalid('exec: "x": executable file not found')]
    uuid = world.container(box)
    container = world.settle(uuid)
    assert (container.status, container.exit_code) == (Status.ERROR, 127)
    assert 'executable file not found' in container.status_reason
    assert world.actions(uuid) == {'run': (True, container.status_reason)}
    assert world.settle(uuid).status == Status.ERROR
    world.request(uuid, 'start')
    assert world.settle(uuid).status == Status.RUNNING


def test_docker_that_fails_is_tried_again_and_then_given_up(world, box):
    failure = errors.DockerError('unavailable')
    world.runtime.fail['start'] = [failure]
    uuid = world.container(box)
    assert world.agent.converge(uuid) > 0
    assert world.settle(uuid, 30).status == Status.RUNNING
    world.runtime.fail['start'] = [failure] * 10
    other = world.container(box)
    for _ in range(12):
        world.agent.converge(other)
    assert world.store.container(other).status == Status.ERROR


def test_an_id_that_docker_cannot_start_is_given_up_for_another(world, box):
    world.runtime.fail['start'] = [errors.ServiceUnavailable('killed in the middle of a start')]
    uuid = world.container(box)
    with pytest.raises(errors.ServiceUnavailable):
        world.agent.converge(uuid)
    (first,) = (one for one, body in world.runtime.bodies.items() if uuid in body['name'])
    world.runtime.refused.add(first)
    for _ in range(4):  # a pause after the failure lies between
        container = world.settle(uuid)
    assert (container.status, container.status_reason) == (Status.RUNNING, None)
    assert container.docker_id != first
    assert first not in world.runtime.containers


@pytest.mark.parametrize('step', ['create', 'start'])
def test_an_agent_that_dies_in_the_middle_of_a_run(world, box, step):
    uuid = world.container(box)

    class Death(BaseException):
        pass

    def die(*_, **__):
        raise Death

    world.agent._journal._store = type('Dead', (), {'observe': die})()
    if step == 'create':
        world.runtime.fail['start'] = [Death()]
    with pytest.raises(Death):
        world.settle(uuid)
    docker_id = world.docker(uuid).id
    world.restart_agent()
    world.look(box.instance_id)
    container = world.settle(uuid)
    assert (container.status, container.docker_id) == (Status.RUNNING, docker_id)
    assert world.runtime.calls.count('start') == (3 if step == 'create' else 2)


class TestImages:
    def wait(self, world, uuid):
        world.agent._fetcher._pool.submit(lambda: None).result(5)
        return world.settle(uuid)

    def test_a_missing_image_is_pulled(self, world, box):
        uuid = world.container(box, image='nginx')
        world.settle(uuid)
        assert self.wait(world, uuid).status == Status.RUNNING
        assert 'pull docker.io/library/nginx:latest' in world.runtime.calls

    def test_a_present_image_asks_no_registry(self, world, running):
        assert not [call for call in world.runtime.calls if call.startswith('pull')]

    def test_always_asks(self, world, box):
        world.runtime.registry.add('docker.io/library/alpine:latest')
        uuid = world.container(box, image_pull_policy='always')
        world.settle(uuid)
        assert self.wait(world, uuid).status == Status.RUNNING
        assert world.runtime.calls.count('pull docker.io/library/alpine:latest') == 1

    def test_never_asks(self, world, box):
        uuid = world.container(box, image='nginx', image_pull_policy='never')
        container = world.settle(uuid)
        assert container.status == Status.ERROR
        assert 'never' in container.status_reason

    def test_an_image_that_nobody_has(self, world, box):
        uuid = world.container(box, image='nosuch')
        world.settle(uuid)
        container = self.wait(world, uuid)
        assert container.status == Status.ERROR
        assert container.status_reason == 'Image nosuch could not be pulled: manifest unknown'
        assert world.actions(uuid) == {'run': (True, container.status_reason)}

    def test_it_is_fetched_while_the_sandbox_is_building(self, world):
        box = world.box(State.BUILDING, pause=None)
        uuid = world.container(box, image='nginx')
        world.settle(uuid)
        world.agent._fetcher._pool.submit(lambda: None).result(5)
        assert 'docker.io/library/nginx:latest' in world.runtime.images
