"""Brings a sandbox's network up, together with Neutron, and then calls it ready."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import nova.conf
from nova import exception
from nova.compute import vm_states
from oslo_log import log as logging

from zun_virt import lifecycle, network, sandbox
from zun_virt.steps import Steps

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

Names = Mapping[tuple[str, str], str]
"""Full names by port and address."""


class Connector:
    """Connects sandboxes to their ports."""

    def __init__(
        self, virtapi: Any, wiring: network.Network, sandboxes: lifecycle.Lifecycle
    ) -> None:
        """Use nova's `virtapi` to wait for Neutron."""
        self._virtapi = virtapi
        self._network = wiring
        self._sandboxes = sandboxes
        self._applied: dict[str, tuple[list[Any], Any]] = {}

    def connect(
        self,
        instance: Any,
        vifs: list[Any],
        made: lifecycle.Made,
        steps: Steps | None = None,
        *,
        fresh: bool = False,
        awaited: bool = True,
        names: Names | None = None,
    ) -> None:
        """Give a sandbox its network, and tell the agent when it works.

        :param fresh: whether its interfaces are made anew
        :param awaited: whether Neutron is awaited for those, whose word cannot arrive before
            nova's service listens
        :param names: of its ports in Neutron; None for those that it had
        :raises nova.exception.VirtualInterfacePlugException: a port cannot be plugged
        :raises nova.exception.VirtualInterfaceCreateException: Neutron did not follow
        """
        steps = steps or Steps()
        record = made.record
        addresses = network.addresses(vifs, _names(record) if names is None else names)
        # Those of a sandbox that was never plugged are not in the way of anything.
        former = () if fresh else record.addresses
        if not made.pid:
            self.note(vifs, record, names)
            return
        again = instance.vm_state != vm_states.BUILDING
        with self._neutron(instance, vifs if fresh and awaited else [], again=again):
            self._network.plug(instance, vifs, made.pid, fresh=fresh, former=former)
            self._write_files(record, vifs, addresses)
            steps.done('plug')
        steps.done('event')
        self._sandboxes.ready(instance.uuid, addresses)
        self._applied[instance.uuid] = (vifs, _state(vifs, addresses))
        steps.done('ready')

    def note(self, vifs: list[Any], record: sandbox.Sandbox, names: Names | None = None) -> None:
        """Write down the ports of a sandbox that does not run, for those who look.

        :param names: as for `connect`
        """
        addresses = network.addresses(vifs, _names(record) if names is None else names)
        self._write_files(record, vifs, addresses)
        if record.addresses != tuple(addresses):
            self._sandboxes.store.write(record.replace(addresses=tuple(addresses)))
        self._applied[record.instance_id] = (vifs, _state(vifs, addresses))

    def applied(self, instance_id: str) -> list[Any]:
        """Return the ports that a sandbox has now, as far as is known."""
        return self._applied.get(instance_id, ([], ()))[0]

    def is_current(self, instance_id: str, vifs: list[Any], names: Names) -> bool:
        """Return whether a sandbox's network is known to be what it shall be."""
        if instance_id not in self._applied:
            return False
        wanted = _state(vifs, network.addresses(vifs, names))
        return bool(self._applied[instance_id][1] == wanted)

    def disconnect(self, instance: Any, vifs: Iterable[Any]) -> None:
        """Take all interfaces of a sandbox from the host, those that nova has lost included.

        :raises nova.exception.VirtualInterfacePlugException: one could not be removed
        """
        by_id = {vif['id']: vif for vif in (*self.applied(instance.uuid), *vifs)}
        self._network.unplug(instance, by_id.values())
        self._applied.pop(instance.uuid, None)

    def _write_files(
        self, record: sandbox.Sandbox, vifs: list[Any], addresses: list[sandbox.Address]
    ) -> None:
        self._sandboxes.write_files(
            record.instance_id,
            {
                'hosts': network.hosts_file(record.hostname, addresses),
                'resolv.conf': network.resolv_conf(vifs),
            },
        )

    @contextlib.contextmanager
    def _neutron(self, instance: Any, vifs: list[Any], *, again: bool) -> Iterator[None]:
        """Wait, after the plugging within, until Neutron has wired the ports.

        :param again: whether they were plugged before: Neutron may then still call them
            active, and call them so anew when it has seen the new interface
        """
        down = [vif for vif in vifs if vif.get('active', True) is False]
        stale = [vif for vif in vifs if again and vif not in down]
        with (
            self._event(instance, stale, CONF.zun_virt.vif_replug_timeout, fatal=False),
            self._event(
                instance, down, CONF.vif_plugging_timeout, fatal=CONF.vif_plugging_is_fatal
            ),
        ):
            yield

    @contextlib.contextmanager
    def _event(
        self, instance: Any, vifs: list[Any], timeout: int, *, fatal: bool
    ) -> Iterator[None]:
        if not timeout:
            vifs = []

        def failed(event_name: str, instance: Any) -> None:
            LOG.error('Neutron reports the failure of %s', event_name, instance=instance)
            if fatal:
                raise exception.VirtualInterfaceCreateException()

        awaited = [('network-vif-plugged', vif['id']) for vif in vifs]
        try:
            with self._virtapi.wait_for_instance_event(
                instance, awaited, timeout=timeout, error_callback=failed
            ):
                yield
        except exception.InstanceEventTimeout:
            ports = ', '.join(vif['id'] for vif in vifs)
            LOG.warning(
                'No word from Neutron of ports %s in %s s', ports, timeout, instance=instance
            )
            if fatal:
                raise exception.VirtualInterfaceCreateException() from None


def _names(record: sandbox.Sandbox) -> Names:
    return {(one.port_id, one.address): one.fqdn for one in record.addresses}


def _state(vifs: list[Any], addresses: Iterable[sandbox.Address]) -> Any:
    """Return all that a sandbox has of its ports, to compare."""
    return network.plan(vifs), tuple(addresses), network.resolv_conf(vifs)
