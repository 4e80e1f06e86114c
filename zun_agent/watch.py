"""News from this host: Docker's events, and the files of the sandboxes."""

from __future__ import annotations

import pathlib
import threading
import uuid
from collections.abc import Callable

from oslo_log import log as logging
from watchdog import events
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from zun_agent import errors
from zun_agent.events import Event, EventStream
from zun_agent.runtime import Runtime

LOG = logging.getLogger(__name__)

RECONNECT_FIRST = 0.2
RECONNECT_LAST = 5.0


class DockerWatch:
    """Follows Docker's events, through restarts of the engine."""

    def __init__(
        self, runtime: Runtime, heard: Callable[[Event], None], connected: Callable[[], None]
    ) -> None:
        """Call `heard` with each event.

        :param connected: is called after each subscription: what happened before it is
            not told any more, and has to be looked for
        """
        self._runtime = runtime
        self._heard = heard
        self._connected = connected
        self._stopping = threading.Event()
        self._stream: EventStream | None = None
        self._thread = threading.Thread(target=self._run, name='docker-events', daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """End listening."""
        self._stopping.set()
        if self._stream is not None:
            self._stream.close()
        self._thread.join(2)

    def _run(self) -> None:
        delay = RECONNECT_FIRST
        while not self._stopping.is_set():
            try:
                self._stream = self._runtime.events()
            except errors.AgentError:
                LOG.warning('Docker does not answer; asked again in %.1f s', delay)
                self._stopping.wait(delay)
                delay = min(delay * 2, RECONNECT_LAST)
                continue
            if self._stopping.is_set():
                self._stream.close()
                return
            self._connected()
            for event in self._stream:
                self._heard(event)
                delay = RECONNECT_FIRST
            if not self._stopping.wait(delay):
                LOG.info("Docker's events ended, subscribing again")


class DirectoryWatch:
    """Follows the records of the sandboxes, which appear, change and go."""

    def __init__(self, root: pathlib.Path, changed: Callable[[str], None]) -> None:
        """Call `changed` with the id of a sandbox whose record changed.

        :param root: the directory that has one directory for each sandbox
        """
        self._root = root
        self._changed = changed
        self._observer: BaseObserver | None = None

    def start(self) -> None:
        """Begin to watch; the directory has to be there."""
        # Not sooner: it takes one of the few inotify instances that a user may have.
        self._observer = Observer()
        self._observer.schedule(
            _Handler(self._root, self._changed),
            str(self._root),
            recursive=True,
            event_filter=[
                events.FileMovedEvent,
                events.FileCreatedEvent,
                events.FileModifiedEvent,
                events.FileDeletedEvent,
                events.DirCreatedEvent,
                events.DirDeletedEvent,
                events.DirMovedEvent,
            ],
        )
        self._observer.start()

    def stop(self) -> None:
        """End watching."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(2)


class _Handler(events.FileSystemEventHandler):
    def __init__(self, root: pathlib.Path, changed: Callable[[str], None]) -> None:
        self._root = root
        self._changed = changed

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        for path in {event.src_path, event.dest_path} - {'', b''}:
            sandbox_id = concerned(self._root, pathlib.Path(str(path)), event.is_directory)
            if sandbox_id is not None:
                self._changed(sandbox_id)
                return


def concerned(root: pathlib.Path, path: pathlib.Path, is_directory: bool) -> str | None:
    """Return the id of the sandbox whose record a change of this path may concern."""
    try:
        parts = path.relative_to(root).parts
        if len(parts) == 1 and is_directory:
            return str(uuid.UUID(parts[0]))
        if len(parts) == 2 and parts[1] == 'sandbox.json':
            return str(uuid.UUID(parts[0]))
    except ValueError:
        pass
    return None
