"""The life of a sandbox: its record, its containers, its lock."""

import threading
import time

import pytest

from tests.unit.virt import fake_docker
from tests.unit.virt.conftest import make_instance
from zun_virt import cgroup, host, lifecycle, sandbox

LIMITS = cgroup.Limits(quota=100_000, period=100_000, shares=1024, memory=64 << 20, pids=99)


@pytest.fixture
def sandboxes(machine):
    machine.store.prepare()
    return lifecycle.Lifecycle(
        host.Host(machine.docker, 'host1'),
        cgroup.make('cgroupfs', 1, str(machine.kernel.cgroups)),
        machine.store,
        0.2,
    )


@pytest.fixture
def made(sandboxes):
    instance = make_instance()
    parent = sandbox.cgroup_parent(instance.uuid, 'cgroupfs')
    record = lifecycle.describe(instance, LIMITS, 'host1', parent)
    found = sandboxes.make(record, LIMITS, image='kubernetes/pause', name='i', start=True)
    sandboxes.ready(instance.uuid, [])
    return found.record


def test_many_containers_stop_in_the_time_of_the_slowest(sandboxes, machine, made):
    for _ in range(12):
        machine.add_container(made.instance_id)
    stop = machine.docker.stop

    def slow(name, timeout):
        time.sleep(0.1)
        stop(name, timeout)

    machine.docker.stop = slow
    began = time.monotonic()
    sandboxes.stop(made.instance_id, 5, lambda: None)
    assert time.monotonic() - began < 0.6
    assert len(machine.store.read(made.instance_id).running) == 12


def test_while_the_agent_holds_the_sandbox_nothing_is_changed(sandboxes, machine, made):
    held, done = threading.Event(), threading.Event()

    def agent():
        with machine.store.lock(made.instance_id, 1):
            held.set()
            done.wait(5)

    thread = threading.Thread(target=agent)
    thread.start()
    held.wait(5)
    with pytest.raises(sandbox.SandboxBusy):
        sandboxes.stop(made.instance_id, 0, lambda: None)
    assert machine.store.read(made.instance_id).state is sandbox.State.READY
    done.set()
    thread.join()
    sandboxes.stop(made.instance_id, 0, lambda: None)


def test_a_failure_of_one_container_is_told_when_all_were_tried(sandboxes, machine, made):
    ids = [machine.add_container(made.instance_id) for _ in range(3)]
    machine.docker.fail('stop', fake_docker.api_error(500, 'no exit event'))
    with pytest.raises(host.HostError, match='no exit event'):
        sandboxes.stop(made.instance_id, 0, lambda: None)
    written = machine.store.read(made.instance_id)
    assert (written.state, set(written.running)) == (sandbox.State.STOPPING, set(ids))
    running = [c for c in machine.docker.containers_.values() if c['State']['Pid']]
    assert len(running) == 2
    # Again, and it ends well and forgets nobody.
    sandboxes.stop(made.instance_id, 0, lambda: None)
    written = machine.store.read(made.instance_id)
    assert (written.state, set(written.running)) == (sandbox.State.STOPPED, set(ids))


def test_a_sandbox_that_ended_meanwhile_is_not_called_ready(sandboxes, machine, made):
    machine.docker.kill(sandbox.sandbox_name(made.instance_id))
    with pytest.raises(host.Conflict):
        sandboxes.ready(made.instance_id, [])


def test_a_sandbox_started_by_somebody_else_is_not_called_ready(sandboxes, machine, made):
    machine.docker.kill(sandbox.sandbox_name(made.instance_id))
    machine.docker.start(sandbox.sandbox_name(made.instance_id))
    with pytest.raises(host.Conflict):
        sandboxes.ready(made.instance_id, [])
    assert sandboxes.running(made.instance_id) is None


def test_the_end_of_a_removed_sandbox_leaves_no_lock(sandboxes, machine, made):
    sandboxes.remove(made.instance_id, 0, lambda: None)
    assert sandboxes.note_end(made.instance_id, again=True) is None
    assert machine.leftovers() == {}


def test_files_are_readable_for_all_whatever_the_umask(sandboxes, machine, made):
    directory = machine.store.directory(made.instance_id)
    assert {(directory / name).stat().st_mode & 0o777 for name in sandbox.FILE_TARGETS} == {0o644}
    assert (directory / 'sandbox.json').stat().st_mode & 0o777 == 0o660
