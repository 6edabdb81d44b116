"""The cause of an empty patch, and of one that was handed in wrong, is told where the record shows it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from telemetry import rows
from telemetry.causes import of_empty, of_hand_over

RUN = {**rows.RUN, "state": "finished", "outcome": "exited", "exit_code": 0, "capture": "captured"}
EMPTY = {**rows.PATCH, "bytes": 0, "commit_count": 0}
EDIT = {"command": "str_replace", "path": "/w/a.py"}


def tool(ended: str, name: str = "str_replace_based_edit_tool", arguments: Any = EDIT) -> dict[str, Any]:
    text = json.dumps(arguments) if arguments is not None else None
    return {
        **rows.TOOL_CALL,
        "tool_call_id": f"{name} {ended}",
        "tool": name,
        "ended": ended,
        "arguments": text,
    }


def call(ended: str, at: str, **more: Any) -> dict[str, Any]:
    return {**rows.CALL, "call_id": at, "started_at": at, "ended": ended, **more}


FAILED = call("failed", "2", error_type="invalid_request_error", error_message="No tool output found")
CASES: list[tuple[str | None, dict[str, Any], dict[str, Any], list[Any], list[Any]]] = [
    ("never ran", {"outcome": "spawn_failed", "error_message": "no such file"}, {}, [], []),
    (
        "left out",
        {},
        {"left_out": '[{"path": ".bench_scratch/x", "why": "scratch"}]'},
        [tool("completed")],
        [],
    ),
    ("reverted", {}, {"commit_count": 2}, [], []),
    ("reverted", {}, {}, [tool("completed")], []),
    (
        "never executed",
        {},
        {},
        [tool("never executed"), tool("completed", arguments={"command": "view"})],
        [],
    ),
    ("died", {}, {}, [tool("completed", "bash", {"command": "ls"})], [call("completed", "1"), FAILED]),
    ("died", {"outcome": "timeout", "exit_code": None}, {}, [], []),
    ("died", {"state": "interrupted", "outcome": None, "exit_code": None}, {}, [], []),
    ("died", {"exit_code": 1}, {}, [], []),
    ("reverted", {}, {"rewritten": '["a.py"]'}, [tool("completed", "bash", {"command": "ls"})], []),
    ("died", {}, {"rewritten": '["a.py"]'}, [], [FAILED]),
    ("never executed", {}, {}, [tool("never executed", "bash", {"command": "make"})], []),
    ("never edited", {}, {}, [tool("never executed", "task_done", {})], []),
    ("failed edits", {}, {}, [tool("failed")], []),
    (
        "never edited",
        {},
        {},
        [tool("completed", "bash", {"command": "ls"})],
        [FAILED | {"started_at": "0"}, call("completed", "1")],
    ),
    (None, {"capture": "not captured"}, {}, [], []),
    (None, {}, {"bytes": 7}, [], []),
    (None, {}, {"bytes": None, "reason": "no git"}, [], []),
]


@pytest.mark.parametrize(("name", "run", "patch", "tools", "calls"), CASES)
def test_an_empty_patch_has_its_cause(
    name: str | None, run: dict[str, Any], patch: dict[str, Any], tools: list[Any], calls: list[Any]
) -> None:
    found = of_empty(RUN | run, EMPTY | patch, tools, calls)
    assert (found.name if found else None) == name
    assert found is None or found.message


def test_a_cause_names_what_shows_it() -> None:
    found = of_empty(RUN, EMPTY, [tool("never executed"), tool("completed", "bash", {"command": "ls"})])
    assert found
    assert found.evidence == ("str_replace_based_edit_tool never executed",)


def test_an_edit_whose_arguments_were_not_kept_counts_as_one() -> None:
    found = of_empty(RUN, EMPTY, [tool("never executed", arguments=None)])
    assert found
    assert found.name == "never executed"


def own(**about: Any) -> str:
    return json.dumps([{"path": "p", "source": "option", **about}])


HAND_OVERS = [
    ("diffed wrong", {"agent_patches": own(bytes=0, same=False), "commit_count": 1, "plain_diff_bytes": 0}),
    (
        "handed in empty",
        {"agent_patches": own(bytes=0, same=False), "commit_count": 0, "plain_diff_bytes": 0},
    ),
    ("handed in other", {"agent_patches": own(bytes=9, same=False)}),
    ("not handed in", {"agent_patches": own(reason="No such file or directory")}),
    (None, {"agent_patches": own(bytes=9, same=True)}),
    (None, {"agent_patches": None}),
    (None, {"bytes": 0, "agent_patches": own(bytes=0, same=True)}),
]


@pytest.mark.parametrize(("name", "patch"), HAND_OVERS)
def test_a_patch_that_was_handed_in_wrong_has_its_cause(name: str | None, patch: dict[str, Any]) -> None:
    found = of_hand_over({**rows.PATCH, "bytes": 245} | patch)
    assert (found.name if found else None) == name


def test_a_run_without_a_patch_row_has_no_cause() -> None:
    assert (of_empty(RUN, None, []), of_hand_over(None)) == (None, None)
