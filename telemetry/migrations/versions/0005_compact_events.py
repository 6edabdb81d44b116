"""Events take less room: ids are written once, and what columns say is not said again in the text.

``event`` becomes a view with the columns that the table had.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_HEAD = (
    """'{"v":1,"run":"' || r.id || '","producer":"' || p.id || '","seq":' || e.seq"""
    """ || ',"name":"' || e.name || '","time":' || e.time_ns"""
)
_MOVE = f"""
INSERT INTO stored_event (producer, seq, run, name, time_ns, sha256, rest)
SELECT p.number, e.seq, r.number, e.name, e.time_ns, e.sha256,
       CASE WHEN substr(e.body, 1, length({_HEAD})) = {_HEAD}
            THEN substr(e.body, length({_HEAD}) + 1) ELSE e.body END
FROM event AS e JOIN identifier AS p ON p.id = e.producer JOIN identifier AS r ON r.id = e.run_id
"""
_VIEW = f"""
CREATE VIEW event AS
SELECT p.id AS producer, e.seq AS seq, r.id AS run_id, e.name AS name, e.time_ns AS time_ns,
       e.sha256 AS sha256,
       CASE WHEN substr(e.rest, 1, 1) = '{{' THEN e.rest ELSE {_HEAD} || e.rest END AS body
FROM stored_event AS e JOIN identifier AS p ON p.number = e.producer JOIN identifier AS r ON r.number = e.run
"""


def upgrade() -> None:
    op.create_table(
        "identifier",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("id", name="identifier_id"),
    )
    op.create_table(
        "stored_event",
        sa.Column("producer", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("rest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("producer", "seq"),
    )
    op.execute("INSERT INTO identifier (id) SELECT producer FROM event UNION SELECT run_id FROM event")
    op.execute(sa.text(_MOVE.replace(":", r"\:")))
    op.drop_table("event")
    op.create_index("stored_event_run", "stored_event", ["run"], unique=False)
    op.execute(sa.text(_VIEW.replace(":", r"\:")))
