"""The part of the driver that looks at sandboxes and changes nothing."""

from __future__ import annotations

import time
from typing import Any

from nova import exception
from nova.compute import power_state
from nova.virt import hardware

from zun_virt import cgroup, host, lifecycle, network, report, sandbox
from zun_virt.errors import in_novas_words

_POWER_STATES = {
    'created': power_state.SHUTDOWN,
    'running': power_state.RUNNING,
    'paused': power_state.PAUSED,
    'restarting': power_state.RUNNING,
    'exited': power_state.SHUTDOWN,
    'removing': power_state.CRASHED,
    'dead': power_state.CRASHED,
}

_AGREED = {
    sandbox.State.READY: 'running',
    sandbox.State.PAUSED: 'paused',
    sandbox.State.STOPPED: 'exited',
}
"""What the pause container is when a record tells the truth."""

_COUNT_SECONDS = 60.0
"""How long a count may answer for: that of nova's pass over a full and busy host."""


class Inspection:
    """Answers nova's questions about what is there."""

    _host: host.Host
    _cgroups: cgroup.Cgroups
    _network: network.Network
    _sandboxes: lifecycle.Lifecycle

    def _init_inspection(self) -> None:
        # What nova's last count of the sandboxes saw of each, until it is told.
        self._counted: dict[str, host.Container] = {}
        self._counted_at = 0.0

    @in_novas_words
    def list_instances(self) -> list[str]:
        """Return nova's internal names of all sandboxes."""
        return [container.nova_name for container in self._host.sandboxes()]

    @in_novas_words
    def list_instance_uuids(self) -> list[str]:
        """Return the uuids of all sandboxes."""
        return [container.sandbox_id for container in self._host.sandboxes()]

    @in_novas_words
    def get_num_instances(self) -> int:
        """Return how many sandboxes there are.

        nova asks so at the beginning of each comparison of power states, and then for each
        server by `get_info`, which this one look at Docker answers, too.
        """
        at, found = time.monotonic(), self._host.sandboxes()
        self._counted = {container.sandbox_id: container for container in found}
        self._counted_at = at
        return len(found)

    @in_novas_words
    def instance_exists(self, instance: Any) -> bool:
        """Return whether the server has a sandbox here."""
        return self._host.pause_container(instance.uuid) is not None

    @in_novas_words
    def get_info(self, instance: Any, use_cache: bool = True) -> Any:
        """Return the sandbox's power state.

        :param use_cache: whether it may be that of a moment ago
        :raises nova.exception.InstanceNotFound: there is none
        """
        container = self._as_counted(instance.uuid) if use_cache else None
        if container is not None:
            return hardware.InstanceInfo(_POWER_STATES[container.state])
        return hardware.InstanceInfo(self._power_state(instance.uuid))

    def _as_counted(self, instance_id: str) -> host.Container | None:
        """Return the pause container as nova's last count saw it, None when it may differ now.

        Each is told once. Every act of ours changes the record, and what ends by itself
        contradicts it: so neither is hidden by a count that came before.
        """
        container = self._counted.pop(instance_id, None)
        if container is None or time.monotonic() - self._counted_at > _COUNT_SECONDS:
            return None
        record = self._sandboxes.record(instance_id)
        agreed = record is not None and _AGREED.get(record.state) == container.state
        return container if agreed else None

    def _power_state(self, instance_id: str) -> Any:
        container = self._host.pause_container(instance_id)
        if container is not None and container.alive:
            return _POWER_STATES[container.state]
        if self._sandboxes.unsettled(instance_id):
            # It is about to run again, or to be called stopped: nova shall not stop it first.
            return power_state.NOSTATE
        if container is not None:
            return _POWER_STATES[container.state]
        record = self._sandboxes.record(instance_id)
        if record is not None and record.state is sandbox.State.STOPPED:
            return power_state.SHUTDOWN  # it can be started: it is made anew then
        raise exception.InstanceNotFound(instance_id=instance_id)

    @in_novas_words
    def get_console_output(self, context: Any, instance: Any) -> str:
        """Return the recent output of the sandbox's containers."""
        output = report.console(self._host, instance.uuid)
        if output is None:
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        return output

    @in_novas_words
    def get_diagnostics(self, instance: Any) -> dict[str, int]:
        """Return what the sandbox uses, as plain numbers."""
        _, usage, traffic = self._used(instance)
        return report.flat_diagnostics(usage, traffic)

    @in_novas_words
    def get_instance_diagnostics(self, instance: Any) -> Any:
        """Return what the sandbox uses."""
        state = power_state.STATE_MAP[self._power_state(instance.uuid)]
        drive = bool(instance.config_drive)
        return report.diagnostics(*self._used(instance), state, config_drive=drive)

    def _found(self, instance: Any) -> host.Container:
        container = self._host.pause_container(instance.uuid)
        if container is None:
            raise exception.InstanceNotFound(instance_id=instance.uuid)
        return container

    def _used(
        self, instance: Any
    ) -> tuple[lifecycle.Made | None, dict[str, int], dict[str, dict[str, int]]]:
        self._found(instance)
        made = self._sandboxes.running(instance.uuid)
        if made is None:
            return None, {}, {}
        return (
            made,
            self._cgroups.usage(made.record.cgroup_parent),
            self._network.counters(made.pid),
        )
