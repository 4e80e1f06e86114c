"""What a privileged process refuses, whoever asks it.

Paths and calls come from nova-compute.  Somebody who has taken that over shall reach the
cgroups of sandboxes, and nothing else that root may write or ask of systemd.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import typing
from collections.abc import Iterator, Sequence

CONTROL_FILES = frozenset(
    {
        'cgroup.subtree_control',
        'cpu.cfs_period_us',
        'cpu.cfs_quota_us',
        'cpu.max',
        'cpu.shares',
        'cpu.weight',
        'cpuset.cpus',
        'cpuset.mems',
        'io.max',
        'memory.limit_in_bytes',
        'memory.max',
        'memory.memsw.limit_in_bytes',
        'memory.swap.max',
        'pids.max',
    }
)
"""Files of a cgroup that may be written.  In others the kernel takes a program to run."""

_METHODS = {
    'StartTransientUnit': 'ssa(sv)a(sa(sv))',
    'SetUnitProperties': 'sba(sv)',
    'StartUnit': 'ss',
    'StopUnit': 'ss',
}
_PROPERTIES = frozenset(
    {
        'AllowedCPUs',
        'CPUAccounting',
        'CPUQuotaPerSecUSec',
        'CPUShares',
        'CPUWeight',
        'Description',
        'IOAccounting',
        'IOReadBandwidthMax',
        'IOReadIOPSMax',
        'IOWriteBandwidthMax',
        'IOWriteIOPSMax',
        'MemoryAccounting',
        'MemoryLimit',
        'MemoryMax',
        'MemorySwapMax',
        'TasksAccounting',
        'TasksMax',
    }
)
_ROOT = ''
_ALL = 'zun'
_ONE = re.compile(r'zun/[0-9a-f]{32}')
_CONTAINER = re.compile(r'zun/[0-9a-f]{32}/[0-9a-f]{64}')
_SLICE = re.compile(r'zun-[0-9a-f]{32}\.slice')


class Refused(Exception):
    """What was asked for is none of a sandbox's; the message says what."""


def cgroup_mounts() -> list[str]:
    """Return where cgroup file systems are mounted."""
    found = []
    for line in pathlib.Path('/proc/self/mountinfo').read_text().splitlines():
        place, _, kind = line.partition(' - ')
        if kind.split(' ', 1)[0] in ('cgroup', 'cgroup2'):
            found.append(place.split(' ')[4])
    return found


@contextlib.contextmanager
def control_file(path: str, mounts: Sequence[str]) -> Iterator[int]:
    """Open a file in which a limit of sandboxes is set, for writing.

    :param mounts: as `cgroup_mounts` returns them
    :raises Refused: it is no such file
    :raises OSError: the kernel lacks it
    """
    directory, _, name = path.rpartition('/')
    with _opened(directory, mounts) as (parent, _, within):
        hands_on = within == _ROOT and name == 'cgroup.subtree_control'
        own = within == _ALL or _ONE.fullmatch(within)
        # cgroup v1 lets a sandbox have no fewer cores than what runs in it.
        follows = name == 'cpuset.cpus' and _CONTAINER.fullmatch(within)
        if name not in CONTROL_FILES or not (hands_on or own or follows):
            raise Refused(f'{path} is not a limit of a sandbox')
        descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def make_directory(path: str, mounts: Sequence[str]) -> None:
    """Create the cgroup of a sandbox, or that of all, unless it is there.

    :raises Refused: it would be another
    """
    directory, _, name = path.rpartition('/')
    with _opened(directory, mounts) as (parent, _, within):
        if (within, name) != (_ROOT, _ALL) and not _ONE.fullmatch(f'{within}/{name}'):
            raise Refused(f'{path} is not a cgroup of sandboxes')
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, mode=0o755, dir_fd=parent)


def remove(path: str, mounts: Sequence[str]) -> bool:
    """Remove the cgroup of one sandbox and those below it; one that has gone is fine.

    :returns: False while there is a process in one
    :raises Refused: it is another
    """
    directory, _, name = path.rpartition('/')
    try:
        with _opened(directory, mounts) as (_, real, within):
            if not _ONE.fullmatch(f'{within}/{name}'):
                raise Refused(f'{path} is not the cgroup of a sandbox')
            return _remove_tree(pathlib.Path(real, name))
    except FileNotFoundError:
        return True


def check_systemd(method: str, signature: str, body: Sequence[typing.Any]) -> None:
    """Let pass only what makes, changes, starts or stops the slice of a sandbox.

    :raises Refused: it would do something else
    """
    if _METHODS.get(method) != signature or not body:
        raise Refused(f'systemd is not asked for {method}({signature})')
    if not isinstance(body[0], str) or not _SLICE.fullmatch(body[0]):
        raise Refused(f'{body[0]!r} is not the slice of a sandbox')
    properties = () if signature == 'ss' else body[2]
    unknown = {name for name, _ in properties} - _PROPERTIES
    if unknown:
        raise Refused(f'no limits of a sandbox: {", ".join(sorted(map(str, unknown)))}')
    if method == 'StartTransientUnit' and list(body[3]):
        raise Refused('a slice needs no other units')


@contextlib.contextmanager
def _opened(directory: str, mounts: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Open a directory of a cgroup file system.

    What is opened is judged by where it really is: any part of the path could be a link,
    or become one.

    :returns: its descriptor, its path, and its path within the file system
    """
    descriptor = os.open(directory or '/', os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        real = str(pathlib.Path(f'/proc/self/fd/{descriptor}').readlink())
        for mount in mounts:
            if real == mount or real.startswith(f'{mount}/'):
                yield descriptor, real, real[len(mount) + 1 :]
                break
        else:
            raise Refused(f'{directory} is not in a cgroup file system')
    finally:
        os.close(descriptor)


def _remove_tree(directory: pathlib.Path) -> bool:
    try:
        children = [entry for entry in directory.iterdir() if entry.is_dir()]
        for child in children:
            if not _remove_tree(child):
                return False
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True
