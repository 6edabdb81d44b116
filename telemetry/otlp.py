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
from collections.abc import Collection, Iterable, Iterator
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
from telemetry.aliases import KEPT
from telemetry.received import Foreign, is_genai, to_event

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

MAX_MESSAGE = 1024
"""Characters of a message in an answer; answers stay far below the 4 MiB that clients read."""

_SPAN_BEGINS = events.BEGINS - {events.name_of(events.RequestStarted)}
_ERROR = 2
"""``STATUS_CODE_ERROR``"""
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
            is_ours = scope.scope.name == attributes.SCOPE
            for record in scope.log_records:
                body = record.body
                if body.HasField("string_value"):
                    content = body.string_value.encode()
                elif body.HasField("bytes_value"):
                    content = body.bytes_value
                else:  # someone on the way changed it; kept whole, for the quarantine
                    content = record.SerializeToString()
                yield is_ours or _is_marked(item.key for item in record.attributes), content


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
    return scope == attributes.SCOPE or _is_marked(keys)


def _is_marked(keys: Iterable[str]) -> bool:
    return not _MARKS.isdisjoint(keys)


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
        run = _values(resource.resource.attributes, (attributes.RUN,)).get(attributes.RUN, "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                is_ours = _is_ours(scope.scope.name, (item.key for item in span.attributes))
                given = {} if is_ours else _values(span.attributes, KEPT)
                yield is_ours, span.trace_id, span.span_id, (
                    Foreign(
                        span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.name,
                        span.start_time_unix_nano, span.end_time_unix_nano, span.status.code == _ERROR,
                        span.status.message, given, scope.scope.name, scope.scope.version, str(run),
                    )
                    if is_genai(given)
                    else None
                )  # fmt: skip


def _values(items: Iterable[Any], kept: Collection[str]) -> dict[str, Any]:
    """The values of those attributes; of two of one name the later one."""
    return {item.key: _value(item.value) for item in items if item.key in kept}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind in (None, "kvlist_value", "bytes_value") else getattr(value, kind)


def _json_spans(data: bytes) -> Iterator[_Span]:
    for resource in _descend(_load(data), "resourceSpans"):
        run = _json_values(_member(resource, "resource"), (attributes.RUN,)).get(attributes.RUN, "")
        for scope in _descend(resource, "scopeSpans"):
            for span in _descend(scope, "spans"):
                is_ours = _is_ours(_member(scope, "scope").get("name"), _keys(span))
                given = {} if is_ours else _json_values(span, KEPT)
                foreign = (
                    _json_foreign(span, _member(scope, "scope"), given, run) if is_genai(given) else None
                )
                yield is_ours, _unhex(span.get("traceId")), _unhex(span.get("spanId")), foreign


def _json_foreign(span: dict[str, Any], scope: dict[str, Any], given: dict[str, Any], run: Any) -> Foreign:
    status = _member(span, "status")
    return Foreign(
        _unhex(span.get("traceId")).hex(), _unhex(span.get("spanId")).hex(),
        _unhex(span.get("parentSpanId")).hex(), str(span.get("name", "")),
        _integer(span.get("startTimeUnixNano")), _integer(span.get("endTimeUnixNano")),
        status.get("code") == _ERROR, str(status.get("message", "")), given,
        str(scope.get("name", "")), str(scope.get("version", "")), str(run),
    )  # fmt: skip


def _json_values(item: dict[str, Any], kept: Collection[str]) -> dict[str, Any]:
    found = _descend(item, "attributes")
    return {one["key"]: _json_value(_member(one, "value")) for one in found if one.get("key") in kept}


def _json_value(value: dict[str, Any]) -> Any:
    if "intValue" in value:
        return _integer(value["intValue"])
    if "arrayValue" in value:
        return [_json_value(item) for item in _descend(_member(value, "arrayValue"), "values")]
    return value.get("stringValue", value.get("boolValue", value.get("doubleValue")))


def _integer(value: Any) -> int:
    """A 64-bit integer as number or as text; 0 when it is neither."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


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
