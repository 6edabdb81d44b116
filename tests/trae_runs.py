"""The real TRAE agent on a scripted server: the runs that ended badly in practice, each made again.

TRAE is not ours and is not installed by us. Point ``TRAE_PATH`` at a checkout of bytedance/trae-agent
and ``TRAE_PYTHON`` at a Python 3.12 that has its requirements, docker and pexpect.

A `Scenario` is what the server answers and what TRAE makes of it, as it was seen with the checkout of
February 2026. TRAE's own retries sleep for 3 to 30 seconds each, so they are off unless they are the point.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from telemetry.testing import (
    Answer,
    ScriptedServer,
    ToolCall,
    Turn,
    Usage,
    bad_request,
    calls,
    invalid_key,
    quota_exhausted,
    rate_limited,
    server_error,
)

MODEL = "gpt-5"
LAKEVIEW_MODEL = "gpt-4o-mini"
WORDS = ("-m", "trae_agent.cli", "run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run: the script, and what a correct observer has to see of it."""

    name: str
    script: tuple[Turn, ...]
    summaries: Turn | None = None
    """What TRAE's summariser (Lakeview, a second model) is answered; without it it is off."""
    must_patch: bool = False
    max_steps: int = 20
    retries: int = 0
    exit_code: int = 0
    claims_success: bool | None = True
    """``success`` of the agent's trajectory; ``None``: it wrote none before it died."""
    patch_written: bool | None
    """Whether the agent's patch file has content; ``None``: there is no such file."""
    tree_changed: bool
    """Whether the tree really differs from what it was at the start."""
    statuses: tuple[int, ...]
    executed: int
    """How many tool calls TRAE executes; it never executes ``task_done``, nor what stands beside it."""
    recorded: Usage | None = None
    """What the agent's own records add up to, where that is not what was billed."""


def bash(command: str, usage: Usage) -> Answer:
    return calls(ToolCall("bash", {"command": command, "restart": False}), usage=usage)


LOOK = bash("cat speed.py", Usage(input=3120, output=212))
EDIT = bash("sed -i 's/slow/fast/' speed.py", Usage(input=3602, output=260, cached=1024, reasoning=64))
TEST = bash("python3 speed.py", Usage(input=3790, output=90))
COMMIT = bash("git commit -qam 'Make it fast'", Usage(input=4010, output=120))
DIFF = bash("git diff", Usage(input=3890, output=110))
DONE = calls(ToolCall("task_done"), usage=Usage(input=3910, output=110, cached=3072))
CUT = calls(ToolCall("bash", '{"command": "cat speed'), usage=Usage(input=3300, output=4096, reasoning=4000))
SAY = "The speed is fine now. [/INST]"

NO_OUTPUT = bad_request("No tool output found for function call call_0.", param="input")

HAPPY = (LOOK, EDIT, TEST, DIFF, DONE)


def summary(body: dict[str, Any]) -> Answer:
    """What Lakeview hopes for: the label of a step, or its tags."""
    asks_for_tags = body["input"][-1]["content"].endswith("<tags>")
    text = "WRITE_FIX</tags>" if asks_for_tags else " edits.</task><details>It edits speed.py.</details>"
    return Answer(text, usage=Usage(input=900, output=40))


def summary_without_tags(body: dict[str, Any]) -> Answer:
    """A label as it should be, and then no tags."""
    good = summary(body)
    return good if "task" in good.text else Answer("I am not sure.", usage=good.usage)


SCENARIOS = (
    Scenario(
        name="happy",
        script=HAPPY,
        patch_written=True,
        tree_changed=True,
        statuses=(200,) * 5,
        executed=4,
    ),
    Scenario(
        name="lakeview",
        script=HAPPY,
        summaries=summary,
        patch_written=True,
        tree_changed=True,
        statuses=(200,) * 15,
        executed=4,
    ),
    Scenario(
        name="lakeview answers badly",
        script=HAPPY,
        summaries=summary_without_tags,
        exit_code=1,
        patch_written=True,
        tree_changed=True,
        statuses=(200,) * 15,
        executed=4,
    ),
    Scenario(
        name="transient",
        script=(LOOK, rate_limited(), EDIT, server_error(), DONE),
        patch_written=True,
        tree_changed=True,
        statuses=(200, 429, 200, 500, 200),
        executed=2,
    ),
    Scenario(
        name="transient, beyond the client's own retries",
        script=(LOOK, server_error(), server_error(), server_error(), EDIT, DONE),
        retries=1,
        patch_written=True,
        tree_changed=True,
        statuses=(200, 500, 500, 500, 200, 200),
        executed=2,
    ),
    Scenario(
        name="quota",
        script=(LOOK, *(quota_exhausted(),) * 3),
        claims_success=False,
        patch_written=False,
        tree_changed=False,
        statuses=(200, 429, 429, 429),
        executed=1,
    ),
    Scenario(
        name="bad key",
        script=(invalid_key(),),
        claims_success=False,
        patch_written=False,
        tree_changed=False,
        statuses=(401,),
        executed=0,
    ),
    Scenario(
        name="tool output refused",
        script=(LOOK, EDIT, NO_OUTPUT),
        claims_success=False,
        patch_written=True,
        tree_changed=True,
        statuses=(200, 200, 400),
        executed=2,
    ),
    Scenario(
        name="no edit, done",
        script=(LOOK, DONE),
        patch_written=False,
        tree_changed=False,
        statuses=(200, 200),
        executed=1,
    ),
    Scenario(
        name="no edit, done, must patch",
        script=(LOOK, DONE),
        must_patch=True,
        claims_success=False,
        patch_written=False,
        tree_changed=False,
        statuses=(200, 200, 400),
        executed=1,
    ),
    Scenario(
        name="commit, then done",
        script=(LOOK, EDIT, COMMIT, DONE),
        patch_written=False,
        tree_changed=True,
        statuses=(200,) * 4,
        executed=3,
    ),
    Scenario(
        name="commit, then done, must patch",
        script=(LOOK, EDIT, COMMIT, DONE),
        must_patch=True,
        claims_success=False,
        patch_written=False,
        tree_changed=True,
        statuses=(200, 200, 200, 200, 400),
        executed=3,
    ),
    Scenario(
        name="edit and done in one turn",
        script=(
            LOOK,
            calls(*EDIT.tool_calls, ToolCall("task_done"), usage=Usage(input=3602, output=260)),
        ),
        patch_written=False,
        tree_changed=False,
        statuses=(200, 200),
        executed=1,
    ),
    Scenario(
        name="never done",
        script=(LOOK,) * 4,
        max_steps=4,
        claims_success=False,
        patch_written=False,
        tree_changed=False,
        statuses=(200,) * 4,
        executed=4,
    ),
    Scenario(
        name="truncated arguments",
        script=(LOOK, CUT),
        claims_success=False,
        patch_written=False,
        tree_changed=False,
        statuses=(200, 200),
        executed=1,
        recorded=LOOK.usage,
    ),
    Scenario(
        name="markup in the answer",
        script=(LOOK, Answer(SAY, tool_calls=EDIT.tool_calls, usage=Usage(input=3602, output=260))),
        exit_code=1,
        claims_success=False,
        patch_written=None,
        tree_changed=True,
        statuses=(200, 200),
        executed=2,
    ),
)
"""In the order of the story: what works, what the wire says, what the tree says, what the agent does."""


class Set(Protocol):
    """What of a scenario decides how TRAE is set up."""

    @property
    def script(self) -> tuple[Turn, ...]: ...
    @property
    def summaries(self) -> Turn | None: ...
    @property
    def must_patch(self) -> bool: ...
    @property
    def max_steps(self) -> int: ...
    @property
    def retries(self) -> int: ...


class TraeRun:
    """A worktree, a configuration and the command for one run of TRAE."""

    def __init__(self, folder: Path, server: ScriptedServer, scenario: Set) -> None:
        self.worktree = folder / "worktree"
        self.patch = folder / "item" / "model_patch.diff"
        self.trajectory = folder / "item" / "trajectory.json"
        self.patch.parent.mkdir()
        self._scenario = scenario
        self._config = folder / "trae_config.yaml"
        self._config.write_text(_config(server.url, scenario))
        self._start_tree()

    @property
    def arguments(self) -> list[str]:
        """What stands behind the interpreter."""
        task = self._config.with_name("task.txt")
        task.write_text("Make speed.py fast.")
        options = {
            "--file": task,
            "--working-dir": self.worktree,
            "--max-steps": self._scenario.max_steps,
            "--patch-path": self.patch,
            "--trajectory-file": self.trajectory,
            "--config-file": self._config,
        }
        words = [str(word) for pair in options.items() for word in pair]
        return [*WORDS, *words, *(["--must-patch"] if self._scenario.must_patch else [])]

    @property
    def written(self) -> dict[str, Any]:
        """The agent's own trajectory."""
        return dict(json.loads(self.trajectory.read_text()))

    @property
    def recorded(self) -> Usage:
        """The tokens that the trajectory adds up to."""
        usages = [interaction["response"]["usage"] for interaction in self.written["llm_interactions"]]
        return Usage(sum(u["input_tokens"] for u in usages), sum(u["output_tokens"] for u in usages))

    @property
    def change(self) -> str:
        """How the tree really differs from the start, committed or not."""
        return self.git("diff", "start")

    def git(self, *words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=self.worktree, check=True, capture_output=True, text=True
        ).stdout

    def _start_tree(self) -> None:
        self.worktree.mkdir()
        (self.worktree / "speed.py").write_text('speed = "slow"\nprint(speed)\n')
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Agent")
        self.git("config", "user.email", "agent@example.invalid")
        self.git("add", ".")
        self.git("commit", "-q", "-m", "Start")
        self.git("tag", "start")


def server_for(scenario: Set) -> ScriptedServer:
    """A server with the scenario's script; the summariser's calls have one of their own."""
    summaries: Sequence[Turn] = (scenario.summaries,) * 100 if scenario.summaries else ()
    return ScriptedServer(*scenario.script, on={LAKEVIEW_MODEL: summaries})


def _config(url: str, scenario: Set) -> str:
    """TRAE reads YAML, and JSON is YAML."""

    def model(name: str) -> dict[str, Any]:
        return {
            "model_provider": "openai",
            "model": name,
            "max_tokens": 4096,
            "temperature": 0.5,
            "top_p": 1,
            "top_k": 0,
            "max_retries": scenario.retries,
            "parallel_tool_calls": False,
        }

    agent = {
        "enable_lakeview": scenario.summaries is not None,
        "model": "agent",
        "max_steps": scenario.max_steps,
        "tools": ["bash", "str_replace_based_edit_tool", "sequentialthinking", "task_done"],
    }
    return json.dumps(
        {
            "agents": {"trae_agent": agent},
            "lakeview": {"model": "lakeview"},
            "model_providers": {
                "openai": {"provider": "openai", "api_key": "sk-test-of-trae", "base_url": url}
            },
            "models": {"agent": model(MODEL), "lakeview": model(LAKEVIEW_MODEL)},
        }
    )
