"""Promises of the pricing pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from telemetry.costs import BATCH, Pending, forget, price_pending, price_runs
from telemetry.estimates import vocabulary
from telemetry.filters import COST, RUN, USAGE
from telemetry.journal import Journal
from telemetry.pricing import PriceBook
from tests.journals import NOON_NS, SECOND, Told, filled, usage

pytest_plugins = ("tests.backends",)

BOOK = PriceBook()
DEARER = PriceBook({"price": [{"model": "gpt-5", "input": 100, "output": 1000}]})
KEY = ("day", "provider", "model", "tier", "source", "reason")


def costs(journal: Journal, *columns: str) -> list[tuple[Any, ...]]:
    with journal.engine.connect() as connection:
        rows = connection.execute(select(*(COST.c[name] for name in columns)).order_by(*COST.primary_key))
        return [tuple(row) for row in rows]


def test_each_call_is_priced_and_calls_with_the_same_key_are_summed(place: str) -> None:
    run = Told(1).start()
    for _ in range(2):
        run.call(usage=usage(1000, 100, cached=200))
    run.call(model="gpt-99", usage=usage(10, 10))
    with filled(place, run.finish()) as journal:
        assert price_pending(journal.engine, BOOK) == 1
        assert costs(journal, "model", "calls", "currency", "amount", "unpriced_reason", "book") == [
            ("gpt-5", 2, "USD", 0.00405, "", BOOK.name),
            ("gpt-99", 1, "", None, "no price for openai/gpt-99", BOOK.name),
        ]


def test_a_cost_row_has_the_key_of_its_usage_row(place: str) -> None:
    run = Told(1).start()
    run.call(usage=usage(1, 1))
    run.call(ended="failed", http_status=500, usage_missing="the request failed with status 500")
    run.call(usage={"prompt_tokens": 5})
    with filled(place, run.finish()) as journal:
        price_pending(journal.engine, BOOK)
        with journal.engine.connect() as connection:
            used = connection.execute(select(*(USAGE.c[name] for name in KEY))).all()
        assert {tuple(row) for row in used} == set(costs(journal, *KEY))
        assert len(used) == 3


def test_a_run_is_pending_again_after_one_event_more_or_with_another_book(place: str) -> None:
    run = Told(1).start()
    run.call(usage=usage(1_000_000, 0))
    with filled(place, run) as journal:
        assert [price_pending(journal.engine, BOOK) for _ in range(2)] == [1, 0]
        run.call(usage=usage(1_000_000, 0))
        journal.ingest(run.bodies, "test")
        assert [price_pending(journal.engine, BOOK) for _ in range(2)] == [1, 0]
        assert costs(journal, "calls", "amount") == [(2, 2.5)]
        assert [price_pending(journal.engine, DEARER) for _ in range(2)] == [1, 0]
        assert costs(journal, "calls", "amount", "book") == [(2, 200.0, DEARER.name)]


def test_a_run_that_grew_while_it_was_priced_stays_pending(place: str) -> None:
    run = Told(1).start()
    run.call(usage=usage(1, 1))
    with filled(place, run) as journal:
        assert price_runs(journal.engine, BOOK, [Pending(run.run, len(run.bodies) - 1)]) == 0
        assert costs(journal, "calls") == []
        assert price_runs(journal.engine, BOOK, [Pending(run.run, len(run.bodies))]) == 1


def test_a_run_that_is_being_written_is_left_for_later(place: str) -> None:
    run = Told(1).start()
    run.call(usage=usage(1, 1))
    with filled(place, run) as journal:
        if journal.engine.dialect.name == "sqlite":
            pytest.skip("SQLite has one writer at a time")
        with journal.engine.begin() as other:
            other.execute(update(RUN).values(task="changed"))
            assert price_pending(journal.engine, BOOK) == 0
        assert price_pending(journal.engine, BOOK) == 1


def test_a_cost_that_turns_out_to_be_none_goes(place: str) -> None:
    """A call counts as unknown while it is open, and as nothing when it was refused."""
    run = Told(1).start()
    call = run.tell("llm.call.started", parent=run.process, surface="responses", method="POST", model="gpt-5")
    with filled(place, run) as journal:
        price_pending(journal.engine, BOOK)
        assert costs(journal, "calls", "reason") == [(1, "call still open")]
        run.tell("llm.call.finished", begin=call, ended="failed", http_status=400)
        journal.ingest(run.bodies, "test")
        assert [price_pending(journal.engine, BOOK) for _ in range(2)] == [1, 0]
        assert costs(journal, "calls") == []


def test_many_runs_are_priced_at_once(tmp_path: Path) -> None:
    runs = [Told(n, NOON_NS + n * 60 * SECOND).start() for n in range(1, BATCH + 2)]
    for run in runs:
        run.call(usage=usage(1_000_000, 0))
    with filled(tmp_path / "journal.db", *runs) as journal:
        assert price_pending(journal.engine, BOOK) == BATCH + 1
        assert costs(journal, "amount") == [(1.25,)] * (BATCH + 1)


def test_pricing_runs_as_a_program_of_its_own(data_home: Path) -> None:
    data_home.mkdir()
    run = Told(1).start()
    run.call(usage=usage(1_000_000, 0))
    with filled(data_home / "journal.db", run) as journal:
        subprocess.run([sys.executable, "-m", "telemetry.costs"], check=True)
        assert costs(journal, "amount") == [(1.25,)]


def test_runs_without_calls_are_never_pending(place: str) -> None:
    silent = Told(1).start().finish()
    unseen = Told(2, NOON_NS + SECOND).start(capture="none", capture_reason="no hook for codex").finish()
    with filled(place, silent, unseen) as journal:
        assert price_pending(journal.engine, BOOK) == 0


def test_a_response_that_is_polled_is_paid_once(place: str) -> None:
    run = Told(1).start()
    run.call(usage=usage(1_000_000, 0), response_id="resp_1")
    run.call(usage=usage(1_000_000, 0), response_id="resp_1", started={"method": "GET"})
    with filled(place, run.finish()) as journal:
        price_pending(journal.engine, BOOK)
        assert costs(journal, "calls", "amount") == [(1, 1.25)]


def test_a_price_for_part_of_the_usage_carries_its_reason(place: str) -> None:
    run = Told(1).start()
    run.call(usage={"prompt_tokens": 1_000_000, "prompt_tokens_details": {"cached_tokens": 0}})
    with filled(place, run.finish()) as journal:
        price_pending(journal.engine, BOOK)
        assert costs(journal, "amount", "reason", "unpriced_reason") == [
            (1.25, "output tokens not reported", "output tokens unknown")
        ]


def test_audio_and_hours_in_the_raw_usage_reach_the_price(place: str) -> None:
    audio = usage(10, 10)
    audio["completion_tokens_details"]["audio_tokens"] = 5
    run = Told(1).start()
    run.call(usage=audio)
    with filled(place, run.finish()) as journal:
        price_pending(journal.engine, BOOK)
        assert costs(journal, "amount", "unpriced_reason") == [
            (None, "no rate for audio tokens of openai/gpt-5")
        ]


# --- estimates -----------------------------------------------------------------------------------

BODY = {"messages": [{"role": "user", "content": "Hello"}]}
LOST = {"usage_missing": "the stream ended before its usage (closed early)", "ended": "closed_early"}


def estimated(tmp_path: Path, body: Any = BODY, **finished: Any) -> list[tuple[Any, ...]]:
    run = Told(1).start()
    run.call(started={"input": body}, **{**LOST, **finished})
    with filled(tmp_path / "journal.db", run.finish()) as journal:
        price_pending(journal.engine, BOOK)
        return costs(journal, "source", "amount", "reason", "unpriced_reason")


@pytest.mark.skipif(vocabulary("o200k_base", os.environ) is None, reason="needs tiktoken's vocabulary")
def test_a_call_that_lost_its_usage_is_priced_by_its_kept_input_as_a_lower_bound(tmp_path: Path) -> None:
    """7 tokens, of which all may have been cached: the output stays unknown."""
    assert estimated(tmp_path) == [
        ("estimated", 7 * 0.125e-6, LOST["usage_missing"], "estimated from the input alone")
    ]


@pytest.mark.skipif(vocabulary("o200k_base", os.environ) is None, reason="needs tiktoken's vocabulary")
@pytest.mark.parametrize("status", [500, None])
def test_a_call_that_the_api_did_not_accept_is_not_estimated(tmp_path: Path, status: int | None) -> None:
    """Nobody knows whether it was billed."""
    broken = {"http_status": status, "ended": "failed", "usage_missing": "no response"}
    assert estimated(tmp_path, **broken) == [("unknown", None, "no response", "usage unknown")]


def test_a_call_that_was_refused_costs_nothing(place: str) -> None:
    run = Told(1).start()
    run.call(http_status=400, ended="failed", usage_missing="the request failed with status 400")
    with filled(place, run.finish()) as journal:
        assert price_pending(journal.engine, BOOK) == 0
        assert costs(journal, "calls") == []


def test_without_kept_content_or_vocabulary_the_usage_stays_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = [("unknown", None, LOST["usage_missing"], "usage unknown")]
    assert estimated(tmp_path / "no content", body=None) == unknown
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert estimated(tmp_path / "no vocabulary") == unknown


def test_a_rebuilt_journal_is_priced_anew(place: str) -> None:
    """Costs of other rows than these would be found under the same number of events."""
    run = Told(1).start()
    run.call(usage=usage(1, 1))
    with filled(place, run.finish()) as journal:
        price_pending(journal.engine, BOOK)
        forget(journal.engine)
        assert price_pending(journal.engine, BOOK) == 1
