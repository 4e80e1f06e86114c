"""What root does for volumes, on real loop devices; needs root, and is skipped without."""

import contextlib
import errno
import os
import pathlib
import shutil
import subprocess
import uuid

import pytest
from oslo_config import cfg

from zun_virt import conf, privsep
from zun_virt.privsep import filesystems

PROGRAMS = ('losetup', 'blkid', 'mkfs.ext4', 'mkfs.xfs', 'resize2fs', 'xfs_growfs', 'e2fsck')
SIZE = 320 << 20

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or not pathlib.Path('/dev/loop-control').exists()
    or not all(shutil.which(name, path='/usr/sbin:/sbin') for name in PROGRAMS),
    reason='root, loop devices and file system programs are needed',
)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def place(tmp_path):
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
    run('umount', str(tmp_path / 'volumes'))
    assert str(tmp_path) not in pathlib.Path('/proc/self/mountinfo').read_text()
    assert loops(tmp_path) == []
    privsep.mounts.set_client_mode(True)
    cfg.CONF.clear_override('state_path', group='zun_virt')
    cfg.CONF.clear_override('nfs_mount_point_base', group='zun_virt')


def loops(below):
    """Return the loop devices of files below a directory."""
    return [line for line in run('losetup', '--list').splitlines() if f'{below}/share' in line]


@pytest.fixture
def file(place):
    made = place.parents[2] / 'share' / f'volume-{place.name}'
    with open(made, 'wb') as stream:
        stream.truncate(SIZE)
    return made


def options(place):
    lines = pathlib.Path('/proc/self/mounts').read_text().splitlines()
    return next(line.split()[3] for line in lines if line.split()[1] == str(place)).split(',')


@pytest.mark.parametrize('kind', filesystems.KINDS)
def test_from_blank_to_gone(place, file, kind):
    device = filesystems.connect(str(file), False)
    assert filesystems.connect(str(file), False) == device
    assert filesystems.probe(device) == ('', True)
    filesystems.make(device, kind)
    assert filesystems.probe(device) == (kind, False)
    with pytest.raises(privsep.PrivilegedError, match='not blank'):
        filesystems.make(device, kind)
    filesystems.mount(device, str(place), kind, False)
    assert {'rw', 'nosuid', 'nodev'} <= set(options(place))
    assert filesystems.mounted(place.parent) == {place.name: device}
    assert filesystems.kind_of(place) == kind
    (place / 'kept').write_text('data')
    with open(place / 'kept') as _, pytest.raises(OSError, match='busy') as caught:
        filesystems.unmount(str(place))
    assert caught.value.errno == errno.EBUSY
    filesystems.unmount(str(place))
    filesystems.unmount(str(place))
    # Nobody had to give it back.
    assert loops(place.parents[2]) == []
    assert list(place.iterdir()) == []
    device = filesystems.connect(str(file), True)
    filesystems.mount(device, str(place), kind, True)
    assert (place / 'kept').read_text() == 'data'
    with pytest.raises(OSError, match='Read-only'):
        (place / 'new').touch()


def test_an_interrupted_attempt_can_be_repeated_or_undone(place, file):
    device = filesystems.connect(str(file), False)
    # Now as another kind of attachment: the device is made anew, not taken as it is.
    again = filesystems.connect(str(file), True)
    assert len(loops(place.parents[2])) == 1
    assert pathlib.Path('/sys/block', again[5:], 'ro').read_text() == '1\n'
    filesystems.disconnect(str(file))
    filesystems.disconnect(str(file))
    assert loops(place.parents[2]) == []
    assert device.startswith('/dev/loop')


def test_what_a_death_left_is_swept_and_what_is_mounted_is_not(place, file):
    other = file.with_name(f'volume-{uuid.uuid4()}')
    shutil.copy(file, other)
    device = filesystems.connect(str(file), False)
    filesystems.make(device, 'ext4')
    filesystems.mount(device, str(place), 'ext4', False)
    filesystems.connect(str(other), False)
    filesystems.sweep()
    assert [line.split()[0] for line in loops(place.parents[2])] == [device]
    (place / 'still').touch()


@pytest.mark.parametrize('at', [0, 1 << 20, SIZE // 2, SIZE - 4096])
def test_what_blkid_does_not_know_is_not_blank(place, file, at):
    with open(file, 'r+b') as stream:
        stream.seek(at)
        stream.write(b'\x01precious')
    device = filesystems.connect(str(file), False)
    assert filesystems.probe(device) == ('', False)
    with pytest.raises(privsep.PrivilegedError, match='not blank'):
        filesystems.make(device, 'ext4')


def test_other_signatures_are_named(place, file):
    run('mkswap', str(file))
    device = filesystems.connect(str(file), False)
    assert filesystems.probe(device) == ('swap', False)
    with pytest.raises(privsep.PrivilegedError, match='not blank'):
        filesystems.make(device, 'ext4')
    with pytest.raises(privsep.PrivilegedError, match='refused'):
        filesystems.mount(device, str(place), 'swap', False)


def extended(file):
    with open(file, 'r+b') as stream:
        stream.truncate(2 * SIZE)


def room(place):
    found = os.statvfs(place)
    return found.f_blocks * found.f_frsize


def test_growing_while_in_use(place, file):
    device = filesystems.connect(str(file), False)
    filesystems.make(device, 'xfs')
    filesystems.mount(device, str(place), 'xfs', False)
    before = room(place)
    extended(file)
    with open(place / 'open', 'w'):
        assert filesystems.grow(str(place)) == 2 * SIZE
    assert room(place) > before + SIZE * 0.8


def test_ext4_grows_while_in_use_where_the_kernel_allows_it(place, file):
    device = filesystems.connect(str(file), False)
    filesystems.make(device, 'ext4')
    filesystems.mount(device, str(place), 'ext4', False)
    before = room(place)
    extended(file)
    try:
        filesystems.grow(str(place))
    except privsep.PrivilegedError as error:
        # CAP_SYS_RESOURCE is not to be had in every virtual machine.
        assert 'Permission denied' in str(error)
        assert room(place) == before
    else:
        assert room(place) > before + SIZE * 0.8


@pytest.mark.parametrize('kind', filesystems.KINDS)
def test_one_extended_meanwhile_grows_when_it_is_mounted(place, file, kind):
    device = filesystems.connect(str(file), False)
    filesystems.make(device, kind)
    filesystems.mount(device, str(place), kind, False)
    (place / 'kept').write_text('data')
    before = room(place)
    filesystems.unmount(str(place))
    extended(file)
    filesystems.mount(filesystems.connect(str(file), False), str(place), kind, False)
    assert room(place) > before + SIZE * 0.8
    assert (place / 'kept').read_text() == 'data'


def test_a_copy_is_mounted_beside_the_original(place, file):
    device = filesystems.connect(str(file), False)
    filesystems.make(device, 'xfs')
    copy = file.with_name(f'volume-{uuid.uuid4()}')
    shutil.copy(file, copy)
    filesystems.mount(device, str(place), 'xfs', False)
    other = place.with_name(str(uuid.uuid4()))
    other.mkdir()
    filesystems.mount(filesystems.connect(str(copy), False), str(other), 'xfs', False)
    filesystems.unmount(str(other))


def test_sharing_is_done_once(place):
    before = pathlib.Path('/proc/self/mountinfo').read_text()
    filesystems.share()
    assert pathlib.Path('/proc/self/mountinfo').read_text() == before


def test_root_touches_no_other_file_device_or_place(place, file):
    outside = place.parents[2] / 'other'
    outside.write_bytes(bytes(1 << 20))
    (file.parent / 'link').symlink_to(outside)
    for path in (outside, file.parent / 'link', '/etc/passwd', file.parent / 'none', '/dev/null'):
        with pytest.raises(privsep.PrivilegedError):
            filesystems.connect(str(path), False)
    (file.parent / 'link').unlink()
    device = filesystems.connect(str(file), False)
    filesystems.make(device, 'ext4')
    elsewhere = place.parents[2] / 'elsewhere' / place.name
    elsewhere.mkdir(parents=True)
    (place.parents[1] / str(uuid.uuid4())).symlink_to(elsewhere.parent)
    link = next(path for path in place.parents[1].iterdir() if path.is_symlink())
    for target in ('/mnt', elsewhere, link / place.name, f'{place}/../../x', place.parent):
        with pytest.raises(privsep.PrivilegedError, match='refused'):
            filesystems.mount(device, str(target), 'ext4', False)
        with pytest.raises(privsep.PrivilegedError, match='refused'):
            filesystems.unmount(str(target))
        with pytest.raises(privsep.PrivilegedError, match='refused'):
            filesystems.grow(str(target))
    filesystems.mount(device, str(place), 'ext4', False)
    # In use, by us or by others.
    with pytest.raises(OSError, match='busy'):
        filesystems.make(device, 'ext4')
    with pytest.raises(privsep.PrivilegedError, match='not a block device'):
        filesystems.probe('/dev/null')
