"""A run is judged at its end where that is asked for: as exit code, and in the pipeline's files."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from telemetry.testing import Answer, ScriptedServer, Usage

CLI = [sys.executable, "-m", "telemetry.cli"]
EDIT = "open('a.py', 'w').write('fast = True\\n')"


@pytest.fixture
def worktree(tmp_path: Path) -> Path:
    folder = tmp_path / "worktree"
    folder.mkdir()
    (folder / "a.py").write_text("fast = False\n")
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "Start")):
        identity = ("-c", "user.name=T", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *words], cwd=folder, check=True)
    return folder


def run(worktree: Path, code: str, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, "run", *options, "--", sys.executable, "-c", code],
        cwd=worktree, env={**os.environ, **environ}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "policy", "exit_code", "said"),
    [
        (EDIT, "default", 0, "verdict pass: 1 file changed"),
        ("pass", "default", 1, "verdict fail: the patch is empty"),
        (f"{EDIT}; raise SystemExit(7)", "lenient", 0, "verdict pass: 1 file changed"),
        (EDIT, "strict", 1, "verdict fail: the calls of the agent were not seen"),
    ],
)
def test_the_exit_code_is_that_of_the_verdict(
    worktree: Path, data_home: Path, code: str, policy: str, exit_code: int, said: str
) -> None:
    done = run(worktree, code, "--exit-status", "verdict", "--policy", policy)
    assert (done.returncode, said in done.stderr) == (exit_code, True), done.stderr
    with closing(sqlite3.connect(data_home / "journal.db")) as journal:
        ((judged, by),) = journal.execute("SELECT verdict, verdict_policy FROM run").fetchall()
    assert (judged, by) == (said.split(":")[0].removeprefix("verdict "), policy)


def test_a_run_that_cannot_be_judged_is_undecided(worktree: Path, tmp_path: Path) -> None:
    (tmp_path / "no_database").write_text("no database")
    done = run(worktree, EDIT, "--exit-status", "verdict", "--journal", str(tmp_path / "no_database"))
    assert done.returncode == 3, done.stderr
    assert "verdict unknown: " in done.stderr


def test_the_files_for_a_pipeline_have_verdict_tokens_and_cost_and_why_they_lack(
    worktree: Path, tmp_path: Path
) -> None:
    asks = "import openai; openai.OpenAI().responses.create(model='gpt-5', input='x')"
    with ScriptedServer(Answer("yes", usage=Usage(1000, 100, cached=200))) as server:
        done = run(worktree, f"{asks}; {EDIT}", "--pipeline-files", str(tmp_path), **server.environment)
    assert done.returncode == 0, done.stderr
    for name in ("attempt.json", "journal.json"):
        told: dict[str, Any] = json.loads((tmp_path / name).read_text())
        assert (told["verdict"], told["verdict_policy"], told["settled_reason"]) == ("pass", "default", None)
        assert (told["calls"], told["calls_reason"]) == (1, None)
        assert told["tokens"] == {
            "uncached": 800,
            "cached": 200,
            "cache_write": 0,
            "output": 100,
            "reasoning": 0,
        }
        assert (told["cost"][0]["currency"], told["cost_reason"]) == ("USD", None)
    no_journal = str(tmp_path / "no_database")
    Path(no_journal).write_text("no database")
    run(worktree, "pass", "--pipeline-files", str(tmp_path), "--journal", no_journal)
    told = json.loads((tmp_path / "attempt.json").read_text())
    assert (told["verdict"], told["tokens"], told["cost"]) == (None, None, None)
    assert told["settled_reason"]
