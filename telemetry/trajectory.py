"""TRAE's own record of a run, ``trajectory.json``: read once, after the end, and only to be compared.

The agent rewrites the file as a whole after every step and not atomically, so it may be cut off; it leaves
out the calls of its summariser and those that could not be parsed. What stands in it are claims.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_shim.events import TrajectoryRead
from telemetry.own_files import content_of

_TEXT = 2000
"""Characters of a text that is kept."""


def read(path: Path, is_written: bool, redact: Callable[[str], str]) -> TrajectoryRead:
    """What the file says; ``reason`` where it says nothing."""
    content = content_of(path)
    event = TrajectoryRead(path=str(path), written=is_written)
    if content.data is None:
        return event._replace(reason=content.reason)
    digest = hashlib.sha256(content.data).hexdigest()
    event = event._replace(bytes=len(content.data), sha256=digest, valid_json=False)
    try:
        told = json.loads(content.data)
    except (ValueError, RecursionError) as error:
        return event._replace(reason=f"not JSON: {str(error)[:200] or type(error).__name__}")
    if not isinstance(told, dict):
        return event._replace(valid_json=True, reason="not an object")
    return _claims(event._replace(valid_json=True), told, redact)


def _claims(event: TrajectoryRead, told: dict[str, Any], redact: Callable[[str], str]) -> TrajectoryRead:
    steps, interactions = _objects(told.get("agent_steps")), _objects(told.get("llm_interactions"))
    errors = [step["error"] for step in steps if step.get("error")]
    usages = [_object(_object(call.get("response")).get("usage")) for call in interactions]
    success = told.get("success")
    return event._replace(
        success=success if isinstance(success, bool) else None,
        final_result=_text(told.get("final_result"), redact),
        error=_text(steps[-1].get("error"), redact) if steps else None,
        errors=len(errors),
        steps=len(steps),
        max_steps=_number(told.get("max_steps")),
        interactions=len(interactions),
        provider=_text(told.get("provider"), redact),
        model=_text(told.get("model"), redact),
        start_time=_text(told.get("start_time"), redact),
        end_time=_text(told.get("end_time"), redact),
        input_tokens=_sum(usages, "input_tokens"),
        output_tokens=_sum(usages, "output_tokens"),
        cached_tokens=_sum(usages, "cache_read_input_tokens"),
        reasoning_tokens=_sum(usages, "reasoning_tokens"),
    )


def _sum(usages: list[dict[str, Any]], name: str) -> int | None:
    """The sum of what is told; unknown when nothing is."""
    numbers = [number for usage in usages if (number := _number(usage.get(name))) is not None]
    return sum(numbers) if numbers else None


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int | None:
    return value if type(value) is int else None


def _text(value: object, redact: Callable[[str], str]) -> str | None:
    return redact(value)[:_TEXT] if isinstance(value, str) and value else None
