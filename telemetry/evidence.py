"""What the journal holds of a run, gathered for checks.

The calls, requests and tool calls as rows; what stands in no table from the events themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, FromClause, Row, func, select
from sqlmodel import SQLModel

from telemetry import faults
from telemetry.causes import of_empty, of_hand_over
from telemetry.checks import Evidence, Patch
from telemetry.filters import CALL, EVENT, REQUEST, TOOL

VERDICT, CHECK, CLAIM, RESULT, PATCH, TRAJECTORY = (
    SQLModel.metadata.tables[name] for name in ("verdict", "check", "claim", "result", "patch", "trajectory")
)
_ENDS = ("process.started", "process.finished", "run.finished", "patch.captured", "trajectory.read")
_AFTERWARDS = ("run.judged", "claim.checked", "producer.started", "producer.sealed")
"""Events that a judgement brings with it: no reason to judge again."""


def gather(connection: Connection, run: Row[Any]) -> Evidence:
    """All that is known of `run` and matters for a check."""
    ends, patch = {}, None
    for event in events(connection, run.run_id, *_ENDS):
        ends[event["name"]] = f"{event['producer']}:{event['seq']}"
        if event["name"] == "patch.captured":
            patch = Patch(ends[event["name"]], event["data"])
    calls = rows(connection, CALL, run, "started_at", "call_id")
    tools = rows(connection, TOOL, run, "started_at", "tool_call_id")
    changed = next((row._asdict() for row in rows(connection, PATCH, run, "run_id")), None)
    requests = rows(connection, REQUEST, run, "started_at", "request_id")
    told = next((row._asdict() for row in rows(connection, TRAJECTORY, run, "run_id")), None)
    return Evidence(
        run=run,
        ends=ends,
        calls=calls,
        requests=requests,
        tools=tools,
        results=rows(connection, RESULT, run, "attached_at"),
        patch=patch,
        empty=of_empty(
            run._asdict(),
            changed,
            [t._asdict() for t in tools],
            [c._asdict() for c in calls],
            told,
            faults.failures(calls, requests),
        ),
        handed_in=of_hand_over(changed),
    )


def rows(connection: Connection, table: FromClause, run: Row[Any], *order: str) -> list[Row[Any]]:
    """The rows of one run."""
    columns = (table.c[name] for name in order)
    found = connection.execute(select(table).where(table.c.run_id == run.run_id).order_by(*columns))
    return list(found.all())


def events(connection: Connection, run_id: str, *names: str) -> Iterator[dict[str, Any]]:
    """The events of a run that have one of these names."""
    query = select(EVENT.c.body).where(EVENT.c.run_id == run_id, EVENT.c.name.in_(names))
    for (body,) in connection.execute(query.order_by(EVENT.c.time_ns, EVENT.c.producer, EVENT.c.seq)):
        yield json.loads(body)


def without_tools(connection: Connection, run_id: str) -> frozenset[str]:
    """The calls whose request offered no tools."""
    return frozenset(
        f"{event['producer']}:{event['seq']}"
        for event in events(connection, run_id, "llm.call.started")
        if not event["data"].get("tool_names")
    )


def seen(connection: Connection, run_ids: list[str]) -> dict[str, int]:
    """How many events there are of each run on which a judgement can rest."""
    chosen = EVENT.c.run_id.in_(run_ids) & EVENT.c.name.not_in(_AFTERWARDS)
    query = select(EVENT.c.run_id, func.count()).where(chosen).group_by(EVENT.c.run_id)
    return {row[0]: row[1] for row in connection.execute(query)}
