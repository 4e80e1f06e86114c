"""Which run of a container its user had ended; and no more a table of events, which had none.

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, and drop the table."""
    time = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), 'mysql', 'mariadb')
    op.add_column('containers', sa.Column('killed_run', time))
    op.drop_table('container_action_events')
