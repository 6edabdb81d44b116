"""Attempts, claims, results and judgements of a run, folded into rows.

The latest counts: of a judgement under its policy, of a check of a claim, of a result from its source.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent_shim.events import event_id

from .calls import Event, Key
from .rows import CHECK, CLAIM, RESULT, VERDICT, Row, as_json, at, flag, items, mapping, number, small, text

_KEYS = {
    "verdict": ("run_id", "policy"),
    "check": ("run_id", "policy", "name"),
    "claim": ("run_id", "name"),
    "result": ("run_id", "name", "source"),
}
"""Table → its primary key."""
STATES = ("pass", "fail", "unknown")

_Latest = dict[Any, tuple[Key, Event]]


class Judgements:
    """What was claimed, measured and judged of one run."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._judged: _Latest = {}
        self._made: _Latest = {}
        self._checked: _Latest = {}
        self._results: _Latest = {}
        self._own: _Latest = {}
        self._shown: dict[str, dict[tuple[Any, ...], Row]] = {name: {} for name in _KEYS}
        self._stale = False

    # --- events ----------------------------------------------------------------------------------

    def judged(self, key: Key, event: Event) -> None:
        """``run.judged``."""
        self._keep(self._judged, text(event["data"].get("policy")), key, event)

    def claim_made(self, key: Key, event: Event) -> None:
        """``claim.made``."""
        self._keep(self._made, text(event["data"].get("name")), key, event)

    def claim_checked(self, key: Key, event: Event) -> None:
        """``claim.checked``."""
        data = event["data"]
        self._keep(self._checked, (text(data.get("name")), text(data.get("value"))), key, event)

    def result_attached(self, key: Key, event: Event) -> None:
        """``result.attached``."""
        data = event["data"]
        self._keep(self._results, (text(data.get("name")), text(data.get("source"))), key, event)

    def attempt_reserved(self, key: Key, event: Event) -> None:
        """``attempt.reserved``."""
        self._keep(self._own, "attempt", key, event)

    def trajectory_read(self, key: Key, event: Event) -> None:
        """``trajectory.read``: what the agent wrote of itself, in this run and not in one before."""
        if event["data"].get("written") is not False:
            self._keep(self._own, "trajectory", key, event)

    def _keep(self, latest: _Latest, name: Any, key: Key, event: Event) -> None:
        if name is None or (type(name) is tuple and None in name):
            return
        if name not in latest or latest[name][0] < key:
            latest[name] = key, event
            self._stale = True

    # --- rows ------------------------------------------------------------------------------------

    def columns(self) -> Row:
        """The columns of the run's own row."""
        last = max(self._judged.values(), key=lambda pair: pair[0], default=None)
        judged = last[1]["data"] if last else {}
        reserved = self._own["attempt"][1]["data"] if "attempt" in self._own else {}
        written = self._own["trajectory"][1]["data"] if "trajectory" in self._own else {}
        return {
            "claimed_success": flag(written.get("success")),
            "attempt": small(reserved.get("number")),
            "attempt_provisional": reserved.get("provisional") is True if reserved else None,
            "verdict": _state(judged.get("verdict")) if last else None,
            "verdict_policy": text(judged.get("policy")),
            "verdict_reason": text(judged.get("reason")),
        }

    def settle(self) -> tuple[dict[str, list[tuple[Any, ...]]], dict[str, list[tuple[Any, ...]]]]:
        """Rows that changed, and the keys of those that are no more, by table."""
        upserts: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _KEYS}
        deletes: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _KEYS}
        if not self._stale:
            return upserts, deletes
        self._stale = False
        made = {
            "verdict": self._verdicts(),
            "check": self._checks(),
            "claim": self._claims(),
            "result": self._measured(),
        }
        for name, rows in made.items():
            now = {tuple(row[column] for column in _KEYS[name]): row for row in rows}
            before = self._shown[name]
            upserts[name] = [tuple(row.values()) for key, row in now.items() if before.get(key) != row]
            deletes[name] = [key for key in before if key not in now]
            self._shown[name] = now
        return upserts, deletes

    def _verdicts(self) -> Iterator[Row]:
        for policy, (key, event) in self._judged.items():
            data = event["data"]
            yield VERDICT | {
                **self._same(data, "policy_sha256 reason empty_cause"),
                "policy": policy,
                "verdict": _state(data.get("verdict")),
                "events_seen": number(data.get("events_seen")),
                "judged_at": at(key[0]),
                "event_id": event_id(key[1], key[2]),
            }

    def _checks(self) -> Iterator[Row]:
        for policy, (_, event) in self._judged.items():
            for check in map(mapping, items(event["data"].get("checks"))):
                if text(check.get("name")):
                    yield CHECK | {
                        **self._same(check, "name need reason"),
                        "policy": policy,
                        "state": _state(check.get("state")),
                        "events": as_json(check.get("events")),
                    }

    def _claims(self) -> Iterator[Row]:
        for name, (key, event) in self._made.items():
            data = event["data"]
            row = CLAIM | {**self._same(data, "value source place"), "name": name, "made_at": at(key[0])}
            checked = self._checked.get((name, row["value"]))
            if checked:
                found = checked[1]["data"]
                row |= self._same(found, "verdict reason transmitted observed")
                row |= {"events": as_json(found.get("events")), "checked_at": at(checked[0][0])}
            yield row

    def _measured(self) -> Iterator[Row]:
        for (name, source), (key, event) in self._results.items():
            value = event["data"].get("value")
            yield RESULT | {
                "run_id": self._run_id,
                "name": name,
                "source": source,
                "value": float(value) if type(value) in (int, float) else None,
                "unit": text(event["data"].get("unit")),
                "attached_at": at(key[0]),
                "event_id": event_id(key[1], key[2]),
            }

    def _same(self, data: dict[str, Any], names: str) -> Row:
        return {"run_id": self._run_id, **{name: text(data.get(name)) for name in names.split()}}


def _state(value: object) -> str:
    return str(value) if value in STATES else "unknown"
