"""The demo: an agent works on five commits, is recorded, and the journal says what that cost.

``python examples/demo.py [FOLDER]`` needs no key, no server and no Docker. A scripted server on the loopback
interface stands where the OpenAI API would; the agent (``examples/agent``) is a program of its own that knows
nothing of the recording. The tables at the end are read from the journal; the server's own bill stands below
them, to compare. FOLDER, a new one by default, gets everything, and must not be inside a git repository.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from story import STORY, Chapter

from telemetry.testing import ScriptedServer

EXAMPLES = Path(__file__).resolve().parent
TASK = "Make the function in {module} faster without changing what it returns. check.py must pass."
REMOTE = "https://git.example.org/wordtools.git"
INSTALLED = Path(sys.executable).with_name("agent-telemetry")
COMMAND = [str(INSTALLED)] if INSTALLED.exists() else [sys.executable, "-m", "telemetry.cli"]


def main() -> None:
    given = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="agent-telemetry-demo-")
    folder = Path(given).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    repository = folder / "wordtools"
    if repository.exists():
        sys.exit(f"{folder} holds a demo already: name another folder, or none")
    commits = make_repository(repository)
    with ScriptedServer() as server:
        environment = environment_for(folder, server)
        for chapter, commit in zip(STORY, commits, strict=True):
            for number, answers in enumerate(chapter.attempts, 1):
                say(f"{commit[:8]} {chapter.subject}, {chapter.model}, attempt {number}")
                server.script(*answers)
                worktree = check_out(repository, commit, folder / f"{commit[:8]}-{number}")
                record(chapter, commit, worktree, environment)
    for question in (["judge", "--all"], ["runs"], ["cost", "--by", "commit"]):
        say(f"agent-telemetry {' '.join(question)}")
        subprocess.run([*COMMAND, *question], env=environment, check=True)
    say_what_was_billed(server)
    say_what_next(folder)


def make_repository(folder: Path) -> list[str]:
    """A repository with one commit per chapter; their ids."""
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "remote", "add", "origin", REMOTE)
    check = folder / "check.py"
    check.write_text('"""Whether the functions return what they should."""\n')
    commits = []
    for chapter in STORY:
        (folder / chapter.module).write_text(chapter.slow)
        name = chapter.module.removesuffix(".py")
        check.write_text(f"{check.read_text()}\nfrom {name} import {name}\n{chapter.check}\n")
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", chapter.subject)
        commits.append(git(folder, "rev-parse", "HEAD"))
    return commits


def check_out(repository: Path, commit: str, worktree: Path) -> Path:
    """A worktree of its own for one attempt."""
    git(repository, "worktree", "add", "--quiet", "--detach", str(worktree), commit)
    return worktree


def record(chapter: Chapter, commit: str, worktree: Path, environment: dict[str, str]) -> None:
    """One run of the agent, wrapped. Its exit code is the agent's: here the journal is what counts."""
    task = worktree.with_suffix(".txt")
    task.write_text(TASK.format(module=chapter.module))
    agent = [sys.executable, "-m", "agent", str(task), "--model", chapter.model]
    subprocess.run(
        [*COMMAND, "run", "--commit", commit, "--", *agent], cwd=worktree, env=environment, check=False
    )


def environment_for(folder: Path, server: ScriptedServer) -> dict[str, str]:
    """This environment, with the demo's own data folder and journal, and the agent sent to the server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_TELEMETRY_")}
    path = [str(EXAMPLES), *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        **server.environment,
        "AGENT_TELEMETRY_HOME": str(folder / "data"),
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join(path),
    }


def git(folder: Path, *words: str) -> str:
    """The output of a git command, whatever the account's own configuration is."""
    identity = ["-c", "user.name=Demo", "-c", "user.email=demo@example.org", "-c", "commit.gpgSign=false"]
    command = ["git", "-C", str(folder), *identity, *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def say(text: str) -> None:
    """A headline; flushed, so that it stands above what the next process prints."""
    print(f"\n── {text}", flush=True)


def say_what_was_billed(server: ScriptedServer) -> None:
    """The other side of the books, from the server and not from the journal."""
    billed = server.ledger.billed
    total = server.ledger.total()
    lost = [entry.usage for entry in billed if was_lost(server, entry.request)]
    say("for comparison, from the server's own ledger")
    print(f"{len(billed)} responses billed: {total.input:,} input and {total.output:,} output tokens,")
    broken = f"{sum(usage.input for usage in lost):,} and {sum(usage.output for usage in lost):,}"
    print(f"of which {broken} in the stream that broke before its usage came:")
    print("the journal calls those unknown, not zero.")


def was_lost(server: ScriptedServer, number: int) -> bool:
    """Whether a request was cut before the end of its answer."""
    return server.ledger.requests[number - 1].fault is not None


def say_what_next(folder: Path) -> None:
    """The commands to look further."""
    say("look further")
    here = INSTALLED.is_relative_to(Path.cwd()) and INSTALLED.exists()
    tool = str(INSTALLED.relative_to(Path.cwd())) if here else shlex.join(COMMAND)
    print(f"export AGENT_TELEMETRY_HOME={shlex.quote(str(folder / 'data'))}")
    for question in ("show @last", "runs --status failed", "cost --by model", "cost --by run"):
        print(f"{tool} {question}")


if __name__ == "__main__":
    main()
