"""One step towards what is wanted of a container: look, decide, do, and record."""

from __future__ import annotations

import dataclasses
import time
import typing
import uuid as uuidlib
from collections.abc import Callable

from oslo_log import log as logging

from zun_agent import creation, decision, errors
from zun_agent.claims import Claims
from zun_agent.decision import Act, Step, View
from zun_agent.images.fetching import Fetcher
from zun_agent.locks import SandboxLocks
from zun_agent.models import Action, Container, Desired, Status, now
from zun_agent.runtime import Facts, NameTaken, Runtime
from zun_agent.sandboxes import Sandboxes
from zun_agent.store import Store
from zun_virt import sandbox as contract

LOG = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a container is made or started that Docker fails to, before it is given up."""

NOVA_FIRST = 0.2
NOVA_LAST = 10.0
"""Seconds between two questions to Nova about a server that is going, or is elsewhere."""

NOVA_COMING = 2.0
"""Seconds that a new sandbox has to appear on a host before Nova is asked what keeps it."""


@dataclasses.dataclass
class _Stop:
    """A stop signal that was sent."""

    run: tuple[str, str]
    generation: int
    deadline: float


class Converger:
    """Brings containers, one step at a time, to what is wanted of them."""

    def __init__(
        self,
        host: str,
        store: Store,
        runtime: Runtime,
        sandboxes: Sandboxes,
        local: contract.SandboxStore,
        claims: Claims,
        fetcher: Fetcher,
        locks: SandboxLocks,
        settings: creation.Settings,
        wake_sandbox: Callable[[str], None],
    ) -> None:
        """Work on the containers of `host`."""
        self._host = host
        self._store = store
        self._runtime = runtime
        self._sandboxes = sandboxes
        self._local = local
        self._claims = claims
        self._fetcher = fetcher
        self._locks = locks
        self._settings = settings
        self._wake_sandbox = wake_sandbox
        self._boot_id = contract.boot_id()
        self.looked_at: dict[str, int] = {}
        """When each container was last looked at in Docker, in nanoseconds since the epoch."""
        self.starting: set[str] = set()
        """The containers that Docker is just told to start, and that are looked at afterwards."""
        self._met: set[str] = set()
        self._verified: dict[str, contract.PauseContainer] = {}
        self._stops: dict[str, _Stop] = {}
        self._killed: dict[str, str] = {}
        self._quick_ends: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._questions: dict[str, int] = {}
        self._acts: dict[Act, Callable[[Container, Facts | None, View, Step], float | None]] = {
            Act.NOTHING: self._nothing,
            Act.ASK_NOVA: self._ask_nova,
            Act.PREPARE: self._prepare,
            Act.CREATE: self._create,
            Act.RUN: self._create,
            Act.START: self._start,
            Act.STOP: self._stop,
            Act.KILL: self._kill,
            Act.PAUSE: self._freeze,
            Act.UNPAUSE: self._freeze,
            Act.UPDATE: self._update,
            Act.DISCARD: self._discard,
            Act.REMOVE: self._remove,
            Act.RELEASE: self._release,
            Act.AUTO_REMOVE: self._auto_remove,
        }

    def converge(self, uuid: str) -> float | None:
        """Do the next step for a container.

        :returns: the seconds after which to come again; None for when there is news
        :raises errors.AgentError: a service did not do its part; it may be tried again
        :raises zun_virt.sandbox.SandboxBusy: the driver works on the sandbox
        """
        container = self._store.container(uuid)
        if container is None or container.sandbox_id is None:
            self._forget(uuid)
            return None
        view = self._view(container)
        if view.record is None and not self._concerns(container, view):
            self._forget(uuid)
            return None
        docker = self._look(container, view)
        if docker is not None and docker.labels.get(contract.LABEL_CONTAINER) != uuid:
            self._failed(container, 'Its name is taken in Docker by something else.')
            return None
        if docker is not None and _may_have_died_with_sandbox(container, docker, view):
            view = self._with_pause(view)
        step = decision.plan(
            container,
            docker,
            view,
            now=now(),
            quick_ends=self._quick_ends.get(uuid, 0),
            killed=docker is not None and self._killed.get(docker.id) == docker.started,
        )
        if step.act is not Act.NOTHING:
            LOG.debug('container %s: next is %s', uuid, step.act)
        return self._acts[step.act](container, docker, view, step)

    def pause_changed(self, sandbox_id: str | None = None) -> None:
        """Believe no more what is known of a sandbox's pause container, or of any."""
        if sandbox_id is None:
            self._verified.clear()
        else:
            self._verified.pop(sandbox_id, None)

    # Looking

    def _look(self, container: Container, view: View) -> Facts | None:
        """Return what Docker shows of the container.

        One that is new need not be looked for: should it be there, Docker will say so when
        it is to be made.
        """
        uuid = container.uuid
        self.looked_at[uuid] = time.time_ns()
        new = container.docker_id is None and container.observed_generation == 0
        if new and view.creatable and decision.wants_making(container) and uuid not in self._met:
            return None
        return self._runtime.inspect(contract.container_name(uuid))

    def _concerns(self, container: Container, view: View) -> bool:
        """Tell whether a container without a sandbox here is any business of this host's."""
        if container.host is None and view.problem is None:
            return True  # nobody's: some agent has to find out what becomes of it
        return bool(container.host == self._host)

    def _view(self, container: Container) -> View:
        assert container.sandbox_id is not None  # noqa: S101
        try:
            record = self._local.read(container.sandbox_id)
        except contract.SandboxError as error:
            return View(record=None, problem=f'Its sandbox cannot be used: {error}')
        if record is None:
            return View(record=None)
        claimed = record.project_id == container.project_id and self._claims.holds(record)
        return View(record=record, claimed=claimed)

    def _with_pause(self, view: View) -> View:
        assert view.record is not None  # noqa: S101
        if view.record.pause is None:
            return view
        pause = self._runtime.inspect(view.record.pause.id)
        return dataclasses.replace(view, pause=pause)

    def _checked(self, container: Container, wanted: typing.Collection[contract.State]) -> View:
        """Return the sandbox as it is under its lock, which the caller holds.

        :raises _NotYet: it is not, or no more, as `wanted`
        """
        view = self._view(container)
        record = view.record
        if record is None or not view.claimed or record.pause is None:
            raise _NotYet('the sandbox is not there')
        if record.state not in wanted:
            raise _NotYet(f'the sandbox is {record.state}')
        if (
            record.state == contract.State.READY
            and self._verified.get(record.instance_id) != record.pause
        ):
            pause = self._runtime.inspect(record.pause.id)
            same_boot = record.pause.boot_id == self._boot_id
            if pause is None or not same_boot or not decision.is_that(record, pause):
                raise _NotYet('the sandbox is said to be ready, and is not')
            self._verified[record.instance_id] = record.pause
        return view

    # Recording

    def _record(
        self,
        container: Container,
        facts: dict[str, typing.Any],
        *,
        done: bool = False,
        failed: bool = False,
    ) -> Container | None:
        """Record facts, where there is news in them."""
        facts = {'host': self._host, **facts}
        addresses = self._claims.addresses(container.sandbox_id)
        if addresses is not None:
            facts['addresses'] = addresses
        news = {name: value for name, value in facts.items() if getattr(container, name) != value}
        if not news and not done:
            return container
        if 'status' in news:
            LOG.info('container %s: %s, was %s', container.uuid, news['status'], container.status)
        return self._store.observe(
            container.uuid,
            done_generation=container.generation if done else None,
            message='Error' if failed else None,
            **news,
        )

    def _failed(self, container: Container, reason: str, **facts: typing.Any) -> None:
        """Record that what was asked for cannot be had."""
        LOG.warning('container %s: given up: %s', container.uuid, reason)
        self._failures.pop(container.uuid, None)
        self._fetcher.forget(container.uuid)
        self._record(
            container,
            {'status': Status.ERROR, 'status_reason': reason, 'interrupted': False, **facts},
            done=True,
            failed=True,
        )

    def _forget(self, uuid: str) -> None:
        for kept in (
            self.looked_at,
            self._stops,
            self._quick_ends,
            self._failures,
            self._questions,
        ):
            typing.cast(dict[str, object], kept).pop(uuid, None)
        self._met.discard(uuid)
        self._fetcher.forget(uuid)

    # The steps

    def _nothing(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        if step.facts or step.done:
            if step.done or not (docker and docker.alive):
                self._stops.pop(container.uuid, None)
            self._record(container, step.facts, done=step.done, failed=step.failed)
        return step.delay

    def _prepare(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Fetch the image while the sandbox is being made."""
        if step.facts:
            self._record(container, step.facts)
        if view.record is not None and view.record.project_id == container.project_id:
            try:
                self._fetcher.prepare(container)
            except errors.Invalid as error:
                self._failed(container, str(error))
        return None

    def _create(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        facts = dict(step.facts)
        running = False
        try:
            if not self._fetcher.ready(container):
                self._wait(container, facts)
                return None
            with self._locks.hold(str(container.sandbox_id)):
                view = self._checked(container, (contract.State.BUILDING, contract.State.READY))
                assert view.record is not None  # noqa: S101
                try:
                    docker_id = self._make(container, view.record)
                except NameTaken:
                    if container.uuid in self._met:
                        raise
                    self._met.add(container.uuid)
                    return 0  # it was made before: it may have run, too
                if docker_id is None:
                    self._wait(container, facts)
                    return None
                facts |= {'docker_id': docker_id, 'incarnation': view.record.incarnation}
                if step.act is Act.RUN and view.ready:
                    self._run(container.uuid, docker_id)
                    running = True
        except _NotYet as error:
            LOG.debug('container %s: not made yet: %s', container.uuid, error)
            return None
        except errors.AgentError as error:
            return self._not_made(container, error, facts)
        self._fetcher.forget(container.uuid)
        if running:
            return self._started(container, facts | {'restart_count': 0})
        done = decision.pending(container) and container.desired == Desired.CREATED
        facts |= {'status': Status.CREATED, 'started_at': None, 'finished_at': None}
        made = self._record(container, facts, done=done)
        return 0 if made is not None and decision.wants_run(made) and view.ready else None

    def _make(self, container: Container, record: contract.Sandbox) -> str | None:
        """Create the container in Docker; None when its image is being fetched first."""
        name = contract.container_name(container.uuid)
        image = self._fetcher.reference(container)
        body = creation.build_create(container, record, image, self._settings)
        try:
            return self._runtime.create(name, body)
        except errors.ImageNotFound:
            if self._fetcher.ready(container, missing=True):
                raise
            return None

    def _wait(self, container: Container, facts: dict[str, typing.Any]) -> None:
        """Wait for the image, of which we shall hear."""
        if facts:
            self._record(container, facts)

    def _not_made(
        self, container: Container, error: errors.AgentError, facts: dict[str, typing.Any]
    ) -> float | None:
        """Decide what a container's failure to be made or started means.

        :raises errors.ServiceUnavailable: Docker or another service is away
        """
        if isinstance(error, errors.ServiceUnavailable):
            raise error
        if isinstance(error, errors.Invalid) and 'No such container' not in str(error):
            self._failed(container, str(error), **facts, **_exit_code(error))
            return None
        count = self._failures.get(container.uuid, 0) + 1
        self._failures[container.uuid] = count
        if count >= ATTEMPTS:
            self._failed(container, str(error), **facts)
            return None
        delay = 0.25 * 4.0 ** (count - 1)
        LOG.info('container %s: %s; tried again in %g s', container.uuid, error, delay)
        return delay

    def _start(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        assert docker is not None  # noqa: S101
        try:
            with self._locks.hold(str(container.sandbox_id)):
                self._checked(container, (contract.State.READY,))
                self._run(container.uuid, docker.id)
        except _NotYet as error:
            LOG.debug('container %s: not started yet: %s', container.uuid, error)
            seen = decision.observed(container, docker, interrupted=container.interrupted)
            self._record(container, seen)
            return None
        except errors.AgentError as error:
            return self._not_made(container, error, {'docker_id': docker.id})
        facts: dict[str, typing.Any] = {}
        if step.again:
            lasted = _seconds(docker)
            quick = self._quick_ends.get(container.uuid, 0)
            self._quick_ends[container.uuid] = 0 if lasted >= decision.LASTING else quick + 1
            facts['restart_count'] = container.restart_count + 1
        elif decision.pending(container):
            self._quick_ends.pop(container.uuid, None)
            facts['restart_count'] = 0
        return self._started(container, facts)

    def _run(self, uuid: str, docker_id: str) -> None:
        self.starting.add(uuid)
        try:
            self._runtime.start(docker_id)
        finally:
            self.looked_at[uuid] = time.time_ns()
            self.starting.discard(uuid)

    def _started(self, container: Container, facts: dict[str, typing.Any]) -> float | None:
        """Record what became of a container that was just started."""
        uuid = container.uuid
        self._failures.pop(uuid, None)
        self._stops.pop(uuid, None)
        docker = self._runtime.inspect(contract.container_name(uuid))
        if docker is None:  # it is gone already; the next step finds out why
            self._record(container, facts)
            return 0
        reason = facts.get('status_reason', container.status_reason)
        facts = facts | decision.observed(container, docker)
        facts['status_reason'] = reason if reason == decision.LOST else None
        if not docker.alive:
            # It ended at once. That it was started is recorded first; how it ended, then.
            facts |= {'status': Status.RUNNING, 'exit_code': None, 'finished_at': None}
        done = decision.pending(container) and container.desired == Desired.RUNNING
        self._record(container, facts, done=done)
        return None if docker.alive and container.desired == Desired.RUNNING else 0

    def _stop(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Send the stop signal, or what comes after it, without waiting for its effect."""
        assert docker is not None  # noqa: S101
        run = (docker.id, docker.started)
        if docker.state == 'paused':
            self._runtime.unpause(docker.id)
        sent = self._stops.get(container.uuid)
        begun = sent is not None and (sent.run, sent.generation) == (run, container.generation)
        clock = time.monotonic()
        try:
            if sent is not None and begun and clock < sent.deadline:
                return sent.deadline - clock
            if begun or step.timeout <= 0:
                self._killed[docker.id] = docker.started
                self._runtime.kill(docker.id, 'KILL')
                return 1
            self._runtime.kill(docker.id, docker.stop_signal)
        except (errors.Conflict, errors.NotFound):
            return 0  # it ended by itself just now
        deadline = clock + step.timeout
        self._stops[container.uuid] = _Stop(run, container.generation, deadline)
        return float(step.timeout)

    def _kill(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        assert docker is not None and container.operation is not None  # noqa: S101
        self._killed[docker.id] = docker.started
        try:
            self._runtime.kill(docker.id, str(container.operation['signal']))
        except errors.Invalid as error:
            LOG.info('container %s: not signalled: %s', container.uuid, error)
            self._record(container, {'status_reason': str(error)}, done=True, failed=True)
            return None
        except (errors.Conflict, errors.NotFound):
            LOG.debug('container %s: it ended before the signal', container.uuid)
        self._record(container, {}, done=True)
        return None

    def _freeze(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        assert docker is not None  # noqa: S101
        change = self._runtime.pause if step.act is Act.PAUSE else self._runtime.unpause
        try:
            # The driver could not stop a sandbox in which something was frozen meanwhile.
            with self._locks.hold(str(container.sandbox_id)):
                self._checked(container, (contract.State.READY,))
                change(docker.id)
        except _NotYet:
            return None
        except (errors.Conflict, errors.NotFound):
            LOG.debug('container %s: it ended before it could be %sd', container.uuid, step.act)
        return 0

    def _update(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        assert docker is not None  # noqa: S101
        wanted = {name: value for name, value in creation.resources(container).items() if value}
        try:
            self._runtime.update(docker.id, wanted)
        except errors.ServiceUnavailable:
            raise
        except errors.AgentError as error:
            LOG.warning('container %s: its limits stay as they are: %s', container.uuid, error)
            self._record(container, {'status_reason': str(error)}, done=True, failed=True)
            return None
        return 0

    def _discard(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Remove a container that can never start again, to make it anew."""
        assert docker is not None  # noqa: S101
        self._record(container, step.facts)
        self._remove_docker(docker)
        return 0

    def _remove(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        assert docker is not None  # noqa: S101
        self._remove_docker(docker)
        return 0

    def _remove_docker(self, docker: Facts) -> None:
        if docker.state == 'paused':  # the kernel does not kill what is frozen
            self._runtime.unpause(docker.id)
        self._runtime.remove(docker.id)
        self._killed.pop(docker.id, None)

    def _release(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """End a record, after the sandbox that was made for it."""
        uuid, sandbox_id = container.uuid, str(container.sandbox_id)
        goes = container.owns_sandbox and not self._store.pass_on_sandbox(uuid)
        if goes and not self._sandboxes.delete_server(sandbox_id, container.project_id):
            return self._pause(uuid)
        self._end(container)
        return None

    def _end(self, container: Container) -> None:
        LOG.info('container %s: its record ends', container.uuid)
        self._store.remove_container(container.uuid)
        self._forget(container.uuid)
        self._wake_sandbox(str(container.sandbox_id))

    def _auto_remove(
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
                operation=None,
            )
        except (errors.Conflict, errors.NotFound) as error:
            LOG.debug('container %s: not removed: %s', container.uuid, error)
        return 0

    def _ask_nova(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Find out what became of a sandbox that is not on this host."""
        uuid, sandbox_id = container.uuid, str(container.sandbox_id)
        coming = container.host is None and container.desired != Desired.DELETED
        if coming and uuid not in self._questions:
            # Its directory tells when it is here. Questions about many that are being made
            # would take the time in which Nova makes them.
            return self._pause(uuid, NOVA_COMING)
        server = self._sandboxes.server(sandbox_id)
        if server is None:
            if docker is not None:
                self._remove_docker(docker)
            self._end(container)
            return None
        if container.desired == Desired.DELETED:
            if docker is not None:
                self._remove_docker(docker)
            return self._release(container, None, view, step)
        first = NOVA_COMING if coming else NOVA_FIRST
        if server.host not in (None, self._host):
            return self._pause(uuid, first)  # it is that host's to claim
        if server.status == 'ERROR':
            reason = f'Nova could not make its sandbox: {server.fault or "no reason is known"}'
            if container.status != Status.ERROR or decision.pending(container):
                self._failed(container, reason, host=container.host)
            return NOVA_LAST
        if container.host == self._host and container.status != Status.CREATING:
            reason = 'Nova has its sandbox on this host, where it is not to be found.'
            self._record(container, {'status': Status.UNKNOWN, 'status_reason': reason})
        return self._pause(uuid, first)

    def _pause(self, uuid: str, first: float = NOVA_FIRST) -> float:
        """Return the seconds until Nova is asked again, growing each time."""
        count = self._questions.get(uuid, 0)
        self._questions[uuid] = count + 1
        return min(first * 1.6 ** min(count, 16), NOVA_LAST)


class _NotYet(Exception):
    """The sandbox does not allow the step now; its record will change."""


def _may_have_died_with_sandbox(container: Container, docker: Facts, view: View) -> bool:
    return (
        not docker.alive
        and view.record is not None
        and decision.wants_run(container)
        and not decision.start_asked(container)
        and docker.started_at is not None
    )


def _exit_code(error: errors.Invalid) -> dict[str, int]:
    """Return the exit code that Docker gives a command that cannot be run."""
    text = str(error)
    if 'not found' in text or 'no such file' in text:
        return {'exit_code': 127}
    return {'exit_code': 126} if 'permission denied' in text else {}


def _seconds(docker: Facts) -> float:
    if docker.started_at is None or docker.finished_at is None:
        return 0.0
    return (docker.finished_at - docker.started_at).total_seconds()
