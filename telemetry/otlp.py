"""OTLP and events, both directions side by side. Pure: bytes in, values out, nothing is sent or stored.

An event travels as one log record: its name as event name, its time, the trace and span it belongs to,
four attributes that say which event it is, and its canonical JSON *verbatim* as the text of the body. So
nothing is taken apart and put together on the way, and the hash of the body is the same at both ends.

Promises:

* `decode_logs` gives the body of every record that is one of ours, whatever has happened to it; whether
  it is a sound event is for the journal to judge, which keeps what is not.
* Records and spans of others are counted, never taken for ours, and never an error.
* What cannot be decoded as a whole request raises `EventError`, and nothing of it is given.
* OTLP/JSON is read by hand after the specification: the JSON reader of protobuf takes hexadecimal ids
  for base64 and silently gives wrong bytes. Unknown fields are ignored at every level.

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

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

MAX_MESSAGE = 1024
"""Characters of a message in an answer; answers stay far below the 4 MiB that clients read."""

_SPAN_BEGINS = events.BEGINS - {events.name_of(events.RequestStarted)}
_MARKS = frozenset((attributes.RUN, attributes.PRODUCER, attributes.SEQ))

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
    """Event bodies, verbatim, in the order of the request."""
    foreign: int
    """Records that are not ours."""


def decode_logs(data: bytes, content_type: str) -> Logs:
    """The events in an export request; raises `EventError` when it cannot be decoded."""
    bodies, foreign = [], 0
    records = _protobuf_records(data) if content_type == PROTOBUF else _json_records(data)
    for is_ours, body in records:
        if is_ours:
            bodies.append(body)
        else:
            foreign += 1
    return Logs(bodies, foreign)


def _protobuf_records(data: bytes) -> Iterator[tuple[bool, bytes]]:
    for resource in _parse(ExportLogsServiceRequest(), data).resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                if record.body.HasField("string_value"):
                    body = record.body.string_value.encode()
                elif record.body.HasField("bytes_value"):
                    body = record.body.bytes_value
                else:  # someone on the way changed it; kept whole, for the quarantine
                    body = record.SerializeToString()
                yield _is_ours(scope.scope.name, (item.key for item in record.attributes)), body


def _json_records(data: bytes) -> Iterator[tuple[bool, bytes]]:
    for scope in _descend(_load(data), "resourceLogs", "scopeLogs"):
        for record in _descend(scope, "logRecords"):
            text = _member(record, "body").get("stringValue")
            if not isinstance(text, str):
                text = json.dumps(record)
            yield (
                _is_ours(_member(scope, "scope").get("name"), _keys(record)),
                text.encode(errors="surrogatepass"),
            )


def _is_ours(scope: str | None, keys: Iterable[str]) -> bool:
    """By scope or by attributes: what stands between may drop the one or the other."""
    return scope == attributes.SCOPE or not _MARKS.isdisjoint(keys)


# --- spans and metrics --------------------------------------------------------------------------


class Spans(NamedTuple):
    """What a request of spans held: nothing of it is stored by this version."""

    own: int
    """Spans that were folded from our events, which say more."""
    foreign: int
    invalid: int
    """Spans whose trace or span id is of the wrong length, not hexadecimal, or zero."""


def decode_spans(data: bytes, content_type: str) -> Spans:
    """The spans in an export request, counted; raises `EventError` when it cannot be decoded."""
    own = foreign = invalid = 0
    found = _protobuf_spans(data) if content_type == PROTOBUF else _json_spans(data)
    for is_ours, trace_id, span_id in found:
        if not (_is_id(trace_id, 16) and _is_id(span_id, 8)):
            invalid += 1
        elif is_ours:
            own += 1
        else:
            foreign += 1
    return Spans(own, foreign, invalid)


def _protobuf_spans(data: bytes) -> Iterator[tuple[bool, bytes, bytes]]:
    for resource in _parse(ExportTraceServiceRequest(), data).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                is_ours = _is_ours(scope.scope.name, (item.key for item in span.attributes))
                yield is_ours, span.trace_id, span.span_id


def _json_spans(data: bytes) -> Iterator[tuple[bool, bytes, bytes]]:
    for scope in _descend(_load(data), "resourceSpans", "scopeSpans"):
        for span in _descend(scope, "spans"):
            is_ours = _is_ours(_member(scope, "scope").get("name"), _keys(span))
            yield is_ours, _unhex(span.get("traceId")), _unhex(span.get("spanId"))


def _is_id(value: bytes, length: int) -> bool:
    return len(value) == length and any(value)


def _unhex(value: Any) -> bytes:
    """The bytes of a hexadecimal id in either case; empty when it is none."""
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""


def decode_metrics(data: bytes, content_type: str) -> int:
    """How many metrics an export request holds; raises `EventError` when it cannot be decoded."""
    if content_type == JSON:
        return sum(1 for _ in _descend(_load(data), "resourceMetrics", "scopeMetrics", "metrics"))
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


def _descend(node: Any, *names: str) -> Iterator[dict[str, Any]]:
    """The objects in nested lists of objects, by the names of the lists."""
    if not isinstance(node, dict):
        raise EventError(f"not an export request in JSON: an object was expected before {names or 'its end'}")
    if not names:
        yield node
        return
    items = node.get(names[0]) or []
    if not isinstance(items, list):
        raise EventError(f"not an export request in JSON: {names[0]} is not a list")
    for item in items:
        yield from _descend(item, *names[1:])


def _member(item: dict[str, Any], name: str) -> dict[str, Any]:
    member = item.get(name)
    return member if isinstance(member, dict) else {}


def _keys(item: dict[str, Any]) -> Iterator[str]:
    return (str(attribute.get("key")) for attribute in _descend(item, "attributes"))
