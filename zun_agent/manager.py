"""What each request does: it is checked, stored, and the reconciler woken.

Nothing here changes anything in Docker. Requests that only read are those of `reading`.
"""

from __future__ import annotations

import datetime
import time
import typing
from collections.abc import Callable

from oslo_log import log as logging

from zun_agent import admission, errors, states
from zun_agent.models import Action, Container, Desired, Service, Status, now
from zun_agent.reading import Reader
from zun_agent.sandboxes import Sandboxes
from zun_agent.store import Store

if typing.TYPE_CHECKING:
    from zun_agent.images import Images
    from zun_agent.runtime import Runtime

LOG = logging.getLogger(__name__)

UPDATE_WAIT = 5.0
"""Seconds for which a change of limits is waited for; then it is carried out by and by."""

UPDATE_POLL = 0.02
"""Seconds between two looks whether it is carried out."""


class Manager(Reader):
    """The operations of the API. Everything they raise is an `errors.AgentError`."""

    def __init__(
        self,
        conf: typing.Any,
        store: Store,
        runtime: Runtime,
        sandboxes: Sandboxes,
        images: Images,
        wake: Callable[[Container, float], None] = lambda container, since: None,
        *,
        host: str | None = None,
    ) -> None:
        """Put the parts together.

        :param wake: is called with a container of which something is wanted now, and with
            when its transaction began, as `time.monotonic` counts; without it the
            reconciler finds out by itself, some time later
        :param host: see `admission.Admission`
        """
        super().__init__(store, runtime)
        self._conf = conf
        self._sandboxes = sandboxes
        self._wake = wake
        self._admission = admission.Admission(conf, store, sandboxes, images, host)

    def wake(self, container: Container) -> None:
        """Have the reconciler look at a container that another agent took in."""
        self._wake(container, 0)

    # Changing

    def create(self, context: typing.Any, spec: dict[str, typing.Any], *, run: bool) -> Container:
        """Store a container, in the sandbox of its hint or in one that Nova is asked for.

        :param spec: the body of the request, validated and normalised
        :param run: whether it is to be started, too
        :raises errors.AgentError: what was asked for is not to be had; see `sandboxes`
        """
        since = time.monotonic()
        container = self._admission.create(
            context, spec, run=run, action=_action(context, 'run' if run else 'create')
        )
        self._wake(container, since)
        return container

    def update(
        self, context: typing.Any, container: Container, changes: dict[str, typing.Any]
    ) -> Container:
        """Change the container's name, cpu, memory or auto_heal.

        What Docker has to do for that is waited for, unless the agent there is down.

        :raises errors.LimitExceedsSandbox: its sandbox has not got as much
        :raises errors.LimitsRefused: Docker did not take them
        """
        states.check(container, 'update')
        if container.sandbox_id and (changes.get('cpu') or changes.get('memory')):
            limits = self._sandboxes.limits_of(container.sandbox_id)
            admission.check_limits(
                limits, cpu=changes.get('cpu'), memory=changes.get('memory'), disk=None
            )
        asked = self._request(context, container, 'update', **changes)
        if asked.docker_id is None or not changes.keys() & {'cpu', 'memory'}:
            return asked
        return self._updated(asked)

    def _updated(self, asked: Container) -> Container:
        """Wait until Docker was told of limits, and return the container as it is then.

        :raises errors.LimitsRefused: it did not take them
        """
        service = self._store.service(asked.host) if asked.host else None
        if service is None or not self.service_is_up(service):
            return asked  # it is told when its agent is back
        deadline = time.monotonic() + UPDATE_WAIT
        while time.monotonic() < deadline:
            action = self._store.action_of(asked.uuid, asked.generation)
            if action is not None and action.finish_time is not None:
                if action.message is not None:
                    raise errors.LimitsRefused(
                        f'Container {asked.uuid} keeps its limits: {action.message}'
                    )
                break
            time.sleep(UPDATE_POLL)
        return self._store.container(asked.uuid) or asked

    def start(self, context: typing.Any, container: Container) -> None:
        """Have the container run."""
        self._request(
            context,
            container,
            'start',
            desired=Desired.RUNNING,
            task_state='container_starting',
        )

    def stop(self, context: typing.Any, container: Container, timeout: int | None = None) -> None:
        """Have the container stopped.

        :param timeout: seconds that it is given for that
        """
        self._request(
            context,
            container,
            'stop',
            desired=Desired.STOPPED,
            stop_timeout=self._timeout(timeout),
            task_state='container_stopping',
            instead=True,
        )

    def restart(
        self, context: typing.Any, container: Container, timeout: int | None = None
    ) -> None:
        """Have the container stopped, if it runs, and started.

        :param timeout: seconds that it is given for the stop
        """
        self._request(
            context,
            container,
            'reboot',
            desired=Desired.RUNNING,
            act={'op': 'restart', 'timeout': self._timeout(timeout)},
            task_state='container_rebooting',
        )

    def kill(self, context: typing.Any, container: Container, signal: str | None = None) -> None:
        """Have a signal sent to the container, ``KILL`` when none is named.

        A container that is killed so stays ended, whatever its restart policy says.
        """
        name = signal or 'KILL'
        stopped: dict[str, typing.Any] = (
            {'desired': Desired.STOPPED, 'stop_timeout': 0, 'instead': True}
            if name == 'KILL'
            else {}
        )
        self._request(
            context,
            container,
            'kill',
            act={'op': 'kill', 'signal': name},
            task_state='container_killing',
            **stopped,
        )

    def pause(self, context: typing.Any, container: Container) -> None:
        """Have the container frozen."""
        self._request(
            context,
            container,
            'pause',
            desired=Desired.PAUSED,
            task_state='container_pausing',
        )

    def unpause(self, context: typing.Any, container: Container) -> None:
        """Have the container go on."""
        self._request(
            context,
            container,
            'unpause',
            desired=Desired.RUNNING,
            task_state='container_unpausing',
        )

    def delete(
        self,
        context: typing.Any,
        container: Container,
        *,
        force: bool = False,
        stop: bool = False,
        timeout: int | None = None,
    ) -> None:
        """Have the container removed, and with it the sandbox that was made for it.

        The record stays, in status Deleting, until Docker and Nova have done so.

        :param force: whatever its status is; it is killed if need be
        :param stop: also if it runs; it is stopped first
        :param timeout: seconds that it is given for the stop
        :raises errors.SandboxConflict: others live in the sandbox
        """
        self._request(
            context,
            container,
            'delete_force' if force else 'delete_stop' if stop else 'delete',
            alone=True,
            desired=Desired.DELETED,
            stop_timeout=self._timeout(timeout) if stop else 0,
            status=Status.DELETING,
            task_state='container_deleting',
            instead=True,
        )

    # Agents

    def services(self) -> typing.Sequence[Service]:
        """Return all agents, those that are down included."""
        return self._store.services()

    def service_is_up(self, service: Service) -> bool:
        """Tell whether the agent gave a sign of life lately, and counts."""
        if service.forced_down or service.last_seen_up is None:
            return False
        silence = now() - service.last_seen_up
        return silence < datetime.timedelta(seconds=self._conf.reconciler.service_down_time)

    def availability_zones(self) -> typing.Sequence[str]:
        """Return the zones in which there is an agent that is up and enabled."""
        return sorted(
            {
                service.availability_zone or self._conf.api.availability_zone
                for service in self._store.services()
                if self.service_is_up(service) and not service.disabled
            }
        )

    def _request(
        self,
        context: typing.Any,
        container: Container,
        action: str,
        *,
        alone: bool = False,
        **changes: typing.Any,
    ) -> Container:
        since = time.monotonic()
        stored = self._store.request(
            container.uuid,
            action=_action(context, action.partition('_')[0]),
            check=lambda current: states.check(current, action),
            alone=alone,
            **changes,
        )
        LOG.info(
            'container %s: %s is stored as generation %d', stored.uuid, action, stored.generation
        )
        self._wake(stored, since)
        return stored

    def _timeout(self, timeout: int | None) -> int:
        return self._conf.container.default_stop_timeout if timeout is None else timeout


def _action(context: typing.Any, name: str) -> Action:
    return Action(
        action=name,
        request_id=context.request_id,
        user_id=context.user_id,
        project_id=context.project_id,
    )
