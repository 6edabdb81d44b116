"""What every command that reads does first: deliver, open the journal, price.

Promises, each with its test in ``tests/test_cli.py``:

* What a killed wrapper left in the spool is in the journal before the question is put; what could not be
  brought is said, and never silently missing from the answer.
* A journal that does not exist yet is empty, and is not made by asking.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine, create_engine
from sqlmodel import SQLModel

from telemetry.costs import price_book, price_pending
from telemetry.database import url_of
from telemetry.deliverer import deliver
from telemetry.journal import Journal
from telemetry.pricing import PriceBook
from telemetry.queries import short
from telemetry.settings import Settings


class Reading(NamedTuple):
    """A journal that is as current as can be."""

    journal: Journal
    book: PriceBook
    missing: Mapping[str, str]
    """Short id of a run → why some of its events are not in the journal."""

    @property
    def engine(self) -> Engine:
        """Where to put questions."""
        return self.journal.engine


@contextmanager
def reading(settings: Settings, environ: Mapping[str, str]) -> Iterator[Reading]:
    """The journal, with all that was in the spool, priced. Raises what opening it raises, or `PriceError`."""
    book = price_book(settings.home)
    delivered = deliver(settings, environ)
    missing = {short(run): why for run, why in delivered.waiting.items()}
    with Journal.open(settings.journal) if exists(settings.journal) else _nothing() as journal:
        price_pending(journal.engine, book)
        yield Reading(journal, book, missing)


def _nothing() -> Journal:
    """A journal without events, in memory."""
    engine = create_engine("sqlite://")
    SQLModel.metadata.create_all(engine)
    return Journal(engine)


def exists(place: str) -> bool:
    """Whether there is something at a journal's place; of a server this is found out by asking it."""
    url = url_of(place)
    return url.get_backend_name() != "sqlite" or Path(str(url.database)).exists()
