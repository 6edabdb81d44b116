"""What a run is about is found where pipelines leave it, and nothing of a worktree is run for it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from telemetry.command import agent_name, option_value
from telemetry.identity import Git, Identity, identify, without_credentials
from telemetry.settings import Settings

HUMAN = "8a3f2c91" * 5


class Worktree:
    """A repository with one commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        self.git("commit", "-q", "--allow-empty", "-m", "first")
        self.head = self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        command = ["git", "-C", str(self.folder), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def worktree(tmp_path: Path) -> Worktree:
    return Worktree(tmp_path / "worktree")


@pytest.fixture
def identity(worktree: Worktree, tmp_path: Path) -> Callable[..., Identity]:
    """The identity of a command in the worktree, with variables and flags."""

    def ask(*command: str, environ: dict[str, str] | None = None, way: str = "run", **flags: Any) -> Identity:
        variables = {**os.environ, "AGENT_TELEMETRY_HOME": str(tmp_path / "home"), **(environ or {})}
        settings = Settings.load(variables, flags)
        return identify(settings, command or ("trae-cli",), str(worktree.folder), variables, way=way)

    return ask


def item(folder: Path, prompt: object) -> str:
    """A pipeline's item folder; the path of its trajectory file."""
    folder.mkdir(parents=True)
    (folder / "prompt.json").write_text(prompt if isinstance(prompt, str) else json.dumps(prompt))
    return str(folder / "trajectory.json")


# --- commit ----------------------------------------------------------------------------------------


def test_the_commit_is_taken_in_the_documented_order(
    identity: Callable[..., Identity], worktree: Worktree, tmp_path: Path
) -> None:
    """Each source is asked only when none before it knows."""

    def commit(*command: str, **options: Any) -> tuple[str | None, str | None]:
        found = identity(*command, **options)
        return found.commit, found.commit_source

    trajectory = item(tmp_path / "runs" / "vllm_core-0001", {"commits": {"pre": "0" * 40, "human": HUMAN}})
    recorded = ("python", "-m", "trae_agent.cli", "run", "--trajectory-file", trajectory)
    assert commit() == (worktree.head, "head")
    worktree.git("checkout", "-q", "-b", "agent/vllm_core/1234abcd")
    assert commit() == ("1234abcd", "branch")
    assert commit(*recorded) == (HUMAN, "prompt.json")
    variable = {"AGENT_TELEMETRY_COMMIT": "aaaa1111"}
    assert commit(*recorded, environ=variable) == ("aaaa1111", "environment")
    assert commit(*recorded, environ=variable, commit="BBBB2222") == ("bbbb2222", "option")


def test_a_commit_may_be_named_as_git_names_it(identity: Callable[..., Identity], worktree: Worktree) -> None:
    assert identity(commit="HEAD").commit == worktree.head
    assert identity(commit="no such name").commit == "no such name"


def test_the_trajectory_option_has_two_forms_and_may_be_relative(
    identity: Callable[..., Identity], worktree: Worktree
) -> None:
    item(worktree.folder / "item", {"commits": {"human": HUMAN}})
    assert identity("trae-cli", "--trajectory-file=item/trajectory.json").commit == HUMAN


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"commits": []}',
        '{"commits": {"human": null}}',
        '{"commits": {"human": "not a sha"}}',
        "[" * 100_000,
    ],
    ids=range(8),
)
def test_a_prompt_file_of_another_form_is_passed_over(
    identity: Callable[..., Identity], worktree: Worktree, tmp_path: Path, prompt: str
) -> None:
    trajectory = item(tmp_path / "item", prompt)
    assert identity("trae-cli", "--trajectory-file", trajectory).commit == worktree.head


def test_the_base_commit_is_a_fact_beside_the_commit(
    identity: Callable[..., Identity], worktree: Worktree
) -> None:
    found = identity(commit="1234abcd")
    assert (found.base_commit, found.branch, found.worktree) == (worktree.head, "main", str(worktree.folder))


def test_a_detached_head_has_no_branch(identity: Callable[..., Identity], worktree: Worktree) -> None:
    worktree.git("checkout", "-q", "--detach")
    found = identity()
    assert (found.branch, found.commit) == (None, worktree.head)


def test_the_folder_that_an_agent_is_sent_to_is_its_worktree(
    identity: Callable[..., Identity], tmp_path: Path
) -> None:
    other = Worktree(tmp_path / "other")
    assert identity("trae-cli", "run", "--working-dir", str(other.folder)).base_commit == other.head
    assert identity("codex", "exec", "--cd", str(other.folder)).base_commit == other.head


# --- repository ------------------------------------------------------------------------------------


def test_the_repository_is_given_or_the_remote_or_the_path(
    identity: Callable[..., Identity], worktree: Worktree
) -> None:
    def repository(**options: Any) -> tuple[str | None, str | None]:
        found = identity(**options)
        return found.repository, found.repository_source

    assert repository() == (str(worktree.folder), "path")
    worktree.git("remote", "add", "fork", "https://me:token@github.com/me/vllm.git")
    assert repository() == ("https://github.com/me/vllm.git", "remote")
    worktree.git("remote", "add", "origin", "git@github.com:vllm-project/vllm.git")
    assert repository() == ("git@github.com:vllm-project/vllm.git", "remote")
    assert repository(environ={"AGENT_TELEMETRY_REPO": "vllm"}) == ("vllm", "environment")
    assert repository(repo="https://a:b@host/x?token=c") == ("https://host/x", "option")


def test_a_linked_worktree_is_of_the_same_repository(
    identity: Callable[..., Identity], worktree: Worktree, tmp_path: Path
) -> None:
    worktree.git("worktree", "add", "-q", "--detach", str(tmp_path / "linked"))
    environ = {**os.environ, "AGENT_TELEMETRY_HOME": str(tmp_path / "home")}
    linked = identify(Settings.load(environ), ("trae-cli",), str(tmp_path / "linked"), environ, way="run")
    assert linked.worktree == str(tmp_path / "linked")
    assert linked.repository == identity().repository == str(worktree.folder)


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://user:password@host/a/b.git", "https://host/a/b.git"),
        ("https://ghp_token@host/a", "https://host/a"),
        ("ssh://git@host:22/a", "ssh://host:22/a"),
        ("/srv/repository", "/srv/repository"),
    ],
)
def test_a_repository_carries_no_credentials(url: str, clean: str) -> None:
    assert without_credentials(url) == clean


# --- git is asked safely ---------------------------------------------------------------------------


def test_nothing_of_the_worktree_is_run(
    identity: Callable[..., Identity], worktree: Worktree, tmp_path: Path
) -> None:
    """Its configuration names programs for everything that git might call."""
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    trap.chmod(0o755)
    for key in (
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "filter.x.clean",
        "diff.external",
        "alias.rev-parse",
    ):
        worktree.git("config", key, str(trap))
    hooks = worktree.folder / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-index-change", "reference-transaction", "post-checkout"):
        (hooks / hook).symlink_to(trap)
    (worktree.folder / ".gitattributes").write_text("* filter=x\n")
    found = identity(commit="HEAD")
    assert found.commit == found.base_commit == worktree.head
    assert Git(str(worktree.folder), os.environ).ask("status", "--short") == "?? .gitattributes"
    assert not (tmp_path / "sprung").exists()


def test_variables_that_point_git_elsewhere_are_not_passed_on(
    identity: Callable[..., Identity], worktree: Worktree
) -> None:
    """As inside a hook of another repository."""
    found = identity(environ={"GIT_DIR": "/nowhere", "GIT_WORK_TREE": "/nowhere", "GIT_CONFIG_COUNT": "x"})
    assert found.base_commit == worktree.head


def test_the_worktree_of_another_account_is_read(worktree: Worktree) -> None:
    """Git refuses it by default, for fear of the programs that its configuration names."""
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    for path in (worktree.folder, *worktree.folder.rglob("*")):
        os.chown(path, 65534, 65534)
    assert Git(str(worktree.folder), os.environ).head() == worktree.head


def test_no_git_no_repository_no_answer(worktree: Worktree, tmp_path: Path) -> None:
    assert Git(str(worktree.folder), {"PATH": str(tmp_path)}).head() is None
    assert Git(str(tmp_path), os.environ).head() is None
    assert Git("/no/such/folder", os.environ).worktree() is None


def test_a_git_that_hangs_is_given_up(worktree: Worktree, tmp_path: Path) -> None:
    hanging = tmp_path / "git"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)
    git = Git(str(worktree.folder), os.environ, program=str(hanging), limit_s=0.2)
    assert [git.head(), git.branch(), git.remote()] == [None, None, None]


# --- agent, task, model ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "agent"),
    [
        ("trae-cli run x", "trae"),
        ("/opt/venv/bin/trae-cli run", "trae"),
        ("python -u -m trae_agent.cli run", "trae"),
        ("/venv/bin/python3.12 -m codex_agent.cli", "codex"),
        ("agent-telemetry-python -m trae_agent.cli run", "trae"),
        ("codex exec --cd x", "codex"),
        ("claude -p", "claude"),
        ("python -m openhands.core.main", "openhands"),
        ("uv run --with x trae-cli run", "trae"),
        ("env A=1 claude", "claude"),
        ("python -m my_agent.main", "my_agent"),
        ("python -W ignore agents/solver.py codex", "solver"),
        ("./solver.py trae", "solver"),
        ("my-agent trae", "my-agent"),
        ("python -c pass", "python"),
    ],
)
def test_the_agent_is_named_by_its_command(command: str, agent: str) -> None:
    assert agent_name(command.split()) == agent


def test_the_task_of_a_stand_in_is_the_folder_beside_the_trajectory(
    identity: Callable[..., Identity], tmp_path: Path
) -> None:
    trajectory = item(tmp_path / "vllm_core-0007", {})
    command = ("python", "-m", "trae_agent.cli", "--trajectory-file", trajectory)
    assert identity(*command, way="stand-in").task == "vllm_core-0007"
    assert identity(*command).task is None
    assert identity(*command, way="stand-in", environ={"AGENT_TELEMETRY_TASK": "mine"}).task == "mine"


def test_the_declared_model_is_the_option(identity: Callable[..., Identity]) -> None:
    assert identity("trae-cli", "--model", "gpt-5").model_declared == "gpt-5"
    assert identity("trae-cli", "--model=gpt-5").model_declared == "gpt-5"
    assert identity("trae-cli", "--model").model_declared is None
    assert option_value(["a", "--models", "x"], "--model") is None
