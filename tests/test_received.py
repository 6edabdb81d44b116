"""Spans of other instrumentations in the journal: recorded from the real libraries (``tests/foreign``)."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from sqlalchemy import text

from agent_shim import attributes as attr
from telemetry.aliases import translated
from telemetry.journal import Journal
from telemetry.otlp import JSON, PROTOBUF, decode_spans
from telemetry.projections import RunFold
from telemetry.rows import COLUMNS
from tests.test_sink import RunningSink

pytest_plugins = ("tests.backends",)

FOLDER = Path(__file__).with_name("foreign")
RUN = "018f3a5c7d2e7000800000000000abcd"
"""The run, and the trace, of all recordings."""
SOURCES = {
    "genai-openai": "opentelemetry.instrumentation.genai.openai",
    "openllmetry": "opentelemetry.instrumentation.openai.v1",
    "openinference": "openinference.instrumentation.openai",
}
every = pytest.mark.parametrize("name", SOURCES)

Row = dict[str, Any]


def recorded(name: str) -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest.FromString((FOLDER / f"{name}.spans.pb").read_bytes())


def events(request: ExportTraceServiceRequest) -> list[bytes]:
    return decode_spans(request.SerializeToString(), PROTOBUF).events


def own(name: str) -> list[bytes]:
    """What our hooks said in the same process."""
    return (FOLDER / f"{name}.events.jsonl").read_bytes().splitlines()


def folded(bodies: list[bytes]) -> dict[str, list[Row]]:
    fold = RunFold(RUN)
    for body in bodies:
        event = json.loads(body)
        fold.add(event["producer"], event["seq"], event)
    upserts = fold.changed().upserts
    return {
        table: [dict(zip(COLUMNS[table], row, strict=True)) for row in rows]
        for table, rows in upserts.items()
    }


def total(rows: dict[str, list[Row]], column: str) -> int:
    return sum(row[column] or 0 for row in rows["usage"])


# --- what is known from a span -----------------------------------------------------------------------


@every
def test_calls_that_only_another_instrumentation_saw_count_under_its_name(name: str) -> None:
    """The server was told to bill 1000 + 50 twice, 200 + 20, 300 + 30 and 8; and it refused the last call."""
    rows = folded(events(recorded(name)))
    assert {row["source"] for row in rows["llm_call"]} == {SOURCES[name]}
    assert [row["usage_source"] for row in rows["llm_call"]] == ["reported"] * 5 + ["unknown"]
    assert (total(rows, "input_tokens"), total(rows, "output_tokens")) == (2508, 150)
    assert rows["llm_call"][0]["cached_tokens"] == 800
    assert rows["llm_call"][0]["reasoning_tokens"] == 30
    (run,) = rows["run"]
    assert (run["calls"], run["capture"], run["started_at"]) == (
        6,
        "captured",
        rows["llm_call"][0]["started_at"],
    )


@every
def test_the_refused_call_has_a_type_a_message_and_no_tokens(name: str) -> None:
    row = folded(events(recorded(name)))["llm_call"][-1]
    assert row["ended"] == "failed"
    assert row["error_type"] and "429" in row["error_message"]
    assert (row["input_tokens"], row["output_tokens"]) == (None, None)


@every
def test_no_prompt_and_no_answer_is_kept(name: str) -> None:
    for body in events(recorded(name)):
        assert b"private" not in body
        assert b"messages" not in body and b"input.value" not in body


def test_a_secret_in_a_message_is_not_kept() -> None:
    request = recorded("openinference")
    span = request.resource_spans[0].scope_spans[0].spans[-1]
    span.status.message = "Incorrect API key provided: sk-proj-" + "a1B2" * 12
    assert b"a1B2a1B2" not in events(request)[-1]


@every
def test_both_encodings_give_the_same_events(name: str) -> None:
    request = recorded(name)
    tree = MessageToDict(request, use_integers_for_enums=True)
    for span in tree["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for key in ("traceId", "spanId", "parentSpanId"):
            if key in span:
                span[key] = base64.b64decode(span[key]).hex().upper()
        span["unknownField"] = {"of": ["a", "later", "version"]}
    assert decode_spans(json.dumps(tree).encode(), JSON).events == events(request)


def test_old_and_new_names_give_the_same() -> None:
    old = {
        "gen_ai.system": "az.ai.openai", "gen_ai.usage.prompt_tokens": 7, "gen_ai.usage.completion_tokens": 3,
        "gen_ai.usage.cache_creation.input_tokens": 2, "llm.request.type": "completion",
    }  # fmt: skip
    assert translated(old) == {
        attr.PROVIDER_NAME: "azure.ai.openai", attr.USAGE_INPUT_TOKENS: 7, attr.USAGE_OUTPUT_TOKENS: 3,
        attr.USAGE_CACHE_WRITE_INPUT_TOKENS: 2, attr.OPERATION_NAME: "text_completion",
    }  # fmt: skip
    assert translated({attr.USAGE_INPUT_TOKENS: 5, "llm.token_count.prompt": 9})[attr.USAGE_INPUT_TOKENS] == 5


def changed(**attributes: Any) -> list[Row]:
    """The first recorded span with other attributes, as a row of a call; ``None`` takes one away."""
    request = recorded("genai-openai")
    spans = request.resource_spans[0].scope_spans[0].spans
    del spans[1:]
    for key, value in attributes.items():
        kept = [item for item in spans[0].attributes if item.key != key.replace("__", ".")]
        del spans[0].attributes[:]
        spans[0].attributes.extend(kept)
        if value is not None:
            kind = {"int_value": value} if isinstance(value, int) else {"string_value": value}
            spans[0].attributes.append(KeyValue(key=key.replace("__", "."), value=AnyValue(**kind)))
    return folded(events(request))["llm_call"]


def test_a_span_without_usage_is_unknown_and_never_zero() -> None:
    (row,) = changed(gen_ai__usage__input_tokens=None, gen_ai__usage__output_tokens=None,
                     gen_ai__usage__cache_read__input_tokens=None,
                     gen_ai__usage__reasoning__output_tokens=None)  # fmt: skip
    assert (row["usage_source"], row["usage_reason"]) == ("unknown", "no usage in the span")
    assert row["input_tokens"] is None


def test_a_fetched_response_uses_no_tokens() -> None:
    (row,) = changed(gen_ai__operation__name="fetch_response")
    assert (row["usage_source"], row["input_tokens"]) == ("none", None)


@pytest.mark.parametrize("operation", ["execute_tool", "invoke_agent", "something new"])
def test_a_span_of_another_operation_is_kept_and_is_no_call(operation: str) -> None:
    assert changed(gen_ai__operation__name=operation) == []


def test_links_flags_and_what_else_is_no_attribute_of_genai_change_nothing() -> None:
    """They are not kept."""
    request = recorded("openinference")
    before = events(request)
    resource = request.resource_spans[0]
    resource.schema_url = resource.scope_spans[0].schema_url = "https://example.test/schema"
    resource.scope_spans[0].scope.attributes.append(KeyValue(key="x", value=AnyValue(bool_value=True)))
    for span in resource.scope_spans[0].spans:
        span.flags, span.trace_state, span.dropped_attributes_count = 0x301, "a=b", 3
        span.links.add(trace_id=b"t" * 16, span_id=b"s" * 8)
        span.events.add(name="something", time_unix_nano=5)
    assert events(request) == before


@pytest.mark.parametrize(
    ("code", "failed"), [(2, True), ("STATUS_CODE_ERROR", True), (1, False), ([], False)]
)
def test_a_failure_in_json_is_known_by_number_and_by_name(code: Any, failed: bool) -> None:
    """The name is not what OTLP/JSON wants; a failure that is told so is one all the same."""
    chat = {"key": attr.OPERATION_NAME, "value": {"stringValue": "chat"}}
    span = {"traceId": RUN, "spanId": "b" * 16, "attributes": [chat], "status": {"code": code}}
    sent = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    (row,) = folded(decode_spans(json.dumps(sent).encode(), JSON).events)["llm_call"]
    assert (row["ended"] == "failed") == failed


def test_an_attribute_of_no_use_is_left_out_and_is_no_fault() -> None:
    """A fault is answered with "come again", and the collector would come with it for ever."""
    chat = {"key": attr.OPERATION_NAME, "value": {"stringValue": "chat"}}
    several = {"key": attr.OPERATION_NAME, "value": {"arrayValue": {"values": [{"stringValue": "chat"}]}}}
    for given in ([chat, {"key": ["a"]}, {}], [several]):
        span = {"traceId": RUN, "spanId": "b" * 16, "attributes": given}
        sent = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
        found = folded(decode_spans(json.dumps(sent).encode(), JSON).events)
        assert bool(found.get("llm_call")) == (chat in given)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (5, 0), (0, 5), (9, 5), (2**64 - 1, 2**64 - 1)])
def test_odd_clocks_give_unknown_times_and_a_row(start: int, end: int) -> None:
    request = recorded("openllmetry")
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.start_time_unix_nano, span.end_time_unix_nano = start, end
    row = folded(events(request)[:1])["llm_call"][0]
    assert (row["started_at"] is None, row["finished_at"] is None) == (not start, not end)
    assert row["input_tokens"] == 1000


# --- never twice ---------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("seed", range(3))
def test_a_call_that_our_hooks_saw_too_is_counted_once_in_any_order(name: str, seed: int) -> None:
    wire = folded(own(name))
    mixed = own(name) + events(recorded(name))
    random.Random(seed).shuffle(mixed)
    rows = folded(mixed)
    assert sorted(rows["usage"], key=repr) == sorted(wire["usage"], key=repr)
    foreign = [row for row in rows["llm_call"] if row["source"] == SOURCES[name]]
    assert [row["usage_source"] for row in foreign] == ["repeated"] * 6
    known = {row["call_id"] for row in rows["llm_call"] if row["source"] == "wire"}
    assert {row["usage_reason"].removeprefix("counted under ") for row in foreign} == known
    assert rows["run"][0]["calls"] == 6


@every
def test_what_comes_later_takes_back_what_was_counted(name: str) -> None:
    """Batch by batch as all at once."""
    fold = RunFold(RUN)
    for bodies in (events(recorded(name)), own(name)):
        for body in bodies:
            event = json.loads(body)
            fold.add(event["producer"], event["seq"], event)
        changes = fold.changed()
    gone = {key[-1] for key in changes.deletes["usage"]}
    assert "" in gone or changes.deletes["usage"]
    usage = [dict(zip(COLUMNS["usage"], row, strict=True)) for row in changes.upserts["usage"]]
    assert {row["calls"] for row in usage} <= {1, 2}
    assert sum(row["calls"] for row in usage) == 5


def test_two_instrumentations_of_one_process_are_counted_once() -> None:
    """The second one says the same under other span ids, later by a microsecond, without response ids."""
    request = recorded("genai-openai")
    second = ExportTraceServiceRequest()
    second.CopyFrom(request)
    scope = second.resource_spans[0].scope_spans[0]
    scope.scope.name = "another"
    for span in scope.spans:
        span.span_id = bytes(reversed(span.span_id))
        span.start_time_unix_nano += 1000
        kept = [item for item in span.attributes if item.key != attr.RESPONSE_ID]
        del span.attributes[:]
        span.attributes.extend(kept)
    alone, both = folded(events(request)), folded(events(second) + events(request))
    assert total(both, "input_tokens") == total(alone, "input_tokens")
    assert sum(row["usage_source"] == "repeated" for row in both["llm_call"]) == 6
    assert both["run"][0]["calls"] == 6


def test_calls_of_one_instrumentation_at_the_same_time_are_different_calls() -> None:
    request = recorded("openinference")  # it tells no response ids
    spans = request.resource_spans[0].scope_spans[0].spans
    for span in spans:
        span.start_time_unix_nano = spans[0].start_time_unix_nano
        span.end_time_unix_nano = spans[-1].end_time_unix_nano
    assert total(folded(events(request)), "input_tokens") == 2508


# --- in the journal --------------------------------------------------------------------------------------


@every
def test_a_span_is_stored_once_and_a_rebuild_gives_the_same_rows(place: str, name: str) -> None:
    bodies = events(recorded(name))
    with Journal.open(place) as journal:
        assert journal.ingest(bodies, "test").new == 6
        assert journal.ingest(bodies * 2, "test").duplicates == 12
        journal.ingest(own(name), "test")
        before = rows_of(journal)
        journal.rebuild()
        assert rows_of(journal) == before
        with journal.engine.connect() as connection:
            producers = connection.execute(text("SELECT count(*) FROM producer")).scalar_one()
    assert producers == 1


def rows_of(journal: Journal) -> list[Any]:
    with journal.engine.connect() as connection:
        tables = ("run", "llm_call", "usage", "producer")
        return [sorted(map(tuple, connection.execute(text(f"SELECT * FROM {t}"))), key=repr) for t in tables]


def test_through_the_sink_and_with_the_run_that_the_resource_names(tmp_path: Path) -> None:
    request = recorded("openllmetry")
    run = "f" * 32
    resource = request.resource_spans[0].resource
    resource.attributes.append(KeyValue(key=attr.RUN, value=AnyValue(string_value=run)))
    running = RunningSink(tmp_path / "journal.db")
    for _ in range(2):
        assert running.post("/v1/traces", request.SerializeToString()).status == 200
    assert running.received()["new"] == running.received()["duplicates"] == 6
    assert len(json.loads(running.request("GET", f"/v1/runs/{run}/held").body)) == 6
    running.stop()
