"""What a container uses, read from the kernel: cgroup version 1 and 2.

Docker's own statistics take one to two seconds for the two samples that a share of the
processors needs. The kernel's files give the same numbers at any time.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
import typing

from zun_agent import errors

SAMPLE = 0.2
"""Seconds between the two samples."""

_MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Usage:
    """What the processes of one container used up to now, or use now.

    :ivar cpu: seconds of processor time since its start
    :ivar memory: bytes, without the page cache that would be given up at once
    :ivar memory_limit: bytes, the tightest of its own, its sandbox's and the host's
    """

    cpu: float
    memory: int
    memory_limit: int
    read: int
    written: int


def stats(
    docker_id: str, pid: int, root: pathlib.Path = pathlib.Path('/')
) -> dict[str, typing.Any]:
    """Return the use of the container in the terms of the Zun API.

    :param pid: of its first process, on the host
    :raises errors.Conflict: it ended meanwhile
    """
    try:
        began = time.monotonic()
        before = read(pid, root)
        time.sleep(SAMPLE)
        after = read(pid, root)
        elapsed = time.monotonic() - began
        received, sent = network(root / 'proc' / str(pid) / 'net' / 'dev')
    except (FileNotFoundError, ProcessLookupError) as error:
        raise errors.Conflict(f'Container {docker_id} is not running.') from error
    return {
        'CONTAINER': docker_id,
        'CPU %': round((after.cpu - before.cpu) / elapsed * 100, 2),
        'MEM USAGE(MiB)': round(after.memory / _MIB, 2),
        'MEM LIMIT(MiB)': round(after.memory_limit / _MIB, 2),
        'MEM %': round(after.memory / after.memory_limit * 100, 2),
        'BLOCK I/O(B)': f'{after.read}/{after.written}',
        'NET I/O(B)': f'{received}/{sent}',
    }


def read(pid: int, root: pathlib.Path) -> Usage:
    """Return the use of the cgroup that the process is in.

    :raises FileNotFoundError: the process or its cgroup is gone
    """
    groups = parse_groups((root / 'proc' / str(pid) / 'cgroup').read_text())
    mounted = root / 'sys/fs/cgroup'
    host = host_memory((root / 'proc/meminfo').read_text())[0]
    if 'memory' in groups:
        return _read_v1({name: mounted / name / path for name, path in groups.items()}, host)
    return _read_v2(mounted, groups[''], host)


def _read_v1(groups: dict[str, pathlib.Path], host: int) -> Usage:
    memory = groups['memory']
    details = _table(memory / 'memory.stat')
    cached = details.get('total_inactive_file', 0)
    read_bytes, written = 0, 0
    for line in (groups['blkio'] / 'blkio.throttle.io_service_bytes').read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[1] == 'Read':
            read_bytes += int(words[2])
        elif len(words) == 3 and words[1] == 'Write':
            written += int(words[2])
    return Usage(
        cpu=_number(groups['cpuacct'] / 'cpuacct.usage') / 1e9,
        memory=max(_number(memory / 'memory.usage_in_bytes') - cached, 0),
        memory_limit=min(details['hierarchical_memory_limit'], host),
        read=read_bytes,
        written=written,
    )


def _read_v2(mounted: pathlib.Path, path: str, host: int) -> Usage:
    group = mounted / path
    limits = [host]
    for level in (group, *group.parents):
        if level == mounted:
            break
        text = (level / 'memory.max').read_text().strip()
        if text != 'max':
            limits.append(int(text))
    read_bytes, written = 0, 0
    io = group / 'io.stat'
    for line in io.read_text().splitlines() if io.exists() else ():
        counters = dict(word.split('=') for word in line.split()[1:] if '=' in word)
        read_bytes += int(counters.get('rbytes', 0))
        written += int(counters.get('wbytes', 0))
    cached = _table(group / 'memory.stat').get('inactive_file', 0)
    return Usage(
        cpu=_table(group / 'cpu.stat')['usage_usec'] / 1e6,
        memory=max(_number(group / 'memory.current') - cached, 0),
        memory_limit=min(limits),
        read=read_bytes,
        written=written,
    )


def parse_groups(text: str) -> dict[str, str]:
    """Return the path of a process's cgroup below each controller's mount point.

    >>> parse_groups('4:memory:/zun/ab/cd\\n3:cpu,cpuacct:/zun/ab/cd\\n0::/')
    {'memory': 'zun/ab/cd', 'cpu': 'zun/ab/cd', 'cpuacct': 'zun/ab/cd', '': ''}
    """
    groups = {}
    for line in text.splitlines():
        _, names, path = line.split(':', 2)
        for name in names.split(','):
            groups[name.removeprefix('name=')] = path.lstrip('/')
    return groups


def network(path: pathlib.Path) -> tuple[int, int]:
    """Return the bytes received and sent by the interfaces in a ``net/dev`` file."""
    received, sent = 0, 0
    for line in path.read_text().splitlines()[2:]:
        name, _, counters = line.partition(':')
        if name.strip() != 'lo':
            numbers = counters.split()
            received += int(numbers[0])
            sent += int(numbers[8])
    return received, sent


def host_memory(meminfo: str) -> tuple[int, int]:
    """Return the host's memory and how much of it is available, in bytes."""
    fields = {}
    for line in meminfo.splitlines():
        name, _, value = line.partition(':')
        fields[name] = int(value.split()[0]) * 1024
    return fields['MemTotal'], fields['MemAvailable']


def _table(path: pathlib.Path) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, path.read_text().splitlines())}


def _number(path: pathlib.Path) -> int:
    return int(path.read_text())
