"""Checks over runs made by hand: exact states, and exact reasons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from telemetry import checks, evidence, faults
from telemetry.checks import Check
from telemetry.filters import CALL, REQUEST, RUN
from telemetry.journal import Journal
from tests.journals import Told, filled
from tests.judged_runs import CHANGED, EMPTY, begun, called, ended, executed, solved

Examine = Callable[..., dict[str, Check]]


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    with filled(tmp_path / "journal.db") as opened:
        yield opened


@pytest.fixture
def examine(journal: Journal) -> Examine:
    """The checks of a run, by name."""

    def of(run: Told, **known: Any) -> dict[str, Check]:
        journal.ingest(run.bodies, "test")
        with journal.engine.connect() as connection:
            row = connection.execute(select(RUN).where(RUN.c.run_id == run.run)).one()
            found = checks.examine(evidence.gather(connection, row)._replace(**known))
        assert [check.name for check in found] == list(checks.NAMES)
        return {check.name: check for check in found}

    return of


def said(check: Check) -> tuple[str, str]:
    return check.state, check.reason


def test_a_run_that_did_its_work_passes_all_that_can_be_known(examine: Examine) -> None:
    found = examine(solved())
    assert {name for name, check in found.items() if check.state == "unknown"} == {
        "files-allowed",
        "verification",
        "result",
    }
    assert not [check for check in found.values() if check.state == "fail"]
    assert said(found["exit-0"]) == ("pass", "the process ended by itself, with 0")
    assert said(found["agent-done"]) == ("pass", "the agent's own record says success: true")
    assert said(found["patch-applies"]) == ("pass", "the patch applies to bbbbbbbbbbbb")


def test_each_check_names_events_that_exist(examine: Examine, journal: Journal) -> None:
    run = begun()
    call = called(run, "a:bash", started={"unanswered": ["z"]}, http_status=400, ended="failed")
    found = examine(ended(run, CHANGED))
    assert found["tools-answered"].events == (call,)
    stored = {f"{run.agent}:{n}" for n in range(1, 20)} | {f"{run.wrapper}:{n}" for n in range(1, 20)}
    assert all(set(check.events) <= stored for check in found.values())
    assert found["patch-not-empty"].events and found["exit-0"].events


# --- the process -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (
            {"exit_code": 1, "error_type": "E", "error_message": "it broke"},
            "the process ended with 1: it broke",
        ),
        (
            {"outcome": "timeout", "exit_code": None, "error_type": "Timeout", "error_message": "not done"},
            "the process did not end by itself: timeout: not done",
        ),
        (
            {"outcome": "raised", "exit_code": None, "error_type": "ValueError", "error_message": "boom"},
            "the run ended with ValueError: boom",
        ),
        (
            {"outcome": "spawn_failed", "exit_code": None, "error_type": "E", "error_message": "no such"},
            "the process was never started: no such",
        ),
    ],
)
def test_an_end_other_than_0_fails(examine: Examine, end: dict[str, Any], reason: str) -> None:
    assert said(examine(ended(begun(), CHANGED, **end))["exit-0"]) == ("fail", reason)


def test_what_is_running_or_was_interrupted_is_not_known(examine: Examine) -> None:
    found = examine(begun())
    assert said(found["exit-0"]) == ("unknown", "the run is not finished")
    assert said(found["telemetry-complete"]) == ("unknown", "the run is not finished")
    run = begun(2)
    run.seal(run.wrapper)
    assert examine(run)["exit-0"].reason.endswith("died before it could record how the run ended")


@pytest.mark.parametrize(("success", "state"), [(True, "pass"), (False, "fail")])
def test_what_the_agent_wrote_of_itself_counts_as_its_word(
    examine: Examine, success: bool, state: str
) -> None:
    run = begun()
    called(run, "b:task_done")
    assert examine(ended(run, CHANGED, success=success))["agent-done"].state == state


def test_without_its_own_record_the_done_tool_is_its_word(examine: Examine) -> None:
    run = begun()
    called(run, "b:task_done")
    assert said(examine(ended(run, CHANGED))["agent-done"]) == ("pass", "the agent asked for task_done")
    assert said(examine(ended(begun(2), CHANGED))["agent-done"]) == (
        "fail",
        "the agent never asked for task_done",
    )


# --- the patch -------------------------------------------------------------------------------------


def test_a_patch_that_nobody_captured_is_not_empty_but_unknown(examine: Examine) -> None:
    found = examine(ended(begun(), None))
    for name in ("patch-not-empty", "patch-not-trivial", "patch-applies", "files-parse"):
        assert said(found[name]) == ("unknown", "the patch is not known: none was captured")
    found = examine(ended(begun(2), {"reason": "a file of 3 GB"}))
    assert said(found["patch-not-empty"]) == ("unknown", "the patch is not known: a file of 3 GB")


def test_a_committed_change_is_a_patch_and_the_agents_empty_file_is_said(examine: Examine) -> None:
    own = [{"path": "p.diff", "source": "option", "bytes": 0}]
    patch = CHANGED | {"agent_patches": own, "plain_diff_bytes": 0, "commit_count": 1}
    assert said(examine(ended(begun(), patch))["patch-not-empty"]) == (
        "pass",
        "1 file changed; the agent made 1 commit, then handed in what is not committed: nothing",
    )


@pytest.mark.parametrize(("only", "state"), [("whitespace", "fail"), ("comments", "fail"), (None, "pass")])
def test_whitespace_and_comments_are_trivial(examine: Examine, only: str | None, state: str) -> None:
    patch = CHANGED | {"files": [{"path": "speed.py", "only": only}]}
    assert examine(ended(begun(), patch))["patch-not-trivial"].state == state


def test_what_does_not_apply_or_parse_fails_with_the_reason(examine: Examine) -> None:
    files = [{"path": "speed.py", "parses": False, "parse_error": "line 3: invalid syntax"}]
    patch = CHANGED | {"applies": False, "applies_reason": "no such file", "files": files}
    found = examine(ended(begun(), patch))
    assert said(found["patch-applies"]) == (
        "fail",
        "the patch does not apply to bbbbbbbbbbbb: no such file",
    )
    assert said(found["files-parse"]) == (
        "fail",
        "changed files that do not parse: speed.py: line 3: invalid syntax",
    )


def test_only_files_that_a_rule_names_may_change(examine: Examine) -> None:
    assert examine(solved(), allowed=("*.py",))["files-allowed"].state == "pass"
    assert said(examine(solved(2), allowed=("src/*",))["files-allowed"]) == (
        "fail",
        "files that may not be changed: speed.py",
    )


# --- why a patch is empty --------------------------------------------------------------------------


def edit_and_done(run: Told) -> Told:
    called(run, "a:bash", "b:task_done")
    return ended(run, EMPTY, success=True)


def died_of_an_error(run: Told) -> Told:
    called(run, http_status=429, ended="failed", error_type="RateLimitError",
           error_code="insufficient_quota", error_message="You exceeded your current quota")  # fmt: skip
    return ended(run, EMPTY, success=False)


def scratch(run: Told) -> Told:
    aside = [{"path": ".bench_scratch/a.py", "why": "scratch"}]
    return ended(run, EMPTY | {"left_out": aside})


def killed(run: Told) -> Told:
    message = {"error_type": "Timeout", "error_message": "not done after 5 s; ended by SIGTERM"}
    return ended(run, EMPTY, outcome="timeout", exit_code=None, **message)


def never_edited(run: Told) -> Told:
    called(run, "b:task_done")
    return ended(run, EMPTY, success=True)


@pytest.mark.parametrize(
    ("tell", "cause"),
    [
        (edit_and_done, "bash was requested and never executed: the same answer asked for task_done"),
        (
            died_of_an_error,
            "the last call of the model failed: RateLimitError: You exceeded your current quota",
        ),
        (scratch, "only files that are no part of a patch changed: .bench_scratch/a.py (scratch)"),
        (killed, "the agent was ended before it had edited (timeout)"),
        (never_edited, "no executed tool call was seen"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_empty_patch_has_its_cause(examine: Examine, tell: Callable[[Told], Told], cause: str) -> None:
    assert said(examine(tell(begun()))["patch-not-empty"]) == ("fail", f"the patch is empty: {cause}")


# --- the protocol ----------------------------------------------------------------------------------


def test_a_tool_call_without_an_answer_is_a_fault_of_the_request(examine: Examine) -> None:
    run = begun()
    called(run, "b:task_done")
    message = {"error_type": "BadRequestError", "error_message": "No tool output found"}
    called(run, started={"unanswered": ["b"]}, http_status=400, ended="failed", **message)
    found = examine(ended(run, CHANGED, success=False))
    assert said(found["tools-answered"]) == (
        "fail",
        "1 tool call left unanswered (b); the API refused it with 400",
    )
    assert said(found["api-recovered"]) == (
        "fail",
        "an API error was not recovered from: BadRequestError: No tool output found",
    )


def test_an_error_that_a_later_call_recovers_from_is_none(examine: Examine) -> None:
    run = begun()
    called(run, http_status=500, ended="failed", error_type="InternalServerError")
    called(run, "b:task_done")
    assert said(examine(ended(run, CHANGED))["api-recovered"]) == ("pass", "the last of 2 calls succeeded")


def test_a_call_that_was_dropped_is_a_fault_and_task_done_is_none(examine: Examine) -> None:
    assert examine(solved())["tools-executed"].state == "pass"
    assert said(examine(edit_and_done(begun(2)))["tools-executed"]) == (
        "fail",
        "bash was requested and never executed",
    )


def refused(run: Told, body: str, status: int, times: int = 1, code: str | None = None) -> str:
    """A call whose request is refused, and repeated by the client."""
    call = run.tell("llm.call.started", parent=run.process, surface="responses", model="gpt-5")
    for number in range(1, times + 1):
        begin = run.tell("llm.request.started", number=number, body_sha256=body, parent=call)
        run.tell("llm.request.finished", begin=begin, http_status=status, error_code=code)
    run.tell("llm.call.finished", begin=call, ended="failed", http_status=status, error_type="E")
    return call


def test_repeating_what_is_refused_is_futile_and_repeating_what_passes_is_not(examine: Examine) -> None:
    run = begun()
    for _ in range(3):
        refused(run, "aa", 400, code="bad")
    refused(run, "bb", 500, times=3)
    found = examine(ended(run, CHANGED))["no-futile-retry"]
    assert said(found) == ("fail", "the same request was refused 3 times with 400 bad")
    assert len(found.events) == 3
    run = begun(2)
    refused(run, "bb", 429, times=3, code="rate_limit_exceeded")
    assert examine(ended(run, CHANGED))["no-futile-retry"].state == "pass"
    run = begun(3)
    refused(run, "bb", 429, times=2, code="insufficient_quota")
    assert examine(ended(run, CHANGED))["no-futile-retry"].state == "fail"


def test_retries_of_the_agent_around_those_of_the_client_are_counted(
    journal: Journal, examine: Examine
) -> None:
    run = begun()
    calls = [refused(run, "aa", 500, times=3) for _ in range(2)]
    examine(ended(run, CHANGED))
    with journal.engine.connect() as connection:
        found = faults.nested_retries(
            connection.execute(select(CALL)).all(), connection.execute(select(REQUEST)).all()
        )
    assert [(fault.reason, set(fault.events)) for fault in found] == [
        ("the agent sent one request 2 times, and the client each up to 3 times: 6 requests", set(calls))
    ]


# --- the record, and what is measured afterwards -----------------------------------------------------


def test_what_was_not_seen_is_unknown(examine: Examine) -> None:
    run = Told(1).start(capture="none", capture_reason="no hook for codex", agent="codex")
    found = examine(ended(run, CHANGED))
    assert said(found["calls-captured"]) == (
        "fail",
        "the calls of the agent were not seen: no hook for codex",
    )
    for name in ("tools-answered", "tools-executed", "no-futile-retry", "api-recovered", "agent-done"):
        assert found[name].state == "unknown"
    assert found["telemetry-complete"].state == "pass"


def test_an_event_that_is_missing_makes_the_record_incomplete(examine: Examine) -> None:
    run = solved()
    del run.bodies[8]
    found = examine(run)["telemetry-complete"]
    assert found.state == "unknown"
    assert "producer" in found.reason


@pytest.mark.parametrize(("value", "state"), [(1.31, "pass"), (1.0, "fail")])
def test_a_result_is_held_against_the_threshold(examine: Examine, value: float, state: str) -> None:
    run = solved()
    run.tell("result.attached", run.wrapper, name="speedup", value=value, source="bench")
    found = examine(run, threshold=("speedup", 1.05))["result"]
    assert said(found) == (state, f"speedup is {value:g} (bench), at least 1.05 is asked for")


def test_the_latest_verification_counts(examine: Examine) -> None:
    run = solved()
    for value in (1, 0):
        run.tell("result.attached", run.wrapper, name="verification", value=value, source="pytest")
    assert said(examine(run)["verification"]) == ("pass", "the verification command ended with 0: pytest")


def test_an_executed_call_is_no_dropped_one(examine: Examine) -> None:
    run = begun()
    called(run, "a:bash", "b:bash")
    executed(run, "a:bash", "b:bash")
    assert examine(ended(run, CHANGED))["tools-executed"].state == "pass"
