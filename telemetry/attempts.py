"""Attempt numbers: which try at a commit a run is, reserved before its agent starts.

Promises, each with its test in ``tests/test_attempts.py``:

* Of runs that reserve at the same time, in whatever processes and on whatever machines, no two get the
  same number for the same repository, commit, agent and model; the numbers have no gaps.
* A run that asks again gets the number it has.
* Runs that were recorded with a number of their own count too, and a short commit id counts with the full
  one that it begins.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, and_, func, insert, or_, select, text
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import SQLModel

from agent_shim.errors import SettingsError
from telemetry import database
from telemetry.journal import Journal
from telemetry.settings import is_remote

from . import tables  # noqa: F401  (its import fills the metadata)

_RUN_ID = re.compile(r"[0-9a-f]{32}\Z")
_HEX = re.compile(r"[0-9a-f]{4,64}\Z")
"""What may be a commit id; git itself takes no shorter prefix."""
MAX_TEXT = 4096
"""Characters of a name in a key."""

_ATTEMPT = SQLModel.metadata.tables["attempt"]
_RUN = SQLModel.metadata.tables["run"]


class Key(NamedTuple):
    """What attempts are counted by. What is not known is empty, and counts as a name of its own."""

    repository: str
    commit: str
    agent: str
    model: str


def reserve(
    journal: Journal | str | Path,
    run_id: str,
    repository: str | None,
    commit: str | None,
    agent: str | None,
    model: str | None,
    *,
    environ: Mapping[str, str] | None = None,
) -> int:
    """The number of the attempt that run `run_id` is, from 1; the same whenever it is asked for.

    `journal` is a path, a database URL, or the URL of a sink, whose token is then taken from `environ`.
    Raises `SettingsError` for a run id or a name that cannot be used, and `JournalUnreachable`.
    """
    run, key = _checked(run_id, repository, commit, agent, model)
    if isinstance(journal, Journal):
        return _reserve(journal, run, key)
    if is_remote(str(journal)):
        from telemetry.remote import RemoteJournal  # 5 MB that the sink does without

        with RemoteJournal(str(journal), environ or {}) as remote:
            return remote.reserve(run_id, repository, commit, agent, model)
    with Journal.open(journal) as opened:
        return _reserve(opened, run, key)


def reserve_asked(journal: Journal, asked: Mapping[str, object]) -> int:
    """`reserve` for the words of a question, whatever they are: ``run`` and the fields of `Key`."""
    return _reserve(journal, *_checked(asked.get("run"), *(asked.get(name) for name in Key._fields)))


def held(journal: Journal, run_id: str) -> int | None:
    """The number that a run has reserved."""
    with database.reachable(journal.engine), journal.engine.connect() as connection:
        return connection.scalar(select(_ATTEMPT.c.number).where(_ATTEMPT.c.run_id == run_id))


def _checked(run_id: object, *names: object) -> tuple[str, Key]:
    if not (isinstance(run_id, str) and _RUN_ID.match(run_id)):
        raise SettingsError("A run id is 32 hexadecimal digits.")
    return run_id, Key(*map(_name, names))


def _name(given: object) -> str:
    name = "" if given is None else given
    if not isinstance(name, str) or len(name) > MAX_TEXT or "\0" in name:
        raise SettingsError(f"Repository, commit, agent and model are texts of up to {MAX_TEXT} characters.")
    return name


def _reserve(journal: Journal, run_id: str, key: Key) -> int:
    with database.reachable(journal.engine), database.writing(journal.engine) as connection:
        _lock(connection, run_id)
        _lock(connection, key.repository)
        held = connection.scalar(select(_ATTEMPT.c.number).where(_ATTEMPT.c.run_id == run_id))
        if held is not None:
            return int(held)
        number = 1 + max(_highest(connection, key), _recorded(connection, run_id, key))
        connection.execute(insert(_ATTEMPT).values(run_id=run_id, number=number, **key._asdict()))
        return number


def _lock(connection: Connection, name: str) -> None:
    """Until the end: nobody else reserves for this. SQLite has one writer at a time anyway."""
    if connection.dialect.name == "postgresql":
        key = int.from_bytes(hashlib.sha256(f"attempt {name}".encode()).digest()[:8], "big", signed=True)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def _highest(connection: Connection, key: Key) -> int:
    of = (getattr(_ATTEMPT.c, name) == getattr(key, name) for name in ("repository", "agent", "model"))
    query = select(func.max(_ATTEMPT.c.number)).where(*of, _same_commit(_ATTEMPT.c.commit, key.commit))
    return connection.scalar(query) or 0


def _recorded(connection: Connection, run_id: str, key: Key) -> int:
    """The highest number among recorded runs: some were given one by hand, or before there was a journal."""
    query = select(func.max(_RUN.c.attempt)).where(
        _RUN.c.run_id != run_id,
        func.coalesce(_RUN.c.repository, "") == key.repository,
        _same_commit(func.coalesce(_RUN.c.commit_given, ""), key.commit),
        func.coalesce(_RUN.c.agent, "") == key.agent,
        func.coalesce(_RUN.c.model_declared, "") == key.model,
    )
    return connection.scalar(query) or 0


def _same_commit(column: ColumnElement[str], commit: str) -> ColumnElement[bool]:
    """Equal, or one id is the beginning of the other."""
    if not _HEX.match(commit):
        return column == commit
    shorter = [commit[:length] for length in range(4, len(commit) + 1)]
    longer = and_(column > commit, column < commit + "g")  # behind every hexadecimal digit
    return or_(column.in_(shorter), longer)


def main() -> int:
    """Answer the question of `telemetry.numbers`, on standard input, by a number."""
    asked = json.load(sys.stdin)
    number = reserve(
        asked["journal"], asked["run"], *(name or None for name in asked["key"]), environ=os.environ
    )
    sys.stdout.write(f"{number}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
