"""The records of containers and their actions, with those of `registry`.

What comes out of the store is detached: plain values that stay what they were. Each
method is one transaction. A database that does not answer is an
`errors.ServiceUnavailable` from any of them.
"""

from __future__ import annotations

import datetime
import typing
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from zun_agent import errors, listing, records
from zun_agent.database import Database
from zun_agent.models import Action, Container, Desired, Status, now
from zun_agent.records import Containers
from zun_agent.registry import Registry

WANTED_FIELDS = frozenset(
    {'desired', 'operation', 'stop_timeout', 'generation', 'observed_generation'}
)
"""Fields of a container that say what the user wants: `Store.observe` never sets them."""

_AT_ONCE = 1000
"""Rows that one transaction deletes at most, so that requests do not wait for it."""


class Store(Registry):
    """All that the agents remember."""

    def __init__(self, url: str) -> None:
        """Use the database at the SQLAlchemy `url`; nothing is connected to yet."""
        super().__init__(Database(url))

    def migrate(self) -> None:
        """Bring the database's schema up to date; safe against other agents doing so."""
        # Imported here: it is big, and needed once.
        from zun_agent import migrations

        with self._database.migration() as connection:
            migrations.upgrade(connection)

    def close(self) -> None:
        """Close the connections to the database."""
        self._database.close()

    # Containers

    def add_container(self, container: Container, action: Action | None = None) -> Container:
        """Store a new container, and the action that asked for it, under its generation.

        One that joins a sandbox which a host has claimed is that host's from the start.

        :raises errors.SandboxConflict: the container that owns the sandbox is being
            deleted, and the sandbox with it
        """

        def work(session: Session) -> Container:
            if container.sandbox_id is not None:
                records.join(session, container)
            container.generation = 1
            session.add(container)
            if action is not None:
                action.container_uuid, action.generation = container.uuid, 1
                session.add(action)
            session.flush()
            if 'host' in sa.inspect(container).unloaded:  # a database without RETURNING
                session.refresh(container, ['host'])
            return container

        try:
            return self._database.write(work)
        except IntegrityError:
            # The connection was lost over the commit that came to be after all.
            stored = self.container(container.uuid)
            if stored is None:
                raise
            return stored

    def container(self, uuid: str) -> Container | None:
        """Return the container, or None."""
        return self._database.read(lambda session: records.get(session, uuid))

    def find(self, project_id: str | None, ident: str) -> Containers:
        """Return the containers with that uuid or, if there is none, of that name.

        :param project_id: None looks in every project
        """

        def work(session: Session) -> Containers:
            query = sa.select(Container).where(
                sa.or_(Container.uuid == ident, Container.name == ident)
            )
            if project_id is not None:
                query = query.where(Container.project_id == project_id)
            found = list(session.scalars(query.order_by(Container.id)))
            return [c for c in found if c.uuid == ident] or [c for c in found if c.name == ident]

        return self._database.read(work)

    def page(
        self,
        project_id: str | None,
        *,
        filters: dict[str, typing.Any] | None = None,
        limit: int | None = None,
        marker: str | None = None,
        sort_key: str = 'id',
        sort_dir: str = 'asc',
    ) -> Containers:
        """Return a page of the containers that fit `filters`.

        :param project_id: None lists those of every project
        :param marker: uuid of the last container of the page before
        :raises errors.Invalid: unknown marker, filter or sort key
        """
        return self._database.read(
            lambda session: listing.page(
                session,
                project_id,
                filters=filters or {},
                limit=limit,
                marker=marker,
                sort_key=sort_key,
                sort_dir=sort_dir,
            )
        )

    def containers_on(self, host: str) -> Containers:
        """Return the containers in sandboxes that this host claimed."""
        return self._select(Container.host == host)

    def containers_in(self, sandbox_id: str) -> Containers:
        """Return the containers of one sandbox."""
        return self._select(Container.sandbox_id == sandbox_id)

    def containers_unclaimed(self) -> Containers:
        """Return the containers in sandboxes that no host has claimed yet."""
        return self._select(Container.host.is_(None), Container.sandbox_id.is_not(None))

    def _select(self, *conditions: sa.ColumnElement[bool]) -> Containers:
        query = sa.select(Container).where(*conditions).order_by(Container.id)
        return self._database.read(lambda session: list(session.scalars(query)))

    def request(
        self,
        uuid: str,
        *,
        action: Action,
        check: Callable[[Container], None] | None = None,
        alone: bool = False,
        act: dict[str, typing.Any] | None = None,
        instead: bool = False,
        **changes: typing.Any,
    ) -> Container:
        """Record what a user wants of a container, as its next generation.

        :param action: is stored with it, under that generation
        :param check: is given the container as it is under lock, and raises what
            refuses the request; nothing is stored then
        :param alone: refuse while others live in the sandbox that was made for it
        :param act: to be done after those that are not done yet; see `Container.acts`
        :param instead: it comes in their place: what they do makes no difference any more
        :param changes: new values of the container's columns
        :raises errors.ContainerNotFound: there is none with this uuid
        :raises errors.SandboxConflict: others live in the sandbox
        :raises errors.Conflict: too much is not done yet
        """

        def work(session: Session) -> Container:
            container = records.get(session, uuid, lock=True)
            if container is None:
                raise errors.ContainerNotFound(f'Container {uuid} could not be found.')
            if check is not None:
                check(container)
            if alone:
                records.check_alone(session, container)
            records.add_act(container, act, instead=instead)
            records.assign(container, changes)
            action.container_uuid = container.uuid
            action.generation = container.generation
            session.add(action)
            return container

        return self._database.write(work)

    def observe(
        self,
        uuid: str,
        *,
        known: Container | None = None,
        expected_generation: int | None = None,
        done_generation: int | None = None,
        only: str | None = None,
        message: str | None = None,
        **facts: typing.Any,
    ) -> Container | None:
        """Record what the reconciler saw of a container, or did.

        :param known: its record as the caller knows it, which is not read again as long as no
            request came since; nothing is written when another host has claimed it since
        :param expected_generation: nothing is written when a request came since
        :param done_generation: all requests up to this one are carried out: their actions
            end, and what they left in ``task_state`` and ``operation`` is cleared
        :param only: the name of the actions among these that are carried out; no other is
        :param message: of the actions that end: None when well, else what went wrong
        :param facts: new values of columns; those that say what is wanted are not allowed
        :returns: the container as it is then, or None where nothing was written
        """
        if wanted := WANTED_FIELDS & facts.keys():
            raise ValueError(f'not facts: {sorted(wanted)}')

        def work(session: Session) -> Container | None:
            if known is not None and not only and done_generation in (None, known.generation):
                done = done_generation is not None
                changed = records.change(session, known, facts, done=done)
                if changed is not None:
                    if done_generation is not None:
                        records.end_actions(session, uuid, done_generation, message)
                    return changed
            container = records.get(session, uuid, lock=True)
            if container is None or expected_generation not in (None, container.generation):
                return None
            if known is not None and known.host not in (None, container.host):
                return None
            records.assign(container, facts)
            if done_generation is not None:
                records.finish(session, container, done_generation, message, only)
            return container

        return self._database.write(work)

    def remove_container(self, uuid: str) -> None:
        """End a container's record; its actions are kept, and end now. One that is gone is fine."""

        def work(session: Session) -> None:
            session.execute(sa.delete(Container).where(Container.uuid == uuid))
            records.end_all_actions(session, uuid)

        self._database.write(work)

    def forget_actions(self, before: datetime.datetime) -> None:
        """Delete the actions on containers that had gone by then; see `remove_container`."""
        gone = (
            sa.select(Action.id)
            .where(sa.func.coalesce(Action.finish_time, Action.start_time) < before)
            .where(~sa.exists().where(Container.uuid == Action.container_uuid))
            .limit(_AT_ONCE)
        )

        def work(session: Session) -> int:
            found = session.scalars(gone).all()
            session.execute(sa.delete(Action).where(Action.id.in_(found)))
            return len(found)

        while self._database.write(work) == _AT_ONCE:
            pass

    def pass_on_sandbox(self, uuid: str) -> bool:
        """Let another container have the sandbox that goes with this one, if one lives there.

        The sandbox of a container that removes itself stays until the last has gone.

        :returns: whether another has it now, so that it must not be deleted
        """

        def work(session: Session) -> bool:
            container = records.get(session, uuid, lock=True)
            if container is None or not container.owns_sandbox:
                return True
            # One that a request ends meanwhile would end without its sandbox.
            others = records.others_in_sandbox(session, container, lock=True)
            if not others:
                return False
            container.owns_sandbox, others[0].owns_sandbox = False, True
            return True

        return self._database.write(work)

    def pending_on(self, host: str) -> Containers:
        """Return this host's containers with requests that are not carried out yet."""
        return self._select(
            Container.host == host, Container.generation > Container.observed_generation
        )

    # Intents: containers for which Nova was asked for a sandbox, and did not answer yet

    def intents(self, older_than: float) -> Containers:
        """Return the intents that are older than this many seconds."""
        before = now() - datetime.timedelta(seconds=older_than)
        return self._select(
            Container.sandbox_id.is_(None),
            Container.intent_id.is_not(None),
            Container.created_at < before,
        )

    def intents_taken(self, host: str, before: datetime.datetime) -> Containers:
        """Return the intents that this host's agent took in before that moment."""
        return self._select(
            Container.sandbox_id.is_(None),
            Container.taken_by == host,
            Container.created_at < before,
        )

    def bind_intent(
        self, intent_id: str, server_id: str, action: Action | None = None
    ) -> Container:
        """Give an intent its sandbox: from now on its uuid is the server's.

        :param action: that made it, stored with it
        :raises errors.ContainerNotFound: the intent was given up meanwhile
        """

        def work(session: Session) -> Container:
            query = sa.select(Container).where(Container.intent_id == intent_id)
            container = session.scalars(query.with_for_update()).one_or_none()
            if container is None:
                raise errors.ContainerNotFound(f'Container {intent_id} was given up meanwhile.')
            session.execute(
                sa.update(Action)
                .where(Action.container_uuid == container.uuid)
                .values(container_uuid=server_id)
            )
            container.uuid = container.sandbox_id = server_id
            container.owns_sandbox = True
            if action is not None:
                action.container_uuid = server_id
                action.generation = 1
                session.add(action)
            return container

        return self._database.write(work)

    def give_up_intent(self, intent_id: str) -> bool:
        """Mark an intent, so that a late answer of Nova's finds it to be deleted.

        :returns: whether it is still without a sandbox
        """

        def work(session: Session) -> bool:
            outcome = session.execute(
                sa.update(Container)
                .where(Container.intent_id == intent_id, Container.sandbox_id.is_(None))
                .values(desired=Desired.DELETED, status=Status.DELETING)
            )
            return records.rows(outcome) == 1

        return self._database.write(work)

    def remove_intent(self, intent_id: str) -> bool:
        """End the record of an intent, unless it has got its sandbox meanwhile.

        :returns: whether it was ended
        """

        def work(session: Session) -> bool:
            outcome = session.execute(
                sa.delete(Container).where(
                    Container.intent_id == intent_id, Container.sandbox_id.is_(None)
                )
            )
            if ended := records.rows(outcome) == 1:
                records.end_all_actions(session, intent_id)
            return ended

        return self._database.write(work)

    # Actions

    def actions(self, container_uuid: str) -> list[Action]:
        """Return the actions on a container, the newest first."""
        query = (
            sa.select(Action)
            .where(Action.container_uuid == container_uuid)
            .order_by(Action.id.desc())
        )
        return self._database.read(lambda session: list(session.scalars(query)))

    def action(self, container_uuid: str, request_id: str) -> Action | None:
        """Return the container's action of that request, or None."""
        query = (
            sa.select(Action)
            .where(Action.container_uuid == container_uuid, Action.request_id == request_id)
            .order_by(Action.id)
        )
        return self._database.read(lambda session: session.scalars(query).first())

    def action_of(self, container_uuid: str, generation: int) -> Action | None:
        """Return the action that asked for this generation of the container, or None."""
        query = sa.select(Action).where(
            Action.container_uuid == container_uuid, Action.generation == generation
        )
        return self._database.read(lambda session: session.scalars(query).first())
