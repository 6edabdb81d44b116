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
import ipaddress
import json
import zlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_shim.errors import EventError, JournalError, SettingsError
from telemetry import otlp
from telemetry.intake import RETRY_AFTER_S, Accepted, Body, Busy, Intake, Take

# google.rpc.Code by HTTP status.
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 413: 3, 415: 3, 503: 14}
_UNKNOWN = 2

# Content encoding → window bits of zlib: which wrapper it expects.
_WRAPPERS = {"gzip": 31, "deflate": 15}


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine's loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def application(
    intake: Intake, lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None
) -> Starlette:
    """The sink as an ASGI application."""
    receiver = _Receiver(intake)
    routes = [
        Route("/v1/logs", receiver.logs, methods=["POST"]),
        Route("/v1/traces", receiver.traces, methods=["POST"]),
        Route("/v1/metrics", receiver.metrics, methods=["POST"]),
        Route("/v1/runs/{run}/held", receiver.held, methods=["GET"]),
        Route("/v1/attempts", receiver.attempts, methods=["POST"]),
        Route("/healthz", receiver.health, methods=["GET"]),
        Route("/readyz", receiver.readiness, methods=["GET"]),
    ]
    handlers = {
        HTTPException: _refused,
        EventError: _undecodable,
        SettingsError: _undecodable,
        JournalError: _not_now,
        Busy: _not_now,
        TimeoutError: _not_now,
        Exception: _not_now,  # a fault of ours: the client keeps what it has, and the log has the traceback
    }
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


class _Receiver:
    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    # --- the three signals ---------------------------------------------------------------------------

    async def logs(self, request: Request) -> Response:
        """Log records."""
        return await self._exported(request, self._intake.logs)

    async def traces(self, request: Request) -> Response:
        """Spans."""
        return await self._exported(request, self._intake.traces)

    async def metrics(self, request: Request) -> Response:
        """Metrics."""
        return await self._exported(request, self._intake.metrics)

    async def _exported(self, request: Request, signal: Callable[[Body], Awaitable[Accepted]]) -> Response:
        kind = self._admit(request)
        with self._intake.room() as take:
            plain = await self._plain(request, take)
            peer = request.client.host if request.client else "unknown"
            accepted = await signal(Body(plain, kind, take, peer))
        body = otlp.success(kind, accepted.message, accepted.rejected)
        return Response(body, media_type=kind)

    # --- questions -----------------------------------------------------------------------------------

    async def held(self, request: Request) -> Response:
        """Which sequence numbers of a run are stored: producer → list of ranges, ends included."""
        self._authorise(request)
        run_id = request.path_params["run"]
        return JSONResponse(await self._intake.ask(lambda journal: journal.held(run_id)))

    async def attempts(self, request: Request) -> Response:
        """Reserves the number of an attempt; the same for the same run.

        ``{"run": …, "repository": …, "commit": …, "agent": …, "model": …}`` gives ``{"attempt": number}``, or
        with a ``limit``, and perhaps a ``policy``, ``{"refused": {"reason": …}}``.
        """
        self._authorise(request)
        with self._intake.room() as take:
            asked = _object(await self._sent(request, take))
        return JSONResponse(await self._intake.ask(lambda journal: self._intake.admit(journal, asked)))

    async def health(self, _: Request) -> Response:
        """The process answers, whatever its journal does."""
        return JSONResponse({"status": "ok"})

    async def readiness(self, _: Request) -> Response:
        """The journal answers too; with what came in since the start, by kind."""
        await self._intake.ask(lambda journal: journal.held(""))
        return JSONResponse({"status": "ready", "received": dict(self._intake.received)})

    # --- taking a body -------------------------------------------------------------------------------

    def _admit(self, request: Request) -> str:
        self._authorise(request)
        kind = _content_type(request)
        if kind not in (otlp.PROTOBUF, otlp.JSON):
            raise HTTPException(415, f"Content-Type is neither {otlp.PROTOBUF} nor {otlp.JSON}")
        return kind

    def _authorise(self, request: Request) -> None:
        if not self._intake.is_guarded and not is_loopback(request.url.hostname or ""):
            raise HTTPException(403, "without a token, only requests to a loopback address are taken")
        if not self._intake.knows(request.headers.get("authorization", "")):
            raise HTTPException(401, "the bearer token is missing or wrong", {"WWW-Authenticate": "Bearer"})

    async def _plain(self, request: Request, take: Take) -> Callable[[], bytes]:
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity" and encoding not in _WRAPPERS:
            raise HTTPException(415, "Content-Encoding is none of gzip, deflate, identity")
        sent = await self._sent(request, take)
        if encoding == "identity":
            return lambda: sent
        return lambda: _inflated(sent, _WRAPPERS[encoding], self._intake.limits.body_bytes)

    async def _sent(self, request: Request, take: Take) -> bytes:
        limits = self._intake.limits
        chunks: list[bytes] = []
        total = 0
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in request.stream():
                    total += len(chunk)
                    if total > limits.body_bytes:
                        raise HTTPException(413, f"the body is larger than {limits.body_bytes} bytes")
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


def _object(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return content


# --- answers --------------------------------------------------------------------------------------


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


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
