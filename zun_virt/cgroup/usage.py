"""What a sandbox uses, and what its containers were given: files that anybody may read."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping

from oslo_log import log as logging

from zun_virt.cgroup.limits import Limits

LOG = logging.getLogger(__name__)

_CONTAINER = re.compile(r'(?:docker-)?([0-9a-f]{64})(?:\.scope)?')
_NO_LIMIT = 2**62
"""cgroup v1 writes a number near 2**63 where there is no limit of memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """A container's own limits; None where it has none.

    :ivar container: Docker's id
    :ivar cores: as a fraction
    :ivar memory: bytes
    """

    container: str
    cores: float | None = None
    memory: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conflict:
    """Why limits cannot be had.

    :ivar resource: ``cpu`` (cores), ``memory`` (bytes) or ``pids``
    :ivar wanted: the limit
    :ivar present: what is in use, or what the container was given
    :ivar container: Docker's id of the container whose own limit is above the wanted one;
        None where it is use that is
    """

    resource: str
    wanted: float
    present: float
    container: str | None = None

    def text(self, name: str | None = None) -> str:
        """Return it as a sentence.

        :param name: of the container, where its id is not to be shown
        """
        wanted, present = self._amount(self.wanted), self._amount(self.present)
        if self.container is None:
            return f'{wanted} would be less than the {present} in use'
        return f'{wanted} would be less than the {present} of container {name or self.container}'

    def _amount(self, number: float) -> str:
        if self.resource == 'memory':
            return f'{number / 2**20:.0f} MiB of memory'
        return f'{number:g} {"cores" if self.resource == "cpu" else "processes"}'


def conflict(limits: Limits, used: Mapping[str, int], given: Iterable[Given]) -> Conflict | None:
    """Return what stands in the way of these limits, None when nothing does.

    :param used: as `legacy` and `unified` return it
    :param given: own limits of the containers in the sandbox
    """
    held = used.get('memory', 0) - used.get('reclaimable', 0)
    if held > limits.memory:
        return Conflict(resource='memory', wanted=limits.memory, present=held)
    if used.get('pids', 0) > limits.pids:
        return Conflict(resource='pids', wanted=limits.pids, present=used['pids'])
    for own in given:
        if own.memory is not None and own.memory > limits.memory:
            return Conflict(
                resource='memory',
                wanted=limits.memory,
                present=own.memory,
                container=own.container,
            )
        if own.cores is not None and limits.cores is not None and own.cores > limits.cores:
            return Conflict(
                resource='cpu', wanted=limits.cores, present=own.cores, container=own.container
            )
    return None


def containers(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return the cgroups of containers in that of a sandbox, by Docker's id."""
    try:
        entries = list(directory.iterdir())
    except FileNotFoundError:
        return {}
    matches = {entry: _CONTAINER.fullmatch(entry.name) for entry in entries}
    return {match[1]: entry for entry, match in matches.items() if match and entry.is_dir()}


def legacy(directories: Mapping[str, pathlib.Path]) -> dict[str, int]:
    """Return what a sandbox uses, with cgroup v1; what is not known is left out.

    :param directories: its directory by controller
    """
    found: dict[str, int] = {}
    for name, (controller, file) in {
        'cpu': ('cpuacct', 'cpuacct.usage'),
        'memory': ('memory', 'memory.usage_in_bytes'),
        'pids': ('pids', 'pids.current'),
    }.items():
        text = _read(directories.get(controller), file)
        if text is not None:
            found[name] = int(text)
    state = _pairs(_read(directories.get('memory'), 'memory.stat'))
    if 'total_cache' in state:
        found['reclaimable'] = state['total_cache'] - state.get('total_shmem', 0)
    for kind, file in (('bytes', 'io_service_bytes'), ('requests', 'io_serviced')):
        text = _read(directories.get('blkio'), f'blkio.throttle.{file}_recursive')
        if text is not None:
            found |= _legacy_io(kind, text)
    return found


def unified(directory: pathlib.Path) -> dict[str, int]:
    """Return what a sandbox uses, with cgroup v2; what is not known is left out."""
    found: dict[str, int] = {}
    for name, file in (('memory', 'memory.current'), ('pids', 'pids.current')):
        text = _read(directory, file)
        if text is not None:
            found[name] = int(text)
    cpu = _pairs(_read(directory, 'cpu.stat'))
    if 'usage_usec' in cpu:
        found['cpu'] = cpu['usage_usec'] * 1000
    state = _pairs(_read(directory, 'memory.stat'))
    if 'file' in state:
        found['reclaimable'] = state['file'] - state.get('shmem', 0)
    events = _pairs(_read(directory, 'memory.events'))
    if 'oom_kill' in events:
        found['oom_kills'] = events['oom_kill']
    text = _read(directory, 'io.stat')
    if text is not None:
        names = {
            'rbytes': 'read_bytes',
            'wbytes': 'write_bytes',
            'rios': 'read_requests',
            'wios': 'write_requests',
        }
        found |= dict.fromkeys(names.values(), 0)
        for key, value in re.findall(r'(\w+)=(\d+)', text):
            if key in names:
                found[names[key]] += int(value)
    return found


def legacy_given(container: str, directories: Mapping[str, pathlib.Path]) -> Given:
    """Return a container's own limits, with cgroup v1."""
    quota = _read(directories.get('cpu'), 'cpu.cfs_quota_us')
    period = _read(directories.get('cpu'), 'cpu.cfs_period_us')
    memory = _read(directories.get('memory'), 'memory.limit_in_bytes')
    limited = quota is not None and period is not None and int(quota) > 0
    return Given(
        container=container,
        cores=int(quota or 0) / int(period or 1) if limited else None,
        memory=int(memory) if memory is not None and int(memory) < _NO_LIMIT else None,
    )


def unified_given(container: str, directory: pathlib.Path) -> Given:
    """Return a container's own limits, with cgroup v2."""
    cpu = (_read(directory, 'cpu.max') or 'max').split()
    memory = (_read(directory, 'memory.max') or 'max').strip()
    return Given(
        container=container,
        cores=None if cpu[0] == 'max' else int(cpu[0]) / int(cpu[1]),
        memory=None if memory == 'max' else int(memory),
    )


def _legacy_io(kind: str, text: str) -> dict[str, int]:
    found = {f'read_{kind}': 0, f'write_{kind}': 0}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[1] in ('Read', 'Write'):
            found[f'{parts[1].lower()}_{kind}'] += int(parts[2])
    return found


def _pairs(text: str | None) -> dict[str, int]:
    lines = [line.split() for line in (text or '').splitlines()]
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


def _read(directory: pathlib.Path | None, file: str) -> str | None:
    if directory is None:
        return None
    try:
        return (directory / file).read_text()
    except OSError as error:
        LOG.debug('%s cannot be read: %s', directory / file, error)
        return None
