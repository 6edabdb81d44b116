"""The number of an attempt, reserved before the agent starts and without loading a database library.

Promises, each with its test in ``tests/test_numbers.py``:

* Where the journal is a SQLite file, the number is reserved in it, as `telemetry.attempts` does it: no two
  wrappers get the same, in whichever of the two ways they ask. It takes some milliseconds.
* A journal on a server is asked by a process of its own, within a time.
* A journal that is locked, not there yet, of another version or out of reach holds up no agent: the number
  is then counted in this data folder, and said to be provisional.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from agent_shim.events import AttemptReserved
from agent_shim.spool import locked
from telemetry import places
from telemetry.identity import Identity
from telemetry.settings import Settings
from telemetry.turns import turn

LOCKED_S = 0.5
"""How long a locked journal is waited for: a batch of the deliverer takes less."""
COUNTER_S = 5.0
"""How long the others that start at the same time are waited for, each of which may wait for the journal."""
SERVER_S = 10.0
"""One that does not answer delays the agent by this much; one that refuses, by less than a second."""
_HEX = re.compile(r"[0-9a-f]{4,64}\Z")
"""What may be a commit id, as in `telemetry.attempts`."""
_Key = tuple[str, str, str, str]


def number(
    settings: Settings, environ: Mapping[str, str], run_id: str, known: Identity
) -> AttemptReserved | None:
    """The attempt that run `run_id` is; ``None`` without a commit. Raises `OSError`."""
    if not known.commit:
        return None
    key = (known.repository or "", known.commit, known.agent or "", known.model_declared or "")
    path = _path(settings.journal)
    asked = _asked(settings.journal, environ, run_id, key) if path is None else None
    with _counter(settings.home, key) as counter:
        counted = _read(counter)
        reserved = asked if path is None else _reserved(path, run_id, key, counted)
        found = counted + 1 if reserved is None else reserved
        _write(counter, max(counted, found))
    return AttemptReserved(number=found, provisional=reserved is None)


# --- in this data folder ---------------------------------------------------------------------------


@contextmanager
def _counter(home: Path, key: _Key) -> Iterator[int]:
    """The file that counts the attempts made from here, locked. Raises `OSError` when it cannot be."""
    folder = home / "attempts"
    places.make(home)
    folder.mkdir(mode=places.PRIVATE, exist_ok=True)
    name = hashlib.sha256("\n".join(key).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not locked(descriptor, fcntl.LOCK_EX, time.monotonic() + COUNTER_S):
            raise OSError(errno.EAGAIN, "locked by another run", str(folder / name))
        yield descriptor
    finally:
        os.close(descriptor)


def _read(counter: int) -> int:
    text = os.pread(counter, 20, 0)
    return int(text) if text.isdigit() else 0


def _write(counter: int, number: int) -> None:
    os.pwrite(counter, b"%d" % number, 0)  # never fewer digits than before


# --- in the journal --------------------------------------------------------------------------------


def _reserved(path: str, run_id: str, key: _Key, counted: int) -> int | None:
    """The number in the journal's file; ``None`` when it cannot be had at once."""
    try:
        with turn(os.path.realpath(path, strict=True), LOCKED_S), closing(_opened(path)) as connection:
            return _in_file(connection, run_id, key, counted)
    except (OSError, sqlite3.Error):
        return None


def _opened(path: str) -> sqlite3.Connection:
    place = f"file:{quote(path)}?mode=rw"  # one that is not there is not made here
    return sqlite3.connect(place, uri=True, timeout=LOCKED_S, isolation_level=None)


def _path(journal: str) -> str | None:
    """The file of a SQLite journal; ``None`` for a server."""
    if journal.startswith("sqlite:///"):
        return journal.removeprefix("sqlite:///").partition("?")[0]
    return None if "://" in journal else journal


_COUNTED = """
SELECT max(number) FROM (
    SELECT number, "commit" AS id FROM attempt
        WHERE repository = :repository AND agent = :agent AND model = :model
    UNION ALL
    SELECT attempt, coalesce(commit_given, '') FROM run WHERE coalesce(repository, '') = :repository
        AND coalesce(agent, '') = :agent AND coalesce(model_declared, '') = :model
) WHERE id = :commit OR (:short AND (
    substr(id, 1, length(:commit)) = :commit OR (length(id) > 3 AND substr(:commit, 1, length(id)) = id)
))
"""
"""As `telemetry.attempts` asks it: what was reserved, and runs with a number of their own."""


def _in_file(connection: sqlite3.Connection, run_id: str, key: _Key, counted: int) -> int:
    asked = dict(zip(("repository", "commit", "agent", "model"), key, strict=True))
    connection.execute("BEGIN IMMEDIATE")
    short = _HEX.match(asked["commit"]) is not None
    (known,) = connection.execute(_COUNTED, {**asked, "short": short}).fetchone()
    found = 1 + max(known or 0, counted)
    connection.execute(
        'INSERT INTO attempt (run_id, repository, "commit", agent, model, number) VALUES (?, ?, ?, ?, ?, ?)',
        (run_id, *key, found),
    )
    connection.execute("COMMIT")
    return found


def _asked(journal: str, environ: Mapping[str, str], run_id: str, key: _Key) -> int | None:
    """The number that a server gives, asked by `telemetry.attempts` in a process of its own."""
    import subprocess  # only where there is a server

    command = [sys.executable, "-I", "-m", "telemetry.attempts"]
    question = json.dumps({"journal": journal, "run": run_id, "key": key}).encode()
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        answer = subprocess.run(
            command, input=question, env=dict(environ), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=SERVER_S, check=True,
        )  # fmt: skip
        return int(answer.stdout)
    return None
