"""Limits against the kernel itself with cgroup v2: written by us, and by systemd where it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import pytest

from zun_virt import cgroup, privsep, sandbox

MIB = 1 << 20
ROOT = pathlib.Path('/sys/fs/cgroup')
LIMITS = cgroup.Limits(quota=100_000, period=100_000, shares=1024, memory=128 * MIB, pids=50)
CONTAINER = 'c' * 64
HOLDS_60_MIB = [
    sys.executable,
    '-c',
    'import sys; x = bytearray(60 << 20); print(flush=True); sys.stdin.read()',
]
SYSTEMD = pathlib.Path('/run/systemd/system').is_dir()

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not (ROOT / 'cgroup.controllers').exists() or os.cpu_count() == 1,
    reason='needs root, cgroup v2 and two cores',
)


@pytest.fixture(
    params=[
        'cgroupfs',
        pytest.param(
            'systemd', marks=pytest.mark.skipif(not SYSTEMD, reason='systemd is not the init')
        ),
    ]
)
def driver(request: pytest.FixtureRequest) -> str:
    """Docker's cgroup driver."""
    return str(request.param)


@pytest.fixture
def cgroups(driver: str) -> Iterator[cgroup.Cgroups]:
    for context in (privsep.network, privsep.mounts):
        context.set_client_mode(False)
    yield cgroup.make(driver, 2, str(ROOT))
    for context in (privsep.network, privsep.mounts):
        context.set_client_mode(True)


@pytest.fixture
def parent(cgroups: cgroup.Cgroups, driver: str) -> Iterator[str]:
    name = sandbox.cgroup_parent(str(uuid.uuid4()), driver)
    cgroups.create(name, LIMITS)
    yield name
    cgroups.remove(name)


def directory(parent: str) -> pathlib.Path:
    """Return where the kernel has a cgroup parent."""
    return ROOT / 'zun.slice' / parent if parent.endswith('.slice') else ROOT / parent[1:]


@pytest.fixture
def container(parent: str) -> Iterator[pathlib.Path]:
    """A process that holds memory, in a cgroup like that of a container, which it yields."""
    own = directory(parent)
    if parent.endswith('.slice'):
        scope = f'docker-{CONTAINER}.scope'
        begin = ['systemd-run', '--quiet', '--scope', f'--slice={parent}', f'--unit={scope}']
        own, enter = own / scope, None
    else:
        (own / 'cgroup.subtree_control').write_text('+cpu +memory +pids')
        own, begin = own / CONTAINER, []
        own.mkdir()

        def enter() -> None:
            (own / 'cgroup.procs').write_text(str(os.getpid()))

    with contextlib.ExitStack() as undo:
        process = subprocess.Popen(
            [*begin, *HOLDS_60_MIB],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=enter,
        )
        undo.callback(process.wait, 30)
        undo.callback(process.communicate)
        assert process.stdout is not None
        process.stdout.readline()
        yield own


def read(parent: str, name: str) -> str:
    return (directory(parent) / name).read_text().strip()


def test_limits_are_the_kernels(parent: str) -> None:
    assert _settled(parent, 'cpu.max', '100000 100000')
    assert _settled(parent, 'cpu.weight', '39')
    assert _settled(parent, 'memory.max', str(128 * MIB))
    assert _settled(parent, 'memory.swap.max', '0')
    assert _settled(parent, 'pids.max', '50')


def test_limits_change_while_a_process_runs(
    cgroups: cgroup.Cgroups, parent: str, container: pathlib.Path
) -> None:
    new = dataclasses.replace(LIMITS, memory=256 * MIB, quota=50_000, pids=20)
    cgroups.update(parent, new, LIMITS)
    assert _settled(parent, 'memory.max', str(256 * MIB))
    assert _settled(parent, 'cpu.max', '50000 100000')
    assert _settled(parent, 'pids.max', '20')
    cgroups.update(parent, LIMITS, new)
    assert _settled(parent, 'memory.max', str(128 * MIB))


def test_memory_in_use_is_refused(
    cgroups: cgroup.Cgroups, parent: str, container: pathlib.Path
) -> None:
    """The kernel would kill until the rest fits."""
    small = dataclasses.replace(LIMITS, memory=32 * MIB, quota=50_000)
    with pytest.raises(cgroup.LimitsInUse, match='32 MiB of memory would be less than the'):
        cgroups.update(parent, small, LIMITS)
    assert read(parent, 'memory.max') == str(128 * MIB)
    assert read(parent, 'cpu.max') == '100000 100000'
    assert (container / 'cgroup.procs').read_text().strip()


def test_a_containers_own_limit_is_kept(
    cgroups: cgroup.Cgroups, parent: str, container: pathlib.Path
) -> None:
    if parent.endswith('.slice'):
        subprocess.run(
            ['systemctl', 'set-property', '--runtime', container.name, 'CPUQuota=75%'], check=True
        )
    else:
        (container / 'cpu.max').write_text('75000 100000')
    with pytest.raises(cgroup.LimitsInUse, match=r'0\.5 cores would be less than the 0\.75'):
        cgroups.update(parent, dataclasses.replace(LIMITS, quota=50_000), LIMITS)


def test_cores_move_under_a_container(
    cgroups: cgroup.Cgroups, parent: str, container: pathlib.Path
) -> None:
    first = dataclasses.replace(LIMITS, cpus='0')
    cgroups.update(parent, first, LIMITS)
    assert _settled(parent, 'cpuset.cpus.effective', '0')
    cgroups.update(parent, dataclasses.replace(LIMITS, cpus='1'), first)
    assert _settled(parent, 'cpuset.cpus.effective', '1')


def test_all_cores_come_back(cgroups: cgroup.Cgroups, parent: str, driver: str) -> None:
    """As where the host's sets of cores were taken away while the sandbox was stopped."""
    everything = (ROOT / 'cpuset.cpus.effective').read_text().strip()
    some = dataclasses.replace(LIMITS, cpus='0')
    # One that stays where it is: systemd takes the files away when no slice needs them.
    other = sandbox.cgroup_parent(str(uuid.uuid4()), driver)
    cgroups.create(other, some)
    try:
        cgroups.create(parent, some)
        assert _settled(parent, 'cpuset.cpus.effective', '0')
        cgroups.create(parent, LIMITS)
        assert _settled(parent, 'cpuset.cpus.effective', everything)
        cgroups.update(parent, some, LIMITS)
        assert _settled(parent, 'cpuset.cpus.effective', '0')
        cgroups.update(parent, LIMITS, LIMITS)
        assert _settled(parent, 'cpuset.cpus.effective', everything)
        assert read(other, 'cpuset.cpus.effective') == '0'
    finally:
        cgroups.remove(other)


def _settled(parent: str, name: str, value: str) -> bool:
    """Wait until a file of the kernel has a value; systemd writes it a moment later."""
    for _ in range(50):
        if (directory(parent) / name).exists() and read(parent, name) == value:
            return True
        time.sleep(0.1)
    return False


def test_use_is_told(cgroups: cgroup.Cgroups, parent: str, container: pathlib.Path) -> None:
    found = cgroups.usage(parent)
    assert found['memory'] > 60 * MIB
    assert found['pids'] >= 1
    assert found['cpu'] > 0
    assert found['oom_kills'] == 0


def test_what_docker_lost_sight_of_is_killed_with_its_cgroup(
    cgroups: cgroup.Cgroups, parent: str, container: pathlib.Path
) -> None:
    cgroups.remove(parent)
    assert not directory(parent).exists()
    cgroups.remove(parent)  # one that has gone is fine


def test_what_is_there_is_brought_up_to_date(cgroups: cgroup.Cgroups, parent: str) -> None:
    """As after a reboot of the host, or where a start was cut off."""
    cgroups.create(parent, dataclasses.replace(LIMITS, memory=64 * MIB, pids=10))
    assert _settled(parent, 'memory.max', str(64 * MIB))
    assert _settled(parent, 'pids.max', '10')


def test_what_is_made_anew_at_once_has_its_limits(cgroups: cgroup.Cgroups, parent: str) -> None:
    """As by a rebuild: systemd is not done with the old one when it has said so."""
    for _ in range(5):
        cgroups.remove(parent)
        cgroups.create(parent, LIMITS)
        assert _settled(parent, 'memory.max', str(128 * MIB))
        time.sleep(0.3)
        assert read(parent, 'memory.max') == str(128 * MIB)
