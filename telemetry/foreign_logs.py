"""What other instrumentations log, folded into calls, requests and tool calls. Pure.

A record is one moment. Where it gives no begin, a call is taken to have ended `EMISSION_NS` before at most.
Codex logs each HTTP request and each end of a stream, without an id that joins them: within one conversation
they follow each other, so a call is the requests up to the end of a stream, or up to the last one that was
refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from agent_shim import attributes as attr
from agent_shim.events import event_id

from . import agent_logs, rows
from .aliases import INFERENCE, translated
from .calls import Event, Key
from .rows import REQUEST, TOOL_CALL, Row, at, mapping, number, seconds, text

EMISSION_NS = 100_000_000
"""How long before its record a call ended at most: records are made in the call's own process, at once."""
_OK = ("true", True)
_MAX_COUNT = 2**40
"""Above any count that is meant, of tokens or of milliseconds."""


class ToldCall(NamedTuple):
    """A call of a model, as another instrumentation tells of it."""

    id: str
    source: str
    start_ns: int | None
    end_ns: int | None
    failed: bool
    message: str | None
    given: dict[str, Any]
    """Attributes, under the names of the conventions."""
    span: str | None = None
    """Trace and span, where they are those of the call itself."""
    requests: int | None = None
    http_status: int | None = None


class Told(NamedTuple):
    """All that the records of a run say."""

    calls: list[ToldCall]
    requests: list[Row]
    tools: list[Row]


class _Record(NamedTuple):
    time_ns: int
    """0 where it has none."""
    id: str
    log: str
    source: str
    given: dict[str, Any]
    span: str | None

    @property
    def start_ns(self) -> int | None:
        took = _whole(self.given.get("duration_ms"))
        start = None if took is None else self.time_ns - took * 10**6
        return start if start is not None and start > 0 else None

    @property
    def end_ns(self) -> int | None:
        return self.time_ns or None


class ForeignLogs:
    """The log records of one run that others sent."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._records: list[_Record] = []
        self.agent: str | None = None
        """The agent that tells of itself."""

    def received(self, key: Key, event: Event) -> None:
        """``log.received``."""
        data = event["data"]
        log, trace, span = (text(data.get(name)) for name in ("log", "trace_id", "span_id"))
        source, given = text(data.get("instrumentation")) or "unknown", mapping(data.get("attributes"))
        place = f"{trace}:{span}" if trace and span else None
        self._records.append(_Record(key[0], event_id(key[1], key[2]), log or "", source, given, place))
        self.agent = self.agent or agent_logs.AGENTS.get((log or "").partition(".")[0])

    def told(self) -> Told:
        """What follows from all records so far."""
        told = Told([], [], [])
        codex: dict[str | None, list[_Record]] = {}
        for record in sorted(self._records):
            if record.log in _TOOLS:
                told.tools.append(_tool(self._run_id, record))
            elif record.log == agent_logs.DETAILS:
                told.calls.extend(_details(record))
            elif record.log in (agent_logs.CLAUDE_REQUEST, agent_logs.CLAUDE_ERROR):
                told.calls.append(_claude(record))
            else:
                codex.setdefault(text(record.given.get("conversation.id")), []).append(record)
        for conversation in codex.values():
            for call, requests in _codex(conversation):
                told.calls.append(call)
                told.requests.extend(_requests(self._run_id, call.id, requests))
        return told


# --- records of one call each -----------------------------------------------------------------------


def _details(record: _Record) -> Iterator[ToldCall]:
    """The call; one that names no operation is one by the name of its event."""
    given = translated(record.given)
    failed = attr.ERROR_TYPE in given
    if given.get(attr.OPERATION_NAME) in (None, *INFERENCE):
        yield ToldCall(record.id, record.source, None, record.end_ns, failed, None, given, record.span)


def _claude(record: _Record) -> ToldCall:
    """It counts the tokens of its cache beside the input tokens, as the API of Anthropic does."""
    given = record.given
    read, write = _whole(given.get("cache_read_tokens")), _whole(given.get("cache_creation_tokens"))
    fresh, wait = _whole(given.get("input_tokens")), _whole(given.get("ttft_ms"))
    failed, status = record.log == agent_logs.CLAUDE_ERROR, _whole(given.get("status_code"))
    provider = text(given.get("anthropic.provider"))
    said = {
        attr.OPERATION_NAME: "chat",
        attr.PROVIDER_NAME: "anthropic" if provider == "firstParty" else provider,
        attr.REQUEST_MODEL: given.get("model"),
        attr.RESPONSE_ID: given.get("request_id"),
        attr.USAGE_INPUT_TOKENS: None if fresh is None else fresh + (read or 0) + (write or 0),
        attr.USAGE_OUTPUT_TOKENS: _whole(given.get("output_tokens")),
        attr.USAGE_CACHE_READ_INPUT_TOKENS: read,
        attr.USAGE_CACHE_WRITE_INPUT_TOKENS: write,
        attr.RESPONSE_TIME_TO_FIRST_CHUNK: None if wait is None else wait / 1000,
        attr.ERROR_TYPE: str(status or "_OTHER") if failed else None,
        COST: given.get("cost_usd"),
    }
    return ToldCall(
        record.id, record.source, record.start_ns, record.end_ns, failed, text(given.get("error")),
        _there(said), http_status=status,
    )  # fmt: skip


COST = "cost_usd"
"""What the agent itself says that a call cost: kept beside its usage, and in no sum."""


# --- Codex ------------------------------------------------------------------------------------------


def _codex(records: list[_Record]) -> Iterator[tuple[ToldCall, list[_Record]]]:
    """The calls of one conversation, each with its requests."""
    provider: str | None = None
    requests: list[_Record] = []
    for record in records:
        if record.log == agent_logs.CODEX_START:
            provider = text(record.given.get("provider_name"))
        elif record.log == agent_logs.CODEX_REQUEST:
            if requests and not _whole(record.given.get("attempt")):
                yield _codex_call(requests, None, provider), requests
                requests = []
            requests.append(record)
        elif record.given.get("event.kind") == "response.completed":
            yield _codex_call(requests, record, provider), requests
            requests = []
    if requests:
        yield _codex_call(requests, None, provider), requests


def _codex_call(requests: list[_Record], end: _Record | None, provider: str | None) -> ToldCall:
    last = end or requests[-1]
    given, first = last.given, (*requests, last)[0]
    status = None if end else _status(last)
    message = text(given.get("error.message"))
    wait = _whole(given.get("ttft_ms"))
    said = {
        attr.OPERATION_NAME: "chat",
        attr.OPENAI_API_TYPE: "responses",
        attr.PROVIDER_NAME: provider,
        attr.REQUEST_MODEL: given.get("model"),
        attr.USAGE_INPUT_TOKENS: _whole(given.get("input_token_count")),
        attr.USAGE_OUTPUT_TOKENS: _whole(given.get("output_token_count")),
        attr.USAGE_CACHE_READ_INPUT_TOKENS: _whole(given.get("cached_token_count")),
        attr.USAGE_CACHE_WRITE_INPUT_TOKENS: _whole(given.get("cache_write_token_count")),
        attr.USAGE_REASONING_OUTPUT_TOKENS: _whole(given.get("reasoning_token_count")),
        attr.RESPONSE_TIME_TO_FIRST_CHUNK: None if wait is None else wait / 1000,
        attr.ERROR_TYPE: str(status or "_OTHER") if message else None,
    }
    return ToldCall(
        first.id, last.source, first.start_ns, last.end_ns, message is not None, message,
        translated(_there(said)), requests=len(requests) or None, http_status=status,
    )  # fmt: skip


def _requests(run_id: str, call_id: str, records: list[_Record]) -> Iterator[Row]:
    for attempt, record in enumerate(records, 1):
        row = REQUEST | {"run_id": run_id, "request_id": record.id, "call_id": call_id, "number": attempt}
        row["started_at"], row["duration_s"] = _when(record)
        row["http_status"] = _status(record)
        row["http_request_id"] = text(record.given.get("auth.request_id"))
        row["error_message"] = text(record.given.get("error.message"))
        row["ended"] = "failed" if row["http_status"] is None else "answered"
        if rows.request_failed(row):
            rows.explain(row, str(row["http_status"] or rows.UNKNOWN_ERROR))
        yield row


# --- tool calls -------------------------------------------------------------------------------------

_TOOLS = {agent_logs.CLAUDE_TOOL: "tool_use_id", agent_logs.CODEX_TOOL: "call_id"}
"""Event of a tool call → where the id is that the model gave it."""


def _tool(run_id: str, record: _Record) -> Row:
    given = record.given
    row = TOOL_CALL | {"run_id": run_id, "tool_call_id": record.id, "executor": record.source}
    row["tool"], row["call_id"] = text(given.get("tool_name")), text(given.get(_TOOLS[record.log]))
    row["started_at"], row["duration_s"] = _when(record)
    row["finished_at"] = None if record.end_ns is None else at(record.end_ns)
    row["ended"] = "completed" if given.get("success") in _OK else "failed"
    row["arguments_bytes"] = _whole(given.get("tool_input_size_bytes"))
    row["result_bytes"] = _whole(given.get("tool_result_size_bytes"))
    if row["ended"] == "failed":
        row["error_type"] = text(given.get("error_type"))
        rows.explain(row)
    return row


# --- values -----------------------------------------------------------------------------------------


def _when(record: _Record) -> tuple[str | None, float | None]:
    """When it began, and how long it took."""
    start = record.start_ns
    return (None, None) if start is None else (at(start), seconds(record.time_ns - start))


def _status(record: _Record) -> int | None:
    return _whole(record.given.get("http.response.status_code"))


def _whole(value: object) -> int | None:
    """A count, as number or as text: of each agent, some numbers are texts."""
    if type(value) is str and value.isdecimal() and len(value) < 19:
        value = int(value)
    if type(value) is float and value.is_integer():
        value = int(value)
    count = number(value)
    return count if count is not None and 0 <= count < _MAX_COUNT else None


def _there(said: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if value is not None}
