"""Cgroups with Docker's systemd driver: slices, whose files systemd alone writes."""

from __future__ import annotations

import errno
import pathlib
import time
import typing
import uuid
from collections.abc import Callable

from zun_virt.cgroup import usage
from zun_virt.cgroup.errors import CgroupError
from zun_virt.cgroup.limits import Limits, slice_properties
from zun_virt.cgroup.trees import change, refuse
from zun_virt.cgroup.usage import Given
from zun_virt.privsep import PrivilegedError, cgroups

_DBUS_SECONDS = 20.0
_DONE_SECONDS = 10.0
"""For systemd to do what it has said yes to."""


class Systemd:
    """Slices of the system's manager."""

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
            *([('IOAccounting', ('b', True))] if self._version == 2 else []),
        ]
        try:
            self._call(
                'StartTransientUnit', 'ssa(sv)a(sa(sv))', parent, 'fail', described + properties, []
            )
        except PrivilegedError as error:
            if 'UnitExists' not in str(error):
                raise CgroupError(f'{parent}: {error}') from error
            self._set(parent, limits)
            # It may have stopped, and not be forgotten yet.
            self._ask('StartUnit', 'ss', parent, 'replace')

    def update(self, parent: str, limits: Limits, before: Limits) -> None:
        """See `Cgroups.update`."""
        refuse(usage.conflict(limits, self.usage(parent), self._given(parent)))

        def check() -> None:
            # systemd tells its journal, and nobody else, what the kernel refused.
            memory = self._own(parent).get('memory', pathlib.Path()) / 'memory.limit_in_bytes'
            if self._version != 1 or not memory.is_file():
                return
            if not _until(lambda: int(memory.read_text()) <= limits.memory, 1.0):
                raise OSError(errno.EBUSY, f'{memory} could not be lowered')

        change(
            lambda wanted: self._set(parent, wanted),
            limits,
            before,
            used=lambda: self.usage(parent),
            check=check,
        )

    def remove(self, parent: str) -> None:
        """See `Cgroups.remove`."""
        try:
            self._call('StopUnit', 'ss', parent, 'replace')
        except PrivilegedError as error:
            if 'NoSuchUnit' not in str(error):
                raise CgroupError(f'{parent}: {error}') from error
        # One that is made anew meanwhile would be stopped, and come back without limits.
        if not _until(lambda: not self._present(parent), _DONE_SECONDS):
            raise CgroupError(f'still in use: {parent}')

    def usage(self, parent: str) -> dict[str, int]:
        """See `Cgroups.usage`."""
        own = self._own(parent)
        return usage.unified(own['']) if self._version == 2 else usage.legacy(own)

    def _own(self, parent: str) -> dict[str, pathlib.Path]:
        """Return the slice's directory by controller; that of cgroup v2 has none."""
        if self._version == 2:
            return {'': self._root / 'zun.slice' / parent}
        return {
            controller: tree / 'zun.slice' / parent
            for tree in (self._root.iterdir() if self._root.is_dir() else ())
            for controller in tree.name.split(',')
        }

    def _given(self, parent: str) -> list[Given]:
        own = self._own(parent)
        if self._version == 2:
            return [
                usage.unified_given(name, path) for name, path in usage.containers(own['']).items()
            ]
        found = usage.containers(own.get('memory', self._root / parent))
        return [
            usage.legacy_given(name, {key: path / entry.name for key, path in own.items()})
            for name, entry in found.items()
        ]

    def _present(self, parent: str) -> bool:
        return any(directory.is_dir() for directory in self._own(parent).values())

    def _set(self, parent: str, limits: Limits) -> None:
        properties = slice_properties(limits, self._version)
        self._ask('SetUnitProperties', 'sba(sv)', parent, True, properties)

    def _ask(self, method: str, signature: str, parent: str, *rest: typing.Any) -> None:
        try:
            self._call(method, signature, parent, *rest)
        except PrivilegedError as error:
            raise CgroupError(f'{parent}: {error}') from error

    @staticmethod
    def _call(method: str, signature: str, *body: typing.Any) -> None:
        cgroups.systemd(method, signature, list(body), _DBUS_SECONDS)


def _until(done: Callable[[], bool], seconds: float) -> bool:
    """Wait for what systemd does after it has answered; return whether it did."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _sandbox_id(parent: str) -> uuid.UUID:
    return uuid.UUID(parent.removeprefix('zun-').removesuffix('.slice'))
