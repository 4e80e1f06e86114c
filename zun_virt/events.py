"""Follows what happens to sandboxes behind nova's back."""

from __future__ import annotations

import functools
import threading
import typing
from collections.abc import Callable

from nova import thread_pool_factory
from nova.virt import event as virtevent
from oslo_log import log as logging

from zun_virt import host, lifecycle, sandbox

LOG = logging.getLogger(__name__)

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 15.0
_STOPPED_SECONDS = 15

_TRANSITIONS = {
    'start': virtevent.EVENT_LIFECYCLE_STARTED,
    'die': virtevent.EVENT_LIFECYCLE_STOPPED,
    'pause': virtevent.EVENT_LIFECYCLE_PAUSED,
    'unpause': virtevent.EVENT_LIFECYCLE_RESUMED,
}


class Watcher:
    """Reads the engine's events in a thread, and goes on after the engine was away."""

    def __init__(
        self,
        docker: host.Host,
        sandboxes: lifecycle.Lifecycle,
        emit: Callable[[typing.Any], None],
    ) -> None:
        """Follow the engine once `start` is called.

        :param emit: takes nova's lifecycle events; it may block
        """
        self._docker = docker
        self._sandboxes = sandboxes
        self._emit = emit
        self._later = thread_pool_factory.StaticallyDelayingCancellableTaskExecutorWrapper(
            delay=_STOPPED_SECONDS,
            executor=thread_pool_factory.get_executor(thread_pool_factory.ExecutorType.DEFAULT),
        )
        self._pending: dict[str, typing.Any] = {}
        self._stopping = threading.Event()
        self._close: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name='zun-events', daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """End, waiting for that at most so many seconds."""
        self._stopping.set()
        if self._close is not None:
            self._close()
        if self._thread.is_alive():
            self._thread.join(seconds)
        # nova hears of these ends when it starts again and looks.
        for pending in list(self._pending.values()):
            pending.cancel()
        self._later.shutdown(wait=True)

    def _run(self) -> None:
        delay = _FIRST_DELAY
        while not self._stopping.is_set():
            try:
                with self._docker.events() as (events, close):
                    self._close = close
                    if self._stopping.is_set():
                        return
                    thread_pool_factory.spawn(self._look_around)
                    for action, instance_id in events:
                        delay = _FIRST_DELAY
                        self._happened(action, instance_id)
                if not self._stopping.is_set():
                    LOG.warning('The stream of events ended; connecting again in %s s', delay)
            except Exception as error:  # noqa: BLE001 - the thread must outlive every failure
                if not self._stopping.is_set():
                    LOG.warning('Events cannot be read: %s; trying again in %s s', error, delay)
            self._stopping.wait(delay)
            delay = min(delay * 2, _LONGEST_DELAY)

    def _look_around(self) -> None:
        """Note the ends that were not seen: before the start, or with the engine away."""
        try:
            alive = {c.sandbox_id for c in self._docker.sandboxes() if c.alive}
            for instance_id in self._sandboxes.store.ids() - alive:
                self._note_end(instance_id)
        except host.HostError as error:
            LOG.warning('Sandboxes cannot be listed: %s; their ends will be noticed later', error)

    def _happened(self, action: str, instance_id: str) -> None:
        """Pass an event on to nova, in another thread: what follows from it takes time.

        nova hears of an end some seconds later, and not at all when a start follows, so
        that it does not take a reboot for a user's shutdown.
        """
        pending = self._pending.pop(instance_id, None)
        if pending is not None:
            pending.cancel()
        event = virtevent.LifecycleEvent(instance_id, _TRANSITIONS[action])
        if action != 'die':
            thread_pool_factory.spawn(self._emit, event)
            return
        thread_pool_factory.spawn(self._note_end, instance_id)
        later = self._later.submit_with_delay(self._emit, event)
        self._pending[instance_id] = later
        later.add_done_callback(functools.partial(self._forget, instance_id))

    def _forget(self, instance_id: str, done: typing.Any) -> None:
        if self._pending.get(instance_id) is done:
            self._pending.pop(instance_id, None)

    def _note_end(self, instance_id: str) -> None:
        try:
            if self._sandboxes.note_end(instance_id):
                LOG.warning('Sandbox %s ended by itself', instance_id)
        except (host.HostError, sandbox.SandboxError) as error:
            LOG.warning('The end of sandbox %s cannot be noted: %s', instance_id, error)
