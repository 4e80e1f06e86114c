"""The parent cgroup, whose limits hold for the sum of a sandbox's containers."""

from __future__ import annotations

import dataclasses
import pathlib
import typing
import uuid

from oslo_log import log as logging

from zun_virt.privsep import FAILURES, PrivilegedError, cgroups

LOG = logging.getLogger(__name__)

PERIOD = 100_000
"""Microseconds in which the CPU quota may be used, unless the flavor says otherwise."""

_REMOVE_SECONDS = 3.0
_DBUS_SECONDS = 20.0
_MAX_SHARES = 262_144


class CgroupError(Exception):
    """A sandbox's cgroup could not be made or removed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What the containers of a sandbox may use together.

    :ivar quota: microseconds of CPU time in each period, by all cores together
    :ivar period: microseconds
    :ivar shares: weight against other sandboxes, 1024 for one core's worth
    :ivar memory: bytes; there is no swap beyond it
    :ivar cpus: the cores it may use, in the kernel's list format; None for all
    """

    quota: int
    period: int
    shares: int
    memory: int
    pids: int
    cpus: str | None = None


class Setting(typing.NamedTuple):
    """One control file.

    :ivar optional: whether the kernel may lack it, or refuse the value
    """

    controller: str
    file: str
    value: str
    optional: bool = False


class Cgroups(typing.Protocol):
    """Makes and removes the parent cgroups of sandboxes."""

    def create(self, parent: str, limits: Limits) -> None:
        """Create the cgroup `parent`, or bring its limits up to date.

        :param parent: as `zun_virt.sandbox.cgroup_parent` names it
        :raises CgroupError: the kernel or systemd refused
        """

    def remove(self, parent: str) -> None:
        """Remove the cgroup; one that has gone is fine.

        :raises CgroupError: it is still in use
        """

    def usage(self, parent: str) -> dict[str, int]:
        """Return ``cpu`` (nanoseconds used), ``memory`` (bytes) and ``pids``; what is
        not known is left out.
        """


def make(driver: str, version: int, root: str) -> Cgroups:
    """Return what fits Docker's cgroup driver and the kernel's cgroup version.

    :param driver: ``cgroupfs`` or ``systemd``
    :param root: where the file systems are mounted
    :raises ValueError: for any other driver
    """
    if driver == 'systemd':
        return Systemd(version, root)
    if driver != 'cgroupfs':
        raise ValueError(f'unknown cgroup driver {driver!r}')
    return Unified(root) if version == 2 else Legacy(root)


def legacy_settings(limits: Limits) -> list[Setting]:
    """Return the control files of cgroup v1 in the order in which they must be written."""
    memory = str(limits.memory)
    return [
        Setting('cpu', 'cpu.cfs_period_us', str(limits.period)),
        Setting('cpu', 'cpu.cfs_quota_us', str(limits.quota)),
        Setting('cpu', 'cpu.shares', str(limits.shares)),
        # Memory alone may never exceed memory and swap together: refused when an existing
        # limit grows, and then the third write succeeds; when it shrinks, the first does.
        Setting('memory', 'memory.limit_in_bytes', memory, optional=True),
        # The kernel may have been built or booted without accounting of swap.
        Setting('memory', 'memory.memsw.limit_in_bytes', memory, optional=True),
        Setting('memory', 'memory.limit_in_bytes', memory),
        Setting('pids', 'pids.max', str(limits.pids)),
        *([Setting('cpuset', 'cpuset.cpus', limits.cpus)] if limits.cpus else []),
    ]


def unified_settings(limits: Limits) -> list[Setting]:
    """Return the control files of cgroup v2."""
    return [
        Setting('cpu', 'cpu.max', f'{limits.quota} {limits.period}'),
        Setting('cpu', 'cpu.weight', str(weight(limits.shares))),
        Setting('memory', 'memory.max', str(limits.memory)),
        Setting('memory', 'memory.swap.max', '0', optional=True),
        Setting('pids', 'pids.max', str(limits.pids)),
        *([Setting('cpuset', 'cpuset.cpus', limits.cpus)] if limits.cpus else []),
    ]


def weight(shares: int) -> int:
    """Return the v2 weight (1 to 10000) for v1 shares (2 to 262144), as runc does."""
    return 1 + (max(2, min(shares, _MAX_SHARES)) - 2) * 9999 // (_MAX_SHARES - 2)


def slice_properties(limits: Limits, version: int) -> list[tuple[str, tuple[str, typing.Any]]]:
    """Return the limits as properties of a systemd unit, each with its D-Bus type."""
    properties: list[tuple[str, tuple[str, typing.Any]]] = [
        ('CPUQuotaPerSecUSec', ('t', limits.quota * 1_000_000 // limits.period)),
        ('TasksMax', ('t', limits.pids)),
    ]
    if version == 2:
        properties += [
            ('CPUWeight', ('t', weight(limits.shares))),
            ('MemoryMax', ('t', limits.memory)),
            ('MemorySwapMax', ('t', 0)),
        ]
        if limits.cpus:
            properties.append(('AllowedCPUs', ('ay', cpu_mask(limits.cpus))))
    else:
        properties += [
            ('CPUShares', ('t', limits.shares)),
            ('MemoryLimit', ('t', limits.memory)),
        ]
    return properties


def cpu_mask(cpus: str) -> bytes:
    """Return a list of cores (``0-2,7``) as a bit mask, lowest core first."""
    mask = 0
    for part in cpus.split(','):
        first, _, last = part.partition('-')
        for cpu in range(int(first), int(last or first) + 1):
            mask |= 1 << cpu
    return mask.to_bytes((mask.bit_length() + 7) // 8, 'little')


class Legacy:
    """cgroup v1 with Docker's cgroupfs driver: one tree for every controller."""

    def __init__(self, root: str) -> None:
        """Use the hierarchies that are mounted below `root`."""
        self._root = pathlib.Path(root)

    def hierarchies(self) -> dict[str, pathlib.Path]:
        """Return the directory of each controller; some may share one."""
        found = {}
        for directory in sorted(self._root.iterdir()):
            # A link is a second name: cpu for cpu,cpuacct.
            if directory.is_dir() and not directory.is_symlink():
                for controller in directory.name.split(','):
                    found[controller] = directory
        return found

    def create(self, parent: str, limits: Limits) -> None:
        """See `Cgroups.create`."""
        hierarchies = self.hierarchies()
        settings = legacy_settings(limits)
        missing = {setting.controller for setting in settings} - hierarchies.keys()
        if missing:
            raise CgroupError(f'{self._root} lacks the controllers {", ".join(sorted(missing))}')
        if limits.cpus:
            settings = [*self._inherit(hierarchies['cpuset'], parent), *settings]
        used = dict.fromkeys(hierarchies[setting.controller] for setting in settings)
        _privileged(
            [str(path) for tree in used for path in _lineage(tree, parent)],
            [
                (str(self._place(hierarchies, parent, setting)), setting.value, setting.optional)
                for setting in settings
            ],
        )

    def remove(self, parent: str) -> None:
        """See `Cgroups.remove`."""
        trees = dict.fromkeys(self.hierarchies().values())
        _remove([tree / parent.lstrip('/') for tree in trees])

    def usage(self, parent: str) -> dict[str, int]:
        """See `Cgroups.usage`."""
        trees = self.hierarchies()
        files = {
            'cpu': ('cpuacct', 'cpuacct.usage'),
            'memory': ('memory', 'memory.usage_in_bytes'),
            'pids': ('pids', 'pids.current'),
        }
        return _numbers(
            {
                name: trees[controller] / parent.lstrip('/') / file
                for name, (controller, file) in files.items()
                if controller in trees
            }
        )

    @staticmethod
    def _place(hierarchies: dict[str, pathlib.Path], parent: str, setting: Setting) -> pathlib.Path:
        if setting.file.startswith('/'):
            return pathlib.Path(setting.file)
        return hierarchies[setting.controller] / parent.lstrip('/') / setting.file

    @staticmethod
    def _inherit(tree: pathlib.Path, parent: str) -> list[Setting]:
        """Return what a new cpuset needs before cores can be chosen: it starts empty."""
        cpus = (tree / 'cpuset.cpus').read_text().strip()
        nodes = (tree / 'cpuset.mems').read_text().strip()
        above, own = _lineage(tree, parent)
        return [
            Setting('cpuset', f'{above}/cpuset.cpus', cpus, optional=True),
            Setting('cpuset', f'{above}/cpuset.mems', nodes, optional=True),
            Setting('cpuset', f'{own}/cpuset.mems', nodes),
        ]


class Unified:
    """cgroup v2 with Docker's cgroupfs driver: one tree for all controllers."""

    def __init__(self, root: str) -> None:
        """Use the hierarchy that is mounted at `root`."""
        self._root = pathlib.Path(root)

    def create(self, parent: str, limits: Limits) -> None:
        """See `Cgroups.create`."""
        above, own = _lineage(self._root, parent)
        settings = unified_settings(limits)
        enable = [
            # A controller reaches a cgroup only if every one above hands it on.
            (f'{directory}/cgroup.subtree_control', f'+{controller}', True)
            for directory in (self._root, above)
            for controller in dict.fromkeys(setting.controller for setting in settings)
        ]
        _privileged(
            [str(above), str(own)],
            enable
            + [(f'{own}/{setting.file}', setting.value, setting.optional) for setting in settings],
        )

    def remove(self, parent: str) -> None:
        """See `Cgroups.remove`."""
        _remove([self._root / parent.lstrip('/')])

    def usage(self, parent: str) -> dict[str, int]:
        """See `Cgroups.usage`."""
        return _unified_usage(self._root / parent.lstrip('/'))


class Systemd:
    """Docker's systemd driver: the cgroup is a slice, and systemd alone writes its files."""

    def __init__(self, version: int, root: str) -> None:
        """Use the manager on the system bus.

        :param version: of cgroups, which decides on the properties' names
        :param root: where usage is read
        """
        self._version = version
        self._root = pathlib.Path(root)

    def create(self, parent: str, limits: Limits) -> None:
        """See `Cgroups.create`."""
        properties = slice_properties(limits, self._version)
        described = [
            ('Description', ('s', f'zun sandbox {_sandbox_id(parent)}')),
            ('CPUAccounting', ('b', True)),
            ('MemoryAccounting', ('b', True)),
            ('TasksAccounting', ('b', True)),
        ]
        try:
            self._call(
                'StartTransientUnit', 'ssa(sv)a(sa(sv))', parent, 'fail', described + properties, []
            )
        except PrivilegedError as error:
            if 'UnitExists' not in str(error):
                raise CgroupError(f'{parent}: {error}') from error
            try:
                self._call('SetUnitProperties', 'sba(sv)', parent, True, properties)
            except PrivilegedError as refusal:
                raise CgroupError(f'{parent}: {refusal}') from refusal

    def remove(self, parent: str) -> None:
        """See `Cgroups.remove`."""
        try:
            self._call('StopUnit', 'ss', parent, 'replace')
        except PrivilegedError as error:
            if 'NoSuchUnit' not in str(error):
                raise CgroupError(f'{parent}: {error}') from error

    def usage(self, parent: str) -> dict[str, int]:
        """See `Cgroups.usage`."""
        if self._version == 2:
            return _unified_usage(self._root / 'zun.slice' / parent)
        return {}

    @staticmethod
    def _call(method: str, signature: str, *body: typing.Any) -> None:
        cgroups.systemd(method, signature, list(body), _DBUS_SECONDS)


def _sandbox_id(parent: str) -> uuid.UUID:
    return uuid.UUID(parent.removeprefix('zun-').removesuffix('.slice'))


def _lineage(tree: pathlib.Path, parent: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Return the directory of all sandboxes and that of one."""
    own = tree / parent.lstrip('/')
    return own.parent, own


def _privileged(directories: list[str], settings: list[tuple[str, str, bool]]) -> None:
    try:
        cgroups.make_cgroup(directories, settings)
    except FAILURES as error:
        raise CgroupError(f'making cgroup {directories[-1]}: {error}') from error


def _remove(directories: list[pathlib.Path]) -> None:
    present = [str(directory) for directory in directories if directory.is_dir()]
    try:
        left = cgroups.remove_cgroup(present, _REMOVE_SECONDS) if present else []
    except FAILURES as error:
        raise CgroupError(f'removing cgroup {present[0]}: {error}') from error
    if left:
        raise CgroupError(f'still in use: {", ".join(left)}')


def _unified_usage(directory: pathlib.Path) -> dict[str, int]:
    found = _numbers({'memory': directory / 'memory.current', 'pids': directory / 'pids.current'})
    try:
        lines = (directory / 'cpu.stat').read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        key, _, value = line.partition(' ')
        if key == 'usage_usec':
            found['cpu'] = int(value) * 1000
    return found


def _numbers(paths: dict[str, pathlib.Path]) -> dict[str, int]:
    found = {}
    for name, path in paths.items():
        try:
            found[name] = int(path.read_text())
        except (OSError, ValueError) as error:
            LOG.debug('%s cannot be read: %s', path, error)
    return found
