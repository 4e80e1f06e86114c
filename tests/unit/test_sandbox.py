"""The contract between the driver and the agent."""

import json
import multiprocessing
import os
import stat
import threading
import time
import uuid

import pytest

from zun_virt import sandbox

INSTANCE = '5f1c9a3e-0c55-4a7a-9a3d-3c3f0f8f6b11'


@pytest.fixture
def store(tmp_path):
    store = sandbox.SandboxStore(tmp_path)
    store.prepare()
    return store


def record(**changes):
    values = {
        'instance_id': INSTANCE,
        'project_id': 'p1',
        'user_id': 'u1',
        'name': 'mybox',
        'hostname': 'mybox',
        'host': 'node1',
        'state': sandbox.State.READY,
        'incarnation': str(uuid.uuid4()),
        'cgroup_parent': '/zun/x',
        'limits': sandbox.Limits(cpus=1.0, memory_mb=128, pids=4096, disk_gb=1),
        'pause': sandbox.PauseContainer(id='c0ffee', started_at='2026-01-01', boot_id='b'),
        'addresses': (
            sandbox.Address(
                network_id='n',
                port_id='q',
                mac='fa:16:3e:00:00:01',
                address='10.0.0.3',
                prefix_length=24,
                version=4,
            ),
        ),
        'running': ('a', 'b'),
        'metadata': {'k': 'v'},
    }
    return sandbox.Sandbox(**(values | changes))


@pytest.mark.parametrize(
    'changes', [{'paused': ('c',)}, {'pause': None, 'addresses': (), 'running': ()}]
)
def test_a_record_is_read_as_it_was_written(store, changes):
    store.create(INSTANCE)
    written = record(**changes)
    store.write(written)
    assert store.read(INSTANCE) == written


def test_what_has_no_record_reads_as_none(store):
    assert store.read(INSTANCE) is None
    store.create(INSTANCE)
    assert store.read(INSTANCE) is None


@pytest.mark.parametrize(
    ('content', 'error'),
    [
        ('', sandbox.SandboxCorrupt),
        ('null', sandbox.SandboxCorrupt),
        ('[]', sandbox.SandboxCorrupt),
        ('{"version": 1}', sandbox.SandboxCorrupt),
        ('{"version": "one"}', sandbox.SandboxCorrupt),
        ('{"version": 99, "anything": "new"}', sandbox.SandboxTooNew),
        (b'\xff\xfe', sandbox.SandboxCorrupt),
    ],
)
def test_a_record_that_is_not_ours_is_named_and_left_alone(store, content, error):
    path = store.create(INSTANCE) / 'sandbox.json'
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    with pytest.raises(error, match=INSTANCE):
        store.read(INSTANCE)
    assert path.read_bytes() == data


@pytest.mark.parametrize('field', ['state', 'limits', 'pause', 'addresses'])
def test_a_record_with_one_bad_field_is_corrupt(store, field):
    fields = json.loads(record().to_json())
    fields[field] = 'nonsense'
    with pytest.raises(sandbox.SandboxCorrupt):
        sandbox.Sandbox.from_json(json.dumps(fields))


def test_a_reader_never_sees_half_a_record(store):
    store.create(INSTANCE)
    store.write(record())
    stop = threading.Event()

    def write():
        while not stop.is_set():
            store.write(record(metadata={'k': 'v' * 50_000}))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            assert store.read(INSTANCE) is not None
    finally:
        stop.set()
        writer.join()


def test_files_of_the_directory_keep_their_inode(store):
    directory = store.create(INSTANCE)
    store.write_file(INSTANCE, 'hosts', 'a long line of text\n')
    before = (directory / 'hosts').stat().st_ino
    store.write_file(INSTANCE, 'hosts', 'short\n')
    assert (directory / 'hosts').read_text() == 'short\n'
    assert (directory / 'hosts').stat().st_ino == before


def test_the_group_may_write_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        store = sandbox.SandboxStore(tmp_path / 'state')
        store.prepare()
        directory = store.create(INSTANCE)
        store.write(record())
        with store.lock(INSTANCE, 1):
            lock = tmp_path / 'state' / 'locks' / INSTANCE
            assert stat.S_IMODE(lock.stat().st_mode) == 0o660
        assert stat.S_IMODE((directory / 'sandbox.json').stat().st_mode) == 0o660
        assert stat.S_IMODE(directory.stat().st_mode) == 0o2775
    finally:
        os.umask(before)


@pytest.mark.parametrize('there', [True, False])
def test_nobody_else_gets_at_what_tenants_have(tmp_path, there):
    store = sandbox.SandboxStore(tmp_path)
    if there:  # as an earlier version made it
        store.volumes_root.mkdir(mode=0o775)
    store.prepare()
    for directory in (store.root, store.volumes_root, tmp_path / 'locks'):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o2770
    store.create(INSTANCE)
    assert stat.S_IMODE(store.volumes(INSTANCE).stat().st_mode) == 0o2775  # containers' users do


def test_only_uuids_are_sandboxes(store):
    store.create(INSTANCE)
    (store.root / 'lost+found').mkdir()
    assert store.ids() == {INSTANCE}
    with pytest.raises(ValueError, match='badly formed'):
        store.directory('../../etc')


def test_removal_of_what_is_gone_succeeds(store):
    store.create(INSTANCE)
    store.remove(INSTANCE)
    store.remove(INSTANCE)
    store.discard_lock(INSTANCE)
    assert store.ids() == set()


def test_the_lock_excludes_another_thread_and_names_the_sandbox(store):
    with store.lock(INSTANCE, 1), store.lock(INSTANCE, 1):
        seen = []

        def other():
            try:
                with store.lock(INSTANCE, 0.05):
                    seen.append('in')
            except sandbox.SandboxBusy as error:
                seen.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(seen) == 1
    assert INSTANCE in seen[0]
    with store.lock(INSTANCE, 0.05):
        pass


def _hold(path, entered, leave):
    with sandbox.SandboxStore(path).lock(INSTANCE, 5):
        entered.set()
        leave.wait(10)


def test_the_lock_excludes_another_process_and_ends_with_it(tmp_path, store):
    context = multiprocessing.get_context('spawn')
    entered, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, entered, leave))
    process.start()
    assert entered.wait(20)
    with pytest.raises(sandbox.SandboxBusy), store.lock(INSTANCE, 0.05):
        pass
    process.kill()
    process.join()
    with store.lock(INSTANCE, 1):
        pass


def test_the_lock_stays_exclusive_while_its_file_comes_and_goes(store):
    inside = 0
    worst = 0

    def work():
        nonlocal inside, worst
        for _ in range(30):
            with store.lock(INSTANCE, 20):
                inside += 1
                worst = max(worst, inside)
                time.sleep(0.0005)
                inside -= 1
                store.discard_lock(INSTANCE)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == 1


@pytest.mark.parametrize(
    ('driver', 'parent'),
    [
        ('cgroupfs', '/zun/5f1c9a3e0c554a7a9a3d3c3f0f8f6b11'),
        ('systemd', 'zun-5f1c9a3e0c554a7a9a3d3c3f0f8f6b11.slice'),
    ],
)
def test_cgroup_parent(driver, parent):
    assert sandbox.cgroup_parent(INSTANCE, driver) == parent


def test_unknown_cgroup_driver_is_named():
    with pytest.raises(ValueError, match='none'):
        sandbox.cgroup_parent(INSTANCE, 'none')


def test_names():
    assert sandbox.sandbox_name(INSTANCE) == f'zun-sandbox-{INSTANCE}'
    assert sandbox.container_name(INSTANCE) == f'zun-{INSTANCE}'
