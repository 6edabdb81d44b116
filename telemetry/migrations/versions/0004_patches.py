"""What a run left behind: its patch, and the agent's own trajectory."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "patch",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("worktree", sa.String(), nullable=True),
        sa.Column("base_commit", sa.String(), nullable=True),
        sa.Column("base_branch", sa.String(), nullable=True),
        sa.Column("base_tree", sa.String(), nullable=True),
        sa.Column("end_commit", sa.String(), nullable=True),
        sa.Column("end_branch", sa.String(), nullable=True),
        sa.Column("end_tree", sa.String(), nullable=True),
        sa.Column("modified_at_start", sa.BigInteger(), nullable=True),
        sa.Column("deleted_at_start", sa.BigInteger(), nullable=True),
        sa.Column("untracked_at_start", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("file_count", sa.BigInteger(), nullable=True),
        sa.Column("added", sa.BigInteger(), nullable=True),
        sa.Column("removed", sa.BigInteger(), nullable=True),
        sa.Column("files", sa.String(), nullable=True),
        sa.Column("parsed_with", sa.String(), nullable=True),
        sa.Column("applies", sa.Boolean(), nullable=True),
        sa.Column("applies_reason", sa.String(), nullable=True),
        sa.Column("applies_to_commit", sa.Boolean(), nullable=True),
        sa.Column("excess", sa.String(), nullable=True),
        sa.Column("excess_count", sa.BigInteger(), nullable=True),
        sa.Column("left_out", sa.String(), nullable=True),
        sa.Column("left_out_count", sa.BigInteger(), nullable=True),
        sa.Column("commits", sa.String(), nullable=True),
        sa.Column("commit_count", sa.BigInteger(), nullable=True),
        sa.Column("plain_diff_bytes", sa.BigInteger(), nullable=True),
        sa.Column("agent_patches", sa.String(), nullable=True),
        sa.Column("text", sa.String(), nullable=True),
        sa.Column("text_exact", sa.Boolean(), nullable=True),
        sa.Column("text_reason", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("run_id"),
    )
    op.create_table(
        "trajectory",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("written", sa.Boolean(), nullable=True),
        sa.Column("valid_json", sa.Boolean(), nullable=True),
        sa.Column("success", sa.Boolean(), nullable=True),
        sa.Column("final_result", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("errors", sa.BigInteger(), nullable=True),
        sa.Column("steps", sa.BigInteger(), nullable=True),
        sa.Column("max_steps", sa.BigInteger(), nullable=True),
        sa.Column("interactions", sa.BigInteger(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("provider", sa.String(), nullable=True),
        sa.Column("model", sa.String(), nullable=True),
        sa.Column("start_time", sa.String(), nullable=True),
        sa.Column("end_time", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("run_id"),
    )
