"""A wrapped run tells the trees of its start and its end and the patch between them, whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent_shim.redaction import Redactor
from telemetry import captures, own_files, scan
from telemetry.captures import Capture
from telemetry.settings import Settings
from telemetry.testing import ScriptedServer, ToolCall, calls
from tests.test_trae_like import HERE
from tests.worktrees import commit, git, put, repository
from tests.wrapped import Wrap, wrap

__all__ = ["wrap"]

COMMITS = "git -c user.name=T -c user.email=t@e commit -qm 'Make it fast'"
COMMIT = f"git add -A && {COMMITS}"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return repository(tmp_path / "work")


def capture(top: Path, tmp_path: Path, *command: str, secret: str = "", **flags: Any) -> Capture:
    settings = Settings.load({"AGENT_TELEMETRY_HOME": str(tmp_path / "home")}, flags)
    environ = {"PATH": os.environ["PATH"]}
    return Capture(
        settings, command or ("agent",), str(top), environ, "1" * 32, Redactor([secret] if secret else [])
    )


def forever() -> float:
    return time.monotonic() + 60


def data(event: Any) -> dict[str, Any]:
    return {name: value for name, value in event._asdict().items() if value is not None}


# --- a wrapped run --------------------------------------------------------------------------------


def test_a_run_tells_its_start_its_end_and_its_patch(wrap: Wrap, top: Path) -> None:
    put(top, "dirty", b"x")
    start = git(top, "rev-parse", "HEAD").decode().strip()
    script = f"echo 'one = 2' > a.py && git add a.py && {COMMITS} && rm dirty"
    done = wrap("/bin/sh", "-c", script, asked={"cwd": str(top)})
    names = [event["name"] for event in done.events]
    assert names[1:] == [
        "run.started",
        "attempt.reserved",
        "tree.captured",
        "process.started",
        "process.finished",
        "tree.captured",
        "patch.captured",
        "run.finished",
        "producer.sealed",
    ]
    begin, end = (event["data"] for event in done.events if event["name"] == "tree.captured")
    told = {
        name: begin[name]
        for name in ("moment", "worktree", "commit", "branch", "files", "untracked", "modified")
    }
    assert told == {
        "moment": "start",
        "worktree": str(top),
        "commit": start,
        "branch": "main",
        "files": 5,
        "untracked": 1,
        "modified": 0,
    }
    assert (end["moment"], end["tree"]) == ("end", git(top, "rev-parse", "HEAD^{tree}").decode().strip())
    patch = done.data("patch.captured")
    assert [(file["path"], file["status"]) for file in patch["files"]] == [("a.py", "M"), ("dirty", "D")]
    assert (patch["base_tree"], patch["end_tree"]) == (begin["tree"], end["tree"])
    assert (patch["commit_count"], patch["commits"][0]["subject"]) == (1, "Make it fast")
    assert (patch["plain_diff_bytes"], patch["applies"], patch["applies_to_commit"]) == (0, True, False)
    assert len("".join(patch["text"]).encode()) == patch["bytes"]
    assert patch["text_exact"]
    assert not list((wrap.home / "trees").iterdir())


def test_an_agent_that_never_started_changed_nothing(wrap: Wrap, top: Path) -> None:
    done = wrap("./no-such-agent", asked={"cwd": str(top)})
    assert done.data("patch.captured")["bytes"] == 0


def test_a_run_outside_of_a_worktree_has_an_unknown_patch_and_its_own_exit_code(
    wrap: Wrap, tmp_path: Path
) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    done = wrap("/bin/sh", "-c", "exit 3", asked={"cwd": str(folder)})
    assert done.returncode == 3
    assert done.data("patch.captured")["reason"] == f"{folder} is in no git worktree"


def test_without_git_the_agent_runs_and_the_patch_is_unknown(wrap: Wrap, top: Path, tmp_path: Path) -> None:
    done = wrap("/bin/sh", "-c", "exit 0", asked={"cwd": str(top)}, environ={"PATH": str(tmp_path)})
    assert done.returncode == 0
    assert done.data("patch.captured")["reason"] == "git is not installed"


def test_after_a_signal_from_outside_the_patch_is_there_within_five_seconds(wrap: Wrap, top: Path) -> None:
    script = "trap '' TERM; echo 'one = 2' > a.py; touch ready; while :; do sleep 0.1; done"
    with wrap.start(["/bin/sh", "-c", script], task="ended", asked={"cwd": str(top)}) as process:
        while not (top / "ready").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        process.communicate(timeout=30)
        assert time.monotonic() - begin < 5
    found = [event["data"] for event in wrap.recorded("ended") if event["name"] == "patch.captured"]
    assert [file["path"] for file in found[0]["files"]] == ["a.py", "ready"]


def test_a_secret_that_the_agent_wrote_is_not_in_the_record(wrap: Wrap, top: Path) -> None:
    secret = "canary-4242-secret-value"
    done = wrap(
        "/bin/sh",
        "-c",
        f"printf '%s' {secret[:10]} > k; printf '%s\\n' {secret[10:]} >> k",
        asked={"cwd": str(top)},
        environ={"MY_API_KEY": secret},
    )
    patch = done.data("patch.captured")
    assert (patch["text_exact"], "[redacted:live]" in "".join(patch["text"])) == (False, True)
    for file in wrap.home.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes()


# --- alone ----------------------------------------------------------------------------------------


def test_the_text_of_the_patch_comes_in_pieces_and_can_be_switched_off(top: Path, tmp_path: Path) -> None:
    looking = capture(top, tmp_path)
    looking.before(forever)
    put(top, "long", b"line\n" * 20_000)
    patch = data(looking.after(forever)[1])
    assert (len(patch["text"]), patch["text_exact"]) == (3, True)
    off = capture(top, tmp_path / "off", patch_text=False)
    off.before(forever)
    put(top, "a.py", b"x = 1\n")
    patch = data(off.after(forever)[1])
    assert (patch["text_reason"], "text" in patch, patch["bytes"] > 0) == ("off", False, True)


def test_a_long_patch_has_facts_and_no_text(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, "TEXT_BYTES", 100)
    looking = capture(top, tmp_path)
    looking.before(forever)
    put(top, "long", b"line\n" * 100)
    patch = data(looking.after(forever)[1])
    assert patch["text_reason"] == f"{patch['bytes']} bytes are more than 100"


def test_changes_beyond_the_limits_leave_the_patch_unknown(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captures, "LIMITS", scan.Limits(1000, 5000))
    looking = capture(top, tmp_path)
    looking.before(forever)
    put(top, "big", b"x" * 2000)
    put(top, "a.py", b"x = 1\n")
    patch = data(looking.after(forever)[1])
    assert patch["reason"] == "1 changed files are beyond the size limits"
    assert patch["excess"] == [{"path": "big", "bytes": 2000}]
    assert [file["path"] for file in patch["files"]] == ["a.py"]
    assert not patch.keys() & {"bytes", "sha256", "text", "applies"}
    assert looking.patch is None


def test_a_start_that_takes_too_long_is_unknown_and_so_is_the_patch(top: Path, tmp_path: Path) -> None:
    looking = capture(top, tmp_path)
    assert looking.before(time.monotonic).reason in (
        "git ls-files took too long",
        "reading the files took too long",
    )
    end, patch = looking.after(forever)
    assert data(patch)["reason"] == data(end)["reason"] != ""


@pytest.mark.parametrize("form", ["file", "empty", "broken"])
def test_a_worktree_that_is_broken_at_the_end_has_a_reason(top: Path, tmp_path: Path, form: str) -> None:
    looking = capture(top, tmp_path)
    looking.before(forever)
    shutil.rmtree(top / ".git")
    if form == "file":
        (top / ".git").write_bytes(b"\0\xff")
    elif form == "empty":
        (top / ".git").mkdir()
    else:
        shutil.rmtree(top)
    end, patch, *_ = looking.after(forever)
    assert (data(end)["moment"], "elapsed_ns" in data(patch)) == ("end", True)
    looking.close()


def test_what_a_killed_run_left_is_removed_by_the_next(top: Path, tmp_path: Path) -> None:
    living, left = tmp_path / "home" / "trees" / ("2" * 32), tmp_path / "home" / "trees" / ("3" * 32)
    other = Capture(
        Settings.load({"AGENT_TELEMETRY_HOME": str(tmp_path / "home")}),
        ("agent",),
        str(top),
        {"PATH": os.environ["PATH"]},
        "2" * 32,
        str,
    )
    other.before(forever)
    put(left, "repository/x", b"x")
    looking = capture(top, tmp_path)
    looking.before(forever)
    assert (living.exists(), left.exists()) == (True, False)
    looking.close()
    other.close()
    assert not list((tmp_path / "home" / "trees").iterdir())


# --- files of the agent's own ---------------------------------------------------------------------


def test_the_agents_own_patch_is_compared_by_its_effect(top: Path, tmp_path: Path) -> None:
    looking = capture(top, tmp_path, "trae", "--patch-path", str(tmp_path / "p.diff"))
    put(tmp_path, "p.diff", b"of an earlier run\n")
    looking.before(forever)
    put(top, "a.py", b"one = 1\ntwo = 22\nthree = 3\n")
    put(top, "model_patch.diff", git(top, "diff", "--unified=1"))
    patches = data(looking.after(forever)[1])["agent_patches"]
    assert [(p["source"], p["written"], p["same"]) for p in patches] == [
        ("option", False, False),
        ("worktree", True, True),
    ]


def test_an_empty_patch_of_the_agents_beside_committed_work_is_told(top: Path, tmp_path: Path) -> None:
    looking = capture(top, tmp_path, "trae", "--patch-path", str(tmp_path / "p.diff"))
    looking.before(forever)
    put(top, "a.py", b"one = 1\n")
    commit(top)
    put(tmp_path, "p.diff", git(top, "diff"))
    patch = data(looking.after(forever)[1])
    assert (patch["plain_diff_bytes"], patch["commit_count"], patch["bytes"] > 0) == (0, 1, True)
    (own,) = patch["agent_patches"]
    assert (own["bytes"], own["same"], own["written"]) == (0, False, True)


def test_a_patch_file_that_is_a_link_or_a_pipe_is_not_read(top: Path, tmp_path: Path) -> None:
    looking = capture(top, tmp_path, "trae", "--patch-path", str(tmp_path / "p.diff"))
    looking.before(forever)
    (tmp_path / "p.diff").symlink_to("/etc/passwd")
    os.mkfifo(top / "model_patch.diff")
    link, pipe = data(looking.after(forever)[1])["agent_patches"]
    assert (link["reason"], pipe["reason"]) == ("Too many levels of symbolic links", "not a file")


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = put(tmp_path, "x", b"12345")
    assert own_files.content_of(path, 4) == (None, "5 bytes are more than 4")


# --- the flow of an agent with TRAE's interface ---------------------------------------------------


@pytest.mark.parametrize(
    ("commands", "agents_bytes", "names", "commits"),
    [
        (["printf 'one = 9\\n' > a.py", COMMIT], 0, ["a.py"], 1),
        (["printf 'one = 9\\n' > a.py"], None, ["a.py"], 0),
        (["printf 'one = 9\\n' > new.py"], 0, ["new.py"], 0),
        (["printf 'one = 9\\n' > a.py", "git checkout -q a.py"], 0, [], 0),
        (["mkdir .bench_scratch", "echo x > .bench_scratch/notes"], 0, [], 0),
    ],
    ids=["commit, then diff", "edit", "new file", "reverted", "scratch"],
)
def test_the_patch_is_right_where_the_agents_own_is_wrong(
    wrap: Wrap,
    top: Path,
    tmp_path: Path,
    commands: list[str],
    agents_bytes: int | None,
    names: list[str],
    commits: int,
) -> None:
    item = tmp_path / "vllm_core-0001"
    item.mkdir()
    put(
        item,
        "prompt.json",
        b'{"commits": {"pre": "0000000000", "human": "1234abcd"}, "target_files": ["a.py"]}',
    )
    put(item, "task.txt", b"Make it fast.")
    config = {
        "agents": {"trae_agent": {"model": "main", "enable_lakeview": False}},
        "model_providers": {"p": {"provider": "openai"}},
        "models": {"main": {"model_provider": "p", "model": "gpt-5"}},
    }
    put(item, "config.yaml", json.dumps(config).encode())
    words = [
        *(
            "--file",
            str(item / "task.txt"),
            "--working-dir",
            str(top),
            "--config-file",
            str(item / "config.yaml"),
        ),
        *("--patch-path", str(item / "model_patch.diff"), "--trajectory-file", str(item / "trajectory.json")),
    ]
    with ScriptedServer(
        *(calls(ToolCall("bash", {"command": c})) for c in commands), calls(ToolCall("task_done"))
    ) as server:
        done = wrap(
            sys.executable,
            "-m",
            "trae_agent.cli",
            "run",
            *words,
            asked={"cwd": str(top), "way": "stand-in"},
            environ={"PYTHONPATH": str(HERE), **server.environment},
        )
    patch = done.data("patch.captured")
    assert ([file["path"] for file in patch["files"]], patch["commit_count"]) == (names, commits)
    (own,) = patch["agent_patches"]
    assert own["bytes"] == agents_bytes if agents_bytes is not None else own["same"]
    told = done.data("trajectory.read")
    assert (told["success"], told["valid_json"], told["written"]) == (True, True, True)
    assert (item / "model_patch.diff").read_bytes() == "".join(patch["text"]).encode()
    written = json.loads((item / "journal.json").read_text())
    assert written["status"] == ("success" if names else "error")
    assert written["error_type"] == (None if names else "EmptyPatch")
    assert json.loads((item / "attempt.json").read_text())["patch"]["sha256"] == patch["sha256"]


def test_a_pipeline_that_takes_the_patch_of_the_worktree_gets_ours(
    wrap: Wrap, top: Path, tmp_path: Path
) -> None:
    """As ISO-Bench does: what was redirected into the worktree wins over the file that was asked for."""
    item = tmp_path / "item"
    item.mkdir()
    put(item, "model_patch.diff", b"of an earlier run")
    script = f"printf 'one = 9\\n' > a.py; {COMMIT}; git diff > model_patch.diff"
    options = (
        "--patch-path",
        str(item / "model_patch.diff"),
        "--trajectory-file",
        str(item / "trajectory.json"),
    )
    done = wrap("/bin/sh", "-c", script, "trae", *options, asked={"cwd": str(top), "way": "stand-in"})
    (item / "model_patch.diff").write_bytes((top / "model_patch.diff").read_bytes())
    assert (item / "model_patch.diff").read_bytes() == "".join(done.data("patch.captured")["text"]).encode()
    assert (item / "model_patch.agent.diff").read_bytes() == b"of an earlier run"
    assert [p["bytes"] for p in done.data("patch.captured")["agent_patches"]] == [17, 0]


def test_files_for_a_pipeline_are_written_on_request(wrap: Wrap, top: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    script = "echo 'one = 9' > a.py; exit 3"
    done = wrap("/bin/sh", "-c", script, asked={"cwd": str(top), "pipeline_files": str(folder)})
    assert done.returncode == 3
    assert sorted(path.name for path in folder.iterdir()) == [
        "attempt.json",
        "journal.json",
        "model_patch.diff",
    ]
    written = json.loads((folder / "journal.json").read_text())
    assert (written["status"], written["error_type"], written["sh"]["returncode"]) == (
        "error",
        "NonZeroExit",
        3,
    )
    assert 0 <= written["metrics"]["time_to_first_edit_s"] < 30


def test_files_that_cannot_be_written_cost_one_line_and_nothing_else(wrap: Wrap, top: Path) -> None:
    done = wrap("/bin/sh", "-c", "exit 0", asked={"cwd": str(top), "pipeline_files": "/proc/none"})
    assert done.returncode == 0
    assert b"files for the pipeline not written: " in done.stderr
