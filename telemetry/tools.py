"""Tool calls, executed or only requested, folded into rows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from agent_shim.events import event_id

from . import rows
from .calls import Call, Event, Key, Pair, begin_of
from .producers import Producer
from .rows import TOOL_CALL, Row, at, items, number, seconds, text

_NEVER = 2**63
"""Later than any time: the end of a call that is still executing."""


class Tools:
    """The tool calls of one run."""

    def __init__(self, run_id: str, producers: dict[str, Producer]) -> None:
        self._run_id = run_id
        self._producers = producers
        self._tools: dict[str, Pair] = {}
        self._open: dict[str, Pair] = {}
        self._executions: dict[str, list[Pair]] = {}
        self._asked: dict[str, list[str]] = {}
        self._requesters: dict[str, list[Call]] = {}
        self._waiting: dict[str, None] = {}
        """Model's ids of the tool calls that were requested and did not begin."""
        self._unexecuted: dict[str, Row] = {}
        self._changed: dict[str, Pair] = {}
        self._changed_ids: set[str] = set()
        """Model's ids of tool calls, of which others than before may be the requesters."""
        self._failed: set[str] = set()

    # --- events ----------------------------------------------------------------------------------

    def started(self, key: Key, event: Event) -> None:
        """``tool.call.started``."""
        tool = self._tool(event_id(key[1], key[2]))
        tool.begin(key, event)
        tool.row["started_at"] = at(key[0])
        rows.tool_call_started(tool.row, event["data"])
        if tool.ended is None:
            self._open[tool.id] = tool
        if call_id := tool.row["call_id"]:
            self._executions.setdefault(call_id, []).append(tool)
            self._waiting.pop(call_id, None)
            self._changed_ids.add(call_id)

    def finished(self, key: Key, event: Event) -> None:
        """``tool.call.finished``."""
        tool = self._tool(begin_of(key, event))
        if tool.end(key, event):
            self._open.pop(tool.id, None)
            tool.row["finished_at"] = at(key[0])
            rows.tool_call_finished(tool.row, event["data"])

    def requested(self, call: Call, data: dict[str, Any]) -> None:
        """The response of `call` asks for the tool calls in `data`, whatever was told of it before."""
        before, now = self._asked.get(call.id, []), _ids(data.get("tool_calls"))
        for call_id in before:
            self._requesters[call_id].remove(call)
        for call_id in now:
            self._requesters.setdefault(call_id, []).append(call)
            if call_id not in self._executions:
                self._waiting[call_id] = None
        if before or now:
            self._asked[call.id] = now
            self._changed_ids.update(before, now)

    def requester_changed(self, call: Call) -> None:
        """Whether `call` has a row, or what kind of call it is, is no longer what it was."""
        self._changed_ids.update(self._asked.get(call.id, ()))

    def _tool(self, identity: str) -> Pair:
        tool = self._tools.get(identity)
        if tool is None:
            row = TOOL_CALL | {"run_id": self._run_id, "tool_call_id": identity}
            tool = self._tools[identity] = Pair(identity, row)
        self._changed[identity] = tool
        return tool

    # --- rows ------------------------------------------------------------------------------------

    @property
    def calls(self) -> int:
        """How many rows there are."""
        return len(self._tools) + len(self._unexecuted)

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return len(self._failed)

    @property
    def never_executed(self) -> int:
        """How many of them were requested and never began."""
        return len(self._unexecuted)

    def settle(self, run_ended: bool, has_row: Callable[[Call], bool]) -> tuple[list[Row], list[str]]:
        """Changed rows, and the ids of those that are no more. `has_row` tells the calls that count."""
        for tool in self._open.values():
            self._changed[tool.id] = tool
        for call_id in self._changed_ids:
            self._find_requesters(call_id, has_row)
        self._changed_ids.clear()
        changed = dict.fromkeys(self._changed)
        for tool in self._changed.values():
            self._settle_tool(tool)
        if self._changed:
            changed.update(dict.fromkeys(self._overlap()))
        self._changed.clear()
        shown, gone = self._settle_waiting(run_ended, has_row)
        return [self._tools[identity].row for identity in changed] + shown, gone

    def _settle_tool(self, tool: Pair) -> None:
        row = tool.row
        row["duration_s"] = seconds(tool.duration_ns())
        if tool.interrupted(self._producers):
            rows.interrupted(row)
        if row["ended"] in ("failed", "raised"):
            self._failed.add(tool.id)
        else:
            self._failed.discard(tool.id)

    def _find_requesters(self, call_id: str, has_row: Callable[[Call], bool]) -> None:
        """Which call asked for each of the executions: the last one that had ended when it began.

        Usually one call asks for one id, once. But some models number their tool calls from 0 in every
        response.
        """
        tools = self._executions.get(call_id)
        if not tools:
            return
        calls = self._requesting(call_id, has_row)
        for tool in tools:
            place = bisect_right(calls, tool.key, key=_when_ended) - 1
            requester = calls[max(place, 0)].id if calls else None
            if tool.row["requested_by"] != requester:
                tool.row["requested_by"] = requester
                self._changed[tool.id] = tool

    def _requesting(self, call_id: str, has_row: Callable[[Call], bool]) -> list[Call]:
        """The calls that asked for that id, in order, without those that only fetched a response again."""
        calls = sorted(filter(has_row, self._requesters.get(call_id, ())), key=_when_ended)
        return [call for call in calls if call.method != "GET"] or calls

    def _overlap(self) -> list[str]:
        """Count again who executed beside whom; the ids of those whose count changed."""
        spans = {tool.id: self._interval(tool) for tool in self._tools.values() if tool.began}
        begins = sorted(begin for begin, _ in spans.values())
        ends = sorted(end for _, end in spans.values())
        changed = []
        for identity, (begin, end) in spans.items():
            row = self._tools[identity].row
            overlaps = bisect_left(begins, end) - bisect_right(ends, begin) - 1
            if overlaps != row["overlaps"]:
                row["overlaps"] = overlaps
                changed.append(identity)
        return changed

    def _interval(self, tool: Pair) -> tuple[int, int]:
        """When it executed, on the wall clock, which processes share; never empty."""
        assert tool.began
        begin, producer, _ = tool.began
        elapsed = tool.duration_ns()
        if elapsed is not None:
            end = begin + elapsed
        elif tool.ended:
            end = tool.ended[0]
        else:
            source = self._producers[producer]
            end = source.last_time if source.sealed else _NEVER
        return begin, max(end, begin + 1)

    # --- never executed --------------------------------------------------------------------------

    def _settle_waiting(
        self, run_ended: bool, has_row: Callable[[Call], bool]
    ) -> tuple[list[Row], list[str]]:
        if not any(producer.tool_hook for producer in self._producers.values()):
            return [], []
        now = dict(filter(None, (self._unexecuted_row(i, run_ended, has_row) for i in self._waiting)))
        shown = [row for identity, row in now.items() if self._unexecuted.get(identity) != row]
        gone = [identity for identity in self._unexecuted if identity not in now]
        self._unexecuted = now
        return shown, gone

    def _unexecuted_row(
        self, call_id: str, run_ended: bool, has_row: Callable[[Call], bool]
    ) -> tuple[str, Row] | None:
        """The row of a requested tool call that can begin no more, where tools are seen at all."""
        call = next(iter(self._requesting(call_id, has_row)), None)
        if call is None or call.ended is None:
            return None
        producer = self._producers[call.ended[1]]
        over = run_ended or producer.sealed or producer.last_call > call.ended[2]
        if not producer.tool_hook or not over:
            return None
        told = items(from_json(call.row["tool_calls"]))
        asked = next(item for item in told if type(item) is dict and _id(item) == call_id)
        identity = f"{call.id}#{call_id}"
        return identity, TOOL_CALL | {
            "run_id": self._run_id,
            "tool_call_id": identity,
            "tool": text(asked.get("name")),
            "call_id": call_id,
            "requested_by": call.id,
            "ended": "never executed",
            "arguments": text(asked.get("arguments")),
            "arguments_bytes": number(asked.get("arguments_bytes")),
        }


def _when_ended(call: Call) -> Key:
    return call.ended or call.key


def _ids(told: object) -> list[str]:
    """The model's own ids of the tool calls, each once."""
    ids = [_id(item) for item in items(told) if type(item) is dict]
    return [call_id for call_id in dict.fromkeys(ids) if call_id]


def _id(item: dict[str, Any]) -> str | None:
    return text(item.get("id")) or text(item.get("call_id"))
