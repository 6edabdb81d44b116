"""Attempts, claims, results and judgements."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("run", sa.Column("claimed_success", sa.Boolean(), nullable=True))
    op.add_column("run", sa.Column("attempt_provisional", sa.Boolean(), nullable=True))
    op.add_column("run", sa.Column("verdict", sa.String(), nullable=True))
    op.add_column("run", sa.Column("verdict_policy", sa.String(), nullable=True))
    op.add_column("run", sa.Column("verdict_reason", sa.String(), nullable=True))
    op.create_table(
        "verdict",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("policy_sha256", sa.String(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("empty_cause", sa.String(), nullable=True),
        sa.Column("events_seen", sa.BigInteger(), nullable=True),
        sa.Column("judged_at", sa.String(), nullable=True),
        sa.Column("event_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "policy"),
    )
    op.create_table(
        "check",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=True),
        sa.Column("need", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("events", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "policy", "name"),
    )
    op.create_table(
        "claim",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=True),
        sa.Column("source", sa.String(), nullable=True),
        sa.Column("place", sa.String(), nullable=True),
        sa.Column("made_at", sa.String(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("transmitted", sa.String(), nullable=True),
        sa.Column("observed", sa.String(), nullable=True),
        sa.Column("events", sa.String(), nullable=True),
        sa.Column("checked_at", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "name"),
    )
    op.create_table(
        "result",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("unit", sa.String(), nullable=True),
        sa.Column("attached_at", sa.String(), nullable=True),
        sa.Column("event_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "name", "source"),
    )
