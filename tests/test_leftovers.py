"""The patch and the trajectory of a run are folded into a row each."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from telemetry import rows
from telemetry.projections import RunFold

RUN, PRODUCER = "1" * 32, "2" * 32
START = {"moment": "start", "worktree": "/w", "commit": "c0", "branch": "b", "tree": "t0", "modified": 1}
END = {"moment": "end", "commit": "c1", "tree": "t1"}
PATCH = {
    "bytes": 5,
    "sha256": "ab",
    "files": [{"path": "a.py", "status": "M"}],
    "text": ["dif", "f\n"],
    "applies": True,
    "commit_count": 1,
}


def event(seq: int, name: str, data: dict[str, Any]) -> dict[str, Any]:
    about = {"v": 1, "run": RUN, "producer": PRODUCER, "name": name}
    return about | dict.fromkeys(("seq", "time", "mono"), seq) | {"data": data}


def row(table: str, *events: dict[str, Any]) -> dict[str, Any]:
    fold = RunFold(RUN)
    for given in events:
        fold.add(PRODUCER, given["seq"], given)
    (found,) = fold.changed().upserts[table]
    return dict(zip(rows.COLUMNS[table], found, strict=True))


THREE = (event(1, "tree.captured", START), event(2, "tree.captured", END), event(3, "patch.captured", PATCH))


@pytest.mark.parametrize("order", list(itertools.permutations(THREE)))
def test_a_patch_has_one_row_in_whatever_order_its_events_come(order: tuple[dict[str, Any], ...]) -> None:
    found = row("patch", *order)
    known = {name: value for name, value in found.items() if value is not None and name != "files"}
    assert known == {
        "run_id": RUN,
        "worktree": "/w",
        "base_commit": "c0",
        "base_branch": "b",
        "base_tree": "t0",
        "end_commit": "c1",
        "end_tree": "t1",
        "modified_at_start": 1,
        "bytes": 5,
        "sha256": "ab",
        "text": "diff\n",
        "applies": True,
        "commit_count": 1,
    }
    assert json.loads(found["files"]) == PATCH["files"]


def test_a_run_that_died_before_its_patch_has_the_tree_of_its_start_and_the_reason() -> None:
    found = row("patch", THREE[0])
    assert (found["base_tree"], found["bytes"], found["reason"]) == ("t0", None, "no patch was recorded")


def test_the_reason_of_an_unknown_tree_is_that_of_the_patch() -> None:
    found = row("patch", event(1, "tree.captured", {"moment": "start", "reason": "git is not installed"}))
    assert found["reason"] == "git is not installed"


def test_values_of_a_wrong_type_are_unknown() -> None:
    odd = {"bytes": "5", "applies": "yes", "text": [1, "x"], "files": [1], "sha256": 7, "added": 2**80}
    found = row("patch", event(1, "patch.captured", odd))
    assert [found[name] for name in ("bytes", "applies", "sha256", "added")] == [None] * 4
    assert (found["text"], found["files"]) == ("x", "[1]")


def test_a_trajectory_is_a_row_of_claims() -> None:
    told = {"path": "/t.json", "valid_json": True, "success": True, "input_tokens": 7, "steps": 2}
    found = row("trajectory", event(1, "trajectory.read", told))
    assert found == {**dict.fromkeys(rows.COLUMNS["trajectory"]), "run_id": RUN, **told}
