"""Files that a run wrote and left as they were: why a patch is empty."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("patch", sa.Column("rewritten", sa.String(), nullable=True))
