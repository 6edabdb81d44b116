"""A journal in SQLite under several hands: processes that open, write and close it at the same time."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from agent_shim.errors import JournalUnreachable
from telemetry import database, deliverer
from telemetry.journal import Journal
from telemetry.settings import Settings
from telemetry.turns import turn
from tests.generations import ROOT
from tests.recordings import example_run
from tests.wrapped import eventually

WRITER = """
import os, sys, time
from telemetry import database
until, written = time.monotonic() + float(sys.argv[2]), 0
statement = "INSERT INTO quarantine (received_at, source, sha256, reason, content) VALUES ('', '', ?, '', ?)"
while time.monotonic() < until:
    first = database.connect(sys.argv[1])
    with first.connect() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM run").fetchall()
    second = database.connect(sys.argv[1])
    for _ in range(3):
        with database.writing(first) as connection:
            connection.exec_driver_sql(statement, (os.urandom(32), os.urandom(3000)))
        written += 1
    second.dispose()
    first.dispose()
print(written)
"""
READER = """
import sqlite3, sys
journal = sqlite3.connect(sys.argv[1])
journal.execute("SELECT count(*) FROM run").fetchall()
journal.close()
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "data" / "journal.db"


def test_a_journal_that_is_opened_twice_keeps_its_locks(journal: Path) -> None:
    """Else the next process that closes it takes itself for the last, and removes the log that is in use."""
    log = journal.with_name("journal.db-wal")
    first = database.connect(journal)
    with first.connect() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM run").fetchall()
    database.connect(journal).dispose()
    subprocess.run([sys.executable, "-c", READER, str(journal)], check=True)
    assert log.exists()
    first.dispose()
    assert not log.exists(), "the last one does remove it"


def test_a_journal_that_many_write_is_whole(journal: Path) -> None:
    database.connect(journal).dispose()
    command = [sys.executable, "-c", WRITER, str(journal), "2"]
    writers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    written = [int(writer.communicate(timeout=60)[0]) for writer in writers]
    assert all(written)
    with closing(sqlite3.connect(journal)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM quarantine").fetchone() == (sum(written),)


def test_one_writer_at_a_time_and_the_others_wait_their_patience(journal: Path) -> None:
    """Its checkpoint belongs to a writer's turn, and SQLite's own lock does not cover that."""
    engine = database.connect(journal, patience_s=0.1)
    with database.writing(engine):
        turn = os.open(journal.with_name("journal.db-writer"), os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (
        pytest.raises(JournalUnreachable, match="locked"),
        database.reachable(engine),
        database.writing(engine),
    ):
        pass
    os.close(turn)
    with database.writing(engine):
        pass
    engine.dispose()


def test_a_journal_has_one_writer_under_all_its_names(journal: Path) -> None:
    link = journal.parent.parent / "link.db"
    link.symlink_to(journal)
    named, real = (database.connect(place, patience_s=0.1) for place in (link, journal))
    assert journal.stat().st_mode & 0o777 == 0o600
    with (
        database.writing(named),
        pytest.raises(sqlite3.OperationalError, match="locked"),
        database._turn(real),
    ):
        pass
    named.dispose()
    real.dispose()


def test_a_writer_that_wants_turn_after_turn_passes_nobody_over(tmp_path: Path) -> None:
    path, had = tmp_path / "journal.db", []

    def wait() -> None:
        with turn(path, 60):
            had.append("waits")

    waiting = threading.Thread(target=wait)
    with turn(path, 60):
        waiting.start()
        eventually(lambda: is_locked(path.with_name("journal.db-next")))
    with turn(path, 60):
        had.append("again")
    waiting.join()
    assert had == ["waits", "again"]


def is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def test_a_child_that_was_forked_in_a_turn_does_not_keep_it(tmp_path: Path) -> None:
    with turn(tmp_path / "journal.db", 0):
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        with turn(tmp_path / "journal.db", 0):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("kept", [0o022, 0o000])
def test_a_journal_is_for_its_owner_whatever_the_umask_is(journal: Path, kept: int) -> None:
    before = os.umask(kept)
    try:
        engine = database.connect(journal)
        with database.writing(engine):
            pass
        files = sorted(path.name for path in journal.parent.iterdir())
        modes = {path.stat().st_mode & 0o777 for path in journal.parent.iterdir()}
        engine.dispose()
    finally:
        os.umask(before)
    assert files == [f"journal.db{end}" for end in ("", "-next", "-shm", "-wal", "-writer")]
    assert modes == {0o600}


def test_a_damaged_journal_says_the_way_out_and_the_way_out_works(tmp_path: Path) -> None:
    home = tmp_path / "home"
    bodies = example_run(home / "spool").bodies()
    environ = {"PATH": os.environ["PATH"], "AGENT_TELEMETRY_HOME": str(home)}
    deliverer.deliver(Settings.load(environ), environ, follow=False)

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "telemetry.cli", *words]
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)

    told = ask("cost", "--by", "model").stdout
    assert "gpt" in told
    journal = home / "journal.db"
    with journal.open("r+b") as file:
        file.seek(16384)
        file.write(os.urandom(journal.stat().st_size - 16384))
    damaged = ask("cost", "--by", "model")
    assert (damaged.returncode, damaged.stdout) == (3, "")
    assert "malformed" in damaged.stderr
    assert "Move it away and run agent-telemetry reconcile" in damaged.stderr
    assert "Move it away and run agent-telemetry reconcile" in ask("doctor").stdout
    journal.rename(tmp_path / "damaged.db")
    assert ask("reconcile").returncode == 0
    assert ask("cost", "--by", "model").stdout == told
    with closing(sqlite3.connect(journal)) as connection:
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (len(bodies),)


def test_a_journal_that_is_moved_away_while_it_is_written_is_made_again(tmp_path: Path) -> None:
    """Its log stays, and SQLite would take that for the log of the new one."""
    environ = {"PATH": os.environ["PATH"], "AGENT_TELEMETRY_HOME": str(tmp_path / "home")}
    settings = Settings.load(environ)
    run = example_run(settings.home / "spool")
    journals = deliverer.Journals(settings, environ)
    journals.get(settings.journal).ingest(run.bodies()[:5], "test")
    Path(settings.journal).rename(tmp_path / "damaged.db")
    with pytest.raises(JournalUnreachable, match="moved away") as told:
        journals.get(settings.journal).ingest(run.bodies(), "test")
    with Journal.open(settings.journal) as beside:
        assert beside.ingest(run.bodies()[:2], "test").new == 2
        journals.failed(settings.journal, str(told.value))
        eventually(lambda: reached(journals, settings.journal))
        assert journals.get(settings.journal).ingest(run.bodies(), "test").new == len(run.bodies()) - 2
    journals.close()
    with closing(sqlite3.connect(settings.journal)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (len(run.bodies()),)


def reached(journals: deliverer.Journals, place: str) -> bool:
    try:
        return bool(journals.get(place))
    except JournalUnreachable:
        return False
