"""Volumes of sandboxes as root: their devices, file systems and mounts.

What nova-compute may ask for is judged here by the operator's configuration: files below the
mount point of volumes' shares, block devices that nobody uses, and mount points below the
sandboxes' own directory, without devices or set-user-id programs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import re
import stat
import subprocess
import typing
from collections.abc import Iterator

from oslo_config import cfg

from zun_virt import conf
from zun_virt.privsep import PrivilegedError, loops, mounts

KINDS = ('ext4', 'xfs')
"""File systems that a volume may have."""

LONG_SECONDS = 1800.0
"""For what reads or writes a whole volume."""

_SHORT_SECONDS = 50.0
_ID = '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'
_PLACE = re.compile(f'{_ID}/{_ID}')
_PATH = '/usr/sbin:/sbin:/usr/bin:/bin'
_MIB = 1 << 20

_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_UMOUNT_NOFOLLOW = 8
_BLKGETSIZE64 = 0x80081272


class Signature(typing.NamedTuple):
    """What is on a device.

    :ivar kind: blkid's word for it, empty for none
    :ivar blank: whether there is nothing, not even what blkid does not know
    """

    kind: str
    blank: bool


@mounts.entrypoint
def share() -> None:
    """Make the directory of volumes a place whose mounts are seen in containers."""
    root = _root()
    if not _is_shared(root):
        _mount(str(root), str(root), '', _MS_BIND)
        _mount('', str(root), '', _MS_SHARED | _MS_REC)


@mounts.entrypoint
def sweep() -> None:
    """Give back the loop devices of volumes that a killed attachment left unmounted."""
    base = f'{pathlib.Path(_options().nfs_mount_point_base).resolve()}/'
    for device, file in loops.files().items():
        if file.startswith(base):
            loops.forget(device)


@mounts.entrypoint
def connect(source: str, read_only: bool) -> str:
    """Return the block device that is the volume, a loop device where that is a file.

    :param source: file or block device
    :raises PrivilegedError: it is neither, or not one for volumes, or a file that is in use
    """
    with _refusing():
        path = pathlib.Path(source).resolve(strict=True)
        if stat.S_ISBLK(path.stat().st_mode):
            return str(path)
        _check_file(path)
        if device := loops.reusable(path, read_only):
            return device
        arguments = ['--read-only'] if read_only else []
        return _run('losetup', '--find', '--show', *arguments, str(path)).strip()


@mounts.entrypoint
def disconnect(source: str) -> None:
    """Give back the loop devices of a file, those in use when they no longer are."""
    with _refusing():
        path = pathlib.Path(source).resolve()
        for device in loops.of(path):
            loops.forget(device)


@mounts.entrypoint
def probe(device: str) -> tuple[str, bool]:
    """Find out what is on a device.

    :returns: a `Signature`
    :raises PrivilegedError: more than one thing is, as far as can be told
    """
    _check_device(device)
    return _probe(device)


@mounts.entrypoint_with_timeout(LONG_SECONDS)
def make(device: str, kind: str) -> None:
    """Make a file system on a blank device.

    :param kind: one of `KINDS`
    :raises PrivilegedError: it is not blank
    """
    _check_device(device)
    if kind not in KINDS:
        raise PrivilegedError(f'refused: no file system {kind}')
    if not _probe(device).blank:
        raise PrivilegedError(f'refused: {device} is not blank')
    # Without force: the programs look for themselves, too.
    _run(f'mkfs.{kind}', '-q', device, seconds=LONG_SECONDS)


@mounts.entrypoint_with_timeout(LONG_SECONDS)
def mount(device: str, target: str, kind: str, read_only: bool) -> None:
    """Mount a volume, grown to the size of its device.

    :param target: its mount point, which exists
    :param kind: of the file system, one of `KINDS`
    :raises PrivilegedError: it is not in order, or has a journal to replay and is read-only
    """
    _check_device(device)
    if kind not in KINDS:
        raise PrivilegedError(f'refused: no file system {kind}')
    if kind == 'ext4' and not read_only:
        _grow_unmounted(device)
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
    with _opened(target) as place:
        try:
            # Two copies of one volume bear the same id, of which XFS would mount only one.
            _mount(device, place, kind, flags, 'nouuid' if kind == 'xfs' else '')
        except OSError as error:
            if error.errno != errno.EROFS or not read_only:
                raise
            # As in a snapshot of a volume in use, or after the death of the host that had it.
            raise PrivilegedError(
                'it was not unmounted, and what was written last is only in its journal, which '
                'cannot be replayed read-only: attach it once where it may be written to'
            ) from error
    if loops.is_one(device):
        # In use, it goes when it is unmounted, whoever does that.
        loops.forget(device)
    if kind == 'xfs' and not read_only:
        _run('xfs_growfs', '-d', target)


@mounts.entrypoint
def unmount(target: str) -> None:
    """Unmount a volume; one that is not mounted is fine.

    :raises OSError: EBUSY, when something in it is open
    """
    _check_place(target)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(target.encode(), _UMOUNT_NOFOLLOW):
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOENT):
            raise OSError(code, f'{os.strerror(code)}: unmounting {target}')


@mounts.entrypoint_with_timeout(LONG_SECONDS)
def grow(target: str) -> int:
    """Grow a mounted volume to the size that its file or device has now.

    :returns: the size of its device in bytes
    :raises PrivilegedError: it is not mounted, or cannot grow while it is
    """
    _check_place(target)
    device, kind = _mounted(target)
    if loops.is_one(device):
        loops.enlarge(device)
    if kind == 'ext4':
        _run('resize2fs', device, seconds=LONG_SECONDS)
    else:
        _run('xfs_growfs', '-d', target, seconds=LONG_SECONDS)
    with loops.opened(device, os.O_RDONLY) as descriptor:
        return _size(descriptor)


def mounted(directory: pathlib.Path) -> dict[str, str]:
    """Return what is mounted right below a directory: names and devices.

    It takes no privilege.
    """
    found = {}
    for entry in _mountinfo():
        place = pathlib.Path(entry.target)
        if place.parent == directory:
            found[place.name] = entry.source
    return found


def kind_of(target: pathlib.Path) -> str:
    """Return the file system of a mounted volume; it takes no privilege.

    :raises PrivilegedError: none is mounted there
    """
    return _mounted(str(target))[1]


class _Mount(typing.NamedTuple):
    target: str
    shared: bool
    kind: str
    source: str


def _mountinfo() -> Iterator[_Mount]:
    for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines():
        before, _, after = line.partition(' - ')
        fields, (kind, source, *_rest) = before.split(' '), after.split(' ')
        target = re.sub(r'\\([0-7]{3})', lambda code: chr(int(code[1], 8)), fields[4])
        shared = any(field.startswith('shared:') for field in fields[6:])
        yield _Mount(target, shared, kind, source)


def _mounted(target: str) -> tuple[str, str]:
    found = [(entry.source, entry.kind) for entry in _mountinfo() if entry.target == target]
    if not found or found[-1][1] not in KINDS:
        raise PrivilegedError(f'no volume is mounted at {target}')
    return found[-1]


def _is_shared(directory: pathlib.Path) -> bool:
    above = [entry for entry in _mountinfo() if directory.is_relative_to(entry.target)]
    # Of two at the same place the later one is on top.
    return max(enumerate(above), key=lambda pair: (len(pair[1].target), pair[0]))[1].shared


def _probe(device: str) -> Signature:
    done = _process('blkid', '--probe', '--output', 'export', device)
    if done.returncode == 2:
        return Signature('', _is_blank(device))
    if done.returncode:
        # 8 is blkid's word for more than one answer.
        raise PrivilegedError(f'{device}: blkid cannot tell what is on it: {done.stderr.strip()}')
    found = dict(line.partition('=')[::2] for line in done.stdout.splitlines())
    return Signature(found.get('TYPE') or found.get('PTTYPE') or 'something unknown', False)


def _is_blank(device: str) -> bool:
    """Return whether a device is all zeros where it was looked at: its ends and many places.

    What blkid knows nothing of may be data all the same.
    """
    with loops.opened(device, os.O_RDONLY) as descriptor:
        size = _size(descriptor)
        places = {0: 8 * _MIB, max(0, size - _MIB): _MIB}
        places |= {size * part // 256: _MIB // 16 for part in range(1, 256)}
        return not any(any(os.pread(descriptor, length, at)) for at, length in places.items())


def _grow_unmounted(device: str) -> None:
    """Let an ext4 file system have all of its device, as far as it has not."""
    with loops.opened(device, os.O_RDONLY) as descriptor:
        size, block = _size(descriptor), os.pread(descriptor, 1024, 1024)
    number = int.from_bytes
    unit = 1024 << number(block[24:28], 'little')
    count = number(block[4:8], 'little')
    if number(block[96:100], 'little') & 0x80:  # more than 32 bits
        count += number(block[336:340], 'little') << 32
    if size - count * unit < _MIB:
        return
    done = _process('e2fsck', '-f', '-p', device, seconds=LONG_SECONDS)
    if done.returncode > 1:
        raise PrivilegedError(f'e2fsck does not find {device} in order: {done.stdout.strip()}')
    _run('resize2fs', device, seconds=LONG_SECONDS)


def _size(descriptor: int) -> int:
    answer = fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8))
    return int.from_bytes(answer, 'little')


def _mount(source: str, target: str, kind: str, flags: int, options: str = '') -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    texts = [text.encode() or None for text in (source, target, kind)]
    data = options.encode() or None
    if libc.mount(*texts, ctypes.c_ulong(flags), data):
        code = ctypes.get_errno()
        raise OSError(code, f'{os.strerror(code)}: mounting {kind or "the directory"} {source}')


def _run(program: str, *arguments: str, seconds: float = _SHORT_SECONDS) -> str:
    done = _process(program, *arguments, seconds=seconds)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise PrivilegedError(f'{program} {" ".join(arguments)}: {said or done.returncode}')
    return done.stdout


def _process(
    program: str, *arguments: str, seconds: float = _SHORT_SECONDS
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            env={'PATH': _PATH, 'LC_ALL': 'C'},
        )
    except FileNotFoundError as error:
        raise PrivilegedError(f'{program} is not installed') from error
    except subprocess.TimeoutExpired as error:
        raise PrivilegedError(f'{program} took more than {seconds:g} s') from error


def _options() -> typing.Any:
    conf.register(cfg.CONF)
    return cfg.CONF.zun_virt


def _root() -> pathlib.Path:
    return pathlib.Path(_options().state_path).resolve() / 'volumes'


def _check_place(target: str) -> None:
    place = pathlib.Path(target)
    root = _root()
    if (
        not place.is_relative_to(root)
        or not _PLACE.fullmatch(str(place.relative_to(root)))
        or place.parent.resolve() != place.parent
        or place.is_symlink()
    ):
        raise PrivilegedError(f'refused: {target} is not the place of a volume')


@contextlib.contextmanager
def _opened(target: str) -> Iterator[str]:
    """Hold a mount point, and return a name for it that no link can lead elsewhere."""
    _check_place(target)
    descriptor = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        held = f'/proc/self/fd/{descriptor}'
        if str(pathlib.Path(held).readlink()) != target:
            raise PrivilegedError(f'refused: {target} is elsewhere')
        yield held
    finally:
        os.close(descriptor)


def _check_file(path: pathlib.Path) -> None:
    base = pathlib.Path(_options().nfs_mount_point_base).resolve()
    if not path.is_relative_to(base) or not path.is_file():
        raise PrivilegedError(f'refused: {path} is not a volume below {base}')


def _check_device(device: str) -> None:
    """Refuse what is no block device, and one that is mounted or otherwise held."""
    if not device.startswith('/dev/') or not stat.S_ISBLK(os.stat(device).st_mode):  # noqa: PTH116
        raise PrivilegedError(f'refused: {device} is not a block device')
    with loops.opened(device, os.O_RDONLY | os.O_EXCL):
        pass


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise PrivilegedError(f'{error.filename} is not there') from error
