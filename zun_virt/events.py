"""Follows what happens to sandboxes behind nova's back."""

from __future__ import annotations

import functools
import threading
import typing
from collections.abc import Callable

from nova import thread_pool_factory
from nova.virt import event as virtevent
from oslo_log import log as logging

from zun_virt import host, recovery, sandbox

LOG = logging.getLogger(__name__)

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 15.0
_STOPPED_SECONDS = 15
"""How long after a clean end it is known whether the engine went down with it."""

_TRANSITIONS = {
    'start': virtevent.EVENT_LIFECYCLE_STARTED,
    'pause': virtevent.EVENT_LIFECYCLE_PAUSED,
    'unpause': virtevent.EVENT_LIFECYCLE_RESUMED,
}


class Watcher:
    """Reads the engine's events in a thread, and goes on after the engine was away."""

    def __init__(
        self,
        docker: host.Host,
        settler: recovery.Recovery,
        emit: Callable[[typing.Any], None],
    ) -> None:
        """Follow the engine once `start` is called.

        :param settler: judges the ends of sandboxes
        :param emit: takes nova's lifecycle events; it may block
        """
        self._docker = docker
        self._recovery = settler
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
        """Settle the ends that were not seen, with the engine away."""
        try:
            self._recovery.look_around()
        except Exception as error:  # noqa: BLE001 - nova's database may be away, too
            LOG.warning('Sandboxes cannot be looked at: %s; the next pass will', error)

    def _happened(self, action: str, instance_id: str) -> None:
        """Pass an event on, in another thread: what follows from it takes time."""
        pending = self._pending.pop(instance_id, None)
        if pending is not None:
            pending.cancel()
        if action == 'die':
            thread_pool_factory.spawn(self._ended, instance_id)
        else:
            event = virtevent.LifecycleEvent(instance_id, _TRANSITIONS[action])
            thread_pool_factory.spawn(self._emit, event)

    def _ended(self, instance_id: str) -> None:
        """Have an end judged; a clean one some seconds later, unless a start follows."""
        try:
            if not self._recovery.ended(instance_id):
                return
        except (host.HostError, sandbox.SandboxError) as error:
            LOG.info('The end of sandbox %s is judged later: %s', instance_id, error)
        later = self._later.submit_with_delay(self._recovery.settle_soon, instance_id)
        self._pending[instance_id] = later
        later.add_done_callback(functools.partial(self._forget, instance_id))

    def _forget(self, instance_id: str, done: typing.Any) -> None:
        if self._pending.get(instance_id) is done:
            self._pending.pop(instance_id, None)
