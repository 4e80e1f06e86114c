"""The steps that bring a container into being, and to life."""

from __future__ import annotations

import time
import typing

from oslo_log import log as logging

from zun_agent import creation, decision, errors, restarts
from zun_agent.decision import Act, Step
from zun_agent.facts import Facts
from zun_agent.images.fetching import Fetcher
from zun_agent.journal import Journal
from zun_agent.models import Container, Desired, Status
from zun_agent.runtime import NameTaken, Runtime
from zun_agent.view import NotYet, View, Views
from zun_virt import sandbox as contract
from zun_virt.sandbox import State

LOG = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a container is made or started that Docker fails to, before it is given up."""


class Maker:
    """Makes containers in their sandboxes, and starts them."""

    def __init__(
        self,
        runtime: Runtime,
        views: Views,
        journal: Journal,
        fetcher: Fetcher,
        settings: creation.Settings,
    ) -> None:
        """Make containers as `settings` have it, of images that `fetcher` fetches."""
        self._runtime = runtime
        self._views = views
        self._journal = journal
        self._fetcher = fetcher
        self._settings = settings

    def prepare(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Fetch the image while the sandbox is being made."""
        if step.facts:
            self._journal.record(container, step.facts)
        record = view.record
        if record is None or container.uuid in record.images:
            return None
        if record.project_id == container.project_id:
            try:
                self._fetcher.prepare(container)
            except errors.Invalid as error:
                self._journal.give_up(container, str(error))
        return None

    def create(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Create the container, and start it right away if that is the step."""
        facts = dict(step.facts)
        try:
            restored = view.record is not None and container.uuid in view.record.images
            if not restored and not self._fetcher.ready(container):
                self._wait(container, facts)
                return None
            with self._views.hold(container, (State.BUILDING, State.READY)) as record:
                docker_id = self._make(container, record)
                if docker_id is None:
                    self._wait(container, facts)
                    return None
                facts |= {'docker_id': docker_id, 'incarnation': record.incarnation}
                running = step.act is Act.RUN and record.state == State.READY
                if running:
                    self._run(container.uuid, docker_id)
        except NotYet as error:
            LOG.debug('container %s: not made yet: %s', container.uuid, error)
            return None
        except NameTaken as error:
            memory = self._journal.memory(container.uuid)
            if memory.met:
                return self._not_made(container, error, facts)
            memory.met = True
            return 0  # it was made before: it may have run, too
        except errors.AgentError as error:
            return self._not_made(container, error, facts)
        self._fetcher.forget(container.uuid)
        if running:
            return self._started(container, facts | {'restart_count': 0})
        self._journal.memory(container.uuid).made = Facts(
            id=docker_id,
            state='created',
            labels=creation.labels(container, record),
            resources=creation.resources(container),
        )
        return self._created(container, facts, record)

    def _make(self, container: Container, record: contract.Sandbox) -> str | None:
        """Create the container in Docker; None when its image is being fetched first."""
        name = contract.container_name(container.uuid)
        restored = record.images.get(container.uuid)
        image = restored or self._fetcher.reference(container)
        body = creation.build_create(container, record, image, self._settings)
        try:
            return self._runtime.create(name, body)
        except errors.ImageNotFound:
            if restored or self._fetcher.ready(container, missing=True):
                raise
            return None

    def _created(
        self, container: Container, facts: dict[str, typing.Any], record: contract.Sandbox
    ) -> float | None:
        """Record that a container was made, which is not started yet, if ever."""
        done = decision.pending(container) and container.desired == Desired.CREATED
        if container.desired == Desired.CREATED:
            facts['interrupted'] = False
        reason = facts.get('status_reason', container.status_reason)
        facts |= {
            'status': Status.CREATED,
            'status_reason': reason if reason in decision.ANEW else None,
            'started_at': None,
            'finished_at': None,
        }
        made = self._journal.record(container, facts, done=done)
        ready = record.state == State.READY
        return 0 if made is not None and decision.wants_run(made) and ready else None

    def _wait(self, container: Container, facts: dict[str, typing.Any]) -> None:
        """Wait for the image, of which we shall hear."""
        if facts:
            self._journal.record(container, facts)

    def _not_made(
        self, container: Container, error: errors.AgentError, facts: dict[str, typing.Any]
    ) -> float | None:
        """Decide what a container's failure to be made or started means.

        :raises errors.ServiceUnavailable: Docker or another service is away
        """
        if isinstance(error, errors.ServiceUnavailable):
            raise error
        if isinstance(error, errors.Invalid) and 'No such container' not in str(error):
            self._journal.give_up(container, str(error), **facts, **_exit_code(error))
            return None
        memory = self._journal.memory(container.uuid)
        memory.failures += 1
        if memory.failures >= ATTEMPTS:
            self._journal.give_up(container, str(error), **facts)
            return None
        delay = 0.25 * 4.0 ** (memory.failures - 1)
        LOG.info('container %s: %s; tried again in %g s', container.uuid, error, delay)
        return delay

    def start(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Start a container that is there."""
        assert docker is not None  # noqa: S101
        try:
            with self._views.hold(container, (State.READY,)):
                self._run(container.uuid, docker.id)
        except NotYet as error:
            LOG.debug('container %s: not started yet: %s', container.uuid, error)
            seen = decision.observed(container, docker, interrupted=container.interrupted)
            self._journal.record(container, seen)
            return None
        except errors.AgentError as error:
            delay = self._not_made(container, error, {'docker_id': docker.id})
            if delay is not None and docker.started_at is None:
                self._discard(container, docker)
            return delay
        facts: dict[str, typing.Any] = {}
        memory = self._journal.memory(container.uuid)
        if step.again:
            lasted = restarts.seconds(docker) >= restarts.LASTING
            memory.quick_ends = 0 if lasted else memory.quick_ends + 1
            facts['restart_count'] = container.restart_count + 1
        elif decision.pending(container):
            memory.quick_ends = 0
            facts['restart_count'] = 0
        return self._started(container, facts)

    def _discard(self, container: Container, docker: Facts) -> None:
        """Remove a container that never ran, to make it anew under another id.

        Where Docker was killed in the middle of a start, containerd keeps what it began
        for that id, and refuses every later start of it.
        """
        self._runtime.remove(docker.id)
        self._journal.record(container, {'docker_id': None})

    def _run(self, uuid: str, docker_id: str) -> None:
        memory = self._journal.memory(uuid)
        memory.starting = True
        try:
            self._runtime.start(docker_id)
        finally:
            memory.looked_at = time.time_ns()
            memory.starting = False

    def _started(self, container: Container, facts: dict[str, typing.Any]) -> float | None:
        """Record what became of a container that was just started."""
        memory = self._journal.memory(container.uuid)
        memory.failures, memory.stop = 0, None
        docker = self._runtime.inspect(contract.container_name(container.uuid))
        if docker is None:  # it is gone already; the next step finds out why
            self._journal.record(container, facts)
            return 0
        reason = facts.get('status_reason', container.status_reason)
        facts = facts | decision.observed(container, docker)
        facts['status_reason'] = reason if reason in decision.ANEW else None
        if not docker.alive:
            # It ended at once. That it was started is recorded first; how it ended, then.
            facts |= {'status': Status.RUNNING, 'exit_code': None, 'finished_at': None}
        act = decision.first_act(container)
        restarted = act['generation'] if act is not None and act['op'] == 'restart' else None
        wanted = act is None and container.desired == Desired.RUNNING
        done = decision.pending(container) and (wanted or restarted is not None)
        recorded = self._journal.record(container, facts, done=done, upto=restarted)
        if recorded is None:
            LOG.info('container %s: its record ended meanwhile, removing it', container.uuid)
            self._runtime.remove(docker.id)
            return 0
        settled = container.desired == Desired.RUNNING and not decision.pending(recorded)
        return None if settled and docker.alive else 0


def _exit_code(error: errors.Invalid) -> dict[str, int]:
    """Return the exit code that Docker gives a command that cannot be run."""
    text = str(error)
    if 'not found' in text or 'no such file' in text:
        return {'exit_code': 127}
    return {'exit_code': 126} if 'permission denied' in text else {}
