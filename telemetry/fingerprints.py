"""Errors of the same kind: grouped by type, HTTP status, phase and what is common in their text.

Promises, each with its test in ``tests/test_fingerprints.py``:

* Paths, ids, addresses and numbers make no difference; type, status and phase do, so 400 and 429 stay apart.
* A run that failed by its verdict is grouped by the reason, whatever errors its agent got over on the way;
  one whose process ended with an error is told by that. What went wrong with nothing to say why is in a group
  of its own: *nothing recorded*.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, FromClause, select

from telemetry.database import reachable
from telemetry.evidence import VERDICT
from telemetry.filters import CALL, REQUEST, RUN, TOOL, Filters
from telemetry.policies import Policy
from telemetry.rows import NOT_RECORDED

NOTHING = "nothing recorded"

_MASKS = (
    (re.compile(r"https?://[^\s'\"<>)]+"), "<url>"),
    (re.compile(r"(?:[A-Za-z]:)?(?:[\w.~-]*/){1,}[\w.@~+-]+"), "<path>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\b", re.I), "<id>"),
    (re.compile(r"\b(?:call|resp|req|msg|fc|item|chatcmpl|run|org|proj|sk)[_-][\w-]+"), "<id>"),
    (re.compile(r"\b(?:0x)?(?=[0-9a-f]*\d)[0-9a-f]{7,}\b", re.I), "<hex>"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "<n>"),
    (re.compile(r"\s+"), " "),
)
"""In this order: what a later one would split, an earlier one has taken."""


class Occurrence(NamedTuple):
    """One error."""

    run_id: str
    phase: str
    """``run``, ``call``, ``request`` (the call went on) or ``tool``."""
    kind: str | None
    http_status: int | None
    message: str | None
    event: str | None
    at: str | None


class Group(NamedTuple):
    """Errors of one kind."""

    fingerprint: str
    phase: str
    kind: str | None
    http_status: int | None
    text: str
    """What is common to their messages."""
    occurrences: Sequence[Occurrence]

    @property
    def runs(self) -> int:
        """In how many runs."""
        return len({one.run_id for one in self.occurrences})


def normalised(message: str) -> str:
    """The message without what differs from one occurrence to the next."""
    text = message.strip()
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text[:300]


def groups(occurrences: Iterable[Occurrence]) -> list[Group]:
    """The errors by kind, the most frequent first."""
    found: dict[tuple[str, str | None, int | None, str], list[Occurrence]] = {}
    for one in occurrences:
        text = normalised(one.message) if one.message and one.message != NOT_RECORDED else NOTHING
        found.setdefault((one.phase, one.kind, one.http_status, text), []).append(one)
    made = [Group(_hash(key), *key, those) for key, those in found.items()]
    return sorted(made, key=lambda group: (-len(group.occurrences), group.phase, group.text))


def _hash(key: tuple[Any, ...]) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:8]


# --- from the journal ------------------------------------------------------------------------------


def errors(engine: Engine, policy: Policy, filters: Filters | None = None) -> list[Group]:
    """The errors of the runs that fit, and why they failed by `policy` where their process did not say it."""
    tests = (filters or Filters()).tests()
    with reachable(engine), engine.connect() as connection:
        found = [
            *_of(connection, CALL, "call", "call_id", CALL.c.ended.in_(("failed", "interrupted")), tests),
            *_requests(connection, tests),
            *_of(connection, TOOL, "tool", "tool_call_id", TOOL.c.ended.in_(("failed", "raised")), tests),
            *_runs(connection, tests),
        ]
        told = {one.run_id for one in found if one.phase == "run"}
        found += [one for one in _failed(connection, policy, tests) if one.run_id not in told]
    return groups(found)


def _of(
    connection: Connection, table: FromClause, phase: str, identity: str, test: Any, tests: Sequence[Any]
) -> list[Occurrence]:
    joined = select(table).join(RUN, RUN.c.run_id == table.c.run_id).where(test, *tests)
    return [
        Occurrence(
            row.run_id, phase, row.error_type, getattr(row, "http_status", None), row.error_message,
            getattr(row, identity), row.started_at,
        )
        for row in connection.execute(joined)
    ]  # fmt: skip


def _requests(connection: Connection, tests: Sequence[Any]) -> list[Occurrence]:
    """Failed requests of calls that went on all the same: the others are told by their call."""
    failed = (REQUEST.c.http_status >= 400) | (REQUEST.c.ended == "failed")
    ended_well = select(CALL.c.call_id).where(CALL.c.run_id == REQUEST.c.run_id, CALL.c.ended == "completed")
    return _of(
        connection, REQUEST, "request", "request_id", failed & REQUEST.c.call_id.in_(ended_well), tests
    )


def _runs(connection: Connection, tests: Sequence[Any]) -> list[Occurrence]:
    query = select(RUN).where(RUN.c.error_type.is_not(None), *tests)
    return [
        Occurrence(row.run_id, "run", row.error_type, None, row.error_message, None, row.started_at)
        for row in connection.execute(query)
    ]


def _failed(connection: Connection, policy: Policy, tests: Sequence[Any]) -> list[Occurrence]:
    because = VERDICT.c.reason.label("because")
    joined = select(RUN, because).join(VERDICT, VERDICT.c.run_id == RUN.c.run_id)
    chosen = joined.where(VERDICT.c.policy == policy.name, VERDICT.c.verdict == "fail", *tests)
    return [
        Occurrence(row.run_id, "verdict", None, None, row.because, None, row.started_at)
        for row in connection.execute(chosen)
    ]
