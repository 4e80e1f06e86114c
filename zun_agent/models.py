"""What the agent stores: the tables, and the words for a container's state.

A container's row holds what the user wants (``desired``, ``operation``, under a
``generation``) and what the reconciler last saw (``status`` and the facts beside it).
"""

from __future__ import annotations

import datetime
import enum
import typing

from sqlalchemy import (
    JSON,
    FetchedValue,
    Float,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime


def now() -> datetime.datetime:
    """Return the time in UTC, without a zone, as the database keeps it."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


class Status(enum.StrEnum):
    """The status words of the Zun API; clients compare with these very strings."""

    CREATING = 'Creating'
    CREATED = 'Created'
    RUNNING = 'Running'
    STOPPED = 'Stopped'
    PAUSED = 'Paused'
    ERROR = 'Error'
    UNKNOWN = 'Unknown'
    DELETING = 'Deleting'
    DELETED = 'Deleted'
    DEAD = 'Dead'
    RESTARTING = 'Restarting'
    REBUILDING = 'Rebuilding'


class Desired(enum.StrEnum):
    """What the user wants a container to be."""

    CREATED = 'created'
    RUNNING = 'running'
    STOPPED = 'stopped'
    PAUSED = 'paused'
    DELETED = 'deleted'


# Microseconds: the order of two containers made in one second must be told.
Time = DateTime().with_variant(mysql.DATETIME(fsp=6), 'mysql', 'mariadb')

# None is NULL, so that SQL can ask for it, and not JSON's null.
Json = JSON(none_as_null=True)


class Base(DeclarativeBase):
    """Base of the tables."""

    type_annotation_map = {
        datetime.datetime: Time,
        dict[str, typing.Any]: Json,
        dict[str, str]: Json,
        list[str]: Json,
        list[int]: Json,
        list[dict[str, typing.Any]]: Json,
    }


class Container(Base):
    """One container, or the intent to make one.

    While Nova is asked for a new sandbox, the row stands under the intent's own uuid
    (`intent_id`), with `sandbox_id` None; Nova's answer gives it its uuid for good.

    :ivar uuid: in the API; the server's uuid where a sandbox was made for it
    :ivar taken_by: the host whose agent asks Nova for the sandbox; None where that is a front
        end, which comes and goes without it
    :ivar owns_sandbox: the sandbox was made for it, and goes with it
    :ivar cpu: cores; None asks for no limit of its own
    :ivar memory: MiB; None asks for no limit of its own
    :ivar operation: the requests that are acts, not states, and are not carried out yet, in
        their order: see `acts`
    :ivar generation: grows with each request
    :ivar observed_generation: the last that the reconciler carried out
    :ivar image_ref: what the image driver resolved `image` to when it was asked for: the
        same image, whatever its name means later; None where only the name counts
    :ivar incarnation: of the sandbox in which `docker_id` was made
    :ivar killed_run: when the run began in which a user sent it the signal that stops it:
        once that run has ended, no restart policy begins another
    :ivar interrupted: it ran when its sandbox stopped, and runs again when that starts
    :ivar addresses: as the API shows them
    """

    __tablename__ = 'containers'
    __table_args__ = (
        Index('ix_containers_project', 'project_id', 'id'),
        Index('ix_containers_sandbox', 'sandbox_id'),
        Index('ix_containers_name', 'name'),
        Index('ix_containers_host', 'host'),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    intent_id: Mapped[str | None] = mapped_column(String(36), unique=True)
    taken_by: Mapped[str | None] = mapped_column(String(255))
    project_id: Mapped[str] = mapped_column(String(255))
    user_id: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime.datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime.datetime | None] = mapped_column(onupdate=now)

    name: Mapped[str] = mapped_column(String(255))
    image: Mapped[str] = mapped_column(String(255))
    image_driver: Mapped[str] = mapped_column(String(255), default='docker')
    image_ref: Mapped[str | None] = mapped_column(String(255))
    image_pull_policy: Mapped[str] = mapped_column(String(16), default='ifnotpresent')
    command: Mapped[list[str] | None]
    entrypoint: Mapped[list[str] | None]
    environment: Mapped[dict[str, str]] = mapped_column(default=dict)
    workdir: Mapped[str | None] = mapped_column(String(4096))
    labels: Mapped[dict[str, str]] = mapped_column(default=dict)
    hints: Mapped[dict[str, typing.Any]] = mapped_column(default=dict)
    hostname: Mapped[str | None] = mapped_column(String(255))
    cpu: Mapped[float | None] = mapped_column(Float)
    cpu_policy: Mapped[str | None] = mapped_column(String(16))
    memory: Mapped[int | None] = mapped_column(Integer)
    disk: Mapped[int | None] = mapped_column(Integer)
    ports: Mapped[list[int]] = mapped_column(default=list)
    security_groups: Mapped[list[str]] = mapped_column(default=list)
    nets: Mapped[list[dict[str, typing.Any]]] = mapped_column(default=list)
    availability_zone: Mapped[str | None] = mapped_column(String(255))
    interactive: Mapped[bool] = mapped_column(default=False)
    tty: Mapped[bool] = mapped_column(default=False)
    auto_remove: Mapped[bool] = mapped_column(default=False)
    auto_heal: Mapped[bool] = mapped_column(default=False)
    restart_policy: Mapped[dict[str, typing.Any]] = mapped_column(default=dict)
    healthcheck: Mapped[dict[str, typing.Any] | None]

    sandbox_id: Mapped[str | None] = mapped_column(String(36))
    owns_sandbox: Mapped[bool] = mapped_column(default=False)

    desired: Mapped[str] = mapped_column(String(16), default=Desired.CREATED)
    operation: Mapped[list[dict[str, typing.Any]] | dict[str, typing.Any] | None] = mapped_column(
        Json
    )
    stop_timeout: Mapped[int | None] = mapped_column(Integer)
    generation: Mapped[int] = mapped_column(Integer, default=1)
    observed_generation: Mapped[int] = mapped_column(Integer, default=0)

    # The INSERT may look it up, and give it back with the id.
    host: Mapped[str | None] = mapped_column(String(255), server_default=FetchedValue())
    incarnation: Mapped[str | None] = mapped_column(String(36))
    docker_id: Mapped[str | None] = mapped_column(String(64))
    interrupted: Mapped[bool] = mapped_column(default=False)
    status: Mapped[str] = mapped_column(String(16), default=Status.CREATING)
    status_reason: Mapped[str | None] = mapped_column(Text)
    task_state: Mapped[str | None] = mapped_column(String(32))
    exit_code: Mapped[int | None] = mapped_column(Integer)
    started_at: Mapped[datetime.datetime | None]
    finished_at: Mapped[datetime.datetime | None]
    killed_run: Mapped[datetime.datetime | None]
    restart_count: Mapped[int] = mapped_column(Integer, default=0)
    addresses: Mapped[dict[str, typing.Any]] = mapped_column(default=dict)

    @property
    def acts(self) -> list[dict[str, typing.Any]]:
        """What is to be done before the desired state counts, the first thing first.

        ``{'op': 'restart', 'timeout': 10, 'generation': 3}``, of the third request, or
        ``{'op': 'kill', 'signal': 'HUP', 'generation': 4}``.
        """
        if isinstance(self.operation, dict):  # the only one, as the first release wrote it
            return [{**self.operation, 'generation': self.generation}]
        return self.operation or []


class Action(Base):
    """One request that changed a container, for ``container_actions``.

    It is kept after the container's end, as Nova keeps its instance actions.

    :ivar message: once it has ended: None when well, else what went wrong
    """

    __tablename__ = 'container_actions'
    __table_args__ = (Index('ix_actions_container', 'container_uuid', 'id'),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    container_uuid: Mapped[str] = mapped_column(String(36))
    action: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(64))
    user_id: Mapped[str] = mapped_column(String(255))
    project_id: Mapped[str] = mapped_column(String(255))
    generation: Mapped[int | None] = mapped_column(Integer)
    start_time: Mapped[datetime.datetime] = mapped_column(default=now)
    finish_time: Mapped[datetime.datetime | None]
    message: Mapped[str | None] = mapped_column(Text)


class SandboxClaim(Base):
    """Which host has the containers of a sandbox, and in which incarnation of it."""

    __tablename__ = 'sandbox_claims'

    sandbox_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(255))
    host: Mapped[str] = mapped_column(String(255), index=True)
    incarnation: Mapped[str] = mapped_column(String(36))
    claimed_at: Mapped[datetime.datetime] = mapped_column(default=now)


class Service(Base):
    """One agent: where it is reached, when it last said that it lives, what its host has.

    :ivar facts: of the host, as ``GET /v1/hosts`` shows them
    """

    __tablename__ = 'services'
    __table_args__ = (UniqueConstraint('host', 'binary'),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    host: Mapped[str] = mapped_column(String(255))
    binary: Mapped[str] = mapped_column(String(255), default='zun-agent')
    endpoint: Mapped[str] = mapped_column(String(255))
    availability_zone: Mapped[str | None] = mapped_column(String(255))
    disabled: Mapped[bool] = mapped_column(default=False)
    disabled_reason: Mapped[str | None] = mapped_column(String(255))
    forced_down: Mapped[bool] = mapped_column(default=False)
    report_count: Mapped[int] = mapped_column(Integer, default=0)
    last_seen_up: Mapped[datetime.datetime | None]
    facts: Mapped[dict[str, typing.Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime.datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime.datetime | None] = mapped_column(onupdate=now)
