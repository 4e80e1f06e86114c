"""The parts of the reconciler: its queue, its locks, its watches; and what is read and told."""

import io
import pathlib
import socket
import threading
import time
import uuid

import docker.errors
import pytest
import requests

from zun_agent import errors, execution, host, runtime, usage, watch
from zun_agent.locks import SandboxLocks
from zun_agent.workqueue import WorkQueue
from zun_virt import sandbox as contract


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'it did not come to be'
        time.sleep(0.005)


@pytest.fixture
def queue():
    queues = []

    def make(work, threads=4):
        queues.append(WorkQueue('test', work, threads))
        queues[-1].start()
        return queues[-1]

    yield make
    for queue in queues:
        queue.stop(2)


class TestWorkQueue:
    def test_a_key_is_worked_on_by_one_thread_at_a_time_and_again_if_it_is_added(self, queue):
        busy, overlaps, done = set(), [], []

        def work(key):
            if key in busy:
                overlaps.append(key)
            busy.add(key)
            time.sleep(0.02)
            busy.discard(key)
            done.append(key)

        keys = queue(work)
        keys.add('a')
        until(lambda: 'a' in busy)
        keys.add('a')
        keys.add('a')
        keys.add('b')
        until(lambda: len(done) == 3 and keys.idle())
        assert sorted(done) == ['a', 'a', 'b']
        assert overlaps == []

    def test_a_failure_is_tried_again_and_holds_up_nobody(self, queue):
        tried = []

        def work(key):
            tried.append(key)
            if key == 'bad':
                raise errors.ServiceUnavailable('away')

        keys = queue(work, 1)
        keys.add('bad')
        keys.add('good')
        until(lambda: tried.count('bad') == 2)
        assert 'good' in tried[:2]

    def test_a_delay_is_kept_unless_there_is_news(self, queue):
        tried = []
        keys = queue(lambda key: tried.append(key) or 60.0)
        keys.add('a')
        until(lambda: len(tried) == 1)
        time.sleep(0.05)
        assert len(tried) == 1
        assert keys.knows('a')
        keys.add('a')
        until(lambda: len(tried) == 2)


class TestLocks:
    @pytest.fixture
    def sandboxes(self, tmp_path):
        sandboxes = contract.SandboxStore(tmp_path)
        sandboxes.prepare()
        return sandboxes

    def test_nothing_is_left_of_that_of_a_sandbox_that_went(self, sandboxes, tmp_path):
        keys = [str(uuid.uuid4()) for _ in range(2)]
        sandboxes.create(keys[0])
        locks = SandboxLocks(sandboxes, 1)
        for key in keys:
            with locks.hold(key):
                pass
        assert [path.name for path in (tmp_path / 'locks').iterdir()] == keys[:1]

    def test_it_is_let_go_of_where_its_file_cannot_be_removed(self, sandboxes, monkeypatch):
        def refuse(sandbox_id):
            raise PermissionError(sandbox_id)

        key = str(uuid.uuid4())
        monkeypatch.setattr(sandboxes, 'discard_lock', refuse)
        # Kept, as a log keeps it: the collector of garbage would let go of the lock with it.
        with pytest.raises(PermissionError) as kept, SandboxLocks(sandboxes, 1).hold(key):
            pass
        sandboxes._held.keys = set()  # as another thread sees it
        with sandboxes.lock(key, 0.05):
            pass
        assert kept.value.args == (key,)

    def test_threads_share_it_and_the_driver_is_kept_out(self, sandboxes):
        key = str(uuid.uuid4())
        locks = SandboxLocks(sandboxes, 1)
        inside, leave = threading.Barrier(3), threading.Event()

        def work():
            with locks.hold(key):
                inside.wait(5)
                leave.wait(5)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        inside.wait(5)
        with pytest.raises(contract.SandboxBusy), sandboxes.lock(key, 0.05):
            pass
        leave.set()
        for thread in threads:
            thread.join(5)
        with sandboxes.lock(key, 0.5):
            pass

    def test_the_driver_keeps_the_agent_out(self, sandboxes):
        key = str(uuid.uuid4())
        refused = []

        def work():
            try:
                with SandboxLocks(sandboxes, 0.05).hold(key):
                    pass
            except contract.SandboxBusy as error:
                refused.append(error)

        with sandboxes.lock(key, 1):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(5)
        assert len(refused) == 1


def test_a_changed_record_is_told(tmp_path):
    sandboxes = contract.SandboxStore(tmp_path)
    sandboxes.prepare()
    told = []
    watching = watch.DirectoryWatch(sandboxes.root, told.append)
    watching.start()
    try:
        key = str(uuid.uuid4())
        sandboxes.create(key)
        (sandboxes.directory(key) / '.fresh').write_text('{}')
        (sandboxes.directory(key) / '.fresh').replace(sandboxes.directory(key) / 'sandbox.json')
        until(lambda: key in told)
        while told:  # all that is told of the first
            told.clear()
            time.sleep(0.5)
        (sandboxes.directory(key) / '.fresh').write_text('{}')
        (sandboxes.directory(key) / '.fresh').replace(sandboxes.directory(key) / 'sandbox.json')
        until(lambda: told == [key])
        told.clear()
        sandboxes.remove(key)
        until(lambda: key in told)
    finally:
        watching.stop()


@pytest.mark.parametrize(
    ('path', 'directory', 'concerned'),
    [
        ('{id}/sandbox.json', False, True),
        ('{id}', True, True),
        ('{id}/hosts', False, False),
        ('{id}/.sandbox.json.1', False, False),
        ('{id}', False, False),
        ('other', True, False),
        ('', True, False),
    ],
)
def test_which_changes_concern_a_sandbox(path, directory, concerned):
    key = str(uuid.uuid4())
    root = pathlib.Path('/x/sandboxes')
    found = watch.concerned(root, root / path.format(id=key), directory)
    assert found == (key if concerned else None)


class TestExecution:
    @pytest.fixture
    def ends(self):
        ours, theirs = socket.socketpair()
        stream = ours.makefile('rb')
        yield io.BufferedReader(stream.raw), theirs
        stream.close()
        ours.close()
        theirs.close()

    def test_output_of_both_streams_in_order(self, ends):
        stream, docker = ends
        docker.sendall(b'\1\0\0\0\0\0\0\3one\2\0\0\0\0\0\0\3two\1\0\0\0\0\0\0\2')
        docker.sendall(b'ab')
        docker.close()
        assert execution.collect(stream, lambda: True) == b'onetwoab'

    def test_a_stream_that_never_ends_is_left_when_the_command_is_gone(self, ends, monkeypatch):
        monkeypatch.setattr(execution, 'SILENCE', 0.02)
        stream, docker = ends
        docker.sendall(b'\1\0\0\0\0\0\0\3one')
        answers = iter([True, True, False])
        assert execution.collect(stream, lambda: next(answers)) == b'one'

    def test_a_silent_command_is_waited_for(self, ends, monkeypatch):
        monkeypatch.setattr(execution, 'SILENCE', 0.02)
        stream, docker = ends
        threading.Timer(0.2, docker.close).start()
        assert execution.collect(stream, lambda: True) == b''

    def test_there_is_an_end_to_what_is_kept(self, ends, monkeypatch):
        monkeypatch.setattr(execution, 'MAX_OUTPUT', 10)
        stream, docker = ends
        docker.sendall(b'\1\0\0\0\0\0\0\x64' + b'x' * 100)
        with pytest.raises(errors.Conflict):
            execution.collect(stream, lambda: True)

    def test_the_exit_code_is_waited_for(self):
        states = iter([execution.State(True, None), execution.State(False, 3)])
        assert execution.exit_code(lambda: next(states)) == 3
        assert execution.exit_code(lambda: execution.State(True, None), patience=0) is None


class TestUsage:
    def tree(self, root, files):
        for path, content in files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        return root

    MEMINFO = 'MemTotal: 1000000 kB\nMemAvailable: 400000 kB\n'

    def test_version_1(self, tmp_path):
        group = 'zun/ab/cd'
        tree = self.tree(
            tmp_path,
            {
                'proc/7/cgroup': f'3:memory:/{group}\n2:cpuacct:/{group}\n1:blkio:/{group}\n0::/\n',
                'proc/meminfo': self.MEMINFO,
                f'sys/fs/cgroup/memory/{group}/memory.stat': (
                    'total_inactive_file 1000\nhierarchical_memory_limit 67108864\n'
                ),
                f'sys/fs/cgroup/memory/{group}/memory.usage_in_bytes': '5000\n',
                f'sys/fs/cgroup/cpuacct/{group}/cpuacct.usage': '2500000000\n',
                f'sys/fs/cgroup/blkio/{group}/blkio.throttle.io_service_bytes': (
                    '8:0 Read 10\n8:0 Write 20\n8:16 Read 1\n8:0 Sync 30\nTotal 61\n'
                ),
            },
        )
        assert usage.read(7, tree) == usage.Usage(2.5, 4000, 67108864, 11, 20)

    def test_version_2(self, tmp_path):
        slice_, scope = 'zun.slice/zun-ab.slice', 'zun.slice/zun-ab.slice/docker-cd.scope'
        tree = self.tree(
            tmp_path,
            {
                'proc/7/cgroup': f'0::/{scope}\n',
                'proc/meminfo': self.MEMINFO,
                'sys/fs/cgroup/zun.slice/memory.max': 'max\n',
                f'sys/fs/cgroup/{slice_}/memory.max': '33554432\n',
                f'sys/fs/cgroup/{scope}/memory.max': 'max\n',
                f'sys/fs/cgroup/{scope}/memory.current': '5000\n',
                f'sys/fs/cgroup/{scope}/memory.stat': 'anon 1\ninactive_file 1000\n',
                f'sys/fs/cgroup/{scope}/cpu.stat': 'usage_usec 2500000\nuser_usec 1\n',
                f'sys/fs/cgroup/{scope}/io.stat': '8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1\n',
            },
        )
        assert usage.read(7, tree) == usage.Usage(2.5, 4000, 33554432, 11, 20)

    def test_a_container_that_is_gone(self, tmp_path):
        with pytest.raises(errors.Conflict):
            usage.stats('id', 7, tmp_path)

    def test_what_the_network_carried(self, tmp_path):
        path = tmp_path / 'dev'
        path.write_text(
            'Inter-|   Receive\n face |bytes\n'
            '    lo: 99 1 0 0 0 0 0 0 99 1 0 0 0 0 0 0\n'
            '  eth0: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n'
            '  eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n'
        )
        assert usage.network(path) == (11, 22)


def test_what_the_host_has(tmp_path):
    meminfo = tmp_path / 'meminfo'
    meminfo.write_text('MemTotal: 2048 kB\nMemAvailable: 1024 kB\n')
    info = {
        'NCPU': 2, 'Architecture': 'x86_64', 'OSType': 'linux', 'OperatingSystem': 'Debian',
        'KernelVersion': '6', 'Labels': ['a=b'], 'Containers': 3, 'Runtimes': {'runc': {}},
        'DockerRootDir': str(tmp_path / 'hidden'),
    }  # fmt: skip
    found = host.facts(info, [], meminfo)
    assert (found['mem_total'], found['mem_used'], found['cpus']) == (2, 1, 2)
    assert found['labels'] == {'a': 'b'}
    assert found['disk_total'] > 0


@pytest.mark.parametrize(
    ('status', 'text', 'kind'),
    [
        (500, 'connection error: desc = "dial unix containerd.sock: refused": unavailable',
         errors.ServiceUnavailable),
        (500, 'transport is closing: unavailable', errors.ServiceUnavailable),
        (500, 'the device of the user is unavailable', errors.DockerError),
        (400, 'no such runtime: unavailable', errors.Invalid),
        (404, 'No such container', errors.NotFound),
        (409, 'is already in use', errors.Conflict),
    ],
)  # fmt: skip
def test_a_docker_that_has_lost_containerd_is_away(status, text, kind):
    """It comes back, and what was asked for is done then; a failure would be for good."""
    response = requests.Response()
    response.status_code = status
    with pytest.raises(kind), runtime._translated('start a container'):
        raise docker.errors.APIError('failed', response=response, explanation=text)
