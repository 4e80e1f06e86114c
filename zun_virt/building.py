"""The steps of which the driver's operations consist: making, starting, stopping.

They speak of servers as nova does; what becomes of that on the host is `lifecycle`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import nova.conf
from nova.compute import vm_states
from oslo_log import log as logging

from zun_virt import (
    cgroup,
    config_drive,
    copies,
    cores,
    host,
    image,
    lifecycle,
    orphans,
    resources,
    sandbox,
    snapshot,
    switch,
)
from zun_virt.errors import FAILURES
from zun_virt.steps import Steps
from zun_virt.storage import Storage

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


class Building(Storage):
    """Makes, starts and stops the sandboxes of servers."""

    _name: str
    _host: host.Host
    _cgroups: cgroup.Cgroups
    _cgroup_driver: str
    _images: image.Images
    _copies: copies.Copies
    _defaults: resources.Defaults
    _nova_listens: Callable[[], bool]

    def _build(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        network_info: Any,
        block_device_info: Any,
        *,
        injected: config_drive.Injected = config_drive.NOTHING,
        power_on: bool = True,
        running: tuple[str, ...] = (),
    ) -> None:
        """Make a sandbox.

        All that needs no network comes first: nova allocates the ports meanwhile, and
        looking at `network_info` waits for them.

        :param injected: what its config drive, where it has one, gets from the request
        :param running: ids of the containers that are to run in it when it does
        """
        steps = Steps()
        with self._turn(instance), contextlib.ExitStack() as undo:
            limits = self._limits(instance)
            chosen, images = self._image(context, instance, image_meta)
            steps.done('image')
            plugged: list[Any] = []
            undo.callback(self._undo, instance, plugged, block_device_info)
            record = self._record(instance, limits).replace(running=running, images=images)
            if power_on:
                volumes = self._mount_all(context, instance, block_device_info)
                record = record.replace(volumes=volumes)
                steps.done('volumes')
            config_drive.prepare(self._sandboxes.store, instance, anew=True)
            made = self._sandboxes.make(
                record, limits, image=chosen, name=instance.name, start=power_on
            )
            steps.done('sandbox')
            plugged.extend(network_info or ())
            steps.done('allocation')
            if config_drive.complete(self._sandboxes.store, instance, network_info, injected):
                steps.done('config drive')
            self._connector.connect(instance, plugged, made, steps, fresh=True)
            undo.pop_all()
        LOG.debug('Spawned in %s', steps, instance=instance)

    def _stop(self, instance: Any, network_info: Any, timeout: int) -> None:
        self._sandboxes.stop(instance.uuid, timeout, self._stopping(instance, network_info))

    def _start(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any,
        *,
        held: bool | None = None,
    ) -> None:
        """Start a sandbox, or make sure of the network of one that runs.

        :param held: whether its containers stay stopped; None for as it was told last
        """
        steps = Steps()
        vifs = list(network_info or ())
        with self._turn(instance), contextlib.ExitStack() as undo:
            made = self._sandboxes.running(instance.uuid)
            fresh = made is None
            if made is None:
                undo.callback(self._stop_again, instance, vifs)
                # A namespace that has gone leaves ports of Open vSwitch without a device.
                self._connector.disconnect(instance, vifs)
                limits = self._limits(instance)
                asked = self._record(instance, limits)
                known = self._sandboxes.record(instance.uuid)
                record = known.replace(limits=asked.limits) if known else asked
                volumes = self._mount_all(context, instance, block_device_info)
                record = record.replace(volumes=volumes)
                if held is not None:
                    record = record.replace(held=held)
                made = self._sandboxes.start(record, limits)
                if made is None:
                    made = self._remake(context, instance, record, limits)
                steps.done('sandbox')
            config_drive.complete(self._sandboxes.store, instance, vifs)  # one that was cut off
            # nova starts again by itself, before it listens, what was cut off at its last end.
            awaited = self._nova_listens()
            self._connector.connect(instance, vifs, made, steps, fresh=fresh, awaited=awaited)
            undo.pop_all()
        LOG.debug('Started in %s', steps, instance=instance)

    def _remake(
        self, context: Any, instance: Any, record: sandbox.Sandbox, limits: cgroup.Limits
    ) -> lifecycle.Made:
        """Make a sandbox anew whose pause container is lost."""
        LOG.warning('The sandbox is lost, making it anew', instance=instance)
        chosen = self._images.ensure(context, instance.image_meta, instance.trusted_certs)
        record = record.replace(incarnation=lifecycle.new_incarnation())
        config_drive.prepare(self._sandboxes.store, instance)
        return self._sandboxes.make(record, limits, image=chosen, name=instance.name, start=True)

    def _stop_again(self, instance: Any, vifs: list[Any]) -> None:
        """Stop what could not be started; nova shows the user what made it fail."""
        try:
            self._stop(instance, vifs, 0)
        except FAILURES:
            LOG.exception('A failed start left something behind', instance=instance)

    def _image(self, context: Any, instance: Any, image_meta: Any) -> tuple[str, dict[str, str]]:
        """Return Docker's id of a sandbox's image, and those of its containers in a snapshot."""
        fresh = instance.vm_state == vm_states.BUILDING
        certificates = instance.trusted_certs
        chosen = self._images.ensure(context, image_meta, certificates, fresh=fresh)
        if fresh:
            return chosen, {}
        images = snapshot.images(self._copies.labels(chosen), instance.uuid)
        if any(self._host.image_id(name) is None for name in images.values()):
            chosen = self._images.again(context, image_meta, certificates)
            images = snapshot.images(self._copies.labels(chosen), instance.uuid)
        return chosen, images

    def _remove(
        self,
        instance: Any,
        timeout: int,
        vifs: Any,
        block_device_info: Any = None,
        *,
        ports_go: bool = True,
    ) -> None:
        """Remove a sandbox with all that belongs to it, as far as it is there.

        :param timeout: seconds that its containers have to end by themselves
        :param ports_go: whether its ports go, too, those of `vifs` and all that the switch has
        """
        record = self._sandboxes.record(instance.uuid)
        had_ports = vifs or self._sandboxes.store.directory(instance.uuid).is_dir()
        release = self._releasing(instance, vifs, block_device_info)
        self._sandboxes.remove(instance.uuid, timeout, release)
        for name in record.images.values() if record else ():
            self._copies.remove(name)
        if ports_go and had_ports:
            self._leave_to_orphans(instance)

    def _leave_to_orphans(self, instance: Any) -> None:
        """Leave a directory where the switch still has ports of a sandbox that was removed.

        os-vif says that it unplugged them even where Open vSwitch does not answer, and nova
        names them no more. What has a directory is found by the search for orphans.
        """
        try:
            left = ', '.join(port['devname'] for port in orphans.forgotten_ports(instance.uuid))
        except switch.SwitchError as error:
            left = str(error)
        if not left:
            return
        LOG.warning(
            'The switch may still have ports of it (%s); the search for orphans removes them',
            left,
            instance=instance,
        )
        try:
            self._sandboxes.store.create(instance.uuid)
        except OSError as error:
            LOG.error('Its ports stay on the switch: %s', error, instance=instance)  # noqa: TRY400

    def _undo(self, instance: Any, vifs: list[Any], block_device_info: Any) -> None:
        """Remove what a failed spawn made; nova shows the user what made it fail."""
        try:
            self._remove(instance, 0, vifs, block_device_info)
        except FAILURES:
            LOG.exception('A failed spawn left something behind', instance=instance)

    def _record(self, instance: Any, limits: cgroup.Limits) -> sandbox.Sandbox:
        parent = sandbox.cgroup_parent(instance.uuid, self._cgroup_driver)
        record = lifecycle.describe(instance, limits, self._name, parent)
        enforced = dataclasses.replace(record.limits, disk_enforced=self._defaults.disk_quota)
        return record.replace(limits=enforced)

    def _limits(
        self,
        instance: Any,
        flavor: Any = None,
        use: Callable[[Any], cores.Use] = cores.of,
    ) -> cgroup.Limits:
        """Return the limits of a server's sandbox.

        :param flavor: that the server is to have at the end of a move; None for its own
        :param use: returns its cores; those of another host are chosen by that one's options
        """
        topology = instance.numa_topology
        if flavor is not None and instance.migration_context is not None:
            topology = instance.migration_context.new_numa_topology
        return resources.limits(flavor or instance.flavor, self._defaults, use(topology))
