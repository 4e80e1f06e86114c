"""The runtime and the reconciler on a real Docker Engine, where most of its traps show."""

import dataclasses
import gc
import threading
import time
import uuid

import pytest

from tests.unit.agent.real_docker import IMAGE, Host, engine
from zun_agent import errors, facts, runtime
from zun_agent.images import archive
from zun_agent.models import Status
from zun_virt import sandbox as contract
from zun_virt.sandbox import State

pytestmark = pytest.mark.docker


@pytest.fixture(scope='module')
def api():
    with engine() as client:
        yield client


@pytest.fixture
def host(tmp_path, api):
    host = Host(tmp_path, api)
    yield host
    host.close()


@pytest.fixture
def box(host):
    return host.box_with_cgroup()


def test_a_life(host, box):
    script = 'echo out; sleep .1; echo err >&2; sleep 1000'
    uuid = host.run(box, 'sh', '-c', script, environment={'A': 'b'})
    container = host.until(uuid, Status.RUNNING)
    time.sleep(0.3)
    assert host.runtime.logs(container.docker_id) == 'out\nerr\n'
    assert host.runtime.logs(container.docker_id, stderr=False) == 'out\n'
    assert host.runtime.logs(container.docker_id, tail=1) == 'err\n'
    assert host.runtime.logs(container.docker_id, stderr=False, tail=1) == 'out\n'
    assert host.runtime.logs(container.docker_id, stderr=False, tail=0) == ''
    output, code = host.runtime.execute(container.docker_id, ['sh', '-c', 'echo $A; exit 3'])
    assert (output, code) == ('b\n', 3)
    assert any(
        'sleep 1000' in row[-1] for row in host.runtime.top(container.docker_id)['Processes']
    )
    host.request(uuid, 'pause')
    host.until(uuid, Status.PAUSED)
    host.request(uuid, 'unpause')
    host.until(uuid, Status.RUNNING)
    host.request(uuid, 'reboot')
    again = host.until(uuid, Status.RUNNING)
    assert again.started_at > container.started_at
    host.request(uuid, 'stop')
    assert host.until(uuid, Status.STOPPED).exit_code == 143
    host.request(uuid, 'delete')
    host.until_gone(uuid)
    assert host.docker(uuid) is None


def test_limits_that_docker_refuses(host, box):
    uuid = host.run(box, 'sleep', '1000', cpu=0.5, memory=64)
    host.until(uuid, Status.RUNNING)
    host.request(uuid, 'update', cpu=0.25, memory=1)
    host.request(uuid, 'pause')
    container = host.until(uuid, Status.PAUSED)
    assert (container.cpu, container.memory) == (0.5, 64)
    finished, message = host.actions(uuid)['update']
    assert finished
    assert 'memory' in message.lower()
    assert host.actions(uuid)['pause'] == (True, None)
    host.request(uuid, 'update', memory=32)
    assert host.until(uuid, Status.PAUSED).memory == 32
    assert host.docker(uuid).resources['Memory'] == 32 << 20


def test_a_signal_while_a_restart_stops_it(host, box):
    script = 'trap "echo hup" HUP; trap "" TERM; echo up; while :; do sleep .1; done'
    uuid = host.run(box, 'sh', '-c', script)
    first = host.until(uuid, Status.RUNNING)
    host.request(uuid, 'reboot', act={'op': 'restart', 'timeout': 1})
    host.request(uuid, 'pause')
    assert host.until(uuid, Status.PAUSED).started_at > first.started_at
    host.request(uuid, 'unpause')
    host.until(uuid, Status.RUNNING)
    for _ in range(2):
        host.request(uuid, 'kill', act={'op': 'kill', 'signal': 'HUP'})
    container = host.until(uuid, Status.RUNNING)
    time.sleep(0.5)
    assert host.runtime.logs(container.docker_id).startswith('up\nup\nhup\n')


def test_the_tail_of_one_stream(host, box):
    script = 'for i in 1 2 3; do echo $i; done; seq 500 >&2; echo end'
    uuid = host.run(box, 'sh', '-c', script)
    docker_id = host.until(uuid, Status.STOPPED).docker_id
    for tail, expected in ((1, 'end\n'), (2, '3\nend\n'), (9, '1\n2\n3\nend\n')):
        assert host.runtime.logs(docker_id, stderr=False, tail=tail) == expected
    assert host.runtime.logs(docker_id, stdout=False, tail=2) == '499\n500\n'


def test_it_shares_its_sandbox(host, box):
    first = host.until(host.run(box, 'sleep', '1234'), Status.RUNNING)
    second = host.until(host.run(box, 'sleep', '5678'), Status.RUNNING)
    output, _ = host.runtime.execute(second.docker_id, ['ps'])
    assert 'sleep 1234' in output
    host.runtime.execute(first.docker_id, ['touch', '/dev/shm/seen'])
    assert host.runtime.execute(second.docker_id, ['cat', '/dev/shm/seen']) == ('', 0)


def test_the_end_is_known_within_a_second(host, box):
    uuid = host.run(box, 'sh', '-c', 'sleep 1; exit 7')
    host.until(uuid, Status.RUNNING)
    container = host.until(uuid, Status.STOPPED)
    assert container.exit_code == 7
    late = facts.parse_time(time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()))
    assert (late - container.finished_at).total_seconds() < 1


def test_a_command_that_is_missing(host, box):
    container = host.until(host.run(box, 'nosuch'), Status.ERROR)
    assert container.exit_code == 127
    assert '"nosuch": executable file not found' in container.status_reason
    there = host.until(host.run(box, 'sleep', '9'), Status.RUNNING)
    output, code = host.runtime.execute(there.docker_id, ['nosuch'])
    assert code == 126
    assert 'executable file not found' in output


def test_a_command_that_goes_on_when_its_container_ends(host, box):
    container = host.until(host.run(box, 'sleep', '1000'), Status.RUNNING)
    results = []

    def execute():
        command = ['sh', '-c', 'echo begun; sleep 1000']
        results.append(host.runtime.execute(container.docker_id, command))

    thread = threading.Thread(target=execute)
    thread.start()
    time.sleep(0.5)
    host.runtime.kill(container.docker_id, 'KILL')
    thread.join(10)
    assert results == [('begun\n', 137)]


def test_a_command_in_what_does_not_run(host, box):
    uuid = host.run(box, 'true')
    container = host.until(uuid, Status.STOPPED)
    for ask in (
        lambda: host.runtime.execute(container.docker_id, ['true']),
        lambda: host.runtime.top(container.docker_id),
        lambda: host.runtime.stats(container.docker_id),
        lambda: host.runtime.kill(container.docker_id, 'TERM'),
    ):
        with pytest.raises(errors.Conflict):
            ask()
    with pytest.raises(errors.ContainerNotFound):
        host.runtime.logs('0' * 64)


def test_what_it_may_and_may_not(host, box):
    container = host.until(host.run(box, 'sleep', '1000'), Status.RUNNING)
    output, _ = host.runtime.execute(container.docker_id, ['cat', '/proc/self/status'])
    effective = next(line for line in output.splitlines() if line.startswith('CapEff'))
    bits = int(effective.split()[1], 16)
    net_raw, net_admin, sys_admin, mknod = 13, 12, 21, 27
    assert bits >> net_raw & 1
    assert not any(bits >> bit & 1 for bit in (net_admin, sys_admin, mknod))


def test_its_own_limits(host, box):
    uuid = host.run(box, 'sh', '-c', 'while :; do :; done', cpu=0.1, memory=32)
    container = host.until(uuid, Status.RUNNING)
    stats = host.runtime.stats(container.docker_id)
    assert stats['MEM LIMIT(MiB)'] == 32
    assert 2 < stats['CPU %'] < 25
    host.request(uuid, 'update', memory=48)
    host.until(uuid, Status.RUNNING)
    assert host.runtime.stats(container.docker_id)['MEM LIMIT(MiB)'] == 48


def test_out_of_memory_is_told_of_the_victim_alone(host, box):
    innocent = host.run(box, 'sleep', '1000')
    host.until(innocent, Status.RUNNING)
    # Its end comes after the kernel's notice: containerd drops one whose cgroup has gone before it.
    hog = 'dd if=/dev/zero of=/dev/null bs=200M; code=$?; sleep 1; exit $code'
    victim = host.run(box, 'sh', '-c', hog, memory=16)
    container = host.until(victim, Status.STOPPED)
    assert container.exit_code == 137
    assert 'out of memory' in container.status_reason
    host.request(innocent, 'kill')
    assert host.until(innocent, Status.STOPPED).status_reason is None


def test_a_stop_that_is_not_heeded(host, box):
    uuid = host.run(box, 'sh', '-c', 'trap "" TERM; while :; do sleep 1; done')
    host.until(uuid, Status.RUNNING)
    time.sleep(0.3)
    host.request(uuid, 'stop', stop_timeout=1)
    assert host.until(uuid, Status.STOPPED).exit_code == 137


def test_what_no_event_told_is_seen_by_the_next_pass(host, box):
    uuid = host.run(box, 'sleep', '1000')
    container = host.until(uuid, Status.RUNNING)
    host.agent._docker_watch.stop()
    host.runtime.kill(container.docker_id, 'KILL')
    assert host.until(uuid, Status.STOPPED).exit_code == 137


def test_restarts(host, box):
    policy = {'Name': 'on-failure', 'MaximumRetryCount': 2}
    uuid = host.run(box, 'false', restart_policy=policy)
    container = host.until(uuid, Status.STOPPED, restart_count=2)
    assert container.exit_code == 1


def test_auto_remove(host, box):
    host.until_gone(host.run(box, 'true', auto_remove=True))


def test_a_sandbox_that_dies_and_comes_back(host, box):
    uuid = host.run(box, 'sleep', '1000')
    job = host.run(box, 'true')
    host.until(uuid, Status.RUNNING)
    host.until(job, Status.STOPPED)
    host.api.kill(box.pause.id)
    container = host.until(uuid, Status.STOPPED)
    assert container.interrupted
    box = host.write(box, state=State.BUILDING)
    host.api.start(box.pause.id)
    started = host.runtime.inspect(box.pause.id).started
    pause = dataclasses.replace(box.pause, started_at=started)
    host.write(box, state=State.READY, pause=pause)
    host.until(uuid, Status.RUNNING)
    assert host.store.container(job).status == Status.STOPPED


def test_a_sandbox_that_is_made_anew(host, box):
    uuid_ = host.run(box, 'sleep', '1000')
    old = host.until(uuid_, Status.RUNNING)
    box = host.write(box, state=State.BUILDING, pause=None)
    host.runtime.remove(host.runtime.inspect(contract.sandbox_name(box.instance_id)).id)
    pause = host.pause_container(box.instance_id)
    host.write(box, state=State.READY, incarnation=str(uuid.uuid4()), pause=pause)
    deadline = time.monotonic() + 10
    while host.store.container(uuid_).docker_id == old.docker_id:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert 'lost' in host.until(uuid_, Status.RUNNING).status_reason


def test_what_happened_while_the_agent_was_away(host, box):
    lives, ends = host.run(box, 'sleep', '1000'), host.run(box, 'sleep', '1000')
    host.until(lives, Status.RUNNING)
    docker_id = host.until(ends, Status.RUNNING).docker_id
    host.agent.stop()
    host.runtime.close()
    host.api.stop(docker_id, timeout=0)
    asked = host.run(box, 'sleep', '1000')
    host.restart_agent()
    host.until(ends, Status.STOPPED)
    host.until(asked, Status.RUNNING)
    assert host.store.container(lives).status == Status.RUNNING


def test_an_archive_of_glance_does_not_get_its_own_tag(host, api, tmp_path):
    saved = tmp_path / 'saved'
    with saved.open('wb') as target:
        target.writelines(api.get_image(f'{IMAGE}:latest'))
    before = api.inspect_image(f'{IMAGE}:latest')['Id']
    api.tag(f'{IMAGE}:latest', f'{IMAGE}-other', 'latest')
    try:
        with saved.open('rb') as source:
            host.runtime.load(archive.renamed(source, 'zun.invalid/x:glance', 1 << 30))
        assert host.runtime.image_id('zun.invalid/x:glance') == before
    finally:
        api.remove_image('zun.invalid/x:glance')
        api.remove_image(f'{IMAGE}-other:latest')
    with pytest.raises(errors.Invalid):
        host.runtime.load([b'garbage' * 100])


def test_names_and_errors(host, box):
    body = {'Image': f'{IMAGE}:latest', 'Cmd': ['true'], 'Labels': {}}
    with pytest.raises(errors.ImageNotFound):
        host.runtime.create('x', {**body, 'Image': 'docker.io/nosuch/nosuch:latest'})
    container = host.until(host.run(box, 'sleep', '1000'), Status.RUNNING)
    with pytest.raises(runtime.NameTaken):
        host.runtime.create(contract.container_name(container.uuid), body)
    for _ in range(2):
        host.runtime.start(container.docker_id)
    for _ in range(2):
        host.runtime.pause(container.docker_id)
    for _ in range(2):
        host.runtime.unpause(container.docker_id)
    for _ in range(2):
        host.runtime.remove(container.docker_id)
    assert host.runtime.inspect(container.docker_id) is None
    with pytest.raises(errors.ContainerNotFound):
        host.runtime.start(container.docker_id)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_an_engine_that_is_not_there():
    def refused(method, *arguments):
        away = runtime.Runtime('unix:///nosuch.sock', timeout=1)
        try:
            getattr(away, method)(*arguments)
        except errors.ServiceUnavailable:
            return True
        return False

    for method in ('list', 'events', 'info'):
        assert refused(method)
    assert refused('inspect', 'x')
    gc.collect()  # the client leaves sockets that could not connect to the collector
