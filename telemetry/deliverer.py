"""The deliverer: takes events from the spool to where they go. One process per data folder.

Promises, each a test in ``tests/test_deliverer.py``:

* Every event in the spool reaches the journal exactly once, whenever whoever is killed: what was sent is
  noted after the journal has committed it, and what is sent again is recognised there.
* Begin events of a process that is gone get their end: its producer is sealed.
* A run that is complete everywhere is moved to ``delivered``; one whose journal or endpoint cannot be
  reached stays, is tried again with growing pauses, and holds up no other.
* It ends when there is nothing left to do, or when the rest cannot be done now; the next run or command
  goes on from there. Killing it loses nothing.

``deliverer.log`` in the data folder says what could not be delivered, and why.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from agent_shim import spool
from agent_shim.errors import AgentTelemetryError, JournalUnreachable
from agent_shim.redaction import Redactor, live_secrets
from telemetry import handover, places
from telemetry.exports import OTLP, ExportThread
from telemetry.settings import VERSION, Endpoint, Settings, is_remote, without_password
from telemetry.spooled import Run, forget_positions

if TYPE_CHECKING:
    from telemetry.exporter import Exporter
    from telemetry.journal import Ingested

JOURNAL = "journal"
"""Name of this destination in the positions."""
POLL_S = 0.25
"""Half of it is the mean time from an event to the journal."""
_BUSY_S = 0.05
"""While there is something to do: small enough for the end of a run, which takes three looks."""
_PROBED_S = 0.2
"""Whoever asks whether there is a deliverer holds the lock for a moment; that is no deliverer."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
PATIENCE_S = 120.0
"""How long destinations are tried once every producer is gone; then the next command tries again."""
OURS = 125


class Delivered(NamedTuple):
    """What a synchronous delivery came to."""

    events: int
    """How many events were brought to a journal."""
    waiting: Mapping[str, str]
    """Run → why some of its events are not in the journal."""


class Target(Protocol):
    """A journal that takes events: a database, or the sink before one."""

    def ingest(self, bodies: Sequence[bytes], source: str, /) -> Ingested:
        """As `Journal.ingest`."""
        ...

    def held(self, run_id: str) -> dict[str, list[tuple[int, int]]]:
        """As `Journal.held`."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Journals:
    """The journals that runs go to, opened once; one that cannot be reached is left alone for a while."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._open: dict[str, Target] = {}
        self._pauses: dict[str, float] = {}
        self._again_at: dict[str, float] = {}
        self._why: dict[str, str] = {}

    def get(self, place: str) -> Target:
        """The journal at a place without password. Raises what kept it from being opened."""
        if time.monotonic() < self._again_at.get(place, 0.0):
            raise JournalUnreachable(self._why[place])
        if place not in self._open:
            self._open[place] = self._opened(places.with_secret(place, [self._settings.journal]))
        return self._open[place]

    def _opened(self, place: str) -> Target:
        from telemetry.journal import Journal
        from telemetry.remote import RemoteJournal

        return RemoteJournal(place, self._environ) if is_remote(place) else Journal.open(place)

    def reached(self, place: str) -> None:
        self._pauses.pop(place, None)

    def failed(self, place: str, why: str) -> None:
        """Let go of a journal, which may be moved away now, and leave it alone, each time twice as long."""
        if place in self._open:
            self._open.pop(place).close()
        if time.monotonic() >= self._again_at.get(place, 0.0):
            pause = self._pauses.get(place, FIRST_PAUSE_S / 2) * 2
            self._pauses[place] = min(pause, LONGEST_PAUSE_S)
            self._again_at[place] = time.monotonic() + self._pauses[place]
            self._why[place] = why

    def close(self) -> None:
        for journal in self._open.values():
            journal.close()


class Deliverer:
    """Delivers the spools of one data folder. Whoever makes one holds the lock."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        exports: bool,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._home = settings.home
        self._redact = Redactor(live_secrets(environ))
        self._say = say
        self._journals = Journals(settings, environ)
        self._runs: dict[str, Run] = {}
        self._sweep()
        self._seals: dict[str, spool.Spool] = {}
        self._exports = ExportThread(self._exporter, self._tell) if exports else None
        if self._exports:
            self._exports.start()
        self.events = 0
        self.waiting: dict[str, str] = {}

    def _sweep(self) -> None:
        """Remove the positions of runs whose deliverer was killed when it had moved them."""
        for name in set(places.positioned(self._home)) - set(places.runs(self._home)):
            with suppress(OSError):  # they are in nobody's way
                forget_positions(self._home, name)

    # --- one look at everything --------------------------------------------------------------------

    def cycle(self) -> bool:
        """Bring what is new of every run; whether anything was."""
        progress = False
        for name in places.runs(self._home):
            run = self._runs.setdefault(name, Run(self._home, name))
            try:
                progress |= self._deliver(run)
                self.waiting.pop(name, None)
            except Exception as error:  # noqa: BLE001 - one run's trouble never holds up another's
                self._note(name, error)
        return progress

    def _tell(self, line: str) -> None:
        self._say(self._redact(line))

    def _note(self, name: str, error: Exception) -> None:
        known = isinstance(error, (AgentTelemetryError, OSError))
        why = self._redact(str(error) if known else f"{type(error).__name__}: {error}")
        if self.waiting.get(name) != why:
            self._tell(f"run {name}: {why}")
        self.waiting[name] = why

    def _deliver(self, run: Run) -> bool:
        run.refresh()
        destination = places.destination(self._home, run.run) or places.destination_of(self._settings)
        exports = bool(destination.logs or destination.traces)
        if exports and self._exports:
            self._exports.take(run, destination)
        if self._seal(run):
            run.refresh()
        progress = self._to_journal(run, destination)
        if not run.producers or run.unsealed() or not run.is_delivered(JOURNAL):
            return progress
        if exports and not self._is_exported(run):
            return progress
        return self._retire(run) or progress

    def _to_journal(self, run: Run, destination: places.Destination) -> bool:
        batches = {p: p.batch(p.position(JOURNAL)) for p in run.producers.values()}
        bodies = [body for batch in batches.values() for body in batch.bodies]
        if not bodies:
            return False
        place = destination.journal
        try:
            journal = self._journals.get(place)
            if places.destination(self._home, run.run) is None:
                places.write_destination(self._home, run.run, destination)  # what follows goes there too
            ingested = journal.ingest(bodies, f"spool {run.run}")
        except AgentTelemetryError as error:
            self._journals.failed(place, str(error))
            raise
        self._journals.reached(place)
        self.events += ingested.new
        for producer, batch in batches.items():
            if batch.bodies:
                producer.keep(JOURNAL, batch.end)
        return True

    def _seal(self, run: Run) -> bool:
        """Seal the producers that are gone without a word; whether there were any."""
        own = self._seals[run.run].producer if run.run in self._seals else None
        others = [producer for producer in run.unsealed() if producer.producer != own]
        deaths = {producer.producer: producer.death() for producer in others}
        written = {name for name, death in deaths.items() if death and self._seal_of(run.run).append(death)}
        if run.run in self._seals and written == deaths.keys():
            self._seals[run.run].seal()  # nothing is left to be sealed, so this one is done too
        return bool(written)

    def _seal_of(self, run: str) -> spool.Spool:
        if run not in self._seals:
            folder = places.spool_folder(self._home)
            self._seals[run] = spool.Spool(
                folder, run, role="deliverer", redact=self._redact, version=VERSION
            )
        return self._seals[run]

    def _is_exported(self, run: Run) -> bool:
        return self._exports is not None and run.is_delivered(OTLP) and self._exports.is_over(run.run)

    def _retire(self, run: Run) -> bool:
        if not run.retire():
            return False
        self._runs.pop(run.run, None)
        self._seals.pop(run.run, None)
        if self._exports:
            self._exports.drop(run.run)
        return True

    def _exporter(self, destination: places.Destination) -> Exporter:
        from telemetry.exporter import Exporter

        return Exporter(
            logs=self._with_secret(destination.logs, "logs"),
            traces=self._with_secret(destination.traces, "traces"),
        )

    def _with_secret(self, end: Endpoint | None, signal: str) -> Endpoint | None:
        ours = self._settings.otlp(signal)
        return end._replace(url=places.with_secret(end.url, [ours.url] if ours else [])) if end else None

    # --- until there is nothing left ---------------------------------------------------------------

    def follow(self, patience_s: float = PATIENCE_S) -> None:
        """Go on until every run is delivered, or what is left makes no progress for `patience_s`."""
        since = time.monotonic()
        while True:
            progress = self.cycle()
            if progress or self._is_anyone_alive():
                since = time.monotonic()
            if not self._left() or time.monotonic() - since > patience_s:
                return
            time.sleep(_BUSY_S if progress else POLL_S)

    def settle(self, until: float) -> None:
        """Bring everything that is there now; give up at `until`, or when only the unreachable is left."""
        wanted = _sizes(self._home)
        while self.cycle() and time.monotonic() < until:
            if all(run.unsealed() for run in self._left()) and not _behind(self._home, wanted):
                return  # what comes from here on is new

    def left(self) -> set[str]:
        """The runs that this deliverer knows of and has not delivered."""
        return {run.run for run in self._left()}

    def _left(self) -> list[Run]:
        return [run for run in self._runs.values() if run.producers]

    def _is_anyone_alive(self) -> bool:
        own = {seal.producer for seal in self._seals.values()}
        return any(run.is_alive(without=own) for run in self._left())

    def close(self) -> None:
        """Seal what this process wrote itself, and let go of the journals."""
        for seal in self._seals.values():
            seal.seal()
        self._journals.close()
        if self._exports:
            self._exports.close()


def deliver(
    settings: Settings, environ: Mapping[str, str], *, limit_s: float = 10.0, follow: bool = True
) -> Delivered:
    """Bring what is in the spool to the journal, within `limit_s`, and say what could not be brought.

    For commands that read. If another deliverer is at work, it is waited for. `follow` leaves what takes
    longer, such as an OpenTelemetry endpoint or an agent that still runs, to a process of its own.
    """
    until = time.monotonic() + limit_s
    if not places.runs(settings.home):
        return Delivered(0, {})
    ours = without_password(settings.journal)  # a run that goes elsewhere is nothing to wait for
    wanted = {run: sizes for run, sizes in _sizes(settings.home).items() if _goes_to(settings, run) == ours}
    while True:
        try:
            held = handover.lock(settings.home)
        except OSError as error:
            why = f"{settings.home} cannot be written: {error.strerror}"
            return Delivered(0, dict.fromkeys(_behind(settings.home, wanted), why))
        if held is not None:
            break
        behind = _behind(settings.home, wanted)
        if not behind or time.monotonic() >= until:
            return Delivered(0, dict.fromkeys(behind, "another process is still delivering it"))
        time.sleep(POLL_S / 4)
    deliverer = Deliverer(settings, environ, exports=False)
    try:
        deliverer.settle(until)
    finally:
        deliverer.close()
        os.close(held)
    left = places.runs(settings.home)
    if follow and left:
        handover.start(settings, environ)
    return Delivered(deliverer.events, {run: why for run, why in deliverer.waiting.items() if run in left})


def _goes_to(settings: Settings, run: str) -> str:
    return (places.destination(settings.home, run) or places.destination_of(settings)).journal


def _sizes(home: Path) -> dict[str, dict[str, int]]:
    sizes: dict[str, dict[str, int]] = {}
    for run in places.runs(home):
        sizes[run] = {}
        for path in places.producers(places.run_folder(home, run)):
            try:
                sizes[run][path.stem] = path.stat().st_size
            except FileNotFoundError:
                pass  # delivered and moved in this moment
    return sizes


def _behind(home: Path, wanted: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The runs whose events were there when `wanted` was taken, and are not in the journal."""
    return [
        run
        for run, sizes in wanted.items()
        if places.run_folder(home, run).exists()
        and any(places.read_positions(home, run, p).get(JOURNAL, 0) < size for p, size in sizes.items())
    ]


def main() -> int:
    """Deliver until nothing is left; the exit code. Returns at once when another deliverer is at work."""
    try:
        settings = Settings.load(os.environ)
        os.chdir("/")  # no worktree is held
        while True:
            held = handover.lock(settings.home, patience_s=_PROBED_S)
            if held is None:
                return 0
            given_up = _hold(settings)
            os.close(held)
            # A run that began while we were leaving found the lock held, and relies on us.
            if not {run for run, sizes in _sizes(settings.home).items() if sizes} - given_up:
                return 0
    except (AgentTelemetryError, OSError) as error:
        _log(f"cannot deliver: {error}")
        return OURS


def _hold(settings: Settings) -> set[str]:
    """Deliver until there is nothing left to do; the runs that could not be delivered."""
    deliverer = Deliverer(settings, os.environ, exports=True, say=_log)
    try:
        deliverer.follow()
    finally:
        deliverer.close()
    return deliverer.left()


def _log(line: str) -> None:
    sys.stderr.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} [{os.getpid()}] {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
