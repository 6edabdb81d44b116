"""What a run is about: the commit, the repository, the worktree, the agent, the task.

Promises, each a test in ``tests/test_identity.py``:

* The source of a commit and of a repository is said beside it. What cannot be found is ``None``; a
  missing or slow git is never an error.
* Git is asked such that nothing of the worktree runs: no hook, no fsmonitor, no filter, no pager, no
  configuration of the account. The worktree was written by an agent, and git runs what its
  configuration names.
* A repository never carries the credentials of its URL.

The order for the commit: ``--commit``, ``AGENT_TELEMETRY_COMMIT``, ``prompt.json`` beside the value of
``--trajectory-file`` in the command, a branch named ``agent/<task>/<sha>``, HEAD.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

from telemetry.command import agent_name, option_value
from telemetry.declared import declared_model
from telemetry.settings import Settings

GIT_LIMIT_S = 2.0
"""For all questions of one run together; a network file system may hang."""

_SHA = re.compile(r"[0-9a-f]{4,64}")
_AGENT_BRANCH = re.compile(r"agent/.+/([0-9a-f]{7,64})")
_PROMPT_LIMIT_BYTES = 4 * 1024 * 1024
_WORKING_FOLDER_OPTIONS = ("--working-dir", "--cd")
"""Of TRAE and Codex: the folder that the agent works on, where that is not the current one."""


class Identity(NamedTuple):
    """What a run is about, as far as it can be told at its start."""

    agent: str | None = None
    model_declared: str | None = None
    task: str | None = None
    repository: str | None = None
    repository_source: str | None = None
    commit: str | None = None
    commit_source: str | None = None
    worktree: str | None = None
    branch: str | None = None
    base_commit: str | None = None


def identify(
    settings: Settings, command: Sequence[str], cwd: str, environ: Mapping[str, str], *, way: str = "run"
) -> Identity:
    """The identity of a run of `command` in folder `cwd`. `environ` gives the PATH on which git is found."""
    trajectory = option_value(command, "--trajectory-file")
    beside = Path(cwd, trajectory).parent if trajectory else None
    git = Git(working_folder(command, cwd), environ)
    worktree, base, branch = git.worktree(), git.head(), git.branch()
    commit, commit_source = _commit(settings, beside, branch, base, git)
    repository, repository_source = _repository(settings, git, worktree)
    agent = agent_name(command)
    return Identity(
        agent=agent,
        model_declared=declared_model(agent, command, cwd, environ),
        task=settings.task or (beside.name if beside and way == "stand-in" else None) or None,
        repository=repository,
        repository_source=repository_source,
        commit=commit,
        commit_source=commit_source,
        worktree=worktree,
        branch=branch,
        base_commit=base,
    )


def working_folder(command: Sequence[str], cwd: str) -> str:
    """The folder that the agent works on."""
    for option in _WORKING_FOLDER_OPTIONS:
        value = option_value(command, option)
        if value and Path(cwd, value).is_dir():
            return str(Path(cwd, value))
    return cwd


def _commit(
    settings: Settings, beside: Path | None, branch: str | None, base: str | None, git: Git
) -> tuple[str | None, str | None]:
    if settings.commit:
        return _plain_commit(settings.commit, git), settings.sources["commit"]
    human = _human_commit(beside / "prompt.json") if beside else None
    if human:
        return human, "prompt.json"
    of_branch = _AGENT_BRANCH.fullmatch(branch or "")
    if of_branch:
        return of_branch[1], "branch"
    return (base, "head") if base else (None, None)


def _plain_commit(given: str, git: Git) -> str:
    """A name such as ``HEAD~1`` is resolved; what git does not know is kept as it was given."""
    lower = given.strip().lower()
    if _SHA.fullmatch(lower):
        return lower
    return git.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{given}^{{commit}}") or given


def _human_commit(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            prompt = json.loads(file.read(_PROMPT_LIMIT_BYTES))
        human = prompt["commits"]["human"].strip().lower()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # the pipeline's own file, written by others: not there, cut off or another form
    return human if _SHA.fullmatch(human) else None


def _repository(settings: Settings, git: Git, worktree: str | None) -> tuple[str | None, str | None]:
    if settings.repo:
        return without_credentials(settings.repo), settings.sources["repo"]
    remote = git.remote()
    if remote:
        return without_credentials(remote), "remote"
    return (git.main_worktree() or worktree, "path") if worktree else (None, None)


def without_credentials(url: str) -> str:
    """A repository URL without user, password or query; a path or ``git@host:path`` as it is."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


class Git:
    """Questions to git about one folder; every answer is one line, or ``None`` when git has none."""

    def __init__(
        self, folder: str, environ: Mapping[str, str], *, program: str = "git", limit_s: float = GIT_LIMIT_S
    ) -> None:
        self._folder = folder
        self._program = program
        self._until = time.monotonic() + limit_s
        self._environ = {
            "PATH": environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",
        }

    def worktree(self) -> str | None:
        """The top folder of the worktree."""
        return self.ask("rev-parse", "--show-toplevel")

    def main_worktree(self) -> str | None:
        """The folder of the repository that this worktree is linked to, so that all of them are one place."""
        common = self.ask("rev-parse", "--path-format=absolute", "--git-common-dir")
        return common.removesuffix("/.git") if common else None

    def head(self) -> str | None:
        """The commit that is checked out."""
        return self.ask("rev-parse", "--verify", "--quiet", "HEAD")

    def branch(self) -> str | None:
        """The branch that is checked out; ``None`` also when HEAD is detached."""
        return self.ask("symbolic-ref", "--quiet", "--short", "HEAD")

    def remote(self) -> str | None:
        """The URL of ``origin``, else of the first remote."""
        origin = self.ask("config", "--get", "remote.origin.url")
        if origin:
            return origin
        first = self.ask("config", "--get-regexp", r"^remote\..*\.url$")
        return first.partition(" ")[2] or None if first else None

    def ask(self, *question: str) -> str | None:
        """The first line of git's answer; ``None`` when git is missing, refuses or takes too long."""
        import subprocess  # only when asked: a plain exec needs none of it

        left = self._until - time.monotonic()
        if left <= 0:
            return None
        command = [self._program, "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
        # The worktree may belong to another account. Nothing of it is run, so it may be read.
        command += ["-c", "safe.directory=*", "-C", self._folder, "--no-pager", *question]
        try:
            answer = subprocess.run(
                command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=left,
                check=True,
            )
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
        lines = os.fsdecode(answer.stdout).splitlines()
        return lines[0] if lines and lines[0] else None
