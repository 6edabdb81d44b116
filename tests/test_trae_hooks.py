"""The hooks on trae-agent, against a package of the same interface; the real one is in test_trae.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from agent_shim.spool import new_id
from telemetry.testing import Answer, ScriptedServer, ToolCall, Usage, calls, server_error
from tests import spools

ROOT = Path(__file__).resolve().parent.parent
FULL = Usage(input=1000, output=50, cached=800, reasoning=30)


def run_trae(
    server: ScriptedServer, home: Path, tmp_path: Path, *options: str, config: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """The agent in a worktree of its own, started as the wrapper would start it."""
    worktree = tmp_path / "worktree"
    worktree.mkdir()
    subprocess.run(["git", "init", "-q", worktree], check=True)
    (tmp_path / "task.txt").write_text("make it faster")
    files = ["--file", "task.txt", "--working-dir", "worktree", "--trajectory-file", "trajectory.json"]
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        files += ["--config-file", "config.json"]
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "tests" / "trae_like"),
        "AGENT_TELEMETRY_HOME": str(home),
        "AGENT_TELEMETRY_RUN": new_id(),
        **server.environment,
    }
    start = [sys.executable, str(ROOT / "agent_shim" / "bootstrap.py"), "-m", "trae_agent.cli", "run"]
    return subprocess.run(
        [*start, *files, *options], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )


def test_every_hook_says_that_it_took(server: ScriptedServer, data_home: Path, tmp_path: Path) -> None:
    server.script(calls(ToolCall("task_done", {})))
    done = run_trae(server, data_home, tmp_path)
    assert done.returncode == 0, done.stderr
    attached = {event["data"]["target"] for event in spools.events(data_home, "hook.attached")}
    assert attached >= {"openai", "trae.tools", "trae.llm"}
    assert spools.events(data_home, "hook.failed") == []
    assert spools.events(data_home, "capture.failed") == []


def test_tool_calls_have_durations_outcomes_and_the_call_that_asked_for_them(
    server: ScriptedServer, data_home: Path, tmp_path: Path
) -> None:
    server.script(
        calls(ToolCall("bash", {"command": "sleep 0.3"}), usage=FULL),
        calls(ToolCall("bash", {"command": "exit 3"}), usage=FULL),
        calls(ToolCall("nonsense", {}), usage=FULL),
        calls(ToolCall("task_done", {}), ToolCall("bash", {"command": "touch never"}), usage=FULL),
    )
    run_trae(server, data_home, tmp_path)
    spools.deliver(data_home)
    rows = {row["call_id"]: row for row in spools.rows(data_home, "tool_call")}
    asked = {call.call_id: call for call in server.ledger.tool_calls}
    assert set(rows) == set(asked)
    by_name = sorted((row["tool"], row["ended"]) for row in rows.values())
    assert by_name == [
        ("bash", "completed"),
        ("bash", "failed"),
        ("bash", "never executed"),
        ("nonsense", "failed"),
        ("task_done", "never executed"),
    ]
    slept = next(row for row in rows.values() if row["arguments"] and "sleep" in row["arguments"])
    assert slept["duration_s"] >= 0.3
    for row in rows.values():
        assert row["requested_by"]
        if row["ended"] == "failed":
            assert row["error_type"] and row["error_message"]


def test_each_call_happens_in_its_turn_and_agent_retries_are_calls_of_one_turn(
    server: ScriptedServer, data_home: Path, tmp_path: Path
) -> None:
    failures = [server_error() for _ in range(3)]  # the client's own three requests
    server.script(*failures, calls(ToolCall("task_done", {}), usage=FULL))
    run_trae(server, data_home, tmp_path)
    [turn] = spools.events(data_home, "agent.turn.started")
    rows = sorted(spools.rows(data_home, "llm_call"), key=lambda row: row["started_at"])
    assert [(row["ended"], row["requests"]) for row in rows] == [("failed", 3), ("completed", 1)]
    assert {row["turn_id"] for row in rows} == {f"{turn['producer']}:{turn['seq']}"}
    assert turn["data"]["configured"]["parallel_tool_calls"] in (True, False)
    assert "parallel_tool_calls" in json.loads(rows[0]["absent"])


def test_a_provider_that_is_not_hooked_is_unknown_or_the_agents_own_never_zero(
    server: ScriptedServer, data_home: Path, tmp_path: Path
) -> None:
    program = """
        import sys
        from trae_agent.utils.llm_clients import llm_client
        class Other:
            def __init__(self, usage): self.usage = usage
            def chat(self, *a, **k):
                class Response:
                    usage = self.usage; model = "other-1"; tool_calls = None; finish_reason = "stop"
                return Response
        class Usage:
            def __init__(self): self.input_tokens, self.output_tokens = 70, 7
        for usage in (None, Usage()):
            client = object.__new__(llm_client.LLMClient)
            client.provider = type("P", (), {"value": "anthropic"})
            client.client = Other(usage)
            client.chat([], type("C", (), {"model": "other-1"}))
    """
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "tests" / "trae_like"),
        "AGENT_TELEMETRY_HOME": str(data_home),
        "AGENT_TELEMETRY_RUN": new_id(),
    }
    start = [sys.executable, str(ROOT / "agent_shim" / "bootstrap.py"), "-c", textwrap.dedent(program)]
    subprocess.run(start, env=environ, check=True, timeout=60)
    unknown, known = sorted(spools.rows(data_home, "llm_call"), key=lambda row: row["started_at"])
    assert (unknown["source"], unknown["usage_source"], unknown["input_tokens"]) == ("agent", "unknown", None)
    assert "not hooked" in unknown["usage_reason"]
    assert (known["source"], known["usage_source"], known["input_tokens"]) == ("agent", "agent", 70)


@pytest.mark.parametrize("lakeview", [False, True])
def test_the_journal_equals_the_ledger_with_and_without_the_summariser(
    server: ScriptedServer, data_home: Path, tmp_path: Path, lakeview: bool
) -> None:
    server.script(calls(ToolCall("bash", {"command": "echo x > f"}), usage=FULL))
    server.script(calls(ToolCall("task_done", {}), usage=FULL))
    server.script(
        *[Answer("<task>t</task><details>d</details><tags>x</tags>", usage=FULL)] * (4 if lakeview else 0)
    )
    config = {
        "agents": {"trae_agent": {"model": "m", "enable_lakeview": lakeview}},
        "models": {"m": {"model_provider": "p", "model": "gpt-5"}},
        "model_providers": {"p": {"provider": "openai"}},
    }
    done = run_trae(server, data_home, tmp_path, config=config)
    assert done.returncode == 0, done.stderr
    counted = [row for row in spools.rows(data_home, "llm_call") if row["usage_source"] == "reported"]
    total = server.ledger.total()
    assert sum(row["input_tokens"] for row in counted) == total.input
    assert sum(row["output_tokens"] for row in counted) == total.output
    assert len(counted) == len(server.ledger.billed) == (2 if not lakeview else len(server.ledger.requests))
