"""The steps of which the store's transactions on containers are made."""

from __future__ import annotations

import typing

import sqlalchemy as sa
from sqlalchemy.orm import Session

from zun_agent import errors
from zun_agent.models import Action, Container, Desired, SandboxClaim, now

Containers: typing.TypeAlias = list[Container]


def get(session: Session, uuid: str, *, lock: bool = False) -> Container | None:
    """Return the container with this uuid, or None; locked until the transaction ends."""
    query = sa.select(Container).where(Container.uuid == uuid)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def others_in_sandbox(session: Session, container: Container) -> Containers:
    """Return the other containers that live in the sandbox, and are to stay."""
    query = sa.select(Container).where(
        Container.sandbox_id == container.sandbox_id,
        Container.id != container.id,
        Container.desired != Desired.DELETED,
    )
    return list(session.scalars(query.order_by(Container.id)))


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

    The owner's row is locked, as the request for its deletion locks it: either that
    request sees the new container, or the new container sees that request.

    :raises errors.SandboxConflict: it is about to go
    """
    query = sa.select(Container).where(
        Container.sandbox_id == container.sandbox_id, Container.owns_sandbox
    )
    for owner in session.scalars(query.with_for_update()):
        if owner.desired == Desired.DELETED and owner.uuid == owner.sandbox_id:
            raise errors.SandboxConflict(
                f'Sandbox {container.sandbox_id} takes no container: it is being deleted '
                f'with container {owner.name}.'
            )
    claim = session.get(SandboxClaim, container.sandbox_id)
    if claim is not None and claim.project_id == container.project_id:
        container.host = claim.host


def assign(container: Container, values: dict[str, typing.Any]) -> None:
    """Set columns; one that stays what it was costs no UPDATE."""
    for name, value in values.items():
        if name not in Container.__table__.columns:
            raise ValueError(f'a container has no column {name!r}')
        if getattr(container, name) != value:
            setattr(container, name, value)


def finish(session: Session, container: Container, generation: int, message: str | None) -> None:
    """Note that all requests up to this generation are carried out."""
    if container.observed_generation < generation:
        container.observed_generation = generation
        end_actions(session, container.uuid, generation, message)
    if container.generation == generation:
        container.task_state = None
        container.operation = None


def end_actions(session: Session, uuid: str, generation: int | None, message: str | None) -> None:
    """End the actions up to this generation, or all of them, unless they have ended."""
    query = sa.update(Action).where(Action.container_uuid == uuid, Action.finish_time.is_(None))
    if generation is not None:
        query = query.where(Action.generation <= generation)
    session.execute(query.values(finish_time=now(), message=message))


def rows(outcome: sa.Result[typing.Any]) -> int:
    """Return how many rows an UPDATE or DELETE found."""
    return typing.cast(sa.CursorResult[typing.Any], outcome).rowcount
