"""What processes take of the machine's memory."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

from tests.cloud import settings

_KIB = 1024 / 1e6  # MB, in what the kernel counts and calls kB


def proportional_mb(pids: Iterable[int]) -> float:
    """Return the proportional set size of processes together, in MB.

    What several processes share counts for each by its part, so that sums are true.
    """
    return sum(_field(pid, 'smaps_rollup', 'Pss:') for pid in pids) * _KIB


def resident_mb(pids: Iterable[int]) -> float:
    """Return the resident set size of processes together, in MB."""
    return sum(_field(pid, 'status', 'VmRSS:') for pid in pids) * _KIB


def _field(pid: int, file: str, name: str) -> int:
    for line in pathlib.Path(f'/proc/{pid}/{file}').read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def service(name: str) -> int:
    """Return the id of the process of one of the cloud's services."""
    return int(settings.load().pid_file(name).read_text().split()[0])


def family(pid: int) -> list[int]:
    """Return a process and those it has started."""
    children = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def privileged(configuration: str = '') -> set[int]:
    """Return the privileged processes of whoever has this configuration file, of all if empty.

    They are nobody's children.
    """
    return {
        int(entry.name)
        for entry in pathlib.Path('/proc').iterdir()
        if entry.name.isdigit()
        and '/privsep-helper\0' in (line := _command_line(entry))
        and configuration in line
    }


def _command_line(process: pathlib.Path) -> str:
    try:
        return (process / 'cmdline').read_text(errors='replace')
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return ''


def nova_compute_mb() -> tuple[float, float]:
    """Return what nova-compute takes, and what its privileged processes do, in MB."""
    pid = service('nova-compute')
    words = _command_line(pathlib.Path(f'/proc/{pid}')).split('\0')
    configuration = words[words.index('--config-file') + 1]
    return proportional_mb([pid]), proportional_mb(privileged(configuration))
