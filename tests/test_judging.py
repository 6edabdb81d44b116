"""Judgements are events in a stream of their own; judging again adds one and takes nothing away."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from telemetry import cli
from telemetry.journal import Journal
from tests.journals import filled
from tests.judged_runs import CHANGED, begun, called, ended, executed, failed, solved

pytest_plugins = ("tests.backends",)


def ask(*words: str) -> Result:
    return CliRunner().invoke(cli.main, words)


def answer(*words: str) -> Any:
    asked = ask(*words, "--json")
    assert asked.exit_code == 0, asked.output
    return json.loads(asked.stdout)


def rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    with Journal.open(home / "journal.db") as journal, journal.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


@pytest.fixture
def home(data_home: Path) -> Path:
    """A journal with a run that passes and one whose patch is empty."""
    data_home.mkdir()
    filled(data_home / "journal.db", solved(1), failed(2)).close()
    return data_home


def test_a_verdict_is_in_the_journal_with_its_policy_its_checks_and_their_events(home: Path) -> None:
    (one,) = answer("judge", "00000001")
    assert (one["verdict"], one["policy"], one["reason"]) == ("pass", "default", "1 file changed")
    assert rows(home, "SELECT verdict, verdict_policy FROM run ORDER BY run_id") == [
        ("pass", "default"),
        (None, None),
    ]
    query = "SELECT name, state, need FROM \"check\" WHERE need = 'pass' ORDER BY name"
    assert [row[1] for row in rows(home, query)] == ["pass"] * 4
    stored = {f"{row[0]}:{row[1]}" for row in rows(home, "SELECT producer, seq FROM event")}
    named = [json.loads(row[0]) for row in rows(home, 'SELECT events FROM "check"')]
    assert {event for events in named for event in events} <= stored


def test_a_judgement_is_no_part_of_the_run(home: Path) -> None:
    """The run stays as complete as it was; its judge is no producer that it waits for."""
    before = rows(home, "SELECT complete, finished_at, capture FROM run ORDER BY run_id")
    answer("judge", "--all")
    assert rows(home, "SELECT complete, finished_at, capture FROM run ORDER BY run_id") == before
    roles = rows(home, "SELECT role, complete FROM producer WHERE role = 'judge'")
    assert roles == [("judge", 1), ("judge", 1)]


def test_judging_again_under_another_policy_adds_an_event_and_runs_nothing(home: Path) -> None:
    assert [one["verdict"] for one in answer("judge", "--all")] == ["pass", "fail"]
    assert [one["verdict"] for one in answer("judge", "--all", "--policy", "lenient")] == ["pass", "fail"]
    (again,) = answer("judge", "00000001", "--policy", "strict")
    assert again["verdict"] == "pass"
    assert rows(home, "SELECT run_id, policy FROM verdict") and len(rows(home, "SELECT 1 FROM verdict")) == 5
    assert rows(home, "SELECT count(*) FROM event WHERE name = 'run.judged'") == [(5,)]
    assert rows(home, "SELECT verdict_policy FROM run ORDER BY run_id") == [("strict",), ("lenient",)]


def test_all_judges_what_is_not_judged_on_all_that_is_known(home: Path) -> None:
    assert len(answer("judge", "--all")) == 2
    assert answer("judge", "--all") == []
    assert ask("result", "00000002", "speedup=1.5", "--source", "bench").exit_code == 0
    assert [one["run_id"][-1] for one in answer("judge", "--all")] == ["2"]
    assert answer("judge", "--all") == []
    (home / "config.toml").write_text('[policy.default]\nmust_pass = ["agent-done"]\n')
    assert [one["verdict"] for one in answer("judge", "--all")] == ["pass", "pass"]


def test_judgements_survive_a_rebuild(home: Path) -> None:
    answer("judge", "--all")
    before = [rows(home, f'SELECT * FROM "{name}"') for name in ("run", "verdict", "check")]
    assert ask("rebuild").exit_code == 0
    assert [rows(home, f'SELECT * FROM "{name}"') for name in ("run", "verdict", "check")] == before


def test_a_result_is_a_fact_with_its_source_and_decides_where_a_policy_asks(
    home: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "faster.toml"
    policy.write_text(
        '[policy.faster]\nmust_pass = ["result"]\nresult = { name = "speedup", at_least = 1.05 }'
    )
    assert answer("judge", "1", "--policy", str(policy))[0]["verdict"] == "unknown"
    assert ask("result", "00000001", "speedup=1.31", "tests=12", "--source", "bench").exit_code == 0
    (one,) = answer("judge", "00000001", "--policy", str(policy))
    assert (one["verdict"], one["policy"]) == ("pass", "faster")
    assert rows(home, "SELECT name, value, source FROM result ORDER BY name") == [
        ("speedup", 1.31, "bench"),
        ("tests", 12.0, "bench"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["judge", "--policy", "mild"], "no policy is called 'mild'"),
        (["result", "1", "speedup=fast", "--source", "x"], "write NAME=NUMBER"),
        (["result", "1", "speedup=nan", "--source", "x"], "write NAME=NUMBER"),
        (["judge", "9"], "No run '9' is in the journal"),
        (["judge", "9", "--all"], "RUN is one run, and --all is every one"),
        (["judge", "--commit", "c"], "options that choose runs go with --all"),
        (["result", "1", "a=1", "a=2", "--source", "x"], "one name has two values"),
    ],
)
def test_a_mistake_is_told_in_words(home: Path, words: list[str], message: str) -> None:
    asked = ask(*words)
    assert asked.exit_code == 2
    assert message in asked.stderr


def test_check_makes_the_exit_code_a_finding(home: Path) -> None:
    assert ask("judge", "00000001", "--check").exit_code == 0
    assert ask("judge", "00000002", "--check").exit_code == 1
    assert ask("judge", "--all", "--check").exit_code == 1, "one failed, though nothing is left to judge"
    assert ask("judge", "--all", "--check", "--until", "2000-01-01").exit_code == 0


def test_claimed_and_verified_stand_side_by_side(home: Path) -> None:
    answer("judge", "--all")
    last, first = answer("runs")
    assert (last["status"], last["claimed_success"], last["verdict"]) == ("exit 0", True, "fail")
    assert last["claimed"] == "exit 0, success"
    assert (first["status"], first["claimed_success"], first["verdict"]) == ("exit 0", True, "pass")
    shown = answer("show", "00000002")
    assert shown["verdicts"][0]["empty_cause"] == "no executed tool call was seen"
    assert {check["name"] for check in shown["checks"]} >= {"exit-0", "patch-not-empty"}


def test_a_claim_is_checked_when_the_run_is_judged(data_home: Path) -> None:
    data_home.mkdir()
    run = begun()
    run.tell("claim.made", run.wrapper, name="parallel_tool_calls", value="false", source="option")
    absent = {"tool_names": ["bash"], "absent": ["parallel_tool_calls"]}
    called(run, "a:bash", started=absent)
    executed(run, "a:bash")
    filled(data_home / "journal.db", ended(run, CHANGED)).close()
    assert [claim["verdict"] for claim in answer("show")["claims"]] == [None]
    answer("judge")
    (claim,) = answer("show")["claims"]
    assert (claim["verdict"], claim["value"]) == ("refuted", "false")
    assert "the API's own default is true" in claim["transmitted"]


# --- verification ----------------------------------------------------------------------------------


@pytest.fixture
def worktree(tmp_path: Path, data_home: Path) -> Path:
    """A repository with a hook and a filter that must never run, and a run that changed a file of it."""
    folder = tmp_path / "worktree"
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    (folder / "speed.py").write_text("slow = True\n")
    (folder / ".gitattributes").write_text("*.py filter=evil\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "Start"], check=True)
    for name in ("smudge", "clean"):
        subprocess.run([*git, "config", f"filter.evil.{name}", f"touch {tmp_path}/ran; cat"], check=True)
    base = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    patch = (
        "diff --git a/speed.py b/speed.py\n--- a/speed.py\n+++ b/speed.py\n@@ -1 +1 @@\n"
        "-slow = True\n+slow = False\n"
    )
    captured = CHANGED | {"base_commit": base.strip(), "text": [patch], "text_exact": True}
    data_home.mkdir()
    run = ended(begun(worktree=str(folder)), captured)
    filled(data_home / "journal.db", run).close()
    return folder


@pytest.mark.parametrize(
    ("expected", "state", "verdict"), [("False", "pass", "pass"), ("True", "fail", "fail")]
)
def test_a_verification_command_runs_in_a_clean_checkout_with_the_patch(
    worktree: Path, expected: str, state: str, verdict: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (worktree / "speed.py").write_text("slow = 'of something else by now'\n")
    command = f"grep -x 'slow = {expected}' speed.py"
    policy = worktree.parent / "p.toml"
    policy.write_text('[policy.tested]\nmust_pass = ["verification"]\n')
    (one,) = answer("judge", "--verify", command, "--policy", str(policy))
    (check,) = [check for check in one["checks"] if check["name"] == "verification"]
    assert (check["state"], one["verdict"]) == (state, verdict)
    assert command in check["reason"]
    assert capfd.readouterr().out == "", "what the command says is no part of the answer"
    assert not (worktree.parent / "ran").exists()
    assert (worktree / "speed.py").read_text() == "slow = 'of something else by now'\n"


def test_a_patch_whose_repository_is_gone_cannot_be_verified(home: Path) -> None:
    asked = ask("judge", "00000001", "--verify", "true")
    assert asked.exit_code == 2
    assert "the text of the patch is not known" in asked.stderr


# --- both databases --------------------------------------------------------------------------------


def test_judging_works_on_each_database(place: str, data_home: Path, tmp_path: Path) -> None:
    filled(place, solved(1), failed(2)).close()
    there = ("--journal", place)
    assert [one["verdict"] for one in answer("judge", "--all", *there)] == ["pass", "fail"]
    assert answer("judge", "--all", *there) == []
    assert ask("result", "00000001", "speedup=1.5", "--source", "bench", *there).exit_code == 0
    assert [one["run_id"][-1] for one in answer("judge", "--all", *there)] == ["1"]
    (line,) = answer("retries", *there)["commits"]
    assert [attempt["verdict"] for attempt in line["attempts"]] == ["pass", "fail"]
    assert [(group["phase"], group["text"]) for group in answer("errors", *there)] == [
        ("verdict", "the patch is empty: no executed tool call was seen")
    ]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"repo": "r", "items": [{"item_id": "one", "human": "c" * 40}]}))
    (item,) = answer("plan", "--from", str(plan), *there)
    assert item["state"] == "solved"
    assert answer("show", "00000001", *there)["results"][0]["value"] == 1.5
    assert [run["verdict"] for run in answer("runs", *there)] == ["fail", "pass"]
