"""The request for a new container: into a sandbox that is there, or one of its own."""

from __future__ import annotations

import typing
import uuid

from oslo_log import log as logging

from zun_agent import errors
from zun_agent.models import Action, Container, Desired, Status
from zun_agent.openstack import Unanswered
from zun_agent.sandboxes import Sandboxes
from zun_agent.store import Store
from zun_virt.sandbox import Limits

if typing.TYPE_CHECKING:
    from zun_agent.images import Images

LOG = logging.getLogger(__name__)

_FIELDS = (
    'name', 'image', 'command', 'entrypoint', 'environment', 'workdir', 'labels', 'hints',
    'hostname', 'cpu', 'cpu_policy', 'memory', 'disk', 'security_groups', 'nets',
    'availability_zone', 'interactive', 'tty', 'auto_remove', 'auto_heal',
)  # fmt: skip
"""Members of the request that are stored as they are."""

_OF_THE_SANDBOX = ('nets', 'security_groups', 'availability_zone', 'host', 'hostname')
"""Members that describe a sandbox, and so cannot be asked of one that is there."""


class Admission:
    """Makes the record of a new container, and has Nova make its sandbox."""

    def __init__(
        self,
        conf: typing.Any,
        store: Store,
        sandboxes: Sandboxes,
        images: Images,
        host: str | None = None,
    ) -> None:
        """Store containers in `store`, and have their sandboxes made by `sandboxes`.

        :param host: whose agent this is, and the only one there at a time; None for a front end
        """
        self._host = host
        self._conf = conf.container
        self._images = images
        self._store = store
        self._sandboxes = sandboxes

    def create(
        self, context: typing.Any, spec: dict[str, typing.Any], *, run: bool, action: Action
    ) -> Container:
        """Return the new container as it is stored.

        :raises errors.AgentError: nothing is stored, or an intent that will be swept
        """
        container = self._record(context, spec, run=run)
        hint = spec['hints'].get('sandbox')
        if hint is None:
            return self._with_own_sandbox(context, container, action, spec.get('host'))
        return self._joined(context, container, action, hint, spec)

    def _record(self, context: typing.Any, spec: dict[str, typing.Any], *, run: bool) -> Container:
        driver = spec.get('image_driver') or self._conf.image_drivers[0]
        return Container(
            **{name: spec[name] for name in _FIELDS if spec.get(name) is not None},
            uuid=str(uuid.uuid4()),
            project_id=context.project_id,
            user_id=context.user_id,
            image_driver=driver,
            image_ref=self._images.resolve(context, driver, spec['image']),
            image_pull_policy=spec.get('image_pull_policy') or self._conf.default_image_pull_policy,
            restart_policy=spec.get('restart_policy') or {},
            status=Status.CREATING,
            task_state='container_creating',
            desired=Desired.RUNNING if run else Desired.CREATED,
        )

    def _joined(
        self,
        context: typing.Any,
        container: Container,
        action: Action,
        hint: typing.Any,
        spec: dict[str, typing.Any],
    ) -> Container:
        _check_joining(hint, spec)
        server = self._sandboxes.resolve(context, hint)
        check_limits(
            self._sandboxes.limits(server),
            cpu=container.cpu,
            memory=container.memory,
            disk=container.disk,
        )
        container.sandbox_id = server.id
        stored = self._store.add_container(container, action)
        LOG.info('container %s: stored, to join sandbox %s', stored.uuid, server.id)
        return stored

    def _with_own_sandbox(
        self, context: typing.Any, container: Container, action: Action, host: str | None
    ) -> Container:
        intent_id = container.uuid
        container.intent_id = intent_id
        container.taken_by = self._host
        plan = self._sandboxes.plan(context, container, host=host)
        self._store.add_container(container)
        try:
            server_id = self._sandboxes.create(context, plan)
        except (Unanswered, errors.NovaError) as error:
            LOG.warning('intent %s: no answer of Nova, swept later: %s', intent_id, error)
            self._store.observe(
                intent_id,
                status=Status.ERROR,
                task_state=None,
                status_reason='Nova did not answer the request for a sandbox; what it made '
                'of it will be removed.',
            )
            raise
        except errors.AgentError as error:
            LOG.info('intent %s: Nova refused, dropped: %s', intent_id, error)
            self._store.remove_intent(intent_id)
            raise
        return self._bound(intent_id, server_id, container.project_id, action)

    def _bound(self, intent_id: str, server_id: str, project_id: str, action: Action) -> Container:
        try:
            stored = self._store.bind_intent(intent_id, server_id, action)
        except errors.ContainerNotFound as error:
            # The sweep thought this request dead, and did not see the server yet.
            LOG.warning('intent %s: swept already, deleting server %s', intent_id, server_id)
            self._sandboxes.delete_server(server_id, project_id)
            raise errors.ServiceUnavailable('Nova took too long to make a sandbox.') from error
        LOG.info('container %s: stored, Nova makes its sandbox', stored.uuid)
        return stored


def check_limits(
    limits: Limits, *, cpu: float | None, memory: int | None, disk: int | None
) -> None:
    """Refuse a container that asks for more than its sandbox has.

    :param cpu: cores
    :param memory: MiB
    :param disk: GiB
    :raises errors.LimitExceedsSandbox: it does, naming both
    """
    for name, asked, limit, unit in (
        ('cpu', cpu, limits.cpus, ''),
        ('memory', memory, limits.memory_mb, ' MiB'),
        ('disk', disk, limits.disk_gb, ' GiB'),
    ):
        if asked is not None and limit is not None and asked > limit:
            raise errors.LimitExceedsSandbox(
                f'The container asks for {name} {asked:g}{unit}, '
                f'and its whole sandbox has {limit:g}{unit}.'
            )


def _check_joining(hint: typing.Any, spec: dict[str, typing.Any]) -> None:
    """Refuse a request that describes a sandbox, and names one that is there as well.

    :raises errors.Invalid: naming what does not go together
    """
    if not isinstance(hint, str):
        raise errors.Invalid("The hint 'sandbox' must be one id or name of a server.")
    given = [member for member in _OF_THE_SANDBOX if spec.get(member)]
    given += [f'hint {key}' for key in spec['hints'] if key != 'sandbox']
    if given:
        raise errors.Invalid(
            f"The hint 'sandbox' names a sandbox that is there; {', '.join(given)} "
            'can only be asked of a new one.'
        )
