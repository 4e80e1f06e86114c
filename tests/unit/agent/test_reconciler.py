"""The way of containers through their life, with Docker and Nova in memory."""

import pytest

from zun_agent import decision, errors, restarts
from zun_agent.models import Status
from zun_virt.sandbox import State


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
    world.request(running, 'kill', act={'op': 'kill', 'signal': 'HUP'})
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


@pytest.mark.parametrize('died', ['never', 'before the record', 'after it'])
def test_what_a_user_told_to_end_stays_so_until_it_is_started(world, box, died):
    uuid = world.container(box, restart_policy={'Name': 'always'})
    world.settle(uuid)
    world.request(uuid, 'kill', act={'op': 'kill', 'signal': 'TERM'})
    if died != 'before the record':
        world.settle(uuid)
    world.runtime.end(world.docker(uuid).id, 143, ago=5)
    if died != 'never':
        world.restart_agent()
        world.look(box.instance_id)
    for _ in range(2):
        assert world.settle(uuid).status == Status.STOPPED
    world.stop_box(box)
    world.start_box(box)
    assert world.settle(uuid).status == Status.STOPPED
    world.request(uuid, 'start')
    assert world.settle(uuid).status == Status.RUNNING
    world.runtime.end(world.docker(uuid).id, 143, ago=5)
    assert world.settle(uuid).status == Status.RUNNING


@pytest.mark.parametrize(
    ('policy', 'status'),
    [
        ('always', Status.RUNNING),
        ('unless-stopped', Status.RUNNING),
        ('on-failure', Status.STOPPED),
        ('no', Status.STOPPED),
    ],
)
def test_what_ends_well_runs_again_by_its_policy(world, box, policy, status):
    uuid = world.container(box, restart_policy={'Name': policy})
    world.settle(uuid)
    world.runtime.end(world.docker(uuid).id, 0, ago=5)
    assert world.settle(uuid).status == status


def test_a_signal_that_is_no_stop_leaves_the_policy(world, box):
    uuid = world.container(box, restart_policy={'Name': 'always'})
    world.settle(uuid)
    world.request(uuid, 'kill', act={'op': 'kill', 'signal': 'USR1'})
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


BUSY = 'device or resource busy'


def test_an_update_that_docker_refuses_leaves_the_limits_that_it_has(world, box):
    uuid = world.container(box, memory=64)
    world.settle(uuid)
    world.runtime.fail['update'] = [errors.DockerError(BUSY)]
    world.request(uuid, 'update', cpu=0.5, memory=8)
    container = world.settle(uuid)
    assert (container.cpu, container.memory) == (None, 64)
    assert (container.status, container.status_reason) == (Status.RUNNING, None)
    assert world.actions(uuid)['update'] == (True, BUSY)
    assert container.observed_generation == container.generation


def test_an_update_that_docker_refuses_leaves_other_requests(world, running):
    world.request(running, 'pause')
    assert world.settle(running).status == Status.PAUSED
    world.runtime.fail['update'] = [errors.DockerError(BUSY)]
    world.request(running, 'update', memory=8)
    world.request(running, 'unpause')
    container = world.settle(running)
    assert (container.status, container.memory) == (Status.RUNNING, None)
    actions = world.actions(running)
    assert (actions['update'], actions['unpause']) == ((True, BUSY), (True, None))
    assert world.runtime.calls.count('update') == 1


def test_an_update_that_docker_refuses_leaves_a_later_one(world, running):
    class Later(errors.DockerError):
        def __str__(self):
            world.request(running, 'update', memory=32)  # while Docker refuses
            return BUSY

    world.runtime.fail['update'] = [Later()]
    world.request(running, 'update', memory=8)
    assert world.settle(running).memory == 32
    assert world.docker(running).resources['Memory'] == 32 << 20


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


def test_docker_that_is_away_changes_no_status(world, running):
    world.runtime.fail['inspect'] = [errors.ServiceUnavailable('away')]
    with pytest.raises(errors.ServiceUnavailable):
        world.agent.converge(running)
    assert world.store.container(running).status == Status.RUNNING


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
