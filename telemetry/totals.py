"""Totals over runs that say what they lack.

Promises, each with its test in ``tests/test_queries.py``:

* What was not seen is never counted as 0. Calls without usage, runs that were not captured and runs whose
  events are not all here are holes in every total they belong to, and a total with a hole is a lower bound.
* Read are the rollups ``usage`` and ``cost``, never the calls: the time does not depend on their number.
* Cached and cache-write tokens are parts of the input; currencies are never summed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Connection, FromClause, Row, Select, case, func, literal_column, select, true

from telemetry.filters import COST, NOT_CAPTURED, RUN, USAGE, Filters

TOKENS = ("uncached", "cached", "cache_write", "output", "reasoning")

NO_USAGE = "usage unknown"
NOT_PRICED = "not priced yet"


class Total(NamedTuple):
    """A sum, and what it lacks."""

    value: float | None
    """``None``: nothing of it is known."""
    reason: str | None = None
    """Why the value is only a lower bound, or unknown; ``None``: it is exact."""


class Cost(NamedTuple):
    """Money. No amounts and a reason: unknown. No amounts and no reason: there was no call to pay for."""

    amounts: Mapping[str, float]
    """Currency → amount."""
    reason: str | None = None
    """Why the amounts are only lower bounds, or unknown; ``None``: they are exact."""


class Coverage(NamedTuple):
    """How much of the totals is known, and from where."""

    calls: Mapping[str, int]
    """Calls by the source of their usage: ``reported``, ``agent``, ``estimated``, ``unknown``."""
    usage: Mapping[str, int]
    """Why usage is unknown or incomplete → calls; 0 stands for a number of calls that nobody knows."""
    price: Mapping[str, int]
    """Why there is no price for a known usage, or only a lower bound → calls."""
    not_captured: int
    """Runs of which the calls were not seen."""
    incomplete: int
    """Runs whose events are not all here, those still running included."""


class CostLine(NamedTuple):
    """What a group of runs used and cost."""

    key: Mapping[str, str | None]
    """What the group is, by the columns of `KEYS`."""
    runs: int
    calls: Total
    tokens: Mapping[str, Total]
    """By `TOKENS`: the first three add up to the input, ``reasoning`` is part of ``output``."""
    cost: Cost
    wall_s: Total
    """From start to end of the runs; unknown for groups that share their runs with others."""
    api_s: Total
    coverage: Coverage


KEYS: Mapping[str, tuple[str, ...]] = {
    "commit": ("repository", "commit"),
    "run": ("run_id", "repository", "commit"),
    "model": ("provider", "model"),
    "day": ("day",),
    "all": (),
}
"""What runs can be grouped by → the columns that make a group."""
_DAY: tuple[Any, Any] = (literal_column("1"), literal_column("10"))
"""Where the day stands in a stored time. No parameters: PostgreSQL would not see two as the same."""
_DIGITS = 12
"""Digits behind the point of an amount: far below a price per token, far above the noise of a binary sum."""
_OF_USAGE = ("model", "day")
"""Groupings that divide a run."""


def rounded(amounts: Mapping[str, float]) -> dict[str, float]:
    """Sums by currency, in its order, without the noise of adding."""
    return {currency: round(amount, _DIGITS) for currency, amount in sorted(amounts.items())}


def group(
    connection: Connection,
    by: str,
    tests: Sequence[Any],
    filters: Filters | None = None,
    *,
    so_far: bool = False,
) -> dict[tuple[str | None, ...], Group]:
    """The runs that pass `tests`, grouped `by` one of `KEYS`; of their calls those that `filters` name.

    With `so_far` a run lacks nothing for the reason alone that it still goes on.
    """
    groups: dict[tuple[str | None, ...], Group] = {}
    chosen = filters or Filters()
    size = len(KEYS[by])
    queries = (
        (_runs(by), Group.take_runs),
        (_usage(by, chosen), Group.take_usage),
        (_costs(by, chosen), Group.take_cost),
    )
    for query, take in queries:
        for row in connection.execute(query.where(*tests)):
            key = tuple(row[:size])
            if key not in groups:
                groups[key] = Group(by, key, so_far=so_far)
            take(groups[key], row)
    return groups


def _columns(by: str, table: FromClause) -> list[Any]:
    return [(table if by in _OF_USAGE else RUN).c[name] for name in KEYS[by]]


def _runs(by: str) -> Select[Any]:
    if by in _OF_USAGE:
        keys = _columns(by, USAGE)
        table: FromClause = RUN.join(USAGE, USAGE.c.run_id == RUN.c.run_id, isouter=by == "day")
        if by == "day":  # a run without calls belongs to the day of its start
            keys = [func.coalesce(*keys, func.substr(RUN.c.started_at, *_DAY))]
    else:
        keys, table = _columns(by, RUN), RUN
    counts = (
        func.count(case((test, RUN.c.run_id)).distinct()) for test in (true(), NOT_CAPTURED, ~RUN.c.complete)
    )
    wall = (func.sum(RUN.c.duration_s), func.count() - func.count(RUN.c.duration_s))
    return select(*keys, *counts, *wall).select_from(table).group_by(*keys)


def _usage(by: str, filters: Filters) -> Select[Any]:
    keys = [*_columns(by, USAGE), USAGE.c.source, USAGE.c.reason]
    sums: list[Any] = [func.sum(USAGE.c.calls)]
    fresh = USAGE.c.input_tokens - USAGE.c.cached_tokens - func.coalesce(USAGE.c.cache_write_tokens, 0)
    parts = [USAGE.c[f"{name}_tokens"] for name in TOKENS[1:]]
    for column in (fresh, *parts, USAGE.c.api_s):
        sums += [func.sum(column), func.sum(case((column.is_(None), USAGE.c.calls), else_=0))]
    joined = USAGE.join(RUN, USAGE.c.run_id == RUN.c.run_id)
    return select(*keys, *sums).select_from(joined).where(filters.fits(USAGE)).group_by(*keys)


def _costs(by: str, filters: Filters) -> Select[Any]:
    keys = [*_columns(by, COST), COST.c.source, COST.c.reason, COST.c.currency, COST.c.unpriced_reason]
    sums = (func.sum(COST.c.calls), func.sum(COST.c.amount))
    joined = COST.join(RUN, COST.c.run_id == RUN.c.run_id)
    return select(*keys, *sums).select_from(joined).where(filters.fits(COST)).group_by(*keys)


class _Sum:
    """A sum in the making, and how many calls or runs it lacks."""

    def __init__(self) -> None:
        self.value: float | None = None
        self.missing = 0

    def add(self, value: float | Decimal | None, missing: int) -> None:
        if value is not None:  # PostgreSQL gives the sum of 64-bit numbers as a decimal
            self.value = (self.value or 0) + (int(value) if isinstance(value, Decimal) else value)
        self.missing += missing


class Group:
    """What is known of one group of runs so far."""

    def __init__(self, by: str, key: tuple[str | None, ...], *, so_far: bool = False) -> None:
        self._by = by
        self._so_far = so_far
        self._key = dict(zip(KEYS[by], key, strict=True))
        self._runs = self._not_captured = self._incomplete = 0
        self._calls = self._priced = 0
        self._wall, self._api = _Sum(), _Sum()
        self._tokens = {name: _Sum() for name in TOKENS}
        self._sources: Counter[str] = Counter()
        self._usage: Counter[str] = Counter()
        self._price: Counter[str] = Counter()
        self._amounts: dict[str, float] = {}
        self._without_price = self._bounded = 0

    def take_runs(self, row: Row[Any]) -> None:
        """A row of `_runs`."""
        self._runs, self._not_captured, incomplete, *wall = row[len(self._key) :]
        self._incomplete = 0 if self._so_far else incomplete
        self._wall.add(*wall)

    def take_usage(self, row: Row[Any]) -> None:
        """A row of `_usage`."""
        source, reason, calls, *sums = row[len(self._key) :]
        self._calls += calls
        self._sources[source] += calls
        if reason:
            self._usage[reason] += calls
        for total, value, missing in zip(
            (*self._tokens.values(), self._api), sums[::2], sums[1::2], strict=True
        ):
            total.add(value, missing)

    def take_cost(self, row: Row[Any]) -> None:
        """A row of `_costs`."""
        source, reason, currency, why, calls, amount = row[len(self._key) :]
        self._priced += calls
        if source == "estimated":
            self._sources["unknown"] -= calls
            self._sources["estimated"] += calls
        if why and why != NO_USAGE:
            self._price[why] += calls
        if amount is None:
            self._without_price += calls
            return
        self._amounts[currency] = self._amounts.get(currency, 0) + amount
        if reason or why:
            self._bounded += calls

    def line(self) -> CostLine:
        """All of it."""
        return CostLine(
            key=self._key,
            runs=self._runs,
            calls=self._total(self._calls, 0),
            tokens={name: self._total(total.value, total.missing) for name, total in self._tokens.items()},
            cost=self.cost(),
            wall_s=self._wall_time(),
            api_s=self._total(self._api.value, self._api.missing),
            coverage=self._coverage(),
        )

    def cost(self) -> Cost:
        """What it cost."""
        unpriced = self._without_price + max(0, self._calls - self._priced)
        told = [f"{unpriced} of {self._calls} calls unknown"] if unpriced else []
        told += [f"{self._bounded} of {self._calls} calls known in part"] if self._bounded else []
        return Cost(rounded(self._amounts), "; ".join(told + self._unseen()) or None)

    def _total(self, value: float | None, missing: int) -> Total:
        told = [f"{missing} of {self._calls} calls unknown"] if missing else []
        told += self._unseen()
        if not told:
            return Total(value or 0)
        return Total(value if self._calls else None, "; ".join(told))

    def _unseen(self) -> list[str]:
        missed, late = self._not_captured, self._incomplete
        told = [f"{missed} run{'s' if missed > 1 else ''} not captured"] if missed else []
        return told + ([f"{late} run{'s' if late > 1 else ''} not complete"] if late else [])

    def _wall_time(self) -> Total:
        if self._by in _OF_USAGE:
            return Total(None, f"a run is not divided by {self._by}")
        missing = self._wall.missing
        reason = f"{missing} run{'s' if missing > 1 else ''} without an end" if missing else None
        return Total(self._wall.value, reason)

    def _coverage(self) -> Coverage:
        sources = {name: count for name, count in sorted(self._sources.items()) if count}
        price = dict(self._price.most_common())
        if self._calls > self._priced:
            price[NOT_PRICED] = self._calls - self._priced
        return Coverage(sources, dict(self._usage.most_common()), price, self._not_captured, self._incomplete)
