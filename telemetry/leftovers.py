"""What a run left behind, folded into rows: its patch, and what the agent wrote of itself.

Of two events that say the same thing, the earlier one counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .calls import Event, Key
from .rows import PATCH, TRAJECTORY, Row, as_json, flag, items, number, text

_Read = Callable[[object], Any]


class Leftovers:
    """The trees, the patch and the trajectory of one run."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._seen: dict[str, tuple[Key, dict[str, Any]]] = {}
        self._changed: set[str] = set()

    def tree_captured(self, key: Key, event: Event) -> None:
        """``tree.captured``."""
        self._keep(f"tree {text(event['data'].get('moment'))}", "patch", key, event)

    def patch_captured(self, key: Key, event: Event) -> None:
        """``patch.captured``."""
        self._keep("patch", "patch", key, event)

    def trajectory_read(self, key: Key, event: Event) -> None:
        """``trajectory.read``."""
        self._keep("trajectory", "trajectory", key, event)

    def settle(self) -> dict[str, list[tuple[Any, ...]]]:
        """The rows that differ since the last call."""
        made = {"patch": self._patch, "trajectory": self._trajectory}
        changed = {table: [tuple(made[table]().values())] for table in sorted(self._changed)}
        self._changed.clear()
        return changed

    def _keep(self, what: str, table: str, key: Key, event: Event) -> None:
        known = self._seen.get(what)
        if known is None or key < known[0]:
            self._seen[what] = key, event["data"]
            self._changed.add(table)

    def _data(self, what: str) -> dict[str, Any]:
        return self._seen[what][1] if what in self._seen else {}

    def _patch(self) -> Row:
        start, end, patch = self._data("tree start"), self._data("tree end"), self._data("patch")
        row = {**PATCH, "run_id": self._run_id}
        _fill(row, _START, start)
        _fill(row, _END, end)
        _fill(row, _CAPTURED, patch)
        row["reason"] = text(patch.get("reason"))
        if "patch" not in self._seen:
            told = text(start.get("reason")) or text(end.get("reason"))
            row["reason"] = told or "no patch was recorded"
        return row

    def _trajectory(self) -> Row:
        row = {**TRAJECTORY, "run_id": self._run_id}
        _fill(row, _TRAJECTORY, self._data("trajectory"))
        return row


def _fill(row: Row, columns: dict[str, tuple[str, _Read]], data: dict[str, Any]) -> None:
    for column, (field, read) in columns.items():
        row[column] = read(data.get(field))


def _joined(pieces: object) -> str | None:
    """The text that an event carries in pieces."""
    parts = [part for part in items(pieces) if type(part) is str]
    return "".join(parts) if type(pieces) is list else None


def _same(read: _Read, names: str) -> dict[str, tuple[str, _Read]]:
    """Columns that have the names of their fields."""
    return {name: (name, read) for name in names.split()}


_START: dict[str, tuple[str, _Read]] = {
    "worktree": ("worktree", text),
    "base_commit": ("commit", text),
    "base_tree": ("tree", text),
    "base_branch": ("branch", text),
    "modified_at_start": ("modified", number),
    "deleted_at_start": ("deleted", number),
    "untracked_at_start": ("untracked", number),
}
_END: dict[str, tuple[str, _Read]] = {
    "end_commit": ("commit", text),
    "end_tree": ("tree", text),
    "end_branch": ("branch", text),
}
_CAPTURED: dict[str, tuple[str, _Read]] = {
    **_same(number, "bytes file_count added removed excess_count left_out_count commit_count"),
    **_same(number, "plain_diff_bytes"),
    **_same(text, "sha256 parsed_with applies_reason text_reason"),
    **_same(flag, "applies applies_to_commit text_exact"),
    **_same(as_json, "files excess left_out commits agent_patches rewritten"),
    "text": ("text", _joined),
}
_TRAJECTORY: dict[str, tuple[str, _Read]] = {
    **_same(number, "bytes errors steps max_steps interactions"),
    **_same(number, "input_tokens output_tokens cached_tokens reasoning_tokens"),
    **_same(text, "path reason sha256 final_result error provider model start_time end_time"),
    **_same(flag, "written valid_json success"),
}
