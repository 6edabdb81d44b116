"""What a run changed, and what its agent says of that, stand beside each other in `show`."""

from __future__ import annotations

import io
import json
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest

from telemetry import queries, timeline
from telemetry.pricing import PriceBook
from telemetry.reports import Form
from tests.journals import Told, filled, usage

EVIL = "\x1b]0;pwned\x07"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def shown(path: Path, told: Told, kind: str = "table") -> str:
    out = io.StringIO()
    with filled(path / "journal.db", told) as journal:
        found = queries.run(journal.engine, "@last")
        timeline.show(queries.timeline(journal.engine, found, PriceBook()), Form(out, kind, UTC))
    return out.getvalue()


def run(patch: dict[str, Any], trajectory: dict[str, Any] | None = None) -> Told:
    told = Told(1).start()
    told.call(usage=usage(100, 20))
    told.call(usage=usage(300, 50))
    told.tell("tree.captured", told.wrapper, moment="start", tree="t0", commit="c0")
    told.tell("patch.captured", told.wrapper, **patch)
    if trajectory:
        told.tell("trajectory.read", told.wrapper, path="/t.json", **trajectory)
    return told.finish()


CHANGED = {
    "bytes": 1245,
    "file_count": 22,
    "added": 7,
    "removed": 3,
    "applies": True,
    "commit_count": 1,
    "plain_diff_bytes": 0,
    "files": [
        {
            "path": "a.py",
            "status": "M",
            "added": 7,
            "removed": 3,
            "parses": False,
            "parse_error": "SyntaxError: x",
        },
        {"path": f"bad{EVIL}.bin", "status": "A", "binary": True},
        *({"path": f"f{n}", "status": "M", "added": 0, "removed": 0, "only": "comments"} for n in range(20)),
    ],
    "commits": [{"id": "0123456789abcdef", "subject": "Make it fast"}],
    "left_out": [{"path": ".bench_scratch/x", "why": "scratch"}],
    "agent_patches": [{"path": "/p.diff", "source": "option", "bytes": 0, "same": False}],
}


def test_a_patch_is_told_file_by_file_with_what_became_of_it(tmp_path: Path) -> None:
    text = shown(tmp_path, run(CHANGED))
    assert "  22 files, +7 -3, 1,245 bytes" in text
    assert "  diffed wrong: the agent made 1 commit, then handed in what is not committed: nothing" in text
    assert "  M a.py +7 -3, does not parse: SyntaxError: x" in text
    assert "  M f0 +0 -0, comments only" in text
    assert "  … and 2 more (--json has them)" in text
    assert "  commit 0123456789ab Make it fast" in text
    assert "  left out (scratch): .bench_scratch/x" in text
    assert "\x1b]" not in text


def test_an_empty_patch_has_its_cause_and_an_unknown_one_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    empty = shown(tmp_path / "a", run({"bytes": 0, "commit_count": 2}))
    assert "  the patch is empty\n" in empty
    assert "  reverted: 2 commits were made, and at the end everything is as before" in empty
    assert "  patch unknown: git is not installed" in shown(tmp_path, run({"reason": "git is not installed"}))


def test_the_agents_own_numbers_stand_beside_ours(tmp_path: Path) -> None:
    claims = {
        "valid_json": True, "success": True, "steps": 2, "max_steps": 200, "interactions": 1,
        "input_tokens": 100, "output_tokens": 70, "error": "Error code: 400", "written": True,
    }  # fmt: skip
    text = shown(tmp_path, run(CHANGED, claims))
    assert "  it succeeded, 2 steps of 200\n" in text
    assert "  error of its last step: Error code: 400" in text
    assert "  interactions: 1 as it counts, 2 seen" in text
    assert "  input tokens: 100 as it counts, 400 seen" in text
    assert "output tokens" not in text.partition("What the agent says of itself")[2]


def test_a_trajectory_that_cannot_be_read_has_its_reason(tmp_path: Path) -> None:
    text = shown(tmp_path, run(CHANGED, {"valid_json": False, "reason": "not JSON: Expecting value"}))
    assert "  /t.json: not JSON: Expecting value" in text


def test_json_has_all_of_it(tmp_path: Path) -> None:
    told = json.loads(
        shown(tmp_path, run(CHANGED, {"valid_json": True, "success": True, "input_tokens": 1}), "json")
    )
    assert (len(told["patch"]["files"]), told["patch"]["bytes"]) == (22, 1245)
    assert (told["patch_empty_cause"], told["patch_handed_in"]["name"]) == (None, "diffed wrong")
    assert told["trajectory"]["success"] is True
    assert told["trajectory_differs"] == [{"name": "input_tokens", "agents": 1, "ours": 400}]


def test_a_run_without_any_of_it_shows_no_section(tmp_path: Path) -> None:
    told = Told(1).start()
    told.call(usage=usage(1, 1))
    text = shown(tmp_path, told.finish())
    assert "Changes" not in text
    assert "What the agent says" not in text
