"""Turns: whoever writes a SQLite file does so alone, the checkpoint that follows included.

Promises, each with its test in ``tests/test_database.py``:

* One writer at a time, in whatever process and thread and by whatever name the file is opened.
* Nobody who waits is passed over by a writer that takes one turn after the other.
* A writer that is gone has no turn; one that is stopped is waited for no longer than was said.

SQLite's own lock leaves checkpoints out, and before 3.51.3 two of them at once can corrupt the file
(sqlite.org/wal.html, "The WAL-Reset Bug").
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_shim.spool import locked

_POLL_S = 0.002


@contextmanager
def turn(database: str | Path, patience_s: float) -> Iterator[None]:
    """Alone with `database` inside. Raises `sqlite3.OperationalError` as SQLite does when it is locked."""
    path = Path(os.path.realpath(database))  # as SQLite names its own files beside it
    until = time.monotonic() + patience_s
    with _opened(path.with_name(f"{path.name}-writer")) as writer:
        # Whoever waits to be the next holds up all others: the writer too, when it wants another turn.
        with _opened(path.with_name(f"{path.name}-next")) as following:
            for fd in (following, writer):
                if not locked(fd, fcntl.LOCK_EX, until, _POLL_S):
                    raise sqlite3.OperationalError("database is locked")
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # a child forked meanwhile has a copy of the descriptor
        os.close(fd)
