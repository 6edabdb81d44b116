"""Verdicts over real wrapped runs: exit code and patch file get most of them wrong, the record does not."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.verdict_runs import CLI, IMITATION, PAGE, SCENARIOS, Line, lines, rows

DEFAULT_PASSES = {
    "edit, then done",
    "edit, then done; its summariser is on",
    "a 429 and a 500 on the way",
    "more 500s than the client retries",
    "commit, then done",
    "commit, then done, must patch",
    "only a comment",
    "an edit that does not parse",
    "request refused after the edit",
    "no tool output found, after the edit",
    "outputs of tools forgotten (an older TRAE)",
}
STRICT_PASSES = {
    "edit, then done",
    "edit, then done; its summariser is on",
    "a 429 and a 500 on the way",
    "more 500s than the client retries",
    "commit, then done",
}
REFUSED = ("api-recovered", "agent-done")
LEFT_OPEN = ("tools-answered", "no-futile-retry", *REFUSED)
FAULTS = {
    "commit, then done, must patch": LEFT_OPEN,
    "no edit, done, must patch": LEFT_OPEN,
    "outputs of tools forgotten (an older TRAE)": LEFT_OPEN,
    "edit and done in one turn": ("tools-executed",),
    "only a comment": ("patch-not-trivial",),
    "an edit that does not parse": ("files-parse",),
    "request refused after the edit": REFUSED,
    "no tool output found, after the edit": REFUSED,
    "quota exhausted": ("no-futile-retry", *REFUSED),
    "bad key": ("no-futile-retry", *REFUSED),
    "never done (4 steps)": ("agent-done",),
    "arguments cut off": ("tools-executed", "agent-done"),
    "markup in the answer ends it": ("exit-0", "agent-done"),
    "the agent is not installed": ("exit-0", "calls-captured"),
    "killed in a tool": ("exit-0", "agent-done"),
    "edit, then done; its summariser fails": ("exit-0",),
}
"""The checks that fail, beside that of an empty patch."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verdicts") / "home"


@pytest.fixture(scope="module")
def found(home: Path) -> dict[str, Line]:
    return {line.name: line for line in lines(IMITATION, home.parent, home)}


def test_the_runs_of_the_real_agent_on_the_page_are_those_of_its_imitation(found: dict[str, Line]) -> None:
    table = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert rows(list(found.values())) == table[1:], "run `python -m tests.verdict_runs`"


def test_each_policy_passes_what_it_should(found: dict[str, Line]) -> None:
    assert {name for name, line in found.items() if line.verdict == "pass"} == DEFAULT_PASSES
    assert {name for name, line in found.items() if line.strict == "pass"} == STRICT_PASSES
    assert {line.verdict for line in found.values()} == {"pass", "fail"}, "nothing is left open"


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_what_failed_is_what_went_wrong(found: dict[str, Line], name: str) -> None:
    line = found[name]
    failed = {check for check, (state, _) in line.checks.items() if state == "fail"}
    assert failed == {*FAULTS.get(name, ()), *(() if line.changed else ("patch-not-empty",))}
    assert line.checks["telemetry-complete"][0] == "pass"


def test_retries_of_the_agent_around_those_of_the_client_are_told_of_their_run_and_of_no_other(
    found: dict[str, Line], home: Path
) -> None:
    """By `show --json`, with the two calls; a 500 that the client alone repeated is no such thing."""
    nested = of_kind("nested retries", "more 500s than the client retries", home)
    assert [fault["reason"] for fault in nested] == [
        "the agent sent one request 2 times, and the client each up to 3 times: 4 requests"
    ]
    assert len(set(nested[0]["events"])) == 2
    assert of_kind("nested retries", "a 429 and a 500 on the way", home) == []
    reason = found["more 500s than the client retries"].checks["no-futile-retry"]
    assert reason == ("pass", nested[0]["reason"])


def of_kind(kind: str, task: str, home: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(home / "journal.db")) as journal:
        ((run,),) = journal.execute("SELECT run_id FROM run WHERE task = ?", (task,)).fetchall()
    environ = {"PATH": os.environ["PATH"], "AGENT_TELEMETRY_HOME": str(home)}
    shown = subprocess.run([*CLI, "show", run, "--json"], env=environ, check=True, capture_output=True)
    return [fault for fault in json.loads(shown.stdout)["faults"] if fault["kind"] == kind]


def test_the_claim_is_refuted_on_the_wire_in_every_run_that_sent_something(
    found: dict[str, Line], home: Path
) -> None:
    """All were configured and claimed not to call tools in parallel; nothing of it was ever sent."""
    with closing(sqlite3.connect(home / "journal.db")) as journal:
        said = journal.execute("SELECT DISTINCT verdict, value, source FROM claim").fetchall()
        words = {row[0] for row in journal.execute("SELECT transmitted FROM claim")}
    assert set(said) == {("refuted", "false", "option"), ("no evidence", "false", "option")}
    assert all("where the API's own default is true" in text for text in words - {None})
