"""Spans, folded from the events of one run: what trace viewers are given. Pure.

Promises, each with its test in ``tests/test_spans.py``:

* The same events give the same spans, in whatever order and however often they come. Trace and span ids
  derive from the events, so spans that are made again have the same ids.
* A begin event and its end event are one span. A begin event whose producer is gone without an end is
  one too: an error of type ``interrupted`` that lasts until the producer's last event.
* A span keeps the final outcome. Requests that failed and were tried again are span events.
* The root span comes last, when every producer that the run listed is sealed and dense, with the totals
  of the run as the journal has them; `SpanFold.rest` gives what is left when no more events will come.
* Durations are differences of the monotonic clock: begin and end are events of one process.
* A span has at most `span_attributes.MAX_ATTRIBUTES` attributes, ids and tokens before all others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import chain
from typing import Any, NamedTuple

from agent_shim import attributes, events
from agent_shim.errors import EventError
from telemetry import rows, span_attributes
from telemetry.producers import listed
from telemetry.projections import RunFold
from telemetry.rows import small, text
from telemetry.span_attributes import Face, Failure, SpanEvent, Value

Event = dict[str, Any]

_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


class Span(NamedTuple):
    """One finished span."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    kind: str
    """``client`` or ``internal``."""
    start_ns: int
    end_ns: int
    error: str | None
    """Message of the failure; ``None``: it did not fail."""
    attributes: dict[str, Value]
    events: tuple[SpanEvent, ...]


class Parent(NamedTuple):
    """A W3C ``traceparent``."""

    trace_id: str
    span_id: str


def trace_parent(value: object) -> Parent | None:
    """The trace and span in a ``traceparent``; ``None`` when it is none."""
    match = _TRACE_PARENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or not match[1].strip("0") or not match[2].strip("0"):
        return None
    return Parent(match[1], match[2])


class _Producer:
    """The events of one process that are still needed."""

    __slots__ = ("_ahead", "ends", "first_call", "last", "open", "requests", "role", "sealed", "upto")

    def __init__(self) -> None:
        self.upto = 0
        """Every event up to this sequence number is here."""
        self._ahead: set[int] = set()
        self.sealed: int | None = None
        self.role: str | None = None
        self.last: Event | None = None
        self.open: dict[str, Event] = {}
        """Begin events of spans that are not closed yet."""
        self.ends: list[tuple[int, Event]] = []
        """End events that wait for what came before them; a heap."""
        self.requests: dict[str, list[Event]] = {}
        """Call → begin and end events of its requests."""
        self.first_call: dict[str, int] = {}
        """Turn → sequence number of the first call seen inside it."""

    @property
    def is_done(self) -> bool:
        return self.sealed is not None and self.upto >= self.sealed

    def take(self, event: Event) -> bool:
        """Whether the event is new."""
        seq = event["seq"]
        if seq <= self.upto or seq in self._ahead:
            return False
        self._ahead.add(seq)
        while self.upto + 1 in self._ahead:
            self.upto += 1
            self._ahead.remove(self.upto)
        if self.last is None or seq > self.last["seq"]:
            self.last = event
        return True


class SpanFold:
    """Folds the events of one run, in stored form, into spans."""

    def __init__(self) -> None:
        self._run_id: str | None = None
        self._totals = RunFold("")
        self._producers: dict[str, _Producer] = {}
        self._started: Event | None = None
        self._finished: Event | None = None
        self._root_is_made = False
        self._held: list[tuple[Event, Span]] = []
        """Begin events and spans that wait for ``run.started``: only it knows their trace."""

    @property
    def trace_id(self) -> str | None:
        """The trace of the run: its own unless it joined one. ``None`` before any event."""
        joined = trace_parent(self._started["data"].get("trace_parent")) if self._started else None
        return joined.trace_id if joined else self._run_id

    def add(self, event: Event) -> list[Span]:
        """Take one event and give the spans that are finished by it.

        Raises `EventError` when it is not an event of this run.
        """
        producer = self._producer_of(event)
        if not producer.take(event):
            return []
        self._totals.add(event["producer"], event["seq"], event)
        self._note(producer, event)
        closed = list(self._closed_in(producer))
        if event["name"] == events.name_of(events.ProducerSealed):
            closed += self._closed_in(
                self._producer(text(event["data"].get("producer")) or event["producer"])
            )
        self._held += closed
        if self._root_is_due():
            self._held += self._root()
        return self._placed() if self._started else []

    def rest(self) -> list[Span]:
        """The spans that are left when no more events will come; what has no end was interrupted."""
        for producer in self._producers.values():
            self._held += self._closed_in(producer, at_last=True)
        if self._started and not self._root_is_made:
            self._held += self._root()
        return self._placed()

    # --- taking ------------------------------------------------------------------------------------

    def _producer_of(self, event: Event) -> _Producer:
        try:
            run, seq, data = event["run"], event["seq"], event["data"]
            numbers = (seq, event["time"], event["mono"])
            is_sound = all(type(number) is int for number in numbers) and seq > 0 and type(data) is dict
            is_sound = is_sound and all(type(event[key]) is str for key in ("run", "producer", "name"))
        except (KeyError, TypeError) as error:
            raise EventError(f"not an event in a form that can be folded: {error!r}") from error
        if not is_sound or (self._run_id not in (None, run)):
            raise EventError(f"not an event of the run {self._run_id}")
        if self._run_id is None:
            self._run_id, self._totals = run, RunFold(run)
        return self._producer(event["producer"])

    def _producer(self, name: str) -> _Producer:
        return self._producers.setdefault(name, _Producer())

    def _note(self, producer: _Producer, event: Event) -> None:
        name, data = event["name"], event["data"]
        if name == events.name_of(events.RunStarted):
            self._started = self._started or event
        elif name == events.name_of(events.RunFinished):
            if self._finished is None or event["seq"] < self._finished["seq"]:
                self._finished = event
        elif name in _FINE:
            producer.open[_id(event)] = event
        elif events.BEGIN_OF.get(name) in _FINE:
            heappush(producer.ends, (event["seq"], event))
        elif name == events.name_of(events.RequestStarted):
            producer.requests.setdefault(event.get("parent") or "", []).append(event)
        elif name == events.name_of(events.RequestFinished):
            producer.requests.setdefault(event.get("begin") or "", []).append(event)
        elif name == events.name_of(events.ProducerStarted):
            producer.role = text(data.get("role"))
        elif name == events.name_of(events.ProducerSealed):
            sealed = self._producer(text(data.get("producer")) or event["producer"])
            sealed.sealed = max(sealed.sealed or 0, small(data.get("last_seq")) or 0)
        if name == events.name_of(events.CallStarted) and event.get("parent"):
            first = producer.first_call.get(event["parent"], event["seq"])
            producer.first_call[event["parent"]] = min(first, event["seq"])

    # --- closing -----------------------------------------------------------------------------------

    def _closed_in(self, producer: _Producer, *, at_last: bool = False) -> Iterator[tuple[Event, Span]]:
        """The spans that can be closed: nothing that came before their end is missing."""
        while producer.ends and (at_last or producer.ends[0][0] <= producer.upto):
            end = heappop(producer.ends)[1]
            begin = producer.open.pop(end.get("begin") or "", None)
            if begin is not None:  # else ended before, or by a fork of the process that began it
                yield begin, self._span(producer, begin, end, end)
        if (at_last or producer.is_done) and producer.last is not None:
            for begin in producer.open.values():
                yield begin, self._span(producer, begin, None, producer.last)
            producer.open.clear()

    def _span(self, producer: _Producer, begin: Event, end: Event | None, last: Event) -> Span:
        kind, data, end_data = begin["name"], begin["data"], end["data"] if end else None
        if kind == events.name_of(events.TurnStarted):
            seen_on_the_wire = producer.first_call.pop(_id(begin), last["seq"]) < last["seq"]
            face = span_attributes.turn(data, end_data, seen_on_the_wire)
        else:
            face = _FACES[kind](data, end_data)
        is_call = kind == events.name_of(events.CallStarted)
        happened = tuple(_failed_requests(producer, begin, last)) if is_call else ()
        failed = span_attributes.failure(end_data, _FINE[kind])
        return self._made(begin, failed, last, face, happened)

    def _made(
        self, begin: Event, failed: Failure | None, last: Event, face: Face, happened: tuple[SpanEvent, ...]
    ) -> Span:
        marks = ((attributes.RUN, self._run_id), (attributes.ERROR_TYPE, failed.type if failed else None))
        return Span(
            trace_id="",
            span_id=events.span_id(_id(begin)),
            parent_span_id=None,
            name=span_attributes.shown(face.name),
            kind=face.kind,
            start_ns=max(begin["time"], 0),  # OTLP has no time before 1970
            end_ns=_time(begin, last),
            error=span_attributes.shown(failed.message) if failed else None,
            attributes=span_attributes.bounded(chain(marks, face.pairs)),
            events=happened,
        )

    # --- the root ----------------------------------------------------------------------------------

    def _root_is_due(self) -> bool:
        if self._started is None or self._root_is_made:
            return False
        if not self._producer(self._started["producer"]).is_done:
            return False
        if self._finished is None:
            return all(p.is_done for p in self._producers.values() if p.role != "deliverer")
        return all(self._producer(name).is_done for name in listed(self._finished["data"].get("producers")))

    def _root(self) -> Iterator[tuple[Event, Span]]:
        begin, end = self._started, self._finished
        assert begin is not None
        self._root_is_made = True
        last = end or self._producer(begin["producer"]).last or begin
        upserts = self._totals.changed().upserts
        totals, patch = _dicts("run", upserts), _dicts("patch", upserts)
        tools = any("tools" in (row["hooks_attached"] or "") for row in _dicts("producer", upserts))
        call = span_attributes.last_call(_dicts("llm_call", upserts))
        face = span_attributes.run(
            begin["data"],
            end["data"] if end else None,
            {**(totals[0] if totals else {}), "patch": patch[0] if patch else None, "tools_hooked": tools},
            _dicts("usage", upserts),
            call,
        )
        failed = span_attributes.run_failure(end["data"] if end else None, call)
        yield begin, self._made(begin, failed, last, face, ())

    # --- placing -----------------------------------------------------------------------------------

    def _placed(self) -> list[Span]:
        held, self._held = self._held, []
        return [self._place(begin, span) for begin, span in held]

    def _place(self, begin: Event, span: Span) -> Span:
        trace_id = self.trace_id or ""
        called_from = trace_parent(begin["data"].get("trace_parent"))
        if called_from and called_from.trace_id == trace_id:
            parent: str | None = called_from.span_id
        elif begin is self._started:
            parent = None
        elif begin.get("parent"):
            parent = events.span_id(begin["parent"])
        else:
            parent = events.span_id(_id(self._started)) if self._started else None
        return span._replace(trace_id=trace_id, parent_span_id=parent)


# Begin event → what its span says. A turn has to know more than its events, and so has the root.
_FACES: dict[str, Callable[[dict[str, Any], dict[str, Any] | None], Face]] = {
    events.name_of(events.CallStarted): span_attributes.call,
    events.name_of(events.ToolCallStarted): span_attributes.tool,
    events.name_of(events.ProcessStarted): span_attributes.process,
}

# Begin event of a span → the ways to end that are no failure.
_FINE = {
    events.name_of(events.RunStarted): span_attributes.RUN_FINE,
    events.name_of(events.CallStarted): span_attributes.CALL_FINE,
    events.name_of(events.ToolCallStarted): span_attributes.TOOL_FINE,
    events.name_of(events.ProcessStarted): span_attributes.PROCESS_FINE,
    events.name_of(events.TurnStarted): span_attributes.TURN_FINE,
}


def _id(event: Event) -> str:
    return events.event_id(event["producer"], event["seq"])


def _time(begin: Event, event: Event) -> int:
    """When `event` happened, by the clock of `begin`, which is of the same process."""
    elapsed: int = max(event["mono"] - begin["mono"], 0)
    return max(int(begin["time"]), 0) + elapsed


def _failed_requests(producer: _Producer, call: Event, last: Event) -> Iterator[SpanEvent]:
    """The requests of a call that failed, in order; its last event bounds what belongs to it."""
    started = producer.requests.pop(_id(call), [])
    for begin in sorted(started, key=lambda event: event["seq"]):
        ends = producer.requests.pop(_id(begin), [])
        for end in [event for event in ends if event["seq"] <= last["seq"]][:1]:
            found = span_attributes.failed_request(small(begin["data"].get("number")), end["data"])
            if found is not None:
                yield SpanEvent(events.name_of(events.RequestFinished), _time(call, end), found)


def _dicts(table: str, upserts: dict[str, list[tuple[Any, ...]]]) -> list[dict[str, Any]]:
    return [dict(zip(rows.COLUMNS[table], row, strict=True)) for row in upserts.get(table, [])]
