"""Real wrapped runs that end badly in known ways, and what exit code, patch file and verdict say of them.

``python -m tests.verdict_runs`` writes ``docs/verdicts.md`` from them. The agent is `tests/trae_like`, which
has the habits of the real one; `tests.trae_runs` has the same scenarios for that one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from telemetry.testing import (
    Answer,
    ScriptedServer,
    ToolCall,
    Turn,
    bad_request,
    calls,
    invalid_key,
    quota_exhausted,
    rate_limited,
    server_error,
)
from tests.generations import ROOT
from tests.wrapped import eventually

PAGE = ROOT / "docs" / "verdicts.md"
POLICIES = ("default", "strict", "lenient")
CLI = [sys.executable, "-m", "telemetry.cli"]

INTRODUCTION = """\
# Verdicts

<!-- made by `python -m tests.verdict_runs` from real runs: do not edit -->

Runs of an agent with the habits of TRAE against a scripted server, each wrong in one way. Side by side:
what the process said (exit code), what the agent wrote of itself (`success` in its trajectory), how large the
patch file is that it handed in, and what the record shows, under the policy `default`. *Changed* is what git
says of the worktree, committed or not; it is the ground truth of this page, and no part of the verdict.
"""


def bash(command: str) -> Answer:
    return calls(ToolCall("bash", {"command": command}))


EDIT_COMMAND = "sed -i 's/slow/fast/' speed.py"
LOOK, EDIT, DONE = bash("cat speed.py"), bash(EDIT_COMMAND), calls(ToolCall("task_done"))
COMMIT = bash("git commit -qam 'Make it fast'")
SLEEP = bash("touch ../sleeping; sleep 600")
CUT = calls(ToolCall("bash", '{"command": "cat speed'))


OTHERS = ("ls-files", "--others", "--exclude=.bench_scratch")


class Scenario(NamedTuple):
    """One run."""

    name: str
    script: tuple[Turn, ...]
    options: tuple[str, ...] = ()
    retries: int = 0
    summaries: bool = False
    kill: bool = False
    """SIGTERM while a tool runs."""


SCENARIOS = (
    Scenario("edit, then done", (LOOK, EDIT, DONE)),
    Scenario("edit, then done; its summariser fails", (LOOK, EDIT, DONE, Answer("no tags")), summaries=True),
    Scenario("a 429 and a 500 on the way", (LOOK, rate_limited(), EDIT, server_error(), DONE)),
    Scenario("commit, then done", (LOOK, EDIT, COMMIT, DONE)),
    Scenario("commit, then done, must patch", (LOOK, EDIT, COMMIT, DONE), ("--must-patch",), 1),
    Scenario("no edit, done", (LOOK, DONE)),
    Scenario("no edit, done, must patch", (LOOK, DONE), ("--must-patch",), 1),
    Scenario("edit and done in one turn", (LOOK, calls(*EDIT.tool_calls, ToolCall("task_done")))),
    Scenario("only a comment", (bash("sed -i '1i # fast' speed.py"), DONE)),
    Scenario("only scratch files", (bash("mkdir .bench_scratch; touch .bench_scratch/a.py"), DONE)),
    Scenario("an edit that does not parse", (bash("echo 'def' >> speed.py"), DONE)),
    Scenario("an edit, taken back", (EDIT, bash("git checkout -q speed.py"), DONE)),
    Scenario("request refused after the edit", (LOOK, EDIT, bad_request("No such item."))),
    Scenario("quota exhausted", (LOOK, *(quota_exhausted(),) * 3)),
    Scenario("bad key", (invalid_key(),)),
    Scenario("never done (4 steps)", (LOOK,) * 4, ("--max-steps", "4")),
    Scenario("arguments cut off", (LOOK, CUT)),
    Scenario("killed in a tool", (LOOK, SLEEP), kill=True),
)


class Line(NamedTuple):
    """A run, as each of the three sees it."""

    name: str
    exit_code: int
    success: bool | None
    patch_bytes: int | None
    """Of the patch file that the agent wrote; ``None``: it wrote none."""
    changed: bool
    verdict: str
    reason: str
    checks: dict[str, tuple[str, str]]
    strict: str
    lenient: str


class Run:
    """A worktree, a configuration and a command."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self.scenario = scenario
        self.worktree = folder / "worktree"
        self.worktree.mkdir(parents=True)
        self.patch, self.trajectory = folder / "model_patch.diff", folder / "trajectory.json"
        self._folder = folder
        (self.worktree / "speed.py").write_text('speed = "slow"\nprint(speed)\n')
        self.git("init", "-q", "-b", "main")
        for name, value in (("user.name", "Agent"), ("user.email", "agent@example.invalid")):
            self.git("config", name, value)
        self.git("add", ".")
        self.git("commit", "-q", "-m", "Start")
        self.git("tag", "start")

    def git(self, *words: str) -> str:
        command = ["git", *words]
        return subprocess.run(command, cwd=self.worktree, check=True, capture_output=True, text=True).stdout

    @property
    def command(self) -> list[str]:
        (self._folder / "task.txt").write_text("Make speed.py fast.")
        model = {"model_provider": "p", "model": "gpt-5", "max_retries": self.scenario.retries}
        config = {
            "agents": {"trae_agent": {"model": "m", "enable_lakeview": self.scenario.summaries}},
            "model_providers": {"p": {"provider": "openai"}},
            "models": {"m": {**model, "parallel_tool_calls": False}},
        }
        (self._folder / "config.yaml").write_text(json.dumps(config))
        places = {
            "--file": self._folder / "task.txt",
            "--config-file": self._folder / "config.yaml",
            "--working-dir": self.worktree,
            "--patch-path": self.patch,
            "--trajectory-file": self.trajectory,
        }
        words = [str(word) for pair in places.items() for word in pair]
        return [sys.executable, "-m", "trae_agent.cli", "run", *words, *self.scenario.options]


def environment(home: Path, server: ScriptedServer) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    ours = {"AGENT_TELEMETRY_HOME": str(home), "PYTHONPATH": str(ROOT / "tests" / "trae_like")}
    return {**kept, **ours, **server.environment}


def execute(scenario: Scenario, folder: Path, home: Path) -> tuple[Run, int]:
    """Run the agent, wrapped, to its end; its exit code."""
    run = Run(folder, scenario)
    with ScriptedServer(*scenario.script) as server:
        process = subprocess.Popen(
            [
                *CLI,
                "run",
                "--task",
                scenario.name,
                "--claim",
                "parallel_tool_calls=false",
                "--",
                *run.command,
            ],
            cwd=run.worktree,
            env=environment(home, server),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if scenario.kill:
            eventually((folder / "sleeping").exists)
            process.send_signal(signal.SIGTERM)
        return run, process.wait(timeout=120)


def lines(folder: Path, home: Path) -> list[Line]:
    """All scenarios, run and judged."""
    ended = [execute(one, folder / str(number), home) for number, one in enumerate(SCENARIOS)]
    judged = {policy: judge(home, policy) for policy in POLICIES}
    return [
        _line(run, code, [judged[policy][run.scenario.name] for policy in POLICIES]) for run, code in ended
    ]


def judge(home: Path, policy: str) -> dict[str, Any]:
    """The judgements by task."""

    def ask(*words: str) -> Any:
        environ = {"PATH": os.environ["PATH"], "AGENT_TELEMETRY_HOME": str(home)}
        done = subprocess.run([*CLI, *words, "--json"], env=environ, check=True, capture_output=True)
        return json.loads(done.stdout)

    tasks = {run["run_id"]: run["task"] for run in ask("runs")}
    return {tasks[one["run_id"]]: one for one in ask("judge", "--all", "--policy", policy)}


def _line(run: Run, code: int, judged: Sequence[Any]) -> Line:
    default, *others = judged
    changed = run.git("diff", "start") or run.git(*OTHERS)
    success = json.loads(run.trajectory.read_text())["success"] if run.trajectory.exists() else None
    checks = {check["name"]: (check["state"], check["reason"]) for check in default["checks"]}
    size = run.patch.stat().st_size if run.patch.exists() else None
    return Line(
        run.scenario.name, code, success, size, bool(changed), default["verdict"], default["reason"], checks,
        *(other["verdict"] for other in others),
    )  # fmt: skip


# --- the page --------------------------------------------------------------------------------------


def page(found: Sequence[Line]) -> str:
    """The table, and what it comes to."""
    names = ("scenario", "exit code", "agent says", "its patch file", "changed", "verdict", "because")
    rows = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for line in found:
        said = {True: "success", False: "failure", None: "nothing"}[line.success]
        size = "none" if line.patch_bytes is None else f"{line.patch_bytes} bytes"
        because = line.checks["patch-not-empty"][1] if line.verdict == "pass" else line.reason
        cells = (line.name, str(line.exit_code), said, size, "yes" if line.changed else "no",
                 f"**{line.verdict}**", _plain(because))  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([INTRODUCTION, *rows, "", *_summary(found), ""])


def _plain(because: str) -> str:
    """A reason without what differs from run to run, and not longer than fits."""
    text = re.sub(r"call_\w+", "call_…", because).replace("|", "\\|")
    return text if len(text) <= 170 else f"{text[:169]}…"


def _summary(found: Sequence[Line]) -> list[str]:
    by_code = sum((line.exit_code == 0) != (line.verdict == "pass") for line in found)
    by_patch = sum(bool(line.patch_bytes) != line.changed for line in found)
    stricter = [line.name for line in found if line.verdict == "pass" and line.strict != "pass"]
    laxer = [line.name for line in found if line.verdict != "pass" and line.lenient == "pass"]
    return [
        f"Exit code and verdict disagree in {by_code} of {len(found)} runs; the agent's patch file and the"
        f" worktree in {by_patch}.",
        "The policy `strict` does not pass " + "; ".join(f"*{name}*" for name in stricter) + ";",
        "the policy `lenient`, which does not ask how the process ended, passes "
        + "; ".join(f"*{name}*" for name in laxer)
        + " as well.",
    ]


def main() -> None:
    with TemporaryDirectory() as folder:
        PAGE.write_text(page(lines(Path(folder), Path(folder, "home"))))


if __name__ == "__main__":
    main()
