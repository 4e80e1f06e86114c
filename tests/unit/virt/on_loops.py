"""The place of a volume, on real loop devices."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time
import uuid

import pytest
from oslo_config import cfg

from zun_virt import conf, privsep
from zun_virt.privsep import filesystems

PROGRAMS = ('losetup', 'blkid', 'mkfs.ext4', 'mkfs.xfs', 'resize2fs', 'xfs_growfs', 'e2fsck')
SIZE = 320 << 20

NEEDED = pytest.mark.skipif(
    os.geteuid() != 0
    or not pathlib.Path('/dev/loop-control').exists()
    or not all(shutil.which(name, path='/usr/sbin:/sbin') for name in PROGRAMS),
    reason='root, loop devices and file system programs are needed',
)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def is_mounted(place):
    """Return whether something is mounted there, a part of the same file system included."""
    return f' {place} ' in pathlib.Path('/proc/self/mountinfo').read_text()


@contextlib.contextmanager
def place_of_a_volume(tmp_path):
    """The state directory, with the place for one volume."""
    conf.register(cfg.CONF)
    cfg.CONF.set_override('state_path', str(tmp_path), group='zun_virt')
    cfg.CONF.set_override('nfs_mount_point_base', str(tmp_path / 'share'), group='zun_virt')
    privsep.mounts.set_client_mode(False)
    found = tmp_path / 'volumes' / str(uuid.uuid4()) / str(uuid.uuid4())
    found.mkdir(parents=True)
    filesystems.share()
    (tmp_path / 'share').mkdir()
    yield found
    with contextlib.suppress(OSError):
        filesystems.unmount(str(found))
    for file in (tmp_path / 'share').iterdir():
        filesystems.disconnect(str(file))
    # systemd shares all mounts, and then this one takes nothing.
    if is_mounted(tmp_path / 'volumes'):
        run('umount', str(tmp_path / 'volumes'))
    assert str(tmp_path) not in pathlib.Path('/proc/self/mountinfo').read_text()
    until_loops_are(tmp_path, [])
    privsep.mounts.set_client_mode(True)
    cfg.CONF.clear_override('state_path', group='zun_virt')
    cfg.CONF.clear_override('nfs_mount_point_base', group='zun_virt')


def loops(below):
    """Return the loop devices of files below a directory."""
    return [line for line in run('losetup', '--list').splitlines() if f'{below}/share' in line]


def until_loops_are(below, devices):
    """Wait for udev, which looks into a loop device for a moment and keeps it meanwhile."""
    deadline = time.monotonic() + 30
    while [line.split()[0] for line in loops(below)] != devices:
        assert time.monotonic() < deadline, loops(below)
        time.sleep(0.1)


def blank(place):
    """Make a file that is a volume."""
    made = place.parents[2] / 'share' / f'volume-{place.name}'
    with open(made, 'wb') as stream:
        stream.truncate(SIZE)
    return made


def extended(file):
    with open(file, 'r+b') as stream:
        stream.truncate(2 * SIZE)


def room(place):
    found = os.statvfs(place)
    return found.f_blocks * found.f_frsize
