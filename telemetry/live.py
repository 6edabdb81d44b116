"""Runs that are going on, as the journal knows them now: what each is doing, and what it has used so far.

Promises, each with its test in ``tests/test_watch.py``:

* A phase is what was begun last and has not ended: a tool, a call of a model, the pause before its next
  request. Between them it is the agent's own time; a run whose calls are not captured has no phase but
  that it runs.
* Totals are of what has happened so far. One that lacks something, such as the tokens of a call that is
  under way, is a lower bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, Select, func, or_, select

from telemetry import totals
from telemetry.database import reachable
from telemetry.filters import CALL, EVENT, NEWEST_FIRST, REQUEST, RUN, TOOL, stored
from telemetry.rows import at
from telemetry.totals import CostLine

CLIENT_ERROR = 400
"""From this HTTP status on a request was refused (RFC 9110, section 15)."""


class Phase(NamedTuple):
    """What a run is doing."""

    name: str
    """``starting``, ``model call``, ``back-off``, ``tool …``, ``agent``, ``running``,
    ``ending`` or ``ended``."""
    since: str | None
    """When that began, as in the tables."""


class Live(NamedTuple):
    """One run, now."""

    run: Row[Any]
    phase: Phase
    last_event_ns: int | None
    retries: int
    """Requests after the first of their call."""
    total: CostLine
    """Of what has happened so far."""


class Known(NamedTuple):
    """The rows that phases are told from, by run."""

    calls: Mapping[str, Sequence[Row[Any]]]
    tools: Mapping[str, Sequence[Row[Any]]]
    requests: Mapping[str, Sequence[Row[Any]]]
    gone: Mapping[str, str]
    """When the agent's process was gone."""


def current(engine: Engine, since: datetime) -> list[str]:
    """The ids of the runs that are going on or began after a time, the latest first.

    Raises `JournalUnreachable`.
    """
    wanted = or_(RUN.c.state == "running", RUN.c.started_at >= stored(since))
    found = select(RUN.c.run_id).where(wanted).order_by(*NEWEST_FIRST)
    with reachable(engine), engine.connect() as connection:
        return list(connection.execute(found).scalars())


def look(engine: Engine, ids: Sequence[str]) -> list[Live]:
    """These runs as they are now, the latest first. Raises `JournalUnreachable`."""
    with reachable(engine), engine.connect() as connection:
        runs = connection.execute(select(RUN).where(RUN.c.run_id.in_(ids)).order_by(*NEWEST_FIRST)).all()
        groups = totals.group(connection, "run", [RUN.c.run_id.in_(ids)], so_far=True)
        lines = {key[0]: group.line() for key, group in groups.items()}
        known = _known(connection, ids)
        last = _last_events(connection, ids)
        retries = _retries(connection, ids)
    return [
        Live(run, _phase(run, known), last.get(run.run_id), retries.get(run.run_id, 0), lines[run.run_id])
        for run in runs
    ]


def _known(connection: Connection, ids: Sequence[str]) -> Known:
    def rows(query: Select[Any]) -> dict[str, list[Row[Any]]]:
        return _by_run(connection.execute(query))

    open_calls = select(CALL.c.call_id).where(CALL.c.run_id.in_(ids), CALL.c.ended.is_(None))
    requests = select(REQUEST).where(REQUEST.c.run_id.in_(ids), REQUEST.c.call_id.in_(open_calls))
    return Known(
        calls=rows(_latest(CALL, ids)),
        tools=rows(_latest(TOOL, ids)),
        requests=rows(requests.order_by(REQUEST.c.started_at, REQUEST.c.number)),
        gone=_gone(connection, ids),
    )


def _latest(table: Any, ids: Sequence[str]) -> Select[Any]:
    """Of each run the rows that are open, and those that ended last; none that was never begun."""
    ended = (
        select(table.c.run_id, func.max(table.c.finished_at).label("at"))
        .where(table.c.run_id.in_(ids))
        .group_by(table.c.run_id)
        .subquery()
    )
    joined = table.outerjoin(ended, ended.c.run_id == table.c.run_id)
    wanted = or_(table.c.ended.is_(None), table.c.finished_at == ended.c.at)
    began = table.c.started_at.is_not(None)
    found = select(table).select_from(joined).where(table.c.run_id.in_(ids), wanted, began)
    return found.order_by(table.c.started_at)


def _by_run(rows: Iterable[Row[Any]]) -> dict[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = {}
    for row in rows:
        found.setdefault(row.run_id, []).append(row)
    return found


def _gone(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    ended = EVENT.c.name.in_(("process.finished", "run.finished"))
    query = select(EVENT.c.run_id, func.min(EVENT.c.time_ns)).where(EVENT.c.run_id.in_(ids), ended)
    return {run: at(int(first)) for run, first in connection.execute(query.group_by(EVENT.c.run_id))}


def _last_events(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    query = select(EVENT.c.run_id, func.max(EVENT.c.time_ns)).where(EVENT.c.run_id.in_(ids))
    return {run: int(at) for run, at in connection.execute(query.group_by(EVENT.c.run_id))}


def _retries(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    again = func.count() - func.count(REQUEST.c.call_id.distinct())
    query = select(REQUEST.c.run_id, again).where(REQUEST.c.run_id.in_(ids))
    return {run: int(number) for run, number in connection.execute(query.group_by(REQUEST.c.run_id))}


# --- phases --------------------------------------------------------------------------------------


def _phase(run: Row[Any], known: Known) -> Phase:
    name = run.run_id
    if run.state != "running":
        return Phase("ended", run.finished_at)
    if name in known.gone:
        return Phase("ending", known.gone[name])
    if run.capture == "not captured":
        return Phase("running", run.started_at)
    calls, tools = known.calls.get(name, ()), known.tools.get(name, ())
    under_way = [row for row in (*calls, *tools) if row.ended is None]
    if under_way:
        latest = max(under_way, key=lambda row: row.started_at)
        more = f" (+{len(under_way) - 1})" if len(under_way) > 1 else ""
        phase = _of_tool(latest) if latest in tools else _of_call(latest, known.requests.get(name, ()))
        return phase._replace(name=phase.name + more)
    ended = [row for row in (*calls, *tools) if row.finished_at]
    if not ended:
        return Phase("starting", run.started_at)
    latest = max(ended, key=lambda row: row.finished_at)
    failed = latest in calls and latest.ended == "failed"
    return Phase("agent, after a failed call" if failed else "agent", latest.finished_at)


def _of_tool(tool: Row[Any]) -> Phase:
    return Phase(f"tool {tool.tool or 'unknown'}", tool.started_at)


def _of_call(call: Row[Any], requests: Sequence[Row[Any]]) -> Phase:
    """A call whose last request was refused waits before it sends the next one."""
    own = [request for request in requests if request.call_id == call.call_id]
    if own and own[-1].ended is not None:
        last = own[-1]
        if last.ended == "failed" or (last.http_status or 0) >= CLIENT_ERROR:
            return Phase("back-off", _end_of(last))
    return Phase("model call", call.started_at)


def _end_of(request: Row[Any]) -> str | None:
    if request.started_at is None:
        return None
    began = datetime.fromisoformat(request.started_at).timestamp()
    return at(round((began + (request.duration_s or 0.0)) * 1e9))
