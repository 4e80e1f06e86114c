"""Loop devices: files as block devices, for those who are root already."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import re
import time
from collections.abc import Iterator

from zun_virt.privsep import PrivilegedError

_BLOCK = pathlib.Path('/sys/block')
_CLR_FD, _SET_CAPACITY = 0x4C01, 0x4C07
_GOING_SECONDS = 10.0


def is_one(device: str) -> bool:
    """Return whether a path is that of a loop device."""
    return re.fullmatch('/dev/loop[0-9]+', device) is not None


def files() -> dict[str, str]:
    """Return the paths of the files that are loop devices, by device."""
    found = {}
    for entry in _BLOCK.glob('loop*/loop/backing_file'):
        with contextlib.suppress(OSError):
            found[f'/dev/{entry.parts[3]}'] = entry.read_text().rstrip('\n')
    return found


def of(path: pathlib.Path) -> list[str]:
    """Return the loop devices of a file."""
    return [device for device, file in files().items() if file == str(path)]


def reusable(path: pathlib.Path, read_only: bool) -> str | None:
    """Return a file's loop device, None when one has to be made; others are given back.

    udev looks into each for a moment, and the kernel keeps one that was given back until then.
    Taken for the file's it would vanish, or be another file's when it is mounted.

    :raises PrivilegedError: the file is in use: its file system would be mounted twice
    """
    for device in of(path):
        if _stays(device) and _is_read_only(device) == read_only:
            return device
        forget(device)
        deadline = time.monotonic() + _GOING_SECONDS
        while device in of(path):
            if time.monotonic() >= deadline:
                raise PrivilegedError(f'{path} is still in use as {device}')
            time.sleep(0.02)
    return None


def forget(device: str) -> None:
    """Let a loop device go when nothing uses it any more."""
    with opened(device, os.O_RDONLY) as descriptor, contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, _CLR_FD)


def enlarge(device: str) -> None:
    """Let a loop device have the size of its file."""
    with opened(device, os.O_RDONLY) as descriptor:
        fcntl.ioctl(descriptor, _SET_CAPACITY)


@contextlib.contextmanager
def opened(device: str, flags: int) -> Iterator[int]:
    """Open a block device; gives its descriptor."""
    descriptor = os.open(device, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _stays(device: str) -> bool:
    """Return whether it is there until it is given back."""
    # One that has gone meanwhile has no such file; of one that goes now it cannot be read.
    with contextlib.suppress(OSError):
        return (_BLOCK / device[5:] / 'loop' / 'autoclear').read_text() == '0\n'
    return False


def _is_read_only(device: str) -> bool:
    return (_BLOCK / device[5:] / 'ro').read_text() == '1\n'
