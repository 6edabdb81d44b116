"""Working a plan off, killed at any moment and started again: nothing is done twice, nothing is uncounted."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.wrapped import eventually

CLI = [sys.executable, "-m", "telemetry.cli"]
AGENT = """
import os, pathlib, sys, time
folder, commit = pathlib.Path(sys.argv[1]), sys.argv[2]
folder.joinpath(commit).write_text(str(os.getppid()))
folder.joinpath("started").open("a").write(commit + "\\n")
endless = folder / "endless"
time.sleep(600 if endless.exists() and commit in endless.read_text() else float(sys.argv[3]))
"""
"""Says that it ran, in one write, and takes a moment; some are to be ended."""
POLICY = '[policy.ended]\nmust_pass = ["exit-0", "telemetry-complete"]\n'


def plan(folder: Path, items: int) -> Path:
    listed = [{"item_id": f"item-{n:04d}", "human": f"{n:040x}", "pre": None} for n in range(1, items + 1)]
    path = folder / "plan.json"
    path.write_text(json.dumps({"repo": "https://github.com/o/r", "task_id": "proof", "items": listed}))
    return path


@pytest.fixture
def folder(tmp_path: Path, data_home: Path) -> Path:
    data_home.mkdir()
    (data_home / "config.toml").write_text(POLICY)
    return tmp_path


def start(folder: Path, workers: int, seconds: float, *options: str) -> subprocess.Popen[bytes]:
    agent = [sys.executable, "-S", "-c", AGENT, str(folder), "{commit}", str(seconds)]
    words = ["--from", str(folder / "plan.json"), "--workers", str(workers), "--policy", "ended", *options]
    return subprocess.Popen(
        [*CLI, "run-plan", *words, "--", *agent],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def started(folder: Path) -> list[str]:
    """The commits that an agent was started for, in that order."""
    path = folder / "started"
    return path.read_text().split() if path.exists() else []


def rows(home: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(home / "journal.db")) as journal:
        return journal.execute(query).fetchall()


def ask(*words: str) -> list[dict[str, Any]]:
    done = subprocess.run([*CLI, *words, "--json"], capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def commits(number: int) -> Sequence[str]:
    return [f"{n:040x}" for n in range(1, number + 1)]


@pytest.mark.timeout(300)
def test_a_batch_that_is_killed_again_and_again_judges_each_commit_once_and_counts_each_attempt(
    folder: Path, data_home: Path
) -> None:
    """SIGKILL to ``run-plan`` at five moments; its runs go on, and the next start waits for them.

    SIGKILL to the wrappers of two runs as well, once alone and once with ``run-plan``: each is one attempt.
    """
    items, kills = 50, 5
    plan(folder, items)
    alone, together, *others = commits(items)
    (folder / "endless").write_text(f"{alone} {together}")
    for kill in range(1, kills + 1):
        process = start(folder, 4, 0.2)
        if kill == 1:
            os.kill(wrapper_of(folder, alone), signal.SIGKILL)
        eventually(lambda kill=kill: len(started(folder)) >= kill * items // (kills + 2), 120)
        time.sleep(0.06 * kill)  # at the start of a run, within one, at its end
        process.kill()
        if kill == 2:
            os.kill(wrapper_of(folder, together), signal.SIGKILL)
        process.communicate()
    last = start(folder, 4, 0)
    _, err = last.communicate(timeout=250)
    assert last.returncode == 0, err.decode()
    assert sorted(started(folder)) == sorted(commits(items)), "each commit was tried once"
    query = 'SELECT "commit", attempt, state, complete, verdict FROM run ORDER BY "commit"'
    killed, passed = (1, "interrupted", 0, "unknown"), (1, "finished", 1, "pass")
    ended = {alone: killed, together: killed, **dict.fromkeys(others, passed)}
    assert rows(data_home, query) == [(commit, *ended[commit]) for commit in commits(items)]
    assert rows(data_home, "SELECT count(*), count(DISTINCT run_id) FROM attempt") == [(items, items)]
    judged = "SELECT count(*), count(DISTINCT run_id) FROM event WHERE name = 'run.judged'"
    assert rows(data_home, judged) == [(items, items)]
    found = ask("plan", "--from", str(folder / "plan.json"), "--policy", "ended", "--max-attempts", "1")
    assert [item["state"] for item in found] == ["exhausted"] * 2 + ["solved"] * (items - 2)


def wrapper_of(folder: Path, commit: str) -> int:
    """The process that wraps the agent at a commit, once there is that agent."""
    pid = int(eventually(lambda: (path := folder / commit).exists() and path.read_text()))
    assert b"telemetry.cli\0run\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return pid


def test_ctrl_c_ends_the_runs_that_are_under_way_and_records_how(folder: Path, data_home: Path) -> None:
    plan(folder, 3)
    process = start(folder, 1, 60)
    eventually(lambda: started(folder))
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err.decode()
    assert b"stopping 1 runs" in err
    found = ask("plan", "--from", str(folder / "plan.json"), "--policy", "ended", "--max-attempts", "1")
    assert [item["state"] for item in found] == ["exhausted", "open", "open"]
    assert rows(data_home, "SELECT outcome, signal FROM run") == [("cancelled", signal.SIGTERM)]


def test_a_journal_that_is_away_for_a_while_ends_no_batch(folder: Path, data_home: Path) -> None:
    """Its runs write into the spool meanwhile."""
    plan(folder, 2)
    process = start(folder, 1, 1)
    eventually(lambda: started(folder))
    journal, away = data_home / "journal.db", data_home / "away.db"
    journal.rename(away)
    journal.mkdir()
    assert process.stderr is not None
    while b"nothing begins until it answers" not in (line := process.stderr.readline()):
        assert line, "it ended"
    journal.rmdir()
    away.rename(journal)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()
    assert sorted(started(folder)) == sorted(commits(2)), "each commit was tried once"
    assert rows(data_home, "SELECT attempt, verdict FROM run") == [(1, "pass")] * 2


def test_an_item_that_fails_alike_is_not_tried_for_ever(folder: Path, data_home: Path) -> None:
    plan(folder, 1)
    words = ["--from", str(folder / "plan.json"), "--max-attempts", "9", "--policy", "ended"]
    done = subprocess.run(
        [*CLI, "run-plan", *words, "--json", "--", sys.executable, "-c", "raise SystemExit('no')"],
        cwd=folder, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    (item,) = json.loads(done.stdout)
    assert (item["state"], item["attempts"]) == ("failing", 2)
    assert item["reason"] == "the last 2 attempts failed alike: the process ended with 1: no"
    assert "item-0001: attempt 2 begins" in done.stderr


def test_two_items_of_one_name_are_both_worked_off_and_a_commit_once(folder: Path, data_home: Path) -> None:
    one, other = commits(2)
    items = [{"item_id": name, "human": commit} for name, commit in (("i", one), ("i", other), ("j", one))]
    (folder / "plan.json").write_text(json.dumps({"repo": "https://github.com/o/r", "items": items}))
    _, err = start(folder, 3, 0).communicate(timeout=90)
    assert sorted(started(folder)) == [one, other], err.decode()
    assert err.decode().count("attempt 1 begins") == 2


def test_an_item_that_cannot_be_started_says_why(folder: Path, data_home: Path) -> None:
    plan(folder, 1)
    start(folder, 1, 0, "--cwd", "/no/such/{item_id}").communicate(timeout=90)
    (found,) = ask("plan", "--from", str(folder / "plan.json"), "--policy", "ended")
    assert "/no/such/item-0001" in found["reason"]
