"""Handing events over to the deliverer: there is one per data folder, and how far it is.

Promises, each a test in ``tests/test_deliverer.py``:

* Any number of runs may start a deliverer at once; one works, the others are gone at once.
* It outlives whoever started it, hears none of their signals, holds none of their files, and gets of
  their environment only what names a destination.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from agent_shim.spool import SUFFIX, locked
from telemetry import places
from telemetry.settings import Settings
from telemetry.spooled import Run

_POLL_S = 0.02
DELIVERER = "telemetry.deliverer"
_LOG_LIMIT_BYTES = 1024 * 1024
_PASSED_ON = re.compile(
    r"AGENT_TELEMETRY_(HOME|JOURNAL)|OTEL_.+|PG[A-Z]+|PATH|HOME|TZ|TMPDIR"
    r"|LANG|LC_.+|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(?i:(https?|no|all|grpc)_proxy)"
)
"""The keys of model providers are nothing to a deliverer."""


_started: set[int] = set()
"""Deliverers that this process started and has not seen end; a server starts many in its life."""


def start(settings: Settings, environ: Mapping[str, str]) -> int | None:
    """Start a deliverer for this data folder, detached, unless there is one; its pid if it was started."""
    _see_ends()
    if is_running(settings.home):
        return None  # before it leaves, it looks once more for what came meanwhile
    handed = {name: value for name, value in environ.items() if _PASSED_ON.fullmatch(name)}
    handed |= {"AGENT_TELEMETRY_HOME": str(settings.home), "AGENT_TELEMETRY_JOURNAL": settings.journal}
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-m", DELIVERER],
            handed,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, _log(settings.home), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
        )
    except (OSError, ValueError):
        return None  # the events stay in the spool; the next command brings them
    _started.add(pid)
    return pid


def _see_ends() -> None:
    for pid in list(_started):
        try:
            ended, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            ended = pid
        if ended:
            _started.discard(pid)


def _log(home: Path) -> str:
    log = home / "deliverer.log"
    try:
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(home / "deliverer.log.1")
    except FileNotFoundError:
        pass  # the first deliverer of this folder
    return str(log)


def lock(home: Path, patience_s: float = 0.0) -> int | None:
    """Become the one deliverer of this data folder: a descriptor to hold, or ``None`` if there is one.

    Raises `OSError` when the folder cannot be used.
    """
    places.make(home)
    fd = os.open(home / "deliverer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if locked(fd, fcntl.LOCK_EX, time.monotonic() + patience_s, _POLL_S):
        return fd
    os.close(fd)
    return None


def is_running(home: Path) -> bool:
    """Whether a deliverer works on this data folder."""
    try:
        held = lock(home)
    except OSError:
        return False
    if held is not None:
        os.close(held)
    return held is None


def is_delivered(home: Path, run: str, producer: str) -> bool:
    """Whether every event of a producer that is done is in the journal."""
    path = places.run_folder(home, run) / f"{producer}{SUFFIX}"
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return (places.delivered_folder(home, run) / path.name).exists()
    return places.read_positions(home, run, producer).get("journal", 0) >= size


def is_complete(home: Path, run: Run) -> bool:
    """Whether every producer of a run is sealed and all its events are in the journal.

    `run` is kept by the caller from one call to the next: what was read is not read again.
    """
    try:
        run.refresh()
    except FileNotFoundError:
        pass  # moved to `delivered` under our hands
    if not run.folder.exists():
        return True
    return not run.unsealed() and not undelivered(home, run.run)


def undelivered(home: Path, run: str) -> list[str]:
    """The producers of `run` that have events which are not in the journal yet."""
    files = places.producers(places.run_folder(home, run))
    return [path.stem for path in files if not is_delivered(home, run, path.stem)]
