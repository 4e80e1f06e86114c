"""The schema of the store, step by step (Alembic)."""

from __future__ import annotations

import pathlib

import sqlalchemy as sa
from alembic import command
from alembic.config import Config


def upgrade(connection: sa.Connection) -> None:
    """Bring the schema behind `connection` up to date, in its transaction."""
    configuration = Config()
    configuration.set_main_option('script_location', str(pathlib.Path(__file__).parent))
    configuration.attributes['connection'] = connection
    command.upgrade(configuration, 'head')
