"""The way of containers through their life, with Docker and Nova in memory."""

import datetime
import time
import uuid

import pytest

from tests.unit.agent.fakes import HOST, World
from zun_agent import claims, decision, errors, networks, restarts
from zun_agent.models import Status, now
from zun_agent.store import Store
from zun_virt import sandbox as contract
from zun_virt.sandbox import State


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def box(world):
    return world.box()


@pytest.fixture
def running(world, box):
    uuid = world.container(box)
    assert world.settle(uuid).status == Status.RUNNING
    return uuid


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


def test_stop_and_start(world, running):
    first = world.docker(running)
    world.request(running, 'stop')
    world.settle(running)
    assert world.runtime.calls[-1] == 'kill SIGTERM'
    world.runtime.end(first.id, 143)
    container = world.settle(running)
    assert (container.status, container.exit_code) == (Status.STOPPED, 143)
    world.request(running, 'start')
    assert world.settle(running).status == Status.RUNNING
    assert world.docker(running).id == first.id
    assert world.actions(running)['stop'] == (True, None)


def test_a_stop_that_is_not_heeded_ends_in_a_kill(world, running):
    world.request(running, 'stop', stop_timeout=0.01)
    assert world.agent.converge(running) == pytest.approx(0.01, abs=0.1)
    world.agent.converge(running)
    while world.docker(running).alive:
        world.agent.converge(running)
    assert world.runtime.calls[-1] == 'kill KILL'
    assert world.settle(running).status == Status.STOPPED


def test_a_stop_signal_is_sent_once(world, running):
    world.request(running, 'stop')
    for _ in range(3):
        world.agent.converge(running)
    assert world.runtime.calls.count('kill SIGTERM') == 1


def test_restart(world, running):
    before = world.docker(running)
    world.request(running, 'reboot')
    world.settle(running)
    world.settle(running)
    after = world.docker(running)
    assert after.id == before.id
    assert after.started != before.started
    container = world.store.container(running)
    assert (container.status, container.operation) == (Status.RUNNING, None)


def test_a_restart_is_not_repeated_after_the_agents_death(world, running):
    world.request(running, 'reboot')
    docker_id = world.docker(running).id
    world.runtime.end(docker_id, 0)
    world.runtime.start(docker_id)  # the last thing that the agent did
    starts = world.runtime.calls.count('start')
    world.restart_agent()
    world.look(world.store.container(running).sandbox_id)
    assert world.settle(running).operation is None
    assert world.runtime.calls.count('start') == starts


def test_kill(world, running):
    world.request(running, 'kill')
    world.settle(running)
    container = world.settle(running)
    assert (container.status, container.exit_code) == (Status.STOPPED, 137)
    assert container.status_reason is None
    assert world.actions(running)['kill'] == (True, None)


def test_a_signal_that_does_not_end_it(world, running):
    world.request(running, 'kill', operation={'op': 'kill', 'signal': 'HUP'})
    assert world.settle(running).status == Status.RUNNING
    assert world.runtime.calls.count('kill HUP') == 1


def test_what_a_user_killed_is_not_restarted_by_its_policy(world, box):
    uuid = world.container(box, restart_policy={'Name': 'always'})
    world.settle(uuid)
    world.request(uuid, 'kill')
    world.settle(uuid)
    assert world.settle(uuid).status == Status.STOPPED


def test_what_a_user_killed_stays_so_when_the_agent_dies(world, box):
    uuid = world.container(box, restart_policy={'Name': 'always'})
    world.settle(uuid)
    world.request(uuid, 'kill', desired='stopped', stop_timeout=0)
    world.runtime.kill(world.docker(uuid).id, 'KILL')
    world.restart_agent()
    world.look(box.instance_id)
    world.settle(uuid)
    assert world.settle(uuid).status == Status.STOPPED
    world.stop_box(box)
    world.start_box(box)
    assert world.settle(uuid).status == Status.STOPPED
    world.request(uuid, 'start')
    assert world.settle(uuid).status == Status.RUNNING


def test_a_signal_that_is_no_stop_leaves_the_policy(world, box):
    uuid = world.container(box, restart_policy={'Name': 'always'})
    world.settle(uuid)
    world.request(uuid, 'kill', operation={'op': 'kill', 'signal': 'USR1'})
    world.settle(uuid)
    world.runtime.end(world.docker(uuid).id, 138, ago=5)
    assert world.settle(uuid).status == Status.RUNNING


def test_what_restarts_for_ever_is_stopped(world, box):
    uuid = world.container(box, restart_policy={'Name': 'always'})
    world.settle(uuid)
    world.agent._journal.memory(uuid).quick_ends = 5
    world.runtime.end(world.docker(uuid).id, 1)
    assert world.settle(uuid).status == Status.RESTARTING
    world.request(uuid, 'stop')
    assert world.settle(uuid).status == Status.STOPPED
    assert world.actions(uuid)['stop'] == (True, None)


@pytest.mark.parametrize('way', ['kill', 'stop', 'sandbox', 'crash'])
def test_only_the_victim_is_said_to_be_out_of_memory(world, box, running, way):
    if way in ('kill', 'stop'):
        world.request(running, way, stop_timeout=0)
        world.settle(running)
        world.runtime.end(world.docker(running).id, 137, oom=True)  # as Docker has it at times
    else:
        world.stop_box(box, running, crash=way == 'crash')
        world.runtime.end(world.docker(running).id, 137, ago=0.5, oom=True)
    container = world.settle(running)
    assert container.status == Status.STOPPED
    assert container.status_reason in (None, decision.SANDBOX_STOPPED)


def test_pause_and_unpause(world, running):
    world.request(running, 'pause')
    assert world.settle(running).status == Status.PAUSED
    world.request(running, 'unpause')
    assert world.settle(running).status == Status.RUNNING


def test_what_the_driver_froze_is_not_thawed(world, box, running):
    box = world.write(box, state=State.PAUSED)
    world.runtime.pause(world.docker(running).id)
    assert world.settle(running).status == Status.PAUSED
    box = world.write(box, state=State.READY)
    assert world.settle(running).status == Status.PAUSED  # the driver thaws it
    assert 'unpause' not in world.runtime.calls


def test_update(world, running):
    world.request(running, 'update', cpu=0.5, memory=64)
    world.settle(running)
    assert world.docker(running).resources['CpuQuota'] == 50_000
    assert world.docker(running).resources['Memory'] == 64 << 20


def test_an_update_that_docker_refuses_ends_as_an_error(world, running):
    world.runtime.fail['update'] = [errors.DockerError('invalid argument')]
    world.request(running, 'update', cpu=0.5)
    container = world.settle(running)
    assert (container.status, container.status_reason) == (Status.RUNNING, 'invalid argument')
    assert world.actions(running)['update'] == (True, 'Error')


def test_an_update_does_not_run_a_job_again_that_ended(world, running):
    world.request(running, 'update', cpu=0.5)
    world.runtime.end(world.docker(running).id, 0, ago=5)
    container = world.settle(running)
    assert container.status == Status.STOPPED
    assert not world.docker(running).alive


@pytest.mark.parametrize('code', [0, 1, 255])
def test_the_end_of_a_job_is_a_result(world, running, code):
    world.runtime.end(world.docker(running).id, code, ago=5)
    container = world.settle(running)
    assert (container.status, container.exit_code) == (Status.STOPPED, code)
    assert container.finished_at is not None
    world.restart_agent()
    world.look(container.sandbox_id)
    assert world.settle(running).status == Status.STOPPED
    assert world.runtime.calls.count('start') == 2  # the pause container's, and its own


def test_a_job_that_ended_while_the_agent_was_dead_is_not_run_twice(world, box):
    uuid = world.container(box)
    world.settle(uuid)
    # As if the agent had died between Docker's start and its own record of it.
    world.store.observe(uuid, started_at=None, docker_id=None, status=Status.CREATING)
    with world.store._database.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE containers SET observed_generation=0, task_state='container_creating'"
        )
    world.runtime.end(world.docker(uuid).id, 0, ago=5)
    world.restart_agent()
    world.look(box.instance_id)
    container = world.settle(uuid)
    assert (container.status, container.exit_code) == (Status.STOPPED, 0)
    assert world.runtime.calls.count('start') == 2


def test_out_of_memory(world, running):
    world.runtime.end(world.docker(running).id, 137, ago=5, oom=True)
    assert world.settle(running).status_reason == decision.OUT_OF_MEMORY


def test_a_bad_command(world, box):
    world.runtime.fail['start'] = [errors.Invalid('exec: "x": executable file not found')]
    uuid = world.container(box)
    container = world.settle(uuid)
    assert (container.status, container.exit_code) == (Status.ERROR, 127)
    assert 'executable file not found' in container.status_reason
    assert world.actions(uuid) == {'run': (True, 'Error')}
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


def test_docker_that_is_away_changes_no_status(world, running):
    world.runtime.fail['inspect'] = [errors.ServiceUnavailable('away')]
    with pytest.raises(errors.ServiceUnavailable):
        world.agent.converge(running)
    assert world.store.container(running).status == Status.RUNNING


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
        assert world.actions(uuid) == {'run': (True, 'Error')}

    def test_it_is_fetched_while_the_sandbox_is_building(self, world):
        box = world.box(State.BUILDING, pause=None)
        uuid = world.container(box, image='nginx')
        world.settle(uuid)
        world.agent._fetcher._pool.submit(lambda: None).result(5)
        assert 'docker.io/library/nginx:latest' in world.runtime.images


class TestRestartPolicy:
    def test_on_failure_with_a_limit(self, world, box):
        policy = {'Name': 'on-failure', 'MaximumRetryCount': 2}
        uuid = world.container(box, restart_policy=policy)
        world.settle(uuid)
        for expected in (1, 2):
            world.runtime.end(world.docker(uuid).id, 1, ago=60)
            container = world.settle(uuid)
            assert (container.status, container.restart_count) == (Status.RUNNING, expected)
        world.runtime.end(world.docker(uuid).id, 1, ago=60)
        assert world.settle(uuid).status == Status.STOPPED

    def test_on_failure_lets_success_be(self, world, box):
        uuid = world.container(box, restart_policy={'Name': 'on-failure'})
        world.settle(uuid)
        world.runtime.end(world.docker(uuid).id, 0, ago=60)
        assert world.settle(uuid).status == Status.STOPPED

    def test_the_pause_grows(self, world, box):
        uuid = world.container(box, restart_policy={'Name': 'always'})
        world.settle(uuid)
        world.agent._journal.memory(uuid).quick_ends = 5
        world.runtime.end(world.docker(uuid).id, 1)
        assert world.agent.converge(uuid) == pytest.approx(3.2, abs=0.3)
        assert world.store.container(uuid).status == Status.RESTARTING

    @pytest.mark.parametrize(
        ('quick', 'seconds'), [(0, 0.1), (1, 0.2), (4, 1.6), (10, 60), (99, 60)]
    )
    def test_backoff(self, quick, seconds):
        assert restarts.backoff(quick) == pytest.approx(seconds)

    def test_a_stopped_container_stays_stopped(self, world, box):
        uuid = world.container(box, restart_policy={'Name': 'always'})
        world.settle(uuid)
        world.request(uuid, 'stop', stop_timeout=0)
        world.settle(uuid)
        world.settle(uuid)
        assert world.store.container(uuid).status == Status.STOPPED


class TestSandbox:
    def test_those_that_the_driver_stopped_run_again(self, world, box, running):
        job = world.container(box)
        world.settle(job)
        world.runtime.end(world.docker(job).id, 0, ago=30)
        world.settle(job)
        box = world.stop_box(box, running)
        container = world.settle(running)
        assert (container.status, container.interrupted) == (Status.STOPPED, True)
        assert container.status_reason == decision.SANDBOX_STOPPED
        box = world.start_box(box)
        assert world.settle(running).status == Status.RUNNING
        assert world.settle(job).status == Status.STOPPED
        assert not world.docker(job).alive
        # That it ran again is history: an end of its own is a result.
        world.runtime.end(world.docker(running).id, 0, ago=1)
        assert world.settle(running).status == Status.STOPPED

    def test_the_agent_need_not_be_there_when_it_happens(self, world, box, running):
        box = world.stop_box(box, running)
        box = world.start_box(box)
        world.restart_agent()
        world.look(box.instance_id)
        assert world.settle(running).status == Status.RUNNING
        assert world.docker(running).alive

    @pytest.mark.parametrize('seen', [True, False])
    def test_those_that_died_with_it_run_again(self, world, box, running, seen):
        world.stop_box(box, crash=True)
        if seen:
            container = world.settle(running)
            assert (container.status, container.interrupted) == (Status.STOPPED, True)
        world.start_box(box)
        assert world.settle(running).status == Status.RUNNING
        assert world.docker(running).alive

    @pytest.mark.parametrize('noticed', ['as it ends', 'with its sandbox', 'by the driver', None])
    def test_those_that_a_shutdown_of_docker_ended_run_again(self, world, box, running, noticed):
        """They end well, as told; a job that had ended so before does not run again."""
        job = world.container(box)
        world.settle(job)
        world.runtime.end(world.docker(job).id, 0, ago=30)
        assert world.settle(job).status == Status.STOPPED
        if noticed == 'as it ends':
            world.runtime.end(world.docker(running).id, 0, ago=0.6)
            container = world.settle(running)
            assert (container.status, container.interrupted) == (Status.STOPPED, False)
        box = world.stop_box(box, crash=True, code=0)
        if noticed in ('as it ends', 'with its sandbox'):
            assert world.settle(running).interrupted
        box = world.write(box, state=contract.State.STOPPED, running=(running,))
        if noticed == 'by the driver':
            assert world.settle(running).interrupted
        world.start_box(box)
        assert world.settle(running).status == Status.RUNNING
        assert world.docker(running).alive
        assert world.settle(job).status == Status.STOPPED
        assert not world.docker(job).alive

    def test_a_job_that_had_ended_when_nova_stopped_its_sandbox_does_not(self, world, box):
        job = world.container(box)
        world.settle(job)
        world.runtime.end(world.docker(job).id, 0, ago=0)
        assert world.settle(job).status == Status.STOPPED
        box = world.write(box, state=contract.State.STOPPING)
        world.runtime.end(box.pause.id, 0)
        assert not world.settle(job).interrupted
        box = world.stop_box(box)
        assert not world.settle(job).interrupted
        world.start_box(box)
        assert world.settle(job).status == Status.STOPPED

    def test_a_policy_waits_for_the_sandbox(self, world, box):
        uuid = world.container(box, restart_policy={'Name': 'always'})
        world.settle(uuid)
        box = world.stop_box(box)
        assert world.settle(uuid).status == Status.STOPPED
        world.start_box(box)
        assert world.settle(uuid).status == Status.RUNNING

    def test_a_container_that_was_stopped_before_stays_so(self, world, box, running):
        world.request(running, 'stop', stop_timeout=0)
        world.settle(running)
        world.settle(running)
        box = world.stop_box(box)
        world.start_box(box)
        assert world.settle(running).status == Status.STOPPED

    def test_made_anew(self, world, box, running):
        job = world.container(box)
        world.settle(job)
        world.runtime.end(world.docker(job).id, 0, ago=30)
        world.settle(job)
        old = world.docker(running).id
        world.stop_box(box, crash=True)
        world.runtime.remove(box.pause.id)
        pause = world.pause_container(box.instance_id)
        box = world.write(box, incarnation=str(uuid.uuid4()), pause=pause)
        container = world.settle(running)
        assert container.status == Status.RUNNING
        assert container.docker_id != old
        assert container.incarnation == box.incarnation
        assert container.status_reason == decision.LOST
        assert world.settle(job).status == Status.STOPPED

    def test_made_anew_after_its_end_was_seen(self, world, box, running):
        job = world.container(box)
        world.settle(job)
        world.runtime.end(world.docker(job).id, 0, ago=5)
        assert world.settle(job).status == Status.STOPPED
        world.stop_box(box, crash=True)
        world.runtime.remove(box.pause.id)
        container = world.settle(running)
        assert (container.status, container.interrupted) == (Status.STOPPED, True)
        box = world.write(box, state=contract.State.BUILDING, pause=None)
        assert world.settle(running).interrupted
        pause = world.pause_container(box.instance_id)
        state = contract.State.READY
        world.write(box, state=state, incarnation=str(uuid.uuid4()), pause=pause)
        assert world.settle(running).status == Status.RUNNING
        assert world.settle(job).status == Status.STOPPED

    def test_evacuated_to_this_host(self, world):
        box = world.box(nova_host='dead')
        other = world.container(box)
        world.store.claim_sandbox(box.instance_id, box.project_id, 'dead', 'before', None)
        world.store.observe(
            other, status=Status.RUNNING, docker_id='of the dead host', host='dead',
            done_generation=1,
        )  # fmt: skip
        world.restart_agent()
        world.look(box.instance_id)
        assert world.settle(other).docker_id == 'of the dead host'  # Nova does not say so yet
        world.sandboxes.add(box.instance_id, host=HOST)
        world.look(box.instance_id)
        container = world.settle(other)
        assert (container.status, container.host) == (Status.RUNNING, HOST)
        assert container.status_reason == decision.LOST
        assert world.docker(other).alive

    def test_claimed_only_when_nova_says_so(self, world):
        world.sandboxes.away = True
        box = world.box()
        uuid = world.container(box)
        world.settle(uuid)
        assert world.docker(uuid) is None
        world.sandboxes.away = False
        world.look(box.instance_id)
        assert world.settle(uuid).status == Status.RUNNING

    def test_what_nobody_waits_for_is_claimed_when_it_is_ready(self, world):
        box = world.box(State.BUILDING)
        assert world.store.claim(box.instance_id) is None
        world.write(box, state=State.READY)
        assert world.store.claim(box.instance_id).host == HOST

    def test_a_container_that_comes_meanwhile_has_its_sandbox_claimed(self, world, monkeypatch):
        box = world.box(State.BUILDING)
        looked = []
        monkeypatch.setattr(world.agent, 'wake_sandbox', looked.append)
        stored = world.store.container(world.container(box))
        stored.host = None
        world.agent.accept(stored, time.monotonic())
        assert looked == [box.instance_id]
        stored.sandbox_id = str(uuid.uuid4())  # is not on this host
        world.agent.accept(stored, time.monotonic())
        assert looked == [box.instance_id]

    def test_a_claim_is_kept_without_nova(self, world, box, running):
        world.sandboxes.away = True
        world.restart_agent()
        world.look(box.instance_id)
        world.request(running, 'reboot')
        world.settle(running)
        assert world.settle(running).status == Status.RUNNING

    def test_another_projects_container_does_not_get_in(self, world, box):
        uuid = world.container(box, project_id='another-project')
        world.settle(uuid)
        assert world.docker(uuid) is None

    def test_a_claim_ends_with_its_sandbox(self, world, box, running):
        world.local.remove(box.instance_id)
        world.look(box.instance_id)
        assert world.store.claim(box.instance_id) is not None  # somebody lives in it
        world.store.remove_container(running)
        world.look(box.instance_id)
        assert world.store.claim(box.instance_id) is None

    def test_addresses_are_there_when_it_runs(self, world, monkeypatch):
        def away(sandbox):
            raise errors.ServiceUnavailable('Neutron does not answer.')

        monkeypatch.setattr(world.sandboxes, 'addresses', away)
        address = contract.Address(
            network_id='n', port_id='p', mac='m', address='10.0.0.5', prefix_length=24, version=4
        )
        container = world.settle(world.container(world.box(addresses=(address,))))
        assert container.status == Status.RUNNING
        assert [one['addr'] for one in container.addresses['n']] == ['10.0.0.5']

    @pytest.mark.parametrize('state', [State.STOPPED, State.PAUSED])
    def test_addresses_follow_while_nothing_runs(self, world, box, running, monkeypatch, state):
        monkeypatch.setattr(
            world.sandboxes, 'addresses', lambda sandbox: networks.addresses(sandbox, ())
        )
        address = contract.Address(
            network_id='n', port_id='p', mac='m', address='10.0.0.9', prefix_length=24, version=4
        )
        world.write(box, state=state, addresses=(address,))
        world.look(box.instance_id)
        (shown,) = world.store.container(running).addresses['n']
        assert shown['addr'] == '10.0.0.9'

    @pytest.mark.parametrize('text', ['{', '{"version": 99}'])
    def test_a_record_that_cannot_be_used(self, world, box, running, text):
        path = world.local.directory(box.instance_id) / 'sandbox.json'
        path.write_text(text)
        calls = list(world.runtime.calls)
        world.look(box.instance_id)
        container = world.settle(running)
        assert container.status == Status.UNKNOWN
        assert 'cannot be used' in container.status_reason
        assert world.runtime.calls == calls
        assert path.read_text() == text
        world.write(box)
        assert world.settle(running).status == Status.RUNNING

    def test_the_record_ends_when_nova_says_so(self, world, box, running):
        world.local.remove(box.instance_id)
        world.look(box.instance_id)
        assert world.settle(running).status == Status.UNKNOWN
        world.sandboxes.away = True
        with pytest.raises(errors.ServiceUnavailable):
            world.settle(running)
        world.sandboxes.away = False
        del world.sandboxes.servers[box.instance_id]
        assert world.settle(running) is None
        assert world.docker(running) is None
        world.look(box.instance_id)
        assert world.store.claim(box.instance_id) is None


class TestDelete:
    def test_delete(self, world, running):
        world.request(running, 'delete')
        assert world.settle(running) is None
        assert world.docker(running) is None
        assert world.actions(running)['delete'] == (True, None)

    def test_with_a_stop(self, world, running):
        world.request(running, 'delete', stop_timeout=10)
        assert world.settle(running) is not None
        assert world.runtime.calls[-1] == 'kill SIGTERM'
        world.runtime.end(world.docker(running).id, 0)
        assert world.settle(running) is None

    def test_of_a_frozen_one_thaws_it_first(self, world, running):
        world.runtime.pause(world.docker(running).id)
        world.request(running, 'delete')
        world.settle(running)
        assert world.runtime.calls[-2:] == ['unpause', 'remove']

    def test_the_sandbox_goes_with_its_owner(self, world, box):
        uuid = world.container(box, uuid=box.instance_id, owns_sandbox=True)
        world.settle(uuid)
        world.request(uuid, 'delete')
        assert world.settle(uuid).status == Status.DELETING
        assert world.sandboxes.deleted == [box.instance_id]
        del world.sandboxes.servers[box.instance_id]
        assert world.settle(uuid) is None

    def test_auto_remove(self, world, box):
        uuid = world.container(box, auto_remove=True)
        world.settle(uuid)
        world.runtime.end(world.docker(uuid).id, 0, ago=5)
        assert world.settle(uuid) is None
        assert world.actions(uuid)['delete'] == (True, None)

    def test_auto_remove_keeps_the_sandbox_for_others(self, world, box, running):
        owner = world.container(box, uuid=box.instance_id, owns_sandbox=True, auto_remove=True)
        world.settle(owner)
        world.runtime.end(world.docker(owner).id, 0, ago=5)
        assert world.settle(owner) is None
        assert world.sandboxes.deleted == []
        world.request(running, 'delete')
        world.settle(running)
        assert world.sandboxes.deleted == [box.instance_id]

    def test_of_what_nova_never_made(self, world, box):
        world.local.remove(box.instance_id)
        world.look(box.instance_id)
        uuid = world.container(box, owns_sandbox=True, uuid=box.instance_id)
        world.request(uuid, 'delete')
        del world.sandboxes.servers[box.instance_id]
        assert world.settle(uuid) is None


class TestASandboxThatIsBeingMade:
    @pytest.fixture
    def coming(self, world):
        box = world.box(nova_host=None)
        world.local.remove(box.instance_id)
        return world.container(box, owns_sandbox=True, uuid=box.instance_id)

    def test_nova_is_not_asked_about_at_once(self, world, coming):
        world.sandboxes.away = True  # whoever asks, fails
        assert world.agent.converge(coming) >= 1

    def test_nova_is_asked_about_after_a_while(self, world, coming):
        world.agent.converge(coming)
        world.sandboxes.servers.clear()
        world.agent.converge(coming)
        assert world.store.container(coming) is None

    def test_nova_could_not_make_it(self, world, coming):
        world.sandboxes.add(coming, status='ERROR', host=None, fault='No valid host')
        world.agent.converge(coming)
        world.agent.converge(coming)
        container = world.store.container(coming)
        assert container.status == Status.ERROR
        assert 'No valid host' in container.status_reason
        assert world.actions(coming)['run'] == (True, 'Error')

    def test_an_error_without_a_fault_is_not_believed_at_once(self, world, coming):
        world.sandboxes.add(coming, status='ERROR', host=None)
        world.agent.converge(coming)
        assert world.agent.converge(coming) < 10
        assert world.store.container(coming).status == Status.CREATING
        world.store.observe(coming, created_at=now() - datetime.timedelta(seconds=16))
        world.agent.converge(coming)
        assert world.store.container(coming).status == Status.ERROR

    @pytest.mark.parametrize('run', [True, False])
    def test_what_was_given_up_goes_on_when_its_sandbox_appears(self, world, run):
        box = world.box(nova_host=None)
        world.local.remove(box.instance_id)
        uuid = world.container(box, owns_sandbox=True, uuid=box.instance_id, run=run)
        world.sandboxes.add(uuid, status='ERROR', host=None, fault='stuck')
        world.agent.converge(uuid)
        world.agent.converge(uuid)
        assert world.store.container(uuid).status == Status.ERROR
        world.sandboxes.add(uuid)
        world.local.create(uuid)
        world.write(box)
        container = world.settle(uuid)
        assert container.status == (Status.RUNNING if run else Status.CREATED)
        assert (container.status_reason, container.interrupted) == (None, False)

    def test_its_deletion_does_not_wait_until_it_is_made(self, world, coming):
        for _ in range(5):
            world.agent.converge(coming)
        world.request(coming, 'delete')
        assert world.agent.converge(coming) < 0.5
        assert world.sandboxes.deleted == [coming]
        del world.sandboxes.servers[coming]
        assert world.settle(coming) is None


class TestStrays:
    def test_one_whose_record_ended_is_removed(self, world, running):
        world.store.remove_container(running)
        world.agent.full_pass()
        assert world.docker(running) is None

    def test_one_whose_sandbox_is_elsewhere_is_stopped(self, world, box, running):
        incarnation = world.store.claim(box.instance_id).incarnation
        world.store.claim_sandbox(
            box.instance_id, box.project_id, 'elsewhere', 'another', incarnation
        )
        world.agent.full_pass()
        assert not world.docker(running).alive
        assert world.store.container(running).status == Status.RUNNING  # not ours to write

    def test_one_that_the_database_never_knew_is_let_be(self, world, box, running, tmp_path):
        world.store.close()
        world.store = Store(f'sqlite:///{tmp_path}/another.sqlite')
        world.store.migrate()
        world.restart_agent()
        world.look(box.instance_id)
        assert world.store.claim(box.instance_id).host == HOST
        world.agent.full_pass()
        assert world.docker(running).alive

    def test_one_in_an_unknown_sandbox_is_let_be(self, world, box, running):
        world.store.remove_container(running)
        world.store.release_sandbox(box.instance_id)
        world.agent.full_pass()
        assert world.docker(running).alive
