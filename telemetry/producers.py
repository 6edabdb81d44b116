"""What is known of one producer of a run, and whether all of its events are here."""

from __future__ import annotations

from typing import Any

from .rows import PRODUCER, Row, as_json, at, items, mapping, number, small, text

Data = dict[str, Any]

MAX_NAMED = 5
"""How many gaps, or producers, a reason names before it only counts the rest."""


class Producer:
    """One process that writes events for a run."""

    def __init__(self, identity: str) -> None:
        self.id = identity
        self.role: str | None = None
        self.pid: int | None = None
        self.last_time = -(2**63)
        self.last_call = 0
        """Sequence number of the last ``llm.call.started``."""
        self.tool_hook = False
        self.call_hook = False
        self.sealed = False
        self._started: dict[str, Any] = {}
        self._attached: dict[int, Data] = {}
        self._failed: dict[int, Data] = {}
        self._lost: int | None = None
        self._seal: tuple[int, int, str, int] = (0, 0, "", 0)
        self._sealed_reason: str | None = None
        self._torn: int | None = None
        self._corrupt: int | None = None
        self._lossy: bool | None = None
        self._dense = 0
        self._ahead: set[int] = set()

    # --- events ----------------------------------------------------------------------------------

    def take(self, seq: int, time_ns: int) -> bool:
        """Count an event. False when it was counted before."""
        if seq == self._dense + 1:
            self._dense = seq
            while self._ahead and self._dense + 1 in self._ahead:
                self._dense += 1
                self._ahead.remove(self._dense)
        elif self.holds(seq):
            return False
        else:
            self._ahead.add(seq)
        if time_ns > self.last_time:
            self.last_time = time_ns
        return True

    def holds(self, seq: int) -> bool:
        """Whether that event was counted."""
        return 1 <= seq <= self._dense or seq in self._ahead

    def started(self, time_ns: int, data: Data) -> None:
        """``producer.started``; only the first event of a producer can be it."""
        self.role = text(data.get("role"))
        self.pid = small(data.get("pid"))
        self._started = {
            "role": self.role,
            "pid": self.pid,
            "python": text(data.get("python")),
            "started_at": at(time_ns),
            "hooks_armed": as_json(data.get("hooks")),
        }

    def hook_attached(self, seq: int, data: Data) -> None:
        """``hook.attached``."""
        self._attached[seq] = data
        target = text(data.get("target")) or ""
        self.tool_hook = self.tool_hook or "tools" in target
        self.call_hook = self.call_hook or target == "openai" or target.endswith(".llm")

    def hook_failed(self, seq: int, data: Data) -> None:
        """``hook.failed``."""
        self._failed[seq] = data

    def events_lost(self, data: Data) -> None:
        """``events.lost``."""
        counts = [small(count) or 0 for count in mapping(data.get("reasons")).values()]
        self._lost = (self._lost or 0) + sum(count for count in counts if count > 0)

    def seal(self, key: tuple[int, str, int], data: Data) -> None:
        """``producer.sealed``, by itself or by who found it gone; the one that knows of more counts."""
        self.sealed = True
        order = (number(data.get("last_seq")) or 0, *key)
        if order >= self._seal:
            self._seal = order
            self._sealed_reason = text(data.get("reason"))
        self._torn = _more(self._torn, number(data.get("torn_bytes")))
        self._corrupt = _more(self._corrupt, number(data.get("corrupt_lines")))
        self._lossy = bool(data.get("lossy")) or self._lossy

    # --- what follows ----------------------------------------------------------------------------

    @property
    def events(self) -> int:
        """How many of its events were taken."""
        return self._dense + len(self._ahead)

    @property
    def highest(self) -> int:
        """The highest sequence number taken."""
        return max(self._ahead, default=self._dense)

    def problems(self) -> list[str]:
        """Why not all of it is here; empty when it is complete."""
        found = [] if self.sealed else ["not sealed"]
        if missing := self._missing():
            found.append(f"missing events {missing}")
        if self._lost:
            found.append(f"could not write {self._lost} events")
        if self._lossy:
            found.append("lost events that it could not count")
        if self._corrupt:
            found.append(f"{self._corrupt} corrupt lines")
        return found

    def failures(self) -> list[str]:
        """The hooks that did not take, and why."""
        return [
            ": ".join(filter(None, (text(data.get("target")), _cause(data))))
            for _, data in sorted(self._failed.items())
        ]

    def row(self, run_id: str) -> Row:
        """Its row."""
        return {
            **PRODUCER,
            "run_id": run_id,
            "producer": self.id,
            **self._started,
            "hooks_attached": self._hooks_attached(),
            "hooks_failed": self._hooks_failed(),
            "events": self.events,
            "highest_seq": self.highest,
            "sealed_seq": self._seal[0] if self.sealed else None,
            "sealed_reason": self._sealed_reason,
            "torn_bytes": self._torn,
            "corrupt_lines": self._corrupt,
            "lost_events": self._lost,
            "lossy": self._lossy,
            "complete": not self.problems(),
        }

    def _missing(self) -> str:
        """Gaps below the last sequence number that is known to exist, as text: ``3, 7-9``."""
        gaps: list[str] = []
        expected = self._dense + 1
        for seq in [*sorted(self._ahead), max(self._seal[0], self.highest) + 1]:
            if seq > expected:
                gaps.append(str(expected) if seq == expected + 1 else f"{expected}-{seq - 1}")
            expected = max(expected, seq + 1)
        more = [f"and {len(gaps) - MAX_NAMED} more gaps"] if len(gaps) > MAX_NAMED else []
        return ", ".join(gaps[:MAX_NAMED] + more)

    def _hooks_attached(self) -> str | None:
        told = {_target(data): _said(data, "version", "points") for _, data in sorted(self._attached.items())}
        return as_json(told or None)

    def _hooks_failed(self) -> str | None:
        told: dict[str, list[Data]] = {}
        for _, data in sorted(self._failed.items()):
            why = _said(data, "version", "point", "error_type", "error_message")
            told.setdefault(_target(data), []).append(why)
        return as_json(told or None)


def _target(data: Data) -> str:
    return text(data.get("target")) or "unknown"


def _said(data: Data, *fields: str) -> Data:
    return {name: data[name] for name in fields if data.get(name) is not None}


def _more(known: int | None, given: int | None) -> int | None:
    return given if known is None else max(known, given or 0)


def _cause(data: Data) -> str | None:
    return text(data.get("error_message")) or text(data.get("error_type"))


def listed(value: object) -> list[str]:
    """The producers that ``run.finished`` names."""
    return [item for item in items(value) if type(item) is str]
