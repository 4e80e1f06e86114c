"""The schema of the store, step by step (Alembic)."""

from __future__ import annotations

import pathlib

import sqlalchemy as sa
from alembic import command
from alembic.config import Config


def upgrade(connection: sa.Connection, revision: str = 'head') -> None:
    """Bring the schema behind `connection` up to a revision, in its transaction."""
    configuration = Config()
    configuration.set_main_option('script_location', str(pathlib.Path(__file__).parent))
    configuration.attributes['connection'] = connection
    command.upgrade(configuration, revision)
