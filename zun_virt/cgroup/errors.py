"""What can go wrong with the cgroup of a sandbox."""

from __future__ import annotations

from zun_virt.cgroup.usage import Conflict


class CgroupError(Exception):
    """A sandbox's cgroup could not be made, changed or removed."""


class LimitsInUse(CgroupError):
    """New limits cannot hold what is there; nothing was changed.

    :ivar conflict: what is in the way
    """

    def __init__(self, conflict: Conflict) -> None:
        super().__init__(conflict.text())
        self.conflict = conflict
