"""Writes the rows of the views, through statements compiled once from `telemetry.tables`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import ClauseElement, Connection, Table, and_, delete, select, update
from sqlmodel import SQLModel

from . import tables  # noqa: F401  (its import fills the metadata)
from .bulk import DIALECTS, Insert
from .projections import Changes
from .rows import COLUMNS

_HEX = frozenset("0123456789abcdef")
_FULL = (40, 64)
"""Length of a commit id by SHA-1 and by SHA-256."""
_SHORTEST = 4
"""Git itself takes no shorter prefix for an id."""

Identity = tuple[str | None, str | None]
"""Repository and commit as given."""


class Views:
    """The tables that are folded from events."""

    def __init__(self, dialect: str) -> None:
        self._upserts = {name: Insert(_table(name), dialect, _fresh(name)) for name in COLUMNS}
        shown = select(_RUN.c.run_id, _RUN.c.events, _RUN.c.repository, _RUN.c.commit_given)
        self._shown = _positional(shown.where(_RUN.c.run_id == ""), dialect)
        self._deletes = {name: _delete(_table(name), dialect) for name in COLUMNS}

    def write(self, connection: Connection, changed: Sequence[Changes]) -> None:
        """Bring the rows to what folds of different runs say."""
        for name, statement in self._deletes.items():
            keys = [key for changes in changed for key in changes.deletes.get(name, ())]
            if keys:
                connection.exec_driver_sql(statement, keys)
        for name, insert in self._upserts.items():
            rows = [row for changes in changed for row in changes.upserts.get(name, ())]
            insert.rows(connection, rows)

    def clear(self, connection: Connection) -> None:
        """Drop all rows."""
        for name in COLUMNS:
            connection.execute(delete(_table(name)))

    def runs(self, connection: Connection, run_ids: list[str]) -> dict[str, tuple[int, Identity]]:
        """How many events each of the runs is folded from, and the identity it shows."""
        found = (connection.exec_driver_sql(self._shown, (run,)).first() for run in run_ids)
        return {row[0]: (row[1], (row[2], row[3])) for row in found if row is not None}

    def join_commits(self, connection: Connection, identities: Iterable[Identity]) -> None:
        """Give the runs of these commits, and those that shorten them, the full id where it is unique."""
        for repository, given in dict.fromkeys(identities):
            for commit in self._shortened(connection, repository, given):
                chosen = and_(_RUN.c.repository == repository, _RUN.c.commit_given == commit)
                full = self._full(connection, repository, commit)
                stale = _RUN.c.commit.is_distinct_from(full)
                connection.execute(update(_RUN).where(chosen, stale).values(commit=full))

    def identities(self, connection: Connection) -> list[Identity]:
        """Repository and commit of all runs."""
        query = select(_RUN.c.repository, _RUN.c.commit_given).distinct()
        return [(row[0], row[1]) for row in connection.execute(query)]

    def _shortened(
        self, connection: Connection, repository: str | None, given: str | None
    ) -> list[str | None]:
        """`given` and the shorter forms of it under which runs of the repository were started."""
        if repository is None or given is None or not _is_full(given):
            return [given]
        prefixes = [given[:length] for length in range(_SHORTEST, len(given) + 1)]
        query = select(_RUN.c.commit_given).distinct().where(_RUN.c.repository == repository)
        return sorted(connection.scalars(query.where(_RUN.c.commit_given.in_(prefixes))))

    def _full(self, connection: Connection, repository: str | None, given: str | None) -> str | None:
        """The only full id that runs of the repository know and `given` begins; else `given`."""
        if repository is None or given is None or not _is_short(given):
            return given
        known = (
            select(_RUN.c.commit_given)
            .distinct()
            .where(
                _RUN.c.repository == repository,
                _RUN.c.commit_given > given,
                _RUN.c.commit_given < given + "g",  # behind every hexadecimal digit
            )
        )
        found = [full for full in connection.scalars(known) if _is_full(full) and full.startswith(given)]
        return found[0] if len(found) == 1 else given


def _is_short(commit: str) -> bool:
    return len(commit) >= _SHORTEST and not _is_full(commit) and _HEX.issuperset(commit)


def _is_full(commit: str) -> bool:
    return len(commit) in _FULL and _HEX.issuperset(commit)


def _table(name: str) -> Table:
    return SQLModel.metadata.tables[name]


_RUN = _table("run")


def _fresh(name: str) -> list[str]:
    """The columns of a row that is there already which take the new values."""
    keys = {column.name for column in _table(name).primary_key}
    # The full id of a commit is not the run's own: `Views.join_commits` owns it once the row is there.
    owned = keys | {"commit"} if name == "run" else keys
    return [column for column in COLUMNS[name] if column not in owned]


def _delete(table: Table, dialect: str) -> str:
    return _positional(delete(table).where(*(column == "" for column in table.primary_key)), dialect)


def _positional(statement: ClauseElement, dialect: str) -> str:
    """The statement with a positional parameter in place of each value, whatever the value."""
    return str(statement.compile(dialect=DIALECTS[dialect][1]))
