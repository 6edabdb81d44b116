"""The gRPC side of the sink: the same requests as over HTTP, through the same `Intake`.

Promises, each with its test in ``tests/test_sink_grpc.py``:

* OK is answered after the commit, never before.
* What may work later is ``UNAVAILABLE`` with a ``RetryInfo``, in ``grpc-status-details-bin`` as the
  specification says and in ``google.rpc.retryinfo-bin`` where Python's exporters look for it. Faults of
  ours are answered so too: clients drop for good on ``INTERNAL`` and ``UNKNOWN``.
* ``INVALID_ARGUMENT`` is what no repetition can mend; ``RESOURCE_EXHAUSTED`` without ``RetryInfo`` a message
  that is too large, as sent or inflated.
* The health service says ``SERVING`` while the journal answers, and ``NOT_SERVING`` before the server stops.

The OTLP specification 1.11.0, ``docs/specification.md``, section OTLP/gRPC; gRPC health checking protocol v1.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf.any_pb2 import Any as Packed  # type: ignore[import-untyped]
from google.protobuf.duration_pb2 import Duration  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from agent_shim.errors import EventError, JournalError
from telemetry import otlp
from telemetry.intake import RETRY_AFTER_S, Accepted, Body, Busy, Intake

_PACKAGE = "opentelemetry.proto.collector"
_STREAMS = 32
"""Requests at the same time on one connection; further ones wait at the client."""

_log = logging.getLogger(__name__)

Signal = Callable[[Body], Awaitable[Accepted]]


class GrpcReceiver:
    """A gRPC server on the running event loop."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._health = _Health(intake)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", intake.limits.body_bytes),
                ("grpc.max_concurrent_streams", _STREAMS),
                ("grpc.so_reuseport", 0),  # a port that another process has is an error, not a share
            ]
        )
        services = {"logs": intake.logs, "trace": intake.traces, "metrics": intake.metrics}
        self._server.add_generic_rpc_handlers([self._service(name, s) for name, s in services.items()])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, host: str, port: int) -> None:
        """Listen and answer. Raises `RuntimeError` when the address cannot be had."""
        self._server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Refuse new requests, answer those that were taken, and close."""
        self._health.is_stopping = True
        await self._server.stop(grace_s)

    def _service(self, name: str, signal: Signal) -> Any:
        """The export service of one signal. Bytes come in and go out: `otlp` reads and writes them."""

        async def export(data: bytes, context: Any) -> bytes:
            return await self._export(signal, data, context)

        handler = grpc.unary_unary_rpc_method_handler(export)
        service = f"{_PACKAGE}.{name}.v1.{name.capitalize()}Service"
        return grpc.method_handlers_generic_handler(service, {"Export": handler})

    async def _export(self, signal: Signal, data: bytes, context: Any) -> bytes:
        if not self._intake.knows(_authorization(context)):
            await context.abort(StatusCode.UNAUTHENTICATED, "the bearer token is missing or wrong")
        try:
            with self._intake.room() as take:
                accepted = await signal(Body(lambda: data, otlp.PROTOBUF, take, _peer(context)))
            return otlp.success(otlp.PROTOBUF, accepted.message, accepted.rejected)
        except EventError as error:
            await context.abort(StatusCode.INVALID_ARGUMENT, str(error)[: otlp.MAX_MESSAGE])
        except (JournalError, Busy) as error:
            await _not_now(context, str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours: the client keeps what it has
            _log.exception("a request could not be taken")
            await _not_now(context, type(error).__name__)
        raise AssertionError("unreachable: abort raises")


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Asks the journal whenever it is asked."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.is_stopping = False

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """Of the whole server alone: the services of the signals live and die together."""
        if request.service and not request.service.startswith(_PACKAGE):
            await context.abort(StatusCode.NOT_FOUND, "there is no such service")
        status = health_pb2.HealthCheckResponse
        ready = not self.is_stopping and await self._answers()
        return status(status=status.SERVING if ready else status.NOT_SERVING)

    async def _answers(self) -> bool:
        try:
            await self._intake.ask(lambda journal: journal.held(""))
        except (JournalError, Busy):
            return False
        return True


def _authorization(context: Any) -> str:
    given = dict(context.invocation_metadata() or ()).get("authorization", "")
    return given if isinstance(given, str) else ""


def _peer(context: Any) -> str:
    """The address in ``ipv4:127.0.0.1:5000``."""
    return str(context.peer()).partition(":")[2].rpartition(":")[0] or "unknown"


async def _not_now(context: Any, reason: str) -> None:
    message = f"not now: {reason}"[: otlp.MAX_MESSAGE]
    retry = RetryInfo(retry_delay=Duration(seconds=RETRY_AFTER_S))
    packed = Packed()
    packed.Pack(retry)
    status = Status(code=StatusCode.UNAVAILABLE.value[0], message=message, details=[packed])
    trailers = (
        ("grpc-status-details-bin", status.SerializeToString()),
        ("google.rpc.retryinfo-bin", retry.SerializeToString()),
    )
    await context.abort(StatusCode.UNAVAILABLE, message, trailers)
