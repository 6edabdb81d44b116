"""The database under the journal: opened, migrated and locked the same way on SQLite and PostgreSQL.

Promises, each with its test in ``tests/test_journal.py``:

* `connect` gives an engine whose tables are those of `telemetry.tables`, however many processes open a
  fresh journal at once. It waits up to `PATIENCE_S` for others, then raises `JournalUnreachable`.
* A migration is one transaction: killed at any moment it leaves the old tables or the new ones. An
  existing SQLite journal is copied beside itself before it is upgraded.
* A journal that a newer version migrated is refused with `JournalTooNew` and left untouched.
* A SQLite file is readable by its owner only, and a commit has reached the disk when it returns.
* Any number of processes and threads may open, write and close the same SQLite journal at once; it is
  whole afterwards (``tests/test_database.py``).
* A SQLite file that was moved away while it was open is written no more: `JournalUnreachable`.
* No error shows a password.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from agent_shim.errors import JournalError, JournalTooNew, JournalUnreachable, SettingsError
from telemetry.turns import turn

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0006"
"""The newest revision in ``telemetry/migrations/versions``; kept here so that opening a journal that is
up to date does not import Alembic (0.2 s)."""

MIGRATIONS = Path(__file__).with_name("migrations")

PATIENCE_S = 15.0
"""How long to wait for another process that writes or migrates the same journal."""

_PATIENCE = "patience_s"
_FILE = "file"
_RETRY_S = 0.05
_PAGE_BYTES = 16384
"""Events are up to some kilobytes: four times SQLite's default leaves a tenth less of the file empty."""
_MIGRATION_LOCK = 0x6167_656E_745F_746D
"""Key of PostgreSQL's advisory lock around migrations: the letters ``agent_tm``."""


def url_of(place: str | Path) -> URL:
    """The database URL of a SQLite path, a ``sqlite:///`` or a ``postgresql://`` URL."""
    given = str(place)
    if "://" not in given:
        return URL.create("sqlite", database=given)
    try:
        url = make_url(given)
    except (ArgumentError, ValueError) as error:
        raise SettingsError("The journal's URL cannot be read.", hint=_PLACES) from error
    backend = url.drivername.partition("+")[0]
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and url.database:
        return url
    if backend in ("http", "https"):
        raise SettingsError(
            "A journal behind a sink takes events, and cannot be asked questions through it.",
            hint="Ask where the journal is: --journal postgresql://user@host/database.",
        )
    raise SettingsError(f"A journal cannot be kept in {backend or given!r}.", hint=_PLACES)


_PLACES = "Give a path for SQLite, or postgresql://user@host/database."


def connect(place: str | Path, *, patience_s: float = PATIENCE_S) -> Engine:
    """An engine for the journal at `place`, made and migrated as needed.

    Raises `JournalUnreachable` or `JournalTooNew`.
    """
    url = url_of(place)
    engine = create_engine(url, **_engine_options(url, patience_s))
    try:
        with reachable(engine):
            if url.get_backend_name() == "sqlite":
                _make_file(engine)
            migrate(engine, patience_s)
            if url.get_backend_name() == "sqlite":
                engine.update_execution_options(**{_FILE: _file_at(_path(engine))})
    except BaseException:
        engine.dispose()
        raise
    return engine


def _engine_options(url: URL, patience_s: float) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": patience_s}, "execution_options": {_PATIENCE: patience_s}}
    return {"connect_args": {"connect_timeout": max(2, int(patience_s))}, "pool_pre_ping": True}


@contextmanager
def reachable(engine: Engine) -> Iterator[None]:
    """Turns what a driver raises into `JournalUnreachable`, without the password."""
    try:
        yield
    except JournalError:
        raise
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        where = engine.url.render_as_string(hide_password=True)
        cause = getattr(error, "orig", None) or error
        reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
        if engine.url.password:
            reason = reason.replace(str(engine.url.password), "***")
        message = f"The journal {where} cannot be used: {reason}"
        raise JournalUnreachable(message, hint=way_out(reason)) from error


_WRITTEN = "Asking a journal also writes prices into it: copy it to where you may write, or name another."


def way_out(reason: str) -> str:
    """What to do about a database that cannot be used, by what its driver says."""
    known = {
        "locked": "Another process is writing; try again, or end it.",
        "unable to open": "Its folder has to be there, and writable: agent-telemetry doctor looks at it.",
        "I/O error": "Its disk may be full or failing: agent-telemetry doctor looks at it.",
        "moved away": "Try again: it is opened anew.",
        "full": "Free some space on its disk; nothing that was acknowledged is lost.",
        "not a database": "The file is something else; name another with --journal.",
        "malformed": "The file is damaged. Move it away and run agent-telemetry reconcile: a new one is made"
        " from the events in the data folder.",
        "ermission denied": _WRITTEN,
        "readonly": _WRITTEN,
        "read-only": _WRITTEN,
        "password": "Set PGPASSWORD, or put the password into the URL.",
    }
    for words, hint in known.items():
        if words in reason:
            return hint
    return "Check --journal and AGENT_TELEMETRY_JOURNAL; events stay in the spool until it can be reached."


# --- SQLite ---------------------------------------------------------------------------------------


def _make_file(engine: Engine) -> None:
    path = _path(engine)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        with _turn(engine):
            _make_first(path)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)


def _make_first(path: Path) -> None:
    """The file, unless somebody was faster, without the log of one that was moved away."""
    if not path.exists():
        for end in ("-wal", "-shm"):
            path.with_name(f"{path.name}{end}").unlink(missing_ok=True)
        _make_private(path)


def _make_private(path: Path) -> None:
    """An empty file that its owner alone may read, unless somebody was faster.

    Nobody but SQLite may ever open and close a journal that is in use: the close takes away every lock that
    this process holds on it, whoever took it (fcntl(2)), and another process then removes the log under its
    hands. So the file has no name yet while it is open here.
    """
    fd, unnamed = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(fd)
    try:
        os.link(unnamed, path)
    except OSError:
        pass  # it is there; or this file system knows no links, and SQLite makes the file by itself
    finally:
        Path(unnamed).unlink()


def _path(engine: Engine) -> Path:
    """The file itself, where the journal is named by a link."""
    return Path(os.path.realpath(str(engine.url.database)))


def _write_ahead(path: Path, patience_s: float) -> None:
    """Switch to write-ahead logging: SQLite does not wait for that lock by itself."""
    deadline = time.monotonic() + patience_s
    while not _switch_to_wal(path):
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("database is locked")
        time.sleep(_RETRY_S)


def _switch_to_wal(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=0)) as connection:
        try:
            connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")  # counts in an empty file only
            return bool(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                return False
            raise


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by `_begin`, not by the driver
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: Connection) -> None:
    """A writer takes the lock at once: one that began by reading is refused it without waiting."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that will write: committed at the end, rolled back on any exception."""
    with (
        _turn(engine),
        engine.connect().execution_options(writes=True) as connection,
        connection.begin(),
    ):
        yield connection


@contextmanager
def _turn(engine: Engine) -> Iterator[None]:
    if engine.dialect.name != "sqlite" or engine.url.database in (None, "", ":memory:"):
        yield
        return
    options, path = engine.get_execution_options(), _path(engine)
    with turn(path, options.get(_PATIENCE, PATIENCE_S)):
        if _FILE in options and options[_FILE] != _file_at(path):
            raise sqlite3.OperationalError("the file was moved away while it was open")
        yield


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file is at `path`."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


# --- migrations -----------------------------------------------------------------------------------


def migrate(engine: Engine, patience_s: float = PATIENCE_S) -> None:
    """Bring the tables to `HEAD` in one transaction, after a copy of an existing SQLite journal."""
    with engine.connect() as connection:
        revision = _revision(connection)
    if revision == HEAD:
        return
    config = _alembic(revision)
    if engine.dialect.name == "sqlite":
        _write_ahead(_path(engine), patience_s)
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        revision = _revision(connection)  # another process may have been faster
        if revision == HEAD:
            return
        if revision is not None and engine.dialect.name == "sqlite":
            _back_up(_path(engine), revision)
        config.attributes["connection"] = connection
        _upgrade(config)


def _revision(connection: Connection) -> str | None:
    """The revision that the tables have, or ``None`` for a database without tables."""
    tables = inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        if tables and connection.dialect.name == "sqlite":
            raise JournalUnreachable("The database holds other tables and is no journal.", hint=_PLACES)
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _alembic(revision: str | None) -> Config:
    """The migrations, once it is certain that they know the journal's `revision`."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise JournalTooNew(
            f"The journal has revision {revision}, written by a newer version of this program.",
            hint="Upgrade this program, or name another journal with --journal.",
        )
    return config


def _upgrade(config: Config) -> None:
    from alembic import command

    command.upgrade(config, "head")


def _back_up(path: Path, revision: str) -> None:
    """Copy the last committed state beside the journal; the caller holds the write lock meanwhile."""
    target = path.with_name(f"{path.name}.before-upgrade-from-{revision}")
    partial = target.with_name(f"{target.name}.partial")
    os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(partial)) as copy:
        source.backup(copy)
    partial.replace(target)
