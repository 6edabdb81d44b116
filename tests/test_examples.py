"""The examples do what they say, as separate programs, on a scripted server."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_shim import spool
from telemetry.testing import (
    Answer,
    Delivery,
    ScriptedServer,
    ToolCall,
    calls,
    invalid_key,
    rate_limited,
)

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def execute(words: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(EXAMPLES), str(ROOT)])
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )


def agent(server: ScriptedServer, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "task.txt").write_text("Make it faster.")
    return execute(["-m", "agent", "task.txt", *options], folder, server.environment)


# --- the agent ------------------------------------------------------------------------------------


def test_the_agent_works_with_its_tools_until_the_model_asks_for_none(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.script(
        calls(
            ToolCall("write_file", {"path": "a.txt", "text": "grün"}), ToolCall("run", {"command": "exit 3"})
        ),
        calls(ToolCall("read_file", {"path": "a.txt"}), ToolCall("read_file", {"path": "none"})),
        calls(ToolCall("no_such_tool"), ToolCall("run", '{"broken')),
        Answer("It is green."),
    )
    done = agent(server, tmp_path)
    assert (done.returncode, done.stdout) == (0, "It is green.\n")
    last = server.ledger.requests[-1].number
    said = [item.output for item in server.ledger.tool_outputs if item.request == last]
    assert [text.split(":")[:2] for text in said] == [
        ["wrote 4 characters"],
        ["exit code 3\n"],
        ["grün"],
        ["error", " FileNotFoundError"],
        ["error", " KeyError"],
        ["error", " JSONDecodeError"],
    ]


def test_the_agent_asks_again_when_a_stream_breaks(server: ScriptedServer, tmp_path: Path) -> None:
    server.script(Answer("half", delivery=Delivery(fault="reset", after=5)), rate_limited(), Answer("whole"))
    done = agent(server, tmp_path)
    assert (done.returncode, done.stdout) == (0, "whole\n")
    assert [request.status for request in server.ledger.requests] == [200, 429, 200]


def test_the_agent_fails_plainly(server: ScriptedServer, tmp_path: Path) -> None:
    server.script(invalid_key())
    refused = agent(server, tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the model could not be asked" in refused.stderr
    server.script(*[calls(ToolCall("run", {"command": "true"}))] * 2)
    assert agent(server, tmp_path, "--max-steps", "2").returncode == 2


# --- a program that records itself ----------------------------------------------------------------


def test_a_program_records_its_own_calls(server: ScriptedServer, tmp_path: Path, data_home: Path) -> None:
    server.script(rate_limited(), Answer("It finds the bad commit."))
    environment = {**server.environment, "AGENT_TELEMETRY_HOME": str(data_home)}
    done = execute([str(EXAMPLES / "instrument.py")], tmp_path, environment)
    assert done.stdout == "It finds the bad commit.\n", done.stderr
    run = done.stderr.split()[-1]
    events = [event for path in (data_home / "spool" / run).glob("*.log") for event in read(path)]
    started = next(event["data"] for event in events if event["name"] == "run.started")
    assert (started["commit"], started["task"], started["way"]) == ("1a2b3c4d", "explain", "context")
    finished = next(event["data"] for event in events if event["name"] == "llm.call.finished")
    assert (finished["requests"], finished["usage"]["total_tokens"]) == (2, server.ledger.total().input + 20)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line.body) for line in spool.read(path) if line.body]


# --- the demo -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    clean = {"AGENT_TELEMETRY_COMMIT": "deadbeef"}  # a leftover of the user's shell changes nothing
    done = execute([str(EXAMPLES / "demo.py"), str(folder)], folder, clean)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def journal(folder: Path, question: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "data" / "journal.db") as connection:
        rows = connection.execute(question).fetchall()
    connection.close()
    return rows


def test_the_demo_records_what_the_server_billed_but_for_the_broken_stream(demo: tuple[Path, str]) -> None:
    folder, shown = demo
    numbers = [
        int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", shown.split("own ledger")[1])
    ]
    responses, input_tokens, output_tokens, lost_input, lost_output = numbers[:5]
    assert lost_output > 0
    recorded = journal(folder, "select sum(calls), sum(input_tokens), sum(output_tokens) from usage")
    assert recorded == [(responses, input_tokens - lost_input, output_tokens - lost_output)]
    unknown = journal(folder, "select calls, reason from usage where source = 'unknown'")
    assert [(calls, "stream" in reason) for calls, reason in unknown] == [(1, True)]


def test_the_demo_shows_five_commits_and_six_attempts(demo: tuple[Path, str]) -> None:
    folder, shown = demo
    runs = journal(folder, 'select "commit", outcome, signal, failed_requests from run order by started_at')
    assert [run[1:] for run in runs] == [
        ("exited", None, 1),
        ("exited", None, 0),
        ("exited", None, 0),
        ("exited", None, 0),
        ("signaled", 9, 0),
        ("exited", None, 0),
    ]
    assert len({commit for commit, *_ in runs}) == 5
    costs = shown.split("── agent-telemetry cost --by commit")[1]
    assert all(commit[:8] in costs for commit, *_ in runs)


def test_the_demo_shows_the_failed_tool_and_the_one_that_killed_its_agent(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    ended = "select ended, tool, error_message from tool_call where ended != 'completed' order by ended"
    failed, interrupted = journal(folder, ended)
    assert failed == ("failed", "run", "exit code 1")
    assert interrupted[:2] == ("interrupted", "run")


def test_the_commands_that_the_demo_ends_with_work(demo: tuple[Path, str], tmp_path: Path) -> None:
    _, shown = demo
    commands = shown.split("── look further\n")[1].splitlines()
    assert len(commands) > 2
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    script = "; ".join(["set -e", *commands])
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("agent-telemetry: 1 commit, 1 attempt, policy default")
    assert len(done.stderr.splitlines()) == 1
    assert "lab-model-7b" in done.stdout


def test_every_change_of_the_demo_is_real_and_right(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    worktrees = sorted(path for path in folder.iterdir() if (path / "check.py").exists() and "-" in path.name)
    assert len(worktrees) == 6
    for worktree in worktrees:
        assert subprocess.run([sys.executable, "check.py"], cwd=worktree).returncode == 0
        assert subprocess.run(["git", "diff", "--quiet"], cwd=worktree).returncode == 1
