"""Real wrapped runs that end badly in known ways, and what exit code, patch file and verdict say of them.

``python -m tests.verdict_runs`` writes ``docs/verdicts.md`` from runs of the real TRAE agent: ``TRAE_PATH``
names a git checkout of bytedance/trae-agent, ``TRAE_PYTHON`` a Python with its requirements; further ones,
behind colons, have to give the same lines. The runs of `tests/trae_like`, which has its habits, are held
against that page wherever the tests run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

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
from tests.generations import ROOT
from tests.trae_runs import NO_OUTPUT, SAY, TraeRun, server_for, summary, summary_without_tags
from tests.wrapped import eventually

PAGE = ROOT / "docs" / "verdicts.md"
POLICIES = ("default", "strict", "lenient")
CLI = [sys.executable, "-m", "telemetry.cli"]
BEFORE_OUTPUTS = "d9b60cd"
"""The commit of TRAE before the one that keeps the outputs of tools in what it sends (issue 358 there)."""

INTRODUCTION = """\
# Verdicts

<!-- made by `python -m tests.verdict_runs` from real runs: do not edit -->

Runs of the real TRAE agent against a scripted server, each wrong in one way: {agent}.
Side by side:
what the process said (exit code), what the agent wrote of itself (`success` in its trajectory), how large the
patch file is that it handed in, and what the record shows, under the policy `default`. *Changed* is what git
says of the worktree, committed or not, since the agent began; it is the ground truth of this page, and no
part of the verdict.
"""
IMITATION_TOLD = """\
A pass says what failed of that which the policy does not ask for. An exit code that is not 0 after the agent
was done fails under `default`, because nobody knows what else the process had to do; `lenient` does not ask.

Wherever the tests run, an agent of our own with TRAE's habits (`tests/trae_like`) makes the same runs, and
every line is held against this page."""


def bash(command: str) -> Answer:
    return calls(ToolCall("bash", {"command": command}))


EDIT_COMMAND = "sed -i 's/slow/fast/' speed.py"
LOOK, EDIT, DONE = bash("cat speed.py"), bash(EDIT_COMMAND), calls(ToolCall("task_done"))
COMMIT = bash("git commit -qam 'Make it fast'")
SLEEP = bash("touch ../sleeping; sleep 600")
CUT = Answer(
    tool_calls=(ToolCall("bash", '{"command": "cat speed'),),
    usage=Usage(input=3300, output=4096, reasoning=4000),
    ended="length",
)
OTHERS = ("ls-files", "--others", "--exclude=.bench_scratch")


class Scenario(NamedTuple):
    """One run."""

    name: str
    script: tuple[Turn, ...]
    must_patch: bool = False
    max_steps: int = 20
    retries: int = 0
    summaries: Turn | None = None
    kill: bool = False
    """SIGTERM while a tool runs."""
    reused: bool = False
    """In a worktree where an attempt before has committed."""
    forgets: bool = False
    """By the TRAE that did not keep the outputs of tools."""
    missing: bool = False
    """The agent's package is not there."""


SCENARIOS = (
    Scenario("edit, then done", (LOOK, EDIT, DONE)),
    Scenario("edit, then done; its summariser is on", (LOOK, EDIT, DONE), summaries=summary),
    Scenario("edit, then done; its summariser fails", (LOOK, EDIT, DONE), summaries=summary_without_tags),
    Scenario("a 429 and a 500 on the way", (LOOK, rate_limited(), EDIT, server_error(), DONE)),
    Scenario("more 500s than the client retries", (LOOK, *(server_error(),) * 3, EDIT, DONE), retries=1),
    Scenario("commit, then done", (LOOK, EDIT, COMMIT, DONE)),
    Scenario("commit, then done, must patch", (LOOK, EDIT, COMMIT, DONE), must_patch=True, retries=1),
    Scenario("no edit, done", (LOOK, DONE)),
    Scenario("no edit, done, must patch", (LOOK, DONE), must_patch=True, retries=1),
    Scenario("no edit, where an attempt before has committed", (LOOK, DONE), reused=True),
    Scenario("edit and done in one turn", (LOOK, calls(*EDIT.tool_calls, ToolCall("task_done")))),
    Scenario("only a comment", (bash("sed -i '1i # fast' speed.py"), DONE)),
    Scenario("only scratch files", (bash("mkdir .bench_scratch; touch .bench_scratch/a.py"), DONE)),
    Scenario("an edit that does not parse", (bash("echo 'def' >> speed.py"), DONE)),
    Scenario("an edit, taken back", (EDIT, bash("git checkout -q speed.py"), DONE)),
    Scenario("request refused after the edit", (LOOK, EDIT, bad_request("No such item."))),
    Scenario("no tool output found, after the edit", (LOOK, EDIT, NO_OUTPUT)),
    Scenario("outputs of tools forgotten (an older TRAE)", (LOOK, EDIT, DONE), retries=1, forgets=True),
    Scenario("quota exhausted", (LOOK, *(quota_exhausted(),) * 6), retries=1),
    Scenario("bad key", (invalid_key(),) * 2, retries=1),
    Scenario("never done (4 steps)", (LOOK,) * 4, max_steps=4),
    Scenario("arguments cut off", (LOOK, CUT)),
    Scenario("markup in the answer ends it", (LOOK, Answer(SAY, tool_calls=EDIT.tool_calls))),
    Scenario("the agent is not installed", (), missing=True),
    Scenario("killed in a tool", (LOOK, SLEEP), kill=True),
)


class Agent(NamedTuple):
    """Who is run."""

    python: str
    path: str
    forgetful: str
    """As `path`, for a scenario that `forgets`."""
    environ: dict[str, str]
    """For a scenario that `forgets`."""


_LIKE = str(ROOT / "tests" / "trae_like")
IMITATION = Agent(sys.executable, _LIKE, _LIKE, {"TRAE_LIKE_FORGETS": "1"})


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


def execute(agent: Agent, scenario: Scenario, folder: Path, home: Path) -> tuple[TraeRun, int]:
    """Run the agent, wrapped, to its end; its exit code."""
    folder.mkdir(parents=True)
    with server_for(scenario) as server:
        run = TraeRun(folder, server, scenario)
        if scenario.reused:
            run.git("commit", "-q", "--allow-empty", "-m", "By an attempt before")
            run.git("tag", "-f", "start")
        options = ("--task", scenario.name, "--claim", "parallel_tool_calls=false")
        process = subprocess.Popen(
            [*CLI, "run", *options, "--", agent.python, *run.arguments],
            cwd=run.worktree,
            env=environment(agent, scenario, home, server),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if scenario.kill:
            eventually((folder / "sleeping").exists)
            process.send_signal(signal.SIGTERM)
        return run, process.wait(timeout=300)


def environment(agent: Agent, scenario: Scenario, home: Path, server: ScriptedServer) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    path = agent.forgetful if scenario.forgets else agent.path
    given = agent.environ if scenario.forgets else {}
    python = {} if scenario.missing else {"PYTHONPATH": path}
    return {**kept, **given, **python, **server.environment, "AGENT_TELEMETRY_HOME": str(home)}


def lines(agent: Agent, folder: Path, home: Path) -> list[Line]:
    """All scenarios, run and judged."""
    with ThreadPoolExecutor(3) as pool:
        folders = (folder / str(number) for number in range(len(SCENARIOS)))
        ended = list(pool.map(lambda one, place: execute(agent, one, place, home), SCENARIOS, folders))
    judged = {policy: judge(home, policy) for policy in POLICIES}
    return [
        _line(one.name, *run, [judged[policy][one.name] for policy in POLICIES])
        for one, run in zip(SCENARIOS, ended, strict=True)
    ]


def judge(home: Path, policy: str) -> dict[str, Any]:
    """The judgements by task."""

    def ask(*words: str) -> Any:
        environ = {"PATH": os.environ["PATH"], "AGENT_TELEMETRY_HOME": str(home)}
        done = subprocess.run([*CLI, *words, "--json"], env=environ, check=True, capture_output=True)
        return json.loads(done.stdout)

    tasks = {run["run_id"]: run["task"] for run in ask("runs")}
    return {tasks[one["run_id"]]: one for one in ask("judge", "--all", "--policy", policy)}


def _line(name: str, run: TraeRun, code: int, judged: Sequence[Any]) -> Line:
    default, *others = judged
    changed = run.change or run.git(*OTHERS)
    success = run.written["success"] if run.trajectory.exists() else None
    checks = {check["name"]: (check["state"], check["reason"]) for check in default["checks"]}
    size = run.patch.stat().st_size if run.patch.exists() else None
    return Line(
        name, code, success, size, bool(changed), default["verdict"], default["reason"], checks,
        *(other["verdict"] for other in others),
    )  # fmt: skip


# --- the page --------------------------------------------------------------------------------------


def page(found: Sequence[Line], agent: str) -> str:
    """The table, and what it comes to."""
    names = ("scenario", "exit code", "agent says", "its patch file", "changed", "verdict", "because")
    head = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    told = [INTRODUCTION.format(agent=agent), *head, *rows(found), "", *_summary(found), "", IMITATION_TOLD]
    return "\n".join([*told, ""])


def rows(found: Sequence[Line]) -> list[str]:
    """The lines of the table."""
    made = []
    for line in found:
        said = {True: "success", False: "failure", None: "nothing"}[line.success]
        size = "none" if line.patch_bytes is None else f"{line.patch_bytes} bytes"
        cells = (line.name, str(line.exit_code), said, size, "yes" if line.changed else "no",
                 f"**{line.verdict}**", _plain(line.reason))  # fmt: skip
        made.append("| " + " | ".join(cells) + " |")
    return made


def _plain(because: str) -> str:
    """A reason without what differs from run to run and from machine to machine."""
    text = re.sub(r"call_\w+", "call_…", because).replace("|", "\\|")
    text = re.sub(r"/\S+/(python)[\d.]*", r"…/\1", text)
    return re.sub(r"[\w.]+\.(MarkupError: .* position) \d+", r"\1 …", text)


def _summary(found: Sequence[Line]) -> list[str]:
    by_code = sum((line.exit_code == 0) != (line.verdict == "pass") for line in found)
    by_patch = sum(bool(line.patch_bytes) != (line.verdict == "pass") for line in found)
    by_word = sum(bool(line.success) != (line.verdict == "pass") for line in found)
    stricter = [line.name for line in found if line.verdict == "pass" and line.strict != "pass"]
    laxer = [line.name for line in found if line.verdict != "pass" and line.lenient == "pass"]
    return [
        f"Of {len(found)} runs, the verdict is another than the exit code says in {by_code}, than the agent"
        f" says in {by_word}, than its patch file says in {by_patch}.",
        "The policy `strict` does not pass " + "; ".join(f"*{name}*" for name in stricter) + ";",
        "the policy `lenient`, which does not ask how the process ended, passes "
        + "; ".join(f"*{name}*" for name in laxer)
        + " as well.",
    ]


# --- the real one ----------------------------------------------------------------------------------


def real(folder: Path) -> list[Agent]:
    """The TRAE that the environment names, once for each of its interpreters."""
    path = os.environ["TRAE_PATH"]
    archive = subprocess.run(
        ["git", "-C", path, "archive", BEFORE_OUTPUTS, "trae_agent"], check=True, capture_output=True
    )
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return [Agent(one, path, str(folder), {}) for one in os.environ["TRAE_PYTHON"].split(os.pathsep)]


def told(agents: Sequence[Agent]) -> str:
    """Which one it is."""
    commit = _said("git", "-C", agents[0].path, "rev-parse", "--short=8", "HEAD")
    ask = "import sys, openai; print(f'openai {openai.__version__} on Python', sys.version.split()[0])"
    seen = " and the same with ".join(_said(agent.python, "-c", ask) for agent in agents)
    return f"bytedance/trae-agent at {commit}, with {seen}"


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    with TemporaryDirectory() as folder:
        agents = real(Path(folder, "older"))
        found = [
            lines(agent, Path(folder, str(number)), Path(folder, str(number), "home"))
            for number, agent in enumerate(agents)
        ]
        PAGE.write_text(page(found[0], told(agents)))
    for other in found[1:]:
        differing = set(rows(other)) ^ set(rows(found[0]))
        if differing:
            sys.exit("\n".join(["Not the same with the other interpreters:", *sorted(differing)]))


if __name__ == "__main__":
    main()
