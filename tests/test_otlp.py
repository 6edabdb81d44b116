"""Events and log records, both directions, in both encodings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from agent_shim import attributes as attr
from agent_shim import events
from agent_shim.canonical import canonical, digest, encode
from agent_shim.errors import EventError
from telemetry.otlp import (
    JSON,
    MAX_MESSAGE,
    PROTOBUF,
    Record,
    decode_logs,
    decode_metrics,
    decode_spans,
    failure,
    success,
    to_record,
)
from tests.recordings import RUN, example_run

PRODUCER = "018f3a5c" + "0" * 24


def in_protobuf(records: list[Record]) -> bytes:
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for record in records:
        log = scope.log_records.add(event_name=record.event_name, time_unix_nano=record.time_ns)
        log.trace_id, log.span_id = bytes.fromhex(record.trace_id), bytes.fromhex(record.span_id or "")
        log.body.string_value = record.body
        for key, value in record.attributes.items():
            kind = {"string_value": value} if isinstance(value, str) else {"int_value": value}
            log.attributes.add(key=key).value.CopyFrom(type(log.body)(**kind))
    return request.SerializeToString()


def in_json(records: list[Record]) -> bytes:
    """As the specification maps protobuf to JSON: lowerCamelCase, ids in hex, 64-bit integers as text."""
    logs = [
        {
            "timeUnixNano": str(record.time_ns),
            "eventName": record.event_name,
            "traceId": record.trace_id,
            "spanId": record.span_id or "",
            "body": {"stringValue": record.body},
            "attributes": [
                {
                    "key": key,
                    "value": {"stringValue": value} if isinstance(value, str) else {"intValue": str(value)},
                }
                for key, value in record.attributes.items()
            ],
        }
        for record in records
    ]
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": logs}]}]}).encode()


ENCODERS = {PROTOBUF: in_protobuf, JSON: in_json}
both_encodings = pytest.mark.parametrize("kind", [PROTOBUF, JSON])

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
stored_events = st.builds(
    lambda name, seq, time, data: encode(
        {
            "v": events.FORMAT_VERSION, "run": RUN, "producer": PRODUCER, "seq": seq, "name": name,
            "time": time, "mono": time, "data": canonical(data)[0],
        }
    ).encode(),
    st.sampled_from(sorted(events.VOCABULARY)) | st.just("something.new"),
    st.integers(1, 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.dictionaries(st.text(max_size=8), anything, max_size=4),
)  # fmt: skip


@both_encodings
@given(data=st.data())
def test_any_event_comes_back_byte_for_byte(kind: str, data: st.DataObject) -> None:
    bodies = data.draw(st.lists(stored_events, max_size=5))
    encoded = ENCODERS[kind]([to_record(body) for body in bodies])
    decoded = decode_logs(encoded, kind)
    assert [digest(body) for body in decoded.bodies] == [digest(body) for body in bodies]
    assert decoded.foreign == 0


def test_a_record_names_the_event_and_the_span_it_belongs_to(tmp_path: Path) -> None:
    recording = example_run(tmp_path)
    for body, event in zip(recording.bodies(), recording.events(), strict=True):
        record = to_record(body, trace_id="a" * 32)
        assert record.event_name == event["name"]
        assert record.time_ns == event["time"]
        assert record.trace_id == "a" * 32
        own = events.event_id(event["producer"], event["seq"])
        expected = {
            "run.started": own,
            "process.started": own,
            "llm.call.started": own,
            "llm.call.finished": event.get("begin"),
            "run.finished": event.get("begin"),
            "llm.request.started": event.get("parent"),
            "llm.request.finished": None,
            "producer.started": None,
        }
        if event["name"] in expected:
            named = expected[event["name"]]
            assert record.span_id == (events.span_id(named) if named else None)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[1]", b'"x"', b"{}", b"\xff", b"[" * 100_000, b'{"v":1,"run":"r","producer":"p"}'],
)
def test_what_is_no_event_has_no_record(body: bytes) -> None:
    with pytest.raises(EventError):
        to_record(body)


OUR_JSON_RECORD: dict[str, Any] = {
    "timeUnixNano": 5,
    "observedTimeUnixNano": "0",
    "severityNumber": 9,
    "traceId": RUN.upper(),
    "spanId": "00F067AA0BA902B7",
    "eventName": "run.started",
    "body": {"stringValue": '{"v":1,"naïve":"\\ud83d"}', "unknownToday": {"x": [1]}},
    "attributes": [
        {"key": attr.RUN, "value": {"stringValue": RUN}},
        {"key": attr.PRODUCER, "value": {"stringValue": PRODUCER}},
        {"key": attr.SEQ, "value": {"intValue": 1}},
        {"key": "double", "value": {"doubleValue": "NaN"}, "more": None},
        {"key": "bytes", "value": {"bytesValue": "AAE="}},
    ],
    "fieldOfATime": {"deep": [[[{}]]]},
}
FOREIGN_JSON_RECORD: dict[str, Any] = {
    "body": {"kvlistValue": {"values": [{"key": "", "value": {}}]}},
    "attributes": [],
}
JSON_REQUEST: dict[str, Any] = {
    "resourceLogs": [
        {
            "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "x"}}]},
            "scopeLogs": [{"scope": None, "logRecords": [OUR_JSON_RECORD, FOREIGN_JSON_RECORD]}],
            "schemaUrl": "https://opentelemetry.io/schemas/9.9.9",
        },
        {"scopeLogs": []},
        {"resource": {}},
    ],
    "extra": True,
}


def test_json_as_other_programs_write_it_is_read() -> None:
    """Ids in either case, 64-bit integers as number or text, fields of tomorrow, members left out."""
    assert decode_logs(json.dumps(JSON_REQUEST).encode(), JSON) == (
        [OUR_JSON_RECORD["body"]["stringValue"].encode()],
        1,
        0,
    )


def test_names_in_snake_case_are_unknown_fields() -> None:
    record = {"scope_logs": [{"log_records": [OUR_JSON_RECORD]}]}
    assert decode_logs(json.dumps({"resource_logs": [record]}).encode(), JSON) == ([], 0, 0)


@pytest.mark.parametrize("left", ["scope", "attributes"])
@both_encodings
def test_ours_is_known_by_scope_or_by_attributes(tmp_path: Path, kind: str, left: str) -> None:
    """A processor between us and the sink may drop what it was not told to keep."""
    record = to_record(example_run(tmp_path).bodies()[0])
    if left == "attributes":
        encoded = ENCODERS[kind]([record])
    elif kind == PROTOBUF:
        request = ExportLogsServiceRequest.FromString(in_protobuf([record._replace(attributes={})]))
        request.resource_logs[0].scope_logs[0].scope.name = attr.SCOPE
        encoded = request.SerializeToString()
    else:
        tree = json.loads(in_json([record._replace(attributes={})]))
        tree["resourceLogs"][0]["scopeLogs"][0]["scope"] = {"name": attr.SCOPE}
        encoded = json.dumps(tree).encode()
    assert decode_logs(encoded, kind) == ([record.body.encode()], 0, 0)


@both_encodings
def test_an_event_whose_body_was_changed_on_the_way_is_kept_whole(kind: str) -> None:
    changed = {**OUR_JSON_RECORD, "body": {"kvlistValue": {"values": []}}}
    if kind == JSON:
        encoded = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [changed]}]}]}).encode()
    else:
        request = ExportLogsServiceRequest()
        log = request.resource_logs.add().scope_logs.add().log_records.add()
        log.attributes.add(key=attr.SEQ)
        log.body.int_value = 7
        encoded = request.SerializeToString()
    ((body,), foreign, received) = decode_logs(encoded, kind)
    assert (foreign, received) == (0, 0)
    assert attr.SEQ.encode() in body


def test_a_lone_surrogate_in_json_stays_what_it_was() -> None:
    """It is no event, and the quarantine shows what came."""
    broken = {**OUR_JSON_RECORD, "body": {"stringValue": "\ud800"}}
    encoded = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [broken]}]}]}).encode()
    assert decode_logs(encoded, JSON).bodies == ["\ud800".encode(errors="surrogatepass")]


@pytest.mark.parametrize("decode", [decode_logs, decode_spans, decode_metrics])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (PROTOBUF, b"\xff\xff\xff"),
        (PROTOBUF, b"{}"),
        (JSON, b""),
        (JSON, b"{"),
        (JSON, b"\xff"),
        (JSON, b"[]"),
        (JSON, b"null"),
        (JSON, b"[" * 200_000),
        (JSON, b"9" * 10_000),
        (JSON, b'{"resourceLogs":5,"resourceSpans":5,"resourceMetrics":5}'),
        (JSON, b'{"resourceLogs":[5],"resourceSpans":[5],"resourceMetrics":[5]}'),
    ],
)
def test_what_is_no_request_is_refused_as_a_whole(decode: Any, kind: str, data: bytes) -> None:
    with pytest.raises(EventError):
        decode(data, kind)


@pytest.mark.parametrize("decode", [decode_logs, decode_spans, decode_metrics])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (PROTOBUF, b""),
        (JSON, b"{}"),
        (JSON, b'{"resourceLogs":[{}],"resourceSpans":[{"scopeSpans":[{}]}],"resourceMetrics":null}'),
    ],
)
def test_an_empty_request_holds_nothing(decode: Any, kind: str, data: bytes) -> None:
    assert decode(data, kind) in (([], 0, 0), (0, 0, 0, []), 0)


@given(st.binary(max_size=200))
def test_no_bytes_make_a_decoder_fail_otherwise(data: bytes) -> None:
    for decode in (decode_logs, decode_spans, decode_metrics):
        for kind in (PROTOBUF, JSON):
            try:
                decode(data, kind)
            except EventError:
                continue


@both_encodings
def test_spans_are_told_apart_and_ids_are_checked(kind: str) -> None:
    ids = [
        ("a" * 32, "b" * 16),
        ("A" * 32, "B" * 16),
        ("a" * 30, "b" * 16),
        ("0" * 32, "b" * 16),
        ("a" * 32, ""),
    ]
    if kind == PROTOBUF:
        request = ExportTraceServiceRequest()
        spans = request.resource_spans.add().scope_spans.add().spans
        for trace_id, span_id in ids:
            spans.add(trace_id=bytes.fromhex(trace_id), span_id=bytes.fromhex(span_id))
        spans[0].attributes.add(key=attr.RUN)
        encoded = request.SerializeToString()
    else:
        tree: list[dict[str, Any]] = [{"traceId": trace_id, "spanId": span_id} for trace_id, span_id in ids]
        tree[0]["attributes"] = [{"key": attr.RUN}]
        tree += [{"traceId": "zz" * 16, "spanId": 5}]
        encoded = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": tree}]}]}).encode()
    assert decode_spans(encoded, kind) == (1, 1, 3 if kind == PROTOBUF else 4, [])


def test_metrics_are_counted() -> None:
    request = ExportMetricsServiceRequest()
    request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    assert decode_metrics(request.SerializeToString(), PROTOBUF) == 1
    assert decode_metrics(b'{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{},{}]}]}]}', JSON) == 2


def test_full_success_says_nothing() -> None:
    assert success(PROTOBUF) == b""
    assert success(JSON) == b"{}"


def test_a_warning_reads_the_same_for_every_service() -> None:
    logs = ExportLogsServiceResponse.FromString(success(PROTOBUF, "look"))
    assert (logs.partial_success.rejected_log_records, logs.partial_success.error_message) == (0, "look")
    spans = ExportTraceServiceResponse.FromString(success(PROTOBUF, "look", 3))
    assert (spans.partial_success.rejected_spans, spans.partial_success.error_message) == (3, "look")
    assert json.loads(success(JSON, "look", 3)) == {
        "partialSuccess": {"rejectedSpans": "3", "errorMessage": "look"}
    }


def test_a_failure_is_a_status_of_bounded_length() -> None:
    status = Status.FromString(failure(PROTOBUF, 3, "no" * MAX_MESSAGE))
    assert (status.code, len(status.message)) == (3, MAX_MESSAGE)
    assert json.loads(failure(JSON, 14, "later")) == {"code": 14, "message": "later"}
