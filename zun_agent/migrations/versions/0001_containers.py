"""Containers, their actions, the sandboxes' claims, and the agents.

Revision: 0001, the first
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), 'mysql', 'mariadb')

# Names are compared byte by byte: `Web` and `web` are two containers.
OPTIONS: dict[str, Any] = {
    'mysql_engine': 'InnoDB',
    'mysql_charset': 'utf8mb4',
    'mysql_collate': 'utf8mb4_bin',
    'mariadb_engine': 'InnoDB',
    'mariadb_charset': 'utf8mb4',
    'mariadb_collate': 'utf8mb4_bin',
}


def upgrade() -> None:
    """Create the tables."""
    _create_containers()
    _create_actions()
    _create_services()


def _create_containers() -> None:
    op.create_table(
        'containers',
        sa.Column('id', sa.Integer, primary_key=True, autoincrement=True),
        sa.Column('uuid', sa.String(36), nullable=False, unique=True),
        sa.Column('intent_id', sa.String(36), unique=True),
        sa.Column('project_id', sa.String(255), nullable=False),
        sa.Column('user_id', sa.String(255), nullable=False),
        sa.Column('created_at', TIME, nullable=False),
        sa.Column('updated_at', TIME),
        *_specification(),
        sa.Column('sandbox_id', sa.String(36)),
        sa.Column('owns_sandbox', sa.Boolean, nullable=False),
        sa.Column('desired', sa.String(16), nullable=False),
        sa.Column('operation', sa.JSON),
        sa.Column('stop_timeout', sa.Integer),
        sa.Column('generation', sa.Integer, nullable=False),
        sa.Column('observed_generation', sa.Integer, nullable=False),
        *_facts(),
        **OPTIONS,
    )
    op.create_index('ix_containers_project', 'containers', ['project_id', 'id'])
    op.create_index('ix_containers_sandbox', 'containers', ['sandbox_id'])
    op.create_index('ix_containers_name', 'containers', ['name'])
    op.create_index('ix_containers_host', 'containers', ['host'])


def _specification() -> list[sa.Column[object]]:
    """Return the columns with what the user asked for."""
    return [
        sa.Column('name', sa.String(255), nullable=False),
        sa.Column('image', sa.String(255), nullable=False),
        sa.Column('image_driver', sa.String(255), nullable=False),
        sa.Column('image_ref', sa.String(255)),
        sa.Column('image_pull_policy', sa.String(16), nullable=False),
        sa.Column('command', sa.JSON),
        sa.Column('entrypoint', sa.JSON),
        sa.Column('environment', sa.JSON, nullable=False),
        sa.Column('workdir', sa.String(4096)),
        sa.Column('labels', sa.JSON, nullable=False),
        sa.Column('hints', sa.JSON, nullable=False),
        sa.Column('hostname', sa.String(255)),
        sa.Column('cpu', sa.Float),
        sa.Column('cpu_policy', sa.String(16)),
        sa.Column('memory', sa.Integer),
        sa.Column('disk', sa.Integer),
        sa.Column('ports', sa.JSON, nullable=False),
        sa.Column('security_groups', sa.JSON, nullable=False),
        sa.Column('nets', sa.JSON, nullable=False),
        sa.Column('availability_zone', sa.String(255)),
        sa.Column('interactive', sa.Boolean, nullable=False),
        sa.Column('tty', sa.Boolean, nullable=False),
        sa.Column('auto_remove', sa.Boolean, nullable=False),
        sa.Column('auto_heal', sa.Boolean, nullable=False),
        sa.Column('restart_policy', sa.JSON, nullable=False),
        sa.Column('healthcheck', sa.JSON),
    ]


def _facts() -> list[sa.Column[object]]:
    """Return the columns with what the reconciler saw."""
    return [
        sa.Column('host', sa.String(255)),
        sa.Column('incarnation', sa.String(36)),
        sa.Column('docker_id', sa.String(64)),
        sa.Column('interrupted', sa.Boolean, nullable=False),
        sa.Column('status', sa.String(16), nullable=False),
        sa.Column('status_reason', sa.Text),
        sa.Column('task_state', sa.String(32)),
        sa.Column('exit_code', sa.Integer),
        sa.Column('started_at', TIME),
        sa.Column('finished_at', TIME),
        sa.Column('restart_count', sa.Integer, nullable=False),
        sa.Column('addresses', sa.JSON, nullable=False),
    ]


def _create_actions() -> None:
    op.create_table(
        'container_actions',
        sa.Column('id', sa.Integer, primary_key=True, autoincrement=True),
        sa.Column('container_uuid', sa.String(36), nullable=False),
        sa.Column('action', sa.String(64), nullable=False),
        sa.Column('request_id', sa.String(64), nullable=False),
        sa.Column('user_id', sa.String(255), nullable=False),
        sa.Column('project_id', sa.String(255), nullable=False),
        sa.Column('generation', sa.Integer),
        sa.Column('start_time', TIME, nullable=False),
        sa.Column('finish_time', TIME),
        sa.Column('message', sa.Text),
        **OPTIONS,
    )
    op.create_index('ix_actions_container', 'container_actions', ['container_uuid', 'id'])
    op.create_table(
        'container_action_events',
        sa.Column('id', sa.Integer, primary_key=True, autoincrement=True),
        sa.Column(
            'action_id',
            sa.Integer,
            sa.ForeignKey('container_actions.id', ondelete='CASCADE'),
            nullable=False,
        ),
        sa.Column('event', sa.String(64), nullable=False),
        sa.Column('start_time', TIME, nullable=False),
        sa.Column('finish_time', TIME),
        sa.Column('result', sa.String(16)),
        sa.Column('traceback', sa.Text),
        **OPTIONS,
    )
    op.create_index(
        'ix_container_action_events_action_id', 'container_action_events', ['action_id']
    )


def _create_services() -> None:
    op.create_table(
        'sandbox_claims',
        sa.Column('sandbox_id', sa.String(36), primary_key=True),
        sa.Column('project_id', sa.String(255), nullable=False),
        sa.Column('host', sa.String(255), nullable=False),
        sa.Column('incarnation', sa.String(36), nullable=False),
        sa.Column('claimed_at', TIME, nullable=False),
        **OPTIONS,
    )
    op.create_index('ix_sandbox_claims_host', 'sandbox_claims', ['host'])
    op.create_table(
        'services',
        sa.Column('id', sa.Integer, primary_key=True, autoincrement=True),
        sa.Column('uuid', sa.String(36), nullable=False, unique=True),
        sa.Column('host', sa.String(255), nullable=False),
        sa.Column('binary', sa.String(255), nullable=False),
        sa.Column('endpoint', sa.String(255), nullable=False),
        sa.Column('availability_zone', sa.String(255)),
        sa.Column('disabled', sa.Boolean, nullable=False),
        sa.Column('disabled_reason', sa.String(255)),
        sa.Column('forced_down', sa.Boolean, nullable=False),
        sa.Column('report_count', sa.Integer, nullable=False),
        sa.Column('last_seen_up', TIME),
        sa.Column('facts', sa.JSON, nullable=False),
        sa.Column('created_at', TIME, nullable=False),
        sa.Column('updated_at', TIME),
        sa.UniqueConstraint('host', 'binary'),
        **OPTIONS,
    )
