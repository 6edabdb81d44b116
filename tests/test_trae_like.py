"""The agent with TRAE's interface has the habits of the real one that make it hard to record.

`tests.trae_runs` has them as they were seen with the real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from telemetry.testing import (
    Answer,
    ScriptedServer,
    ToolCall,
    Usage,
    bad_request,
    calls,
    rate_limited,
    server_error,
)

HERE = Path(__file__).parent / "trae_like"
DONE = calls(ToolCall("task_done"))


class Ended(NamedTuple):
    code: int
    stdout: str
    patch: str
    trajectory: dict[str, Any]


def bash(*commands: str) -> Answer:
    return calls(*(ToolCall("bash", {"command": command}) for command in commands))


@pytest.fixture
def worktree(tmp_path: Path) -> Path:
    folder = tmp_path / "worktree"
    folder.mkdir()
    (folder / "speed.py").write_text("slow = True\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "Start")
    return folder


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True)


def trae(server: ScriptedServer, worktree: Path, *options: str, **model: Any) -> Ended:
    folder = worktree.parent
    (folder / "task.txt").write_text("Make it fast.")
    agent = {"model": "main", "enable_lakeview": model.pop("lakeview", False)}
    config = {
        "agents": {"trae_agent": agent},
        "model_providers": {"p": {"provider": model.pop("provider", "openai")}},
        "models": {"main": {"model_provider": "p", "model": "gpt-5", **model}},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    places = {"--file": "task.txt", "--patch-path": "patch.diff", "--trajectory-file": "trajectory.json"}
    places |= {"--config-file": "config.yaml", "--working-dir": "worktree"}
    words = [word for option, name in places.items() for word in (option, str(folder / name))]
    done = subprocess.run(
        [sys.executable, "-m", "trae_agent.cli", "run", *words, *options],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(HERE), **server.environment},
        capture_output=True,
        text=True,
    )
    written = json.loads((folder / "trajectory.json").read_text())
    return Ended(done.returncode, done.stdout, (folder / "patch.diff").read_text(), written)


def test_a_change_that_is_not_committed_is_the_patch(server: ScriptedServer, worktree: Path) -> None:
    server.script(bash("cat speed.py", "sed -i s/slow/fast/ speed.py"), DONE)
    ended = trae(server, worktree)
    assert (ended.code, ended.trajectory["success"]) == (0, True)
    assert "+fast = True" in ended.patch
    outputs = {item.output for item in server.ledger.tool_outputs}
    assert outputs == {"slow = True\n", ""}


def test_parallel_tool_calls_never_reach_the_wire(server: ScriptedServer, worktree: Path) -> None:
    server.script(bash("true"), DONE)
    trae(server, worktree, parallel_tool_calls=False)
    assert all("parallel_tool_calls" not in request.keys for request in server.ledger.requests)


def test_an_empty_patch_leaves_task_done_open_and_the_api_refuses(
    server: ScriptedServer, worktree: Path
) -> None:
    server.script(DONE)
    ended = trae(server, worktree, "--must-patch", max_retries=1)
    assert [request.status for request in server.ledger.requests] == [200, 400, 400]
    assert (ended.code, ended.trajectory["success"]) == (0, False)
    assert "No tool output found for function call" in ended.trajectory["final_result"]


def test_task_done_drops_the_calls_beside_it(server: ScriptedServer, worktree: Path) -> None:
    edit = ToolCall("bash", {"command": "sed -i s/slow/fast/ speed.py"})
    server.script(calls(edit, ToolCall("task_done")))
    ended = trae(server, worktree)
    assert (ended.trajectory["success"], ended.patch) == (True, "")


def test_the_agent_retries_around_the_clients_retries(server: ScriptedServer, worktree: Path) -> None:
    server.script(*[server_error()] * 3, bad_request("no"), rate_limited(), DONE)
    ended = trae(server, worktree)
    assert [request.retry_count for request in server.ledger.requests] == [0, 1, 2, 0, 0, 1]
    assert ended.stdout.count("API call failed") == 2


def test_only_a_failing_summary_makes_the_exit_code_1(server: ScriptedServer, worktree: Path) -> None:
    server.script(bash("true"), DONE, Answer("<tags>THINK</tags>"), Answer("no tags"))
    ended = trae(server, worktree, lakeview=True)
    assert (ended.code, ended.trajectory["success"]) == (1, True)
    assert [bool(request.body.get("tools")) for request in server.ledger.requests] == [
        True,
        True,
        False,
        False,
    ]


def test_container_mode_runs_the_shell_past_the_hosts_executor(
    server: ScriptedServer, worktree: Path
) -> None:
    server.script(bash("sed -i s/slow/fast/ speed.py", "exit 3"), DONE)
    ended = trae(server, worktree, "--docker-container-id", "none")
    assert "+fast = True" in ended.patch


def test_another_provider_is_billed_without_the_openai_client(server: ScriptedServer, worktree: Path) -> None:
    server.script(DONE)
    ended = trae(server, worktree, provider="anthropic")
    assert "x-stainless-lang" not in server.ledger.requests[0].headers
    assert ended.trajectory["agent_steps"][0]["llm_response"]["usage"]["input_tokens"] == 100
    assert server.ledger.total() == Usage(input=100, output=20)
