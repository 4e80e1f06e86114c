"""How much is read from volumes and written to them.

The kernel counts by device, and a loop device keeps the counts of what it served before: so
what it showed first is taken off.  nova adds up itself where counts begin anew.
"""

from __future__ import annotations

import pathlib
import typing

_SECTOR = 512
"""The unit of the kernel's counts, whatever the device has."""


class Counts(typing.NamedTuple):
    """Requests and bytes, in nova's words."""

    rd_req: int = 0
    rd_bytes: int = 0
    wr_req: int = 0
    wr_bytes: int = 0


class Counters:
    """Remembers what was counted before a volume was mounted."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, Counts]] = {}

    def since_first(self, place: str, device: str) -> Counts | None:
        """Return what was counted since this was asked first of a mount.

        :param place: where it is mounted
        :param device: that is mounted there
        :returns: None where the kernel counts nothing
        """
        now = of_device(device)
        if now is None:
            return None
        known, first = self._first.setdefault(place, (device, now))
        if known != device:
            first = now
            self._first[place] = (device, now)
        return Counts(*(new - old for new, old in zip(now, first, strict=True)))

    def forget(self, place: str) -> None:
        """Forget what was unmounted."""
        self._first.pop(place, None)


def of_device(device: str, root: pathlib.Path = pathlib.Path('/sys/class/block')) -> Counts | None:
    """Return what the kernel has counted for a device, None where it counts nothing."""
    try:
        fields = (root / pathlib.Path(device).resolve().name / 'stat').read_text().split()
    except FileNotFoundError:
        return None
    reads, _, read, _, writes, _, written = (int(field) for field in fields[:7])
    return Counts(reads, read * _SECTOR, writes, written * _SECTOR)
