"""The OpenAI client, captured: on four generations of it, in interpreters that have nothing of ours.

Each scenario is run twice against a scripted server, bare and with the hooks, by ``agent_side.py``. The
user's code must see the same, the server must receive the same, and the journal must agree with the
server's ledger to the token.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent_shim.spool import new_id
from telemetry.exporter import Exporter
from telemetry.settings import Endpoint
from telemetry.testing import (
    Answer,
    Delivery,
    Ledger,
    Raw,
    ScriptedServer,
    ToolCall,
    Turn,
    Usage,
    bad_request,
    calls,
    connection_reset,
    invalid_key,
    rate_limited,
    server_error,
)
from tests import spools
from tests.generations import GENERATIONS, interpreter
from tests.test_sink import RunningSink

ROOT = Path(__file__).resolve().parent.parent
FULL = Usage(input=1000, output=50, cached=800, reasoning=30)
TWO = (ToolCall("run", {"command": "ls"}), ToolCall("run", {"command": "x" * 300}))


class Scenario(NamedTuple):
    """What the server is told to answer, how each call must end, and whether usage can be known."""

    turns: list[Turn]
    ended: list[str]
    unknown: int = 0
    """How many billed answers the client never got to read to their usage."""


def once(turn: Turn, ended: str = "completed", unknown: int = 0) -> Scenario:
    return Scenario([turn], [ended], unknown)


def cut(**how: Any) -> Answer:
    return Answer("one two three four five six", usage=FULL, delivery=Delivery(**how))


def odd(**how: Any) -> Answer:
    return Answer("one two three four", usage=FULL, **how)


ODD: dict[str, dict[str, Any]] = {
    "usage_in_every_chunk": {"reported": "every"},
    "comments": {"comments": True},
    "crlf": {"newline": "\r\n"},
    "cr": {"newline": "\r"},
    "no_done": {"done": False},
}
"""Streams of compatible servers."""


def null_choices(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**value, "choices": None} for value in objects]


def null_tool_index(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As some compatible servers do: the index of a tool call's piece is null."""
    for value in objects:
        for choice in value.get("choices") or ():
            for call in choice.get("delta", {}).get("tool_calls") or ():
                call["index"] = None
    return objects


def with_cost(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As OpenRouter does: the cost as charged, and more, beside the tokens."""
    return [
        {**v, "provider": "X", "usage": {**v["usage"], "cost": 0.0123, "is_byok": False}} for v in objects
    ]


def two_choices(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**v, "choices": [*v["choices"], *({**c, "index": 1} for c in v["choices"])]} for v in objects]


def zstd(body: bytes) -> bytes:
    """`body` as one frame of one uncompressed block (RFC 8878, section 3.1.1)."""
    frame = bytes.fromhex("28b52ffd") + b"\x60" + (len(body) - 256).to_bytes(2, "little")
    return frame + (len(body) << 3 | 1).to_bytes(3, "little") + body


COMPLETION = {
    "id": "chatcmpl-zstd",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-5",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "x" * 300}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
ZSTD = Raw(zstd(json.dumps(COMPLETION).encode()), delivery=Delivery(headers={"content-encoding": "zstd"}))

SCENARIOS: dict[str, Scenario] = {
    "chat": once(Answer("hi", usage=FULL)),
    "chat_tools": Scenario([calls(*TWO), Answer("done")], ["completed"] * 2),
    "chat_unanswered": Scenario([calls(*TWO)], ["completed", "failed"]),
    "retries": Scenario([rate_limited(), server_error(), connection_reset(), Answer("hi")], ["completed"]),
    "refused": once(invalid_key(), "failed"),
    "broken_connection": Scenario([connection_reset(), connection_reset()], ["failed"]),
    "chat_stream": once(Answer("one two three", usage=FULL)),
    "chat_stream_own_usage": once(Answer("one two three", usage=FULL)),
    "chat_stream_retried": Scenario([rate_limited(), Answer("one two", usage=FULL)], ["completed"]),
    "chat_stream_refused": once(bad_request("no", param="messages", code="bad"), "failed"),
    "chat_stream_tools": once(calls(*TWO, usage=FULL)),
    # Left by `return`: 3.x closes the response then, earlier ones leave it to the garbage collector.
    "stream_left": once(Answer("one two three", usage=FULL), "closed_early or abandoned", 1),
    "stream_closed": once(Answer("one two three", usage=FULL), "closed_early", 1),
    "stream_never_read": once(Answer("one two three", usage=FULL), "abandoned", 1),
    "stream_broken": once(cut(fault="reset", after=3), "failed", 1),
    "consumer_raises": once(Answer("one two three", usage=FULL), "closed_early", 1),
    "responses": once(Answer("hi", usage=FULL)),
    "responses_stream": once(Answer("one two three", usage=FULL)),
    "responses_helper": once(Answer("one two three", usage=FULL)),
    "responses_failed": once(Answer("one", usage=FULL, ended="failed"), "failed"),
    "responses_incomplete": once(Answer("one", usage=FULL, ended="length")),
    "responses_background": Scenario([Answer("one", usage=FULL)], ["completed"] * 5),
    "raw": once(Answer("hi", usage=FULL)),
    "raw_stream": once(Answer("one two three", usage=FULL)),
    "streaming_response": once(Answer("hi", usage=FULL)),
    "streaming_lines": once(Answer("one two three", usage=FULL)),
    "parse": once(Answer('{"text": "hi"}', usage=FULL)),
    "parse_cut_off": once(Answer('{"text": "h', usage=FULL, ended="length"), "failed"),
    "chat_helper": once(Answer("one two three", usage=FULL)),
    "embeddings": once(Answer(usage=Usage(input=9))),
    "invalid_body": once(Raw(b'{"id": "x", ', content_type="application/json"), "failed"),
    "usage_absent": once(Answer("hi", usage=FULL, reported="never"), unknown=1),
    "azure": once(Answer("hi", usage=FULL)),
    "generic_post": once(Answer("hi", usage=FULL)),
    "models": Scenario([], ["completed"]),
    "async_chat": once(Answer("hi", usage=FULL)),
    "async_stream": once(Answer("one two three", usage=FULL)),
    "async_many": Scenario([Answer("hi", usage=FULL)] * 8, ["completed"] * 8),
    "async_cancelled": once(cut(fault="stall"), "cancelled", 1),
    "async_stream_cancelled": once(cut(fault="stall", after=3), "cancelled", 1),
    "generator_input": Scenario([Answer("a", usage=FULL), Answer("b", usage=FULL)], ["completed"] * 2),
    "options_and_copies": Scenario([Answer("hi", usage=FULL)] * 3, ["completed"] * 3),
    "own_http_client": once(Answer("hi", usage=FULL)),
    "bound_before": once(Answer("hi", usage=FULL)),
    "interrupted": once(cut(fault="stall"), "cancelled", 1),
    "forked": Scenario([Answer("one two", usage=FULL)] * 3, ["completed"] * 3),
    **{f"chat_stream__{name}": once(odd(**how)) for name, how in ODD.items()},
    "chat_stream__split": once(cut(split=1)),
    "chat_stream__split_in_characters": once(Answer("é à 💡 ü", usage=FULL, delivery=Delivery(split=7))),
    "chat_stream__gzip": once(cut(gzip=True)),
    "responses_stream__gzip": once(cut(gzip=True)),
    "responses_stream__split": once(cut(split=3)),
    "responses_stream__crlf": once(odd(newline="\r\n")),
    "responses_stream__error": once(odd(error_after=2), "failed", 1),
    "chat_stream__error": once(odd(error_after=2), "failed", 1),
    "chat_stream__wrong_type": once(cut(content_type="text/plain")),
    "chat__wrong_type": once(Answer("hi", usage=FULL, delivery=Delivery(content_type="text/html"))),
    "chat__gzip": once(Answer("hi", usage=FULL, delivery=Delivery(gzip=True))),
    "chat__truncated": once(Answer("hi", usage=FULL, delivery=Delivery(truncate=40)), "failed", 1),
    "chat__null_choices": once(Answer("hi", usage=FULL, reshape=null_choices)),
    "chat_stream__null_tool_index": once(Answer(tool_calls=TWO, usage=FULL, reshape=null_tool_index)),
    "chat__further_fields": once(Answer("hi", usage=FULL, reshape=with_cost)),
    "chat__two_choices": once(Answer("hi", usage=FULL, reshape=two_choices)),
    "chat_stream__two_choices": once(Answer("one two", usage=FULL, reshape=two_choices)),
    "collected_in_the_middle": Scenario(
        [Answer("one two three", usage=FULL)] * 24, ["closed_early or abandoned"] * 24, 24
    ),
    "chat__zstd": once(ZSTD, "completed or failed"),
    "threads": Scenario([Answer("hi", usage=FULL)] * 16, ["completed"] * 16),
}


class Outcome(NamedTuple):
    seen: dict[str, Any]
    ledgers: dict[str, Ledger]
    home: Path


def play(python: Path, folder: Path, *, hooked: bool) -> Outcome:
    """Run every scenario in one process, against a server of its own each."""
    servers = {
        name: ScriptedServer(*scenario.turns, prefix=name.replace("_", ""), clock=lambda: 1_700_000_000.0)
        for name, scenario in SCENARIOS.items()
    }
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    if hooked:
        environ |= {
            "AGENT_TELEMETRY_HOME": str(folder),
            "AGENT_TELEMETRY_RUN": new_id(),
            "AGENT_TELEMETRY_INCLUDE_USAGE": "127.0.0.1",
        }
    start = [str(ROOT / "agent_shim" / "bootstrap.py")] if hooked else []
    seen, ledgers = {}, {}
    for name, server in servers.items():
        ledgers[name] = server.ledger
        server.__enter__()
    try:
        plan = [f"{name}={server.url}" for name, server in servers.items()]
        agent = [str(python), *start, str(ROOT / "tests" / "agent_side.py"), *plan]
        done = subprocess.run(agent, env=environ, capture_output=True, text=True, timeout=120)
    finally:
        for server in servers.values():
            server.__exit__(None, None, None)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        entry = json.loads(line)
        seen[entry["scenario"]] = entry["seen"]
    return Outcome(seen, ledgers, folder)


@pytest.fixture(scope="module", params=GENERATIONS)
def generation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def captured(generation: str, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return play(interpreter(generation), tmp_path_factory.mktemp("captured"), hooked=True)


@pytest.fixture(scope="module")
def bare(generation: str, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return play(interpreter(generation), tmp_path_factory.mktemp("bare"), hooked=False)


def calls_of(outcome: Outcome, name: str) -> list[dict[str, Any]]:
    """The journal's calls of one scenario in their order, found by the request ids its server gave."""
    ids = {received.request_id for received in outcome.ledgers[name].requests}
    requests = [row for row in spools.rows(outcome.home, "llm_request") if row["http_request_id"] in ids]
    call_ids = {row["call_id"] for row in requests}
    found = [row for row in spools.rows(outcome.home, "llm_call") if row["call_id"] in call_ids]
    return sorted(found, key=lambda row: row["started_at"])


def test_the_user_sees_what_he_would_see_without_us(bare: Outcome, captured: Outcome) -> None:
    for name in SCENARIOS:
        assert bare.seen[name] == captured.seen[name], name


def test_the_server_receives_what_it_would_receive_without_us(bare: Outcome, captured: Outcome) -> None:
    for name in SCENARIOS:
        assert [wire(r, bare) for r in sent(bare, name)] == [
            wire(r, captured) for r in sent(captured, name)
        ], name


def sent(outcome: Outcome, name: str) -> list[Any]:
    return sorted(outcome.ledgers[name].requests, key=lambda r: (r.path, r.content))


def wire(received: Any, outcome: Outcome) -> Any:
    """A request less what differs in any two runs, and less the one documented addition."""
    varying = ("host", "x-stainless-read-timeout", "idempotency-key", "content-length")
    headers = {name: value for name, value in received.headers.items() if name not in varying}
    body = received.body
    if isinstance(body, dict) and body.get("stream") and "messages" in body:
        body = {name: value for name, value in body.items() if name != "stream_options"}
    return received.method, received.path, headers, body


def test_every_request_on_the_wire_is_in_the_journal(captured: Outcome) -> None:
    rows = spools.rows(captured.home, "llm_request")
    received = [entry for ledger in captured.ledgers.values() for entry in ledger.requests]
    answered = Counter((r["http_status"], r["http_request_id"]) for r in rows if r["http_status"] is not None)
    assert Counter((r.status, r.request_id) for r in received if r.status is not None) == answered
    assert len(received) == len(rows)


def test_tokens_equal_the_servers_ledger_and_unknown_has_a_reason(captured: Outcome) -> None:
    calls = {row["http_request_id"]: row for row in spools.rows(captured.home, "llm_call")}
    for name, scenario in SCENARIOS.items():
        unknown = 0
        for billed in captured.ledgers[name].billed:
            by_number = {entry.number: entry for entry in captured.ledgers[name].requests}
            matching = [
                row
                for row in calls.values()
                if billed.response_id and row["response_id"] == billed.response_id
            ]
            row = next((r for r in matching if r["usage_source"] == "reported"), None) or calls.get(
                by_number[billed.request].request_id
            )
            if row is None or row["usage_source"] != "reported":
                unknown += 1
                assert row is None or row["usage_reason"], name
                assert row is None or row["input_tokens"] is None, name
                continue
            numbers = (row["input_tokens"], row["output_tokens"] or 0, row["cached_tokens"] or 0)
            assert numbers == (billed.usage.input, billed.usage.output, billed.usage.cached), name
            assert (row["reasoning_tokens"] or 0) == billed.usage.reasoning, name
        assert unknown == scenario.unknown, name


def test_each_call_ends_once_and_says_how(captured: Outcome) -> None:
    begins = spools.events(captured.home, "llm.call.started")
    ends = Counter(event["begin"] for event in spools.events(captured.home, "llm.call.finished"))
    assert set(ends.values()) == {1}
    assert len(begins) == len(ends) == sum(len(scenario.ended) for scenario in SCENARIOS.values())
    for name, scenario in SCENARIOS.items():
        if name not in (
            "broken_connection",
            "async_cancelled",
            "interrupted",
        ):  # no answer, so no id to find them by
            found = [row["ended"] for row in calls_of(captured, name)]
            assert len(found) == len(scenario.ended), name
            assert all(one in may.split(" or ") for one, may in zip(found, scenario.ended, strict=True)), name


def test_nothing_of_ours_failed_and_every_hook_took(captured: Outcome) -> None:
    assert spools.events(captured.home, "capture.failed") == []
    assert spools.events(captured.home, "hook.failed") == []
    attached = {e["data"]["target"]: e for e in spools.events(captured.home, "hook.attached")}
    assert attached["openai"]["data"]["points"] == ["SyncAPIClient.request", "AsyncAPIClient.request"]


def test_a_body_that_the_client_cannot_unpack_is_not_decoded_and_says_so(captured: Outcome) -> None:
    """Where its HTTP library has no zstd."""
    (row,) = calls_of(captured, "chat__zstd")
    if row["ended"] == "failed":
        assert row["input_tokens"] is None
        assert row["usage_reason"].endswith("(content encoding zstd)")
    else:
        assert row["input_tokens"] == 3


def test_retries_of_the_client_are_requests_of_one_call(captured: Outcome) -> None:
    [call] = calls_of(captured, "retries")
    requests = [row for row in spools.rows(captured.home, "llm_request") if row["call_id"] == call["call_id"]]
    requests.sort(key=lambda row: row["number"])
    assert [row["http_status"] for row in requests] == [429, 500, None, 200]
    assert [row["error_code"] for row in requests] == ["rate_limit_exceeded", None, None, None]
    assert requests[2]["error_type"].endswith("Error")
    assert requests[0]["retry_after_ms"] == 1
    assert json.loads(requests[0]["rate_limit"])["remaining-tokens"] == "0"
    assert call["requests"] == 4
    assert call["backoff_s"] > 0


def test_a_failure_always_says_why(captured: Outcome) -> None:
    for row in spools.rows(captured.home, "llm_call"):
        if row["ended"] == "failed":
            assert row["error_type"] and row["error_message"]
    [refused] = calls_of(captured, "chat_stream_refused")
    assert (refused["error_type"], refused["error_code"], refused["error_param"], refused["http_status"]) == (
        "openai.BadRequestError",
        "bad",
        "messages",
        400,
    )


def test_unanswered_tool_calls_are_seen_in_the_request(captured: Outcome) -> None:
    first, second = calls_of(captured, "chat_unanswered")
    asked = [call["id"] for call in json.loads(first["tool_calls"])]
    assert json.loads(second["unanswered"]) == asked
    first, second = calls_of(captured, "chat_tools")
    assert second["unanswered"] is None
    assert json.loads(second["tool_outputs"]) == [call["id"] for call in json.loads(first["tool_calls"])]


def test_parameters_are_recorded_as_sent_and_absent_ones_too(captured: Outcome) -> None:
    first, second = calls_of(captured, "chat_tools")
    assert json.loads(first["parameters"]) == {"parallel_tool_calls": False}
    assert "parallel_tool_calls" not in json.loads(first["absent"])
    assert "parallel_tool_calls" in json.loads(second["absent"])


def test_long_tool_arguments_are_told_by_length_and_hash(captured: Outcome) -> None:
    first, _ = calls_of(captured, "chat_tools")
    short, long = json.loads(first["tool_calls"])
    assert json.loads(short["arguments"]) == {"command": "ls"}
    assert "arguments" not in long
    assert long["arguments_bytes"] > 300
    assert len(long["arguments_sha256"]) == 64


def test_polling_a_background_response_counts_it_once(captured: Outcome) -> None:
    calls = calls_of(captured, "responses_background")
    counted = [row["input_tokens"] for row in calls if row["usage_source"] == "reported"]
    assert counted == [1000]
    assert Counter(row["usage_source"] for row in calls)["repeated"] >= 1


def test_no_key_is_on_the_disk(captured: Outcome) -> None:
    for body in spools.bodies(captured.home):
        assert b"scenario-key" not in body
        assert b"azure-key" not in body


# --- the same through OTLP -----------------------------------------------------------------------


VIEWS = ("run", "producer", "llm_call", "llm_request", "tool_call", "usage")


def test_through_otlp_and_the_sink_the_journal_is_the_same(captured: Outcome, tmp_path: Path) -> None:
    """Every scenario's events, sent by the official exporter to a real sink, fold into the same rows."""
    place = tmp_path / "journal.db"
    sink = RunningSink(place)
    exporter = Exporter(logs=Endpoint(f"http://127.0.0.1:{sink.port}/v1/logs", "http/protobuf"), traces=None)
    try:
        assert exporter.events(spools.bodies(captured.home)) == 0
    finally:
        exporter.close()
        sink.stop()
    for view in VIEWS:
        assert spools.rows(captured.home, view) == spools.read(place, view), view
