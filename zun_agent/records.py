"""The steps of which the store's transactions on containers are made."""

from __future__ import annotations

import typing

import sqlalchemy as sa
from sqlalchemy.orm import Session

from zun_agent import errors
from zun_agent.models import Action, Container, Desired, SandboxClaim, now

Containers: typing.TypeAlias = list[Container]

MOST_ACTS = 100
"""Acts that wait while the agent of their host is away; each is stored with the container."""

_COLUMNS = tuple(Container.__table__.columns.keys())

# The statements of every container's start, made once: to put them together anew each time
# would take longer than to carry them out.
_CONTAINER_TABLE = typing.cast(sa.Table, Container.__table__)
_ACTION_TABLE = typing.cast(sa.Table, Action.__table__)
_CONTAINERS, _ACTIONS = _CONTAINER_TABLE.c, _ACTION_TABLE.c

_OWNERS = (
    sa.select(_CONTAINERS.desired, _CONTAINERS.name)
    .where(_CONTAINERS.sandbox_id == sa.bindparam('sandbox'), _CONTAINERS.owns_sandbox)
    .with_for_update()
)

_CHANGE = sa.update(_CONTAINER_TABLE).where(
    _CONTAINERS.uuid == sa.bindparam('known_uuid'),
    _CONTAINERS.generation == sa.bindparam('known_generation'),
    _CONTAINERS.host.is_not_distinct_from(sa.bindparam('known_host')),
)

_END_ACTIONS = sa.update(_ACTION_TABLE).where(
    _ACTIONS.container_uuid == sa.bindparam('container'),
    _ACTIONS.finish_time.is_(None),
    _ACTIONS.generation <= sa.bindparam('last'),
)


def get(session: Session, uuid: str, *, lock: bool = False) -> Container | None:
    """Return the container with this uuid, or None; locked until the transaction ends."""
    query = sa.select(Container).where(Container.uuid == uuid)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def others_in_sandbox(session: Session, container: Container, *, lock: bool = False) -> Containers:
    """Return the other containers that live in the sandbox, and are to stay.

    :param lock: no request for one of them comes before the transaction ends
    """
    query = sa.select(Container).where(
        Container.sandbox_id == container.sandbox_id,
        Container.id != container.id,
        Container.desired != Desired.DELETED,
    )
    query = query.order_by(Container.id)
    return list(session.scalars(query.with_for_update() if lock else query))


def check_alone(session: Session, container: Container) -> None:
    """Refuse to let a sandbox go with its container while others live there.

    :raises errors.SandboxConflict: they do
    """
    # The sandbox that was passed on by another is passed on again instead.
    if not container.owns_sandbox or container.uuid != container.sandbox_id:
        return
    if others := others_in_sandbox(session, container):
        names = ', '.join(f'{other.name} ({other.uuid})' for other in others)
        raise errors.SandboxConflict(
            f'The sandbox of container {container.uuid} would go with it, '
            f'and others live there: {names}.'
        )


def join(session: Session, container: Container) -> None:
    """Let a container into its sandbox, unless that is about to go.

    It goes with the container that owns it, by whatever way that came to it, if nobody else
    stays there. The owner's row is locked, as the request for its deletion and the last look
    for others lock it: either they see the new container, or that sees the request.

    :raises errors.SandboxConflict: it is about to go
    """
    owners = session.connection().execute(_OWNERS, {'sandbox': container.sandbox_id})
    for desired, name in owners:
        if desired == Desired.DELETED and not others_in_sandbox(session, container):
            raise errors.SandboxConflict(
                f'Sandbox {container.sandbox_id} takes no container: it is being deleted '
                f'with container {name}.'
            )
    claimed = sa.select(SandboxClaim.host).where(
        SandboxClaim.sandbox_id == container.sandbox_id,
        SandboxClaim.project_id == container.project_id,
    )
    container.host = claimed.scalar_subquery()  # the INSERT looks it up


def assign(container: Container, values: dict[str, typing.Any]) -> None:
    """Set columns; one that stays what it was costs no UPDATE."""
    for name, value in values.items():
        if name not in Container.__table__.columns:
            raise ValueError(f'a container has no column {name!r}')
        if getattr(container, name) != value:
            setattr(container, name, value)


def add_act(container: Container, act: dict[str, typing.Any] | None, *, instead: bool) -> None:
    """Begin the container's next generation, with what is to be done for it.

    :param instead: of what was to be done before
    :raises errors.Conflict: that is too much already
    """
    acts = [] if instead else container.acts
    container.generation += 1
    if act is not None:
        if len(acts) >= MOST_ACTS:
            raise errors.Conflict(
                f'{len(acts)} requests for container {container.uuid} wait for their turn.'
            )
        acts = [*acts, {**act, 'generation': container.generation}]
    container.operation = acts or None


def finish(
    session: Session, container: Container, generation: int, message: str | None, only: str | None
) -> None:
    """Note that all requests up to this generation are carried out, or only those so named."""
    if only is None:
        if container.generation == generation:
            container.task_state = None
        container.observed_generation = max(generation, container.observed_generation)
    left = [
        act
        for act in container.acts
        if act['generation'] > generation or only not in (None, act['op'])
    ]
    container.operation = left or None
    end_actions(session, container.uuid, generation, message, only)


def change(
    session: Session, known: Container, values: dict[str, typing.Any], *, done: bool
) -> Container | None:
    """Set columns of a container that has no later request or other host than `known`.

    :param done: all that was asked for by then is carried out
    :returns: the container as it is then; None, and nothing is done, where that is
        not so, or there is no such container any more
    """
    values = {'updated_at': now(), **values}
    if done:
        values |= {
            'observed_generation': known.generation, 'task_state': None, 'operation': None
        }  # fmt: skip
    which = {
        'known_uuid': known.uuid, 'known_generation': known.generation, 'known_host': known.host
    }  # fmt: skip
    if not rows(session.connection().execute(_CHANGE, values | which)):
        return None
    return Container(**{name: getattr(known, name) for name in _COLUMNS} | values)


def end_actions(
    session: Session,
    uuid: str,
    generation: int,
    message: str | None,
    only: str | None = None,
) -> None:
    """End the actions up to this generation, unless they have ended.

    :param only: the name of those that end, where not all do
    """
    which = {'container': uuid, 'last': generation}
    ending = _END_ACTIONS if only is None else _END_ACTIONS.where(_ACTIONS.action == only)
    session.connection().execute(ending, {**which, 'finish_time': now(), 'message': message})


def end_all_actions(session: Session, uuid: str) -> None:
    """End the actions on a container that goes, those too that had ended: they age from now on."""
    actions = sa.update(Action).where(Action.container_uuid == uuid)
    session.execute(actions.values(finish_time=now()))


def rows(outcome: sa.Result[typing.Any]) -> int:
    """Return how many rows an UPDATE or DELETE found."""
    return typing.cast(sa.CursorResult[typing.Any], outcome).rowcount
