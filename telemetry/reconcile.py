"""Whether the journal has what the files of this machine have, and sending again what it lacks.

Promises, each with its test in ``tests/test_reconcile.py``:

* Every event in ``spool`` and ``delivered`` is compared, by producer and number, with the ranges that the
  run's journal holds; what is missing is sent, and asked for once more.
* It works through a sink as it does with a database, changes no file, and may run beside a deliverer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from agent_shim import spool
from agent_shim.errors import AgentTelemetryError, NotFound
from telemetry import places
from telemetry.deliverer import Journals, Target
from telemetry.settings import Settings
from telemetry.spooled import sequence_number

_SENT_AT_ONCE = 1000
"""Events in one batch."""

Ranges = Mapping[str, list[tuple[int, int]]]


class Reconciled(NamedTuple):
    """What a run's files and its journal came to."""

    run: str
    events: int
    """In the files; lines with a wrong checksum are none."""
    missing: int
    """Of them, how many the journal did not have."""
    lost: int | None
    """How many it still does not have; ``None`` when it could not be asked."""
    why: str | None
    """Why it could not be asked, or does not have them."""


def reconcile(settings: Settings, environ: Mapping[str, str], run: str | None = None) -> Iterator[Reconciled]:
    """Compare the files of every run, or of the one that `run` names, with their journals, oldest first."""
    journals = Journals(settings, environ)
    try:
        for name in _runs(settings.home) if run is None else [_named(settings.home, run)]:
            try:
                yield _reconciled(journals, settings, name)
            except FileNotFoundError:  # moved to `delivered` under our hands, as it is once
                yield _reconciled(journals, settings, name)
    finally:
        journals.close()


def _runs(home: Path) -> list[str]:
    delivered = home / "delivered"
    names = {entry.name for entry in delivered.iterdir()} if delivered.is_dir() else set()
    return sorted({*names, *places.runs(home)})


def _named(home: Path, name: str) -> str:
    """The one run in the data folder whose id is `name`, or begins or ends with it; ``@last`` is the newest.

    Raises `NotFound`.
    """
    if name == "@last" and (runs := _runs(home)):
        return runs[-1]  # ids begin with their time
    found = [run for run in _runs(home) if name and (run.startswith(name) or run.endswith(name))]
    if len(found) == 1:
        return found[0]
    what = f"{name!r} names {len(found)} runs" if found else f"There is no run {name!r}"
    raise NotFound(f"{what} in {home}.", hint="agent-telemetry reconcile compares all of them.")


def _reconciled(journals: Journals, settings: Settings, run: str) -> Reconciled:
    folders = [places.run_folder(settings.home, run), places.delivered_folder(settings.home, run)]
    files = {path.stem: path for folder in folders for path in places.producers(folder)}
    destination = places.destination(settings.home, run) or places.destination_of(settings)
    events = missing = 0
    try:
        journal = journals.get(destination.journal)
        held = journal.held(run)
        for producer, path in files.items():
            for _, seq in _events(path):
                events += 1
                missing += not _holds(held, producer, seq)
        if missing:
            _send(journal, run, files, held)
            held = journal.held(run)
        lost = sum(not _holds(held, p, seq) for p, path in files.items() for _, seq in _events(path))
    except FileNotFoundError:
        raise
    except (AgentTelemetryError, OSError) as error:
        return Reconciled(run, events, missing, None, str(error))
    return Reconciled(run, events, missing, lost, "the journal keeps them in quarantine" if lost else None)


def _send(journal: Target, run: str, files: Mapping[str, Path], held: Ranges) -> None:
    batch: list[bytes] = []
    for producer, path in files.items():
        for body, seq in _events(path):
            if not _holds(held, producer, seq):
                batch.append(body)
            if len(batch) == _SENT_AT_ONCE:
                journal.ingest(batch, f"reconcile {run}")
                batch = []
    if batch:
        journal.ingest(batch, f"reconcile {run}")


def _events(path: Path) -> Iterator[tuple[bytes, int]]:
    """The events of a file with their numbers."""
    read, begun = 0, -1
    while read > begun:  # a piece of the file at a time
        begun = read
        for line in spool.read(path, begun):
            read = line.offset
            seq = sequence_number(line.body) if line.body is not None else None
            if line.body is not None and seq is not None:
                yield line.body, seq


def _holds(held: Ranges, producer: str, seq: int) -> bool:
    return any(low <= seq <= high for low, high in held.get(producer, ()))
