"""Log records of other instrumentations in the journal, as the programs themselves sent them.

``tests/foreign`` has what Claude Code, Codex and OpenTelemetry's own instrumentation sent, and how it was
recorded; what the scripted servers answered stands there too.
"""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from sqlalchemy import text

from agent_shim import attributes as attr
from telemetry import agent_logs
from telemetry.journal import Journal
from telemetry.otlp import JSON, PROTOBUF, decode_logs, decode_spans
from telemetry.projections import RunFold
from telemetry.rows import COLUMNS, at
from tests.test_received import FOLDER, events, folded, own, recorded, total
from tests.test_sink import RunningSink

pytest_plugins = ("tests.backends",)

CLAUDE, CODEX, GENAI = "claude-code", "codex", "genai-openai"
SOURCES = {
    CLAUDE: "com.anthropic.claude_code.events",
    CODEX: "codex_otel.log_only",
    GENAI: "opentelemetry.instrumentation.genai.openai",
}
every = pytest.mark.parametrize("name", SOURCES)

Rows = dict[str, list[dict[str, Any]]]


def sent(name: str) -> bytes:
    return (FOLDER / f"{name}.logs.pb").read_bytes()


def logged(name: str) -> list[bytes]:
    """What becomes of the records."""
    return decode_logs(sent(name), PROTOBUF).bodies


def spans(name: str) -> list[bytes]:
    return decode_spans((FOLDER / f"{name}.spans.pb").read_bytes(), PROTOBUF).events


def counted(rows: Rows) -> list[dict[str, Any]]:
    """The calls in the order in which they ended, without what is told twice."""
    calls = (row for row in rows["llm_call"] if row["usage_source"] != "repeated")
    return sorted(calls, key=lambda row: str(row["finished_at"]))


def picked(rows: list[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in rows]


# --- Claude Code -------------------------------------------------------------------------------------


def test_claude_codes_calls_have_their_tokens_and_the_refused_one_its_error() -> None:
    """Answered: 1000 + 800 + 100 of the cache and 50; after one 529: 1200 and 20; then 400 for good."""
    calls = counted(folded(logged(CLAUDE)))
    assert {row["source"] for row in calls} == {SOURCES[CLAUDE]}
    assert picked(calls, "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens") == [
        (1900, 800, 100, 50),
        (1200, 0, 0, 20),
        (None, None, None, None),
    ]
    assert picked(calls, "provider", "model_requested") == [("anthropic", "claude-sonnet-4-5")] * 3
    refused = calls[-1]
    assert (refused["ended"], refused["http_status"], refused["error_type"]) == ("failed", 400, "400")
    assert refused["error_message"] == "messages: text is empty"
    assert (refused["usage_source"], refused["usage_reason"]) == ("none", "refused with status 400")
    assert all(row["started_at"] < row["finished_at"] for row in calls)


def test_what_claude_code_says_a_call_cost_stands_beside_its_usage() -> None:
    usage = [json.loads(row["usage"] or "{}") for row in counted(folded(logged(CLAUDE)))]
    assert [said.get("cost_usd") for said in usage] == [0.004365, 0.0039, None]


def test_claude_codes_tools_are_there_with_their_errors() -> None:
    tools = folded(logged(CLAUDE))["tool_call"]
    assert picked(tools, "tool", "call_id", "ended", "error_type") == [
        ("Bash", "toolu_scripted1", "completed", None),
        ("Bash", "toolu_scripted3", "failed", "ShellError"),
    ]
    assert {row["executor"] for row in tools} == {SOURCES[CLAUDE]}
    assert all(row["duration_s"] > 0 for row in tools)


def test_what_claude_code_tells_in_logs_and_in_spans_is_counted_once() -> None:
    bodies = logged(CLAUDE) + spans(CLAUDE)
    assert {json.loads(body)["run"] for body in bodies} == {"018f3a5c7d2e7000800000000000cafe"}
    both, alone = folded(bodies), folded(logged(CLAUDE))
    assert counted(both) == counted(alone)
    assert both["usage"] == alone["usage"]
    assert len(both["llm_call"]) == 2 * len(alone["llm_call"]) == 6


def test_claude_codes_spans_alone_say_the_same_of_tokens() -> None:
    alone, logs = folded(spans(CLAUDE)), folded(logged(CLAUDE))
    for column in ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens"):
        assert total(alone, column) == total(logs, column)
    assert [row["ended"] for row in alone["llm_call"]] == ["completed", "completed", "failed"]


# --- Codex -------------------------------------------------------------------------------------------


def test_codexs_calls_are_told_apart_by_its_requests_and_the_ends_of_its_streams() -> None:
    """A call; one whose first request got 500 and whose response failed; a stream that broke; two; 400."""
    calls = counted(folded(logged(CODEX)))
    assert {row["source"] for row in calls} == {SOURCES[CODEX]}
    assert picked(calls, "ended", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens") == [
        ("completed", 1000, 800, 50, 30),
        ("failed", None, None, None, None),
        ("failed", None, None, None, None),
        ("completed", 1200, 0, 20, 0),
        ("completed", 300, 0, 30, 0),
        ("failed", None, None, None, None),
    ]
    assert picked(calls, "requests", "http_status", "usage_source") == [
        (1, None, "reported"), (2, None, "unknown"), (1, None, "unknown"), (1, None, "reported"),
        (1, None, "reported"), (1, 400, "none"),
    ]  # fmt: skip
    assert "The server had an error" in calls[1]["error_message"]
    assert "network error" in calls[2]["error_message"]
    assert {row["provider"] for row in calls} == {"scripted"}


def test_codexs_requests_are_there_with_their_status() -> None:
    rows = folded(logged(CODEX))
    statuses = [200, 500, 200, 200, 200, 200, 400]
    assert [row["http_status"] for row in rows["llm_request"]] == statuses
    assert [row["error_type"] for row in rows["llm_request"] if row["error_type"]] == ["500", "400"]
    known = {row["call_id"] for row in rows["llm_call"]}
    assert {row["call_id"] for row in rows["llm_request"]} == known
    (run,) = rows["run"]
    assert (run["calls"], run["requests"], run["failed_requests"]) == (6, 7, 2)


def test_codexs_tools_are_there() -> None:
    """A command that exits with 3 is no failure to Codex; a tool that it does not have is."""
    tools = folded(logged(CODEX))["tool_call"]
    assert picked(tools, "tool", "ended") == [
        ("exec_command", "completed"),
        ("exec_command", "completed"),
        ("no_such_tool", "failed"),
    ]
    (run,) = folded(logged(CODEX))["run"]
    assert (run["tool_calls"], run["failed_tool_calls"], run["agent"]) == (3, 1, "codex")


# --- OpenTelemetry's own -----------------------------------------------------------------------------


def test_events_of_the_conventions_are_calls() -> None:
    rows = folded(logged(GENAI))
    assert (total(rows, "input_tokens"), total(rows, "output_tokens")) == (2500, 150)  # embeddings log none
    assert [row["usage_source"] for row in counted(rows)] == ["reported"] * 4 + ["unknown"]
    assert counted(rows)[-1]["error_type"] == "openai.RateLimitError"


@pytest.mark.parametrize("seed", range(3))
def test_spans_records_and_our_own_hooks_count_a_call_once_in_any_order(seed: int) -> None:
    wire, told = own(GENAI), events(recorded(GENAI))
    for alone, mixed in ((told, told + logged(GENAI)), (wire, wire + logged(GENAI)), (wire, wire + told)):
        random.Random(seed).shuffle(mixed)
        rows, expected = folded(mixed), folded(alone)
        assert sorted(rows["usage"], key=repr) == sorted(expected["usage"], key=repr)
        assert rows["run"][0]["calls"] == 6


# --- all ---------------------------------------------------------------------------------------------


@every
def test_in_any_order_and_in_any_batches_it_gives_the_same_rows(name: str) -> None:
    bodies, expected = logged(name), folded(logged(name))
    random.Random(1).shuffle(bodies)
    fold, rows = RunFold(json.loads(bodies[0])["run"]), dict[tuple[str, str], dict[str, Any]]()
    for body in bodies:
        event = json.loads(body)
        fold.add(event["producer"], event["seq"], event)
        changes = fold.changed()
        for key in changes.deletes["llm_call"]:
            rows.pop(("llm_call", str(key[-1])))
        for table in ("llm_call", "llm_request", "tool_call"):
            for row in changes.upserts[table]:
                rows[table, str(row[1])] = dict(zip(COLUMNS[table], row, strict=True))
    assert len(rows) == sum(len(expected[table]) for table in ("llm_call", "llm_request", "tool_call"))
    for table in ("llm_call", "llm_request", "tool_call"):
        for row in expected[table]:
            got = rows[table, next(row[key] for key in tuple(row)[1:2])]
            assert {**got, "run_id": row["run_id"]} == row


@every
def test_no_prompt_no_answer_and_no_output_of_a_tool_is_kept(name: str) -> None:
    for body in logged(name):
        for content in (b"private", b'messages"', b"hello", b"user.id", b'"output"', b"echo"):
            assert content not in body


@every
def test_both_encodings_give_the_same_events(name: str) -> None:
    tree = MessageToDict(ExportLogsServiceRequest.FromString(sent(name)), use_integers_for_enums=True)
    for resource in tree["resourceLogs"]:
        for scope in resource["scopeLogs"]:
            for record in scope["logRecords"]:
                for key in ("traceId", "spanId"):
                    if key in record:
                        record[key] = base64.b64decode(record[key]).hex().upper()
    assert decode_logs(json.dumps(tree).encode(), JSON).bodies == logged(name)


def test_a_session_is_a_run_where_nothing_else_names_one() -> None:
    (run,) = {json.loads(body)["run"] for body in logged(CODEX)}
    request = ExportLogsServiceRequest.FromString(sent(CODEX))
    first = request.resource_logs[0].scope_logs[0].log_records[0]
    (session,) = (item.value.string_value for item in first.attributes if item.key == "conversation.id")
    assert run == session.replace("-", "")
    named = KeyValue(key=attr.RUN, value=AnyValue(string_value="f" * 32))
    for resource in request.resource_logs:
        resource.resource.attributes.append(named)
    bodies = decode_logs(request.SerializeToString(), PROTOBUF).bodies
    assert {json.loads(body)["run"] for body in bodies} == {"f" * 32}


def test_records_about_something_else_are_counted() -> None:
    logs = decode_logs(sent(CLAUDE), PROTOBUF)
    assert (len(logs.bodies), logs.received) == (5, 5)
    assert logs.foreign > 5


HOSTILE: dict[str, Any] = {
    "model": {"stringValue": "nul \x00 and \ud800 and " + "x" * 2**20},
    "input_tokens": {"intValue": str(2**63 - 1)},
    "output_tokens": {"doubleValue": "NaN"},
    "duration_ms": {"intValue": str(-(2**63))},
    "ttft_ms": {"doubleValue": "Infinity"},
    "cost_usd": {"kvlistValue": {"values": [{"key": "", "value": {"bytesValue": "AAE="}}]}},
    "request_id": {"arrayValue": {"values": [{}, {"arrayValue": {"values": [{"boolValue": True}]}}]}},
    "": {},
}
"""The worst that attributes may be, and may not: of each name, the value."""


@pytest.mark.parametrize("times", [("0", "0"), (str(2**64 - 1), "0"), ("0", "1")])
def test_hostile_values_make_a_row_and_no_fault(place: str, times: tuple[str, str]) -> None:
    given = [{"key": key, "value": value} for key, value in HOSTILE.items()] * 2
    given.append({"key": "event.name", "value": {"stringValue": "claude_code.api_request"}})
    record = {"traceId": "a" * 32, "timeUnixNano": times[0], "observedTimeUnixNano": times[1]}
    span = {"traceId": "a" * 32, "spanId": "b" * 16, "attributes": [{"key": "llm_request.context"}, *given]}
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{**record, "attributes": given}]}]}]}
    spans_ = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    bodies = decode_logs(json.dumps(logs).encode(), JSON).bodies
    bodies += decode_spans(json.dumps(spans_).encode(), JSON).events
    assert len(bodies) == 2
    with Journal.open(place) as journal:
        assert journal.ingest(bodies, "test")._asdict() == {
            "new": 2, "duplicates": 0, "conflicts": 0, "quarantined": 0,
        }  # fmt: skip
        with journal.engine.connect() as connection:
            calls = connection.execute(text("SELECT input_tokens, output_tokens FROM llm_call")).all()
    assert set(map(tuple, calls)) <= {(None, None)}


def record(log: str, trace_id: str = "a" * 32, **given: Any) -> bytes:
    """An export request in JSON with one record, whose attributes have these values."""
    attributes = [{"key": key.replace("__", "."), "value": value} for key, value in given.items()]
    one = {"timeUnixNano": "5", "eventName": log, "traceId": trace_id, "attributes": attributes}
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [one]}]}]}).encode()


LIST = {"arrayValue": {"values": [{"stringValue": "chat"}]}}
TOKENS = {"intValue": "7"}


@pytest.mark.parametrize("log", agent_logs.KEPT)
def test_a_list_where_a_text_belongs_is_no_fault(log: str) -> None:
    """A fault is answered with "come again", and the collector would come with it for ever."""
    names = {name.replace(".", "__"): LIST for name in agent_logs.KEPT[log]}
    folded(decode_logs(record(log, **names), JSON).bodies)


def test_an_event_of_the_conventions_is_a_call_unless_it_says_that_it_is_none() -> None:
    told = {"gen_ai__usage__input_tokens": TOKENS, "gen_ai__usage__output_tokens": TOKENS}
    (row,) = folded(decode_logs(record(agent_logs.DETAILS, **told), JSON).bodies)["llm_call"]
    assert (row["input_tokens"], row["surface"]) == (7, None)
    told["gen_ai__operation__name"] = {"stringValue": "execute_tool"}
    assert folded(decode_logs(record(agent_logs.DETAILS, **told), JSON).bodies)["llm_call"] == []


@pytest.mark.parametrize(("told", "observed", "moment"), [("5", "7", 5), ("0", "7", 7), ("0", "0", None)])
def test_a_record_without_a_time_has_that_of_its_being_observed_and_else_an_unknown_one(
    told: str, observed: str, moment: int | None
) -> None:
    """When it arrived is not its time: sent again, it would be another record."""
    request = json.loads(record(agent_logs.CLAUDE_REQUEST, input_tokens=TOKENS))
    (one,) = request["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    one["timeUnixNano"], one["observedTimeUnixNano"] = told, observed
    bodies = decode_logs(json.dumps(request).encode(), JSON).bodies
    (row,) = folded(bodies)["llm_call"]
    assert [json.loads(body)["time"] for body in bodies] == [moment or 0]
    assert row["finished_at"] == (at(moment) if moment else None)


@pytest.mark.parametrize("trace_id", ["0" * 32, "abcd", ""])
def test_a_record_whose_trace_is_none_makes_no_run_and_is_not_in_quarantine(trace_id: str) -> None:
    logs = decode_logs(record(agent_logs.CLAUDE_REQUEST, trace_id, input_tokens=TOKENS), JSON)
    assert (logs.bodies, logs.foreign) == ([], 1)


@every
def test_it_is_stored_once_and_a_rebuild_gives_the_same_rows(place: str, name: str) -> None:
    bodies = logged(name)
    with Journal.open(place) as journal:
        assert journal.ingest(bodies, "test").new == len(bodies)
        assert journal.ingest(bodies, "test").duplicates == len(bodies)
        before = stored(journal)
        journal.rebuild()
        assert stored(journal) == before


def stored(journal: Journal) -> list[Any]:
    tables = ("run", "llm_call", "llm_request", "tool_call", "usage", "producer")
    with journal.engine.connect() as connection:
        return [sorted(map(tuple, connection.execute(text(f"SELECT * FROM {t}"))), key=repr) for t in tables]


def test_through_the_sink_none_of_it_is_taken_for_ours(tmp_path: Path) -> None:
    """Claude Code repeats the run of its resource on each record and span, as ours alone did before."""
    running = RunningSink(tmp_path / "journal.db")
    for signal, suffix in (("logs", "logs"), ("traces", "spans")):
        body = (FOLDER / f"{CLAUDE}.{suffix}.pb").read_bytes()
        assert running.post(f"/v1/{signal}", body).status == 200
    received = running.received()
    running.stop()
    assert (received["quarantined"], received["received_records"], received["own_spans"]) == (0, 5, 0)
