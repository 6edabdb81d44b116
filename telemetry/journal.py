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
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from agent_shim.errors import EventError, JournalUnreachable

from . import database
from .event_log import Arrival, EventLog, EventValues, Refusal, decode, runs_named
from .projections import RunFold
from .rows import at
from .views import Identity, Views

CACHED_EVENTS = 50_000
"""Events in the folds that are kept between batches: about 1.7 kB of memory each."""

_ATTEMPTS = 5
"""How often a transaction is tried that PostgreSQL gave up, or that met another writer of its numbers."""

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


class Delivery(NamedTuple):
    """What came at once from one place."""

    bodies: Sequence[bytes]
    source: str
    """Where they came from, for the quarantine."""


class _Sorting(NamedTuple):
    """The events of a delivery."""

    new: list[EventValues]
    again: list[Arrival]
    """Under numbers that are taken, by the same event or by another."""
    refused: list[Refusal]


class _Opened(NamedTuple):
    """A run that this transaction has alone."""

    fold: RunFold
    shown: Identity
    """The repository and commit that its row has so far."""


_Key = tuple[str, int]
"""Producer and number."""


class _Contested(JournalUnreachable):
    """A number that is free in its run is taken: its producer wrote under another run's name as well."""


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
        return self.ingest_together([Delivery(bodies, source)])[0]

    def ingest_together(self, deliveries: Sequence[Delivery]) -> list[Ingested]:
        """`ingest` for each, in one transaction: one wait for the disk, and all or nothing."""
        with self._writer, database.reachable(self.engine):
            contested = False
            for _ in range(_ATTEMPTS):
                try:
                    with database.writing(self.engine) as connection:
                        return self._ingest(connection, deliveries, contested)
                except BaseException as error:
                    self._folds.clear()  # they may hold events that were rolled back
                    contested = contested or isinstance(error, _Contested)
                    if not isinstance(error, _Contested) and not _is_deadlock(error):
                        raise
            raise JournalUnreachable("Other processes keep writing the same events.", hint="Try again.")

    def _ingest(
        self, connection: Connection, deliveries: Sequence[Delivery], contested: bool
    ) -> list[Ingested]:
        """`contested`: ask the log about every number, beyond what the folds of the runs know."""
        self._share(connection)
        bodies = [body for delivery in deliveries for body in delivery.bodies]
        opened = self._open_runs(connection, runs_named(bodies))
        taken = set(self._log.hashes(connection, _keys(bodies))) if contested else None
        found = [self._take(connection, delivery, opened, taken) for delivery in deliveries]
        new = [row for sorting in found for row in sorting.new]
        if self._log.append(connection, new) != len(new):
            raise _Contested("A sequence number is used by two runs.", hint="Try again.")
        self._show(connection, [opened[run] for run in sorted({row[2] for row in new})])
        ingested = [self._told(connection, *pair) for pair in zip(deliveries, found, strict=True)]
        self._forget_old_folds(opened)
        return ingested

    def _take(
        self, connection: Connection, delivery: Delivery, opened: dict[str, _Opened], taken: set[_Key] | None
    ) -> _Sorting:
        """Fold what is new. `taken`: the numbers that are stored, where runs contest one."""
        new: list[EventValues] = []
        again: list[Arrival] = []
        refused: list[Refusal] = []
        for body in delivery.bodies:
            try:
                arrival = decode(body)
            except EventError as error:
                refused.append(Refusal(str(error), body))
                continue
            row, event = arrival
            run = row[2]
            if run not in opened:
                opened |= self._open_runs(connection, [run])
            # Folded at once, so that its many small objects are gone before those of the next are made.
            is_taken = taken is not None and row[:2] in taken
            if is_taken or not opened[run].fold.add(row[0], row[1], event):
                again.append(arrival)
                continue
            new.append(row)
            if taken is not None:
                taken.add(row[:2])
        return _Sorting(new, again, refused)

    def _told(self, connection: Connection, delivery: Delivery, found: _Sorting) -> Ingested:
        """What became of a delivery, once its events are stored; the rest goes into quarantine."""
        conflicts = self._log.conflicts(connection, found.again)
        self._log.quarantine(connection, found.refused + conflicts, delivery.source, at(self._clock()))
        duplicates = len(found.again) - len(conflicts)
        return Ingested(len(found.new), duplicates, len(conflicts), len(found.refused))

    def _open_runs(self, connection: Connection, run_ids: Iterable[str]) -> dict[str, _Opened]:
        """Have these runs alone, and know what is stored of them."""
        runs = sorted(run_ids)
        self._lock(connection, map(_lock_key, runs))
        stored = self._views.runs(connection, runs)
        opened = {}
        for run in runs:
            events, shown = stored.get(run, _NEW)
            opened[run] = _Opened(self._fold(connection, run, events), shown)
        return opened

    def _share(self, connection: Connection) -> None:
        """Keep a rebuild out until the end."""
        if self.engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": _REBUILD_LOCK})

    def _lock(self, connection: Connection, keys: Iterable[int]) -> None:
        """Have what the keys stand for alone until the end. SQLite has one writer at a time anyway."""
        if self.engine.dialect.name == "postgresql":
            ordered = sorted(set(keys))  # all writers lock in this order, so that none waits in a ring
            lock = text("SELECT pg_advisory_xact_lock(key) FROM unnest(CAST(:keys AS bigint[])) AS key")
            connection.execute(lock, {"keys": ordered})

    def _fold(self, connection: Connection, run_id: str, events: int) -> RunFold:
        """The run as it is stored: `events` of them; another process may have added some."""
        fold = self._folds.get(run_id)
        if fold is not None and fold.events < events:
            self._catch_up(connection, fold)
        if fold is None or fold.events != events:
            fold = self._replayed(connection, run_id) if events else RunFold(run_id)
            fold.changed()  # these rows are there; from here on it gives what differs from them
            self._folds[run_id] = fold
        self._folds.move_to_end(run_id)
        return fold

    def _catch_up(self, connection: Connection, fold: RunFold) -> None:
        """Add the events that another process stored since; their rows are there."""
        for producer, ranges in self._log.held(connection, fold.run_id).items():
            lacking = [
                seq for low, high in ranges for seq in range(low, high + 1) if not fold.holds(producer, seq)
            ]
            if lacking:
                for seq, event in self._log.replay_part(connection, producer, lacking[0], lacking[-1]):
                    if not fold.holds(producer, seq):
                        fold.add(producer, seq, event)
        fold.changed()

    def _replayed(self, connection: Connection, run_id: str) -> RunFold:
        fold = RunFold(run_id)
        for producer, seq, event in self._log.replay(connection, run_id):
            fold.add(producer, seq, event)
        return fold

    def _forget_old_folds(self, needed: Container[str]) -> None:
        """Let go of the folds that were not needed for longest; those of this batch stay."""
        kept = sum(fold.events for fold in self._folds.values())
        for run in [run for run in self._folds if run not in needed]:
            if kept <= CACHED_EVENTS:
                return
            kept -= self._folds.pop(run).events

    def _show(self, connection: Connection, changed: list[_Opened]) -> None:
        """Write what changed in the views."""
        moved = [i for fold, shown in changed if fold.identity != shown for i in (shown, fold.identity)]
        self._lock(connection, (_lock_key(repository) for repository, _ in moved if repository))
        self._views.write(connection, [fold.changed() for fold, _ in changed])
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
                self._views.write(connection, [self._replayed(connection, run).changed()])
            self._views.join_commits(connection, self._views.identities(connection))

    def held(self, run_id: str) -> dict[str, list[tuple[int, int]]]:
        """Producer → ranges of sequence numbers, both ends included, that are stored of a run."""
        with database.reachable(self.engine), self.engine.connect() as connection:
            return self._log.held(connection, run_id)


_NEW: tuple[int, Identity] = (0, (None, None))
"""What the views show of a run that is not there: no events, no repository, no commit."""


def _keys(bodies: Sequence[bytes]) -> Iterator[tuple[str, int]]:
    """Producer and number of each event."""
    for body in bodies:
        with suppress(EventError):
            yield decode(body).row[:2]


def _lock_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _is_deadlock(error: BaseException) -> bool:
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) == _DEADLOCK
