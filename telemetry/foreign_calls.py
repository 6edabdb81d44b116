"""LLM calls that other instrumentations saw, folded into rows; none is counted twice.

A call that our own hooks saw as well is ``repeated``: one with the same response id, or, where one of the two
has no such id, one of the same model at the same time. So is what a second instrumentation says of the same
call, and what one says twice, in a span and in a log record. Which of them counts follows from the set of
events alone: a call on the wire or a turn of the agent first, then one with usage, then the first
instrumentation by name, then a span.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from agent_shim import attributes as attr
from agent_shim.events import event_id

from . import rows
from .aliases import INFERENCE, translated
from .calls import Call, Calls, Event, Key
from .foreign_logs import COST, EMISSION_NS, ForeignLogs, Told, ToldCall
from .rollup import Rollup, Share
from .rows import CALL, Row, as_json, at, flag, mapping, number, seconds, small, text
from .usage import NOTHING, Usage, none_due, reported

_EVER = 2**63
_ANY = ""
"""Stands for the model of a call whose model is not known."""


class _Seen(NamedTuple):
    """When a call was, and by what it can be told."""

    id: str
    start_ns: int
    end_ns: int
    models: frozenset[str]
    response_id: str | None
    span: str | None = None
    """Trace and span."""

    @property
    def names(self) -> tuple[str, ...]:
        """What another record of the same call has as well."""
        return tuple(filter(None, (self.response_id, self.span)))


class _Foreign(NamedTuple):
    """A call that another instrumentation saw."""

    row: Row
    seen: _Seen
    usage: Usage
    none_due: str | None
    """Why it used no tokens."""

    @property
    def rank(self) -> tuple[bool, str]:
        """The lower one counts."""
        return not self.usage.known, str(self.row["source"])


class Settled(NamedTuple):
    """What changed since the last time."""

    calls: list[Row]
    requests: list[Row]
    tools: list[Row]
    gone: list[str]
    """Ids of calls that are no more: an earlier record of the same call came."""


class ForeignCalls:
    """The calls of one run that other instrumentations saw."""

    def __init__(self, run_id: str, rollup: Rollup) -> None:
        self._run_id = run_id
        self._rollup = rollup
        self._logs = ForeignLogs(run_id)
        self._logged: Told | None = Told([], [], [])
        """What the records say; ``None`` while there are new ones."""
        self._of_logs: set[str] = set()
        self._calls: dict[str, _Foreign] = {}
        self._shares: dict[str, Share | None] = {}
        self._shown: dict[str, tuple[Any, ...]] = {}

    @property
    def counted(self) -> int:
        """How many calls only other instrumentations saw."""
        return sum(call.row["usage_source"] != "repeated" for call in self._calls.values())

    @property
    def agent(self) -> str | None:
        """The agent that tells of itself."""
        return self._logs.agent

    def counts(self) -> dict[str, int]:
        """How many rows there are of what is logged, and how many of them failed."""
        logged = self._logged or Told([], [], [])
        return {
            "requests": len(logged.requests),
            "failed_requests": sum(map(rows.request_failed, logged.requests)),
            "tool_calls": len(logged.tools),
            "failed_tool_calls": sum(row["ended"] == "failed" for row in logged.tools),
        }

    def received(self, key: Key, event: Event) -> None:
        """``span.received``."""
        data = event["data"]
        given = translated(mapping(data.get("attributes")))
        if given.get(attr.OPERATION_NAME) in INFERENCE:
            self._take(_spanned(event_id(key[1], key[2]), data, given))

    def log_received(self, key: Key, event: Event) -> None:
        """``log.received``."""
        self._logs.received(key, event)
        self._logged = None

    def settle(self, calls: Calls) -> Settled:
        """The rows that changed since the last time."""
        gone = self._fold_logs()
        if not self._calls:
            return Settled([], *self._news_of_logs(), gone)
        by_rank: dict[tuple[bool, str], list[_Foreign]] = {}
        for call in sorted(self._calls.values(), key=lambda call: (call.seen.start_ns, call.seen.id)):
            by_rank.setdefault(call.rank, []).append(call)
        before = [("", _Index(_own(calls)))]
        for rank in sorted(by_rank):
            same: dict[tuple[str, Usage], str] = {}
            for call in by_rank[rank]:
                self._count(call, _counted_before(call, before) or _repeats(call, same))
            before.append((rank[1], _Index(call.seen for call in by_rank[rank])))
        changed = [call.row for identity, call in self._calls.items() if self._is_news(identity, call.row)]
        return Settled(changed, *self._news_of_logs(), gone)

    def _take(self, told: ToldCall) -> None:
        self._calls[told.id] = _foreign(CALL | {"run_id": self._run_id, "call_id": told.id}, told)

    def _fold_logs(self) -> list[str]:
        """Take what the records say now; the ids of calls that they no longer tell of."""
        if self._logged is not None:
            return []
        before, self._logged = self._of_logs, self._logs.told()
        self._of_logs = {call.id for call in self._logged.calls}
        for call in self._logged.calls:
            self._take(call)
        gone = before - self._of_logs
        for identity in gone:
            del self._calls[identity]
            self._rollup.replace(self._shares.pop(identity, None), None)
        return [identity for identity in gone if self._shown.pop(identity, None)]

    def _news_of_logs(self) -> tuple[list[Row], list[Row]]:
        logged = self._logged or Told([], [], [])
        requests = [row for row in logged.requests if self._is_news(row["request_id"] + " request", row)]
        return requests, [row for row in logged.tools if self._is_news(row["tool_call_id"], row)]

    def _count(self, call: _Foreign, instead: str | None) -> None:
        source, reason, usage = _source(call, instead)
        row = call.row
        row["usage_source"], row["usage_reason"] = source, reason
        row["input_tokens"], row["cached_tokens"] = usage.input, usage.cached
        row["cache_write_tokens"], row["output_tokens"] = usage.cache_write, usage.output
        row["reasoning_tokens"] = usage.reasoning
        share = None
        if source not in ("repeated", "none"):
            day = at(min(call.seen.start_ns, _EVER - 1))[:10]
            model = row["model"] or row["model_requested"] or "unknown"
            key = (day, row["provider"] or "unknown", model, row["tier"] or "unknown", source, reason or "")
            share = Share(key, (*usage[:5], None))
        self._rollup.replace(self._shares.get(call.seen.id), share)
        self._shares[call.seen.id] = share

    def _is_news(self, identity: str, row: Row) -> bool:
        values = tuple(row.values())
        if self._shown.get(identity) == values:
            return False
        self._shown[identity] = values
        return True


def _counted_before(call: _Foreign, before: list[tuple[str, _Index]]) -> str | None:
    """The call that counts instead. Of one instrumentation, calls at the same time are different calls."""
    for source, index in before:
        found = index.by_name(call.seen) if source == call.row["source"] else index.find(call.seen)
        if found:
            return found
    return None


def _repeats(call: _Foreign, same: dict[tuple[str, Usage], str]) -> str | None:
    """An earlier one of the same span, or with the same response and usage.

    Some servers give every response the same id.
    """
    found = [same.setdefault((name, call.usage), call.seen.id) for name in call.seen.names]
    return next((first for first in found if first != call.seen.id), None)


def _source(call: _Foreign, instead: str | None) -> tuple[str, str | None, Usage]:
    if instead is not None:
        return "repeated", f"counted under {instead}", NOTHING
    if call.none_due is not None:
        return "none", call.none_due, NOTHING
    if call.usage.known:
        return "reported", call.usage.reason, call.usage
    failed = call.row["ended"] == "failed"
    why = f"call failed: {call.row['error_type']}" if failed else "no usage in the span"
    return "unknown", call.usage.reason or why, NOTHING


def _spanned(identity: str, data: dict[str, Any], given: dict[str, Any]) -> ToldCall:
    """The call that a span tells of."""
    start, end = number(data.get("start_ns")), number(data.get("end_ns"))
    failed = data.get("failed") is True or attr.ERROR_TYPE in given
    source, message = text(data.get("instrumentation")) or "unknown", text(data.get("message"))
    span = f"{data.get('trace_id')}:{data.get('span_id')}"
    return ToldCall(identity, source, start, end, failed, message, given, span)


def _foreign(row: Row, told: ToldCall) -> _Foreign:
    start, end, given = told.start_ns, told.end_ns, told.given
    operation = given.get(attr.OPERATION_NAME)
    row["source"] = told.source
    row["started_at"] = at(start) if start is not None else None
    row["finished_at"] = at(end) if end is not None else None
    row["duration_s"] = seconds(end - start) if start is not None and end is not None else None
    row["surface"] = (
        "responses" if given.get(attr.OPENAI_API_TYPE) == "responses" else _SURFACES.get(operation or "")
    )
    for column, name in _TEXTS.items():
        row[column] = text(given.get(name))
    row["stream"] = flag(given.get(attr.REQUEST_STREAM))
    row["finish_reasons"] = as_json(given.get(attr.RESPONSE_FINISH_REASONS))
    chunk = given.get(attr.RESPONSE_TIME_TO_FIRST_CHUNK)
    row["first_chunk_s"] = chunk if type(chunk) is float and chunk >= 0 else None
    row["requests"], row["http_status"] = told.requests, small(told.http_status)
    row["ended"] = "failed" if told.failed else "completed"
    if told.failed:
        row["error_message"] = told.message
        rows.explain(row)
    usage = {name: value for name, value in given.items() if name.startswith("gen_ai.usage.") or name == COST}
    row["usage"] = as_json(usage or None)
    due = "fetch_response generates nothing" if operation == "fetch_response" else None
    due = due or none_due(None, None, row["http_status"])
    return _Foreign(row, _seen_by_others(row, told), _usage(usage, operation), due)


def _seen_by_others(row: Row, told: ToldCall) -> _Seen:
    models = frozenset(filter(None, (row["model"], row["model_requested"]))) or frozenset((_ANY,))
    start, end = told.start_ns, told.end_ns
    if start is None and end is not None and told.span is not None:
        start = end - EMISSION_NS
    last = _EVER if end is None else end
    return _Seen(row["call_id"], start or 0, last, models, row["response_id"], told.span)


_TEXTS = {
    "host": attr.SERVER_ADDRESS,
    "provider": attr.PROVIDER_NAME,
    "model_requested": attr.REQUEST_MODEL,
    "model": attr.RESPONSE_MODEL,
    "tier_requested": attr.OPENAI_REQUEST_SERVICE_TIER,
    "tier": attr.OPENAI_RESPONSE_SERVICE_TIER,
    "response_id": attr.RESPONSE_ID,
    "error_type": attr.ERROR_TYPE,
}
_SURFACES = {"chat": "chat.completions", "text_completion": "completions", "embeddings": "embeddings"}


def _usage(told: dict[str, Any], operation: str | None) -> Usage:
    """By the conventions cached tokens are among the input tokens, whatever the provider's own API does."""
    given = told.get(attr.USAGE_INPUT_TOKENS)
    raw = {
        "input_tokens": given,
        "output_tokens": told.get(attr.USAGE_OUTPUT_TOKENS),
        "input_tokens_details": {
            "cached_tokens": told.get(attr.USAGE_CACHE_READ_INPUT_TOKENS),
            "cache_write_tokens": told.get(attr.USAGE_CACHE_WRITE_INPUT_TOKENS),
        },
        "output_tokens_details": {"reasoning_tokens": told.get(attr.USAGE_REASONING_OUTPUT_TOKENS)},
    }
    if operation == "embeddings":
        raw["total_tokens"] = given  # the input is all there is
    return reported(raw) if told else NOTHING


# --- which call is which ----------------------------------------------------------------------------


def _own(calls: Calls) -> Iterator[_Seen]:
    """The calls that our own hooks saw."""
    for call in calls.seen():
        yield _seen(call)


def _seen(call: Call) -> _Seen:
    models = frozenset(filter(None, (call.row["model"], call.row["model_requested"]))) or frozenset((_ANY,))
    start = call.began[0] if call.began else 0
    return _Seen(call.id, start, call.ended[0] if call.ended else _EVER, models, call.row["response_id"])


class _Index:
    """Finds a call among others: by its response id, else by its model and time."""

    def __init__(self, calls: Iterable[_Seen]) -> None:
        self._by_name: dict[str, str] = {}
        self._all: dict[str, list[_Seen]] = {}
        self._nameless: dict[str, list[_Seen]] = {}
        for call in sorted(calls, key=lambda seen: (seen.start_ns, seen.id)):
            for name in call.names:
                self._by_name.setdefault(name, call.id)
            for model in (*call.models, *(() if _ANY in call.models else (None,))):
                self._all.setdefault(model or "*", []).append(call)
                if not call.response_id:
                    self._nameless.setdefault(model or "*", []).append(call)
        groups = (*self._all.values(), *self._nameless.values())
        self._ends = {id(group): _latest_ends(group) for group in groups}

    def by_name(self, call: _Seen) -> str | None:
        """The id of a call with the same response, or of the same span."""
        return next(filter(None, map(self._by_name.get, call.names)), None)

    def find(self, call: _Seen) -> str | None:
        """The id of a call that this one is as well."""
        same = self.by_name(call)
        if same is not None:
            return same
        groups = self._nameless if call.response_id else self._all
        models = ("*", _ANY) if _ANY in call.models else (*sorted(call.models), _ANY)
        found = (self._at_the_time(groups[model], call) for model in models if model in groups)
        return next(filter(None, found), None)

    def _at_the_time(self, group: list[_Seen], call: _Seen) -> str | None:
        """The first of those that overlap it."""
        begun = bisect_right(group, call.end_ns, key=lambda seen: seen.start_ns)
        first = bisect_right(self._ends[id(group)], call.start_ns, hi=begun)
        return group[first].id if first < begun else None


def _latest_ends(group: list[_Seen]) -> list[int]:
    """At each place, the latest end up to there: it only grows, so that it can be searched."""
    return list(accumulate((seen.end_ns for seen in group), max))
