"""Bounds of block I/O against the kernel itself with cgroup v2, on disks that are there."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import pytest

from zun_virt import cgroup, privsep, resources, sandbox

KIB, MIB = 1 << 10, 1 << 20
ROOT = pathlib.Path('/sys/fs/cgroup')
SYSTEMD = pathlib.Path('/run/systemd/system').is_dir()
PROGRAMS = ('losetup', 'sfdisk', 'dmsetup', 'mkfs.ext4', 'mount', 'umount')
LIMITS = cgroup.Limits(quota=None, period=100_000, shares=1024, memory=256 * MIB, pids=50)
FILE = 8 * MIB
SECONDS = 3.0
# Past the page cache; the mapping has the alignment that this takes.
MEASURES = """
import mmap, os, sys, time
path, way, size, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
blocks = os.stat(path).st_size // size
buffer, done = mmap.mmap(-1, size), 0
file = os.open(path, os.O_RDWR | os.O_DIRECT)
begin = time.monotonic()
while time.monotonic() - begin < seconds:
    at = done % blocks * size
    moved = os.pwritev(file, [buffer], at) if way == 'write' else os.preadv(file, [buffer], at)
    assert moved == size
    done += 1
print(done / (time.monotonic() - begin))
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or not (ROOT / 'cgroup.controllers').exists()
    or 'io' not in (ROOT / 'cgroup.controllers').read_text().split(),
    reason='needs root, and cgroup v2 with its io controller',
)


@dataclasses.dataclass(frozen=True)
class Box:
    """A sandbox's cgroup, and a file on a disk."""

    cgroups: cgroup.Cgroups
    parent: str
    file: pathlib.Path

    @property
    def disk(self) -> str:
        """The disk's number, as the driver finds it."""
        found = resources.disk_of(str(self.file.parent))
        assert found is not None
        return found

    def limits(self, **bounds: int) -> cgroup.Limits:
        """Return limits with bounds, as a flavor has them that names some."""
        io = cgroup.Io(device=self.disk, **bounds) if bounds else None
        return dataclasses.replace(LIMITS, io=io)

    def rate(self, way: str, size: int) -> float:
        """Measure how many requests a second a process in the cgroup gets done.

        :param way: ``read`` or ``write``
        :param size: of a request, in bytes
        """
        begin: list[str] = []
        if self.parent.endswith('.slice'):
            begin = ['systemd-run', '--quiet', '--scope', f'--slice={self.parent}']
        command = [sys.executable, '-c', MEASURES, str(self.file), way, str(size), str(SECONDS)]
        done = subprocess.run(
            [*begin, *command],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
            preexec_fn=None if begin else self._enter,
        )
        rate = float(done.stdout)
        print(f'{self.parent}: {way} {size}: {rate:.2f}/s, {rate * size / MIB:.2f} MiB/s')
        return rate

    def holds(self, way: str, size: int, bound: int) -> bool:
        """Measure whether so many requests a second are what a process gets done.

        A machine that stood still for a moment is asked again.
        """
        for _ in range(3):
            rate = self.rate(way, size)
            if rate > 0.7 * bound:
                return rate < 1.3 * bound
        return False

    def bounds(self) -> str:
        """Return the kernel's account of the bounds, after a moment for systemd."""
        time.sleep(1 if SYSTEMD else 0)
        return (directory(self.parent) / 'io.max').read_text().strip()

    def _enter(self) -> None:
        own = directory(self.parent) / uuid.uuid4().hex
        own.mkdir()
        (own / 'cgroup.procs').write_text(str(os.getpid()))


def directory(parent: str) -> pathlib.Path:
    """Return where the kernel has a cgroup parent."""
    return ROOT / 'zun.slice' / parent if parent.endswith('.slice') else ROOT / parent[1:]


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


def fill(file: pathlib.Path) -> pathlib.Path:
    """Give a file its blocks: to have them found is no part of what is measured."""
    with file.open('wb') as stream:
        stream.write(os.urandom(FILE))
        os.fsync(stream.fileno())
    return file


@contextlib.contextmanager
def boxed(driver: str, file: pathlib.Path) -> Iterator[Box]:
    """Make the cgroup of a sandbox whose limits have no bounds."""
    for context in (privsep.network, privsep.mounts):
        context.set_client_mode(False)
    cgroups = cgroup.make(driver, 2, str(ROOT))
    parent = sandbox.cgroup_parent(str(uuid.uuid4()), driver)
    try:
        cgroups.create(parent, LIMITS)
        yield Box(cgroups, parent, fill(file))
        cgroups.remove(parent)
    finally:
        cgroups.remove(parent)
        for context in (privsep.network, privsep.mounts):
            context.set_client_mode(True)


@pytest.fixture
def box(driver: str, tmp_path: pathlib.Path) -> Iterator[Box]:
    """On the disk that has the machine's temporary files, as a rule the one of its root."""
    if resources.disk_of(str(tmp_path)) is None:
        pytest.skip('temporary files are on no disk here')
    with boxed(driver, tmp_path / 'file') as made:
        yield made


@pytest.mark.parametrize('way', ['read', 'write'])
def test_bytes_are_bounded(box: Box, way: str) -> None:
    assert box.rate(way, 64 * KIB) > 3 * 16  # else the machine shows nothing
    bounds = {f'{way}_bytes': MIB}
    box.cgroups.update(box.parent, box.limits(**bounds), LIMITS)
    assert box.holds(way, 64 * KIB, 16)
    other = 'read' if way == 'write' else 'write'
    assert box.rate(other, 64 * KIB) > 3 * 16


@pytest.mark.parametrize('way', ['read', 'write'])
def test_requests_are_bounded(box: Box, way: str) -> None:
    assert box.rate(way, 4 * KIB) > 3 * 10
    box.cgroups.update(box.parent, box.limits(**{f'{way}_requests': 10}), LIMITS)
    assert box.holds(way, 4 * KIB, 10)


def test_bounds_follow_the_flavor(box: Box) -> None:
    """As a sandbox is resized while it runs, and as that is reverted."""
    small, large = box.limits(write_bytes=MIB), box.limits(write_bytes=2 * MIB, read_requests=99)
    box.cgroups.update(box.parent, small, LIMITS)
    assert box.bounds() == f'{box.disk} rbps=max wbps={MIB} riops=max wiops=max'
    box.cgroups.update(box.parent, large, small)
    assert box.bounds() == f'{box.disk} rbps=max wbps={2 * MIB} riops=99 wiops=max'
    assert box.holds('write', 64 * KIB, 32)
    box.cgroups.update(box.parent, LIMITS, large)
    assert box.bounds() == ''
    assert box.rate('write', 64 * KIB) > 3 * 16
    box.cgroups.update(box.parent, small, LIMITS)
    # Of what a revert takes back nova tells no more.
    box.cgroups.update(box.parent, LIMITS, LIMITS)
    assert box.bounds() == ''


def test_bounds_of_a_former_flavor_go_at_the_next_start(box: Box) -> None:
    """As a sandbox is resized while it is stopped: its cgroup stays."""
    box.cgroups.create(box.parent, box.limits(write_bytes=MIB))
    assert f'wbps={MIB}' in box.bounds()
    box.cgroups.create(box.parent, LIMITS)
    assert box.bounds() == ''


@pytest.mark.skipif(not SYSTEMD, reason='systemd is not the init')
def test_bounds_outlast_a_reload_of_systemd(box: Box) -> None:
    box.cgroups.update(box.parent, box.limits(write_bytes=MIB), LIMITS)
    before = box.bounds()
    assert f'wbps={MIB}' in before
    subprocess.run(['systemctl', 'daemon-reload'], check=True, timeout=120)
    assert box.bounds() == before
    assert box.holds('write', 64 * KIB, 16)
    box.cgroups.update(box.parent, LIMITS, box.limits(write_bytes=MIB))
    subprocess.run(['systemctl', 'daemon-reload'], check=True, timeout=120)
    assert box.bounds() == ''


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


@contextlib.contextmanager
def disk(directory: pathlib.Path, kind: str) -> Iterator[tuple[str, pathlib.Path]]:
    """Make a disk of a kind and mount it; gives the number of the whole disk, and where it is."""
    image, place = directory / 'image', directory / 'place'
    with image.open('wb') as stream:
        stream.truncate(64 * MIB)
    place.mkdir()
    with contextlib.ExitStack() as undo:
        if kind == 'partition':
            subprocess.run(['sfdisk', '-q', image], input=',,L\n', text=True, check=True)
        whole = device = run('losetup', '--find', '--show', '--partscan', str(image))
        undo.callback(run, 'losetup', '--detach', whole)
        if kind == 'partition':
            device = f'{whole}p1'
        elif kind == 'mapped':
            name, sectors = f'zun-test-{uuid.uuid4().hex}', 64 * MIB // 512
            run('dmsetup', 'create', name, '--table', f'0 {sectors} linear {whole} 0')
            undo.callback(run, 'dmsetup', 'remove', '--retry', name)
            device = f'/dev/mapper/{name}'
        run('mkfs.ext4', '-q', device)
        run('mount', device, str(place))
        undo.callback(run, 'umount', str(place))
        number = os.stat(whole).st_rdev
        yield f'{os.major(number)}:{os.minor(number)}', place


@pytest.mark.skipif(
    not all(shutil.which(name, path='/usr/sbin:/sbin:/usr/bin:/bin') for name in PROGRAMS)
    or not pathlib.Path('/dev/loop-control').exists(),
    reason='loop devices and the programs of disks are needed',
)
@pytest.mark.parametrize('kind', ['whole', 'partition', 'mapped'])
def test_whatever_is_below_the_data(driver: str, kind: str, tmp_path: pathlib.Path) -> None:
    with disk(tmp_path, kind) as (whole, place), boxed(driver, place / 'file') as box:
        assert box.rate('write', 64 * KIB) > 3 * 16
        box.cgroups.update(box.parent, box.limits(write_bytes=MIB), LIMITS)
        # systemd goes on to the disk below a device that is mapped.
        expected = box.disk if (driver, kind) == ('cgroupfs', 'mapped') else whole
        assert box.bounds() == f'{expected} rbps=max wbps={MIB} riops=max wiops=max'
        assert box.holds('write', 64 * KIB, 16)
        box.cgroups.update(box.parent, LIMITS, LIMITS)
        assert box.bounds() == ''
