"""Spans and log records of other instrumentations as events: ``span.received``, ``log.received``. Pure.

Promises, each with its test in ``tests/test_received.py`` and ``tests/test_agent_logs.py``:

* A span gives the same event, byte for byte, however often and by whichever way it comes: its stream
  follows from its trace and span id, so that the journal stores it once. That of a log record, which has no
  id, follows from its time and all that is kept of it.
* Only spans of GenAI operations and the records that `agent_logs` names become events, and of their
  attributes only what `aliases.KEPT` and `agent_logs.KEPT` name: no prompt and no answer is kept. Texts are
  freed of the shapes of secrets.
* It belongs to the run that its resource names (``agent_telemetry.run``), else to that of the agent's own
  session where it is a UUID, else to the run of its trace id.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from agent_shim import attributes as attr
from agent_shim.canonical import canonical, encode
from agent_shim.events import FORMAT_VERSION, LogReceived, SpanReceived, name_of
from agent_shim.redaction import Redactor
from telemetry.agent_logs import SESSIONS, is_told
from telemetry.aliases import ALIASES

_RUN_ID = re.compile(r"[0-9a-f]{32}\Z")
_MARKS = frozenset(name for name, new in ALIASES.items() if new == attr.OPERATION_NAME) | {
    attr.OPERATION_NAME
}
_LAST_NS = 2**63 - 1
_SEQ = 1
"""The span, or the record, is the one event of its stream."""
_CLAUDE = "com.anthropic.claude_code.tracing"
"""The scope of Claude Code's spans: their conversation is the session of its logs."""


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


class ForeignLog(NamedTuple):
    """A log record of another instrumentation."""

    log: str
    """The name of its event, one of `agent_logs.KEPT`."""
    time_ns: int
    trace_id: str
    span_id: str
    attributes: dict[str, Any]
    """Those of `agent_logs.KEPT`."""
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
    session = span.attributes.get(attr.CONVERSATION_ID) if span.instrumentation == _CLAUDE else None
    run = _run(span.run, session) or span.trace_id
    return _event(run, f"span {span.trace_id} {span.span_id}", told, told.start_ns or told.end_ns or 0)


def log_event(log: ForeignLog) -> bytes | None:
    """The body of the event; ``None`` when it says nothing of a call, or nothing tells its run."""
    session = next((log.attributes[name] for name in SESSIONS if name in log.attributes), None)
    run = _run(log.run, session) or log.trace_id
    if not run or not is_told(log.log, log.attributes):
        return None
    told = LogReceived(
        instrumentation=log.instrumentation or "unknown",
        log=log.log,
        attributes=log.attributes,
        instrumentation_version=log.instrumentation_version or None,
        trace_id=log.trace_id or None,
        span_id=log.span_id or None,
    )
    moment = _time(log.time_ns) or 0
    return _event(run, f"log {moment} {encode(canonical(told._asdict(), _redactor())[0])}", told, moment)


def _run(named: str, session: Any) -> str | None:
    """The run by name or by session; the id of a session is a UUID, and so is that of a run."""
    plain = session.replace("-", "").lower() if isinstance(session, str) else ""
    return next((run for run in (named, plain) if _RUN_ID.match(run)), None)


def _event(run: str, identity: str, told: SpanReceived | LogReceived, moment: int) -> bytes:
    data, altered = canonical(
        {name: value for name, value in told._asdict().items() if value is not None}, _redactor()
    )
    event = {
        "v": FORMAT_VERSION,
        "run": run,
        "producer": hashlib.sha256(identity.encode()).hexdigest()[:32],
        "seq": _SEQ,
        "name": name_of(type(told)),
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
