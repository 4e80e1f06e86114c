"""Limits against the kernel itself, where this user may write cgroups."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import uuid

import pytest

from zun_virt import cgroup, privsep

MIB = 1 << 20
ROOT = pathlib.Path('/sys/fs/cgroup')
LIMITS = cgroup.Limits(quota=100_000, period=100_000, shares=1024, memory=128 * MIB, pids=50)
CONTAINER = 'c' * 64
HOLDS_60_MIB = 'import sys; x = bytearray(60 << 20); print(flush=True); sys.stdin.read()'

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(ROOT / 'memory', os.W_OK) or os.cpu_count() < 2,
    reason='needs root, cgroup v1 and two cores',
)


@pytest.fixture
def cgroups():
    for context in (privsep.network, privsep.mounts):
        context.set_client_mode(False)
    yield cgroup.make('cgroupfs', 1, str(ROOT))
    for context in (privsep.network, privsep.mounts):
        context.set_client_mode(True)


@pytest.fixture
def parent(cgroups):
    name = f'/zun/{uuid.uuid4().hex}'
    before = set(ROOT.glob('*/zun'))
    cgroups.create(name, LIMITS)
    yield name
    cgroups.remove(name)
    for directory in set(ROOT.glob('*/zun')) - before:
        directory.rmdir()


@pytest.fixture
def container(parent):
    """A process that holds memory, in a cgroup like that of a container."""
    trees = ('memory', 'cpu', 'cpuacct', 'cpuset', 'pids')
    own = {tree: ROOT / tree / parent[1:] / CONTAINER for tree in trees}
    with contextlib.ExitStack() as undo:
        for directory in own.values():
            directory.mkdir(parents=True)
        process = subprocess.Popen(
            [sys.executable, '-c', HOLDS_60_MIB],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: _enter(*(own[tree] for tree in trees if tree != 'cpuset')),
        )
        undo.callback(process.wait, 10)
        undo.callback(process.communicate)
        process.stdout.readline()
        yield own


def _enter(*directories):
    for directory in directories:
        (directory / 'cgroup.procs').write_text(str(os.getpid()))


def read(parent, tree, name):
    return (ROOT / tree / parent[1:] / name).read_text().strip()


def test_limits_change_while_a_process_runs(cgroups, parent, container):
    new = dataclasses.replace(LIMITS, memory=256 * MIB, quota=50_000, period=50_000, pids=20)
    cgroups.update(parent, new, LIMITS)
    assert read(parent, 'memory', 'memory.limit_in_bytes') == str(256 * MIB)
    assert read(parent, 'cpu', 'cpu.cfs_quota_us') == '50000'
    assert read(parent, 'pids', 'pids.max') == '20'
    cgroups.update(parent, LIMITS, new)
    assert read(parent, 'memory', 'memory.limit_in_bytes') == str(128 * MIB)


def test_memory_in_use_is_refused(cgroups, parent, container):
    small = dataclasses.replace(LIMITS, memory=32 * MIB, quota=50_000)
    with pytest.raises(cgroup.LimitsInUse, match='32 MiB of memory would be less than the 6'):
        cgroups.update(parent, small, LIMITS)
    assert read(parent, 'memory', 'memory.limit_in_bytes') == str(128 * MIB)
    assert read(parent, 'cpu', 'cpu.cfs_quota_us') == '100000'


def test_what_the_kernel_itself_refuses_is_rolled_back(cgroups, parent, container, monkeypatch):
    # As when more is used between the look and the change.
    monkeypatch.setattr(cgroup.trees.usage, 'conflict', lambda *_: None)
    small = dataclasses.replace(LIMITS, memory=32 * MIB, quota=50_000)
    with pytest.raises(cgroup.LimitsInUse, match='in use'):
        cgroups.update(parent, small, LIMITS)
    assert read(parent, 'memory', 'memory.limit_in_bytes') == str(128 * MIB)
    assert read(parent, 'cpu', 'cpu.cfs_quota_us') == '100000'


def test_a_containers_own_share_is_kept_through_a_change_of_period(cgroups, parent, container):
    (container['cpu'] / 'cpu.cfs_period_us').write_text('100000')
    (container['cpu'] / 'cpu.cfs_quota_us').write_text('75000')
    cgroups.update(parent, dataclasses.replace(LIMITS, period=200_000, quota=160_000), LIMITS)
    assert read(parent, 'cpu', 'cpu.cfs_quota_us') == '160000'
    with pytest.raises(cgroup.LimitsInUse, match=r'0\.5 cores would be less than the 0\.75'):
        cgroups.update(parent, dataclasses.replace(LIMITS, quota=50_000), LIMITS)


def test_cores_move_under_a_container(cgroups, parent, container):
    first = dataclasses.replace(LIMITS, cpus='0')
    cgroups.update(parent, first, LIMITS)
    for name in ('cpuset.mems', 'cpuset.cpus'):
        (container['cpuset'] / name).write_text('0')
    cgroups.update(parent, dataclasses.replace(LIMITS, cpus='1'), first)
    assert read(parent, 'cpuset', 'cpuset.cpus') == '1'
    assert (container['cpuset'] / 'cpuset.cpus').read_text().strip() == '1'


def test_all_cores_come_back(cgroups, parent):
    """As where the host's sets of cores were taken away while the sandbox was stopped."""
    everything = (ROOT / 'cpuset' / 'cpuset.cpus').read_text().strip()
    some = dataclasses.replace(LIMITS, cpus='0')
    cgroups.create(parent, some)
    assert read(parent, 'cpuset', 'cpuset.cpus') == '0'
    cgroups.create(parent, LIMITS)
    assert read(parent, 'cpuset', 'cpuset.cpus') == everything
    cgroups.update(parent, some, LIMITS)
    cgroups.update(parent, LIMITS, LIMITS)
    assert read(parent, 'cpuset', 'cpuset.cpus') == everything


def test_use_is_told(cgroups, parent, container):
    found = cgroups.usage(parent)
    assert found['memory'] > 60 * MIB
    assert found['pids'] == 1
    assert found['cpu'] > 0


def test_what_docker_lost_sight_of_is_killed_with_its_cgroup(cgroups, parent, container):
    cgroups.remove(parent)
    assert not list(ROOT.glob(f'*{parent}'))


def test_processes_that_are_not_roots_are_waited_for(cgroups, parent, container, monkeypatch):
    def refuse(process, number):
        real(process, number)  # as the end of the first process ends it
        raise PermissionError(1, 'Operation not permitted')

    real = os.kill
    monkeypatch.setattr(os, 'kill', refuse)
    cgroups.remove(parent)
    assert not list(ROOT.glob(f'*{parent}'))
