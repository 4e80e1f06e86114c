"""What requests read: from the store, or by the runtime what only Docker knows."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Iterator

from oslo_log import log as logging

from zun_agent import errors, states
from zun_agent.models import Action, Container
from zun_agent.records import Containers
from zun_agent.store import Store

if typing.TYPE_CHECKING:
    from zun_agent.runtime import Runtime

LOG = logging.getLogger(__name__)


class Reader:
    """The operations that change nothing. All that they raise is an `errors.AgentError`."""

    def __init__(self, store: Store, runtime: Runtime) -> None:
        """Read the records in `store`, and ask this host's `runtime`."""
        self._store = store
        self._runtime = runtime

    # From the store

    def get(self, context: typing.Any, ident: str, *, all_projects: bool = False) -> Container:
        """Return the container with that uuid or, if there is none, of that name.

        :raises errors.ContainerNotFound: there is none in the project
        :raises errors.ContainerNameNotUnique: several have that name
        """
        found = self._store.find(_project(context, all_projects), ident)
        if not found:
            raise errors.ContainerNotFound(f'Container {ident} could not be found.')
        if len(found) > 1:
            raise errors.ContainerNameNotUnique(
                f'{len(found)} containers are named {ident}; use the id.'
            )
        return found[0]

    def list(
        self,
        context: typing.Any,
        *,
        filters: dict[str, typing.Any] | None = None,
        limit: int | None = None,
        marker: str | None = None,
        sort_key: str = 'id',
        sort_dir: str = 'asc',
        all_projects: bool = False,
    ) -> Containers:
        """Return a page of the project's containers, or of everybody's.

        :param marker: uuid of the last container of the page before
        :raises errors.Invalid: unknown marker, filter or sort key
        """
        return self._store.page(
            _project(context, all_projects),
            filters=filters,
            limit=limit,
            marker=marker,
            sort_key=sort_key,
            sort_dir=sort_dir,
        )

    def actions(self, context: typing.Any, container: Container) -> typing.Sequence[Action]:
        """Return what was done to the container, the newest first."""
        return self._store.actions(container.uuid)

    def action(self, context: typing.Any, container: Container, request_id: str) -> Action:
        """Return the action of one request.

        :raises errors.ActionNotFound: that request was not about this container
        """
        found = self._store.action(container.uuid, request_id)
        if found is None:
            raise errors.ActionNotFound(
                f'Action of request {request_id} on container {container.uuid} could not be found.'
            )
        return found

    # From Docker

    def logs(
        self,
        context: typing.Any,
        container: Container,
        *,
        stdout: bool = True,
        stderr: bool = True,
        timestamps: bool = False,
        tail: int | None = None,
        since: int | None = None,
    ) -> str:
        """Return what the container wrote.

        :param tail: lines from the end; None for all
        :param since: seconds since the epoch
        :raises errors.Conflict: it is not where the container was last
        """
        states.check(container, 'logs')
        if container.docker_id is None:
            return ''  # it never was
        with _there(container):
            return self._runtime.logs(
                container.docker_id,
                stdout=stdout,
                stderr=stderr,
                timestamps=timestamps,
                tail=tail,
                since=since,
            )

    def execute(
        self, context: typing.Any, container: Container, command: typing.Sequence[str]
    ) -> tuple[str, int | None]:
        """Run a command in the container to its end; return its output and exit code."""
        docker_id = _docker_id(container, 'execute')
        LOG.info('container %s: running a command for %s', container.uuid, context.user_id)
        with _there(container):
            return self._runtime.execute(docker_id, [*command])

    def top(
        self, context: typing.Any, container: Container, ps_args: str | None = None
    ) -> dict[str, typing.Any]:
        """Return the container's processes, as ``ps`` with these arguments shows them."""
        with _there(container):
            return self._runtime.top(_docker_id(container, 'top'), ps_args)

    def stats(self, context: typing.Any, container: Container) -> dict[str, typing.Any]:
        """Return what the container uses."""
        with _there(container):
            return self._runtime.stats(_docker_id(container, 'stats'))


def _project(context: typing.Any, all_projects: bool) -> str | None:
    """Return the project to look in; None for all.

    :raises errors.Forbidden: the token is of no project, which must not mean all
    """
    if all_projects:
        return None
    if not context.project_id:
        raise errors.Forbidden('The token is not scoped to a project.')
    return typing.cast(str, context.project_id)


def _docker_id(container: Container, action: str) -> str:
    states.check(container, action)
    if container.docker_id is None:
        raise errors.Conflict(f'Container {container.uuid} has not been made yet.')
    return container.docker_id


@contextlib.contextmanager
def _there(container: Container) -> Iterator[None]:
    """Tell of a container that Docker has not got what is so: its record is there.

    :raises errors.Conflict: Docker has not got it
    """
    try:
        yield
    except errors.ContainerNotFound as error:
        reason = container.status_reason or 'It is made anew when it is to run again.'
        raise errors.Conflict(
            f'Container {container.uuid} is not in Docker on its host now, '
            f'and its log, too, is not there. {reason}'
        ) from error
