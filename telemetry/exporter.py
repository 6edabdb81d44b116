"""Delivery to an OpenTelemetry endpoint through the official OTLP exporters.

Promises, each with its test in ``tests/test_exporter.py``:

* What a call returns from was accepted: an answer that says otherwise raises `DeliveryError` with the
  reason. `SignalRefused` says that the endpoint does not take this signal at all (spans may still go),
  `BatchRefused` that it will never take some of what it was given, while the rest was accepted.
* Ids and times on the wire are those of the events. Samplers, attribute limits and ``OTEL_SDK_DISABLED``
  act in SDK providers; none is used, so none of them can silence us.
* A request holds at most `MAX_BATCH_BYTES`, unless one single event is larger.
* A call ends within its bound plus the time-out of one request.

Endpoint and protocol come from the settings. Headers, certificates and compression come from the
``OTEL_EXPORTER_OTLP_*`` variables, also those for one signal. ``OTEL_EXPORTER_OTLP_TIMEOUT`` is not
read: the specification gives it milliseconds, the official exporters read seconds.

Not promised: the exporters read no answer's body, so a *partial success* (a 200 that says that records
were rejected) is taken for success. Our own sink never answers so for events.

Logs are still in underscore modules of the SDK; they are used here and nowhere else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import requests
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from agent_shim.attributes import RUN, SCHEMA_URL, SCOPE, SERVICE_NAME
from agent_shim.errors import DeliveryError, EventError, SettingsError
from telemetry.otlp import Record, to_record
from telemetry.remote import first_cause
from telemetry.settings import Endpoint, Settings, without_password
from telemetry.spans import Span

MAX_BATCH_BYTES = 1024 * 1024
"""Of encoded records: a fourth of what gRPC servers take by default (4 MiB)."""
REQUEST_TIMEOUT_S = 10.0
"""For one batch with all its tries; the default of the OTLP exporters."""
TOTAL_TIMEOUT_S = 30.0

_ENVELOPE_BYTES = 512
"""More than a record takes besides its body."""
_MAX_REASON = 500

_NO_SUCH_SIGNAL = {"404", "405", "501", "UNIMPLEMENTED"}
_NEVER = {"400", "413", "422", "INVALID_ARGUMENT"}
_TOO_LARGE = "RESOURCE_EXHAUSTED"
"""gRPC says it of a message that is too large, and of a server that has too much to do."""

_LOGGERS = (
    HttpLogs.__module__,
    HttpSpans.__module__,
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http._common",
    "opentelemetry.util.re",  # quotes a header that it cannot read, and headers hold tokens
)

Item = TypeVar("Item")


class SignalRefused(DeliveryError):
    """The endpoint does not take this signal, or none is set for it."""


class BatchRefused(DeliveryError):
    """The endpoint will never take some of what it was given; all the rest was accepted."""

    def __init__(self, message: str, refused: int) -> None:
        super().__init__(message, hint="The journal has all of it; only this endpoint does not.")
        self.refused = refused
        """How many events or spans."""


class _Batch(NamedTuple):
    items: list[Any]
    size_bytes: int


class Exporter:
    """Sends events as log records, and spans. Not for several threads at once."""

    def __init__(
        self,
        *,
        logs: Endpoint | None,
        traces: Endpoint | None,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        total_timeout_s: float = TOTAL_TIMEOUT_S,
    ) -> None:
        self._endpoints = {"logs": logs, "spans": traces}
        self._resource = _resource()
        self._scope = InstrumentationScope(SCOPE, schema_url=SCHEMA_URL)
        self._total_timeout_s = total_timeout_s
        self._official: dict[str, _Official] = {}
        if logs:
            self._official["logs"] = _official("logs", logs, request_timeout_s)
        if traces:
            self._official["spans"] = _official("spans", traces, request_timeout_s)

    @classmethod
    def from_settings(cls, settings: Settings) -> Exporter:
        """An exporter to where the settings say; raises `SettingsError` for a variable of no use."""
        return cls(logs=settings.otlp("logs"), traces=settings.otlp("traces"))

    def events(self, bodies: Iterable[bytes], trace_id: str | None = None) -> int:
        """Send events of one run; gives how many of `bodies` are no events and were left out.

        `trace_id` is that of the run where it joined a trace (`SpanFold.trace_id`).
        """
        records: list[Record] = []
        left_out = 0
        for body in bodies:
            try:
                records.append(to_record(body, trace_id))
            except EventError:
                left_out += 1
        batches = _batches(records, lambda record: len(record.body) + _ENVELOPE_BYTES)
        self._send("logs", batches, self._log_record)
        return left_out

    def spans(self, spans: Iterable[Span]) -> None:
        """Send spans."""
        readable = [self._readable_span(span) for span in spans]
        self._send(
            "spans", _batches(readable, lambda span: encode_spans([span]).ByteSize()), lambda span: span
        )

    def close(self) -> None:
        """Close the connections."""
        for official in self._official.values():
            official.exporter.shutdown()

    # --- sending -----------------------------------------------------------------------------------

    def _send(self, signal: str, batches: Iterator[_Batch], readable: Callable[[Any], Any]) -> None:
        endpoint, deadline = self._endpoints[signal], time.monotonic() + self._total_timeout_s
        refused, why = 0, ""
        for batch in batches:
            if endpoint is None:
                raise SignalRefused(f"no endpoint is set for {signal}")
            place = without_password(endpoint.url)
            if time.monotonic() > deadline:
                raise DeliveryError(f"{place} did not take all {signal} within {self._total_timeout_s} s")
            cause = self._export(signal, [readable(item) for item in batch.items])
            if cause is None:
                continue
            why = f"{place} did not accept {signal}: {cause.text}"
            if cause.code in _NO_SUCH_SIGNAL:
                raise SignalRefused(why)
            if not (
                cause.code in _NEVER or (cause.code == _TOO_LARGE and batch.size_bytes > MAX_BATCH_BYTES)
            ):
                raise DeliveryError(why, hint="See whether an OpenTelemetry endpoint listens there.")
            refused += len(batch.items)
        if refused:
            raise BatchRefused(why, refused)

    def _export(self, signal: str, items: list[Any]) -> _Cause | None:
        with _heard() as reports:
            result = self._official[signal].exporter.export(items)
        if result in (LogRecordExportResult.SUCCESS, SpanExportResult.SUCCESS):
            return None
        return self._official[signal].cause(reports)

    # --- what the official exporters take -------------------------------------------------------------

    def _log_record(self, record: Record) -> ReadableLogRecord:
        context = _context(record.trace_id, record.span_id)
        return ReadableLogRecord(
            LogRecord(
                timestamp=record.time_ns,
                observed_timestamp=record.time_ns,
                context=set_span_in_context(NonRecordingSpan(context)),
                body=record.body,
                attributes=record.attributes,
                event_name=record.event_name,
            ),
            resource=self._resource,
            instrumentation_scope=self._scope,
        )

    def _readable_span(self, span: Span) -> ReadableSpan:
        parent = _context(span.trace_id, span.parent_span_id) if span.parent_span_id else None
        status = Status() if span.error is None else Status(StatusCode.ERROR, span.error)
        return ReadableSpan(
            span.name,
            context=_context(span.trace_id, span.span_id),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            events=[Event(event.name, event.attributes, event.time_ns) for event in span.events],
            kind=SpanKind.CLIENT if span.kind == "client" else SpanKind.INTERNAL,
            status=status,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


def _resource() -> Resource:
    """As the environment says; without the run that a run around this one handed down."""
    named = OTELResourceDetector().detect().attributes
    return Resource({SERVICE_NAME: SCOPE} | {key: value for key, value in named.items() if key != RUN})


def _context(trace_id: str, span_id: str | None) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return SpanContext(int(trace_id, 16), int(span_id or "0", 16), is_remote=False, trace_flags=flags)


def _batches(items: Sequence[Item], size_bytes: Callable[[Item], int]) -> Iterator[_Batch]:
    """Runs of `items` of at most `MAX_BATCH_BYTES`, each of at least one item."""
    batch: list[Item] = []
    total = 0
    for item in items:
        size = size_bytes(item)
        if batch and total + size > MAX_BATCH_BYTES:
            yield _Batch(batch, total)
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield _Batch(batch, total)


# --- the official exporters ------------------------------------------------------------------------


class _Cause(NamedTuple):
    """Why an export did not succeed."""

    code: str | None
    """HTTP status or name of the gRPC status; ``None`` when there was no answer."""
    text: str


class _Official(NamedTuple):
    """One of the four official exporters, and how it is asked for the reason of a failure."""

    exporter: Any
    cause: Callable[[Sequence[logging.LogRecord]], _Cause]
    """From what the exporter logged meanwhile."""


def _official(signal: str, endpoint: Endpoint, timeout_s: float) -> _Official:
    with _heard() as reports:
        made = _made(signal, endpoint, timeout_s)
    if reports:
        made.exporter.shutdown()
        raise SettingsError(
            f"the OTEL_EXPORTER_OTLP_ variables cannot be used: {_complaint(reports[0])}",
            hint="headers are name=value pairs, %20 for a space; certificates are files that can be read",
        )
    return made


def _made(signal: str, endpoint: Endpoint, timeout_s: float) -> _Official:
    if endpoint.protocol == "grpc":
        return _Official(_grpc(signal, endpoint.url, timeout_s), _logged_cause)
    session, make = _Session(), HttpLogs if signal == "logs" else HttpSpans
    return _Official(make(endpoint.url, timeout=timeout_s, session=session), lambda _: session.cause)


def _complaint(report: logging.LogRecord) -> str:
    """What an exporter did not like, without the value."""
    cause = report.exc_info[1] if report.exc_info else None
    return str(cause or str(report.msg).partition(":")[0])


class _Session(requests.Session):
    """Remembers how the last request ended: the exporters log a reason only if they tried again."""

    cause = _Cause(None, "nothing was sent")

    def request(self, *args: Any, **options: Any) -> requests.Response:
        """Refuses redirects too: the exporters do not follow them, and take them for success."""
        options.setdefault("verify", self.verify)  # else REQUESTS_CA_BUNDLE goes over the exporters' own
        try:
            response = super().request(*args, **options)
        except OSError as error:  # all of theirs are, and a certificate that is not there is no other
            self.cause = _Cause(None, first_cause(error)[:_MAX_REASON])
            raise
        status = response.status_code
        self.cause = _Cause(str(status), f"{status} {response.reason}")
        if 300 <= status < 400:
            where = response.headers.get("location")
            self.cause = _Cause(str(status), f"redirected to {where} ({status})")
            raise requests.HTTPError(self.cause.text)
        return response


def _grpc(signal: str, url: str, timeout_s: float) -> Any:
    # Imported here: it takes 0.3 s, and most endpoints speak HTTP.
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.exporter import InvalidCompressionValueException
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    try:
        return (OTLPLogExporter if signal == "logs" else OTLPSpanExporter)(url, timeout=timeout_s)
    except InvalidCompressionValueException as error:
        raise SettingsError(str(error), hint="gRPC knows gzip; leave the variable away for none.") from error


def _logged_cause(reports: Sequence[logging.LogRecord]) -> _Cause:
    """What the gRPC exporters said last, from the arguments of their log line."""
    for report in reversed(reports):
        match report.args:
            case (_, _, status, details) if hasattr(status, "name"):  # signal, endpoint, status, details
                return _Cause(status.name, f"{status.name} {details}"[:_MAX_REASON])
    return _Cause(None, "no reason was given")


@contextmanager
def _heard() -> Iterator[list[logging.LogRecord]]:
    """What the official exporters log on this thread meanwhile, kept from everyone else.

    Taken before their own filter, which hides a message that was logged within the last 20 s.
    """
    reports: list[logging.LogRecord] = []
    thread = threading.get_ident()

    def take(record: logging.LogRecord) -> bool:
        if record.thread != thread:
            return True
        reports.append(record)
        return False

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.filters.insert(0, take)
    try:
        yield reports
    finally:
        for logger in loggers:
            logger.filters.remove(take)
