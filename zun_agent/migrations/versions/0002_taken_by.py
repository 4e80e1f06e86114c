"""Which agent asks Nova for the sandbox of an intent.

Revision: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column('containers', sa.Column('taken_by', sa.String(255)))
