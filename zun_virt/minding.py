"""The part of the driver that minds sandboxes between nova's calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nova.conf
from oslo_log import log as logging

from zun_virt import events, host, lifecycle, orphans, periodic, recovery, servers, switch

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


class Minding:
    """Follows what Docker tells, and runs the driver's own passes."""

    _host: host.Host
    _sandboxes: lifecycle.Lifecycle
    emit_event: Callable[[Any], None]
    _remove: Callable[..., None]
    _replug: Callable[[Any], None]

    def _start_minding(self, name: str) -> None:
        """Begin to follow Docker; nothing is acted on before `_servers_are_known`."""
        known = servers.Servers(name)
        self._recovery = recovery.Recovery(self, self._host, self._sandboxes, known, self._replug)
        remove = lambda owner, vifs: self._remove(owner, 0, vifs)  # noqa: E731
        self._orphans = orphans.Orphans(self._host, self._sandboxes, known, remove)
        self._watcher = events.Watcher(self._host, self._recovery, self.emit_event)
        self._watcher.start()
        seconds = CONF.zun_virt.recovery_interval
        self._passes = periodic.Passes()
        self._passes.add('sandboxes', self._recovery.look_around, seconds)
        self._passes.add('orphans', self._orphans.look_around, seconds)
        self._passes.start()

    def _servers_are_known(self) -> None:
        """Act from now on: nova has done with what it does by itself when it starts."""
        if not self._recovery.begun:
            self._recovery.begin()
            self._passes.wake('sandboxes')
            self._passes.wake('orphans')

    def _nova_listens(self) -> bool:
        """Return whether nova-compute has started; before, it hears of no event."""
        return self._recovery.nova_listens

    def _forgotten_ports(self, instance: Any) -> list[Any]:
        """Return what the switch still has of a server whose ports nova names no more.

        So it deletes one here that was deleted while this host was away: Neutron's ports are
        gone by then, and those of the switch would stay.
        """
        record = self._sandboxes.record(instance.uuid)
        bare = record is None and self._sandboxes.store.directory(instance.uuid).is_dir()
        if not bare and not (record and record.addresses):
            return []
        try:
            return orphans.forgotten_ports(instance.uuid)
        except switch.SwitchError as error:
            LOG.warning('Its ports may stay on the switch: %s', error, instance=instance)
            return []

    def _stop_minding(self) -> None:
        self._passes.stop()
        self._recovery.stop()
        self._watcher.stop()
