"""The health of what keeps a record: data folder, disk, spool, journal, clock.

The part of the doctor (`telemetry.doctor`) whose answers do not depend on the agent; its promises hold here.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, create_engine, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from agent_shim.errors import AgentTelemetryError
from telemetry import display, handover, places
from telemetry.database import HEAD, url_of, way_out
from telemetry.filters import QUARANTINE, RUN, stored
from telemetry.reading import exists
from telemetry.remote import RemoteJournal
from telemetry.settings import Settings, is_remote, without_password
from telemetry.spooled import Run

STATES = ("ok", "warn", "fail", "unknown")

NETWORK = frozenset(
    (
        *("9p", "afs", "ceph", "cifs", "davfs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "glusterfs"),
        *("lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "vboxsf"),
    )
)
"""File systems whose locks cannot be trusted: SQLite's own documentation warns of them."""

WAL_RESET_FROM, WAL_RESET_TO = (3, 7, 0), (3, 51, 2)
WAL_RESET_BACKPORTS = frozenset({(3, 44, 6), (3, 50, 7)})
"""SQLite versions whose write-ahead log can corrupt a database when it is reset while two connections
checkpoint (sqlite.org, release notes of 3.51.3)."""

FULL_BYTES, LOW_BYTES = 100 * 10**6, 10**9
SKEW_S = 60.0


class Check(NamedTuple):
    """What one look found."""

    name: str
    state: str
    """One of `STATES`."""
    text: str
    way_out: str | None = None


class Place(NamedTuple):
    """What the checks look at."""

    settings: Settings
    environ: Mapping[str, str]
    command: Sequence[str]
    now: datetime


# --- places --------------------------------------------------------------------------------------


def _data_folder(place: Place) -> Iterator[Check]:
    home = place.settings.home
    there = _existing(home)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield Check(
            "data folder", "fail", f"{there} cannot be written: {error.strerror}", "set AGENT_TELEMETRY_HOME"
        )
        return
    source = place.settings.sources.get("home", "default")
    made = "" if home.exists() else ", made by the first run"
    yield Check("data folder", "ok", f"{home} (from {source}{made})")
    yield _file_system("data folder's file system", there)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _file_system(name: str, path: Path) -> Check:
    kind = _kind(path)
    if kind is None:
        return Check(name, "unknown", "this system does not say", "make sure that it is a local disk")
    if kind in NETWORK:
        return Check(name, "warn", f"{kind}: locks over a network cannot be trusted", "use a local disk")
    return Check(name, "ok", kind)


def _kind(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Type of the file system that holds `path`: of the longest mount point above it (proc(5))."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    above = {str(folder) for folder in (path.resolve(), *path.resolve().parents)}
    found: list[tuple[int, str]] = []
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].replace("\\040", " ")
        if point in above:
            found.append((len(point), after.split()[0]))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _disk(place: Place) -> Iterator[Check]:
    free = shutil.disk_usage(_existing(place.settings.home)).free
    state = "fail" if free < FULL_BYTES else "warn" if free < LOW_BYTES else "ok"
    yield Check("free disk", state, display.size(free), None if state == "ok" else "free some space")


def _spool(place: Place) -> Iterator[Check]:
    home = place.settings.home
    runs = [Run(home, name) for name in places.runs(home)]
    for run in runs:
        run.refresh()
    used = sum(file.stat().st_size for file in places.spool_folder(home).rglob("*") if file.is_file())
    late = [run for run in runs if not run.is_delivered("journal")]
    open_ = [run for run in runs if run.unsealed()]
    text = (
        f"{len(runs)} runs, {display.size(used)}; {len(late)} not all in the journal, {len(open_)} not sealed"
    )
    working = handover.is_running(home) if home.exists() else False
    if not late or working:
        yield Check("spool", "ok", text + (", being delivered" if late else ""))
    else:
        yield Check(
            "spool", "warn", text, f"agent-telemetry runs delivers them; see {home / 'deliverer.log'}"
        )


# --- the journal ---------------------------------------------------------------------------------


def _sqlite(place: Place) -> Iterator[Check]:
    where = place.settings.journal
    if not is_remote(where) and url_of(where).get_backend_name() == "sqlite":
        yield sqlite_version(sqlite3.sqlite_version_info)


def sqlite_version(found: tuple[int, ...]) -> Check:
    """Whether this SQLite can corrupt a write-ahead log."""
    shown = ".".join(map(str, found))
    bad = WAL_RESET_FROM <= found <= WAL_RESET_TO and found not in WAL_RESET_BACKPORTS
    if bad and not any(found[:2] == fixed[:2] and found > fixed for fixed in WAL_RESET_BACKPORTS):
        text = f"{shown} has the WAL-reset bug: two that write at once can damage a journal; ours take turns"
        return Check("SQLite", "warn", text, "let nothing else write it, or use SQLite 3.51.3 or later")
    return Check("SQLite", "ok", shown)


def _journal(place: Place) -> Iterator[Check]:
    where = place.settings.journal
    shown = without_password(where)
    if is_remote(where):
        yield _sink(where, shown, place.environ)
        return
    if not exists(where):
        folder = Path(shown).parent
        writable = os.access(_existing(folder), os.W_OK)
        text = f"{shown} is not there yet; the first run makes it"
        yield (
            Check("journal", "ok", text)
            if writable
            else Check("journal", "fail", f"{folder} cannot be written", "name another with --journal")
        )
        return
    if "://" not in where:
        shown = f"{shown}, {display.size(Path(where).stat().st_size)}"
        yield _file_system("journal's file system", Path(where))
    engine = create_engine(url_of(where))
    try:
        with engine.connect() as connection:
            yield from _contents(connection, shown, place.now)
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or error).partition("\n")[0]
        yield Check("journal", "fail", f"{shown} cannot be asked: {cause}", way_out(cause))
    finally:
        engine.dispose()


def _sink(where: str, shown: str, environ: Mapping[str, str]) -> Check:
    try:
        with RemoteJournal(where, environ) as remote:
            remote.held("0" * 32)  # no run has this id
    except AgentTelemetryError as error:
        return Check("journal", "fail", str(error), error.hint)
    return Check("journal", "ok", f"{shown}: a sink, and its journal answers")


def _contents(connection: Connection, shown: str, now: datetime) -> Iterator[Check]:
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if revision != HEAD:
        newer = str(revision) > HEAD
        state, advice = (
            ("fail", "upgrade this program")
            if newer
            else ("warn", "the next command upgrades it, after a backup")
        )
        yield Check("journal", state, f"{shown} has schema {revision}, this program {HEAD}", advice)
        return
    if connection.dialect.name == "sqlite":
        damage = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if damage != "ok":
            yield Check("journal", "fail", f"{shown} is damaged: {damage}", way_out("malformed"))
            return
    runs, events = connection.execute(select(func.count(), func.sum(RUN.c.events)).select_from(RUN)).one()
    yield Check("journal", "ok", f"{shown}: schema {revision}, {runs} runs, {events or 0} events")
    refused = connection.execute(select(func.count()).select_from(QUARANTINE)).scalar()
    if refused:
        yield Check(
            "quarantine", "warn", f"{refused} things that are no events were kept", "see the table quarantine"
        )
    ahead = connection.execute(select(func.max(RUN.c.started_at))).scalar()
    if ahead and ahead > stored(now + timedelta(seconds=SKEW_S)):
        yield Check(
            "clock of the runs", "warn", f"a run started at {ahead}, which is yet to come", "set the clock"
        )


# --- time ------------------------------------------------------------------------------------------


def _clock(place: Place) -> Iterator[Check]:
    """The wall clock against that of the file system, which may be another machine's."""
    there = _existing(place.settings.home)
    try:
        with tempfile.NamedTemporaryFile(dir=there) as file:
            skew = abs(Path(file.name).stat().st_mtime - time.time())
    except OSError:
        yield Check("clock", "unknown", f"{there} cannot be written", "set AGENT_TELEMETRY_HOME")
        return
    if skew > SKEW_S:
        text = f"the file system's clock is {display.duration(skew)} away from this machine's"
        yield Check("clock", "warn", text, "let both follow the same time server")
    else:
        yield Check("clock", "ok", f"{place.now:%Y-%m-%d %H:%M:%S} UTC")


LOOKS: tuple[Callable[[Place], Iterator[Check]], ...] = (
    _data_folder, _disk, _spool, _sqlite, _journal, _clock,
)  # fmt: skip
"""All of them, in the order of an event's way."""
