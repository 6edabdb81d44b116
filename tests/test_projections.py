"""The rows of the views are a function of the events of a run."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_shim import events
from telemetry import rows
from telemetry.projections import RunFold
from telemetry.tables import SQLModel
from telemetry.usage import Usage, kept_by_agent, reported
from tests.made_runs import CALL, RUN, USAGE, Event, Made, Process, runs

Row = dict[str, Any]


class Tables:
    """What a database would hold after the changes of a fold."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[tuple[Any, ...], tuple[Any, ...]]] = {name: {} for name in rows.COLUMNS}

    def write(self, fold: RunFold) -> None:
        changes = fold.changed()
        for name, keys in changes.deletes.items():
            for key in keys:
                del self.rows[name][key]  # only a row that is there may be deleted
        for name, written in changes.upserts.items():
            key = [rows.COLUMNS[name].index(column) for column in _keys(name)]
            self.rows[name] |= {tuple(row[i] for i in key): row for row in written}


def _keys(name: str) -> list[str]:
    return [column.name for column in SQLModel.metadata.tables[name].primary_key]


def fold(given: list[Event], batch: int = 10_000) -> Tables:
    folding, tables = RunFold(RUN), Tables()
    for start in range(0, len(given), batch):
        for event in given[start : start + batch]:
            folding.add(event["producer"], event["seq"], event)
        tables.write(folding)
    return tables


def table(made: Made, name: str) -> list[Row]:
    """The rows of a view in the order of their keys."""
    found = fold(made.events).rows[name]
    return [dict(zip(rows.COLUMNS[name], found[key], strict=True)) for key in sorted(found)]


def only(made: Made, name: str) -> Row:
    (row,) = table(made, name)
    return row


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.fixture
def agent(made: Made) -> Process:
    return made.process("agent")


# --- the set of events ----------------------------------------------------------------------------


@settings(max_examples=300)
@given(runs(), st.randoms(use_true_random=False), st.integers(1, 7))
def test_the_rows_are_a_function_of_the_set_of_events(
    made: list[Event], chance: random.Random, batch: int
) -> None:
    shuffled = list(made)
    chance.shuffle(shuffled)
    assert fold(shuffled, batch).rows == fold(made).rows


def test_the_columns_of_the_rows_are_those_of_the_tables() -> None:
    for name, columns in rows.COLUMNS.items():
        assert columns == tuple(column.name for column in SQLModel.metadata.tables[name].columns)


def test_an_event_of_an_unknown_name_changes_only_the_counts(made: Made, agent: Process) -> None:
    before = fold(made.events).rows
    agent.seq += 1
    agent.tell("weather.changed", {"to": "rain"})
    after = fold(made.events).rows
    assert {name for name in before if before[name] != after[name]} == {"run", "producer"}
    assert only(made, "producer")["events"] == only(made, "run")["events"] == 2


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(events.VOCABULARY)),
    st.dictionaries(
        st.sampled_from(sorted({field for kind in events.VOCABULARY.values() for field in kind._fields})),
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text() | st.lists(st.integers() | st.text()) | st.dictionaries(st.text(), st.integers()),
    ),
)  # fmt: skip
def test_data_of_any_type_folds_into_rows_that_a_database_takes(name: str, data: Row) -> None:
    made = Made()
    agent = made.process()
    agent.seq += 1
    agent.tell(name, data)
    wide = {"BIGINT"}
    for view, found in fold(made.events).rows.items():
        types = [str(column.type) for column in SQLModel.metadata.tables[view].columns]
        for row in found.values():
            for kind, value in zip(types, row, strict=True):
                if type(value) is int:
                    assert abs(value) < 2 ** (63 if kind in wide else 31), (view, row)
                assert value is None or type(value) is _python_type(kind), (view, kind, value)


def _python_type(kind: str) -> type:
    return {"VARCHAR": str, "INTEGER": int, "BIGINT": int, "BOOLEAN": bool, "FLOAT": float}[kind]


# --- calls ----------------------------------------------------------------------------------------


def test_a_call_says_what_was_asked_and_what_was_answered_apart(made: Made, agent: Process) -> None:
    agent.call(model="gpt-5-2025-08-07", tier="default", usage=USAGE)
    call = only(made, "llm_call")
    assert (call["model_requested"], call["model"]) == ("gpt-5", "gpt-5-2025-08-07")
    assert (call["tier_requested"], call["tier"]) == ("flex", "default")
    assert call["duration_s"] == pytest.approx(0.003)
    assert (call["started_at"], call["finished_at"]) == (
        "2025-11-22T00:00:00.002000Z",
        "2025-11-22T00:00:00.005000Z",
    )


def test_a_duration_is_that_of_the_monotonic_clock_and_never_negative(made: Made, agent: Process) -> None:
    call = agent.say(events.CallStarted(**CALL))
    agent.mono -= 5_000_000_000
    agent.say(events.CallFinished(ended="completed"), begin=call)
    assert only(made, "llm_call")["duration_s"] is None
    made.events[-1]["mono"] += 6_000_000_000
    made.events[-1]["time"] -= 3_600_000_000_000
    assert only(made, "llm_call")["duration_s"] == pytest.approx(1.001)


def test_a_call_without_an_end_is_open_until_its_process_is_known_to_be_gone(
    made: Made, agent: Process
) -> None:
    agent.say(events.CallStarted(**CALL))
    call = only(made, "llm_call")
    assert (call["ended"], call["usage_source"], call["usage_reason"]) == (None, "unknown", "call still open")
    made.process("deliverer").found_gone(agent)
    call = only(made, "llm_call")
    assert (call["ended"], call["error_type"], call["usage_reason"]) == (
        "interrupted",
        "Interrupted",
        "call interrupted",
    )
    assert call["error_message"]


@pytest.mark.parametrize("view", ["llm_call", "llm_request", "tool_call"])
def test_a_failure_always_has_a_type_and_a_message(made: Made, agent: Process, view: str) -> None:
    call = agent.say(events.CallStarted(**CALL))
    request = agent.say(events.RequestStarted(number=1), parent=call)
    agent.say(events.RequestFinished(), begin=request)
    agent.say(events.CallFinished(ended="failed"), begin=call)
    tool = agent.say(events.ToolCallStarted(tool="bash"))
    agent.say(events.ToolCallFinished(ended="raised"), begin=tool)
    row = only(made, view)
    assert (row["error_type"], row["error_message"]) == ("UnknownError", "no error was recorded")


def test_a_request_that_was_refused_is_answered_and_counted_as_failed(made: Made, agent: Process) -> None:
    call = agent.say(events.CallStarted(**CALL))
    for number, status in enumerate([429, None, 200], 1):
        request = agent.say(events.RequestStarted(number=number, body_sha256="x"), parent=call)
        agent.say(events.RequestFinished(http_status=status), begin=request)
    found = table(made, "llm_request")
    assert [row["ended"] for row in found] == ["answered", "failed", "answered"]
    assert [row["error_type"] for row in found] == ["429", "UnknownError", None]
    assert {row["call_id"] for row in found} == {call}
    run = only(made, "run")
    assert (run["requests"], run["failed_requests"]) == (3, 2)


def test_an_end_without_its_begin_is_a_row_that_knows_no_beginning(made: Made, agent: Process) -> None:
    begin = agent.say(events.CallStarted(**CALL))
    agent.say(events.CallFinished(ended="completed", usage=USAGE, model="m"), begin=begin)
    del made.events[1]
    call = only(made, "llm_call")
    assert (call["call_id"], call["started_at"], call["duration_s"]) == (begin, None, None)
    assert call["input_tokens"] == 100
    assert only(made, "usage")["day"] == "2025-11-22"


# --- usage ----------------------------------------------------------------------------------------

CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 40,
    "total_tokens": 140,
    "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 30},
}


@pytest.mark.parametrize(
    ("raw", "usage"),
    [
        (CHAT, Usage(100, 60, None, 40, 30, None)),
        (USAGE, Usage(100, 60, None, 40, 30, None)),
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8, None, None, 0, None, None)),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": None},
            Usage(9, None, None, 1, None, None),
        ),
        (
            {"input_tokens": 9, "output_tokens": 1, "input_tokens_details": {"cache_write_tokens": 4}},
            Usage(9, None, 4, 1, None, None),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "cache_creation_input_tokens": 4,
             "cache_read_input_tokens": 5},
            Usage(9, 5, 4, 1, None, None),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 3},
            Usage(9, 3, None, 1, None, None),
        ),
    ],
)  # fmt: skip
def test_usage_of_every_shape_reads_the_same(raw: Row, usage: Usage) -> None:
    assert reported(raw) == usage


@pytest.mark.parametrize(
    ("change", "usage"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 101}},
         (100, None, 40, 30, "more cached tokens than input tokens")),
        ({"prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 41}},
         (100, None, 40, 30, "more cached tokens than input tokens")),
        ({"completion_tokens_details": {"reasoning_tokens": 41}},
         (100, 60, 40, None, "more reasoning tokens than output tokens")),
        ({"prompt_tokens": -1}, (None, 60, 40, 30, "input tokens are not a count")),
        ({"completion_tokens": "40"}, (100, 60, None, 30, "output tokens are not a count")),
        ({"completion_tokens": 40.5}, (100, 60, None, 30, "output tokens are not a count")),
        ({"completion_tokens": True}, (100, 60, None, 30, "output tokens are not a count")),
        ({"completion_tokens": None}, (100, 60, None, 30, "output tokens not reported")),
        ({"prompt_tokens_details": {"cached_tokens": "x"}},
         (100, None, 40, 30, "cached tokens are not a count")),
        ({"total_tokens": 170}, (100, 60, 40, 30, "total tokens are not input plus output")),
    ],
)  # fmt: skip
def test_usage_that_cannot_be_right_is_flagged_and_not_corrected(change: Row, usage: tuple[Any, ...]) -> None:
    given, cached, _, output, reasoning, reason = reported(CHAT | change)
    assert (given, cached, output, reasoning, reason) == usage


def test_cached_tokens_of_anthropics_own_shape_belong_to_the_input() -> None:
    raw = {
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_read_input_tokens": 5000,
        "cache_creation_input_tokens": 200,
    }
    assert reported(raw, "anthropic") == Usage(5210, 5000, 200, 5, None, None)


def test_a_zero_part_of_what_the_agent_keeps_is_unknown() -> None:
    kept = {
        "input_tokens": 9, "output_tokens": 3, "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0, "reasoning_tokens": 0,
    }  # fmt: skip
    assert kept_by_agent(kept) == Usage(9, None, None, 3, None, None)
    assert not kept_by_agent(dict.fromkeys(kept, 0)).known


def test_absent_usage_is_unknown_with_the_reason_the_event_gives(made: Made, agent: Process) -> None:
    agent.call(usage_missing="the stream was not asked for usage")
    agent.call()
    calls = table(made, "llm_call")
    assert {call["usage_source"] for call in calls} == {"unknown"}
    assert sorted(call["usage_reason"] for call in calls) == [
        "no usage in the response",
        "the stream was not asked for usage",
    ]
    assert {call["input_tokens"] for call in calls} == {None}
    rollup = table(made, "usage")
    assert [(row["source"], row["calls"], row["input_tokens"]) for row in rollup] == [
        ("unknown", 1, None),
        ("unknown", 1, None),
    ]


def test_the_rollup_sums_what_was_reported_per_day_and_model(made: Made, agent: Process) -> None:
    agent.call(model="m", tier="default", usage=USAGE, api_ns=2_000_000_000)
    agent.call(model="m", tier="default", usage=CHAT, api_ns=1_000_000_000)
    made.now += 86_400_000_000_000
    agent.call(model="m", tier="default", usage=USAGE)
    assert table(made, "usage") == [
        {
            "run_id": RUN, "day": day, "provider": "openai", "model": "m", "tier": "default",
            "source": "reported", "reason": "", "calls": calls, "input_tokens": 100 * calls,
            "cached_tokens": 60 * calls, "cache_write_tokens": None, "output_tokens": 40 * calls,
            "reasoning_tokens": 30 * calls, "api_s": api_s,
        }
        for day, calls, api_s in [("2025-11-22", 2, 3.0), ("2025-11-23", 1, None)]
    ]  # fmt: skip


def test_a_sum_with_a_hole_is_unknown(made: Made, agent: Process) -> None:
    agent.call(model="m", usage=CHAT)
    agent.call(model="m", usage={"prompt_tokens": 1, "completion_tokens": 1})
    row = only(made, "usage")
    assert (row["calls"], row["input_tokens"], row["cached_tokens"]) == (2, 101, None)


@pytest.mark.parametrize("tokens", [2**40 - 1, 2**61, 2**62, 2**63])
def test_no_number_of_calls_sums_up_to_more_than_a_database_takes(
    made: Made, agent: Process, tokens: int
) -> None:
    for _ in range(5):
        agent.call(usage={"input_tokens": tokens, "output_tokens": tokens})
    assert all(row["input_tokens"] is None or row["input_tokens"] < 2**63 for row in table(made, "usage"))


def test_a_response_is_counted_once_for_its_create_and_all_polls(made: Made) -> None:
    """A background response: the create has no usage, polls come from another process."""
    creator, poller = made.process(), made.process()
    create = creator.call(response_id="resp_1", usage_missing="the response is queued")
    first = poller.call(response_id="resp_1", usage=USAGE)
    second = creator.call(response_id="resp_1", usage=USAGE)
    sources = {row["call_id"]: row["usage_source"] for row in table(made, "llm_call")}
    assert sources == {create: "repeated", first: "reported", second: "repeated"}
    row = only(made, "usage")
    assert (row["calls"], row["input_tokens"]) == (1, 100)


def work_of_polling(polls: int) -> int:
    """Functions that are called while a background response is polled and each poll arrives by itself."""
    made = Made()
    agent = made.process("agent")
    agent.call(response_id="resp_1", usage_missing="the response is queued")
    for _ in range(polls):
        agent.call(response_id="resp_1", usage_missing="the response is in progress")
    folding, called = RunFold(RUN), 0

    def count(*_: Any) -> None:
        nonlocal called
        called += 1

    sys.setprofile(count)
    try:
        for event in made.events:
            folding.add(event["producer"], event["seq"], event)
            folding.changed()
    finally:
        sys.setprofile(None)
    return called


def test_the_work_of_polling_a_response_grows_with_the_polls_and_not_with_their_square() -> None:
    assert work_of_polling(400) < 2.2 * work_of_polling(200)


def test_two_creations_with_one_id_and_different_usage_are_two_responses(made: Made, agent: Process) -> None:
    """Some servers give every response the same id; leaving out all but one would hide their cost."""
    agent.call(response_id="chatcmpl-1", usage=USAGE)
    agent.call(response_id="chatcmpl-1", usage=CHAT)
    assert {row["usage_source"] for row in table(made, "llm_call")} == {"reported"}


# --- the agent's turns ----------------------------------------------------------------------------


def test_a_turn_whose_calls_were_seen_has_no_row_of_its_own(made: Made, agent: Process) -> None:
    turn = agent.say(events.TurnStarted(provider="openai", model="gpt-5"))
    call = agent.call(parent=turn, usage=USAGE)
    agent.say(
        events.TurnFinished(ended="completed", usage={"input_tokens": 1, "output_tokens": 1}), begin=turn
    )
    row = only(made, "llm_call")
    assert (row["call_id"], row["turn_id"], row["source"]) == (call, turn, "wire")
    assert only(made, "usage")["input_tokens"] == 100


def test_a_turn_behind_which_nothing_was_seen_counts_what_the_agent_kept(made: Made, agent: Process) -> None:
    turn = agent.say(events.TurnStarted(provider="google", model="gemini"))
    agent.say(
        events.TurnFinished(ended="completed", usage={"input_tokens": 7, "output_tokens": 2}), begin=turn
    )
    row = only(made, "llm_call")
    assert (row["source"], row["usage_source"], row["input_tokens"]) == ("agent", "agent", 7)
    assert row["turn_id"] == row["call_id"] == turn


@pytest.mark.parametrize(
    ("finished", "reason"),
    [
        ({"ended": "completed"}, "provider not hooked"),
        ({"ended": "failed", "error_type": "APIError"}, "call failed: APIError"),
    ],
)
def test_a_turn_without_usage_says_why_it_is_unknown(
    made: Made, agent: Process, finished: Row, reason: str
) -> None:
    turn = agent.say(events.TurnStarted(provider="ollama", model="qwen"))
    agent.say(events.TurnFinished(**finished), begin=turn)
    row = only(made, "llm_call")
    assert (row["usage_source"], row["usage_reason"]) == ("unknown", reason)


# --- tool calls -----------------------------------------------------------------------------------

ASKED = [{"id": "c1", "name": "bash", "arguments": "{}"}, {"id": "c2", "name": "task_done"}]


def test_a_tool_call_knows_which_llm_call_asked_for_it(made: Made, agent: Process) -> None:
    call = agent.call(tool_calls=ASKED)
    tool = agent.say(events.ToolCallStarted(tool="bash", call_id="c1"))
    agent.say(events.ToolCallFinished(ended="completed", result_bytes=4), begin=tool)
    row = only(made, "tool_call")
    assert (row["tool_call_id"], row["requested_by"], row["result_bytes"]) == (tool, call, 4)


def test_a_model_that_numbers_its_tool_calls_anew_in_each_response(made: Made, agent: Process) -> None:
    asked = []
    for _ in range(3):
        asked.append(agent.call(tool_calls=[{"id": "call_0", "name": "bash"}]))
        agent.say(events.ToolCallStarted(tool="bash", call_id="call_0"))
    executed = sorted(table(made, "tool_call"), key=lambda row: row["started_at"])
    assert [row["requested_by"] for row in executed] == asked


def test_a_fetch_of_the_response_asks_for_no_tool_call(made: Made, agent: Process) -> None:
    create = agent.call(response_id="resp_1", tool_calls=ASKED)
    fetch = agent.say(events.CallStarted(**CALL | {"method": "GET"}))
    agent.say(events.CallFinished(ended="completed", response_id="resp_1", tool_calls=ASKED), begin=fetch)
    agent.say(events.ToolCallStarted(tool="bash", call_id="c1"))
    assert only(made, "tool_call")["requested_by"] == create


def test_a_requested_tool_call_that_can_begin_no_more_was_never_executed(made: Made, agent: Process) -> None:
    agent.say(events.HookAttached(target="trae.tools"))
    call = agent.call(tool_calls=ASKED)
    agent.say(events.ToolCallStarted(tool="bash", call_id="c1"))
    assert len(table(made, "tool_call")) == 1, "c2 may still begin"
    agent.call()
    rows_ = {row["call_id"]: row for row in table(made, "tool_call")}
    assert (rows_["c2"]["ended"], rows_["c2"]["requested_by"]) == ("never executed", call)
    assert rows_["c2"]["tool_call_id"] == f"{call}#c2"
    run = only(made, "run")
    assert (run["tool_calls"], run["never_executed_tool_calls"]) == (2, 1)


def test_where_no_tool_is_seen_none_is_called_never_executed(made: Made, agent: Process) -> None:
    agent.call(tool_calls=ASKED)
    agent.seal()
    assert table(made, "tool_call") == []


def test_overlaps_count_the_tool_calls_that_executed_at_the_same_time(made: Made, agent: Process) -> None:
    first = agent.say(events.ToolCallStarted(tool="a"))
    second = agent.say(events.ToolCallStarted(tool="b"))
    agent.say(events.ToolCallFinished(ended="completed"), begin=first)
    agent.say(events.ToolCallFinished(ended="completed"), begin=second)
    alone = agent.say(events.ToolCallStarted(tool="c"))
    agent.say(events.ToolCallFinished(ended="completed"), begin=alone)
    overlaps = {row["tool"]: row["overlaps"] for row in table(made, "tool_call")}
    assert overlaps == {"a": 1, "b": 1, "c": 0}


# --- producers and runs ---------------------------------------------------------------------------


def whole(made: Made) -> tuple[Process, Process, str, str]:
    wrapper, agent = made.process("wrapper"), made.process("agent")
    root = wrapper.say(events.RunStarted(way="run", agent="trae"))
    process = wrapper.say(events.ProcessStarted(pid=7, capture="runner"), parent=root)
    return wrapper, agent, root, process


def finish(wrapper: Process, agent: Process, root: str, **finished: Any) -> None:
    wrapper.say(events.RunFinished(producers=[agent.producer], **finished), begin=root)
    wrapper.seal()


def test_a_run_is_complete_when_every_producer_is_sealed_and_dense(made: Made) -> None:
    wrapper, agent, root, _ = whole(made)
    agent.call()
    agent.seal()
    assert only(made, "run")["incomplete_reason"] == "the run is not finished"
    finish(wrapper, agent, root, outcome="exited", exit_code=0)
    run = only(made, "run")
    assert (run["complete"], run["incomplete_reason"], run["state"]) == (True, None, "finished")
    assert all(row["complete"] for row in table(made, "producer"))


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (lambda made, agent: made.events.remove(_by(made, agent, 3)), "missing events 3"),
        (lambda made, agent: made.events.remove(_by(made, agent, agent.seq)), "not sealed"),
        (lambda made, agent: [made.events.remove(e) for e in list(made.events)
                              if e["producer"] == agent.producer], "nothing of it arrived"),
        (lambda _, agent: agent.say(events.EventsLost(reasons={"ENOSPC": 3})), "could not write 3 events"),
        (lambda made, agent: made.process("deliverer").found_gone(agent, corrupt_lines=2), "2 corrupt lines"),
        (lambda made, agent: made.process("deliverer").found_gone(agent, lossy=True),
         "lost events that it could not count"),
    ],
)  # fmt: skip
def test_an_incomplete_run_says_which_producer_and_why(made: Made, break_it: Any, why: str) -> None:
    wrapper, agent, root, _ = whole(made)
    agent.call()
    agent.seal()
    finish(wrapper, agent, root, outcome="exited", exit_code=0)
    break_it(made, agent)
    run = only(made, "run")
    assert (run["complete"], run["incomplete_reason"]) == (False, f"producer {agent.producer[-8:]}: {why}")


def _by(made: Made, process: Process, seq: int) -> Event:
    return next(e for e in made.events if (e["producer"], e["seq"]) == (process.producer, seq))


def test_a_run_whose_recorder_died_is_interrupted_and_names_it(made: Made) -> None:
    wrapper, _, _, _ = whole(made)
    assert only(made, "run")["state"] == "running"
    made.process("deliverer").found_gone(wrapper)
    run = only(made, "run")
    assert (run["state"], run["outcome"], run["error_type"]) == ("interrupted", "abandoned", "Interrupted")
    assert "wrapper" in run["error_message"]
    assert "process 101" in run["error_message"]


@pytest.mark.parametrize(
    ("finished", "kind"),
    [
        ({"outcome": "exited", "exit_code": 3}, "ExitStatus3"),
        ({"outcome": "signaled", "signal": 9}, "SIGKILL"),
        ({"outcome": "timeout"}, "timeout"),
        ({"outcome": "spawn_failed"}, "spawn_failed"),
        ({"outcome": "raised"}, "raised"),
        ({"outcome": "raised", "error_type": "KeyError", "error_message": "'x'"}, "KeyError"),
    ],
)
def test_a_run_that_did_not_end_well_has_a_type_and_a_message(made: Made, finished: Row, kind: str) -> None:
    wrapper, agent, root, _ = whole(made)
    finish(wrapper, agent, root, **finished)
    run = only(made, "run")
    assert (run["error_type"], run["error_message"]) == (
        kind,
        finished.get("error_message", "no error was recorded"),
    )


OUTCOMES = (
    *("exited", "signaled", "timeout", "cancelled", "oom_killed", "spawn_failed", "refused", "returned"),
    *("raised", "other"),
)


@pytest.mark.parametrize("kind", [None, "", "Timeout"])
@pytest.mark.parametrize("said", [None, "", "not done"])
@pytest.mark.parametrize("code", [None, 0, 3])
@pytest.mark.parametrize("outcome", [*OUTCOMES, None])
def test_no_outcome_but_a_good_one_is_stored_without_a_type_and_a_message(
    made: Made, outcome: str | None, code: int | None, said: str | None, kind: str | None
) -> None:
    """Whatever the event lacks; ``None`` is a recorder that died."""
    wrapper, agent, root, _ = whole(made)
    if outcome is None:
        made.process("deliverer").found_gone(wrapper)
    else:
        finish(wrapper, agent, root, outcome=outcome, exit_code=code, error_type=kind, error_message=said)
    run = only(made, "run")
    well = outcome == "returned" or (outcome, code) == ("exited", 0)
    assert run["outcome"] == (outcome or "abandoned")
    assert well or (run["error_type"] and run["error_message"])


@pytest.mark.parametrize("finished", [{"outcome": "returned"}, {"outcome": "exited", "exit_code": 0}])
def test_a_run_that_ended_well_has_no_error(made: Made, finished: Row) -> None:
    wrapper, agent, root, _ = whole(made)
    finish(wrapper, agent, root, **finished)
    assert only(made, "run")["error_type"] is None


def test_what_the_process_said_of_its_end_stands_in_for_the_run(made: Made) -> None:
    wrapper, agent, root, process = whole(made)
    wrapper.say(
        events.ProcessFinished(
            outcome="exited", exit_code=2, error_type="ModuleNotFoundError", error_message="No module",
            stderr_bytes=5_000_000_000, stderr_tail="boom", user_ns=1_500_000_000,
        ),
        begin=process,
    )  # fmt: skip
    finish(wrapper, agent, root, outcome="exited")
    run = only(made, "run")
    assert (run["exit_code"], run["error_type"], run["pid"]) == (2, "ModuleNotFoundError", 7)
    assert (run["stderr_bytes"], run["stderr_tail"], run["user_s"]) == (5_000_000_000, "boom", 1.5)


def test_a_run_inside_a_trace_keeps_that_traces_id(made: Made) -> None:
    wrapper = made.process("wrapper")
    wrapper.say(events.RunStarted(way="run", trace_parent=f"00-{'ab' * 16}-{'cd' * 8}-01"))
    assert only(made, "run")["trace_id"] == "ab" * 16


# --- capture --------------------------------------------------------------------------------------


def test_capture_is_unknown_while_the_run_goes_on_and_nothing_took(made: Made) -> None:
    whole(made)
    run = only(made, "run")
    assert (run["capture"], run["capture_reason"]) == ("unknown", None)
    assert table(made, "usage") == []


def test_a_hook_that_took_makes_no_calls_mean_zero(made: Made) -> None:
    wrapper, agent, root, _ = whole(made)
    agent.say(events.HookAttached(target="openai"))
    finish(wrapper, agent, root, outcome="exited", exit_code=0)
    assert (only(made, "run")["capture"], table(made, "usage")) == ("captured", [])


def test_a_run_that_was_not_captured_is_unknown_and_not_zero(made: Made) -> None:
    wrapper, agent, root, _ = whole(made)
    agent.say(events.HookFailed(target="openai", error_type="ImportError", error_message="no _base_client"))
    finish(wrapper, agent, root, outcome="exited", exit_code=0)
    run = only(made, "run")
    assert (run["capture"], run["capture_reason"]) == (
        "not captured",
        "hook failed: openai: no _base_client",
    )
    row = only(made, "usage")
    assert (row["source"], row["calls"], row["input_tokens"], row["reason"]) == (
        "unknown",
        0,
        None,
        run["capture_reason"],
    )


def test_a_program_that_was_never_started_made_no_calls(made: Made) -> None:
    wrapper = made.process("wrapper")
    root = wrapper.say(events.RunStarted(way="run"))
    reason = "the program cannot be started"
    process = wrapper.say(events.ProcessStarted(capture="none", capture_reason=reason), parent=root)
    wrapper.say(events.ProcessFinished(outcome="spawn_failed"), begin=process)
    wrapper.say(events.RunFinished(outcome="spawn_failed", error_type="FileNotFoundError"), begin=root)
    run = only(made, "run")
    assert (run["capture"], run["capture_reason"], run["calls"]) == ("captured", "nothing was started", 0)
    assert table(made, "usage") == []


def test_why_nothing_was_captured_tells_an_idle_hook_from_none(made: Made) -> None:
    wrapper, agent, root, _ = whole(made)
    finish(wrapper, agent, root, outcome="exited", exit_code=0)
    assert only(made, "run")["capture_reason"] == "the agent's process imported nothing that is hooked"
    other = Made()
    alone = other.process("wrapper")
    begun = alone.say(events.RunStarted(way="run"))
    alone.say(events.RunFinished(outcome="exited", exit_code=0), begin=begun)
    assert only(other, "run")["capture_reason"] == "no hook got into the agent's process"


def test_what_cannot_be_captured_says_so_at_once(made: Made) -> None:
    wrapper = made.process("wrapper")
    wrapper.say(events.ProcessStarted(pid=1, capture="none", capture_reason="no hook for codex"))
    assert only(made, "run")["capture_reason"] == "no hook for codex"
