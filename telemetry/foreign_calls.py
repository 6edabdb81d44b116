"""LLM calls that other instrumentations saw, folded into rows; none is counted twice.

The span of a call that our own hooks saw as well is ``repeated``: one with the same response id, or, where
one of the two has no such id, one of the same model at the same time. So is the span of a second
instrumentation of the same call. Which of them counts follows from the set of events alone: a call on the
wire or a turn of the agent first, then a span with usage, then the first instrumentation by name.
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
from .rollup import Rollup, Share
from .rows import CALL, Row, as_json, at, flag, mapping, number, seconds, text
from .usage import NOTHING, Usage, reported

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


class ForeignCalls:
    """The calls of one run that other instrumentations saw."""

    def __init__(self, run_id: str, rollup: Rollup) -> None:
        self._run_id = run_id
        self._rollup = rollup
        self._calls: dict[str, _Foreign] = {}
        self._shares: dict[str, Share | None] = {}
        self._shown: dict[str, tuple[Any, ...]] = {}

    @property
    def counted(self) -> int:
        """How many calls only other instrumentations saw."""
        return sum(share is not None for share in self._shares.values())

    def received(self, key: Key, event: Event) -> None:
        """``span.received``."""
        data = event["data"]
        given = translated(mapping(data.get("attributes")))
        if given.get(attr.OPERATION_NAME) in INFERENCE:
            identity = event_id(key[1], key[2])
            self._calls[identity] = _foreign(
                CALL | {"run_id": self._run_id, "call_id": identity}, data, given
            )

    def settle(self, calls: Calls) -> list[Row]:
        """The rows that changed since the last time."""
        if not self._calls:
            return []
        by_rank: dict[tuple[bool, str], list[_Foreign]] = {}
        for call in sorted(self._calls.values(), key=lambda call: (call.seen.start_ns, call.seen.id)):
            by_rank.setdefault(call.rank, []).append(call)
        before = [("", _Index(_own(calls)))]
        for rank in sorted(by_rank):
            same: dict[tuple[str, Usage], str] = {}
            for call in by_rank[rank]:
                self._count(call, _counted_before(call, before) or _repeats(call, same))
            before.append((rank[1], _Index(call.seen for call in by_rank[rank])))
        return [call.row for identity, call in self._calls.items() if self._is_news(identity, call.row)]

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
        found = index.by_response(call.seen) if source == call.row["source"] else index.find(call.seen)
        if found:
            return found
    return None


def _repeats(call: _Foreign, same: dict[tuple[str, Usage], str]) -> str | None:
    """An earlier call with the same response and usage: some servers give every response the same id."""
    response = call.seen.response_id
    if not response:
        return None
    first = same.setdefault((response, call.usage), call.seen.id)
    return None if first == call.seen.id else first


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


def _foreign(row: Row, data: dict[str, Any], given: dict[str, Any]) -> _Foreign:
    start, end = number(data.get("start_ns")), number(data.get("end_ns"))
    operation = given[attr.OPERATION_NAME]
    row["source"] = text(data.get("instrumentation")) or "unknown"
    row["started_at"] = at(start) if start is not None else None
    row["finished_at"] = at(end) if end is not None else None
    row["duration_s"] = seconds(end - start) if start is not None and end is not None else None
    row["surface"] = (
        "responses" if given.get(attr.OPENAI_API_TYPE) == "responses" else _SURFACES.get(operation)
    )
    for column, name in _TEXTS.items():
        row[column] = text(given.get(name))
    row["stream"] = flag(given.get(attr.REQUEST_STREAM))
    row["finish_reasons"] = as_json(given.get(attr.RESPONSE_FINISH_REASONS))
    chunk = given.get(attr.RESPONSE_TIME_TO_FIRST_CHUNK)
    row["first_chunk_s"] = chunk if type(chunk) is float and chunk >= 0 else None
    row["ended"] = "failed" if data.get("failed") is True or row["error_type"] else "completed"
    if row["ended"] == "failed":
        row["error_message"] = text(data.get("message"))
        rows.explain(row)
    told = {name: value for name, value in given.items() if name.startswith("gen_ai.usage.")}
    row["usage"] = as_json(told or None)
    models = frozenset(filter(None, (row["model"], row["model_requested"]))) or frozenset((_ANY,))
    seen = _Seen(row["call_id"], start or 0, _EVER if end is None else end, models, row["response_id"])
    fetched = operation == "fetch_response"
    return _Foreign(
        row, seen, _usage(told, operation), "fetch_response generates nothing" if fetched else None
    )


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


def _usage(told: dict[str, Any], operation: str) -> Usage:
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
        self._by_response: dict[str, str] = {}
        self._all: dict[str, list[_Seen]] = {}
        self._nameless: dict[str, list[_Seen]] = {}
        for call in sorted(calls, key=lambda seen: (seen.start_ns, seen.id)):
            if call.response_id:
                self._by_response.setdefault(call.response_id, call.id)
            for model in (*call.models, *(() if _ANY in call.models else (None,))):
                self._all.setdefault(model or "*", []).append(call)
                if not call.response_id:
                    self._nameless.setdefault(model or "*", []).append(call)
        groups = (*self._all.values(), *self._nameless.values())
        self._ends = {id(group): _latest_ends(group) for group in groups}

    def by_response(self, call: _Seen) -> str | None:
        """The id of a call with the same response."""
        return self._by_response.get(call.response_id or "")

    def find(self, call: _Seen) -> str | None:
        """The id of a call that this one is as well."""
        same = self.by_response(call)
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
