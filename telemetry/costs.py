"""The pricing pass: from the calls of a run to its rows in ``cost``.

Promises, each with its test in ``tests/test_costs.py``:

* `price_pending` prices every run that has calls and no rows of this book for its present events; another
  book, or one event more, makes a run pending again. A run's rows are replaced as a whole.
* Each call is priced by itself; a row sums calls with the same key as in ``usage``, currency and reason.
  A row with an amount and a reason (``reason`` or ``unpriced_reason``) is a lower bound.
* A call whose usage is unknown, but whose request was accepted and kept, is priced by an estimate of its
  input, under the source ``estimated``. Token columns of other tables never hold an estimate.
* Nothing is locked while prices are looked up: if events arrive meanwhile, the run stays pending.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, Select, delete, exists, insert, select

from telemetry.database import reachable, writing
from telemetry.estimates import Estimate, estimate_input
from telemetry.pricing import Billed, PriceBook, Priced, Unpriced
from telemetry.tables import CallRow, CostRow, EventRow, RunRow, UsageRow

RUN, CALL, COST, EVENT, USAGE = (
    row.metadata.tables[row.__tablename__] for row in (RunRow, CallRow, CostRow, EventRow, UsageRow)
)

UNCOUNTED = ("repeated", "none")
"""Sources of usage that stand for no use of their own, and are in no total."""
UNKNOWN = "unknown"
ESTIMATED = "estimated"
INPUT_ONLY = "estimated from the input alone"


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
        pending = connection.execute(_pending(book)).all()
    return sum(price_run(engine, book, run_id, events) for run_id, events in pending)


def price_run(engine: Engine, book: PriceBook, run_id: str, events: int) -> bool:
    """Price a run that had `events` events; False when more came meanwhile. Raises `JournalUnreachable`."""
    with reachable(engine):
        with engine.connect() as connection:
            shares = [_share(connection, book, call) for call in connection.execute(_calls(run_id))]
        rows = list(_rows(run_id, events, book.name, shares))
        with writing(engine) as connection:
            found = select(RUN.c.events).where(RUN.c.run_id == run_id).with_for_update()
            if connection.execute(found).scalar() != events:
                return False
            connection.execute(delete(COST).where(COST.c.run_id == run_id))
            if rows:
                connection.execute(insert(COST), rows)
    return True


def forget(engine: Engine) -> None:
    """Drop all costs; the next pass makes them again. Raises `JournalUnreachable`."""
    with reachable(engine), writing(engine) as connection:
        connection.execute(delete(COST))


def _pending(book: PriceBook) -> Select[Any]:
    priced = exists().where(
        COST.c.run_id == RUN.c.run_id, COST.c.book == book.name, COST.c.run_events == RUN.c.events
    )
    used = exists().where(USAGE.c.run_id == RUN.c.run_id, USAGE.c.calls > 0)
    return select(RUN.c.run_id, RUN.c.events).where(used, ~priced)


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


def _rows(run_id: str, events: int, book: str, shares: Iterable[Share]) -> Iterator[dict[str, Any]]:
    sums: dict[tuple[str, ...], tuple[int, Decimal | None]] = {}
    for *key, amount in shares:
        calls, total = sums.get(tuple(key), (0, None))
        sums[tuple(key)] = calls + 1, total if amount is None else (total or Decimal(0)) + amount
    same = {"run_id": run_id, "book": book, "run_events": events}
    for summed, (calls, total) in sums.items():
        values = dict(zip(Share._fields, summed, strict=False))
        yield {**same, **values, "calls": calls, "amount": None if total is None else float(total)}
