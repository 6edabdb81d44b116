"""The pricing pass: from the calls of a run to its rows in ``cost``.

Promises, each with its test in ``tests/test_costs.py``:

* `price_pending` prices every run that has calls and no rows of this book for its present events; another
  book, or one event more, makes a run pending again. A run's rows are replaced as a whole.
* Each call is priced by itself; a row sums calls with the same key as in ``usage``, currency and reason.
  A row with an amount and a reason (``reason`` or ``unpriced_reason``) is a lower bound.
* A call whose usage is unknown, but whose request was accepted and kept, is priced by an estimate of its
  input, under the source ``estimated``. Token columns of other tables never hold an estimate.
* Nothing is locked while prices are looked up, and nothing is waited for: a run that gets events
  meanwhile stays pending.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, Select, and_, delete, exists, insert, or_, select

from telemetry import config_file
from telemetry.database import connect, reachable, writing
from telemetry.estimates import Estimate, estimate_input
from telemetry.pricing import Billed, PriceBook, Priced, Unpriced
from telemetry.settings import CONFIG, Settings
from telemetry.tables import CallRow, CostRow, EventRow, RunRow, UsageRow

RUN, CALL, COST, EVENT, USAGE = (
    row.metadata.tables[row.__tablename__] for row in (RunRow, CallRow, CostRow, EventRow, UsageRow)
)

UNCOUNTED = ("repeated", "none")
"""Sources of usage that stand for no use of their own, and are in no total."""
UNKNOWN = "unknown"
ESTIMATED = "estimated"
INPUT_ONLY = "estimated from the input alone"


BATCH = 100
"""Runs priced in one transaction."""


class Pending(NamedTuple):
    """A run to be priced, and how many events it had when it was looked at."""

    run_id: str
    events: int


class Share(NamedTuple):
    """What one call adds to ``cost``: everything of its row's key but run and book, and its amount."""

    day: str
    provider: str
    model: str
    tier: str
    source: str
    reason: str
    currency: str
    unpriced_reason: str
    amount: Decimal | None


def price_pending(engine: Engine, book: PriceBook) -> int:
    """Price every run whose costs are missing or out of date. Gives how many were.

    Raises `JournalUnreachable`.
    """
    with reachable(engine), engine.connect() as connection:
        pending = [Pending(*run) for run in connection.execute(_pending(book))]
    batches = (pending[at : at + BATCH] for at in range(0, len(pending), BATCH))
    return sum(price_runs(engine, book, batch) for batch in batches)


def price_runs(engine: Engine, book: PriceBook, runs: Sequence[Pending]) -> int:
    """Price these runs in one transaction, but those that have more events by now. Gives how many were.

    Raises `JournalUnreachable`.
    """
    with reachable(engine):
        with engine.connect() as connection:
            rows = {run.run_id: list(_rows(connection, book, run)) for run in runs}
        with writing(engine) as connection:
            same = _unchanged(connection, runs)
            connection.execute(delete(COST).where(COST.c.run_id.in_(same)))
            if found := [row for run_id in same for row in rows[run_id]]:
                connection.execute(insert(COST), found)
    return len(same)


def forget(engine: Engine) -> None:
    """Drop all costs; the next pass makes them again. Raises `JournalUnreachable`."""
    with reachable(engine), writing(engine) as connection:
        connection.execute(delete(COST))


def _pending(book: PriceBook) -> Select[Any]:
    of_run = COST.c.run_id == RUN.c.run_id
    current = and_(COST.c.book == book.name, COST.c.run_events == RUN.c.events)
    used = exists().where(USAGE.c.run_id == RUN.c.run_id, USAGE.c.calls > 0)
    missing = and_(used, ~exists().where(of_run, current))
    stale = exists().where(of_run, ~current)
    return select(RUN.c.run_id, RUN.c.events).where(or_(missing, stale)).order_by(RUN.c.run_id)


def _unchanged(connection: Connection, runs: Sequence[Pending]) -> list[str]:
    """Those that have no more events than were priced; one that is being written is left for later."""
    wanted = {run.run_id: run.events for run in runs}
    found = select(RUN.c.run_id, RUN.c.events).where(RUN.c.run_id.in_(wanted)).order_by(RUN.c.run_id)
    now = connection.execute(found.with_for_update(skip_locked=True))
    return [run.run_id for run in now if run.events == wanted[run.run_id]]


def _calls(run_id: str) -> Select[Any]:
    return select(CALL).where(CALL.c.run_id == run_id, CALL.c.usage_source.not_in(UNCOUNTED))


# --- one call ------------------------------------------------------------------------------------


class Assessed(NamedTuple):
    """What a call used and cost, as far as is known."""

    source: str
    """Where the usage is from: ``reported``, ``agent``, ``estimated`` or ``unknown``."""
    estimate: Estimate | None
    price: Priced | Unpriced
    hole: str = ""
    """Why the price is only a lower bound."""


def assess(connection: Connection, book: PriceBook, call: Row[Any]) -> Assessed:
    """What the call, a row of ``llm_call``, used and cost."""
    billed = _billed(call)
    estimate = _estimate(connection, call) if call.usage_source == UNKNOWN else None
    if estimate is not None:
        price = book.price(billed._replace(input_tokens=estimate.tokens))
        return Assessed(ESTIMATED, estimate, price, INPUT_ONLY)
    price = book.price(billed)
    return Assessed(call.usage_source, None, price, price.partial if isinstance(price, Priced) else "")


def _share(connection: Connection, book: PriceBook, call: Row[Any]) -> Share:
    assessed = assess(connection, book, call)
    key = {
        "day": _began(call).date().isoformat(),
        "provider": call.provider or UNKNOWN,
        "model": call.model or call.model_requested or UNKNOWN,
        "tier": call.tier or UNKNOWN,
        "source": assessed.source,
        "reason": call.usage_reason or "",
    }
    price = assessed.price
    if isinstance(price, Unpriced):
        return Share(**key, currency="", unpriced_reason=price.reason, amount=None)
    return Share(**key, currency=price.currency, unpriced_reason=assessed.hole, amount=price.amount)


def _began(call: Row[Any]) -> datetime:
    return datetime.fromisoformat(call.started_at or call.finished_at).astimezone(UTC)


def _billed(call: Row[Any]) -> Billed:
    usage = _object(call.usage)
    return Billed(
        at=_began(call),
        model=call.model,
        model_requested=call.model_requested,
        provider=call.provider,
        tier=call.tier,
        tier_requested=call.tier_requested,
        input_tokens=call.input_tokens,
        cached_tokens=call.cached_tokens,
        cache_write_tokens=call.cache_write_tokens,
        cache_write_1h_tokens=_number(_object(usage.get("cache_creation")).get("ephemeral_1h_input_tokens")),
        output_tokens=call.output_tokens,
        audio_tokens=_audio(usage),
    )


def _audio(usage: Mapping[str, Any]) -> int | None:
    details = (
        "prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details",
    )  # fmt: skip
    counts = [_number(_object(usage.get(name)).get("audio_tokens")) for name in details]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _estimate(connection: Connection, call: Row[Any]) -> Estimate | None:
    """An estimate of the input of a call that the API accepted; none where it may not have been billed."""
    if call.source != "wire" or call.http_status is None or not 200 <= call.http_status < 300:
        return None
    producer, _, seq = call.call_id.rpartition(":")
    stored = select(EVENT.c.body).where(EVENT.c.producer == producer, EVENT.c.seq == int(seq))
    event = _object(connection.execute(stored).scalar())
    kept = _object(event.get("data")).get("input")
    model = call.model or call.model_requested
    found = estimate_input(call.surface, model, _object(kept) or None, _object(event.get("altered")))
    return found if isinstance(found, Estimate) else None


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        value = json.loads(value)
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


# --- one run -------------------------------------------------------------------------------------


def _rows(connection: Connection, book: PriceBook, run: Pending) -> Iterator[dict[str, Any]]:
    sums: dict[tuple[str, ...], tuple[int, Decimal | None]] = {}
    for call in connection.execute(_calls(run.run_id)).all():
        *key, amount = _share(connection, book, call)
        calls, total = sums.get(tuple(key), (0, None))
        sums[tuple(key)] = calls + 1, total if amount is None else (total or Decimal(0)) + amount
    same = {"run_id": run.run_id, "book": book.name, "run_events": run.events}
    for summed, (calls, total) in sums.items():
        values = dict(zip(Share._fields, summed, strict=False))
        yield {**same, **values, "calls": calls, "amount": None if total is None else float(total)}


# --- by itself -----------------------------------------------------------------------------------


def price_book(home: Path) -> PriceBook:
    """The price book with the overrides in ``config.toml``. Raises `PriceError` or `SettingsError`."""
    path = home / CONFIG
    return PriceBook(config_file.read(path), str(path))


def main() -> None:
    """Price what is pending in the journal of the settings: ``python -m telemetry.costs``, then gone.

    For processes that live long: the prices take 100 MB of memory.
    """
    settings = Settings.load(os.environ)
    engine = connect(settings.journal)
    try:
        price_pending(engine, price_book(settings.home))
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()
