"""Why a patch is empty, or is not what the agent handed in. Pure: from rows of the journal to a sentence.

Each cause is told only where the record shows it; the rows that it rests on are named. Rows are mappings
of column to value, with the columns of `telemetry.tables`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]

EDITORS = ("str_replace_based_edit_tool", "json_edit_tool", "edit", "write", "apply_patch", "create_file")
"""Tools that change files and do nothing else. (The first two are TRAE's.)"""
_READING = frozenset(("view", "read"))
"""Commands of such a tool that change nothing."""


class Cause(NamedTuple):
    """What became of the agent's work."""

    name: str
    message: str
    evidence: tuple[str, ...] = ()
    """Ids of the tool calls and calls that show it."""


def of_empty(run: Row, patch: Row | None, tools: Sequence[Row], calls: Sequence[Row] = ()) -> Cause | None:
    """Why the patch of a run is empty; ``None`` when it is not, or is not known."""
    if patch is None or patch["reason"] or patch["bytes"] != 0:
        return None
    requested = [tool for tool in tools if _edits(tool)]
    dropped = [tool for tool in requested if tool["ended"] == "never executed"]
    done = [tool for tool in requested if tool["ended"] == "completed"]
    left_out = _objects(patch["left_out"])
    if run["outcome"] in ("spawn_failed", "refused"):
        return Cause("never ran", f"the agent never ran: {run['error_message']}")
    if left_out:
        return Cause("left out", _left_out(left_out, patch["left_out_count"]))
    if patch["commit_count"] or done:
        what = f"{_count(patch['commit_count'] or 0, 'commit')} and {_count(len(done), 'edit')}"
        return Cause("reverted", f"{what} were made, and at the end everything is as before", _ids(done))
    if dropped:
        message = f"{_count(len(dropped), 'edit')} requested and never executed: {dropped[-1]['tool']}"
        return Cause("never executed", message, _ids(dropped))
    return _died(run, requested, calls) or _never_edited(run, tools, requested)


def of_hand_over(patch: Row | None) -> Cause | None:
    """Why the agent's own patch file is not the patch; ``None`` when it is, or nothing is known of it."""
    if patch is None or patch["reason"] or not patch["bytes"]:
        return None
    own = [file for file in _objects(patch["agent_patches"]) if not file.get("same")]
    if not own:
        return None
    size = own[0].get("bytes")
    if size is None:
        return Cause("not handed in", f"the agent wrote no patch file: {own[0].get('reason')}")
    if size == 0 and patch["commit_count"] and patch["plain_diff_bytes"] == 0:
        commits = _count(patch["commit_count"], "commit")
        return Cause(
            "diffed wrong", f"the agent made {commits}, then handed in what is not committed: nothing"
        )
    if size == 0:
        return Cause(
            "handed in empty", f"the agent changed {patch['bytes']} bytes and handed in an empty patch"
        )
    return Cause("handed in other", f"the agent handed in {size} bytes that do not make the files of the end")


def _died(run: Row, requested: Sequence[Row], calls: Sequence[Row]) -> Cause | None:
    failed = [call for call in calls if call["ended"] == "failed"]
    last = max(calls, key=lambda call: call["started_at"] or "", default=None)
    if last is not None and last["ended"] == "failed":
        message = f"the last call of the model failed: {last['error_type']}: {last['error_message']}"
        return Cause("died", message, tuple(call["call_id"] for call in failed))
    if run["outcome"] in ("signaled", "timeout", "cancelled", "oom_killed"):
        return Cause(
            "died", f"the agent was ended before it had edited: {run['error_message']}", _ids(requested)
        )
    if run["state"] == "interrupted" or (run["exit_code"] and not requested):
        return Cause("died", f"the agent died before it had edited: {run['error_message']}")
    return None


def _never_edited(run: Row, tools: Sequence[Row], requested: Sequence[Row]) -> Cause | None:
    if requested:
        return Cause("failed edits", f"{_count(len(requested), 'edit')} failed", _ids(requested))
    if run["capture"] != "captured":
        return None
    return Cause("never edited", f"no edit among {_count(len(tools), 'tool call')}", _ids(tools))


def _edits(tool: Row) -> bool:
    """Whether it is a call that changes files."""
    if tool["tool"] not in EDITORS:
        return False
    try:
        arguments = json.loads(tool["arguments"] or "{}")
    except ValueError:
        return True
    return not (isinstance(arguments, dict) and arguments.get("command") in _READING)


def _left_out(files: Sequence[Mapping[str, Any]], total: int | None) -> str:
    names = ", ".join(f"{file.get('path')} ({file.get('why')})" for file in files[:3])
    more = f" and {total - 3} more" if total and total > 3 else ""
    return f"only files that are no part of a patch changed: {names}{more}"


def _objects(text: str | None) -> list[dict[str, Any]]:
    found = json.loads(text) if text else []
    return [item for item in found if isinstance(item, dict)]


def _ids(tools: Sequence[Row]) -> tuple[str, ...]:
    return tuple(tool["tool_call_id"] for tool in tools)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
