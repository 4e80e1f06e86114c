"""What a sandbox cannot do: refused so that the server stays as it was, and says why."""

from __future__ import annotations

from typing import Any, NoReturn

from nova import exception


class Refusals:
    """Operations that end with a reason and change nothing."""

    def check_can_live_migrate_destination(
        self,
        context: Any,
        instance: Any,
        src_compute_info: Any,
        dst_compute_info: Any,
        block_migration: bool = False,
        disk_over_commit: bool = False,
    ) -> NoReturn:
        """Refuse; any other exception would put the server into ERROR."""
        raise exception.MigrationPreCheckError(
            reason='the processes of a sandbox cannot move to another host while they run'
        )

    def trigger_crash_dump(self, instance: Any) -> NoReturn:
        """Refuse."""
        raise exception.TriggerCrashDumpNotSupported(
            'A sandbox has no kernel of its own that could be dumped'
        )
