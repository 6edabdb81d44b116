"""The real TRAE agent, bare and recorded: what the journal says is what the server's ledger says.

Skipped unless ``TRAE_PYTHON`` and ``TRAE_PATH`` are set; `tests.trae_runs` says to what.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from telemetry.testing import Ledger, Usage
from tests.trae_runs import LAKEVIEW_MODEL, LOOK, MODEL, SCENARIOS, Scenario, TraeRun, bash, server_for

PYTHON = os.environ.get("TRAE_PYTHON", "")
SOURCE = os.environ.get("TRAE_PATH", "")

pytestmark = pytest.mark.skipif(
    not (PYTHON and SOURCE), reason="TRAE_PYTHON and TRAE_PATH do not name an installed TRAE"
)

every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)

BARE = (PYTHON,)
WRAPPED = (str(Path(sys.executable).with_name("agent-telemetry")), "run", "--", PYTHON)
STAND_IN = (str(Path(sys.executable).with_name("agent-telemetry-python")),)


class Ended(NamedTuple):
    """A run that is over."""

    run: TraeRun
    ledger: Ledger
    code: int
    output: str


def environment(home: Path) -> dict[str, str]:
    """As a pipeline starts TRAE: its source on the path, and nothing else of it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": SOURCE,
        "PYTHONUNBUFFERED": "1",
        "AGENT_TELEMETRY_HOME": str(home),
        "AGENT_TELEMETRY_PYTHON": PYTHON,
    }


def execute(scenario: Scenario, way: tuple[str, ...], folder: Path, home: Path) -> Ended:
    """Run TRAE in one `way` to its end."""
    with server_for(scenario) as server:
        run = TraeRun(folder, server, scenario)
        done = subprocess.run(
            [*way, *run.arguments], env=environment(home), cwd=run.worktree, capture_output=True, text=True
        )
    return Ended(run, server.ledger, done.returncode, done.stdout + done.stderr)


def expect_trae_behaved(scenario: Scenario, ended: Ended, *, filled: bool = False) -> None:
    """What TRAE did is what the scenario says that it does; with `filled`, the patch file is ours."""
    assert tuple(request.status for request in ended.ledger.requests) == scenario.statuses, ended.output
    assert ended.code == scenario.exit_code, ended.output
    run = ended.run
    assert bool(run.change) == scenario.tree_changed
    written = run.patch.read_text() != "" if run.patch.exists() else None
    assert written == (scenario.tree_changed if filled else scenario.patch_written)
    assert run.written["success"] == scenario.claims_success
    assert run.recorded[:2] == (scenario.recorded or ended.ledger.total(MODEL))[:2]


def rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(home / "journal.db") as journal:
        return journal.execute(query).fetchall()


def run_row(home: Path) -> dict[str, Any]:
    """The one run in the journal."""
    with sqlite3.connect(home / "journal.db") as journal:
        journal.row_factory = sqlite3.Row
        (row,) = journal.execute("SELECT * FROM run").fetchall()
    return dict(row)


def deliver(home: Path) -> None:
    """A command that reads delivers first what is still on its way."""
    command = [STAND_IN[0].removesuffix("-python"), "runs"]
    subprocess.run(command, env=environment(home), check=True, capture_output=True)


# --- bare -----------------------------------------------------------------------------------------


@every_scenario
def test_trae_itself_behaves_as_the_scenario_says(
    scenario: Scenario, tmp_path: Path, data_home: Path
) -> None:
    """A tripwire: when this fails, TRAE changed, not we."""
    expect_trae_behaved(scenario, execute(scenario, BARE, tmp_path, data_home))
    assert not data_home.exists()


# --- recorded -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [WRAPPED, STAND_IN], ids=["run", "stand-in"])
@every_scenario
def test_the_journal_agrees_with_the_ledger(
    scenario: Scenario, way: tuple[str, ...], tmp_path: Path, data_home: Path
) -> None:
    """Tokens, requests, statuses and tool calls; and TRAE behaves as it does when it is bare."""
    ended = execute(scenario, way, tmp_path, data_home)
    expect_trae_behaved(scenario, ended, filled=way == STAND_IN)
    deliver(data_home)
    expect_tokens(data_home, ended.ledger)
    expect_requests(data_home, ended.ledger)
    expect_tool_calls(data_home, ended.ledger, scenario.executed)
    expect_patch(data_home, ended, scenario)
    run = run_row(data_home)
    assert (run["state"], run["outcome"], run["exit_code"]) == ("finished", "exited", scenario.exit_code)
    assert (run["capture"], run["complete"]) == ("captured", 1), run["incomplete_reason"]
    assert (run["agent"], run["commit"]) == ("trae", ended.run.git("rev-parse", "start").strip())


def expect_tokens(home: Path, ledger: Ledger) -> None:
    """Every billed answer is in the journal once, with the bill's numbers, and nothing else is."""
    reported = rows(
        home,
        "SELECT response_id, model, input_tokens, output_tokens, cached_tokens, cache_write_tokens,"
        " reasoning_tokens FROM llm_call WHERE usage_source = 'reported' ORDER BY response_id",
    )
    billed = [(bill.response_id, bill.model, *bill.usage) for bill in sorted(ledger.billed)]
    assert reported == billed
    (total,) = rows(
        home,
        "SELECT sum(input_tokens), sum(output_tokens), sum(cached_tokens), sum(cache_write_tokens),"
        " sum(reasoning_tokens) FROM usage WHERE source = 'reported'",
    )
    assert Usage(*(number or 0 for number in total)) == ledger.total()


def expect_requests(home: Path, ledger: Ledger) -> None:
    """Every HTTP request is in the journal, the client's own retries among them."""
    seen = rows(
        home,
        "SELECT http_request_id, http_status, number - 1, coalesce(error_code, error_type)"
        " FROM llm_request ORDER BY started_at",
    )
    assert seen == [(r.request_id, r.status, r.retry_count, r.error_code) for r in ledger.requests]


def expect_tool_calls(home: Path, ledger: Ledger, executed: int) -> None:
    """Every tool call that an answer requested is there, and it is known which of them were executed."""
    calls = rows(home, "SELECT call_id, tool, ended FROM tool_call ORDER BY call_id")
    assert [call[:2] for call in calls] == sorted((call.call_id, call.name) for call in ledger.tool_calls)
    run_to_their_end = {call_id for call_id, _, ended in calls if ended == "completed"}
    assert len(run_to_their_end) == executed
    assert {output.call_id for output in ledger.tool_outputs} <= run_to_their_end
    assert {ended for _, _, ended in calls} <= {"completed", "never executed"}


def expect_patch(home: Path, ended: Ended, scenario: Scenario) -> None:
    """The patch is what the tree says, whatever the agent's own file has; the agent's claims are told."""
    ((size, applies, agents), (success, interactions)) = (
        *rows(home, "SELECT bytes, applies, agent_patches FROM patch"),
        *rows(home, "SELECT success, interactions FROM trajectory"),
    )
    assert (size > 0, applies) == (scenario.tree_changed, 1 if scenario.tree_changed else None)
    (own,) = json.loads(agents)
    assert (own["bytes"] > 0 if "bytes" in own else None) == scenario.patch_written
    if scenario.patch_written:
        assert own["same"]
    claimed = None if scenario.claims_success is None else int(scenario.claims_success)
    assert (success, interactions) == (claimed, len(ended.run.written["llm_interactions"]))


def test_the_summarisers_calls_are_told_apart(tmp_path: Path, data_home: Path) -> None:
    """TRAE's own total leaves them out; the journal has them under their model."""
    scenario = next(s for s in SCENARIOS if s.name == "lakeview")
    ended = execute(scenario, WRAPPED, tmp_path, data_home)
    deliver(data_home)
    query = "SELECT model, sum(calls), sum(input_tokens) FROM usage GROUP BY model ORDER BY model"
    summaries = ended.ledger.total(LAKEVIEW_MODEL).input
    assert rows(data_home, query) == [
        (LAKEVIEW_MODEL, 10, summaries),
        (MODEL, 5, ended.run.recorded.input),
    ]


@pytest.mark.parametrize("name", ["no edit, done, must patch", "commit, then done, must patch"])
def test_a_tool_call_without_an_answer_is_seen_before_it_is_refused(
    name: str, tmp_path: Path, data_home: Path
) -> None:
    """ "No tool output found" has its cause in the journal: the call that TRAE left open."""
    scenario = next(s for s in SCENARIOS if s.name == name)
    ended = execute(scenario, WRAPPED, tmp_path, data_home)
    deliver(data_home)
    open_call = ended.ledger.tool_calls[-1]
    query = "SELECT unanswered, http_status FROM llm_call WHERE unanswered IS NOT NULL"
    assert rows(data_home, query) == [(f'["{open_call.call_id}"]', 400)]


def test_parallel_tool_calls_is_recorded_as_absent(tmp_path: Path, data_home: Path) -> None:
    """TRAE's configuration says ``parallel_tool_calls: false``; on the wire it is not there."""
    scenario = next(s for s in SCENARIOS if s.name == "no edit, done")
    ended = execute(scenario, WRAPPED, tmp_path, data_home)
    deliver(data_home)
    assert all("parallel_tool_calls" not in request.keys for request in ended.ledger.requests)
    for absent, parameters in rows(data_home, "SELECT absent, parameters FROM llm_call"):
        assert '"parallel_tool_calls"' in absent
        assert "parallel_tool_calls" not in parameters


# --- killed ---------------------------------------------------------------------------------------

SLEEP = bash("sleep 600 & echo $! > sleeping.tmp; mv sleeping.tmp sleeping; wait", LOOK.usage or Usage())
KILLED = Scenario(
    name="killed in a tool",
    script=(LOOK, SLEEP),
    claims_success=False,
    patch_written=None,
    tree_changed=False,
    statuses=(200, 200),
    executed=1,
)


@pytest.mark.parametrize("way", [WRAPPED, STAND_IN], ids=["run", "stand-in"])
def test_a_run_that_is_ended_in_a_tool_leaves_no_process_and_a_whole_record(
    way: tuple[str, ...], tmp_path: Path, data_home: Path
) -> None:
    """TRAE's shell is in a session of its own and would go on: it is ended and listed."""
    with server_for(KILLED) as server:
        run = TraeRun(tmp_path, server, KILLED)
        pipeline = subprocess.Popen(
            [*way, *run.arguments],
            env=environment(data_home),
            cwd=run.worktree,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        sleeper = _wait_for_sleeper(run.worktree / "sleeping", pipeline)
        pipeline.send_signal(signal.SIGTERM)
        assert pipeline.wait(timeout=60) == 128 + signal.SIGTERM
    assert not _is_running(sleeper)
    deliver(data_home)
    row = run_row(data_home)
    assert (row["state"], row["outcome"], row["signal"]) == ("finished", "cancelled", signal.SIGTERM)
    assert row["error_type"]
    assert row["complete"] == 1, row["incomplete_reason"]
    expect_tokens(data_home, server.ledger)
    calls = rows(data_home, "SELECT ended FROM tool_call ORDER BY started_at")
    assert calls == [("completed",), ("interrupted",)]


def _wait_for_sleeper(file: Path, pipeline: subprocess.Popen[bytes]) -> int:
    """The pid of the process that the tool started."""
    while not file.exists():
        assert pipeline.poll() is None
        time.sleep(0.01)
    return int(file.read_text())


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
