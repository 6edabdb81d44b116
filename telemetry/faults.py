"""Faults of the protocol between agent and API, found in the record. Pure.

Promises, each with its test in ``tests/test_checks.py``:

* A tool call that a request leaves unanswered is found in the request, whether or not the API refused it.
* A request that was refused as it is, and sent again unchanged, is a futile retry: the same body, and an
  error that repetition cannot heal. A retry of a passing error is none.
* Retries of the agent around retries of the client are counted apart.

A row is any object with the fields of `telemetry.tables`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .rows import NOT_RECORDED

DONE_TOOLS = ("task_done", "finish", "submit", "done")
"""Tools by which agents say that they are done: TRAE never executes its ``task_done``."""
PASSING = frozenset((408, 409, 429))
"""Refusals that the openai client itself repeats, beside 5xx (``SyncAPIClient._should_retry``)."""
_FINAL_CODES = ("insufficient_quota",)
"""429 with this code stays: the account has no money left."""


class Fault(NamedTuple):
    """Something that cannot have gone well."""

    kind: str
    """``unanswered``, ``never executed``, ``futile retry`` or ``nested retries``."""
    reason: str
    events: tuple[str, ...]


def unanswered(calls: Iterable[Any]) -> list[Fault]:
    """Tool calls that a request carries without their output."""
    found = []
    for call in calls:
        open_ = json.loads(call.unanswered or "[]")
        if open_:
            refused = f"; the API refused it with {call.http_status}" if call.http_status == 400 else ""
            told = f"{_number(len(open_), 'tool call')} left unanswered ({', '.join(open_)}){refused}"
            found.append(Fault("unanswered", told, (call.call_id,)))
    return found


def never_executed(tools: Iterable[Any]) -> list[Fault]:
    """Tool calls that were requested and never began; a word that one is done is none."""
    return [
        Fault(
            "never executed",
            f"{tool.tool or 'a tool'} was requested and never executed",
            (tool.requested_by,),
        )
        for tool in tools
        if tool.ended == "never executed" and tool.tool not in DONE_TOOLS
    ]


def futile_retries(requests: Sequence[Any]) -> list[Fault]:
    """Requests that were sent again as they were, after an answer that stays the same."""
    refused: dict[str, list[Any]] = {}
    for request in requests:
        if request.body_sha256 and is_final(request):
            refused.setdefault(request.body_sha256, []).append(request)
    return [
        Fault(
            "futile retry",
            f"the same request was refused {len(same)} times with {same[0].http_status}"
            f" {same[0].error_code or same[0].error_type or ''}".rstrip(),
            tuple(request.request_id for request in same),
        )
        for same in refused.values()
        if len(same) > 1
    ]


def is_final(request: Any) -> bool:
    """Whether the same request can only be refused again."""
    status = request.http_status
    if status is None or not 400 <= status < 500:
        return False
    return status not in PASSING or request.error_code in _FINAL_CODES


def nested_retries(calls: Sequence[Any], requests: Iterable[Any]) -> list[Fault]:
    """The same request in several calls of the agent, each repeated by the client as well."""
    bodies: dict[str, dict[str, int]] = {}
    for request in requests:
        if request.body_sha256 and request.call_id:
            tried = bodies.setdefault(request.body_sha256, {})
            tried[request.call_id] = tried.get(request.call_id, 0) + 1
    known = {call.call_id for call in calls}
    found = []
    for tried in bodies.values():
        again = [call for call in tried if call in known]
        if len(again) > 1 and max(tried.values()) > 1:
            told = f"the agent sent one request {len(again)} times, and the client each up to"
            found.append(
                Fault("nested retries", f"{told} {max(tried.values())} times: {sum(tried.values())} requests",
                      tuple(again))
            )  # fmt: skip
    return found


def failure_of(call: Any, requests: Iterable[Any]) -> str:
    """How a call failed: in the words of the API where it answered, else of the client."""
    answered = [one for one in requests if one.call_id == call.call_id and one.http_status]
    last = max(answered, key=lambda request: request.number or 0, default=None)
    if last is not None and call.http_status and last.error_message not in (None, NOT_RECORDED):
        kind = last.error_code or last.error_type
        return f"{last.http_status} {kind}: {last.error_message}"
    return ": ".join(word for word in (call.error_type or "unknown", call.error_message) if word)


def failures(calls: Iterable[Any], requests: Sequence[Any]) -> dict[str, str]:
    """How the calls that failed did, by their id."""
    return {call.call_id: failure_of(call, requests) for call in calls if call.ended == "failed"}


def unrecovered(calls: Sequence[Any]) -> list[Any]:
    """The calls that failed with nothing of their model after them: what they were for was not done."""
    last: dict[str | None, Any] = {}
    for call in sorted(calls, key=lambda call: (call.started_at or "", call.call_id)):
        last[call.model_requested] = call
    return [call for call in last.values() if call.ended in ("failed", "interrupted")]


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
