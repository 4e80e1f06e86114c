"""Containers whose sandbox is rescued, shelved, or on another host."""

import dataclasses

import pytest

from tests.unit.agent.fakes import World
from zun_agent import decision, errors
from zun_agent.models import Status
from zun_agent.sandboxes import _check_local
from zun_virt.sandbox import State


@pytest.fixture
def world(tmp_path):
    for name in ('here', 'there'):
        (tmp_path / name).mkdir()
    world = World(tmp_path / 'here')
    yield world
    world.close()


@pytest.fixture
def there(tmp_path, world):
    there = World(tmp_path / 'there', 'there', beside=world)
    yield there
    there.close()


def move(box, world, there, *running, state=State.READY, **fields):
    """Do as the drivers of two hosts do, and nova in between: returns both records."""
    behind = world.stop_box(box, *running)
    world.sandboxes.add(box.instance_id, host=there.host, status='VERIFY_RESIZE')
    there.local.create(box.instance_id)
    pause = there.pause_container(box.instance_id)
    made = behind.replace(
        host=there.host,
        incarnation='there-1',
        running=running,
        state=state,
        pause=pause if state is State.READY else None,
        **fields,
    )
    return behind, there.write(made)


def look_everywhere(uuid, *worlds):
    for world in (*worlds, *worlds):
        world.agent.full_pass()
        container = world.settle(uuid)
    return container


def test_what_ran_runs_on_the_other_host(world, there, box, running):
    move(box, world, there, running)
    container = look_everywhere(running, there, world)
    assert (container.host, container.status) == (there.host, Status.RUNNING)
    assert container.status_reason == decision.LOST
    assert there.docker(running).alive
    assert not world.docker(running).alive
    assert container.docker_id == there.docker(running).id


def test_the_host_that_is_left_writes_nothing(world, there, box, running):
    behind, _ = move(box, world, there, running)
    there.settle(running)
    before = world.store.container(running)
    calls = len(world.runtime.calls)
    world.write(behind)
    world.agent.full_pass()
    world.settle(running)
    assert vars(world.store.container(running)) | {'_sa_instance_state': 0} == vars(before) | {
        '_sa_instance_state': 0
    }
    assert world.runtime.calls[calls:] == []


def test_an_agent_that_looked_before_the_move_does_not_write_after_it(world, there, box, running):
    stale = world.store.container(running)
    move(box, world, there, running)
    there.settle(running)
    assert world.agent._journal.record(stale, {'status': Status.DEAD}) is None
    assert world.store.container(running).status == Status.RUNNING


def test_a_reverted_move_brings_it_back_with_what_it_wrote(world, there, box, running):
    docker_id = world.docker(running).id
    behind, gone = move(box, world, there, running)
    there.settle(running)

    there.runtime.remove(there.docker(running).id)
    there.local.remove(gone.instance_id)
    world.sandboxes.add(box.instance_id, host=world.host)
    world.start_box(behind)
    container = look_everywhere(running, world, there)
    assert (container.host, container.status) == (world.host, Status.RUNNING)
    assert container.docker_id == docker_id == world.docker(running).id
    assert world.docker(running).alive
    assert world.store.claim(box.instance_id).host == world.host


def test_a_job_that_had_ended_does_not_run_on_the_other_host(world, there, box, running):
    """Its agent was away when it ended."""
    job = world.container(box)
    world.settle(job)
    move(box, world, there, running)
    assert world.store.container(job).status == Status.RUNNING
    assert look_everywhere(job, there, world).status == Status.STOPPED
    assert there.docker(job) is None
    there.request(job, 'start')
    assert there.settle(job).status == Status.RUNNING


def test_what_ran_is_stopped_until_the_server_starts(world, there, box, running):
    _, record = move(box, world, there, running, state=State.STOPPED)
    container = there.settle(running)
    assert (container.host, container.status) == (there.host, Status.STOPPED)
    assert there.docker(running) is None
    there.write(record, state=State.READY, pause=there.pause_container(box.instance_id))
    assert there.settle(running).status == Status.RUNNING


def test_an_evacuated_one_is_stopped_until_the_server_starts(world, there, box, running):
    """Nova names the new host when all is done, and nobody stopped anything on the old one."""
    record = box.replace(host=there.host, incarnation='there-1', state=State.STOPPED, pause=None)
    there.local.create(box.instance_id)
    there.write(record)
    assert there.settle(running).host == world.host
    world.sandboxes.add(box.instance_id, host=there.host, status='SHUTOFF')
    assert there.agent._claims.look(box.instance_id) is None
    container = there.settle(running)
    assert (container.host, container.status) == (there.host, Status.STOPPED)
    there.write(record, state=State.READY, pause=there.pause_container(box.instance_id))
    assert there.settle(running).status == Status.RUNNING


def test_one_that_stays_behind_is_asked_about_seldom(world, there, box, running):
    behind, _ = move(box, world, there, running)
    there.settle(running)
    world.restart_agent()
    assert world.agent._claims.look(behind.instance_id) == 10
    assert world.store.claim(box.instance_id).host == there.host


class TestRescue:
    def rescue(self, world, box, uuid):
        stopped = world.stop_box(box, uuid)
        assert world.settle(uuid).status == Status.STOPPED
        return world.start_box(stopped.replace(held=True))

    def test_nothing_runs_until_it_ends(self, world, box, running):
        held = self.rescue(world, box, running)
        assert world.settle(running).status == Status.STOPPED
        world.request(running, 'start')
        assert world.settle(running).status == Status.STOPPED
        world.write(held, held=False)
        assert world.settle(running).status == Status.RUNNING

    def test_what_was_stopped_stays_stopped(self, world, box, running):
        job = world.container(box)
        world.settle(job)
        world.runtime.end(world.docker(job).id, 0)
        assert world.settle(job).status == Status.STOPPED
        held = self.rescue(world, box, running)
        world.write(held, held=False)
        assert world.settle(job).status == Status.STOPPED

    def test_nothing_is_made_in_it(self, world, box, running):
        held = self.rescue(world, box, running)
        late = world.container(box)
        assert world.settle(late).status == Status.CREATING
        assert world.docker(late) is None
        world.write(held, held=False)
        assert world.settle(late).status == Status.RUNNING

    def test_nobody_may_join_it(self, world, box):
        server = world.sandboxes.server(box.instance_id)
        with pytest.raises(errors.SandboxConflict, match='rescued'):
            _check_local(server, box.replace(held=True))


class TestShelved:
    def shelve(self, world, box, *running):
        world.stop_box(box, *running)
        for one in running:
            world.settle(one)
        self.offload(world, box)

    def offload(self, world, box):
        for found in list(world.runtime.containers):
            world.runtime.remove(found)
        world.local.remove(box.instance_id)
        world.sandboxes.add(box.instance_id, host=None, status='SHELVED_OFFLOADED')
        world.look(box.instance_id)

    def unshelve(self, world, box, **images):
        world.sandboxes.add(box.instance_id, host=world.host)
        world.local.create(box.instance_id)
        pause = world.pause_container(box.instance_id)
        return world.write(box, incarnation='anew', pause=pause, images=images)

    def test_it_is_stopped_as_long_as_that_lasts(self, world, box, running):
        self.shelve(world, box, running)
        container = world.settle(running)
        assert (container.status, container.status_reason) == (
            Status.STOPPED,
            decision.SANDBOX_STOPPED,
        )

    def test_also_where_its_end_was_not_seen(self, world, box, running):
        self.offload(world, box)
        container = world.settle(running)
        assert (container.status, container.status_reason) == (Status.STOPPED, decision.SHELVED)
        self.unshelve(world, box)
        assert world.settle(running).status == Status.RUNNING

    def test_it_comes_back_with_what_it_had_written(self, world, box, running):
        self.shelve(world, box, running)
        world.settle(running)
        world.runtime.images.add('zun-sandbox-image:written')
        self.unshelve(world, box, **{running: 'zun-sandbox-image:written'})
        container = world.settle(running)
        assert (container.status, container.status_reason) == (
            Status.RUNNING,
            decision.RESTORED,
        )
        body = world.runtime.bodies[world.docker(running).id]
        assert body['Image'] == 'zun-sandbox-image:written'

    def test_a_snapshot_that_is_lost_is_an_error_and_not_an_empty_container(
        self, world, box, running
    ):
        self.shelve(world, box, running)
        self.unshelve(world, box, **{running: 'zun-sandbox-image:gone'})
        for _ in range(5):
            container = world.settle(running)
        assert container.status == Status.ERROR
        assert 'zun-sandbox-image:gone' in container.status_reason

    def test_a_job_that_had_ended_is_made_only_when_asked_for(self, world, box, running):
        world.runtime.end(world.docker(running).id, 0)
        world.settle(running)
        self.shelve(world, box)
        self.unshelve(world, box)
        assert world.settle(running).status == Status.STOPPED
        assert world.docker(running) is None


def test_one_that_ended_stays_so_while_its_sandbox_is_made_anew(world, box, running):
    world.runtime.end(world.docker(running).id, 0)
    assert world.settle(running).status == Status.STOPPED
    world.runtime.remove(world.docker(running).id)
    world.local.remove(box.instance_id)
    world.sandboxes.add(box.instance_id, status='REBUILD', task_state='rebuilding')
    world.look(box.instance_id)
    assert world.settle(running).status == Status.STOPPED
    anew = dataclasses.replace(box, incarnation='anew')
    world.local.create(box.instance_id)
    world.write(anew, pause=world.pause_container(box.instance_id))
    assert world.settle(running).status == Status.STOPPED
