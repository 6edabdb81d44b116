"""The event log: what the table ``event`` takes, refuses and gives back.

Promises, each with its test in ``tests/test_journal.py``:

* An event is stored verbatim or not at all. Bytes that are no event of a format this version knows are
  refused with a reason; an event whose *name* is unknown is an event.
* Nothing that `decode` lets through can make a database refuse a row that is folded from it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

from pydantic_core import from_json
from sqlalchemy import Connection, func, select, tuple_

from agent_shim.errors import EventError
from agent_shim.events import FORMAT_VERSION

from .bulk import DIALECTS, Insert
from .tables import EventRow, IdentifierRow, QuarantineRow, StoredEventRow

_ID = re.compile(r"[0-9a-f]{32}\Z")
_is_id = lru_cache(maxsize=4096)(_ID.match)
_RUN = re.compile(rb'"run":"([0-9a-f]{32})"')
_RISKY = "\\u0000"
"""What may be the escape of NUL, which PostgreSQL refuses in any text. (Lone surrogates are no JSON here.)"""

_LOOKUP = 400
"""Keys in one query: SQLite takes 32,766 parameters, and two go into each key."""

Item = TypeVar("Item")

EventValues = tuple[str, int, str, str, int, bytes, str]
"""An event as the view ``event`` shows it: producer, number, run, name, time, hash, body."""


class Arrival(NamedTuple):
    """An event on its way into the log."""

    row: EventValues
    event: dict[str, Any]


class Refusal(NamedTuple):
    """Bytes on their way into quarantine."""

    reason: str
    content: bytes


# --- reading bytes --------------------------------------------------------------------------------


def runs_named(bodies: Iterable[bytes]) -> set[str]:
    """The runs that events seem to belong to, found without reading them: good enough to lock by."""
    return {found[1].decode() for found in map(_RUN.search, bodies) if found}


def decode(body: bytes) -> Arrival:
    """The event in `body`. Raises `EventError` whose message is the reason to quarantine it."""
    try:
        text = body.decode()
        event = from_json(body, allow_inf_nan=False, cache_strings="all")
    except ValueError as error:
        raise EventError("not JSON") from error
    if type(event) is not dict or event.get("v") != FORMAT_VERSION:
        raise EventError(_why_unknown(event))
    run, producer, seq, name = event.get("run"), event.get("producer"), event.get("seq"), event.get("name")
    time_ns, mono = event.get("time"), event.get("mono")
    if not (
        type(run) is str
        and type(producer) is str
        and _is_id(run)
        and _is_id(producer)
        and type(seq) is type(time_ns) is type(mono) is int
        and 1 <= seq < 2**63
        and -(2**63) <= time_ns < 2**63
        and -(2**63) <= mono < 2**63
        and type(name) is str
        and type(event.get("data")) is dict
    ):
        raise EventError("not the shape of an event")
    if _RISKY in text:
        _refuse_nul(event)
    return Arrival((producer, seq, run, name, time_ns, sha256(body).digest(), text), event)


def _why_unknown(event: object) -> str:
    version = event.get("v") if type(event) is dict else None
    if type(version) is int:
        return (
            f"format version {version:.0f} is unknown"
            if abs(version) < 10**6
            else "format version is unknown"
        )
    return "not the shape of an event"


def _refuse_nul(event: dict[str, Any]) -> None:
    """Looks at every text in the event, without recursion."""
    left: list[Any] = [event]
    while left:
        value = left.pop()
        if type(value) is dict:
            left.extend(value)
            left.extend(value.values())
        elif type(value) is list:
            left.extend(value)
        elif type(value) is str and "\0" in value:
            raise EventError("text with NUL")


# --- the tables -----------------------------------------------------------------------------------


class EventLog:
    """Reads and writes the tables ``event`` and ``quarantine``, through statements compiled once."""

    def __init__(self, dialect: str) -> None:
        self._events = Insert(_STORED, dialect)
        self._name = DIALECTS[dialect][0](_IDENTIFIER).on_conflict_do_nothing()
        self._quarantine = Insert(_QUARANTINE, dialect)

    def append(self, connection: Connection, rows: Sequence[EventValues]) -> int:
        """Store events that are not there yet; how many were stored."""
        numbers = self._numbers(connection, {name for row in rows for name in (row[0], row[2])})
        return self._events.new(connection, [_stored(row, numbers) for row in rows])

    def _numbers(self, connection: Connection, ids: Collection[str]) -> dict[str, int]:
        """The numbers of these ids, given where they have none. Asked every time: a backup may come back."""
        numbers = _known_numbers(connection, ids)
        new = sorted(set(ids) - numbers.keys())  # all writers in this order, so that none waits in a ring
        if new:
            connection.execute(self._name, [{"id": name} for name in new])
            numbers |= _known_numbers(connection, new)
        return numbers

    def quarantine(self, connection: Connection, refusals: Sequence[Refusal], source: str, at: str) -> None:
        """Keep what could not be taken, once per content and reason."""
        rows = [(sha256(content).digest(), reason, at, source, content) for reason, content in refusals]
        self._quarantine.rows(connection, rows)

    def conflicts(self, connection: Connection, arrivals: Sequence[Arrival]) -> list[Refusal]:
        """Those of the events, all of whose numbers are taken, that are not the ones stored there."""
        known = self.hashes(connection, {arrival.row[:2] for arrival in arrivals})
        return [Refusal("conflict", row[6].encode()) for row, _ in arrivals if known[row[:2]] != row[5]]

    def hashes(self, connection: Connection, keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
        """Hashes of those of the events that are stored."""
        wanted = list(keys)
        numbers = _known_numbers(connection, {producer for producer, _ in wanted})
        names = {number: name for name, number in numbers.items()}
        known = [(numbers[producer], seq) for producer, seq in wanted if producer in numbers]
        found: dict[tuple[str, int], bytes] = {}
        for chunk in _chunks(known):
            query = select(_STORED.c.producer, _STORED.c.seq, _STORED.c.sha256).where(
                tuple_(_STORED.c.producer, _STORED.c.seq).in_(chunk)
            )
            found.update({(names[row[0]], row[1]): bytes(row[2]) for row in connection.execute(query)})
        return found

    def replay(self, connection: Connection, run_id: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """All stored events of a run."""
        query = select(_EVENT.c.producer, _EVENT.c.seq, _EVENT.c.body).where(_EVENT.c.run_id == run_id)
        for producer, seq, body in connection.execute(query):
            yield producer, seq, from_json(body, cache_strings="all")

    def replay_part(
        self, connection: Connection, producer: str, first: int, last: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The stored events of a producer with these numbers."""
        query = select(_EVENT.c.seq, _EVENT.c.body).where(
            _EVENT.c.producer == producer, _EVENT.c.seq.between(first, last)
        )
        for seq, body in connection.execute(query):
            yield seq, from_json(body, cache_strings="all")

    def runs(self, connection: Connection) -> list[str]:
        """The runs that have events."""
        named = select(_IDENTIFIER.c.id).where(_IDENTIFIER.c.number.in_(select(_STORED.c.run).distinct()))
        return list(connection.scalars(named.order_by(_IDENTIFIER.c.id)))

    def held(self, connection: Connection, run_id: str) -> dict[str, list[tuple[int, int]]]:
        """Producer → ranges of sequence numbers, both ends included, of the stored events of a run."""
        rank = func.row_number().over(partition_by=_EVENT.c.producer, order_by=_EVENT.c.seq)
        islands = (
            select(_EVENT.c.producer, _EVENT.c.seq, (_EVENT.c.seq - rank).label("island"))
            .where(_EVENT.c.run_id == run_id)
            .subquery()
        )
        low, high = func.min(islands.c.seq), func.max(islands.c.seq)
        query = select(islands.c.producer, low, high).group_by(islands.c.producer, islands.c.island)
        ranges: dict[str, list[tuple[int, int]]] = {}
        for producer, first, last in connection.execute(query.order_by(islands.c.producer, low)):
            ranges.setdefault(producer, []).append((first, last))
        return ranges


def _stored(row: EventValues, numbers: Mapping[str, int]) -> tuple[int, int, int, str, int, bytes, str]:
    """The row without what its columns say. The view ``event`` says it again, letter by letter."""
    producer, seq, run, name, time_ns, digest, body = row
    head = f'{{"v":1,"run":"{run}","producer":"{producer}","seq":{seq},"name":"{name}","time":{time_ns}'
    rest = body[len(head) :] if body.startswith(head) else body
    return numbers[producer], seq, numbers[run], name, time_ns, digest, rest


def _known_numbers(connection: Connection, ids: Collection[str]) -> dict[str, int]:
    """The numbers of those of the ids that have one."""
    found: dict[str, int] = {}
    for chunk in _chunks(list(ids)):
        query = select(_IDENTIFIER.c.id, _IDENTIFIER.c.number).where(_IDENTIFIER.c.id.in_(chunk))
        found.update((row[0], row[1]) for row in connection.execute(query))
    return found


def _chunks(items: list[Item]) -> Iterator[list[Item]]:
    return (items[start : start + _LOOKUP] for start in range(0, len(items), _LOOKUP))


_EVENT = EventRow.metadata.tables["event"]
_STORED = StoredEventRow.metadata.tables["stored_event"]
_IDENTIFIER = IdentifierRow.metadata.tables["identifier"]
_QUARANTINE = QuarantineRow.metadata.tables["quarantine"]
