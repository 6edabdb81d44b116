"""Promises of the answers: the same in three forms, exact, and honest about what is not known."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from telemetry import queries, reports, timeline
from telemetry.costs import price_pending
from telemetry.estimates import vocabulary
from telemetry.journal import Journal
from telemetry.pricing import PriceBook
from telemetry.reports import Form
from tests.journals import NOON_NS, SECOND, Told, filled, usage

BOOK = PriceBook()
A, B = "a" * 40, "b" * 40
EVIL = "\x1b]0;pwned\x07\x1b[2J\u202e"


def priced(path: Path, *told: Told) -> Journal:
    journal = filled(path, *told)
    price_pending(journal.engine, BOOK)
    return journal


def whole() -> Told:
    """A run of which everything is known, but whose tools are not hooked."""
    run = Told(1).start(commit=A, task="t1", command=["trae-cli", "run"], tags={"k": "v"}, attempt=2)
    run.call(usage=usage(1_000_000, 100_000, cached=200_000, reasoning=60_000))
    return run.finish()


def unseen() -> Told:
    """A run whose calls nobody saw, and which failed."""
    run = Told(2, NOON_NS + 100 * SECOND).start(commit=B, capture="none", capture_reason="no hook for codex")
    return run.finish(exit_code=1, error_type="ExitCode", error_message=f"exit status 1{EVIL}")


def text(kind: str, write: Callable[[Form], None]) -> str:
    out = io.StringIO()
    write(Form(out, kind, UTC))
    return out.getvalue()


def records(lines: str) -> list[dict[str, str]]:
    """Tab-separated lines by the names in their first."""
    names, *rest = (line.split("\t") for line in lines.splitlines())
    return [dict(zip(names, fields, strict=True)) for fields in rest]


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path: Path) -> Callable[[str], str]:
    with priced(tmp_path / "journal.db", whole(), unseen()) as journal:
        lines = queries.runs(journal.engine)
    return lambda kind: text(kind, lambda form: reports.runs(lines, form))


def test_runs_as_lines(listed: Callable[[str], str]) -> None:
    last, first = records(listed("lines"))
    assert first == {
        "run_id": whole().run,
        "started_at": "2026-11-23 12:00:00+00:00",
        "claimed": "exit 0",
        "status": "exit 0",
        "claimed_success": "",
        "verdict": "",
        "verdict_policy": "",
        "verdict_reason": "",
        "state": "finished",
        "outcome": "exited",
        "exit_code": "0",
        "signal": "",
        "error_type": "",
        "error_message": "",
        "duration_s": "3.0",
        "repository": "https://github.com/o/r",
        "commit": A,
        "attempt": "2",
        "agent": "trae",
        "task": "t1",
        "batch": "",
        "models": "gpt-5",
        "calls": "1",
        "requests": "1",
        "failed_requests": "0",
        "tool_calls": "",
        "failed_tool_calls": "",
        "never_executed_tool_calls": "",
        "cost_usd": "2.025",
        "cost_reason": "",
        "capture": "captured",
        "capture_reason": "",
        "complete": "yes",
        "incomplete_reason": "",
    }
    assert {name: last[name] for name in ("calls", "requests", "tool_calls", "cost_usd", "models")} == {
        "calls": "", "requests": "", "tool_calls": "", "cost_usd": "", "models": "",
    }  # fmt: skip
    assert (last["capture"], last["capture_reason"]) == ("not captured", "no hook for codex")
    assert last["error_message"] == "exit status 1␛]0;pwned␇␛[2J\\u202e"


def test_runs_as_json(listed: Callable[[str], str]) -> None:
    last, first = json.loads(listed("json"))
    assert first["cost"] == [{"currency": "USD", "amount": 2.025}]
    assert (first["command"], first["tags"]) == (["trae-cli", "run"], {"k": "v"})
    assert (first["calls"], first["calls_reason"], first["cost_reason"]) == (1, None, None)
    assert (first["tool_calls"], first["tool_calls_reason"]) == (
        None,
        "the execution of tools was not hooked",
    )
    assert first["started_at"] == "2026-11-23T12:00:00.000000Z"
    assert (last["calls"], last["requests"], last["cost"]) == (None, None, None)
    assert (last["calls_reason"], last["cost_reason"]) == ("no hook for codex", "1 run not captured")
    assert last["error_message"] == f"exit status 1{EVIL}", "programs get what was said"


def test_runs_as_a_table(listed: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert [line.rstrip() for line in listed("table").splitlines()] == [
        "RUN       STARTED +00:00    CLAIMED  VERIFIED    COMMIT       COST  RECORD",
        "00000002  2026-11-23 12:01  exit 1   not judged  bbbbbbbb  unknown  not captured",
        "00000001  2026-11-23 12:00  exit 0   not judged  aaaaaaaa    $2.02  complete",
    ]


def test_an_empty_journal_says_how_to_record_the_first_run() -> None:
    assert text("table", lambda form: reports.runs([], form)) == (
        "No runs yet. Record the first one with:\n\n  agent-telemetry run -- trae-cli run …\n"
    )
    assert text("table", lambda form: reports.runs([], form, filtered=True)) == "No run fits.\n"
    assert text("json", lambda form: reports.runs([], form)) == "[]\n"
    assert len(text("lines", lambda form: reports.runs([], form)).splitlines()) == 1


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ({"outcome": "exited", "exit_code": 3}, "exit 3"),
        ({"outcome": "signaled", "exit_code": None, "signal": 9}, "signal 9"),
        ({"outcome": "oom_killed", "exit_code": None}, "oom killed"),
        ({"outcome": "timeout", "exit_code": None}, "timeout"),
    ],
)
def test_a_status_is_how_the_process_ended(tmp_path: Path, ending: dict[str, Any], expected: str) -> None:
    with filled(tmp_path / "journal.db", Told(1).start().finish(**ending)) as journal:
        assert reports.status(queries.run(journal.engine, "@last")) == expected


def test_a_run_without_an_end_is_running_or_interrupted(tmp_path: Path) -> None:
    run = Told(1).start()
    with filled(tmp_path / "journal.db", run) as journal:
        assert reports.status(queries.run(journal.engine, "@last")) == "running"
        run.seal(run.wrapper)
        run.seal(run.agent)
        journal.ingest(run.bodies, "test")
        found = queries.run(journal.engine, "@last")
        assert (reports.status(found), reports.record(found)) == ("interrupted", "incomplete")


# --- cost ----------------------------------------------------------------------------------------


@pytest.fixture
def spent(tmp_path: Path) -> Callable[[str], str]:
    yuan = Told(3, NOON_NS + 200 * SECOND).start(commit=A)
    yuan.call(model="doubao-seed-1-6-250615", usage=usage(10_000, 1_000), started={"provider": "volcengine"})
    with priced(tmp_path / "journal.db", whole(), unseen(), yuan.finish()) as journal:
        report = queries.cost(journal.engine, BOOK)
    return lambda kind: text(kind, lambda form: reports.cost(report, form))


def test_cost_as_lines(spent: Callable[[str], str]) -> None:
    known, unknown = records(spent("lines"))
    assert known == {
        "commit": A,
        "repository": "https://github.com/o/r",
        "runs": "2",
        "calls": "2",
        "uncached_tokens": "810000",
        "cached_tokens": "200000",
        "cache_write_tokens": "0",
        "output_tokens": "101000",
        "reasoning_tokens": "60000",
        "tokens_reason": "",
        "cost_usd": "2.025",
        "cost_cny": "0.016",
        "cost_reason": "",
        "wall_s": "6.0",
        "api_s": "2.0",
        "calls_reported": "2",
        "calls_agent": "0",
        "calls_estimated": "0",
        "calls_unknown": "0",
        "runs_not_captured": "0",
        "runs_not_complete": "0",
    }
    assert {name for name, value in unknown.items() if not value} == {
        "calls", "uncached_tokens", "cached_tokens", "cache_write_tokens", "output_tokens",
        "reasoning_tokens", "cost_usd", "cost_cny", "api_s",
    }  # fmt: skip
    assert (unknown["cost_reason"], unknown["runs_not_captured"]) == ("1 run not captured", "1")


def test_a_reason_that_two_sums_have_is_said_once(tmp_path: Path) -> None:
    """Of one call only the output is known, and of no sum all of the run."""
    told = Told(1).start(commit=A)
    told.call(usage={"completion_tokens": 5})
    with priced(tmp_path / "journal.db", told) as journal:
        report = queries.cost(journal.engine, BOOK)
    (line, *_) = records(text("lines", lambda form: reports.cost(report, form)))
    assert line["tokens_reason"] == "1 of 1 calls unknown; 1 run not complete"


def test_cost_as_json(spent: Callable[[str], str]) -> None:
    report = json.loads(spent("json"))
    known, unknown = report["lines"]
    assert (report["by"], report["price_book"], report["lines_left_out"]) == ("commit", BOOK.name, 0)
    assert known["cost"] == [{"currency": "CNY", "amount": 0.016}, {"currency": "USD", "amount": 2.025}]
    assert (known["output_tokens"], known["output_tokens_reason"]) == (101_000, None)
    assert (unknown["cost"], unknown["cost_reason"]) == (None, "1 run not captured")
    assert (unknown["output_tokens"], unknown["output_tokens_reason"]) == (None, "1 run not captured")
    assert unknown["usage_reasons"] == {"no hook for codex": 0}
    assert report["total"]["runs"] == 3
    assert report["total"]["cost_reason"] == "1 run not captured"


def test_cost_as_a_table_ends_with_what_it_lacks(
    spent: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.rstrip() for line in spent("table").splitlines()]
    assert [line.split()[0] for line in lines[:4]] == ["COMMIT", "aaaaaaaa", "bbbbbbbb", "total"]
    assert lines[1].endswith("CN¥0.016 + $2.02  6.0 s")
    assert lines[2].split()[2:] == [*["unknown"] * 5, "1.0", "s"]
    assert lines[3].endswith("≥ CN¥0.016 + $2.02  7.0 s")
    assert lines[4:] == [
        "",
        "Usage of calls: 2 reported.",
        "Usage unknown or in part: no hook for codex (an unknown number of calls).",
        "1 run not captured: the usage is unknown, not zero.",
        f"Prices: {BOOK.name}.",
    ]


@pytest.mark.parametrize("columns", [30, 45, 60])
@pytest.mark.parametrize("kept", [("listed", "RUN", "00000002"), ("spent", "COMMIT", "aaaaaaaa")])
def test_a_narrow_terminal_has_fewer_columns_and_whole_ids(
    kept: tuple[str, str, str], columns: int, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    fixture, title, first = kept
    lines = request.getfixturevalue(fixture)("table").splitlines()
    assert (lines[0].split()[0], lines[1].split()[0]) == (title, first)
    assert "COST" in lines[0]
    assert "…" not in "".join(lines[:3])


# --- one run -------------------------------------------------------------------------------------


def eventful() -> Told:
    """A run with a retry that failed for good, a tool that failed, an unhooked target, and hostile texts."""
    run = Told(1).start(commit=A, command=["trae-cli", EVIL])
    run.tell("hook.failed", target="trae.tools", error_message="no such function", ticks=0)
    turn = run.tell(
        "agent.turn.started", parent=run.process, configured={"parallel_tool_calls": False}, ticks=0
    )
    run.call(
        parent=turn,
        usage=usage(1_000, 100, cached=200, reasoning=60),
        started={"parameters": {"temperature": 0.5}, "absent": ["parallel_tool_calls", "seed", "top_p"]},
    )
    run.tool("bash", ended="failed", error_type="ToolError", error_message=f"no{EVIL}")
    lost = run.tell(
        "llm.call.started", parent=run.process, surface="responses", provider="openai", model="gpt-5", ticks=0
    )
    run.request(lost, 1, http_status=429, error_type="rate_limit_exceeded", retry_after_ms=20)
    run.request(lost, 2, error_type="APIConnectionError", error_message="reset")
    run.tell(
        "llm.call.finished", begin=lost, ended="failed", error_type="APIConnectionError",
        error_message="reset", usage_missing="no response", requests=2,
    )  # fmt: skip
    return run.finish(stdout_tail=f"one\n{EVIL}two\n", stderr_tail="\n".join(map(str, range(50))))


@pytest.fixture
def shown(tmp_path: Path) -> Callable[[str], str]:
    with priced(tmp_path / "journal.db", eventful()) as journal:
        found = queries.timeline(journal.engine, queries.run(journal.engine, "@last"), BOOK)
    return lambda kind: text(kind, lambda form: timeline.show(found, form))


def test_a_run_as_lines_is_its_timeline(shown: Callable[[str], str]) -> None:
    found = records(shown("lines"))
    columns = ("offset_s", "kind", "name", "ended", "duration_s", "error_type")
    assert [tuple(line[name] for name in columns) for line in found] == [
        ("1.0", "call", "gpt-5", "completed", "1.0", ""),
        ("1.0", "request", "", "200", "1.0", ""),
        ("3.0", "tool", "bash", "failed", "1.0", "ToolError"),
        ("5.0", "call", "gpt-5", "failed", "2.0", "APIConnectionError"),
        ("5.0", "request", "", "429", "1.0", "rate_limit_exceeded"),
        ("6.0", "request", "", "failed", "1.0", "APIConnectionError"),
    ]
    amounts = ("usage_source", "cost", "cost_currency", "cost_reason")
    assert tuple(found[0][name] for name in amounts) == ("reported", "0.002025", "USD", "")
    assert tuple(found[1][name] for name in amounts) == ("", "", "", ""), "a request has no price of its own"
    assert tuple(found[3][name] for name in amounts) == ("unknown", "", "", "usage unknown")
    assert found[0]["detail"] == "1k in (200 cached), 100 out (60 reasoning) · $0.0020"
    assert found[3]["detail"] == "usage unknown: no response · APIConnectionError: reset"
    assert found[4]["detail"] == "rate_limit_exceeded: no error was recorded · told to wait 20 ms"
    assert found[5]["detail"] == "retry 1 · APIConnectionError: reset"


def test_a_run_as_json_has_everything(shown: Callable[[str], str]) -> None:
    found = json.loads(shown("json"))
    first, last = found["calls"]
    assert first["cost"] == {"currency": "USD", "amount": 0.002025, "matched": "genai-prices openai/gpt-5"}
    assert (first["cost_reason"], first["input_tokens"], first["input_tokens_estimated"]) == (
        None,
        1_000,
        None,
    )
    assert (last["cost"], last["cost_reason"], last["usage_source"]) == (None, "usage unknown", "unknown")
    assert [request["http_status"] for request in last["requests"]] == [429, None]
    assert found["parameters_sent"] == {
        "parallel_tool_calls": {"absent": 1},
        "seed": {"absent": 1},
        "temperature": {"0.5": 1},
        "top_p": {"absent": 1},
    }
    assert found["parameters_configured"] == {"parallel_tool_calls": {"false": 1}}
    assert found["usage"]["cost_reason"] == "1 of 2 calls unknown"
    assert found["run"]["stdout_tail"] == f"one\n{EVIL}two\n"
    assert [producer["role"] for producer in found["producers"]] == ["wrapper", "agent"]
    assert found["tool_calls"][0]["tool"] == "bash"


def test_a_run_for_people(shown: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    story = shown("table")
    lines = [line.rstrip() for line in story.splitlines()]
    assert lines[0] == f"run       00000001 · {eventful().run}"
    for expected in (
        "ended     exit 0, as it says of itself · verified: not judged",
        "captured  captured · hooks: openai 2.3.0; trae.tools failed: no such function",
        "cost      ≥ $0.0020 (1 of 2 calls unknown)",
        "  parallel_tool_calls: configured false, absent in 1 call",
        "  temperature: sent 0.5 in 1 call",
        "  absent in every call: seed, top_p",
        "  1 × ToolError: no␛]0;pwned␇␛[2J\\u202e",
        "  … 30 lines before (--json has them)",
        "  49",
    ):
        assert expected in lines, expected
    assert all(char.isprintable() or char == "\n" for char in story)


def test_a_process_that_was_killed_says_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    killed = Told(1).start(commit=A).finish("signaled", None, signal=9)
    with priced(tmp_path / "journal.db", killed) as journal:
        found = queries.timeline(journal.engine, queries.run(journal.engine, "@last"), BOOK)
    assert "ended     signal 9 · verified: not judged" in text(
        "table", lambda form: timeline.show(found, form)
    )


@pytest.mark.skipif(vocabulary("o200k_base", os.environ) is None, reason="needs tiktoken's vocabulary")
def test_an_estimate_is_called_one(tmp_path: Path) -> None:
    run = Told(1).start()
    run.call(
        started={"input": {"messages": [{"role": "user", "content": "Hello"}]}},
        ended="closed_early",
        usage_missing="the stream ended before its usage (closed early)",
    )
    with priced(tmp_path / "journal.db", run.finish()) as journal:
        found = queries.timeline(journal.engine, queries.run(journal.engine, "@last"), BOOK)
    first, _ = records(text("lines", lambda form: timeline.show(found, form)))
    assert first["detail"] == "about 7 in, estimated; out unknown · ≥ $0.00000087"
    assert first["input_tokens"] == "", "what was not reported is not in the column of what was"
    call = json.loads(text("json", lambda form: timeline.show(found, form)))["calls"][0]
    assert call["input_tokens_estimated"] == {"tokens": 7, "encoding": "o200k_base", "assumed": False}
    assert (call["usage_source"], call["cost_reason"]) == ("estimated", "estimated from the input alone")
    assert found.cost.coverage.calls == {"estimated": 1}
    assert found.cost.tokens["output"].value is None


def test_a_run_without_anything_seen_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with priced(tmp_path / "journal.db", unseen()) as journal:
        found = queries.timeline(journal.engine, queries.run(journal.engine, "@last"), BOOK)
    story = text("table", lambda form: timeline.show(found, form))
    assert "captured  not captured: no hook for codex\n" in story
    assert "cost      unknown (1 run not captured)\n" in story
    assert "tokens    unknown\n" in story
    assert "ended     exit 1, as it says of itself · verified: not judged · ExitCode" in story
