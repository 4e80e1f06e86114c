"""Finds and removes what is here of sandboxes that belong to no server of this host.

It comes of a server that was deleted while nova-compute was down, or was cut off before
Docker knew of it.  A directory is made before all else of a sandbox and removed after it,
so that whatever is left has one, or is a container with our label.
"""

from __future__ import annotations

import time
import typing
from collections.abc import Callable

import nova.conf
from nova import objects
from nova.network import model
from oslo_log import log as logging

from zun_virt import errors, host, lifecycle, sandbox, servers, switch

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


class Orphans:
    """Looks for orphans, again and again, and removes those that stay so."""

    def __init__(
        self,
        docker: host.Host,
        sandboxes: lifecycle.Lifecycle,
        known: servers.Servers,
        remove: Callable[[typing.Any, list[typing.Any]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know of none yet.

        :param remove: removes all there is of a server's sandbox, with the given interfaces
        """
        self._docker = docker
        self._sandboxes = sandboxes
        self._servers = known
        self._remove = remove
        self._clock = clock
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    def look_around(self) -> None:
        """Remove what has been nobody's for the time of grace.

        :raises zun_virt.host.HostError: Docker cannot be asked
        """
        found = self._docker.everything() | self._sandboxes.store.ids()
        strange = found - {server.uuid for server in self._servers.here()}
        for instance_id in self._since.keys() - strange:
            del self._since[instance_id]
            self._told.discard(instance_id)
        for instance_id in sorted(strange):
            since = self._since.setdefault(instance_id, self._clock())
            if self._clock() - since >= CONF.zun_virt.orphan_grace:
                self._servers.alone(instance_id, lambda: self._judge(instance_id))  # noqa: B023

    def _judge(self, instance_id: str) -> None:
        fate = self._servers.fate(instance_id)
        if not fate.over or not self._is_there(instance_id):
            return
        try:
            record = self._sandboxes.store.read(instance_id)
        except sandbox.SandboxError as error:
            self._tell(instance_id, 'is an orphan (%s), but is left alone: %s', fate, error)
            return
        if record is not None and record.host != self._docker.owner:
            self._tell(instance_id, 'is left alone: its record is of host %s', record.host)
            return
        if CONF.zun_virt.orphan_dry_run:
            self._tell(instance_id, 'is an orphan (%s), and would be removed', fate)
            return
        LOG.warning('Sandbox %s is an orphan (%s); removing it', instance_id, fate)
        try:
            self._remove(
                objects.Instance(uuid=instance_id, project_id='', display_name='', id=0),
                forgotten_ports(instance_id),
            )
        except (*errors.FAILURES, switch.SwitchError) as error:
            LOG.warning(
                'Sandbox %s cannot be removed: %s; it is tried again with the next pass',
                instance_id,
                error,
            )

    def _is_there(self, instance_id: str) -> bool:
        """Look again: whoever had the server before us may have removed it."""
        directory = self._sandboxes.store.directory(instance_id)
        return directory.is_dir() or bool(self._docker.containers(instance_id))

    def _tell(self, instance_id: str, text: str, *arguments: typing.Any) -> None:
        """Log something once, not with every pass."""
        if instance_id not in self._told:
            self._told.add(instance_id)
            LOG.warning('Sandbox %s ' + text, instance_id, *arguments)


def forgotten_ports(instance_id: str) -> list[model.VIF]:
    """Return the ports of a server that nova has forgotten, and the switch has still.

    :raises zun_virt.switch.SwitchError: it does not answer
    """
    return [_vif(port) for port in switch.ports(instance_id)]


def _vif(port: switch.Port) -> model.VIF:
    """Return nova's model of a port of which only the switch knows."""
    bridge = CONF.neutron.ovs_bridge
    return model.VIF(
        id=port.port_id,
        address='00:00:00:00:00:00',
        type=model.VIF_TYPE_OVS,
        devname=port.device,
        ovs_interfaceid=port.port_id,
        delegate_create=True,
        network=model.Network(id=port.port_id, bridge=bridge, subnets=[]),
        details={'bridge_name': bridge},
    )
