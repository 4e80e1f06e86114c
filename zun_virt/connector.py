"""Brings a sandbox's network up, together with Neutron, and then calls it ready."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import nova.conf
from nova import exception
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
        await_neutron: bool = False,
    ) -> None:
        """Give a sandbox its network, and tell the agent when it works.

        :param await_neutron: whether to wait for the ports that Neutron does not yet
            call active
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
        with self._neutrons_event(instance, vifs if await_neutron else []):
            self._network.plug(instance, vifs, made.pid)
            steps.done('plug')
        steps.done('event')
        self._sandboxes.ready(instance.uuid, addresses)
        steps.done('ready')

    @contextlib.contextmanager
    def _neutrons_event(self, instance: Any, vifs: list[Any]) -> Iterator[None]:
        """Wait, after the plugging within, until Neutron calls the ports active."""
        awaited = [
            ('network-vif-plugged', vif['id'])
            for vif in vifs
            if vif.get('active', True) is False and CONF.vif_plugging_timeout
        ]
        try:
            with self._virtapi.wait_for_instance_event(
                instance,
                awaited,
                timeout=CONF.vif_plugging_timeout,
                error_callback=_neutron_failed,
            ):
                yield
        except exception.InstanceEventTimeout:
            LOG.warning(
                'Neutron did not call ports %s active in %s s',
                ', '.join(port for _, port in awaited),
                CONF.vif_plugging_timeout,
                instance=instance,
            )
            if CONF.vif_plugging_is_fatal:
                raise exception.VirtualInterfaceCreateException() from None


def _neutron_failed(event_name: str, instance: Any) -> None:
    LOG.error('Neutron reports the failure of %s', event_name, instance=instance)
    if CONF.vif_plugging_is_fatal:
        raise exception.VirtualInterfaceCreateException()
