"""What a run changed and what its agent says of that, in lines: the patch, and the agent's own numbers.

Promises, each with its test in ``tests/test_changes.py``:

* An unknown patch has its reason, an empty one its cause where the record shows it.
* The agent's own numbers stand beside ours where they differ; ours are the ones that count anywhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from telemetry import causes, faults
from telemetry.display import UNKNOWN, count
from telemetry.queries import Timeline

LISTED = 20
"""Files and commits that are shown to people; JSON has all that were recorded."""
_LISTS = frozenset(("files", "excess", "left_out", "commits", "agent_patches", "rewritten"))
_COUNTED = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")


class Difference(NamedTuple):
    """A number that the agent has otherwise."""

    name: str
    agents: int
    ours: int | None
    """``None``: unknown, for some call."""


def sections(timeline: Timeline) -> Iterator[tuple[str, Sequence[str]]]:
    """Titles, and the lines below them."""
    yield "Changes", list(_changes(timeline))
    yield "What the agent says of itself", list(_trajectory(timeline))


def objects(timeline: Timeline) -> dict[str, Any]:
    """The same as JSON; ``None`` where nothing was recorded."""
    cause, handed_in = _causes(timeline)
    told = timeline.trajectory
    return {
        "patch": _object(timeline.patch),
        "patch_empty_cause": cause._asdict() if cause else None,
        "patch_handed_in": handed_in._asdict() if handed_in else None,
        "trajectory": _object(told),
        "trajectory_differs": [one._asdict() for one in differences(timeline)],
    }


def differences(timeline: Timeline) -> list[Difference]:
    """Where the agent counts otherwise than what was seen; nothing where nothing was seen of its inside."""
    told = timeline.trajectory
    if told is None or not told.valid_json or timeline.run.capture != "captured":
        return []
    ours: dict[str, int | None] = {"interactions": len(timeline.calls)}
    for name in _COUNTED:
        values = [getattr(view.call, name) for view in timeline.calls]
        ours[name] = None if None in values else sum(values)
    pairs = ((name, getattr(told, name), number) for name, number in ours.items())
    return [
        Difference(name, agents, number) for name, agents, number in pairs if agents not in (None, number)
    ]


def _changes(timeline: Timeline) -> Iterator[str]:
    patch = timeline.patch
    if patch is None:
        return
    yield _summary(patch)
    for cause in filter(None, _causes(timeline)):
        yield f"{cause.name}: {cause.message}"
    yield from _some(_list(patch.files), _file)
    yield from _some(
        _list(patch.commits), lambda made: f"commit {made.get('id', '')[:12]} {made.get('subject')}"
    )
    yield from _some(
        _list(patch.excess), lambda file: f"too big: {file.get('path')}, {file.get('bytes')} bytes"
    )
    yield from _some(_list(patch.left_out), lambda file: f"left out ({file.get('why')}): {file.get('path')}")


def _summary(patch: Any) -> str:
    if patch.reason:
        return f"patch {UNKNOWN}: {patch.reason}"
    files = f"{patch.file_count} file{'' if patch.file_count == 1 else 's'}, +{patch.added} -{patch.removed}"
    applies = "" if patch.applies is not False else f" · does not apply: {patch.applies_reason}"
    empty = "" if patch.bytes else "the patch is empty"
    return empty or f"{files}, {patch.bytes:,} bytes{applies}"


def _file(file: Mapping[str, Any]) -> str:
    numbers = "binary" if file.get("binary") else f"+{file.get('added')} -{file.get('removed')}"
    only = f", {file['only']} only" if file.get("only") else ""
    broken = f", does not parse: {file.get('parse_error')}" if file.get("parses") is False else ""
    return f"{file.get('status')} {file.get('path')} {numbers}{only}{broken}"


def _some(found: Sequence[Mapping[str, Any]], told: Any) -> Iterator[str]:
    yield from map(told, found[:LISTED])
    if len(found) > LISTED:
        yield f"… and {len(found) - LISTED} more (--json has them)"


def _trajectory(timeline: Timeline) -> Iterator[str]:
    told = timeline.trajectory
    if told is None:
        return
    if told.reason:
        yield f"{told.path}: {told.reason}"
        return
    old = "" if told.written is not False else " (written before this run)"
    success = {True: "it succeeded", False: "it failed"}.get(told.success, f"success {UNKNOWN}")
    yield f"{success}, {told.steps} steps of {told.max_steps or UNKNOWN}{old}"
    if told.error:
        yield f"error of its last step: {told.error}"
    for one in differences(timeline):
        ours = UNKNOWN if one.ours is None else count(one.ours)
        yield f"{one.name.replace('_', ' ')}: {count(one.agents)} as it counts, {ours} seen"


def _causes(timeline: Timeline) -> tuple[causes.Cause | None, causes.Cause | None]:
    patch = timeline.patch._asdict() if timeline.patch is not None else None
    tools = [tool._asdict() for tool in timeline.tools]
    calls = [view.call._asdict() for view in timeline.calls]
    told = timeline.trajectory._asdict() if timeline.trajectory is not None else None
    failed = faults.failures(
        [view.call for view in timeline.calls], [one for view in timeline.calls for one in view.requests]
    )
    empty = causes.of_empty(timeline.run._asdict(), patch, tools, calls, told, failed)
    return empty, causes.of_hand_over(patch)


def _list(text: str | None) -> list[dict[str, Any]]:
    found = json.loads(text) if text else []
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _object(row: Any) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        name: json.loads(value) if name in _LISTS and value else value
        for name, value in row._asdict().items()
    }
