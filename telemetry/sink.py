"""The sink: a server that takes events over OTLP, by HTTP and gRPC, and writes them into a journal.

Promises, each with its test in ``tests/test_sink.py``:

* One thread owns the journal. At most `BACKLOG` requests wait for it; more are told to come again. Those that
  wait at the same time share a transaction, and none fails for a fault of another.
* It starts with a journal that cannot be reached, and answers 503 until it can be.
* It does not listen beyond the loopback without a token (``AGENT_TELEMETRY_SINK_TOKEN``).
* SIGTERM and SIGINT stop it when the requests it has taken are answered, at most `GRACE_S` later.
* A connection whose request never comes whole is closed.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import queue
import socket
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from agent_shim.errors import JournalError, JournalUnreachable, SettingsError
from telemetry import database
from telemetry.intake import Admit, Busy, Intake, Limits, Result, numbered
from telemetry.journal import Delivery, Ingested, Journal
from telemetry.receiver import application, is_loopback

TOKEN = "AGENT_TELEMETRY_SINK_TOKEN"
BACKLOG = 64
TOGETHER = 2048
"""Events from which on no further request joins a transaction: more take memory and gain little."""
GRACE_S = 10
GARBAGE = 10_000
"""New objects after which cycles are looked for. Events are read into many small objects that have none: with
Python's 700 the looking takes a tenth of the processor time."""
HEAD_TIMEOUT_S = 20.0
"""For the head of a request to arrive; uvicorn itself waits for ever."""
MAX_CONNECTIONS = 512
_M_ARENA_MAX = -8
"""Of ``mallopt`` (malloc.h of glibc)."""
PATIENCE_S = 4.0
"""How long to wait for others that write the journal: clients wait 10 s for an answer."""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


def serve(
    journal_url: str,
    host: str,
    port: int,
    grpc_port: int | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    admit: Admit = numbered,
) -> None:
    """Run the sink until it is told to stop; without `grpc_port` it speaks HTTP alone.

    `admit` answers who asks for an attempt.

    Raises `SettingsError` for an address that cannot be listened on, or not without a token, and
    `JournalTooNew`.
    """
    token = environ.get(TOKEN) or None
    if token is None and not is_loopback(host):
        raise SettingsError(
            f"the sink does not listen on {host or 'every address'} without a token",
            hint=f"set {TOKEN}; clients: OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20<token>",
        )
    if grpc_port is not None:
        _listening(host, grpc_port).close()  # gRPC itself only says that it failed
    with _listening(host, port) as listener:
        rpc = None if grpc_port is None else Address(host, grpc_port)
        _one_heap()
        _upgrade_apart(journal_url)
        gc.set_threshold(GARBAGE)
        server(Writer(journal_url), token=token, rpc=rpc, admit=admit).run(sockets=[listener])


def _one_heap() -> None:
    """Have glibc keep one heap for all threads, so that one reuses what another freed: 7 MB less."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if set_option is not None:
        set_option(_M_ARENA_MAX, 1)


def _upgrade_apart(journal_url: str) -> None:
    """Bring the journal's tables up to date in a child, with which the 9 MB go that this loads.

    What fails there fails again, and is told, where the journal is opened.
    """
    if threading.active_count() > 1:
        return  # a child would find their locks taken
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        database.connect(journal_url, patience_s=PATIENCE_S).dispose()
    finally:
        os._exit(0)


def server(
    writer: Writer,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    rpc: Address | None = None,
    admit: Admit = numbered,
) -> uvicorn.Server:
    """The server, not started; it closes `writer` when it stops. `rpc` is where it speaks gRPC as well."""
    intake = Intake(writer.ask, writer.store, token, limits or Limits(), admit)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        writer.start()
        try:
            async with _speaking_grpc(intake, rpc):
                yield
        finally:
            await asyncio.to_thread(writer.close)

    return uvicorn.Server(
        uvicorn.Config(
            application(intake, lifespan),
            http=_Protocol,
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=GRACE_S,
        )
    )


@asynccontextmanager
async def _speaking_grpc(intake: Intake, address: Address | None) -> AsyncIterator[None]:
    if address is None:
        yield
        return
    from telemetry.grpc_receiver import GrpcReceiver  # 20 MB, only where it is wanted

    receiver = GrpcReceiver(intake)
    await receiver.start(*address)
    try:
        yield
    finally:
        await receiver.stop(GRACE_S)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise SettingsError(f"the sink cannot listen on {host}:{port}: {error}") from error


class _Protocol(H11Protocol):
    """HTTP/1.1 of uvicorn, with a bound on how long a request's head may take."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._check_later()

    def _check_later(self) -> None:
        self.loop.call_later(HEAD_TIMEOUT_S, self._check, self.cycle)

    def _check(self, last_request: RequestResponseCycle | None) -> None:
        """Close the connection when no request came whole since the last look, and none is being answered."""
        is_answering = last_request is not None and not last_request.response_complete
        if self.cycle is last_request and not is_answering:
            self.transport.close()
        elif not self.transport.is_closing():
            self._check_later()


class _Job(NamedTuple):
    work: Callable[[Journal], Any]
    done: Future[Any]
    delivery: Delivery | None = None
    """What `work` stores, where it does nothing else."""


class Writer:
    """The thread that owns the journal, and the queue before it."""

    def __init__(self, journal_url: str) -> None:
        """Raises `JournalTooNew`; a journal that cannot be reached is tried again at every request."""
        self._url = journal_url
        self._jobs: queue.Queue[_Job | None] = queue.Queue(BACKLOG)
        self._thread = threading.Thread(target=self._work, name="journal writer")
        self._journal: Journal | None = None
        self._closing = False
        try:
            self._open()
        except JournalUnreachable:
            pass  # answered 503 until it can be

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """Finish what waits, and close the journal."""
        self._closing = True
        self._jobs.put(None)
        self._thread.join()
        if self._journal is not None:
            self._journal.close()

    async def ask(self, job: Callable[[Journal], Result], /) -> Result:
        """What `job` gives or raises, run on the journal; raises `Busy`."""
        done: Future[Result] = Future()
        self._put(_Job(job, done))
        return await asyncio.wrap_future(done)

    async def store(self, delivery: Delivery, /) -> Ingested:
        """What became of the events, or what the journal raises; raises `Busy`."""
        done: Future[Ingested] = Future()
        self._put(_Job(lambda journal: journal.ingest(*delivery), done, delivery))
        return await asyncio.wrap_future(done)

    def _put(self, job: _Job) -> None:
        try:
            if self._closing:
                raise Busy("the sink is stopping")
            self._jobs.put_nowait(job)
        except queue.Full:
            raise Busy("too many requests wait for the journal") from None

    def _open(self) -> Journal:
        if self._journal is None:
            self._journal = Journal.open(self._url, patience_s=PATIENCE_S)
        return self._journal

    def _work(self) -> None:
        jobs: list[_Job | None] = []
        while None not in jobs:
            jobs = self._next()
            running = [job for job in jobs if job is not None and job.done.set_running_or_notify_cancel()]
            deliveries = [job for job in running if job.delivery is not None]
            if len(deliveries) > 1 and self._stored(deliveries):
                running = [job for job in running if job.delivery is None]
            for job in running:
                self._do(job)

    def _next(self) -> list[_Job | None]:
        """The next job; deliveries that wait with nothing between them come together."""
        jobs, events = [self._jobs.get()], 0
        while (last := jobs[-1]) is not None and last.delivery is not None:
            events += len(last.delivery.bodies)
            if events >= TOGETHER or self._jobs.empty():  # nobody else takes from it
                break
            jobs.append(self._jobs.get())
        return jobs

    def _stored(self, jobs: list[_Job]) -> bool:
        """Store the deliveries in one transaction. False when a fault in one of them may have failed all."""
        try:
            told = self._open().ingest_together([job.delivery for job in jobs if job.delivery])
        except JournalError as error:
            self._let_go(error)
            for job in jobs:
                job.done.set_exception(error)
            return True
        except Exception:  # noqa: BLE001 - raised again by the delivery whose fault it is
            return False
        for job, ingested in zip(jobs, told, strict=True):
            job.done.set_result(ingested)
        return True

    def _do(self, job: _Job) -> None:
        try:
            job.done.set_result(job.work(self._open()))
        except Exception as error:  # noqa: BLE001 - raised again where the job was asked for
            self._let_go(error)
            job.done.set_exception(error)

    def _let_go(self, error: Exception) -> None:
        """Of a journal that cannot be used: it may be moved away, and is opened anew at the next job."""
        if isinstance(error, JournalUnreachable) and self._journal is not None:
            self._journal.close()
            self._journal = None
