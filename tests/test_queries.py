"""Promises of the questions: exact values where all is known, bounds and reasons where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent_shim.errors import JournalUnreachable, NotFound
from telemetry import queries
from telemetry.costs import price_pending
from telemetry.filters import STATUSES, Filters
from telemetry.journal import Journal
from telemetry.pricing import PriceBook
from telemetry.totals import Cost, Total
from tests.journals import NOON_NS, SECOND, Told, filled, usage

pytest_plugins = ("tests.backends",)

BOOK = PriceBook()
DAY = 86_400 * SECOND
A, B = "a" * 40, "b" * 40
BROKEN: dict[str, Any] = {
    "http_status": 500,
    "ended": "failed",
    "error_type": "InternalServerError",
    "usage_missing": "the request failed with status 500",
}


def whole(number: int = 1) -> Told:
    """A run of commit A of which everything is known: $4.05 for two calls of gpt-5."""
    run = Told(number, NOON_NS + number * DAY).start(commit=A, task="t1", batch="b1")
    for _ in range(2):
        run.call(usage=usage(1_000_000, 100_000, cached=200_000, reasoning=60_000))
    return run.finish()


def torn(number: int = 2) -> Told:
    """A run of commit A with a call that broke, another model, and no end."""
    run = Told(number, NOON_NS + number * DAY).start(commit=A)
    run.call(**BROKEN)
    run.call(model="doubao-seed-1-6-250615", usage=usage(10_000, 1_000), started={"provider": "volcengine"})
    return run


def unseen(number: int = 3) -> Told:
    """A run of commit B whose calls nobody saw."""
    run = Told(number, NOON_NS + number * DAY).start(
        commit=B, capture="none", capture_reason="no hook for codex"
    )
    return run.finish(exit_code=1, error_type="ExitCode", error_message="exit 1")


@pytest.fixture
def journal(place: str) -> Iterator[Journal]:
    with filled(place, whole(), torn(), unseen()) as journal:
        price_pending(journal.engine, BOOK)
        yield journal


# --- totals --------------------------------------------------------------------------------------


def test_a_run_of_which_all_is_known_has_exact_totals(journal: Journal) -> None:
    line = queries.cost(journal.engine, BOOK, "run", Filters(task="t1")).total
    assert line.tokens == {
        "uncached": Total(1_600_000),
        "cached": Total(400_000),
        "cache_write": Total(0),
        "output": Total(200_000),
        "reasoning": Total(120_000),
    }
    assert (line.runs, line.calls, line.cost) == (1, Total(2), Cost({"USD": pytest.approx(4.05)}))
    assert (line.wall_s, line.api_s) == (Total(5), Total(2))
    assert line.coverage == ({"reported": 2}, {}, {}, 0, 0)


def test_a_hole_makes_every_total_a_lower_bound_that_says_why(journal: Journal) -> None:
    line = queries.cost(journal.engine, BOOK, "commit", Filters(commit="aaa")).lines[0]
    reason = "1 of 4 calls unknown; 1 run not complete"
    assert line.cost == Cost({"CNY": pytest.approx(0.016), "USD": pytest.approx(4.05)}, reason)
    assert line.tokens["output"] == Total(201_000, reason)
    assert line.calls == Total(4, "1 run not complete")
    assert line.wall_s == Total(5, "1 run without an end")
    assert line.coverage.calls == {"reported": 3, "unknown": 1}
    assert line.coverage.usage == {"the request failed with status 500": 1}


def test_a_run_that_was_not_captured_is_unknown_and_never_zero(journal: Journal) -> None:
    line = queries.cost(journal.engine, BOOK, "commit", Filters(commit=B)).lines[0]
    unknown = Total(None, "1 run not captured")
    assert (line.calls, line.cost, line.api_s) == (unknown, Cost({}, "1 run not captured"), unknown)
    assert set(line.tokens.values()) == {unknown}
    assert line.coverage == ({}, {"no hook for codex": 0}, {}, 1, 0)


def test_a_captured_run_without_calls_used_nothing(place: str) -> None:
    with filled(place, Told(1).start().finish()) as journal:
        line = queries.cost(journal.engine, BOOK).total
    assert (line.calls, line.cost, set(line.tokens.values())) == (Total(0), Cost({}), {Total(0)})


def test_a_call_that_was_refused_used_nothing(place: str) -> None:
    run = Told(1).start()
    run.call(usage=usage(1_000_000, 0))
    run.call(http_status=400, ended="failed", usage_missing="the request failed with status 400")
    with filled(place, run.finish()) as journal:
        price_pending(journal.engine, BOOK)
        line = queries.cost(journal.engine, BOOK).total
    assert (line.calls, line.cost) == (Total(1), Cost({"USD": 1.25}))


def test_what_a_call_did_not_report_is_missing_in_that_column_only(place: str) -> None:
    run = Told(1).start()
    run.call(usage=usage(10, 1))
    run.call(usage={"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11})
    with filled(place, run.finish()) as journal:
        tokens = queries.cost(journal.engine, BOOK).total.tokens
    assert tokens["output"] == Total(2)
    assert tokens["cached"] == Total(None, "2 of 2 calls unknown")


def test_calls_that_are_not_priced_yet_are_a_hole_in_the_cost(place: str) -> None:
    with filled(place, whole()) as journal:
        line = queries.cost(journal.engine, BOOK).total
    assert line.cost == Cost({}, "2 of 2 calls unknown")
    assert line.coverage.price == {"not priced yet": 2}


def test_a_price_for_a_part_is_told_from_no_price(place: str) -> None:
    run = Told(1).start()
    run.call(usage={"prompt_tokens": 1_000_000, "prompt_tokens_details": {"cached_tokens": 0}})
    run.call(model="gpt-99", usage=usage(1, 1))
    with filled(place, run.finish()) as journal:
        price_pending(journal.engine, BOOK)
        line = queries.cost(journal.engine, BOOK).total
    assert line.cost == Cost({"USD": 1.25}, "1 of 2 calls unknown; 1 of 2 calls known in part")
    assert line.coverage.price == {"output tokens unknown": 1, "no price for openai/gpt-99": 1}


# --- groups --------------------------------------------------------------------------------------


def test_by_commit_the_dearest_comes_first(journal: Journal) -> None:
    report = queries.cost(journal.engine, BOOK, "commit")
    assert [(line.key["commit"], line.runs) for line in report.lines] == [(A, 2), (B, 1)]
    assert report.total.runs == 3
    assert report.book == BOOK.name


def test_by_model_each_answering_model_has_its_line(journal: Journal) -> None:
    report = queries.cost(journal.engine, BOOK, "model")
    assert [(line.key["provider"], line.key["model"], line.runs) for line in report.lines] == [
        ("openai", "gpt-5", 2),
        ("volcengine", "doubao-seed-1-6-250615", 1),
        ("unknown", "unknown", 1),
    ]
    assert report.lines[0].wall_s == Total(None, "a run is not divided by model")
    assert report.lines[2].coverage.not_captured == 1


def test_a_run_without_calls_belongs_to_the_day_of_its_start(place: str) -> None:
    idle = Told(9, NOON_NS + DAY).start(commit=A).finish()
    with filled(place, whole(), torn(), idle) as journal:
        report = queries.cost(journal.engine, BOOK, "day")
    assert {line.key["day"]: line.runs for line in report.lines} == {"2026-11-24": 2, "2026-11-25": 1}
    assert report.total.runs == 3


def test_by_day_days_come_in_their_order(journal: Journal) -> None:
    report = queries.cost(journal.engine, BOOK, "day")
    assert [line.key["day"] for line in report.lines] == ["2026-11-24", "2026-11-25", "2026-11-26"]


def test_by_run_the_latest_comes_first(journal: Journal) -> None:
    report = queries.cost(journal.engine, BOOK, "run", limit=2)
    assert [line.key["run_id"] for line in report.lines] == [unseen().run, torn().run]
    assert (report.left_out, report.total.runs) == (1, 3)


# --- filters -------------------------------------------------------------------------------------


def chosen(journal: Journal, **filters: Any) -> list[int]:
    """The numbers of the runs that fit, the latest first."""
    return [int(line.run.run_id[-8:], 16) for line in queries.runs(journal.engine, Filters(**filters))]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [3, 2, 1]),
        ({"since": datetime(2026, 11, 25, 12, tzinfo=UTC)}, [3, 2]),
        ({"until": datetime(2026, 11, 25, 12, tzinfo=UTC)}, [1]),
        ({"commit": "AAAA"}, [2, 1]),
        ({"commit": "%"}, []),
        ({"status": ("failed",)}, [3]),
        ({"status": ("running", "exit-0")}, [2, 1]),
        ({"status": ("not-captured",)}, [3]),
        ({"status": ("incomplete",)}, []),
        ({"model": "gpt-5"}, [3, 2, 1]),
        ({"model": "doubao-*"}, [3, 2]),
        ({"model": "gpt_5"}, [3]),
        ({"agent": "trae", "batch": "b1"}, [1]),
    ],
)
def test_filters_choose_runs(journal: Journal, filters: dict[str, Any], expected: list[int]) -> None:
    """A run that was not captured may be of any model."""
    assert chosen(journal, **filters) == expected


def test_every_status_can_be_asked_for(journal: Journal) -> None:
    """Each chooses those runs of the three that it should."""
    expected = {"running": [2], "finished": [3, 1], "exit-0": [1], "failed": [3], "exited": [3, 1]}
    expected["not-captured"] = [3]
    assert {status: chosen(journal, status=(status,)) for status in STATUSES} == {
        status: expected.get(status, []) for status in STATUSES
    }


@pytest.mark.parametrize("by", ["commit", "model", "run", "day"])
def test_a_model_filter_leaves_other_models_out_of_the_totals(journal: Journal, by: str) -> None:
    total = queries.cost(journal.engine, BOOK, by, Filters(model="doubao*")).total
    assert total.cost.amounts == {"CNY": pytest.approx(0.016)}
    assert (total.calls.value, total.runs) == (1, 2)


# --- one run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", ["@last", unseen().run, unseen().run.upper(), "00000003", "3"])
def test_a_run_is_found_by_its_full_id_its_end_or_as_the_last(journal: Journal, ref: str) -> None:
    assert queries.run(journal.engine, ref).run_id == unseen().run


def test_a_name_of_several_runs_or_of_none_is_refused_with_a_way_out(journal: Journal) -> None:
    with pytest.raises(NotFound) as several:
        queries.run(journal.engine, "019ab")
    assert several.value.hint == "Name one: 00000003, 00000002, 00000001."
    with pytest.raises(NotFound) as none:
        queries.run(journal.engine, "%")
    assert none.value.hint == "agent-telemetry runs lists them."


def test_a_timeline_holds_calls_requests_tools_and_what_the_agent_claims(place: str) -> None:
    run = Told(1).start()
    turn = run.tell("agent.turn.started", parent=run.process, configured={"parallel_tool_calls": False})
    run.call(usage=usage(1_000_000, 0), parent=turn)
    run.tool("bash", ended="failed", error_type="ToolError", error_message="no")
    with filled(place, run.finish()) as journal:
        timeline = queries.timeline(journal.engine, queries.run(journal.engine, "@last"), BOOK)
    (view,) = timeline.calls
    assert view.assessed is not None
    assert (view.assessed.source, view.assessed.price.amount) == ("reported", 1.25)
    assert [(request.number, request.http_status) for request in view.requests] == [(1, 200)]
    assert [(tool.tool, tool.error_type) for tool in timeline.tools] == [("bash", "ToolError")]
    assert timeline.configured == {"parallel_tool_calls": {"false": 1}}
    assert [producer.role for producer in timeline.producers] == ["wrapper", "agent"]


def test_a_list_of_runs_says_models_and_cost_of_each(journal: Journal) -> None:
    lines = queries.runs(journal.engine, limit=2)
    assert [(line.models, line.cost.reason) for line in lines] == [
        ((), "1 run not captured"),
        (("doubao-seed-1-6-250615", "gpt-5"), "1 of 2 calls unknown; 1 run not complete"),
    ]


def test_a_journal_that_is_gone_is_said_to_be_unreachable(tmp_path: Path) -> None:
    journal = filled(tmp_path / "journal.db")
    journal.close()
    (tmp_path / "journal.db").write_bytes(b"something else, but long enough to be looked at" * 100)
    with pytest.raises(JournalUnreachable):
        queries.runs(journal.engine)
