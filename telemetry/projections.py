"""The views of a run, folded from its events. Pure: no database, no clock, no OpenTelemetry.

Promises, each with its test in ``tests/test_projections.py``:

* The rows are a function of the *set* of events: arrival order and batches make no difference, and an
  end may come before its begin. Of two ends of one begin the earlier one counts.
* Every row follows from what was seen. What was not seen is ``None``, with a reason where the table has
  a column for it; a failure always has a type and a message.
* A response is counted once, however often and from however many processes it was fetched.
* An event whose name is unknown changes nothing but the counts of events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from agent_shim.events import LogReceived, SpanReceived, name_of

from .calls import Calls, Event, Key
from .foreign_calls import ForeignCalls
from .judgements import Judgements
from .leftovers import Leftovers
from .producers import Producer
from .rollup import Rollup
from .runs import Run
from .tools import Tools


class Changes(NamedTuple):
    """What to write so that the views show all events added so far."""

    upserts: dict[str, list[tuple[Any, ...]]]
    """Table → rows, with the columns of `rows.COLUMNS`."""
    deletes: dict[str, list[tuple[Any, ...]]]
    """Table → primary keys of rows that are no more."""


class RunFold:
    """Folds the events of one run: `add` events; `changed` then gives the rows to write."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.events = 0
        self._producers: dict[str, Producer] = {}
        self._changed: dict[str, Producer] = {}
        self._rollup = Rollup(run_id)
        self._run = Run(run_id, self._producers)
        self._calls = Calls(run_id, self._producers, self._rollup)
        self._tools = Tools(run_id, self._producers)
        self._foreign = ForeignCalls(run_id, self._rollup)
        self._received: set[tuple[str, int]] = set()
        """Spans and records of others: each is a stream of its own, and none is a producer of the run."""
        self._leftovers = Leftovers(run_id)
        self._judgements = Judgements(run_id)
        self._handlers: dict[str, Callable[[Key, Event], None]] = {
            "run.started": self._run.run_started,
            "run.finished": self._run.run_finished,
            "process.started": self._run.process_started,
            "process.finished": self._run.process_finished,
            "producer.started": self._producer_started,
            "producer.sealed": self._producer_sealed,
            "hook.attached": self._hook_attached,
            "hook.failed": self._hook_failed,
            "events.lost": self._events_lost,
            "llm.call.started": self._call_started,
            "llm.call.finished": self._call_finished,
            "llm.request.started": self._calls.request_started,
            "llm.request.finished": self._calls.request_finished,
            "agent.turn.started": self._turn_started,
            "agent.turn.finished": self._turn_finished,
            "tool.call.started": self._tools.started,
            "tool.call.finished": self._tools.finished,
            "tree.captured": self._leftovers.tree_captured,
            "patch.captured": self._leftovers.patch_captured,
            "trajectory.read": self._trajectory_read,
            "attempt.reserved": self._judgements.attempt_reserved,
            "claim.made": self._judgements.claim_made,
            "claim.checked": self._judgements.claim_checked,
            "result.attached": self._judgements.result_attached,
            "run.judged": self._judgements.judged,
            _SPAN: self._foreign.received,
            _LOG: self._foreign.log_received,
        }

    def holds(self, producer: str, seq: int) -> bool:
        """Whether that event was added."""
        known = self._producers.get(producer)
        return (producer, seq) in self._received or (known is not None and known.holds(seq))

    @property
    def identity(self) -> tuple[str | None, str | None]:
        """Repository and commit as given."""
        return self._run.identity

    def add(self, producer: str, seq: int, event: Event) -> bool:
        """Take an event. False when one of that number was added before; then nothing changes."""
        name, time_ns = event["name"], event["time"]
        if name in (_SPAN, _LOG):
            if (producer, seq) in self._received:
                return False
            self._received.add((producer, seq))
        elif not self._producer(producer).take(seq, time_ns):
            return False
        self._run.seen(time_ns)
        self.events += 1
        handle = self._handlers.get(name)
        if handle is not None:
            handle((time_ns, producer, seq), event)
        return True

    def changed(self) -> Changes:
        """The rows that differ since the last call, and the keys of those that are no more."""
        state = self._run.state
        settled = self._calls.settle()
        for turn in settled.turned:
            self._tools.requester_changed(turn)
        foreign = self._foreign.settle(self._calls)
        tools, no_tools = self._tools.settle(state != "running", self._calls.shown)
        capture = self._run.capture(self._calls.calls + self._foreign.counted)
        hole = capture.reason if capture.state == "not captured" else None
        self._rollup.stand_for_unknown((self._run.day, *_UNSEEN, hole) if hole else None)
        usage, no_usage = self._rollup.settle()
        judged, not_judged = self._judgements.settle()
        others = self._counts() | self._judgements.columns() | {"agent": self._foreign.agent}
        upserts = {
            "run": [tuple(self._run.row(others, capture).values())],
            **judged,
            "producer": [tuple(p.row(self.run_id).values()) for p in self._changed.values()],
            "llm_call": [tuple(row.values()) for row in (*settled.calls, *foreign.calls)],
            "llm_request": [tuple(row.values()) for row in (*settled.requests, *foreign.requests)],
            "tool_call": [tuple(row.values()) for row in (*tools, *foreign.tools)],
            "usage": usage,
            **self._leftovers.settle(),
        }
        gone = [turn.id for turn in settled.turned if not self._calls.shown(turn)] + foreign.gone
        self._changed.clear()
        return Changes(
            upserts,
            {
                **not_judged,
                "llm_call": [(self.run_id, identity) for identity in gone],
                "tool_call": [(self.run_id, identity) for identity in no_tools],
                "usage": no_usage,
            },
        )

    def _producer(self, identity: str) -> Producer:
        source = self._producers.get(identity)
        if source is None:
            source = self._producers[identity] = Producer(identity)
        self._changed[identity] = source
        return source

    def _counts(self) -> dict[str, int]:
        others = self._foreign.counts()
        return {
            "calls": self._calls.calls + self._foreign.counted,
            "requests": self._calls.requests + others["requests"],
            "failed_requests": self._calls.failed_requests + others["failed_requests"],
            "tool_calls": self._tools.calls + others["tool_calls"],
            "failed_tool_calls": self._tools.failed + others["failed_tool_calls"],
            "never_executed_tool_calls": self._tools.never_executed,
            "events": self.events,
        }

    # --- events that more than one view reads ------------------------------------------------------

    def _producer_started(self, key: Key, event: Event) -> None:
        self._producers[key[1]].started(key[0], event["data"])

    def _producer_sealed(self, key: Key, event: Event) -> None:
        named = event["data"].get("producer")
        if type(named) is str:
            self._producer(named).seal(key, event["data"])
            self._calls.sealed(named)

    def _hook_attached(self, key: Key, event: Event) -> None:
        self._producers[key[1]].hook_attached(key[2], event["data"])

    def _hook_failed(self, key: Key, event: Event) -> None:
        self._producers[key[1]].hook_failed(key[2], event["data"])

    def _events_lost(self, key: Key, event: Event) -> None:
        self._producers[key[1]].events_lost(event["data"])

    def _call_started(self, key: Key, event: Event) -> None:
        source = self._producers[key[1]]
        source.last_call = max(source.last_call, key[2])
        self._tools.requester_changed(self._calls.call_started(key, event))

    def _call_finished(self, key: Key, event: Event) -> None:
        call = self._calls.call_finished(key, event)
        if call is not None:
            self._tools.requested(call, event["data"])

    def _trajectory_read(self, key: Key, event: Event) -> None:
        self._leftovers.trajectory_read(key, event)
        self._judgements.trajectory_read(key, event)

    def _turn_started(self, key: Key, event: Event) -> None:
        self._tools.requester_changed(self._calls.turn_started(key, event))

    def _turn_finished(self, key: Key, event: Event) -> None:
        turn = self._calls.turn_finished(key, event)
        if turn is not None:
            self._tools.requested(turn, event["data"])


_SPAN, _LOG = name_of(SpanReceived), name_of(LogReceived)

_UNSEEN = ("unknown", "unknown", "unknown", "unknown")
"""Provider, model, tier and source of calls that nobody saw."""
