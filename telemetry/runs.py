"""How a run began, how it ended, and whether all of it is here."""

from __future__ import annotations

import signal
from typing import Any, NamedTuple

from agent_shim.events import event_id

from . import rows
from .calls import Event, Key, Pair, begin_of
from .producers import MAX_NAMED, Producer, listed
from .rows import RUN, Row, as_json, at, number, seconds, small, text

_AS_GIVEN = (
    *("way", "agent", "cwd", "repository", "repository_source", "commit_source", "worktree", "branch"),
    *("base_commit", "task", "batch", "model_declared", "parent_run", "host", "platform", "version"),
)
"""Columns that have the name of their field in ``run.started``."""


NEVER_STARTED = ("refused", "spawn_failed")
"""Outcomes of runs that had no process, so that none of their totals lacks anything."""
BYSTANDERS = ("deliverer", "judge")
"""Roles of producers that write of a run without being part of it: it is complete without them."""


class _Span(Pair):
    """A begin and an end event with their data as they came."""

    __slots__ = ("begin_data", "end_data")

    def __init__(self, identity: str) -> None:
        super().__init__(identity, {})
        self.begin_data: dict[str, Any] = {}
        self.end_data: dict[str, Any] = {}


class Capture(NamedTuple):
    """Whether the inside of the run was seen."""

    state: str
    reason: str | None


class Run:
    """The identity, the end and the completeness of one run."""

    def __init__(self, run_id: str, producers: dict[str, Producer]) -> None:
        self._run_id = run_id
        self._producers = producers
        self._runs: dict[str, _Span] = {}
        self._processes: dict[str, _Span] = {}
        self._first: int | None = None

    # --- events ----------------------------------------------------------------------------------

    def seen(self, time_ns: int) -> None:
        """Some event of the run has this time."""
        if self._first is None or time_ns < self._first:
            self._first = time_ns

    def run_started(self, key: Key, event: Event) -> None:
        """``run.started``."""
        _begin(self._runs, key, event)

    def run_finished(self, key: Key, event: Event) -> None:
        """``run.finished``."""
        _end(self._runs, key, event)

    def process_started(self, key: Key, event: Event) -> None:
        """``process.started``."""
        _begin(self._processes, key, event)

    def process_finished(self, key: Key, event: Event) -> None:
        """``process.finished``."""
        _end(self._processes, key, event)

    # --- what follows ----------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``finished``, ``interrupted`` or ``running``."""
        run = _chosen(self._runs)
        if run.ended:
            return "finished"
        recorders = [self._producers[run.began[1]]] if run.began else self._recorded()
        return "interrupted" if recorders and all(p.sealed for p in recorders) else "running"

    @property
    def day(self) -> str:
        """UTC day on which it began, as far as is known."""
        run = _chosen(self._runs)
        return at(run.began[0] if run.began else self._first or 0)[:10]

    @property
    def identity(self) -> tuple[str | None, str | None]:
        """Repository and commit as given."""
        data = _chosen(self._runs).begin_data
        return text(data.get("repository")), text(data.get("commit"))

    def incomplete(self) -> str | None:
        """Why not all of the run is here; ``None`` when it is complete."""
        run = _chosen(self._runs)
        if not run.ended:
            running = self.state == "running"
            return "the run is not finished" if running else "the end of the run was not recorded"
        needed = {*listed(run.end_data.get("producers")), run.ended[1]}
        needed.update(producer.id for producer in self._recorded())
        told = [f"producer {name[-8:]}: {why}" for name in sorted(needed) if (why := self._problem(name))]
        more = [f"and {len(told) - MAX_NAMED} more producers"] if len(told) > MAX_NAMED else []
        return "; ".join(told[:MAX_NAMED] + more) or None

    def _problem(self, producer: str) -> str:
        found = self._producers.get(producer)
        return ", ".join(found.problems()) if found else "nothing of it arrived"

    def _recorded(self) -> list[Producer]:
        """The producers that the run consists of."""
        return [producer for producer in self._producers.values() if producer.role not in BYSTANDERS]

    def capture(self, calls: int) -> Capture:
        """Whether the calls of the run were seen; without a hook that took they are unknown, not zero."""
        if calls or any(producer.call_hook for producer in self._producers.values()):
            return Capture("captured", None)
        if _chosen(self._runs).end_data.get("outcome") in NEVER_STARTED:
            return Capture("captured", "nothing was started")  # no calls, and that is known
        process = _chosen(self._processes).begin_data
        if process.get("capture") == "none":
            return Capture("not captured", text(process.get("capture_reason")) or "no hook for this agent")
        if self.state == "running":
            return Capture("unknown", None)
        return Capture("not captured", self._why_not_captured())

    def _why_not_captured(self) -> str:
        failures = [f for _, p in sorted(self._producers.items()) for f in p.failures()]
        if failures:
            return f"hook failed: {'; '.join(failures[:MAX_NAMED])}"
        if any(producer.role == "agent" for producer in self._producers.values()):
            return "the agent's process imported nothing that is hooked"
        return "no hook got into the agent's process"

    def row(self, others: Row, capture: Capture) -> Row:
        """Its row; `others` are columns that others know."""
        run, process = _chosen(self._runs), _chosen(self._processes)
        incomplete = self.incomplete()
        row = {
            **RUN,
            "run_id": self._run_id,
            "duration_s": seconds(run.duration_ns()),
            "started_at": at(run.began[0]) if run.began else self._first_received(),
            "finished_at": at(run.ended[0]) if run.ended else None,
            "state": self.state,
            "capture": capture.state,
            "capture_reason": capture.reason,
            "complete": incomplete is None,
            "incomplete_reason": incomplete,
            **others,
        }
        self._identity(row, run.begin_data)
        self._process(row, process)
        self._ending(row, run, process)
        return row

    def _first_received(self) -> str | None:
        """When a run began that only other instrumentations recorded: their spans have no producer."""
        return at(self._first) if self._first and not self._producers else None

    def _identity(self, row: Row, data: dict[str, Any]) -> None:
        for name in _AS_GIVEN:
            row[name] = text(data.get(name)) or row[name]
        row["command"] = as_json(data.get("command"))
        row["tags"] = as_json(data.get("tags"))
        row["attempt"] = small(data.get("attempt")) or row["attempt"]
        row["commit"] = row["commit_given"] = text(data.get("commit"))
        row["trace_id"] = _trace_of(text(data.get("trace_parent"))) or self._run_id

    def _process(self, row: Row, process: _Span) -> None:
        data = process.end_data
        row["pid"] = small(process.begin_data.get("pid"))
        for name in ("stdout_bytes", "stderr_bytes", "max_rss_bytes"):
            row[name] = number(data.get(name))
        row["stdout_tail"], row["stderr_tail"] = text(data.get("stdout_tail")), text(data.get("stderr_tail"))
        row["user_s"], row["system_s"] = seconds(data.get("user_ns")), seconds(data.get("system_ns"))

    def _ending(self, row: Row, run: _Span, process: _Span) -> None:
        """How it ended; what ``run.finished`` leaves out, the end of the process may still tell."""
        for name, read in _ENDING:
            said = read(run.end_data.get(name))
            row[name] = read(process.end_data.get(name)) if said is None and name != "outcome" else said
        if row["state"] == "interrupted":
            row["outcome"] = "abandoned"
            row["error_type"] = "Interrupted"
            row["error_message"] = f"{self._who_died(run)} died before it could record how the run ended"
        elif row["state"] == "finished":
            row["outcome"] = row["outcome"] or "unknown"
            if not _went_well(row):
                rows.explain(row, _kind(row))

    def _who_died(self, run: _Span) -> str:
        if run.began is None:
            return "what recorded it"
        recorder = self._producers[run.began[1]]
        pid = f", process {recorder.pid}" if recorder.pid is not None else ""
        return f"the {recorder.role or 'recorder'} (producer {recorder.id[-8:]}{pid})"


_ENDING = (
    ("outcome", text),
    ("exit_code", small),
    ("signal", small),
    ("error_type", text),
    ("error_message", text),
)


def _begin(spans: dict[str, _Span], key: Key, event: Event) -> None:
    identity = event_id(key[1], key[2])
    span = spans.setdefault(identity, _Span(identity))
    span.begin(key, event)
    span.begin_data = event["data"]


def _end(spans: dict[str, _Span], key: Key, event: Event) -> None:
    identity = begin_of(key, event)
    span = spans.setdefault(identity, _Span(identity))
    if span.end(key, event):
        span.end_data = event["data"]


def _chosen(spans: dict[str, _Span]) -> _Span:
    """The earliest that began; else the earliest end; else one of which nothing is known."""
    return min(spans.values(), key=lambda span: (span.began is None, span.key), default=_Span(""))


def _trace_of(trace_parent: str | None) -> str | None:
    """The trace id in a W3C ``traceparent``."""
    parts = (trace_parent or "").split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else None


def _went_well(row: Row) -> bool:
    outcome, exit_code = row["outcome"], row["exit_code"]
    return bool(outcome == "returned" or (outcome == "exited" and exit_code == 0))


def _kind(row: Row) -> str:
    """The type of a failure whose event brought none, from what is known of the end."""
    if row["outcome"] == "exited" and row["exit_code"] is not None:
        return f"ExitStatus{row['exit_code']}"
    if row["outcome"] == "signaled" and row["signal"] in signal.valid_signals():
        return signal.Signals(row["signal"]).name
    return str(row["outcome"])
