"""Many rows into a table with one statement: ``executemany`` on SQLite, ``COPY`` on PostgreSQL.

Promises, each with its test in ``tests/test_bulk.py``:

* The rows are there as if each had been inserted with the statement by itself, conflicts included, and it is
  said how many were inserted or changed.
* What the driver raises is raised as SQLAlchemy's error, so that the connection is told from the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg as psycopg_dialect
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.exc import IntegrityError, OperationalError

Rows = Sequence[tuple[Any, ...]]

DIALECTS: dict[str, tuple[Any, Any]] = {
    "sqlite": (sqlite.insert, pysqlite.dialect()),
    "postgresql": (postgresql.insert, psycopg_dialect.dialect(paramstyle="format")),  # type: ignore[no-untyped-call]
}
"""By name: its ``INSERT`` with ``ON CONFLICT``, and the dialect that writes positional parameters."""

MANY = 64
"""From so many rows on, ``COPY`` into a table beside and one ``INSERT`` from there is faster."""


class Insert:
    """``INSERT`` into one table: what is there stays, or takes the values of `fresh` columns."""

    def __init__(self, table: Table, dialect: str, fresh: Iterable[str] = ()) -> None:
        self._table = table.name
        self._columns = [column.name for column in table.columns]
        self._copies = dialect == "postgresql"
        insert, positional = DIALECTS[dialect]
        statement = insert(table)
        values = {name: statement.excluded[name] for name in fresh}
        keys = [column.name for column in table.primary_key]
        self._statement = str(
            (
                statement.on_conflict_do_update(index_elements=keys, set_=values)
                if values
                else statement.on_conflict_do_nothing()
            ).compile(dialect=positional)
        )
        self._conflict = self._statement[self._statement.index(" ON CONFLICT") :]

    def rows(self, connection: Connection, rows: Rows) -> int:
        """Insert rows with all columns in the table's order; how many were inserted or changed."""
        if not rows:
            return 0
        if self._copies and len(rows) >= MANY:
            return self._copied(connection, rows)
        return connection.exec_driver_sql(self._statement, list(rows)).rowcount

    def new(self, connection: Connection, rows: Rows) -> int:
        """`rows`, at half the cost where, as expected, none of them is there."""
        if not self._copies or len(rows) < MANY:
            return self.rows(connection, rows)
        try:
            with connection.begin_nested():
                self._copy(connection, f'"{self._table}"', rows)
        except IntegrityError:
            return self.rows(connection, rows)
        return len(rows)

    def _copied(self, connection: Connection, rows: Rows) -> int:
        """By way of a table of this connection's own, emptied at every commit."""
        columns = ", ".join(f'"{name}"' for name in self._columns)
        beside = f'"beside_{self._table}"'
        connection.exec_driver_sql(
            f'CREATE TEMPORARY TABLE IF NOT EXISTS {beside} (LIKE "{self._table}") ON COMMIT DELETE ROWS'
        )
        self._copy(connection, beside, rows)
        moved = f"WITH moved AS (DELETE FROM {beside} RETURNING {columns})"
        insert = f'INSERT INTO "{self._table}" ({columns}) SELECT {columns} FROM moved{self._conflict}'
        return connection.exec_driver_sql(f"{moved} {insert}").rowcount

    def _copy(self, connection: Connection, target: str, rows: Rows) -> None:
        import psycopg

        columns = ", ".join(f'"{name}"' for name in self._columns)
        cursor: Any = connection.connection.cursor()
        try:
            with cursor.copy(f"COPY {target} ({columns}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        except psycopg.IntegrityError as error:
            raise IntegrityError(f"COPY {self._table}", None, error) from error
        except psycopg.Error as error:
            raise OperationalError(f"COPY {self._table}", None, error) from error
        finally:
            cursor.close()
