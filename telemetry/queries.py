"""Questions to the journal: SQL in, frozen values out.

A value is a row of the tables (`sqlalchemy.Row`, its fields named as in `telemetry.tables`) or a named
tuple. Every function raises `JournalUnreachable` when the journal cannot be asked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, Select, or_, select

from agent_shim.canonical import encode
from agent_shim.errors import NotFound
from telemetry import checks, costs, totals
from telemetry.database import reachable
from telemetry.evidence import CHECK, CLAIM, PATCH, RESULT, TRAJECTORY, VERDICT, events
from telemetry.filters import CALL, EVENT, NEWEST_FIRST, PRODUCER, REQUEST, RUN, TOOL, USAGE, Filters
from telemetry.pricing import PriceBook
from telemetry.totals import Cost, CostLine, Group

SHORT_ID = 8
"""Digits of a run's short id: its last ones, which are random; the first ones are its time."""
NAMED = 5
"""How many runs the hint of an ambiguous name lists."""


class RunLine(NamedTuple):
    """One run in a list."""

    run: Row[Any]
    models: Sequence[str]
    """The models that answered."""
    cost: Cost
    tools_seen: bool
    """Whether the execution of tools was hooked; without it their number is unknown."""


class CallView(NamedTuple):
    """One call with all that belongs to it."""

    call: Row[Any]
    requests: Sequence[Row[Any]]
    assessed: costs.Assessed | None
    """``None`` for a call that is counted under another."""


class Timeline(NamedTuple):
    """All that is known of one run."""

    run: Row[Any]
    producers: Sequence[Row[Any]]
    calls: Sequence[CallView]
    tools: Sequence[Row[Any]]
    configured: Mapping[str, Mapping[str, int]]
    """Parameter → value in the agent's own configuration, as JSON → turns; what was sent is in the calls."""
    cost: CostLine
    book: str
    """The price book."""
    sources: Mapping[str, Any] | None = None
    """Where the agent takes its configuration from (``configuration.read``)."""
    verdicts: Sequence[Row[Any]] = ()
    checks: Sequence[Row[Any]] = ()
    claims: Sequence[Row[Any]] = ()
    results: Sequence[Row[Any]] = ()
    patch: Row[Any] | None = None
    trajectory: Row[Any] | None = None


class CostReport(NamedTuple):
    """The answer to ``cost``."""

    by: str
    lines: Sequence[CostLine]
    left_out: int
    """Lines beyond the limit."""
    total: CostLine
    """Of all runs, those beyond the limit included."""
    book: str
    """The price book."""


# --- runs ----------------------------------------------------------------------------------------


def runs(engine: Engine, filters: Filters | None = None, limit: int | None = None) -> list[RunLine]:
    """The runs that fit, the latest first."""
    tests = (filters or Filters()).tests()
    with reachable(engine), engine.connect() as connection:
        found = connection.execute(select(RUN).where(*tests).order_by(*NEWEST_FIRST).limit(limit)).all()
        ids = [run.run_id for run in found]
        groups = totals.group(connection, "run", [RUN.c.run_id.in_(ids)])
        models = _models(connection, ids)
        tools = _with_tools(connection, ids)
    cost = {key[0]: group.cost() for key, group in groups.items()}
    return [RunLine(r, models.get(r.run_id, ()), cost[r.run_id], r.run_id in tools) for r in found]


def run(engine: Engine, ref: str) -> Row[Any]:
    """The run that `ref` names: ``@last``, a full id, the beginning of one, or its end (the short id).

    Raises `NotFound` when there is none, or more than one.
    """
    with reachable(engine), engine.connect() as connection:
        found = connection.execute(_named(ref)).all()
    if len(found) == 1:
        return found[0]
    if not found and ref == "@last":
        raise NotFound("No run is in the journal yet.", hint="agent-telemetry run -- COMMAND records one.")
    if not found:
        raise NotFound(f"No run {ref!r} is in the journal.", hint="agent-telemetry runs lists them.")
    names = [short(one.run_id) for one in found[:NAMED]] + ["…"] * (len(found) > NAMED)
    raise NotFound(f"{ref!r} names several runs.", hint=f"Name one: {', '.join(names)}.")


def short(run_id: str) -> str:
    """The short id of a run."""
    return run_id[-SHORT_ID:]


def _named(ref: str) -> Select[Any]:
    newest = select(RUN).order_by(*NEWEST_FIRST)
    if ref == "@last":
        return newest.limit(1)
    name = ref.lower()
    either = (test(name, autoescape=True) for test in (RUN.c.run_id.startswith, RUN.c.run_id.endswith))
    return newest.where(or_(*either)).limit(NAMED + 1)


def _models(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    used = select(USAGE.c.run_id, USAGE.c.model).distinct().where(USAGE.c.run_id.in_(ids), USAGE.c.calls > 0)
    models: dict[str, tuple[str, ...]] = {}
    for run_id, model in connection.execute(used.order_by(USAGE.c.model)):
        models[run_id] = (*models.get(run_id, ()), model)
    return models


def _with_tools(connection: Connection, ids: Sequence[str]) -> set[str]:
    hooked = PRODUCER.c.hooks_attached.like("%tools%")
    return set(
        connection.execute(select(PRODUCER.c.run_id).where(PRODUCER.c.run_id.in_(ids), hooked)).scalars()
    )


# --- one run -------------------------------------------------------------------------------------


def timeline(engine: Engine, run: Row[Any], book: PriceBook) -> Timeline:
    """All that the journal holds of `run`, each call priced by `book`."""
    with reachable(engine), engine.connect() as connection:
        calls = _of_run(connection, CALL, run, "started_at", "call_id")
        requests: dict[str | None, list[Row[Any]]] = {}
        for request in _of_run(connection, REQUEST, run, "started_at", "request_id"):
            requests.setdefault(request.call_id, []).append(request)
        groups = totals.group(connection, "run", [RUN.c.run_id == run.run_id])
        return Timeline(
            run=run,
            producers=_of_run(connection, PRODUCER, run, "started_at", "producer"),
            calls=[_view(connection, book, call, requests.get(call.call_id, ())) for call in calls],
            tools=_of_run(connection, TOOL, run, "started_at", "tool_call_id"),
            configured=_configured(connection, run),
            cost=next(iter(groups.values())).line(),
            book=book.name,
            sources=next((e["data"] for e in events(connection, run.run_id, "configuration.read")), None),
            verdicts=_of_run(connection, VERDICT, run, "policy"),
            checks=sorted(_of_run(connection, CHECK, run, "policy"), key=_place_of_check),
            claims=_of_run(connection, CLAIM, run, "name"),
            results=_of_run(connection, RESULT, run, "attached_at", "name"),
            patch=next(iter(_of_run(connection, PATCH, run, "run_id")), None),
            trajectory=next(iter(_of_run(connection, TRAJECTORY, run, "run_id")), None),
        )


def _place_of_check(check: Row[Any]) -> int:
    """As in `checks.NAMES`; one that this version does not know stands last."""
    return checks.NAMES.index(check.name) if check.name in checks.NAMES else len(checks.NAMES)


def _of_run(connection: Connection, table: Any, run: Row[Any], *order: str) -> Sequence[Row[Any]]:
    columns = (table.c[name] for name in order)
    return connection.execute(select(table).where(table.c.run_id == run.run_id).order_by(*columns)).all()


def _view(connection: Connection, book: PriceBook, call: Row[Any], requests: Sequence[Row[Any]]) -> CallView:
    counted = call.usage_source not in costs.UNCOUNTED
    return CallView(call, requests, costs.assess(connection, book, call) if counted else None)


def _configured(connection: Connection, run: Row[Any]) -> dict[str, dict[str, int]]:
    """What the agent's own configuration claims, from its turns: it need not be what was sent."""
    turns = select(EVENT.c.body).where(EVENT.c.run_id == run.run_id, EVENT.c.name == "agent.turn.started")
    found: dict[str, Counter[str]] = {}
    for (body,) in connection.execute(turns):
        configured = json.loads(body)["data"].get("configured")
        for name, value in (configured if isinstance(configured, dict) else {}).items():
            found.setdefault(name, Counter())[encode(value)] += 1
    return {name: dict(values.most_common()) for name, values in sorted(found.items())}


# --- cost ----------------------------------------------------------------------------------------


def cost(
    engine: Engine,
    book: PriceBook,
    by: str = "commit",
    filters: Filters | None = None,
    limit: int | None = None,
) -> CostReport:
    """Usage and cost of the runs that fit, by one of `totals.KEYS`.

    The dearest come first, except that days come in their order and runs latest first.
    """
    chosen = filters or Filters()
    with reachable(engine), engine.connect() as connection:
        groups = totals.group(connection, by, chosen.tests(), chosen)
        whole = totals.group(connection, "all", chosen.tests(), chosen)
    lines = _ordered(by, [group.line() for group in groups.values()])
    total = whole.get((), Group("all", ())).line()
    return CostReport(by, lines[:limit], len(lines) - len(lines[:limit]), total, book.name)


def _ordered(by: str, lines: list[CostLine]) -> list[CostLine]:
    lines.sort(key=lambda line: tuple(value or "" for value in line.key.values()), reverse=by == "run")
    if by in ("commit", "model"):
        currencies = Counter(currency for line in lines for currency in line.cost.amounts)
        main = max(currencies, key=lambda currency: (currencies[currency], currency), default="")
        lines.sort(key=lambda line: (line.cost.amounts.get(main, -1.0), len(line.cost.amounts)), reverse=True)
    return lines
