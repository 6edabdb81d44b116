"""Real databases for tests: a SQLite file, and PostgreSQL where a server is given or can be started.

`place` gives each test an empty database of its own, once per kind. PostgreSQL is the server named by
``AGENT_TELEMETRY_TEST_POSTGRES``, else one started from the installed binaries, else the test is skipped.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from agent_shim.spool import new_id


class Postgres(NamedTuple):
    """A server; the database in `url` is only there to connect to."""

    url: str
    restart: list[str] | None = None
    """The command that restarts it, where it is ours to restart."""

    def create(self) -> str:
        """URL of a new, empty database."""
        name = f"journal_{new_id()}"
        self._run(f'CREATE DATABASE "{name}"')
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        """Remove what `create` gave."""
        self._run(f'DROP DATABASE "{make_url(url).database}" WITH (FORCE)')

    def _run(self, statement: str) -> None:
        engine = create_engine(
            make_url(self.url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, or the reason why there is none."""
    with started() as server:
        if server is None:
            pytest.skip("no PostgreSQL: initdb is not installed and AGENT_TELEMETRY_TEST_POSTGRES is not set")
        yield server


@contextmanager
def started() -> Iterator[Postgres | None]:
    """A PostgreSQL server, for tests and for benchmarks; ``None`` where there is none."""
    given = os.environ.get("AGENT_TELEMETRY_TEST_POSTGRES")
    binaries = _binaries()
    if given or binaries is None:
        yield Postgres(given) if given else None
        return
    # Not below pytest's own folder: every session that starts makes that one private again, and the
    # server's user is another one when the tests run as root.
    with tempfile.TemporaryDirectory(prefix="journal-test-") as folder, _Server(binaries, folder) as server:
        yield server.postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a journal can be made: a path, then a URL."""
    if request.param == "sqlite":
        yield str(tmp_path / "data" / "journal.db")
        return
    server: Postgres = request.getfixturevalue("postgres")
    url = server.create()
    yield url
    server.drop(url)


def _binaries() -> Path | None:
    """The folder of ``initdb``; Debian keeps it off the path."""
    found = shutil.which("initdb")
    candidates = [Path(found).resolve()] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return candidates[0].parent if candidates else None


class _Server:
    """A PostgreSQL server of this session, on the loopback; it refuses to run as root."""

    def __init__(self, binaries: Path, folder: str) -> None:
        self._binaries = binaries
        self._data = Path(folder, "data")
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        self._port = _free_port()
        shutil.chown(folder, self._user)
        self.postgres = Postgres(
            f"postgresql://{self._user}@127.0.0.1:{self._port}/postgres", self._control("restart")
        )

    def __enter__(self) -> _Server:
        self._call("initdb", "-D", str(self._data), "-A", "trust", "-N", "-E", "UTF8", "--locale=C")
        settings = f"port={self._port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories=''\n"
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(settings)
        subprocess.run(self._control("start"), check=True, stdout=subprocess.DEVNULL, timeout=60)
        _await(self.postgres.url)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(self._control("stop"), check=True, stdout=subprocess.DEVNULL, timeout=60)

    def _control(self, action: str) -> list[str]:
        log = str(self._data.with_name("log"))
        return self._command("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "-l", log, action)

    def _call(self, *words: str) -> None:
        subprocess.run(self._command(*words), check=True, stdout=subprocess.DEVNULL, timeout=120)

    def _command(self, program: str, *words: str) -> list[str]:
        as_user = ["runuser", "-u", self._user, "--"] if os.getuid() == 0 else []
        return [*as_user, str(self._binaries / program), *words]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(url: str) -> None:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    for _ in range(100):
        try:
            engine.connect().close()
            break
        except OperationalError:
            time.sleep(0.1)
    engine.dispose()
