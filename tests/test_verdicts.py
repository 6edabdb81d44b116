"""Verdicts over real wrapped runs: exit code and patch file get most of them wrong, the record does not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.verdict_runs import PAGE, SCENARIOS, Line, lines, page

DEFAULT_PASSES = {
    "edit, then done",
    "a 429 and a 500 on the way",
    "commit, then done",
    "commit, then done, must patch",
    "only a comment",
    "an edit that does not parse",
    "request refused after the edit",
}
STRICT_PASSES = {"edit, then done", "a 429 and a 500 on the way", "commit, then done"}
FAULTS = {
    "commit, then done, must patch": ("tools-answered", "no-futile-retry", "api-recovered", "agent-done"),
    "no edit, done, must patch": ("tools-answered", "no-futile-retry", "api-recovered", "agent-done"),
    "edit and done in one turn": ("tools-executed",),
    "only a comment": ("patch-not-trivial",),
    "an edit that does not parse": ("files-parse",),
    "request refused after the edit": ("api-recovered", "agent-done"),
    "quota exhausted": ("no-futile-retry", "api-recovered", "agent-done"),
    "bad key": ("api-recovered", "agent-done"),
    "never done (4 steps)": ("agent-done",),
    "arguments cut off": ("tools-executed", "agent-done"),
    "killed in a tool": ("exit-0", "agent-done"),
    "edit, then done; its summariser fails": ("exit-0",),
}
"""The checks that fail, beside that of an empty patch."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verdicts") / "home"


@pytest.fixture(scope="module")
def found(home: Path) -> dict[str, Line]:
    return {line.name: line for line in lines(home.parent, home)}


def test_the_page_is_what_the_runs_say(found: dict[str, Line]) -> None:
    assert page(list(found.values())) == PAGE.read_text(), "run `python -m tests.verdict_runs`"


def test_each_policy_passes_what_it_should(found: dict[str, Line]) -> None:
    assert {name for name, line in found.items() if line.verdict == "pass"} == DEFAULT_PASSES
    assert {name for name, line in found.items() if line.strict == "pass"} == STRICT_PASSES
    assert {line.verdict for line in found.values()} == {"pass", "fail"}, "nothing is left open"


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_what_failed_is_what_went_wrong(found: dict[str, Line], name: str) -> None:
    line = found[name]
    failed = {check for check, (state, _) in line.checks.items() if state == "fail"}
    assert failed == {*FAULTS.get(name, ()), *(() if line.changed else ("patch-not-empty",))}
    assert line.checks["telemetry-complete"][0] == line.checks["calls-captured"][0] == "pass"


def test_the_claim_is_refuted_on_the_wire_in_every_run(found: dict[str, Line], home: Path) -> None:
    """All of them were configured and claimed not to call tools in parallel; nothing of it was ever sent."""
    with closing(sqlite3.connect(home / "journal.db")) as journal:
        said = journal.execute("SELECT DISTINCT verdict, value, source FROM claim").fetchall()
        words = {row[0] for row in journal.execute("SELECT transmitted FROM claim")}
    assert said == [("refuted", "false", "option")]
    assert all("where the API's own default is true" in text for text in words)
