"""What root does for volumes, on real loop devices; needs root, and is skipped without."""

import errno
import os
import pathlib
import shutil
import threading
import time
import uuid

import pytest

from tests.unit.virt.on_loops import (
    NEEDED,
    SIZE,
    blank,
    extended,
    loops,
    place_of_a_volume,
    run,
    until_loops_are,
)
from zun_virt import privsep
from zun_virt.privsep import filesystems
from zun_virt.privsep import loops as loop_devices

pytestmark = NEEDED


@pytest.fixture
def place(tmp_path):
    """The place of a volume, in a state directory."""
    with place_of_a_volume(tmp_path) as found:
        yield found


@pytest.fixture
def file(place):
    return blank(place)


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
    until_loops_are(place.parents[2], [])
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
    until_loops_are(place.parents[2], [])
    assert device.startswith('/dev/loop')


def test_a_loop_device_that_is_about_to_go_is_not_taken(place, file):
    """It could be another volume's when it is mounted."""
    device = filesystems.connect(str(file), False)
    holder = os.open(device, os.O_RDONLY)  # as udev does
    threading.Timer(1.0, os.close, [holder]).start()
    filesystems.disconnect(str(file))
    assert len(loops(place.parents[2])) == 1
    begin = time.monotonic()
    filesystems.connect(str(file), False)
    assert time.monotonic() - begin > 0.5
    (found,) = loops(place.parents[2])
    assert found.split()[3] == '0', 'it goes by itself'


def test_a_loop_device_that_goes_while_it_is_looked_at_is_not_taken(place, file, monkeypatch):
    device = filesystems.connect(str(file), False)
    read = pathlib.Path.read_text

    def goes(path, *arguments):
        if path.name == 'autoclear' and path.parts[3] == device[5:]:
            raise OSError(errno.ENODEV, 'as the kernel says of what was open already')
        return read(path, *arguments)

    monkeypatch.setattr(pathlib.Path, 'read_text', goes)
    filesystems.connect(str(file), False)
    assert len(loops(place.parents[2])) == 1


def test_a_file_that_is_in_use_is_not_connected_again(place, file, monkeypatch):
    """Its file system would be mounted twice, which destroys it."""
    monkeypatch.setattr(loop_devices, '_GOING_SECONDS', 0.1)
    device = filesystems.connect(str(file), False)
    filesystems.make(device, 'ext4')
    filesystems.mount(device, str(place), 'ext4', False)
    for read_only in (False, True):
        with pytest.raises(privsep.PrivilegedError, match='still in use'):
            filesystems.connect(str(file), read_only)
    until_loops_are(place.parents[2], [device])


def test_what_a_death_left_is_swept_and_what_is_mounted_is_not(place, file):
    other = file.with_name(f'volume-{uuid.uuid4()}')
    shutil.copy(file, other)
    device = filesystems.connect(str(file), False)
    filesystems.make(device, 'ext4')
    filesystems.mount(device, str(place), 'ext4', False)
    filesystems.connect(str(other), False)
    filesystems.sweep()
    until_loops_are(place.parents[2], [device])
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


def cut_off(place, file, kind):
    """Return a volume that somebody wrote to, as it is when its host loses power."""
    device = filesystems.connect(str(file), False)
    filesystems.make(device, kind)
    filesystems.mount(device, str(place), kind, False)
    with open(place / 'kept', 'w') as stream:
        stream.write('data')
        stream.flush()
        os.fsync(stream.fileno())
        copy = shutil.copy(file, file.with_name(f'volume-{uuid.uuid4()}'))
    filesystems.unmount(str(place))
    return copy


@pytest.mark.parametrize('grown', [False, True])
@pytest.mark.parametrize('kind', filesystems.KINDS)
def test_what_was_cut_off_is_whole_again(place, file, kind, grown):
    copy = cut_off(place, file, kind)
    if grown:
        extended(copy)
    filesystems.mount(filesystems.connect(str(copy), False), str(place), kind, False)
    assert (place / 'kept').read_text() == 'data'


@pytest.mark.parametrize('kind', filesystems.KINDS)
def test_what_was_cut_off_is_not_shown_in_part(place, file, kind):
    copy = cut_off(place, file, kind)
    with pytest.raises(privsep.PrivilegedError, match='attach it once where it may be written to'):
        filesystems.mount(filesystems.connect(str(copy), True), str(place), kind, True)
    filesystems.disconnect(str(copy))
    filesystems.mount(filesystems.connect(str(copy), False), str(place), kind, False)
    filesystems.unmount(str(place))
    filesystems.mount(filesystems.connect(str(copy), True), str(place), kind, True)
    assert (place / 'kept').read_text() == 'data'


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
