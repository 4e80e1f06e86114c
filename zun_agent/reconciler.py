"""The loop that brings this host's containers to what is wanted, woken by news.

Requests, Docker's events and changed sandbox records each name a container or a sandbox
to be looked at; a slow pass over all finds what no news told. Who is looked at is
brought one step further by `converge`, and looked at again, until nothing is left to do.
"""

from __future__ import annotations

import datetime
import os
import threading
import time
import typing
from collections.abc import Callable

from oslo_log import log as logging

from zun_agent import conf as options
from zun_agent import creation, errors, host, intents
from zun_agent.claims import Claims
from zun_agent.converge import Converger
from zun_agent.ending import Ender
from zun_agent.events import Event
from zun_agent.facts import Listed
from zun_agent.images import Images
from zun_agent.images.fetching import Fetcher
from zun_agent.journal import Journal
from zun_agent.locks import SandboxLocks
from zun_agent.making import Maker
from zun_agent.models import Container, now
from zun_agent.runtime import Runtime
from zun_agent.sandboxes import Sandboxes
from zun_agent.store import Store
from zun_agent.view import Views
from zun_agent.watch import DirectoryWatch, DockerWatch
from zun_agent.workqueue import WorkQueue
from zun_virt import sandbox as contract

LOG = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between two looks for requests that other agents accepted for this host."""

LOCK_WAIT = 2.0
"""Seconds a worker waits for the driver; then others are worked on first."""

SANDBOX_WORKERS = 4

SETTLE = 2.0
"""Seconds between two looks after the requests that died with the agent before this one."""

FORGET = 24 * 3600.0
"""Seconds between two looks for what is too old to be kept."""

GRACE = 5.0
"""Seconds that steps in hand are given when the agent stops."""


class Reconciler:
    """Keeps the containers of this host."""

    def __init__(
        self,
        conf: typing.Any,
        store: Store,
        runtime: Runtime,
        sandboxes: Sandboxes,
        images: Images,
        sandbox_store: contract.SandboxStore,
    ) -> None:
        """Put the parts together; nothing runs before `start`."""
        self._conf = conf
        self._store = store
        self._runtime = runtime
        self._sandboxes = sandboxes
        self._local = sandbox_store
        self._earlier = intents.Earlier(conf.host, store, sandboxes, conf.sandbox.nova_timeout)
        self._stopping = threading.Event()
        self._passing = threading.Event()
        self._foreign: set[str] = set()
        self._fetcher = Fetcher(images, runtime, self.wake, conf.docker.parallel_pulls)
        self._claims = Claims(conf.host, store, sandboxes, sandbox_store, self.wake_with)
        locks = SandboxLocks(sandbox_store, min(conf.lock_timeout, LOCK_WAIT))
        self._views = Views(conf.host, sandbox_store, self._claims, runtime, locks)
        self._journal = Journal(conf.host, store, self._claims, self._fetcher.forget)
        self._converger = self._steps()
        workers = conf.reconciler.workers or 8 * (os.cpu_count() or 1)
        self._containers = WorkQueue('container', self.converge, workers)
        self._boxes = WorkQueue('sandbox', self._claims.look, SANDBOX_WORKERS)
        self._docker_watch = DockerWatch(runtime, self._heard, self._connected)
        self._directory_watch = DirectoryWatch(sandbox_store.root, self.wake_sandbox)
        self._threads = self._timers()

    def _steps(self) -> Converger:
        conf, store, runtime, journal = self._conf, self._store, self._runtime, self._journal
        settings = creation.Settings(
            log_max_size=conf.docker.log_max_size,
            log_max_files=conf.docker.log_max_files,
            runtime=conf.docker.runtime,
        )
        maker = Maker(runtime, self._views, journal, self._fetcher, settings)
        ender = Ender(conf.host, store, runtime, self._sandboxes, journal, self.wake_sandbox)
        return Converger(conf.host, store, runtime, self._views, journal, maker, ender)

    def _timers(self) -> list[threading.Thread]:
        conf = self._conf
        return [
            threading.Thread(target=self._every, args=arguments, name=arguments[0], daemon=True)
            for arguments in (
                ('pass', conf.reconciler.full_pass_interval, self.full_pass, self._passing),
                ('poll', POLL, self._poll, None),
                ('report', conf.reconciler.report_interval, self._report, None),
                ('settle', SETTLE, self._earlier.settle, None),
                ('sweep', max(conf.sandbox.intent_timeout / 4, 10), self._sweep, None),
                ('forget', FORGET, self._forget, None),
            )
        ]

    def start(self) -> None:
        """Begin to work, with a pass over all there is."""
        self._local.prepare()
        self._containers.start()
        self._boxes.start()
        self._directory_watch.start()
        self._docker_watch.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing more, and let the steps in hand end."""
        self._stopping.set()
        self._passing.set()
        self._directory_watch.stop()
        self._docker_watch.stop()
        self._fetcher.stop()
        self._containers.stop(GRACE)
        self._boxes.stop(1)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(1)

    def wake(self, container_uuid: str) -> None:
        """Have a container looked at now."""
        self._containers.add(container_uuid)

    def accept(self, container: Container, since: float) -> None:
        """Have a container looked at that was just asked for, and its sandbox claimed.

        :param since: as for `wake_with`
        """
        sandbox_id = container.sandbox_id
        if container.host is None and sandbox_id and self._local.directory(sandbox_id).is_dir():
            self.wake_sandbox(sandbox_id)
        self.wake_with(container, since)

    def wake_with(self, container: Container, since: float) -> None:
        """Have a container looked at now, of which this is the record.

        :param since: when the transaction that stored or read it began, as
            `time.monotonic` counts
        """
        self._journal.hand(container, since)
        self.wake(container.uuid)

    def wake_sandbox(self, sandbox_id: str) -> None:
        """Have a sandbox looked at now, and the containers in it."""
        self._boxes.add(sandbox_id)

    def converge(self, container_uuid: str) -> float | None:
        """Bring one container one step further; see `Converger.converge`."""
        return self._converger.converge(container_uuid)

    def full_pass(self) -> None:
        """Have everything looked at that is on this host, or ought to be."""
        sandbox_ids = self._local.ids()
        sandbox_ids |= {claim.sandbox_id for claim in self._store.claims_of(self._conf.host)}
        for sandbox_id in sandbox_ids:
            self.wake_sandbox(sandbox_id)
        since = time.monotonic()
        ours = self._store.containers_on(self._conf.host)
        for container in (*ours, *self._store.containers_unclaimed()):
            self.wake_with(container, since)
        known = {container.uuid for container in ours}
        for found in self._runtime.list():
            if found.role == contract.ROLE_CONTAINER and found.container_uuid not in known:
                self._stray(found)

    def _stray(self, found: Listed) -> None:
        """Deal with a container in Docker that is not in the store as this host's."""
        uuid = found.container_uuid or ''
        claim = self._store.claim(found.sandbox_id)
        if claim is None:
            return  # not ours to judge: the driver clears sandboxes away
        if claim.host == self._conf.host:
            self._remove_ended(uuid, found.id)
        elif found.state == 'running':
            LOG.warning(
                'container %s: host %s has its sandbox now, stopping it here',
                uuid,
                claim.host,
            )
            self._runtime.kill(found.id, 'KILL')

    def _remove_ended(self, uuid: str, docker_id: str) -> None:
        """Remove a container from Docker of which it is sure that its record has ended."""
        if self._store.container(uuid) is not None:
            return
        # Actions outlive their container. Where there are none, this store never knew the
        # container: it may be the wrong one, or an old copy.
        if not self._store.actions(uuid):
            if uuid not in self._foreign:
                LOG.warning('container %s: the database knows nothing of it, left alone', uuid)
                self._foreign.add(uuid)
            return
        LOG.info('container %s: its record has ended, removing it', uuid)
        self._runtime.remove(docker_id)

    def _connected(self) -> None:
        self._views.pause_changed()
        self._passing.set()

    def _heard(self, event: Event) -> None:
        if event.role == contract.ROLE_PAUSE:
            self._views.pause_changed(event.sandbox_id)
            self.wake_sandbox(event.sandbox_id)
            return
        uuid = event.container_uuid
        # Of what we did ourselves we have seen the outcome already, or shall see it.
        if uuid is not None and not self._journal.expects(uuid, event.action, event.time_ns):
            self.wake(uuid)

    def _poll(self) -> None:
        since = time.monotonic()
        for container in self._store.pending_on(self._conf.host):
            if not self._containers.knows(container.uuid):
                self.wake_with(container, since)

    def _report(self) -> None:
        facts = host.facts(self._runtime.info(), self._store.containers_on(self._conf.host))
        self._store.report(
            self._conf.host,
            options.endpoint(self._conf),
            facts,
            self._conf.api.availability_zone,
        )

    def _sweep(self) -> None:
        intents.sweep(self._store, self._sandboxes, self._conf.sandbox.intent_timeout)

    def _forget(self) -> None:
        kept = datetime.timedelta(days=self._conf.database.keep_actions)
        self._store.forget_actions(now() - kept)

    def _every(
        self,
        name: str,
        interval: float,
        work: Callable[[], None],
        sooner: threading.Event | None,
    ) -> None:
        """Do some work again and again, until the agent stops."""
        while not self._stopping.is_set():
            if sooner is not None:
                sooner.clear()
            try:
                work()
            except errors.AgentError as error:
                LOG.warning('%s: %s; tried again in %g s', name, error, interval)
            except Exception:
                LOG.exception('%s failed; tried again in %g s', name, interval)
            (sooner or self._stopping).wait(interval)
