"""The steps that bring a container to an end: its process, the container, and its record."""

from __future__ import annotations

import datetime
import time
import uuid as uuidlib
from collections.abc import Callable

from oslo_log import log as logging

from zun_agent import decision, errors, restarts
from zun_agent.decision import Step
from zun_agent.facts import Facts
from zun_agent.journal import Journal, Stop, run_of
from zun_agent.models import Action, Container, Desired, Status, now
from zun_agent.runtime import Runtime
from zun_agent.sandboxes import Sandboxes
from zun_agent.servers import Server
from zun_agent.store import Store
from zun_agent.view import View

LOG = logging.getLogger(__name__)

NOVA_FIRST = 0.2
NOVA_LAST = 10.0
"""Seconds between two questions to Nova about a server that is going, or is elsewhere."""

NOVA_COMING = 2.0
"""Seconds that a new sandbox has to appear on a host before Nova is asked what keeps it."""

SHELVED = 10.0
"""The same where Nova has the server on no host, as it does while one is shelved."""

NOVA_DOUBT = datetime.timedelta(seconds=15)
"""So long a server in ERROR for which Nova names no fault may be made all the same.

A nova-compute that starts puts the servers that wait for it into ERROR, and makes them.
"""


class Ender:
    """Ends containers, and finds out whether those without a sandbox have ended."""

    def __init__(
        self,
        host: str,
        store: Store,
        runtime: Runtime,
        sandboxes: Sandboxes,
        journal: Journal,
        ended: Callable[[str], None],
    ) -> None:
        """Call `ended` with the id of a sandbox in which a container's record ended."""
        self._host = host
        self._store = store
        self._runtime = runtime
        self._sandboxes = sandboxes
        self._journal = journal
        self._ended = ended

    # The process

    def stop(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Send the stop signal, or what comes after it, without waiting for its effect."""
        assert docker is not None  # noqa: S101
        memory = self._journal.memory(container.uuid)
        run = run_of(docker)
        if docker.state == 'paused':
            self._runtime.unpause(docker.id)
        sent = memory.stop
        begun = sent is not None and (sent.run, sent.timeout) == (run, step.timeout)
        clock = time.monotonic()
        try:
            if sent is not None and begun and clock < sent.deadline:
                return sent.deadline - clock
            if begun or step.timeout <= 0:
                self._runtime.kill(docker.id, 'KILL')
                return 1
            self._runtime.kill(docker.id, docker.stop_signal)
        except (errors.Conflict, errors.NotFound):
            return 0  # it ended by itself just now
        memory.stop = Stop(run, step.timeout, clock + step.timeout)
        return float(step.timeout)

    def kill(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Send the signal that a user wants sent."""
        assert docker is not None  # noqa: S101
        act = container.acts[0]
        signal, failure = str(act['signal']), None
        final = restarts.is_final(signal, docker)
        try:
            if docker.alive:
                self._runtime.kill(docker.id, signal)
        except errors.Invalid as error:
            LOG.info('container %s: not signalled: %s', container.uuid, error)
            failure = str(error)
        except (errors.Conflict, errors.NotFound):
            LOG.debug('container %s: it ended before the signal', container.uuid)
        facts = {'killed_run': docker.started_at} if final and failure is None else {}
        # Whatever state was asked for before may not be reached yet.
        self._journal.record(
            container, facts, done=True, upto=act['generation'], only='kill', failure=failure
        )
        return 0

    # The container

    def discard(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Remove a container that can never start again, to make it anew."""
        self._journal.record(container, step.facts)
        return self.remove(container, docker, view, step)

    def remove(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Remove the container from Docker."""
        assert docker is not None  # noqa: S101
        self._remove_docker(docker)
        return 0

    def _remove_docker(self, docker: Facts | None) -> None:
        if docker is None:
            return
        if docker.state == 'paused':  # the kernel does not kill what is frozen
            self._runtime.unpause(docker.id)
        self._runtime.remove(docker.id)

    # The record

    def release(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """End a record, after the sandbox that was made for it."""
        uuid, sandbox_id = container.uuid, str(container.sandbox_id)
        goes = container.owns_sandbox and not self._store.pass_on_sandbox(uuid)
        if goes and not self._sandboxes.delete_server(sandbox_id, container.project_id):
            return self._later(container)
        self._end(container)
        return None

    def _end(self, container: Container) -> None:
        LOG.info('container %s: its record ends', container.uuid)
        self._store.remove_container(container.uuid)
        self._journal.forget(container.uuid)
        self._ended(str(container.sandbox_id))

    def auto_remove(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Ask, in the user's name, for the removal of a container that ended."""

        def unchanged(current: Container) -> None:
            if current.generation != container.generation:
                raise errors.Conflict('there is a later request')

        action = Action(
            action='delete',
            request_id=f'req-{uuidlib.uuid4()}',
            user_id=container.user_id,
            project_id=container.project_id,
        )
        LOG.info('container %s: it ended, and is removed as was asked for', container.uuid)
        try:
            self._store.request(
                container.uuid,
                action=action,
                check=unchanged,
                desired=Desired.DELETED,
                status=Status.DELETING,
                task_state='container_deleting',
                stop_timeout=0,
                instead=True,
            )
        except (errors.Conflict, errors.NotFound) as error:
            LOG.debug('container %s: not removed: %s', container.uuid, error)
        return 0

    # A sandbox that is not here

    def ask_nova(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Find out what became of a sandbox that is not on this host."""
        coming = container.host is None and container.desired != Desired.DELETED
        if coming and not self._journal.memory(container.uuid).questions:
            # Its directory tells when it is here. Questions about many that are being made
            # would take the time in which Nova makes them.
            return self._later(container, NOVA_COMING)
        server = self._sandboxes.server(str(container.sandbox_id))
        if server is None:
            self._remove_docker(docker)
            self._end(container)
            return None
        if container.desired == Desired.DELETED:
            self._remove_docker(docker)
            return self.release(container, None, view, step)
        first = NOVA_COMING if coming else NOVA_FIRST
        if server.host not in (None, self._host):
            return self._later(container, first)  # it is that host's to claim
        if server.status == 'ERROR':
            if not server.fault and now() - container.created_at < NOVA_DOUBT:
                return self._later(container, first)
            self._not_made(container, server)
            return NOVA_LAST
        if container.host == self._host:
            self._away(container, server)
            first = SHELVED if server.host is None else first
        return self._later(container, first)

    def _away(self, container: Container, server: Server) -> None:
        """Record of a container of this host what it means that its sandbox is not there."""
        if container.status not in decision.LIVELY:
            return  # it ended, or was never made: that is so wherever its sandbox is
        if server.status == 'SHELVED_OFFLOADED':
            facts = {
                'status': Status.STOPPED,
                'status_reason': decision.SHELVED,
                'interrupted': decision.wants_run(container),
            }
        elif server.task_state is None:
            reason = 'Nova has its sandbox on this host, where it is not to be found.'
            facts = {'status': Status.UNKNOWN, 'status_reason': reason}
        else:
            return  # Nova is at work on it
        self._journal.record(container, facts)

    def _not_made(self, container: Container, server: Server) -> None:
        """Give a container up, until its sandbox should appear all the same."""
        if container.status == Status.ERROR and not decision.pending(container):
            return
        reason = f'Nova could not make its sandbox: {server.fault or "no reason is known"}'
        self._journal.give_up(container, reason, host=container.host, interrupted=True)

    def _later(self, container: Container, first: float = NOVA_FIRST) -> float:
        """Return the seconds until Nova is asked again, growing until there is a request."""
        memory = self._journal.memory(container.uuid)
        if memory.asked_for != container.generation:
            memory.asked_for, memory.questions = container.generation, 0
        memory.questions += 1
        return min(first * 1.6 ** min(memory.questions - 1, 16), NOVA_LAST)
