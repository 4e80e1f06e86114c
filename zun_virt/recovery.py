"""Brings the host back to what nova says of it, after something ended or was cut off.

nova tells a driver what its users ask for, and nothing of what dies by itself: the pause
process, the engine, the host, nova-compute in the middle of a step.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
import typing
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from nova.compute import vm_states
from nova.virt import event as virtevent
from oslo_log import log as logging

from zun_virt import ends, errors, host, lifecycle, servers, switch
from zun_virt.sandbox import Sandbox, State

LOG = logging.getLogger(__name__)

_PARALLEL = 8
_TIMES, _SECONDS = 5, 600.0
"""How often a sandbox is started again, in how long, before nova is told that it stopped."""

_RUNNING = (vm_states.ACTIVE, vm_states.RESIZED, vm_states.RESCUED)
_FROZEN = (vm_states.PAUSED, vm_states.SUSPENDED)
_WIRED = (State.READY, State.PAUSED)


class Actor(typing.Protocol):
    """The driver, as far as it is asked to act."""

    def power_on(
        self, context: typing.Any, instance: typing.Any, network_info: typing.Any, bdi: typing.Any
    ) -> None:
        """Start a sandbox."""

    def plug_vifs(self, instance: typing.Any, network_info: typing.Any) -> None:
        """Make sure of a sandbox's interfaces, and call it ready."""

    def pause(self, instance: typing.Any) -> None:
        """Freeze a sandbox and all that runs in it."""

    def unpause(self, instance: typing.Any) -> None:
        """Thaw a sandbox and all that was frozen with it."""

    def emit_event(self, event: typing.Any) -> None:
        """Tell nova what happened."""


class Recovery:
    """Judges the ends of sandboxes, and starts again those that were killed."""

    def __init__(
        self,
        actor: typing.Any,
        docker: host.Host,
        sandboxes: lifecycle.Lifecycle,
        known: servers.Servers,
        plug_again: Callable[[typing.Any], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Do nothing until `begin` is called.

        :param actor: an `Actor`
        :param plug_again: gives a server the interfaces that the switch has lost, if nobody else
            changes them
        """
        self._actor = actor
        self._docker = docker
        self._sandboxes = sandboxes
        self._servers = known
        self._plug_again = plug_again
        self._clock = clock
        self._begun = threading.Event()
        self.nova_listens = False
        """Whether nova-compute has come so far that events of Neutron reach it."""
        self._guard = threading.Lock()
        self._at_work: set[str] = set()
        self._starts: defaultdict[str, deque[float]] = defaultdict(deque)
        self._pool = concurrent.futures.ThreadPoolExecutor(_PARALLEL, 'zun-recovery')

    def begin(self) -> None:
        """Act from now on: nova has done with what it does by itself when it starts."""
        self._begun.set()
        self.nova_listens = True

    @property
    def begun(self) -> bool:
        """Whether `begin` was called."""
        return self._begun.is_set()

    def stop(self) -> None:
        """End; what goes on is not waited for, and is taken up at the next start."""
        self._begun.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def ended(self, instance_id: str) -> bool:
        """Take notice of the end of a pause container.

        :returns: whether it has to be judged later, when it is known if the engine went, too
        """
        record = self._sandboxes.record(instance_id)
        if record is None or record.state not in (*_WIRED, State.BUILDING):
            return False  # it is ours: a stop or a removal
        container = self._docker.pause_container(instance_id)
        if container is None or (not container.alive and container.exit_code):
            self.settle_soon(instance_id)
            return False
        return not container.alive

    def look_around(self) -> None:
        """Settle every sandbox that is not as nova says.

        :raises zun_virt.host.HostError: Docker cannot be asked
        """
        if not self.begun:
            return
        containers = {found.sandbox_id: found for found in self._docker.sandboxes()}
        present = self._sandboxes.store.ids()
        wired: list[Sandbox] = []
        for server in self._servers.here():
            if server.uuid in present and not server.task_state:
                record = self._sandboxes.record(server.uuid)
                container = containers.get(server.uuid)
                if record and not _right(server.vm_state, record.state, container):
                    self.settle_soon(server.uuid)
                elif record and record.state in _WIRED:
                    wired.append(record)
        self._look_at_switch(wired)

    def _look_at_switch(self, wired: Sequence[Sandbox]) -> None:
        """Plug again what the switch has lost, as one does whose database is made anew.

        :param wired: records of sandboxes that run
        """
        try:
            there = {port.port_id for port in switch.ports()} if wired else set()
        except switch.SwitchError as error:
            LOG.warning('%s; the next pass looks again', error)
            return
        for record in wired:
            if lost := {address.port_id for address in record.addresses} - there:
                LOG.warning(
                    'Sandbox %s: the switch lost ports %s; plugging again', record.instance_id, lost
                )
                self._soon(record.instance_id, self._replug)

    def _replug(self, instance_id: str) -> None:
        server = self._servers.get(instance_id)
        if server is not None and not server.task_state and self.begun:
            self._plug_again(server)

    def settle_soon(self, instance_id: str) -> None:
        """Settle a sandbox in another thread: it may take until Neutron has done its part."""
        self._soon(instance_id, self._settle_alone)

    def _soon(self, instance_id: str, act: Callable[[str], None]) -> None:
        with self._guard:
            if not self.begun or instance_id in self._at_work:
                return
            self._at_work.add(instance_id)
        self._pool.submit(self._settle, instance_id, act)

    def _settle(self, instance_id: str, act: Callable[[str], None]) -> None:
        try:
            self._servers.alone(instance_id, lambda: act(instance_id))
        except errors.FAILURES as error:
            LOG.warning(
                'Sandbox %s is not as nova says, and cannot be made so: %s; it is tried again '
                'with the next pass',
                instance_id,
                error,
            )
        except Exception:
            LOG.exception('Sandbox %s cannot be settled', instance_id)
        finally:
            with self._guard:
                self._at_work.discard(instance_id)

    def _settle_alone(self, instance_id: str) -> None:
        server = self._servers.get(instance_id)
        record = self._sandboxes.record(instance_id)
        if server is None or server.task_state or record is None or not self.begun:
            return
        container = self._docker.pause_container(instance_id)
        if _right(server.vm_state, record.state, container):
            return
        if container is not None and container.alive:
            self._correct(server, record)
        elif server.vm_state in _RUNNING:
            self._judge(server, record, container)
        elif self._sandboxes.note_end(instance_id, again=False):
            self._tell_stopped(server)

    def _judge(self, server: typing.Any, record: Sandbox, container: host.Container | None) -> None:
        verdict = ends.judge(
            container,
            same_boot=self._sandboxes.same_boot(record),
            witnessed=lambda: container is not None and self._docker.witnessed(container),
        )
        if verdict is ends.Verdict.KILLED and self._may_start(server.uuid):
            LOG.warning('The sandbox was ended by force; starting it again', instance=server)
            self._sandboxes.note_end(server.uuid, again=True)
            self._start(server, record)
            return
        if self._sandboxes.note_end(server.uuid, again=False):
            LOG.info('The sandbox ended (%s); it stays stopped', verdict.name, instance=server)
        self._tell_stopped(server)

    def _start(self, server: typing.Any, record: Sandbox) -> None:
        try:
            self._actor.power_on(
                server._context, server, server.get_network_info(), self._servers.volumes(server)
            )
        except errors.FAILURES:
            # What was undone calls it stopped; it is only not yet started.
            left = self._sandboxes.record(server.uuid)
            if left is not None and left.pause is None:
                self._sandboxes.reopen(left.replace(pause=record.pause))
            raise
        LOG.info('The sandbox runs again', instance=server)

    def _correct(self, server: typing.Any, record: Sandbox) -> None:
        """Bring a sandbox that is alive to what nova says: something was cut off."""
        thawable = record.state is State.PAUSED and self._sandboxes.running(server.uuid) is not None
        if thawable or server.vm_state in _FROZEN:
            self._freeze_or_thaw(server.uuid)
        else:
            self._reopen(server, record)

    def _freeze_or_thaw(self, instance_id: str) -> None:
        """Freeze or thaw a sandbox as nova says, which may ask for either only now.

        Nova does both without keeping others from the server, but not without the lock.
        """
        with self._sandboxes.lock(instance_id):
            server = self._servers.get(instance_id)
            record = self._sandboxes.record(instance_id)
            if server is None or server.task_state or record is None:
                return
            if server.vm_state in _RUNNING and record.state is State.PAUSED:
                LOG.warning('Nova says that it runs, and it is paused; thawing it', instance=server)
                self._actor.unpause(server)
            elif server.vm_state in _FROZEN and record.state in _WIRED:
                LOG.warning(
                    'Nova says that it is paused, and it runs; freezing it', instance=server
                )
                self._actor.pause(server)

    def _reopen(self, server: typing.Any, record: Sandbox) -> None:
        """Make ready again what runs and is not called so: a stop or start was cut off."""
        LOG.warning(
            'The sandbox runs, and its record says %s; making it ready', record.state,
            instance=server,
        )  # fmt: skip
        if self._sandboxes.running(server.uuid) is not None:
            self._sandboxes.reopen(record)
            self._actor.plug_vifs(server, server.get_network_info())
            return
        # Its namespace is not the one that was plugged.
        self._actor.reboot(
            server._context,
            server,
            server.get_network_info(),
            'HARD',
            self._servers.volumes(server),
        )

    def _may_start(self, instance_id: str) -> bool:
        """Return whether a sandbox has not been started again too often, and count this one."""
        starts = self._starts[instance_id]
        while starts and starts[0] < self._clock() - _SECONDS:
            starts.popleft()
        if len(starts) >= _TIMES:
            LOG.error(
                'Sandbox %s was started again %d times in %g s; it is left as it is',
                instance_id,
                _TIMES,
                _SECONDS,
            )
            return False
        starts.append(self._clock())
        return True

    def _tell_stopped(self, server: typing.Any) -> None:
        self._actor.emit_event(
            virtevent.LifecycleEvent(server.uuid, virtevent.EVENT_LIFECYCLE_STOPPED)
        )


def _right(vm_state: str, state: State, container: host.Container | None) -> bool:
    """Return whether there is nothing to settle of a sandbox with which nova does nothing.

    :param state: as its record says
    :param container: its pause container, which is frozen last and thawed first
    """
    alive = container is not None and container.alive
    if vm_state in _RUNNING and alive:
        return state is State.READY
    if vm_state == vm_states.ACTIVE:
        return False
    if vm_state in _FROZEN and container is not None and alive:
        return state not in _WIRED or (state is State.PAUSED and container.state == 'paused')
    if vm_state in (*_RUNNING, *_FROZEN, vm_states.STOPPED):
        # Nova stops what it calls stopped. Of an end it makes something only of what it calls
        # active or paused: whoever ends the rescue, the resize or the suspend sees the others.
        return alive or state in (State.STOPPED, State.DELETING)
    return True
