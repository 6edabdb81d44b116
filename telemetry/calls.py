"""LLM calls, their HTTP requests and the agent's turns, folded into rows.

A turn of the agent inside which no call was seen on the wire is a call as well, known from the agent
only. A response is counted once: create and polls of a background response, in whatever processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

from pydantic_core import from_json

from agent_shim.events import event_id

from . import rows
from .producers import Producer
from .rollup import Rollup, Share
from .rows import CALL, REQUEST, Row, at, mapping, number, seconds, text
from .usage import NOTHING, Usage, kept_by_agent, none_due, reported

Key = tuple[int, str, int]
"""Time, producer and sequence number: the order of events across producers."""
Event = dict[str, Any]


class Pair:
    """A begin event and its end, as far as they have come."""

    began: Key | None = None
    ended: Key | None = None
    began_mono = 0
    ended_mono = 0

    def __init__(self, identity: str, row: Row) -> None:
        self.id = identity
        self.row = row

    @property
    def key(self) -> Key:
        """Where it stands among others; by its end while its begin has not come."""
        return self.began or self.ended or (0, "", 0)

    def begin(self, key: Key, event: Event) -> None:
        """The begin event came."""
        self.began, self.began_mono = key, event["mono"]

    def end(self, key: Key, event: Event) -> bool:
        """An end event came. False when it is not the one that counts: the earliest is."""
        if self.ended is not None and self.ended < key:
            return False
        self.ended, self.ended_mono = key, event["mono"]
        return True

    def duration_ns(self) -> int | None:
        """By the monotonic clock, which only events of one process share; never below zero."""
        if self.began is None or self.ended is None or self.began[1] != self.ended[1]:
            return None
        elapsed = self.ended_mono - self.began_mono
        return elapsed if elapsed >= 0 else None

    def interrupted(self, producers: dict[str, Producer]) -> bool:
        """Whether its process is gone and no end came."""
        return self.ended is None and self.began is not None and producers[self.began[1]].sealed


class Call(Pair):
    """An LLM call, or a turn of the agent."""

    parent: str | None = None
    method: str | None = None
    """A POST makes a response, a GET fetches one."""
    read: Usage | None = NOTHING
    """What the usage in its row says; ``None``: to be read again."""
    missing: str | None = None
    api_ns: int | None = None
    share: Share | None = None
    """What it stands for in the rollup."""


class _Ranked(NamedTuple):
    """A call among those of one response: the earliest with usage is the first."""

    unknown: bool
    key: Key
    id: str


class Settled(NamedTuple):
    """Changes of the rows of calls and requests."""

    calls: list[Row]
    requests: list[Row]
    turned: list[Call]
    """Turns that have a row now and had none, or the other way round (`Calls.shown`)."""


def begin_of(key: Key, event: Event) -> str:
    """The begin event that an end names. One that names none stands for itself."""
    return text(event.get("begin")) or event_id(key[1], key[2])


class Calls:
    """The calls, requests and turns of one run."""

    def __init__(self, run_id: str, producers: dict[str, Producer], rollup: Rollup) -> None:
        self._run_id = run_id
        self._producers = producers
        self._rollup = rollup
        self._calls: dict[str, Call] = {}
        self._turns: dict[str, Call] = {}
        self._requests: dict[str, Pair] = {}
        self._inside: dict[str, list[Call]] = {}
        self._responses: dict[str, list[Call]] = {}
        self._ranks: dict[str, list[_Ranked]] = {}
        """Response that several calls have → heap of what these were at some time; the first that still holds
        is the call under which it is counted."""
        self._counted: dict[str, tuple[Call, str | None, str | None]] = {}
        """Response → the call under which it is counted, and what others compare with."""
        self._changed_responses: set[str] = set()
        self._open: dict[str, Pair] = {}
        self._changed_calls: dict[str, Call] = {}
        self._changed_turns: dict[str, Call] = {}
        self._changed_requests: dict[str, Pair] = {}
        self._shown_turns: set[str] = set()
        self._failed: set[str] = set()

    # --- events ----------------------------------------------------------------------------------

    def call_started(self, key: Key, event: Event) -> Call:
        """``llm.call.started``."""
        call = self._call(event_id(key[1], key[2]))
        data = event["data"]
        call.begin(key, event)
        call.row["started_at"] = at(key[0])
        call.method = text(data.get("method"))
        rows.call_started(call.row, data)
        call.parent = text(event.get("parent"))
        if call.parent:
            self._inside.setdefault(call.parent, []).append(call)
            if call.parent in self._turns:
                self._changed_turns[call.parent] = self._turns[call.parent]
        call.read = None
        if call.ended is None:
            self._open[call.id] = call
        elif response := call.row["response_id"]:
            self._rank(call, response)  # it is known only now when it began
        return call

    def call_finished(self, key: Key, event: Event) -> Call | None:
        """``llm.call.finished``: the call, unless an earlier end of it counts."""
        call = self._call(begin_of(key, event))
        before = call.row["response_id"]
        if not call.end(key, event):
            return None
        self._finish(call, event["data"])
        rows.call_finished(call.row, event["data"])
        call.read = _read(mapping(event["data"].get("usage")), call.row)
        now = call.row["response_id"]
        if before != now:
            self._move(call, before, now)
        if now:
            self._rank(call, now)
        return call

    def turn_started(self, key: Key, event: Event) -> Call:
        """``agent.turn.started``."""
        turn = self._turn(event_id(key[1], key[2]))
        turn.begin(key, event)
        turn.row["started_at"] = at(key[0])
        rows.turn_started(turn.row, event["data"])
        if turn.ended is None:
            self._open[turn.id] = turn
        return turn

    def turn_finished(self, key: Key, event: Event) -> Call | None:
        """``agent.turn.finished``: the turn, unless an earlier end of it counts."""
        turn = self._turn(begin_of(key, event))
        if not turn.end(key, event):
            return None
        self._finish(turn, event["data"])
        rows.turn_finished(turn.row, event["data"])
        return turn

    def request_started(self, key: Key, event: Event) -> None:
        """``llm.request.started``."""
        request = self._request(event_id(key[1], key[2]))
        request.begin(key, event)
        request.row["call_id"] = text(event.get("parent"))
        request.row["started_at"] = at(key[0])
        rows.request_started(request.row, event["data"])
        if request.ended is None:
            self._open[request.id] = request

    def request_finished(self, key: Key, event: Event) -> None:
        """``llm.request.finished``."""
        request = self._request(begin_of(key, event))
        if request.end(key, event):
            self._open.pop(request.id, None)
            rows.request_finished(request.row, event["data"])

    def sealed(self, producer: str) -> None:
        """The producer is done: what it began and did not end, it never will."""
        for pair in self._open.values():
            if pair.began and pair.began[1] == producer:
                self._touch(pair)

    # --- state -----------------------------------------------------------------------------------

    def _call(self, identity: str) -> Call:
        call = self._calls.get(identity)
        if call is None:
            row = CALL.copy()
            row["run_id"], row["call_id"], row["source"] = self._run_id, identity, "wire"
            call = self._calls[identity] = Call(identity, row)
        self._changed_calls[identity] = call
        return call

    def _turn(self, identity: str) -> Call:
        turn = self._turns.get(identity)
        if turn is None:
            row = CALL.copy()
            row["run_id"], row["call_id"], row["turn_id"] = self._run_id, identity, identity
            row["source"] = "agent"
            turn = self._turns[identity] = Call(identity, row)
            for call in self._inside.get(identity, ()):
                self._changed_calls[call.id] = call
        self._changed_turns[identity] = turn
        return turn

    def _request(self, identity: str) -> Pair:
        request = self._requests.get(identity)
        if request is None:
            row = REQUEST.copy()
            row["run_id"], row["request_id"] = self._run_id, identity
            request = self._requests[identity] = Pair(identity, row)
        self._changed_requests[identity] = request
        return request

    def _touch(self, pair: Pair) -> None:
        if pair.id in self._requests:
            self._changed_requests[pair.id] = pair
        elif pair.id in self._turns:
            self._changed_turns[pair.id] = self._turns[pair.id]
        else:
            self._changed_calls[pair.id] = self._calls[pair.id]

    def _finish(self, call: Call, data: dict[str, Any]) -> None:
        self._open.pop(call.id, None)
        assert call.ended is not None
        call.row["finished_at"] = at(call.ended[0])
        call.missing = text(data.get("usage_missing"))
        call.api_ns = number(data.get("api_ns"))

    def _move(self, call: Call, before: str | None, now: str | None) -> None:
        """The response of `call` is another one than was thought."""
        if before:
            self._responses[before].remove(call)
            self._changed_responses.add(before)
        if now:
            self._responses.setdefault(now, []).append(call)

    def _rank(self, call: Call, response: str) -> None:
        """Where `call` stands among those of its response may be new."""
        self._changed_responses.add(response)
        if response in self._ranks:
            heappush(self._ranks[response], self._ranked(call))

    # --- rows ------------------------------------------------------------------------------------

    @property
    def calls(self) -> int:
        """How many rows of calls there are."""
        return len(self._calls) + len(self._shown_turns)

    @property
    def requests(self) -> int:
        """How many rows of requests there are."""
        return len(self._requests)

    @property
    def failed_requests(self) -> int:
        """How many of them got no answer, or a refusal."""
        return len(self._failed)

    def seen(self) -> Iterator[Call]:
        """The calls on the wire, and the turns that have a row."""
        yield from self._calls.values()
        for turn in self._shown_turns:
            yield self._turns[turn]

    def shown(self, call: Call) -> bool:
        """Whether it has a row: a turn has none when its calls were seen on the wire."""
        return call.id in self._calls or call.id in self._shown_turns

    def settle(self) -> Settled:
        """What changed since the last time."""
        while self._changed_responses:
            self._choose(self._changed_responses.pop())
        calls = [self._settle_call(call) for call in self._changed_calls.values()]
        turned: list[Call] = []
        for turn in self._changed_turns.values():
            row = self._settle_turn(turn)
            if row is not None:
                calls.append(row)
            if (row is not None) != (turn.id in self._shown_turns):
                self._shown_turns ^= {turn.id}
                turned.append(turn)
        requests = [self._settle_request(request) for request in self._changed_requests.values()]
        for changed in (self._changed_calls, self._changed_turns, self._changed_requests):
            changed.clear()
        return Settled(calls, requests, turned)

    def _settle_call(self, call: Call) -> Row:
        self._settle_pair(call)
        call.row["turn_id"] = call.parent if call.parent in self._turns else None
        self._count(call, *self._usage_on_wire(call))
        return call.row

    def _settle_turn(self, turn: Call) -> Row | None:
        interrupted = turn.interrupted(self._producers)
        if turn.id in self._inside or not (turn.ended or interrupted):
            self._rollup.replace(turn.share, None)
            turn.share = None
            return None
        self._settle_pair(turn)
        self._count(turn, *self._usage_by_agent(turn))
        return turn.row

    def _settle_request(self, request: Pair) -> Row:
        self._settle_pair(request)
        if request.ended and rows.request_failed(request.row):
            self._failed.add(request.id)
        else:
            self._failed.discard(request.id)
        return request.row

    def _settle_pair(self, pair: Pair) -> None:
        if pair.ended is not None:
            pair.row["duration_s"] = seconds(pair.duration_ns())
        elif pair.interrupted(self._producers):
            rows.interrupted(pair.row)

    # --- usage -----------------------------------------------------------------------------------

    def _usage_on_wire(self, call: Call) -> tuple[str, str | None, Usage]:
        """Source, reason and tokens of a call."""
        if call.ended and self._reported(call) is NOTHING:
            due = none_due(call.method, call.row["surface"], call.row["http_status"])
            if due:
                return "none", due, NOTHING
        first = self._counted_instead(call)
        if first is not None:
            return "repeated", f"counted under {first.id}", NOTHING
        usage = self._reported(call)
        if usage.known:
            return "reported", "; ".join(filter(None, (call.missing, usage.reason))) or None, usage
        reason = call.missing or usage.reason or _unended(call.row) or "no usage in the response"
        return "unknown", reason, NOTHING

    def _usage_by_agent(self, turn: Call) -> tuple[str, str | None, Usage]:
        kept = _kept(turn.row)
        usage = kept_by_agent(kept, turn.row["provider"]) if kept else NOTHING
        if usage.known:
            return "agent", usage.reason, usage
        return "unknown", usage.reason or _unended(turn.row) or "provider not hooked", NOTHING

    def _reported(self, call: Call) -> Usage:
        if call.read is None:
            call.read = _read(_kept(call.row), call.row)
        return call.read

    def _choose(self, response: str) -> None:
        """Find the call under which a response is counted: the earliest with usage."""
        same = self._responses[response]
        if len(same) < 2 and response not in self._counted:
            return
        first = self._first(response, same)
        counted = (first, first.method, first.row["usage"]) if first else None
        if counted != self._counted.get(response):
            self._changed_calls.update((call.id, call) for call in same)
        if counted:
            self._counted[response] = counted

    def _first(self, response: str, same: list[Call]) -> Call | None:
        """The first in the heap that is still what it was: of many polls few are looked at."""
        ranks = self._ranks.get(response)
        if ranks is None:
            ranks = self._ranks[response] = [self._ranked(call) for call in same]
            heapify(ranks)
        while ranks:
            call = self._calls[ranks[0].id]
            if call.row["response_id"] == response and self._ranked(call) == ranks[0]:
                return call
            heappop(ranks)
        return None

    def _ranked(self, call: Call) -> _Ranked:
        return _Ranked(not self._reported(call).known, call.key, call.id)

    def _counted_instead(self, call: Call) -> Call | None:
        """The other call under which the response of this one is counted, if there is one.

        Two calls that each created a response, with different usage, are two responses: some servers
        give every response the same id.
        """
        counted = self._counted.get(call.row["response_id"])
        if counted is None or counted[0] is call:
            return None
        first, method, usage = counted
        told = self._reported(call) is not NOTHING
        if call.method == method == "POST" and told and call.row["usage"] != usage:
            return None
        return first

    def _count(self, call: Call, source: str, reason: str | None, usage: Usage) -> None:
        row = call.row
        row["usage_source"], row["usage_reason"] = source, reason
        row["input_tokens"], row["cached_tokens"] = usage.input, usage.cached
        row["cache_write_tokens"], row["output_tokens"] = usage.cache_write, usage.output
        row["reasoning_tokens"] = usage.reasoning
        share = None
        if source not in ("repeated", "none"):
            day = (row["started_at"] or row["finished_at"])[:10]
            model = row["model"] or row["model_requested"] or "unknown"
            key = (day, row["provider"] or "unknown", model, row["tier"] or "unknown", source, reason or "")
            share = Share(key, (*usage[:5], call.api_ns))
        self._rollup.replace(call.share, share)
        call.share = share


def _kept(row: Row) -> dict[str, Any]:
    """The usage as it came; only its text is kept, which takes a tenth of the memory."""
    return mapping(from_json(row["usage"])) if row["usage"] else {}


def _read(usage: dict[str, Any], row: Row) -> Usage:
    return reported(usage, row["provider"]) if usage else NOTHING


def _unended(row: Row) -> str | None:
    """Why a call that did not complete has no usage."""
    ended = row["ended"]
    if ended is None:
        return "call still open"
    if ended == "failed":
        return f"call failed: {row['error_type']}"
    return None if ended == "completed" else f"call {ended}"
