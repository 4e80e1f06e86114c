"""The part of the driver that gives interfaces to sandboxes and takes them away."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from nova import exception
from nova.compute import vm_states
from oslo_concurrency import lockutils
from oslo_log import log as logging

from zun_virt import config_drive, lifecycle, network, ports, sandbox
from zun_virt.connector import Connector, Names
from zun_virt.errors import FAILURES, in_novas_words
from zun_virt.steps import Steps

LOG = logging.getLogger(__name__)

_FOLLOWED = (
    vm_states.ACTIVE,
    vm_states.PAUSED,
    vm_states.RESCUED,
    vm_states.RESIZED,
    vm_states.STOPPED,
    vm_states.SUSPENDED,
)


class Plugging:
    """Keeps the interfaces of sandboxes as nova and Neutron want them."""

    _network: network.Network
    _sandboxes: lifecycle.Lifecycle
    _connector: Connector
    _ports: ports.Ports

    def _init_plugging(self, host: str) -> None:
        self._ports = ports.Ports(host)
        # By server and port: nova's cache still names what it is about to give up.
        self._detached: set[tuple[str, str]] = set()
        # By server, what Neutron said when nova's cache was last made to follow.
        self._refreshed: dict[str, Any] = {}
        self._turns = lockutils.Semaphores()

    def _turn(self, instance: Any, *, wait: bool = True) -> contextlib.AbstractContextManager[Any]:
        """Hold a sandbox against all else here that starts it or changes its interfaces.

        Its lock is not held while a start waits for Neutron: a start would be called ready by
        whoever plugs meanwhile, and two that plug take each other's devices away. It comes
        before that lock, and is not taken twice.

        :raises oslo_concurrency.lockutils.AcquireLockFailedException: somebody else holds it,
            which was not to be waited for
        """
        held: contextlib.AbstractContextManager[Any] = lockutils.lock(
            f'turn {instance.uuid}', semaphores=self._turns, do_log=False, blocking=wait
        )
        return held

    @in_novas_words
    def plug_vifs(self, instance: Any, network_info: Any) -> None:
        """Make sure of a sandbox's interfaces; one that does not run gets them at its start.

        :raises nova.exception.VirtualInterfacePlugException: they cannot be made
        """
        try:
            with self._turn(instance), self._sandboxes.lock(instance.uuid):
                self._change_interfaces(instance, list(network_info))
        except exception.VirtualInterfacePlugException:
            raise
        except Exception as error:  # nova-compute would not start
            raise exception.VirtualInterfacePlugException(str(error)) from error

    def _replug(self, instance: Any) -> None:
        """Plug again what the switch has lost, unless the sandbox is started or plugged just now.

        Nova's lock on the server is held meanwhile, and a stop or deletion waits for that.
        """
        try:
            with self._turn(instance, wait=False), self._sandboxes.lock(instance.uuid):
                self._change_interfaces(instance, self._wanted(instance))
        except lockutils.AcquireLockFailedException:
            LOG.debug('It is started or plugged; the next pass looks', instance=instance)
        except ports.PortsUnknown as error:
            LOG.warning('Not plugged again: %s; the next pass tries', error, instance=instance)

    def unplug_vifs(self, instance: Any, network_info: Any) -> None:
        """Take a sandbox's interfaces from the host."""
        self._network.unplug(instance, network_info)

    def attach_interface(self, context: Any, instance: Any, image_meta: Any, vif: Any) -> None:
        """Give a sandbox one more interface; one that does not run gets it at its start.

        :raises nova.exception.NovaException: it cannot be had; nothing is left of it, and
            nova gives the port up
        """
        steps = Steps()
        # nova does not keep this from running beside a stop, or another attachment.
        with (
            _only_novas(exception.InterfaceAttachFailed, instance),
            self._turn(instance),
            self._sandboxes.lock(instance.uuid),
            contextlib.ExitStack() as undo,
        ):
            steps.done('lock')
            self._network.check(vif)
            others = self._others(instance, vif)
            self._detached.discard((instance.uuid, vif['id']))
            undo.callback(self._undo_attachment, instance, vif, others)
            self._change_interfaces(instance, [*others, vif])
            steps.done('interfaces')
            undo.pop_all()
        LOG.debug('Attached port %s in %s', vif['id'], steps, instance=instance)

    def detach_interface(self, context: Any, instance: Any, vif: Any) -> None:
        """Take an interface from a sandbox, whether or not it runs.

        :raises nova.exception.NovaException: it cannot be taken, and remains the server's
        """
        with self._turn(instance):
            self._take(instance, vif)

    def _take(self, instance: Any, vif: Any) -> None:
        steps = Steps()
        with (
            _only_novas(exception.InterfaceDetachFailed, instance),
            self._sandboxes.lock(instance.uuid),
            contextlib.ExitStack() as undo,
        ):
            steps.done('lock')
            others = self._others(instance, vif)
            self._detached.add((instance.uuid, vif['id']))
            undo.callback(self._detached.discard, (instance.uuid, vif['id']))
            self._network.unplug(instance, [vif])
            steps.done('unplug')
            self._change_interfaces(instance, others)
            steps.done('interfaces')
            undo.pop_all()
        LOG.debug('Detached port %s in %s', vif['id'], steps, instance=instance)

    def _undo_attachment(self, instance: Any, vif: Any, others: list[Any]) -> None:
        """Take away what a failed attachment left; nova tells the user that it failed."""
        try:
            self._network.unplug(instance, [vif])
            self._change_interfaces(instance, others)
        except FAILURES:
            LOG.exception('A failed attachment left something behind', instance=instance)

    def _change_interfaces(
        self, instance: Any, vifs: list[Any], names: Names | None = None
    ) -> bool:
        """Bring a sandbox to these ports, or write them down for when it starts.

        :returns: whether there is a sandbox for them
        """
        made = self._sandboxes.running(instance.uuid)
        if made is not None:
            config_drive.complete(self._sandboxes.store, instance, vifs)  # one that was cut off
            self._connector.connect(instance, vifs, made, names=names)
            return True
        record = self._sandboxes.record(instance.uuid)
        if record is None or record.state is not sandbox.State.STOPPED:
            return False
        self._connector.note(vifs, record, names)
        return True

    def _others(self, instance: Any, vif: Any) -> list[Any]:
        """Return all ports that a sandbox shall have but this one."""
        return [other for other in self._wanted(instance) if other['id'] != vif['id']]

    def _wanted(self, instance: Any) -> list[Any]:
        return self._remaining(instance, self._ports.cache(instance))

    def _remaining(self, instance: Any, vifs: list[Any]) -> list[Any]:
        return [vif for vif in vifs if (instance.uuid, vif['id']) not in self._detached]

    def _unplugging(self, instance: Any, network_info: Any) -> Callable[[], None]:
        return functools.partial(self._connector.disconnect, instance, network_info or ())

    # -- what changes in Neutron ------------------------------------------------------

    def _follow_ports(self) -> None:
        """Bring every sandbox to what Neutron says of its ports now."""
        try:
            servers, known = self._ports.servers(), self._ports.known()
        except ports.PortsUnknown as error:
            LOG.warning('Changes of ports are not followed: %s; the next pass tries again', error)
            return
        for instance in servers:
            try:
                with self._turn(instance, wait=False):
                    self._follow(instance, known)
            except lockutils.AcquireLockFailedException:
                LOG.debug('It is started or plugged; the next pass looks', instance=instance)
            except (*FAILURES, ports.PortsUnknown) as error:
                LOG.warning(
                    'A change of its ports cannot be followed: %s; the next pass tries again',
                    error,
                    instance=instance,
                )
        ids = {instance.uuid for instance in servers}
        self._refreshed = {key: view for key, view in self._refreshed.items() if key in ids}
        self._detached = {entry for entry in self._detached if entry[0] in ids}

    def _follow(self, instance: Any, known: ports.Known) -> None:
        if instance.task_state or instance.vm_state not in _FOLLOWED:
            return
        record = self._sandboxes.record(instance.uuid)
        if record is None or record.state is sandbox.State.BUILDING:
            return  # of the latter a start was cut off: only who takes it up calls it ready
        vifs = list(instance.get_network_info())
        lost = self._take_lost(instance, known.missing(instance.uuid, vifs))
        if lost or self._is_news(instance, vifs, known):
            self._ports.refresh(instance)
            self._refreshed[instance.uuid] = known.view(instance.uuid)
            vifs = list(instance.get_network_info())
        names = known.names(instance.uuid)
        ids = {vif['id'] for vif in vifs}
        self._detached -= {
            (owner, port)
            for owner, port in self._detached
            if owner == instance.uuid and port not in ids
        }
        vifs = self._remaining(instance, vifs)
        if not self._connector.is_current(instance.uuid, vifs, names):
            self._take_over(instance, names)

    def _is_news(self, instance: Any, vifs: list[Any], known: ports.Known) -> bool:
        """Return whether nova's cache is behind, and asking Neutron again would help."""
        if not known.differs(instance.uuid, vifs):
            return False
        return bool(self._refreshed.get(instance.uuid) != known.view(instance.uuid))

    def _take_lost(self, instance: Any, missing: list[Any]) -> list[Any]:
        """Take away interfaces whose ports were deleted, or given to another server."""
        lost = [vif for vif in missing if self._ports.has_lost(instance, vif['id'])]
        for vif in lost:
            LOG.info('Port %s is not its any more: taking it away', vif['id'], instance=instance)
            self._take(instance, vif)
        return lost

    def _take_over(self, instance: Any, names: Names) -> None:
        with self._sandboxes.lock(instance.uuid):
            vifs = self._wanted(instance)
            ids = {vif['id'] for vif in vifs}
            applied = self._connector.applied(instance.uuid)
            self._network.unplug(instance, [vif for vif in applied if vif['id'] not in ids])
            if self._change_interfaces(instance, vifs, names):
                # Nothing has changed of one that was started or stopped since the last look.
                level = logging.INFO if applied else logging.DEBUG
                LOG.log(level, 'Took over what Neutron says of its ports', instance=instance)


@contextlib.contextmanager
def _only_novas(kind: type[exception.NovaException], instance: Any) -> Iterator[None]:
    """Raise whatever fails as nova's: of anything else nova would leave the port half attached."""
    try:
        yield
    except exception.NovaException:
        raise
    except Exception as error:
        raise kind(str(error), instance_uuid=instance.uuid) from error
