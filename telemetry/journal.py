"""The journal: events in, rows out.

Promises, each with its test in ``tests/test_journal.py``:

* `Journal.ingest` has committed what it took when it returns: each event once, and the views as they
  follow from all events. It is one transaction; killed in the middle, nothing of it is there.
* The same event again changes nothing. Another event under the same producer and number is kept in
  quarantine, the first one stays. What is no event is kept in quarantine.
* Any number of processes may ingest at once, events of one run included.
* `Journal.rebuild` gives the same rows again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from agent_shim.errors import EventError

from . import database
from .event_log import Arrival, EventLog, Refusal, decode
from .projections import RunFold
from .rows import at
from .views import Identity, Views

CACHED_EVENTS = 50_000
"""Events in the folds that are kept between batches: about 1.5 kB of memory each."""

_DEADLOCK_ATTEMPTS = 5
_DEADLOCK = "40P01"
"""SQLSTATE of the transaction that PostgreSQL gave up to resolve a deadlock."""
_REBUILD_LOCK = 0x6167_656E_745F_7262
"""Key of PostgreSQL's advisory lock that writers share and a rebuild has alone: ``agent_rb``."""


class Ingested(NamedTuple):
    """What became of a batch."""

    new: int
    duplicates: int
    conflicts: int
    """Other content under a sequence number that is taken; in quarantine."""
    quarantined: int
    """Not events."""


class _Sorted(NamedTuple):
    new: list[Arrival]
    duplicates: int
    conflicts: list[Refusal]


class _Contested(Exception):
    """A key that no fold holds is taken: its producer wrote under another run's name as well."""


class Journal:
    """The database of events and views. Threads may share one; `ingest` then goes one at a time."""

    def __init__(self, engine: Engine, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.engine = engine
        self._clock = clock
        self._log = EventLog(engine.dialect.name)
        self._views = Views(engine.dialect.name)
        self._folds: OrderedDict[str, RunFold] = OrderedDict()
        self._writer = threading.Lock()

    @classmethod
    def open(cls, place: str | Path, *, patience_s: float = database.PATIENCE_S) -> Journal:
        """The journal at a SQLite path or database URL, made and migrated as needed.

        Raises `JournalUnreachable`, `JournalTooNew`, or `SettingsError` for a place that is neither.
        """
        return cls(database.connect(place, patience_s=patience_s))

    def close(self) -> None:
        """Let go of the database."""
        self._folds.clear()
        self.engine.dispose()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- events in -------------------------------------------------------------------------------

    def ingest(self, bodies: Sequence[bytes], source: str) -> Ingested:
        """Store the events in `bodies`, in any order, and fold them into the views.

        `source` says where they came from, for the quarantine. Raises `JournalUnreachable`; then
        nothing of it was stored, and it can be sent again.
        """
        arrivals, refusals = _decode_all(bodies)
        with self._writer, database.reachable(self.engine):
            return self._in_one_transaction(
                lambda connection, contested: self._ingest(connection, arrivals, refusals, source, contested)
            )

    def _in_one_transaction(self, work: Callable[[Connection, bool], Ingested]) -> Ingested:
        contested = False
        for attempt in range(1, _DEADLOCK_ATTEMPTS + 1):
            try:
                with database.writing(self.engine) as connection:
                    return work(connection, contested)
            except BaseException as error:
                self._folds.clear()  # they may hold events that were rolled back
                if isinstance(error, _Contested):
                    contested = True
                elif not _is_deadlock(error) or attempt == _DEADLOCK_ATTEMPTS:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _ingest(
        self,
        connection: Connection,
        arrivals: list[Arrival],
        refusals: list[Refusal],
        source: str,
        contested: bool,
    ) -> Ingested:
        runs = sorted({arrival.run_id for arrival in arrivals})
        self._share(connection)
        self._lock(connection, map(_lock_key, runs))
        stored = self._views.runs(connection, runs)
        folds = {run: self._fold(connection, run, stored.get(run, _NEW)[0]) for run in runs}
        batch = self._sort_out(connection, arrivals, folds, contested)
        if self._log.append(connection, batch.new) != len(batch.new):
            raise _Contested
        for arrival in batch.new:
            folds[arrival.run_id].add(arrival.producer, arrival.seq, arrival.event)
        changed = sorted({arrival.run_id for arrival in batch.new})
        self._show(connection, [folds[run] for run in changed], stored)
        self._log.quarantine(connection, refusals + batch.conflicts, source, at(self._clock()))
        self._forget_old_folds()
        return Ingested(len(batch.new), batch.duplicates, len(batch.conflicts), len(refusals))

    def _share(self, connection: Connection) -> None:
        """Keep a rebuild out until the end."""
        if self.engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": _REBUILD_LOCK})

    def _lock(self, connection: Connection, keys: Iterable[int]) -> None:
        """Have what the keys stand for alone until the end. SQLite has one writer at a time anyway."""
        if self.engine.dialect.name == "postgresql":
            for key in sorted(set(keys)):
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})

    def _fold(self, connection: Connection, run_id: str, events: int) -> RunFold:
        """The run as it is stored: `events` of them; another process may have added some."""
        fold = self._folds.get(run_id)
        if fold is None or fold.events != events:
            fold = self._replayed(connection, run_id) if events else RunFold(run_id)
            fold.changed()  # these rows are there; from here on it gives what differs from them
            self._folds[run_id] = fold
        self._folds.move_to_end(run_id)
        return fold

    def _replayed(self, connection: Connection, run_id: str) -> RunFold:
        fold = RunFold(run_id)
        for producer, seq, event in self._log.replay(connection, run_id):
            fold.add(producer, seq, event)
        return fold

    def _forget_old_folds(self) -> None:
        kept = sum(fold.events for fold in self._folds.values())
        while kept > CACHED_EVENTS and len(self._folds) > 1:
            kept -= self._folds.popitem(last=False)[1].events

    def _sort_out(
        self, connection: Connection, arrivals: list[Arrival], folds: dict[str, RunFold], contested: bool
    ) -> _Sorted:
        """Tell new events from those that are there. `contested`: ask the log about every key."""
        suspects = [
            (a.producer, a.seq) for a in arrivals if contested or folds[a.run_id].holds(a.producer, a.seq)
        ]
        known = self._log.hashes(connection, suspects)
        new: list[Arrival] = []
        conflicts: list[Refusal] = []
        for arrival in arrivals:
            there = known.setdefault((arrival.producer, arrival.seq), arrival.sha256)
            if there is arrival.sha256:  # put there just now, by this very event
                new.append(arrival)
            elif there != arrival.sha256:
                conflicts.append(Refusal("conflict", arrival.row[-1].encode()))
        return _Sorted(new, len(arrivals) - len(new) - len(conflicts), conflicts)

    def _show(
        self, connection: Connection, folds: list[RunFold], stored: dict[str, tuple[int, Identity]]
    ) -> None:
        """Write what changed in the views, `stored` being what they show so far."""
        moved: list[Identity] = []
        for fold in folds:
            before = stored.get(fold.run_id, _NEW)[1]
            if before != fold.identity:
                moved += [before, fold.identity]
        self._lock(connection, (_lock_key(repository) for repository, _ in moved if repository))
        for fold in folds:
            self._views.write(connection, fold.changed())
        self._views.join_commits(connection, moved)

    # --- rows again, and what is there -----------------------------------------------------------

    def rebuild(self) -> None:
        """Drop the views and fold all events again, in one transaction. Raises `JournalUnreachable`."""
        with self._writer, database.reachable(self.engine), database.writing(self.engine) as connection:
            self._folds.clear()
            if self.engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _REBUILD_LOCK})
            self._views.clear(connection)
            for run in self._log.runs(connection):
                self._views.write(connection, self._replayed(connection, run).changed())
            self._views.join_commits(connection, self._views.identities(connection))

    def held(self, run_id: str) -> dict[str, list[tuple[int, int]]]:
        """Producer → ranges of sequence numbers, both ends included, that are stored of a run."""
        with database.reachable(self.engine), self.engine.connect() as connection:
            return self._log.held(connection, run_id)


_NEW: tuple[int, Identity] = (0, (None, None))
"""What the views show of a run that is not there: no events, no repository, no commit."""


def _decode_all(bodies: Sequence[bytes]) -> tuple[list[Arrival], list[Refusal]]:
    arrivals: list[Arrival] = []
    refusals: list[Refusal] = []
    for body in bodies:
        try:
            arrivals.append(decode(body))
        except EventError as error:
            refusals.append(Refusal(str(error), body))
    return arrivals, refusals


def _lock_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _is_deadlock(error: BaseException) -> bool:
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) == _DEADLOCK
