"""Cgroups with Docker's cgroupfs driver: directories and files, which root writes."""

from __future__ import annotations

import errno
import pathlib
from collections.abc import Callable, Sequence

from oslo_log import log as logging

from zun_virt.cgroup import usage
from zun_virt.cgroup.errors import CgroupError, LimitsInUse
from zun_virt.cgroup.limits import (
    Io,
    Limits,
    Setting,
    cpus_of,
    io_max,
    legacy_settings,
    unified_settings,
)
from zun_virt.privsep import FAILURES, cgroups

LOG = logging.getLogger(__name__)

_REMOVE_SECONDS = 3.0
_MEMSW = 'memory.memsw.limit_in_bytes'

_Change = tuple[str, str, bool]
"""Path, value, and whether the kernel may lack or refuse it."""


class Legacy:
    """cgroup v1: one tree for every controller."""

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
        changes = self._changes(parent, limits)
        used = dict.fromkeys(hierarchies[setting.controller] for setting in settings)
        _privileged([str(path) for tree in used for path in lineage(tree, parent)], changes)

    def update(self, parent: str, limits: Limits, before: Limits) -> None:
        """See `Cgroups.update`."""
        own = self._own(parent)
        memory = own.get('memory', self._root)
        given = [
            usage.legacy_given(
                name, {controller: path / directory.name for controller, path in own.items()}
            )
            for name, directory in usage.containers(memory).items()
        ]
        refuse(usage.conflict(limits, usage.legacy(own), given))

        def apply(wanted: Limits) -> None:
            # It may have had all cores until now, and so no cpuset.
            directories = lineage(self.hierarchies()['cpuset'], parent) if wanted.cpus else ()
            _privileged([str(path) for path in directories], self._changes(parent, wanted))

        def check() -> None:
            # The write may fail where there is no such file, so that this is where it shows.
            swap = _number(memory / _MEMSW)
            if swap is not None and swap > limits.memory:
                raise OSError(errno.EBUSY, f'{swap} bytes of memory and swap are still allowed')

        change(apply, limits, before, used=lambda: self.usage(parent), check=check)

    def remove(self, parent: str) -> None:
        """See `Cgroups.remove`."""
        trees = dict.fromkeys(self.hierarchies().values())
        _remove([tree / parent.lstrip('/') for tree in trees])

    def usage(self, parent: str) -> dict[str, int]:
        """See `Cgroups.usage`."""
        return usage.legacy(self._own(parent))

    def _own(self, parent: str) -> dict[str, pathlib.Path]:
        return {name: tree / parent.lstrip('/') for name, tree in self.hierarchies().items()}

    def _changes(self, parent: str, limits: Limits) -> list[_Change]:
        own = self._own(parent)
        changes = [
            (str(own[setting.controller] / setting.file), setting.value, setting.optional)
            for setting in legacy_settings(limits)
            if setting.controller != 'cpuset'
        ]
        tree = self.hierarchies().get('cpuset')
        if tree is not None and (cpus := limits.cpus or _no_longer(tree, own['cpuset'])):
            changes += _legacy_cpus(tree, *lineage(tree, parent), cpus)
        return changes


def _no_longer(tree: pathlib.Path, own: pathlib.Path) -> str | None:
    """Return all cores for what was kept on some of them, None for what was not."""
    everything = _text(tree / 'cpuset.cpus')
    return everything if _text(own / 'cpuset.cpus') not in (None, '', everything) else None


def _legacy_cpus(
    tree: pathlib.Path, above: pathlib.Path, own: pathlib.Path, cpus: str
) -> list[_Change]:
    """Return what gives a cpuset of cgroup v1, and those in it, their cores.

    A new one starts empty; and it can lose no core that one below it has, nor can that
    have one that it has not.
    """
    present = _text(own / 'cpuset.cpus') or ''
    below = list(usage.containers(own).values())
    both = ','.join(str(cpu) for cpu in sorted(cpus_of(present) | cpus_of(cpus)))
    nodes = _text(tree / 'cpuset.mems') or ''
    return [
        (f'{above}/cpuset.cpus', _text(tree / 'cpuset.cpus') or '', True),
        (f'{above}/cpuset.mems', nodes, True),
        (f'{own}/cpuset.mems', nodes, False),
        *([(f'{own}/cpuset.cpus', both, False)] if below else []),
        # A container may end meanwhile.
        *((f'{directory}/cpuset.cpus', cpus, True) for directory in below),
        (f'{own}/cpuset.cpus', cpus, False),
    ]


class Unified:
    """cgroup v2: one tree for all controllers."""

    def __init__(self, root: str) -> None:
        """Use the hierarchy that is mounted at `root`."""
        self._root = pathlib.Path(root)

    def create(self, parent: str, limits: Limits) -> None:
        """See `Cgroups.create`."""
        above, own = lineage(self._root, parent)
        _privileged([str(above), str(own)], self._changes(parent, limits))

    def update(self, parent: str, limits: Limits, before: Limits) -> None:
        """See `Cgroups.update`."""
        own = self._root / parent.lstrip('/')
        given = [usage.unified_given(name, path) for name, path in usage.containers(own).items()]
        # The kernel would not refuse: it would kill until the rest fits.
        refuse(usage.conflict(limits, usage.unified(own), given))

        def apply(wanted: Limits) -> None:
            _privileged([], self._changes(parent, wanted))

        change(apply, limits, before, used=lambda: self.usage(parent))

    def remove(self, parent: str) -> None:
        """See `Cgroups.remove`."""
        _remove([self._root / parent.lstrip('/')])

    def usage(self, parent: str) -> dict[str, int]:
        """See `Cgroups.usage`."""
        return usage.unified(self._root / parent.lstrip('/'))

    def _changes(self, parent: str, limits: Limits) -> list[_Change]:
        above, own = lineage(self._root, parent)
        settings: Sequence[Setting] = unified_settings(limits)
        return [
            # A controller reaches a cgroup only if every one above hands it on.
            *(
                (f'{directory}/cgroup.subtree_control', f'+{controller}', True)
                for directory in (self._root, above)
                for controller in dict.fromkeys(setting.controller for setting in settings)
            ),
            *_lifted(own, limits),
            *((f'{own}/{setting.file}', setting.value, setting.optional) for setting in settings),
        ]


def _lifted(own: pathlib.Path, limits: Limits) -> list[_Change]:
    """Return what lifts limits that are none of a cgroup's any more: the kernel keeps them.

    Bounds of block I/O are each disk's own, and lifted by its number.
    """
    bounds, cpus = own / 'io.max', own / 'cpuset.cpus'
    disks = [line.split()[0] for line in (_text(bounds) or '').splitlines()]
    lifted = [
        # The disk may have gone.
        (str(bounds), io_max(Io(device=disk)), True)
        for disk in disks
        if limits.io is None or disk != limits.io.device
    ]
    if not limits.cpus and _text(cpus):
        lifted.append((str(cpus), '\n', False))
    return lifted


def refuse(conflict: usage.Conflict | None) -> None:
    """Raise what `usage.conflict` found.

    :raises LimitsInUse: it found something
    """
    if conflict is not None:
        raise LimitsInUse(conflict)


def change(
    apply: Callable[[Limits], None],
    limits: Limits,
    before: Limits,
    *,
    used: Callable[[], dict[str, int]],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Apply limits, or have those of before.

    :param used: returns what is in use, for the reason of a refusal
    :param check: raises OSError when the limits did not take effect
    :raises LimitsInUse: there is more memory in use than the kernel could take back
    :raises CgroupError: they were refused for another reason
    """
    try:
        apply(limits)
        check()
    except (CgroupError, OSError) as error:
        present = used().get('memory', 0)
        try:
            apply(before)
        except CgroupError:
            LOG.exception('The limits of before could not be put back')
        cause = error.__cause__ if isinstance(error, CgroupError) else error
        if isinstance(cause, OSError) and cause.errno == errno.EBUSY:
            raise LimitsInUse(_memory_conflict(limits, present)) from error
        raise error if isinstance(error, CgroupError) else CgroupError(str(error)) from error


def _memory_conflict(limits: Limits, used: int) -> usage.Conflict:
    return usage.Conflict(resource='memory', wanted=limits.memory, present=used)


def lineage(tree: pathlib.Path, parent: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Return the directory of all sandboxes and that of one."""
    own = tree / parent.lstrip('/')
    return own.parent, own


def _privileged(directories: list[str], settings: list[_Change]) -> None:
    place = directories[-1] if directories else settings[-1][0]
    try:
        cgroups.make_cgroup(directories, settings)
    except FAILURES as error:
        raise CgroupError(f'writing cgroup {place}: {error}') from error


def _remove(directories: list[pathlib.Path]) -> None:
    present = [str(directory) for directory in directories if directory.is_dir()]
    try:
        left = cgroups.remove_cgroup(present, _REMOVE_SECONDS) if present else []
    except FAILURES as error:
        raise CgroupError(f'removing cgroup {present[0]}: {error}') from error
    if left:
        raise CgroupError(f'still in use: {", ".join(left)}')


def _text(path: pathlib.Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None


def _number(path: pathlib.Path) -> int | None:
    text = _text(path)
    return int(text) if text else None
