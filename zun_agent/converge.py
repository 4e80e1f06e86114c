"""One step towards what is wanted of a container: look, decide, do, and record."""

from __future__ import annotations

import time
from collections.abc import Callable

from oslo_log import log as logging

from zun_agent import creation, decision, errors
from zun_agent.decision import Act, Step
from zun_agent.ending import Ender
from zun_agent.facts import Facts
from zun_agent.journal import Journal
from zun_agent.making import Maker
from zun_agent.models import Container, now
from zun_agent.runtime import Runtime
from zun_agent.store import Store
from zun_agent.view import NotYet, View, Views
from zun_virt import sandbox as contract
from zun_virt.sandbox import State

LOG = logging.getLogger(__name__)

ENDED = 'It ended before it could be paused.'
"""Why a request to pause a container fails; nothing else does by its end."""


class Converger:
    """Brings containers, one step at a time, to what is wanted of them."""

    def __init__(
        self,
        host: str,
        store: Store,
        runtime: Runtime,
        views: Views,
        journal: Journal,
        maker: Maker,
        ender: Ender,
    ) -> None:
        """Work on the containers of `host`."""
        self._host = host
        self._store = store
        self._runtime = runtime
        self._views = views
        self._journal = journal
        self._acts: dict[Act, Callable[[Container, Facts | None, View, Step], float | None]] = {
            Act.NOTHING: self._note,
            Act.ASK_NOVA: ender.ask_nova,
            Act.PREPARE: maker.prepare,
            Act.CREATE: maker.create,
            Act.RUN: maker.create,
            Act.START: maker.start,
            Act.STOP: ender.stop,
            Act.KILL: ender.kill,
            Act.PAUSE: self._freeze,
            Act.UNPAUSE: self._freeze,
            Act.UPDATE: self._update,
            Act.DISCARD: ender.discard,
            Act.REMOVE: ender.remove,
            Act.RELEASE: ender.release,
            Act.AUTO_REMOVE: ender.auto_remove,
        }

    def converge(self, uuid: str) -> float | None:
        """Do the next step for a container.

        :returns: the seconds after which to come again; None for when there is news
        :raises errors.AgentError: a service did not do its part; it may be tried again
        :raises zun_virt.sandbox.SandboxBusy: the driver works on the sandbox
        """
        container = self._journal.take(uuid) or self._store.container(uuid)
        if container is None or container.sandbox_id is None:
            self._journal.forget(uuid)
            return None
        self._journal.memory(uuid).generation = container.generation
        view = self._views.look(container)
        if view.record is None and not self._concerns(container, view):
            self._journal.forget(uuid)
            return None
        docker = self._look(container, view)
        if docker is not None and docker.labels.get(contract.LABEL_CONTAINER) != uuid:
            self._journal.give_up(container, 'Its name is taken in Docker by something else.')
            return None
        if docker is not None and _may_have_died_with_sandbox(container, docker, view):
            view = self._views.with_pause(view)
        memory = self._journal.memory(uuid)
        step = decision.plan(container, docker, view, now=now(), quick_ends=memory.quick_ends)
        if step.act is not Act.NOTHING:
            LOG.debug('container %s: next is %s', uuid, step.act)
        return self._acts[step.act](container, docker, view, step)

    def _look(self, container: Container, view: View) -> Facts | None:
        """Return what Docker shows of the container.

        One that is new need not be looked for: should it be there, Docker will say so when
        it is to be made. One that was just made is as it was made: should it be gone,
        Docker will say so when it is to start.
        """
        memory = self._journal.memory(container.uuid)
        memory.looked_at = time.time_ns()
        made, memory.made = memory.made, None if view.ready else memory.made
        if view.ready and made is not None and made.id == container.docker_id:
            return made
        new = container.docker_id is None and container.observed_generation == 0
        if new and view.creatable and decision.wants_making(container) and not memory.met:
            return None
        return self._runtime.inspect(contract.container_name(container.uuid))

    def _concerns(self, container: Container, view: View) -> bool:
        """Tell whether a container without a sandbox here is any business of this host's."""
        if container.host is None and view.problem is None:
            return True  # nobody's: some agent has to find out what becomes of it
        return bool(container.host == self._host)

    def _note(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        """Record what is seen, where nothing is to be done."""
        if step.facts or step.done:
            if step.done or not (docker and docker.alive):
                self._journal.memory(container.uuid).stop = None
            failure = ENDED if step.failed else None
            self._journal.record(
                container, step.facts, done=step.done, upto=step.upto, failure=failure
            )
        return step.delay

    def _freeze(
        self, container: Container, docker: Facts | None, view: View, step: Step
    ) -> float | None:
        assert docker is not None  # noqa: S101
        change = self._runtime.pause if step.act is Act.PAUSE else self._runtime.unpause
        try:
            # The driver could not stop a sandbox in which something was frozen meanwhile.
            with self._views.hold(container, (State.READY,)):
                change(docker.id)
        except NotYet:
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
        except errors.NotFound:
            return 0  # it is gone just now
        except errors.AgentError as error:
            LOG.warning('container %s: its limits stay as they are: %s', container.uuid, error)
            kept = creation.limits(docker.resources)
            self._journal.record_update(container, failure=str(error), **kept)
        else:
            self._journal.record_update(container)
        return 0


def _may_have_died_with_sandbox(container: Container, docker: Facts, view: View) -> bool:
    return (
        not docker.alive
        and view.record is not None
        and decision.wants_run(container)
        and not decision.start_asked(container)
        and docker.started_at is not None
    )
