"""What the sink does with a request, whichever way it came: room for it, its content, the journal, counts.

Promises, each with its test in ``tests/test_sink.py`` for HTTP and gRPC alike:

* A request is accepted after the commit of everything in it, never before.
* What the bodies of all requests hold in memory together is bounded; beyond it there is `Busy`.
* A log record of ours that is no event is kept in quarantine and accepted with a warning.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread

from telemetry import attempts, otlp
from telemetry.journal import Delivery, Ingested, Journal

RETRY_AFTER_S = 3
"""Python's exporters give up at once when asked to wait beyond their own deadline of 10 s."""

_DECODING = 2
"""Bodies that are inflated and decoded at the same time, each in a thread."""

Result = TypeVar("Result")
Take = Callable[[int], None]
"""Counts bytes of a request among those of all; raises `Busy` when there is no room for them."""


class Ask(Protocol):
    """Runs a job on the thread that owns the journal."""

    def __call__(self, job: Callable[[Journal], Result], /) -> Awaitable[Result]:
        """What the job gives or raises; raises `Busy` when too many wait already."""
        ...


class Store(Protocol):
    """Gives events to the journal; what arrives at the same time may share a transaction."""

    def __call__(self, delivery: Delivery, /) -> Awaitable[Ingested]:
        """What became of them, committed, or what the journal raises; raises `Busy` as well."""
        ...


Admit = Callable[[Journal, Mapping[str, object]], Mapping[str, object]]
"""Answers a run that asks for an attempt."""


def numbered(journal: Journal, asked: Mapping[str, object]) -> Mapping[str, object]:
    """Its number, and no limit."""
    return {"attempt": attempts.reserve_asked(journal, asked)}


class Busy(Exception):
    """Too many wait already, or the sink is about to stop."""


class Limits(NamedTuple):
    """Bounds on what is taken in."""

    body_bytes: int = 20 * 1024 * 1024
    """Of one body, as sent and as inflated; the collector's own default."""
    total_bytes: int = 128 * 1024 * 1024
    """Of all bodies that are being read or wait for their commit."""
    body_seconds: float = 30.0
    """For one body to arrive."""


class Accepted(NamedTuple):
    """The request is done for; sending it again would change nothing."""

    message: str = ""
    """A warning, or why some of it was rejected."""
    rejected: int = 0


class Body(NamedTuple):
    """An export request on its way in."""

    plain: Callable[[], bytes]
    """Its bytes, inflated; called in a thread."""
    kind: str
    """`otlp.PROTOBUF` or `otlp.JSON`."""
    take: Take
    peer: str


class Intake:
    """The one place where requests of all protocols come together. For one event loop."""

    def __init__(
        self, ask: Ask, store: Store, token: str | None, limits: Limits, admit: Admit = numbered
    ) -> None:
        self.ask = ask
        self._give = store
        self.admit = admit
        self.limits = limits
        self.received: Counter[str] = Counter()
        """What came in since the start, by kind."""
        self._token = None if token is None else token.encode()
        self._taken_bytes = 0
        self._decoding = CapacityLimiter(_DECODING)

    @property
    def is_guarded(self) -> bool:
        """Whether a token is asked for."""
        return self._token is not None

    def knows(self, authorization: str) -> bool:
        """Whether `authorization` is ``Bearer`` and the token, where there is one."""
        if self._token is None:
            return True
        scheme, _, given = authorization.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)

    @contextmanager
    def room(self) -> Iterator[Take]:
        """Counts the bytes of one request among those of all, until it is answered."""
        own = 0

        def take(size: int) -> None:
            nonlocal own
            if self._taken_bytes + size > self.limits.total_bytes:
                raise Busy("too much is waiting to be written")
            own += size
            self._taken_bytes += size

        try:
            yield take
        finally:
            self._taken_bytes -= own

    # --- the three signals ---------------------------------------------------------------------------

    async def logs(self, body: Body) -> Accepted:
        """Events go to the journal, and what others say of calls; other records are counted.

        Raises `EventError` for what is no export request, and what the journal raises.
        """
        logs = await self._decoded(body, otlp.decode_logs)
        self.received.update(foreign_records=logs.foreign, received_records=logs.received)
        kept = await self._store(logs.bodies, body.peer)
        return Accepted(
            f"{kept} records are no events of their own and were put in quarantine" if kept else ""
        )

    async def traces(self, body: Body) -> Accepted:
        """Spans of GenAI operations by others go to the journal; our own say nothing new to it."""
        spans = await self._decoded(body, otlp.decode_spans)
        self.received.update(own_spans=spans.own, foreign_spans=spans.foreign, invalid_spans=spans.invalid)
        await self._store(spans.events, body.peer)
        return Accepted("trace or span id is not valid" if spans.invalid else "", spans.invalid)

    async def metrics(self, body: Body) -> Accepted:
        """Taken and counted, so that a client that sends all signals to one place goes on."""
        self.received["metrics"] += await self._decoded(body, otlp.decode_metrics)
        return Accepted()

    async def _decoded(self, body: Body, decode: Callable[[bytes, str], Result]) -> Result:
        def inflate_and_decode() -> tuple[int, Result]:
            plain = body.plain()
            return len(plain), decode(plain, body.kind)

        size, result = await to_thread.run_sync(inflate_and_decode, limiter=self._decoding)
        body.take(size)
        return result

    async def _store(self, bodies: list[bytes], peer: str) -> int:
        """How many of the bodies went into quarantine."""
        if not bodies:
            return 0
        ingested = await self._give(Delivery(bodies, f"sink, from {peer}"))
        self.received.update(ingested._asdict())
        return ingested.conflicts + ingested.quarantined
