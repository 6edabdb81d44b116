"""Plans: which commits are to be worked on, and which of them are open now. Nothing is stored.

Promises, each with its test in ``tests/test_plans.py``:

* What is open is a question to the journal, asked anew each time; each item has a reason.
* The keys of the pipeline's plan files are kept, those that this program does not know as well.
* A commit is known by its id, in full or shortened, never by the item's own name: items move between plans.
  An item without one is refused, because nothing could ever be known of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent_shim.errors import SettingsError
from telemetry.fingerprints import normalised
from telemetry.outcomes import Attempt, Line

OPEN, SOLVED, EXHAUSTED, FAILING, EXCLUDED = "open", "solved", "exhausted", "failing", "excluded"
SAME_FAILURES = 2
"""So many attempts in a row that failed for the same reason make a failure deterministic."""
_SHORTEST = 7
_COMMIT = re.compile(rf"[0-9a-f]{{{_SHORTEST},64}}")
_IDS = ("item_id", "human", "pre")
"""Which are text, also where YAML takes 1234567 or 0123456 for a number."""


class Item(NamedTuple):
    """One commit of a plan."""

    item_id: str
    commit: str
    raw: Mapping[str, Any]
    """The item as it stands in the file."""


class Plan(NamedTuple):
    """A file of the pipeline."""

    repository: str | None
    task_id: str | None
    items: Sequence[Item]
    raw: Mapping[str, Any]


class State(NamedTuple):
    """What is known of an item."""

    item: Item
    state: str
    reason: str
    attempts: int
    runs: Sequence[str]
    decisive: Attempt | None
    """The attempt that passed where one did, else the last."""


def read(path: Path) -> Plan:
    """A plan file. Raises `SettingsError` when it is none."""
    try:
        content = _loaded(path)
        items = [_item(number, item) for number, item in enumerate(content["items"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        hint = 'a plan is JSON or YAML: {"repo": …, "task_id": …, "items": [{"item_id": …, "human": sha}]}'
        raise SettingsError(f"{path} is no plan: {type(error).__name__}: {error}", hint=hint) from error
    repository = content.get("repo")
    return Plan(str(repository) if repository else None, content.get("task_id"), items, content)


def _loaded(path: Path) -> Any:
    """JSON, or YAML by the name of the file."""
    text = path.read_text("utf-8-sig")
    if path.suffix not in (".yaml", ".yml"):
        return json.loads(text)
    import yaml  # the pipeline writes JSON

    try:
        content, words = yaml.safe_load(text), yaml.load(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    for item, plain in zip(content["items"], words["items"], strict=True):
        item.update({name: plain[name] for name in _IDS if type(item.get(name)) in (int, float)})
    return content


def _item(number: int, raw: Mapping[str, Any]) -> Item:
    name = str(raw.get("item_id") or f"item-{number:04d}")
    commit = raw.get("human")
    text = commit.strip().lower() if isinstance(commit, str) else ""
    if not _COMMIT.fullmatch(text):
        raise ValueError(
            f"item {name!r} has no commit under human, of {_SHORTEST} digits or more: {commit!r}"
        )
    return Item(name, text, raw)


def unmatched(plan: Plan, excluded: Iterable[str]) -> list[str]:
    """Which of these names are neither an item nor a commit of the plan."""
    return [name for name in excluded if not any(_is_named(item, name) for item in plan.items)]


def _is_named(item: Item, name: str) -> bool:
    return name == item.item_id or _same(name.lower(), item.commit)


def states(
    plan: Plan,
    lines: Iterable[Line],
    *,
    max_attempts: int | None = None,
    excluded: Mapping[str, str] | None = None,
) -> list[State]:
    """What is open, item by item, in the order of the plan. `excluded` is by item or commit, with why."""
    known = list(lines)
    return [_state(item, _of(item, plan, known), max_attempts, excluded or {}) for item in plan.items]


def _of(item: Item, plan: Plan, lines: Iterable[Line]) -> list[Line]:
    """The attempts at a commit, by whatever agent; of another repository only if the plan names none."""
    return [
        line
        for line in lines
        if _same(item.commit, line.commit or "") and (not plan.repository or _agrees(plan, line))
    ]


def _agrees(plan: Plan, line: Line) -> bool:
    """Whether a repository is the plan's; a path and a URL of the same name are taken for the same."""
    return _name(plan.repository or "") == _name(line.repository or "") or not line.repository


def _name(repository: str) -> str:
    return repository.rstrip("/").removesuffix(".git").rpartition("/")[2]


def _same(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return len(shorter) >= _SHORTEST and longer.startswith(shorter)


def _state(item: Item, lines: Sequence[Line], limit: int | None, excluded: Mapping[str, str]) -> State:
    attempts = sorted((a for line in lines for a in line.attempts), key=lambda a: a.run.started_at or "")
    runs = [attempt.run.run_id for attempt in attempts]
    solved = [a for line in lines if line.verdict == "pass" for a in line.attempts if a.verdict == "pass"]
    decisive = next(iter(solved or attempts[-1:]), None)

    def state(name: str, reason: str) -> State:
        return State(item, name, reason, len(attempts), runs, decisive)

    why = next((w for name, w in excluded.items() if _is_named(item, name)), None)
    if why:
        return state(EXCLUDED, why)
    if solved:
        return state(SOLVED, f"run {solved[0].run.run_id[-8:]} passed")
    if limit is not None and len(attempts) >= limit:
        return state(EXHAUSTED, f"{len(attempts)} of {limit} attempts are used")
    last = [attempt for attempt in attempts if attempt.verdict == "fail"][-SAME_FAILURES:]
    same = {normalised(attempt.reason or "") for attempt in last}
    if len(last) == SAME_FAILURES and len(same) == 1 and last[-1] is attempts[-1]:
        return state(FAILING, f"the last {SAME_FAILURES} attempts failed alike: {last[-1].reason}")
    return state(OPEN, _why_open(attempts))


def _why_open(attempts: Sequence[Attempt]) -> str:
    if not attempts:
        return "no attempt yet"
    last = attempts[-1]
    if last.run.state == "running":
        return "an attempt is running"
    if last.verdict is None:
        return f"the last of {len(attempts)} attempts is not judged: agent-telemetry judge --all judges it"
    told = {"fail": "failed", "unknown": "has no verdict"}.get(last.verdict, "")
    return f"the last of {len(attempts)} attempts {told}: {last.reason or 'no reason known'}"


def remaining(plan: Plan, found: Iterable[State]) -> dict[str, Any]:
    """The plan with its open items alone, in its own form."""
    return {**plan.raw, "items": [state.item.raw for state in found if state.state == OPEN]}
