"""OTLP and events, both directions side by side. Pure: bytes in, values out, nothing is sent or stored.

An event travels as one log record: its name as event name, its time, the trace and span it belongs to,
four attributes that say which event it is, and its canonical JSON *verbatim* as the text of the body. So
nothing is taken apart and put together on the way, and the hash of the body is the same at both ends.

Promises:

* `decode_logs` gives the body of every record that is one of ours, whatever has happened to it; whether
  it is a sound event is for the journal to judge, which keeps what is not.
* Records and spans of others are never taken for ours, and never an error. What they say of calls becomes
  events (`telemetry.received`), the others are counted.
* What cannot be decoded as a whole request raises `EventError`, and nothing of it is given.

Format: opentelemetry-proto v1.11.0, ``docs/specification.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from agent_shim import attributes, events
from agent_shim.errors import EventError
from telemetry import agent_logs
from telemetry.aliases import KEPT
from telemetry.otlp_values import descend, integer, json_values, keys, member, unhex, values
from telemetry.received import Foreign, ForeignLog, is_genai, log_event, to_event

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

MAX_MESSAGE = 1024
"""Characters of a message in an answer; answers stay far below the 4 MiB that clients read."""

_SPAN_BEGINS = events.BEGINS - {events.name_of(events.RequestStarted)}
_ERROR = 2
_ERROR_IN_JSON = (_ERROR, "STATUS_CODE_ERROR")
"""OTLP/JSON wants the number; who writes the name all the same tells of a failure."""
_MARKS = frozenset((attributes.PRODUCER, attributes.SEQ))
_ALL_MARKS = _MARKS | {attributes.RUN}
_RUN = (attributes.RUN,)
_EVENT_NAME = ("event.name",)

Request = TypeVar("Request", ExportLogsServiceRequest, ExportTraceServiceRequest, ExportMetricsServiceRequest)


# --- event → log record -------------------------------------------------------------------------


class Record(NamedTuple):
    """One event as the fields of a log record."""

    event_name: str
    time_ns: int
    trace_id: str
    span_id: str | None
    """The span that the event begins or ends, else the one inside which it happened."""
    attributes: dict[str, str | int]
    body: str


def to_record(body: bytes, trace_id: str | None = None) -> Record:
    """The log record of one event. `trace_id` is that of its run where the run joined a trace.

    Raises `EventError` when `body` is not an event in a form that can be named on the wire.
    """
    try:
        event = json.loads(body)
        marks: dict[str, str | int] = {
            attributes.RUN: str(event["run"]),
            attributes.PRODUCER: str(event["producer"]),
            attributes.SEQ: int(event["seq"]),
            attributes.VERSION: int(event["v"]),
        }
        name, time_ns = str(event["name"]), max(int(event["time"]), 0)
        name.encode()  # a lone surrogate in it would destroy the whole batch that it is sent in
        return Record(name, time_ns, trace_id or str(event["run"]), _span_of(event), marks, body.decode())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise EventError(f"not an event: {error!r}") from error


def _span_of(event: dict[str, Any]) -> str | None:
    name, begin = event["name"], event.get("begin")
    if name in _SPAN_BEGINS:
        return events.span_id(events.event_id(event["producer"], event["seq"]))
    if begin and events.BEGIN_OF.get(name) in _SPAN_BEGINS:
        return events.span_id(begin)
    parent = event.get("parent")
    return events.span_id(parent) if parent else None


def encode_bodies(bodies: Iterable[bytes]) -> bytes:
    """An export request in protobuf that brings these bodies as they are, also those that are no event.

    `to_record` leaves those out: they have no name on the wire. Here the journal behind the sink is the
    journal of whoever sends, and keeps them in quarantine as it does its own.
    """
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    scope.scope.name = attributes.SCOPE
    for body in bodies:
        record = scope.log_records.add()
        try:
            record.body.string_value = body.decode()
        except UnicodeDecodeError:
            record.body.bytes_value = body
    encoded: bytes = request.SerializeToString()
    return encoded


# --- log records → events -----------------------------------------------------------------------


class Logs(NamedTuple):
    """What a request of log records held."""

    bodies: list[bytes]
    """Event bodies: ours verbatim in the order of the request, those made of others' records among them."""
    foreign: int
    """Records of others that are about something else."""
    received: int
    """Records of others that became events."""


_Record = tuple[bytes | None, ForeignLog | None]
"""The body of one of ours, or what another one says that is kept."""


def decode_logs(data: bytes, content_type: str) -> Logs:
    """The events in an export request; raises `EventError` when it cannot be decoded."""
    bodies, received, foreign = [], 0, 0
    records = _protobuf_records(data) if content_type == PROTOBUF else _json_records(data)
    for body, other in records:
        made = log_event(other) if body is None and other else body
        if made is None:
            foreign += 1
            continue
        bodies.append(made)
        received += body is None
    return Logs(bodies, foreign, received)


def _protobuf_records(data: bytes) -> Iterator[_Record]:
    for resource in _parse(ExportLogsServiceRequest(), data).resource_logs:
        run = values(resource.resource.attributes, _RUN).get(attributes.RUN, "")
        for scope in resource.scope_logs:
            is_ours = scope.scope.name == attributes.SCOPE
            for record in scope.log_records:
                body = record.body
                if not (is_ours or _is_ours(scope.scope.name, (item.key for item in record.attributes))):
                    yield None, _protobuf_log(record, scope.scope, run)
                elif body.HasField("string_value"):
                    yield body.string_value.encode(), None
                elif body.HasField("bytes_value"):
                    yield body.bytes_value, None
                else:  # someone on the way changed it; kept whole, for the quarantine
                    yield record.SerializeToString(), None


def _protobuf_log(record: Any, scope: Any, run: Any) -> ForeignLog | None:
    told = values(record.attributes, _EVENT_NAME).get("event.name")
    log = agent_logs.known((told, record.event_name, record.body.string_value))
    if log is None:
        return None
    time_ns = record.time_unix_nano or record.observed_time_unix_nano
    given = values(record.attributes, agent_logs.KEPT[log])
    return ForeignLog(
        log, time_ns, _hex(record.trace_id, 16), _hex(record.span_id, 8), given, scope.name, scope.version,
        str(run),
    )  # fmt: skip


def _json_records(data: bytes) -> Iterator[_Record]:
    for resource in descend(_load(data), "resourceLogs"):
        run = json_values(member(resource, "resource"), _RUN).get(attributes.RUN, "")
        for scope in descend(resource, "scopeLogs"):
            for record in descend(scope, "logRecords"):
                if not _is_ours(member(scope, "scope").get("name"), keys(record)):
                    yield None, _json_log(record, member(scope, "scope"), run)
                    continue
                text = member(record, "body").get("stringValue")
                if not isinstance(text, str):
                    text = json.dumps(record)
                yield text.encode(errors="surrogatepass"), None


def _json_log(record: dict[str, Any], scope: dict[str, Any], run: Any) -> ForeignLog | None:
    told = json_values(record, _EVENT_NAME).get("event.name")
    log = agent_logs.known((told, record.get("eventName"), member(record, "body").get("stringValue")))
    if log is None:
        return None
    time_ns = integer(record.get("timeUnixNano")) or integer(record.get("observedTimeUnixNano"))
    return ForeignLog(
        log, time_ns, _hex(unhex(record.get("traceId")), 16), _hex(unhex(record.get("spanId")), 8),
        json_values(record, agent_logs.KEPT[log]), str(scope.get("name", "")), str(scope.get("version", "")),
        str(run),
    )  # fmt: skip


def _is_ours(scope: str | None, names: Iterable[str]) -> bool:
    """By scope, or by attributes where what stands between dropped it.

    Of another scope, only what has a producer is ours: others repeat the attributes of their resource, the
    run among them, on each record.
    """
    return scope == attributes.SCOPE or not (_MARKS if scope else _ALL_MARKS).isdisjoint(names)


# --- spans and metrics --------------------------------------------------------------------------


class Spans(NamedTuple):
    """What a request of spans held."""

    own: int
    """Spans that were folded from our events, which say more."""
    foreign: int
    """Spans of others that are about something else."""
    invalid: int
    """Spans whose trace or span id is of the wrong length, not hexadecimal, or zero."""
    events: list[bytes]
    """Spans of GenAI operations, as bodies of events (`telemetry.received`)."""


def decode_spans(data: bytes, content_type: str) -> Spans:
    """The spans in an export request; raises `EventError` when it cannot be decoded."""
    own = foreign = invalid = 0
    bodies: list[bytes] = []
    found = _protobuf_spans(data) if content_type == PROTOBUF else _json_spans(data)
    for is_ours, trace_id, span_id, span in found:
        if not (_is_id(trace_id, 16) and _is_id(span_id, 8)):
            invalid += 1
        elif is_ours:
            own += 1
        elif span is None:
            foreign += 1
        else:
            bodies.append(to_event(span))
    return Spans(own, foreign, invalid, bodies)


_Span = tuple[bool, bytes, bytes, Foreign | None]
"""Whether it is ours, its ids, and all of it where it is a GenAI operation of others."""


def _protobuf_spans(data: bytes) -> Iterator[_Span]:
    for resource in _parse(ExportTraceServiceRequest(), data).resource_spans:
        run = values(resource.resource.attributes, _RUN).get(attributes.RUN, "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                is_ours = _is_ours(scope.scope.name, (item.key for item in span.attributes))
                given = {} if is_ours else values(span.attributes, KEPT)
                yield is_ours, span.trace_id, span.span_id, (
                    Foreign(
                        span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.name,
                        span.start_time_unix_nano, span.end_time_unix_nano, span.status.code == _ERROR,
                        span.status.message, given, scope.scope.name, scope.scope.version, str(run),
                    )
                    if is_genai(given)
                    else None
                )  # fmt: skip


def _json_spans(data: bytes) -> Iterator[_Span]:
    for resource in descend(_load(data), "resourceSpans"):
        run = json_values(member(resource, "resource"), _RUN).get(attributes.RUN, "")
        for scope in descend(resource, "scopeSpans"):
            for span in descend(scope, "spans"):
                is_ours = _is_ours(member(scope, "scope").get("name"), keys(span))
                given = {} if is_ours else json_values(span, KEPT)
                foreign = _json_foreign(span, member(scope, "scope"), given, run) if is_genai(given) else None
                yield is_ours, unhex(span.get("traceId")), unhex(span.get("spanId")), foreign


def _json_foreign(span: dict[str, Any], scope: dict[str, Any], given: dict[str, Any], run: Any) -> Foreign:
    status = member(span, "status")
    return Foreign(
        unhex(span.get("traceId")).hex(), unhex(span.get("spanId")).hex(),
        unhex(span.get("parentSpanId")).hex(), str(span.get("name", "")),
        integer(span.get("startTimeUnixNano")), integer(span.get("endTimeUnixNano")),
        status.get("code") in _ERROR_IN_JSON, str(status.get("message", "")), given,
        str(scope.get("name", "")), str(scope.get("version", "")), str(run),
    )  # fmt: skip


def _is_id(value: bytes, length: int) -> bool:
    return len(value) == length and any(value)


def _hex(value: bytes, length: int) -> str:
    """The id of a log record, or empty where it has none: to have one is not asked of it."""
    return value.hex() if _is_id(value, length) else ""


def decode_metrics(data: bytes, content_type: str) -> int:
    """How many metrics an export request holds; raises `EventError` when it cannot be decoded."""
    if content_type == JSON:
        return sum(1 for _ in descend(_load(data), "resourceMetrics", "scopeMetrics", "metrics"))
    request = _parse(ExportMetricsServiceRequest(), data)
    return sum(len(scope.metrics) for item in request.resource_metrics for scope in item.scope_metrics)


# --- answers ------------------------------------------------------------------------------------


def success(content_type: str, message: str = "", rejected_spans: int = 0) -> bytes:
    """The body of a 200. Without a message it is full success; with one and nothing rejected, a warning.

    The three services answer with messages of one shape (same field numbers), so one serves all in
    protobuf; in JSON the counts of spans and of log records have names of their own, and only spans are
    ever rejected: a log record that is no event is kept.
    """
    message = message[:MAX_MESSAGE]
    if content_type == PROTOBUF:
        response = ExportTraceServiceResponse()
        if message or rejected_spans:
            response.partial_success.rejected_spans = rejected_spans
            response.partial_success.error_message = message
        encoded: bytes = response.SerializeToString()
        return encoded
    partial = {"rejectedSpans": str(rejected_spans)} if rejected_spans else {}
    if message:
        partial["errorMessage"] = message
    return json.dumps({"partialSuccess": partial} if partial else {}).encode()


def failure(content_type: str, code: int, message: str) -> bytes:
    """The body of a 4xx or 5xx: a ``google.rpc.Status``. `code` is one of ``google.rpc.Code``."""
    message = message[:MAX_MESSAGE]
    if content_type == PROTOBUF:
        encoded: bytes = Status(code=code, message=message).SerializeToString()
        return encoded
    return json.dumps({"code": code, "message": message}).encode()


def message_of(body: bytes, content_type: str) -> str:
    """The message in what `failure` gives; empty when it is something else."""
    try:
        if content_type == PROTOBUF:
            return str(Status.FromString(body).message)
        return str(_load(body)["message"])
    except (DecodeError, EventError, KeyError, TypeError):
        return ""


# --- the two encodings --------------------------------------------------------------------------


def _parse(request: Request, data: bytes) -> Request:
    try:
        request.ParseFromString(data)
    except DecodeError as error:
        raise EventError(f"not an export request in protobuf: {error}") from error
    return request


def _load(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EventError(f"not an export request in JSON: {error}") from error
