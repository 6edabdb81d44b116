"""Spans of other instrumentations as events: ``span.received``. Pure.

Promises, each with its test in ``tests/test_received.py``:

* A span gives the same event, byte for byte, however often and by whichever way it comes: its stream
  follows from its trace and span id, so that the journal stores it once.
* Only spans of GenAI operations become events, and of their attributes only what `aliases.KEPT` names:
  no prompt and no answer is kept. Texts are freed of the shapes of secrets.
* It belongs to the run that its resource names (``agent_telemetry.run``), else to the run of its trace id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from agent_shim import attributes as attr
from agent_shim.canonical import canonical, encode
from agent_shim.events import FORMAT_VERSION, SpanReceived, name_of
from agent_shim.redaction import Redactor
from telemetry.aliases import ALIASES

_RUN_ID = re.compile(r"[0-9a-f]{32}\Z")
_MARKS = frozenset(name for name, new in ALIASES.items() if new == attr.OPERATION_NAME) | {
    attr.OPERATION_NAME
}
_LAST_NS = 2**63 - 1
_SEQ = 1
"""The span is the one event of its stream."""


class Foreign(NamedTuple):
    """A span of another instrumentation."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    start_ns: int
    end_ns: int
    failed: bool
    message: str
    """Of its status."""
    attributes: dict[str, Any]
    """Those of `aliases.KEPT`."""
    instrumentation: str
    instrumentation_version: str
    run: str
    """As its resource names it, or empty."""


def is_genai(names: Mapping[str, Any]) -> bool:
    """Whether attributes are those of a GenAI operation."""
    return not _MARKS.isdisjoint(names)


def to_event(span: Foreign) -> bytes:
    """The body of the event."""
    told = SpanReceived(
        instrumentation=span.instrumentation or "unknown",
        instrumentation_version=span.instrumentation_version or None,
        span=span.name,
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id or None,
        start_ns=_time(span.start_ns),
        end_ns=_time(span.end_ns),
        failed=span.failed,
        message=span.message or None,
        attributes=span.attributes,
    )
    data, altered = canonical(
        {name: value for name, value in told._asdict().items() if value is not None}, _redactor()
    )
    moment = told.start_ns or told.end_ns or 0
    event = {
        "v": FORMAT_VERSION,
        "run": span.run if _RUN_ID.match(span.run) else span.trace_id,
        "producer": hashlib.sha256(f"span {span.trace_id} {span.span_id}".encode()).hexdigest()[:32],
        "seq": _SEQ,
        "name": name_of(SpanReceived),
        "time": moment,
        "mono": moment,
        **({"altered": altered} if altered else {}),
        "data": data,
    }
    return _redactor()(encode(event)).encode()


def _time(nanoseconds: int) -> int | None:
    """A time of the span; 0 is how OTLP says that there is none."""
    return min(nanoseconds, _LAST_NS) if nanoseconds > 0 else None


@cache
def _redactor() -> Redactor:
    return Redactor()
