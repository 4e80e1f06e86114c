"""Containers and the sandboxes that this host has, has not yet, or has no more."""

import datetime
import time
import uuid

import pytest

from tests.unit.agent.fakes import HOST
from zun_agent import decision, errors, networks
from zun_agent.models import Status, now
from zun_virt import sandbox as contract
from zun_virt.sandbox import State


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
        assert world.actions(coming)['run'] == (True, container.status_reason)

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
