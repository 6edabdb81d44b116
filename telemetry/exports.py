"""Sending runs to an OpenTelemetry endpoint, beside the journal and never in its way.

Promises, each a test in ``tests/test_deliverer.py``:

* A thread of its own waits for the endpoint; the journal is written meanwhile.
* An endpoint that does not take one of logs and spans still gets the other.
* After a restart the spans of a run are folded again from its first event, and those that the endpoint
  already accepted are not sent again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from agent_shim.errors import AgentTelemetryError, EventError
from telemetry.places import Destination
from telemetry.spooled import Producer, Run

if TYPE_CHECKING:
    from telemetry.exporter import Exporter
    from telemetry.spans import Span, SpanFold

OTLP = "otlp"
"""Name of this destination in the positions."""
POLL_S = 0.5
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
_CLOSING_S = 2.0


class Export:
    """One run on its way to an endpoint."""

    def __init__(self, run: Run, destination: Destination) -> None:
        from telemetry.spans import SpanFold

        self.run = run
        self.destination = destination
        self.is_over = False
        """Whether the endpoint has everything of a run that is done."""
        self._fold: SpanFold = SpanFold()
        self._folded: set[str] = set()
        self._bodies: list[bytes] = []
        self._spans: list[Span] = []
        self._ends: list[tuple[Producer, int]] = []

    def send(self, exporter: Exporter, say: Callable[[str], None]) -> None:
        """Send what is new. Raises `DeliveryError`; then it is sent again at the next call."""
        self._collect()
        if self._bodies and self.destination.logs:
            self._attempt(lambda: exporter.events(self._bodies, self._fold.trace_id), say)
        self._bodies = []
        if self._spans and self.destination.traces:
            self._attempt(lambda: exporter.spans(self._spans), say)
        self._spans = []
        for producer, end in self._ends:
            producer.keep(OTLP, end)
        self._ends = []

    def finish(self, exporter: Exporter, say: Callable[[str], None]) -> None:
        """Send the spans that only the end of the run made: no more events will come."""
        self._spans += self._fold.rest()
        self.send(exporter, say)
        self.is_over = True

    def _attempt(self, send: Callable[[], Any], say: Callable[[str], None]) -> None:
        from telemetry.exporter import BatchRefused, SignalRefused

        try:
            send()
        except (SignalRefused, BatchRefused) as error:
            say(f"run {self.run.run}: {error}")  # it never will: the journal has it

    def _collect(self) -> None:
        if self._ends:
            return  # what is underway comes first
        producers = list(self.run.producers.values())
        for producer in producers:
            if producer.producer not in self._folded:
                self._folded.add(producer.producer)
                self._refold(producer)
        for producer in producers:
            start = producer.position(OTLP)
            batch = producer.batch(start)
            if batch.end > start:
                self._bodies += batch.bodies
                self._spans += self._fold_all(batch.bodies)
                self._ends.append((producer, batch.end))

    def _refold(self, producer: Producer) -> None:
        """Fold what the endpoint already has; the spans that come of it were sent."""
        at, upto = 0, producer.position(OTLP)
        while at < upto:
            batch = producer.batch(at, upto)
            self._fold_all(batch.bodies)
            at = batch.end if batch.end > at else upto

    def _fold_all(self, bodies: Iterable[bytes]) -> list[Span]:
        spans: list[Span] = []
        for body in bodies:
            try:
                spans += self._fold.add(json.loads(body))
            except (ValueError, EventError):
                pass  # no event: it is in the journal's quarantine
        return spans


class ExportThread(threading.Thread):
    """Sends every run that it is given, each endpoint with a back-off of its own."""

    def __init__(self, opened: Callable[[Destination], Exporter], say: Callable[[str], None]) -> None:
        super().__init__(name="otlp", daemon=True)
        self._opened = opened
        self._say = say
        self._exports: dict[str, Export] = {}
        self._exporters: dict[Destination, Exporter] = {}
        self._pauses: dict[Destination, float] = {}
        self._again_at: dict[Destination, float] = {}
        self._finishing: set[str] = set()
        self._over = threading.Event()

    def take(self, run: Run, destination: Destination) -> None:
        """From now on send this run."""
        if run.run not in self._exports:
            self._exports = {**self._exports, run.run: Export(run, destination)}

    def is_over(self, run: str) -> bool:
        """Whether the endpoint has all of a run that is done; asked for the first time, that is begun."""
        self._finishing.add(run)
        return self._exports[run].is_over

    def drop(self, run: str) -> None:
        """The run is done."""
        self._finishing.discard(run)
        self._exports = {name: export for name, export in self._exports.items() if name != run}

    def close(self) -> None:
        """Stop after what is underway, if that does not take long; it is sent again by the next one."""
        self._over.set()
        self.join(_CLOSING_S)

    def run(self) -> None:
        while not self._over.wait(POLL_S):
            for export in list(self._exports.values()):
                if time.monotonic() >= self._again_at.get(export.destination, 0.0):
                    self._send(export)
        for exporter in self._exporters.values():
            exporter.close()

    def _send(self, export: Export) -> None:
        destination = export.destination
        try:
            if destination not in self._exporters:
                self._exporters[destination] = self._opened(destination)
            exporter = self._exporters[destination]
            export.send(exporter, self._say)
            if export.run.run in self._finishing and not export.is_over:
                export.finish(exporter, self._say)
        except FileNotFoundError:
            pass  # moved to `delivered` under our hands
        except Exception as error:  # noqa: BLE001 - one run's trouble never holds up another's
            known = isinstance(error, AgentTelemetryError)
            self._back_off(destination, str(error) if known else f"{type(error).__name__}: {error}")
        else:
            self._pauses.pop(destination, None)

    def _back_off(self, destination: Destination, why: str) -> None:
        pause = self._pauses.get(destination)
        if pause is None:
            self._say(why)
        pause = min(2 * pause, LONGEST_PAUSE_S) if pause else FIRST_PAUSE_S
        self._pauses[destination] = pause
        self._again_at[destination] = time.monotonic() + pause
