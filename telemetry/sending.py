"""Sending a recorded run from the journal to an OpenTelemetry endpoint, as it was recorded.

Promises, each with its test in ``tests/test_sending.py``:

* Log records and spans have the times and ids that they had, or would have had, when they were recorded:
  whoever tells duplicates by them has none.
* Every event of the run goes once. An endpoint that takes one of logs and spans gets that one, and one that
  refuses some of them for good gets the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

from pydantic_core import from_json
from sqlalchemy import Engine, select
from sqlmodel import SQLModel

from agent_shim.errors import DeliveryError
from agent_shim.events import SpanReceived, name_of
from telemetry import tables  # noqa: F401  (its import fills the metadata)
from telemetry.database import reachable
from telemetry.exporter import BatchRefused, Exporter, SignalRefused
from telemetry.spans import Span, SpanFold

_EVENT = SQLModel.metadata.tables["event"]
_AT_ONCE = 2000
"""Events or spans handed to the exporter in one call, each of which has a bound on its time."""


Item = TypeVar("Item")


class Sent(NamedTuple):
    """What the endpoint accepted."""

    events: int
    spans: int
    refused: list[str]
    """What it does not take, and why."""


def send(engine: Engine, run_id: str, exporter: Exporter) -> Sent:
    """Send a run. Raises `DeliveryError` when the endpoint cannot be reached or accepts neither signal."""
    spans, trace_id = _spans(engine, run_id)
    refused: list[str] = []
    events = _in_parts(refused, _bodies(engine, run_id), lambda part: exporter.events(part, trace_id))
    sent = _in_parts(refused, iter(spans), exporter.spans)
    if refused and not (events or sent):
        raise DeliveryError(f"Nothing was sent: {'; '.join(refused)}", hint="Name another with --endpoint.")
    return Sent(events, sent, refused)


def _in_parts(refused: list[str], items: Iterator[Item], send: Callable[[list[Item]], object]) -> int:
    """How many were sent; a signal that is not taken, or a batch of it, is noted in `refused`."""
    sent = 0
    while part := list(islice(items, _AT_ONCE)):
        try:
            send(part)
        except BatchRefused as error:
            refused.append(str(error))
            sent -= error.refused
        except SignalRefused as error:
            refused.append(str(error))
            break
        sent += len(part)
    return sent


def _spans(engine: Engine, run_id: str) -> tuple[list[Span], str | None]:
    fold = SpanFold()
    spans: list[Span] = []
    for body in _bodies(engine, run_id):
        event = from_json(body)
        if event["name"] != name_of(SpanReceived):  # a span of others, who sent it themselves
            spans += fold.add(event)
    return [*spans, *fold.rest()], fold.trace_id


def _bodies(engine: Engine, run_id: str) -> Iterator[bytes]:
    """The events of a run in the order of their times."""
    query = select(_EVENT.c.body).where(_EVENT.c.run_id == run_id)
    order = query.order_by(_EVENT.c.time_ns, _EVENT.c.producer, _EVENT.c.seq)
    with reachable(engine), engine.connect() as connection:
        for body in connection.execution_options(yield_per=1000).scalars(order):
            yield body.encode()
