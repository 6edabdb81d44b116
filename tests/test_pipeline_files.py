"""The files that a pipeline looks for are whole, hold our patch, and lose nothing that stood there."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from agent_shim.events import PatchCaptured, ProcessFinished, RunStarted, TrajectoryRead, TreeCaptured
from agent_shim.redaction import Redactor
from telemetry import pipeline_files
from telemetry.pipeline_files import Attempt

OURS, THEIRS = b"diff --git ours\n", b"diff --git theirs\n"
PATCH = PatchCaptured(
    bytes=len(OURS),
    added=3,
    removed=1,
    file_count=2,
    commit_count=1,
    text=["secret"],
    files=[{"path": "vllm/core.py"}, {"path": "setup.py"}],
)


STARTED = RunStarted(
    way="stand-in",
    agent="trae",
    command=["/venv/bin/python", "-m", "trae_agent.cli"],
    repository="/repo",
    commit="1234abcd",
    branch="agent/vllm_core/1234abcd",
    base_commit="c0",
    model_declared="gpt-5",
)
ENDED = ProcessFinished(outcome="exited", exit_code=0)
TREES = (TreeCaptured(moment="start", tree="t0"), TreeCaptured(moment="end", tree="t1"))


def attempt(finished: ProcessFinished = ENDED, patch: PatchCaptured | None = PATCH, *more: Any) -> Attempt:
    return Attempt(
        run_id="1" * 32,
        number=2,
        started=STARTED,
        started_at=1000.0,
        finished=finished,
        finished_at=1061.5,
        found=(*TREES, *((patch,) if patch else ()), *more),
        first_edit_ns=1_012_500_000_000,
        timeout_s=3600.0,
        journal="/j.db",
    )


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_old_shape_has_no_gaps(tmp_path: Path) -> None:
    prompt = {"commits": {"pre": "p" * 40, "human": "h" * 40}, "target_files": ["vllm/"]}
    (tmp_path / "prompt.json").write_text(json.dumps(prompt))
    pipeline_files.write(tmp_path, attempt(), OURS, [], str)
    assert read(tmp_path / "journal.json") == {
        "task_id": "vllm_core",
        "commits": {"pre": "p" * 40, "human": "h" * 40},
        "agent_branch": "agent/vllm_core/1234abcd",
        "status": "success",
        "trae": {"cli": "/venv/bin/python", "time_budget_minutes": 60.0, "returncode": 0, "duration_s": 61.5},
        "metrics": {
            "time_to_first_edit_s": 12.5,
            "commit_count": 1,
            "patch_size_loc": 4,
            "changed_files_count": 2,
            "violations_count": 1,
        },
        "run_metadata": {
            "repo": "/repo",
            "agent": "trae",
            "model": "gpt-5",
            "run_timestamp": "1970-01-01T00:16:40.000Z",
            "run_id": "1" * 32,
            "attempt": 2,
        },
        "error": None,
        "error_type": None,
        **dict.fromkeys(pipeline_files.SETTLED),
        "settled_reason": "the run is not judged yet",
        "timestamps": {"started": 1000.0, "written": 1061.5},
    }


ENDINGS = [
    (
        ProcessFinished(outcome="timeout", signal=15, error_type="Timeout", error_message="60 s"),
        PATCH,
        "Timeout",
        -15,
    ),
    (ProcessFinished(outcome="exited", exit_code=0), PatchCaptured(bytes=0), "EmptyPatch", 0),
    (ProcessFinished(outcome="exited", exit_code=0), PatchCaptured(reason="no git"), "PatchUnknown", 0),
    (ProcessFinished(outcome="exited", exit_code=0), None, "PatchUnknown", 0),
]


@pytest.mark.parametrize(("finished", "patch", "kind", "code"), ENDINGS)
def test_what_went_wrong_has_a_type_and_a_message(
    finished: ProcessFinished, patch: PatchCaptured | None, kind: str, code: int
) -> None:
    made = pipeline_files.journal_file(attempt(finished, patch), {})
    assert (made["status"], made["error_type"], made["trae"]["returncode"]) == ("error", kind, code)
    assert made["error"]


def test_too_many_steps_have_the_pipelines_own_word() -> None:
    told = TrajectoryRead(path="t", final_result="Task execution exceeded maximum steps without completion.")
    assert pipeline_files.journal_file(attempt(ENDED, PATCH, told), {})["status"] == "max_steps_exceeded"


@pytest.mark.parametrize(
    "prompt", ["", "[]", "{", '{"commits": 1, "target_files": "x"}', '{"target_files": [1]}']
)
def test_a_prompt_of_any_form_does_no_harm(tmp_path: Path, prompt: str) -> None:
    (tmp_path / "prompt.json").write_text(prompt)
    pipeline_files.write(tmp_path, attempt(), OURS, [], str)
    assert read(tmp_path / "journal.json")["commits"] == {"pre": "c0", "human": "1234abcd"}


@pytest.mark.parametrize("name", ["attempt.json", "journal.json"])
@pytest.mark.parametrize("content", [b"{half", b"\xff", b"[" * 100_000, b"[]"])
def test_a_file_that_others_have_written_since_is_left_as_it_is(
    tmp_path: Path, name: str, content: bytes
) -> None:
    pipeline_files.write(tmp_path, attempt(), OURS, [], str)
    (tmp_path / name).write_bytes(content)
    pipeline_files.fill(tmp_path, "1" * 32, {"verdict": "pass"}, None, str)
    assert (tmp_path / name).read_bytes() == content
    (other,) = {"attempt.json", "journal.json"} - {name}
    assert read(tmp_path / other)["verdict"] == "pass"


def test_our_own_record_has_the_facts_and_not_the_text(tmp_path: Path) -> None:
    pipeline_files.write(tmp_path, attempt(), OURS, [], str)
    made = read(tmp_path / "attempt.json")
    assert (made["run"], made["attempt"], made["outcome"], made["exit_code"]) == ("1" * 32, 2, "exited", 0)
    assert (made["start"]["tree"], made["end"]["tree"], made["patch"]["added"]) == ("t0", "t1", 3)
    assert (made["trajectory"], "text" in made["patch"]) == (None, False)


def test_no_secret_is_in_what_is_told(tmp_path: Path) -> None:
    leaky = PATCH._replace(commits=[{"id": "1", "subject": "use canary-secret-4242"}])
    pipeline_files.write(tmp_path, attempt(ENDED, leaky), OURS, [], Redactor(["canary-secret-4242"]))
    assert read(tmp_path / "attempt.json")["patch"]["commits"][0]["subject"] == "use [redacted:live]"


def test_the_patch_is_put_where_it_is_looked_for(tmp_path: Path) -> None:
    worktree = tmp_path / "work" / "model_patch.diff"
    worktree.parent.mkdir()
    worktree.touch()
    written = pipeline_files.write_patch(tmp_path, OURS, [tmp_path / "model_patch.diff", worktree])
    assert written == [tmp_path / "model_patch.diff", worktree]
    assert (tmp_path / "model_patch.diff").read_bytes() == worktree.read_bytes() == OURS
    assert stat.S_IMODE(worktree.stat().st_mode) == 0o644


def test_a_patch_of_other_content_is_kept_beside_ours(tmp_path: Path) -> None:
    (tmp_path / "model_patch.diff").write_bytes(THEIRS)
    (tmp_path / "other.diff").write_bytes(b"a third one\n")
    pipeline_files.write_patch(tmp_path, OURS, [tmp_path / "model_patch.diff", tmp_path / "other.diff"])
    assert (tmp_path / "model_patch.diff").read_bytes() == OURS
    assert (tmp_path / "model_patch.agent.diff").read_bytes() == THEIRS
    assert (tmp_path / "model_patch.agent-2.diff").read_bytes() == b"a third one\n"


def test_the_same_or_an_empty_patch_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "model_patch.diff").touch()
    (tmp_path / "same.diff").write_bytes(OURS)
    pipeline_files.write_patch(tmp_path, OURS, [tmp_path / "model_patch.diff", tmp_path / "same.diff"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_patch.diff", "same.diff"]


def test_an_unknown_patch_leaves_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "model_patch.diff").write_bytes(THEIRS)
    pipeline_files.write(tmp_path, attempt(ENDED, PatchCaptured(reason="no git")), None, [], str)
    assert (tmp_path / "model_patch.diff").read_bytes() == THEIRS
    assert not (tmp_path / "model_patch.agent.diff").exists()


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "model_patch.diff").symlink_to(victim)
    pipeline_files.write_patch(tmp_path, OURS, [])
    assert (victim.read_bytes(), (tmp_path / "model_patch.diff").read_bytes()) == (b"precious", OURS)


def test_a_folder_that_is_gone_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pipeline_files.write(tmp_path / "gone", attempt(), OURS, [], str)


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "model_patch.diff").mkdir()
    with pytest.raises(OSError, match="directory"):
        pipeline_files.write_patch(tmp_path, OURS, [])
    assert [path.name for path in tmp_path.iterdir()] == ["model_patch.diff"]
