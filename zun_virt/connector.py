"""Brings a sandbox's network up, together with Neutron, and then calls it ready."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import nova.conf
from nova import exception
from nova.compute import vm_states
from oslo_log import log as logging

from zun_virt import lifecycle, network

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


class Steps:
    """How long each step took, for the log."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()
        self._taken: list[tuple[str, float]] = []

    def done(self, step: str) -> None:
        """Note that a step has ended, and the next begins."""
        now = time.monotonic()
        self._taken.append((step, now - self._last))
        self._last = now

    def __str__(self) -> str:
        parts = ', '.join(f'{step} {seconds * 1000:.0f}' for step, seconds in self._taken)
        return f'{(self._last - self._begin) * 1000:.0f} ms: {parts}'


class Connector:
    """Connects sandboxes to their ports."""

    def __init__(
        self, virtapi: Any, wiring: network.Network, sandboxes: lifecycle.Lifecycle
    ) -> None:
        """Use nova's `virtapi` to wait for Neutron."""
        self._virtapi = virtapi
        self._network = wiring
        self._sandboxes = sandboxes

    def connect(
        self,
        instance: Any,
        vifs: list[Any],
        made: lifecycle.Made,
        steps: Steps | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        """Give a sandbox its network, and tell the agent when it works.

        :param fresh: whether its interfaces are made anew, for which Neutron is awaited
        :raises nova.exception.VirtualInterfacePlugException: a port cannot be plugged
        :raises nova.exception.VirtualInterfaceCreateException: Neutron did not follow
        """
        steps = steps or Steps()
        addresses = network.addresses(vifs)
        self._sandboxes.write_files(
            instance.uuid,
            {
                'hosts': network.hosts_file(made.record.hostname, addresses),
                'resolv.conf': network.resolv_conf(vifs),
            },
        )
        if not made.pid:
            return
        again = instance.vm_state != vm_states.BUILDING
        with self._neutron(instance, vifs if fresh else [], again=again):
            self._network.plug(instance, vifs, made.pid, fresh=fresh)
            steps.done('plug')
        steps.done('event')
        self._sandboxes.ready(instance.uuid, addresses)
        steps.done('ready')

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
