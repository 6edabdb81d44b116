"""Why a patch is empty, or is not what the agent handed in. Pure: from rows of the journal to a sentence.

Each cause is told only where the record shows it; the rows that it rests on are named. Rows are mappings
of column to value, with the columns of `telemetry.tables`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .faults import DONE_TOOLS

Row = Mapping[str, Any]

EDITORS = ("str_replace_based_edit_tool", "json_edit_tool", "edit", "write", "apply_patch", "create_file")
"""Tools that change files and do nothing else. (The first two are TRAE's.)"""
_READING = frozenset(("view", "read"))
"""Commands of such a tool that change nothing."""
_QUOTED = 80
"""Characters of a tool call's arguments that a sentence quotes."""
_ENDED = ("signaled", "timeout", "cancelled", "oom_killed")


class Cause(NamedTuple):
    """What became of the agent's work."""

    name: str
    message: str
    evidence: tuple[str, ...] = ()
    """Ids of the tool calls and calls that show it."""


def of_empty(
    run: Row,
    patch: Row | None,
    tools: Sequence[Row],
    calls: Sequence[Row] = (),
    trajectory: Row | None = None,
    failures: Mapping[str, str] | None = None,
) -> Cause | None:
    """Why the patch of a run is empty; ``None`` when it is not, or is not known.

    `failures` has the words for the calls that failed, by their id (`telemetry.faults`).
    """
    if patch is None or patch["reason"] or patch["bytes"] != 0:
        return None
    seen = _Seen(run, patch, tools, calls, trajectory, failures or {})
    causes = (
        *(_never_ran, _left_out, _reverted, _edits_dropped, _died, _dropped, _gave_up),
        *(_put_back, _never_edited),
    )
    return next((cause for find in causes if (cause := find(seen)) is not None), None)


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


class _Seen(NamedTuple):
    """What a cause is looked for in."""

    run: Row
    patch: Row
    tools: Sequence[Row]
    calls: Sequence[Row]
    trajectory: Row | None
    failures: Mapping[str, str]

    @property
    def edits(self) -> list[Row]:
        """The calls of tools that do nothing but change files."""
        return [tool for tool in self.tools if _edits(tool)]

    @property
    def executed(self) -> list[Row]:
        """The tool calls that were begun."""
        return [tool for tool in self.tools if tool["ended"] != "never executed"]


def _never_ran(seen: _Seen) -> Cause | None:
    if seen.run["outcome"] in ("spawn_failed", "refused"):
        return Cause("never ran", f"the agent never ran: {seen.run['error_message']}")
    return None


def _left_out(seen: _Seen) -> Cause | None:
    files, total = _objects(seen.patch["left_out"]), seen.patch["left_out_count"]
    if not files:
        return None
    names = ", ".join(f"{file.get('path')} ({file.get('why')})" for file in files[:3])
    more = f" and {total - 3} more" if total and total > 3 else ""
    return Cause("left out", f"only files that are no part of a patch changed: {names}{more}")


def _reverted(seen: _Seen) -> Cause | None:
    """Something was changed, and changed back."""
    done = [tool for tool in seen.edits if tool["ended"] == "completed"]
    commits = seen.patch["commit_count"] or 0
    what = [_count(commits, "commit")] if commits else []
    what += [_count(len(done), "edit")] if done else []
    if not what:
        return None
    told = f"{' and '.join(what)} were made, and at the end everything is as before"
    return Cause("reverted", told, _ids(done))


def _put_back(seen: _Seen) -> Cause | None:
    """The same, by what cannot be told from other commands; a file may be written again as it was, too."""
    files = json.loads(seen.patch["rewritten"] or "[]")
    if not files:
        return None
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    told = f"{files[0]}{more} was written during the run, and at the end everything is as before"
    return Cause("reverted", told)


def _edits_dropped(seen: _Seen) -> Cause | None:
    dropped = [tool for tool in seen.edits if tool["ended"] == "never executed"]
    return _never_executed(seen, dropped) if dropped else None


def _died(seen: _Seen) -> Cause | None:
    last = max(seen.calls, key=lambda call: call["started_at"] or "", default=None)
    if last is not None and last["ended"] == "failed":
        failed = tuple(call["call_id"] for call in seen.calls if call["ended"] == "failed")
        return Cause("died", _failure(last, seen), failed)
    outcome, code = seen.run["outcome"], seen.run["exit_code"]
    if outcome in _ENDED:
        return Cause("died", f"the agent was ended before it had edited ({outcome})", _ids(seen.edits))
    if seen.run["state"] == "interrupted":
        return Cause("died", "the record of the agent ends before it had edited")
    if code and not seen.edits:
        return Cause("died", f"the agent died before it had edited (exit code {code})")
    return None


def _failure(call: Row, seen: _Seen) -> str:
    """How the last call failed; where the agent had left a tool call open, that is the reason."""
    told = seen.failures.get(call["call_id"]) or f"{call['error_type']}: {call['error_message']}"
    open_ = json.loads(call["unanswered"] or "[]")
    if not open_ or call["http_status"] != 400:
        return f"the last call of the model failed: {told}"
    named = {tool["call_id"]: tool["tool"] for tool in seen.tools}
    names = ", ".join(dict.fromkeys(named.get(call_id) or call_id for call_id in open_))
    return f"the agent left its call of {names} unanswered, and the API refused what it sent next: {told}"


def _dropped(seen: _Seen) -> Cause | None:
    """A call that may have been an edit, such as of a shell, and was never executed."""
    waiting = [tool for tool in seen.tools if tool["ended"] == "never executed"]
    dropped = [tool for tool in waiting if tool["tool"] not in DONE_TOOLS]
    return _never_executed(seen, dropped) if dropped else None


def _never_executed(seen: _Seen, dropped: Sequence[Row]) -> Cause:
    last = dropped[-1]
    answer = next((call for call in seen.calls if call["call_id"] == last["requested_by"]), None)
    why = "".join(_why_dropped(last, answer, seen.tools))
    return Cause("never executed", f"{_quoted(last)} was requested and never executed{why}", _ids(dropped))


def _why_dropped(dropped: Row, answer: Row | None, tools: Sequence[Row]) -> Iterator[str]:
    beside = {tool["tool"] for tool in tools if tool["requested_by"] == dropped["requested_by"]}
    done = sorted(name for name in beside if name in DONE_TOOLS)
    if done:
        yield f": the same answer asked for {done[0]}"
    elif answer is not None and not _is_json(dropped["arguments"]):
        cut = answer["response_status"] == "incomplete" or '"length"' in (answer["finish_reasons"] or "")
        tokens = f" after {answer['output_tokens']} tokens" if answer["output_tokens"] else ""
        yield f": the answer was cut off{tokens}" if cut else ": its arguments are not JSON"


def _gave_up(seen: _Seen) -> Cause | None:
    told = seen.trajectory
    if told is None or told["written"] is False or told["success"] is not False:
        return None
    if told["steps"] and told["max_steps"] and told["steps"] >= told["max_steps"]:
        return Cause(
            "out of steps", f"the agent had used its {told['max_steps']} steps and never said it was done"
        )
    if told["error"]:
        return Cause("died", f"the last step of the agent failed: {told['error']}")
    return None


def _never_edited(seen: _Seen) -> Cause | None:
    if seen.edits:
        return Cause("failed edits", f"{_count(len(seen.edits), 'edit')} failed", _ids(seen.edits))
    if seen.run["capture"] != "captured":
        return None
    if not seen.executed:  # the tools of an agent of one's own may not be hooked
        return Cause("never edited", "no executed tool call was seen")
    what = _count(len(seen.executed), "executed tool call")
    return Cause("never edited", f"no file was written by {what}, the last: {_quoted(seen.executed[-1])}",
                 _ids(seen.executed))  # fmt: skip


def _quoted(tool: Row) -> str:
    """A tool, and what it was called with, as far as that is kept and short."""
    name, arguments = tool["tool"] or "a tool", _arguments(tool)
    words = arguments.get("command") if isinstance(arguments, dict) else None
    if not isinstance(words, str) or not words or tool["tool"] in EDITORS:
        return name
    return f"{name} ({words if len(words) <= _QUOTED else words[: _QUOTED - 1] + '…'})"


def _edits(tool: Row) -> bool:
    """Whether it is a call that changes files."""
    if tool["tool"] not in EDITORS:
        return False
    arguments = _arguments(tool)
    return not (isinstance(arguments, dict) and arguments.get("command") in _READING)


def _arguments(tool: Row) -> Any:
    return json.loads(tool["arguments"] or "{}") if _is_json(tool["arguments"]) else None


def _is_json(text: str | None) -> bool:
    try:
        json.loads(text or "{}")
    except ValueError:
        return False
    return True


def _objects(text: str | None) -> list[dict[str, Any]]:
    found = json.loads(text) if text else []
    return [item for item in found if isinstance(item, dict)]


def _ids(tools: Sequence[Row]) -> tuple[str, ...]:
    return tuple(tool["tool_call_id"] for tool in tools)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
