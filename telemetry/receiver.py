"""The HTTP side of the sink: OTLP requests in, events out to whoever writes the journal.

Promises, each with its test in ``tests/test_sink.py``:

* 200 is answered after the commit, never before. Whoever got no 200 sends again; twice is as good as once.
* What may work later is answered 503 with ``Retry-After`` (`RETRY_AFTER_S`): clients drop for good on 500
  and on nearly every 4xx. So 4xx says only what no repetition can mend.
* A log record of ours that is no event is kept in quarantine and acknowledged with a warning.
* A body is bounded as sent and as inflated, and so is what all bodies together may hold in memory.
* Every 4xx and 5xx has a ``google.rpc.Status`` as body, in the encoding of the request.
* Nothing is taken without the token where one is set. Where none is, nothing is taken for another name
  than the loopback's, so that no web page can send by pointing its own name here.

After the OTLP specification 1.11.0, ``docs/specification.md``, section OTLP/HTTP.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import NamedTuple, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_shim.errors import EventError, JournalError
from telemetry import otlp
from telemetry.journal import Journal

RETRY_AFTER_S = 3
"""Python's exporters give up at once when asked to wait beyond their own deadline of 10 s."""

# google.rpc.Code by HTTP status.
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 413: 3, 415: 3, 503: 14}
_UNKNOWN = 2

# Content encoding → window bits of zlib: which wrapper it expects.
_WRAPPERS = {"gzip": 31, "deflate": 15}

_INFLATING = 2
"""Bodies that are inflated and decoded at the same time, each in a thread."""

Result = TypeVar("Result")


class Ask(Protocol):
    """Runs a job on the thread that owns the journal."""

    def __call__(self, job: Callable[[Journal], Result], /) -> Awaitable[Result]:
        """What the job gives or raises; raises `Busy` when too many wait already."""
        ...


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


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine's loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def application(
    ask: Ask,
    *,
    token: str | None,
    limits: Limits | None = None,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """The sink as an ASGI application."""
    receiver = _Receiver(ask, token, limits or Limits())
    routes = [
        Route("/v1/logs", receiver.logs, methods=["POST"]),
        Route("/v1/traces", receiver.traces, methods=["POST"]),
        Route("/v1/metrics", receiver.metrics, methods=["POST"]),
        Route("/v1/runs/{run}/held", receiver.held, methods=["GET"]),
        Route("/healthz", receiver.health, methods=["GET"]),
        Route("/readyz", receiver.readiness, methods=["GET"]),
    ]
    handlers = {
        HTTPException: _refused,
        EventError: _undecodable,
        JournalError: _not_now,
        Busy: _not_now,
        TimeoutError: _not_now,
        Exception: _not_now,  # a fault of ours: the client keeps what it has, and the log has the traceback
    }
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


class _Receiver:
    def __init__(self, ask: Ask, token: str | None, limits: Limits) -> None:
        self._ask = ask
        self._token = None if token is None else token.encode()
        self._limits = limits
        self._taken_bytes = 0
        self._received: Counter[str] = Counter()
        self._inflating = CapacityLimiter(_INFLATING)

    # --- the three signals ---------------------------------------------------------------------------

    async def logs(self, request: Request) -> Response:
        """Events go to the journal; records of others are counted."""
        kind = self._admit(request)
        with self._room() as take:
            logs = await self._decoded(request, take, otlp.decode_logs, kind)
            self._received["foreign_records"] += logs.foreign
            if not logs.bodies:
                return _accepted(kind)
            source = f"sink, from {request.client.host if request.client else 'unknown'}"
            ingested = await self._ask(lambda journal: journal.ingest(logs.bodies, source))
        self._received.update(ingested._asdict())
        kept = ingested.conflicts + ingested.quarantined
        return _accepted(
            kind, f"{kept} records are no events of their own and were put in quarantine" if kept else ""
        )

    async def traces(self, request: Request) -> Response:
        """Our spans say nothing new, and those of others are only counted by this version."""
        kind = self._admit(request)
        with self._room() as take:
            spans = await self._decoded(request, take, otlp.decode_spans, kind)
        self._received.update(own_spans=spans.own, foreign_spans=spans.foreign, invalid_spans=spans.invalid)
        return _accepted(kind, "trace or span id is not valid" if spans.invalid else "", spans.invalid)

    async def metrics(self, request: Request) -> Response:
        """Taken and counted, so that a client that sends all signals to one place goes on."""
        kind = self._admit(request)
        with self._room() as take:
            self._received["metrics"] += await self._decoded(request, take, otlp.decode_metrics, kind)
        return _accepted(kind)

    # --- questions -----------------------------------------------------------------------------------

    async def held(self, request: Request) -> Response:
        """Which sequence numbers of a run are stored: producer → list of ranges, ends included."""
        self._authorise(request)
        run_id = request.path_params["run"]
        return JSONResponse(await self._ask(lambda journal: journal.held(run_id)))

    async def health(self, _: Request) -> Response:
        """The process answers, whatever its journal does."""
        return JSONResponse({"status": "ok"})

    async def readiness(self, _: Request) -> Response:
        """The journal answers too; with what came in since the start, by kind."""
        await self._ask(lambda journal: journal.held(""))
        return JSONResponse({"status": "ready", "received": dict(self._received)})

    # --- taking a body -------------------------------------------------------------------------------

    def _admit(self, request: Request) -> str:
        self._authorise(request)
        kind = _content_type(request)
        if kind not in (otlp.PROTOBUF, otlp.JSON):
            raise HTTPException(415, f"Content-Type is neither {otlp.PROTOBUF} nor {otlp.JSON}")
        return kind

    def _authorise(self, request: Request) -> None:
        if self._token is None:
            if not is_loopback(request.url.hostname or ""):
                raise HTTPException(403, "without a token, only requests to a loopback address are taken")
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            raise HTTPException(401, "the bearer token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    @contextmanager
    def _room(self) -> Iterator[Callable[[int], None]]:
        """Counts the bytes of one request among those of all, until it is answered."""
        own = 0

        def take(size: int) -> None:
            nonlocal own
            if self._taken_bytes + size > self._limits.total_bytes:
                raise Busy("too much is waiting to be written")
            own += size
            self._taken_bytes += size

        try:
            yield take
        finally:
            self._taken_bytes -= own

    async def _decoded(
        self, request: Request, take: Callable[[int], None], decode: Callable[[bytes, str], Result], kind: str
    ) -> Result:
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity" and encoding not in _WRAPPERS:
            raise HTTPException(415, "Content-Encoding is none of gzip, deflate, identity")
        sent = await self._body(request, take)
        limit = self._limits.body_bytes

        def inflate_and_decode() -> tuple[int, Result]:
            plain = sent if encoding == "identity" else _inflated(sent, _WRAPPERS[encoding], limit)
            return len(plain), decode(plain, kind)

        size, result = await to_thread.run_sync(inflate_and_decode, limiter=self._inflating)
        take(size)
        return result

    async def _body(self, request: Request, take: Callable[[int], None]) -> bytes:
        chunks: list[bytes] = []
        total = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    total += len(chunk)
                    if total > self._limits.body_bytes:
                        raise HTTPException(413, f"the body is larger than {self._limits.body_bytes} bytes")
                    take(len(chunk))
                    chunks.append(chunk)
        except ClientDisconnect as error:
            raise HTTPException(400, "the body ended before its end") from error
        return b"".join(chunks)


def _inflated(data: bytes, wrapper: int, limit: int) -> bytes:
    """`data` inflated, never to more than `limit` bytes. One layer and one member, as OTLP clients send."""
    stream = zlib.decompressobj(wrapper)
    try:
        plain = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise HTTPException(400, f"the body cannot be inflated: {error}") from error
    if len(plain) > limit:
        raise HTTPException(413, f"the body inflates to more than {limit} bytes")
    if not stream.eof or stream.unused_data:
        raise HTTPException(400, "the body cannot be inflated: it ends too early or too late")
    return plain


# --- answers --------------------------------------------------------------------------------------


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _accepted(kind: str, message: str = "", rejected_spans: int = 0) -> Response:
    return Response(otlp.success(kind, message, rejected_spans), media_type=kind)


def _failed(request: Request, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    kind = otlp.PROTOBUF if _content_type(request) == otlp.PROTOBUF else otlp.JSON
    body = otlp.failure(kind, _CODES.get(status, _UNKNOWN), message)
    return Response(body, status, headers, media_type=kind)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _failed(request, error.status_code, error.detail, dict(error.headers or {}))


async def _undecodable(request: Request, error: Exception) -> Response:
    return _failed(request, 400, str(error))


async def _not_now(request: Request, error: Exception) -> Response:
    reason = str(error) if isinstance(error, JournalError | Busy) else type(error).__name__
    return _failed(request, 503, f"not now: {reason}", {"Retry-After": str(RETRY_AFTER_S)})
