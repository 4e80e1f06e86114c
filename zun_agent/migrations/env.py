"""What Alembic runs: on the agent's own connection, or on the url of alembic.ini."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from zun_agent import models


def _run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=models.Base.metadata,
        # The agent's connection is in a transaction already, which is its to commit.
        transactional_ddl=False,
    )
    context.run_migrations()


def _main() -> None:
    given = context.config.attributes.get('connection')
    if given is not None:
        _run(given)
        return
    url = context.config.get_main_option('sqlalchemy.url')
    with sa.create_engine(url).begin() as connection:
        _run(connection)


_main()
