"""What tests read back: the events of a data folder's spool, and the rows of a journal made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sqlalchemy import text

from agent_shim import spool
from telemetry import deliverer
from telemetry.journal import Journal
from telemetry.settings import Settings


def bodies(home: Path) -> list[bytes]:
    """Every event body in the data folder's spool, file by file."""
    files = sorted((home / "spool").glob("*/*.log"))
    return [line.body for file in files for line in spool.read(file) if line.body is not None]


def events(home: Path, name: str | None = None) -> list[dict[str, Any]]:
    """The events in stored form, all of them or those of one name."""
    found = [json.loads(body) for body in bodies(home)]
    return [event for event in found if name in (None, event["name"])]


def deliver(home: Path) -> None:
    """Bring the spool to the journal as a reading command does, the producers that are gone sealed."""
    environ = {"AGENT_TELEMETRY_HOME": str(home)}
    deliverer.deliver(Settings.load(environ), environ, follow=False)


def rows(home: Path, table: str, order: str = "1, 2") -> list[dict[str, Any]]:
    """The rows of one journal table, after the spool was taken into the journal of the data folder."""
    with Journal.open(home / "journal.db") as journal:
        journal.ingest(bodies(home), "spool")
    return read(home / "journal.db", table, order)


def read(place: Path, table: str, order: str = "1, 2") -> list[dict[str, Any]]:
    """The rows of one table of a journal."""
    with Journal.open(place) as journal, journal.engine.connect() as connection:
        found = connection.execute(text(f"select * from {table} order by {order}"))
        return [dict(row._mapping) for row in found]
