"""Claims: an assertion about a run, held against what was transmitted and what was observed. Pure.

Promises, each with its test in ``tests/test_claims.py``:

* Transmitted and observed are told apart. What contradicts a claim refutes it, in either; what agrees
  confirms it; where neither says anything there is no evidence, which is not agreement.
* A parameter that was not sent has the API's own default, where that is known; both are said.
* A limit of tokens is the same one under each of its names; the answer says under which it was sent.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from agent_shim.errors import SettingsError

CONFIRMED, REFUTED, NO_EVIDENCE = "confirmed", "refuted", "no evidence"
DEFAULTS = {"parallel_tool_calls": True, "temperature": 1, "top_p": 1, "stream": False, "n": 1}
"""The API's own, by the OpenAI API reference for Chat Completions and Responses (2025-12)."""
OF_TOOLS = ("parallel_tool_calls", "tool_choice")
"""Parameters that mean nothing in a request without tools."""
_LIMIT = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""One limit: in Chat Completions formerly and now, and in Responses (OpenAI API reference, 2025-12)."""
_WORDS = {"true": True, "false": False, "null": None, "none": None}
"""As people write them, in JSON and in Python."""
_NAMED = 20
"""How many events a finding names."""


class Finding(NamedTuple):
    """What became of a claim."""

    verdict: str
    reason: str
    transmitted: str | None
    observed: str | None
    events: tuple[str, ...]


def parse(text: str) -> tuple[str, str]:
    """Name and value of ``NAME=VALUE``. Raises `SettingsError`."""
    name, equals, value = text.partition("=")
    if not name.strip() or not equals or not value.strip():
        hint = "write NAME=VALUE, such as parallel_tool_calls=false"
        raise SettingsError(f"the claim {text!r} asserts nothing", hint=hint)
    return name.strip(), value.strip()


def names(name: str) -> tuple[str, ...]:
    """What a parameter may be called in a request, its own name first."""
    return (name, *(other for other in _LIMIT if name in _LIMIT and other != name))


def check(
    name: str,
    value: str,
    calls: Sequence[Any],
    tools: Sequence[Any],
    without_tools: frozenset[str] = frozenset(),
) -> Finding:
    """What the record says to a claim.

    `calls` and `tools` are rows of ``llm_call`` and ``tool_call``; `without_tools` the ids of those calls
    whose request offered no tools.
    """
    claimed = _value(value)
    asked = [call for call in calls if name not in OF_TOOLS or call.call_id not in without_tools]
    sent = _transmitted(name, claimed, asked)
    seen = _observed(name, claimed, calls, tools)
    for side in (sent, seen):
        if side.agrees is False:
            return _finding(REFUTED, side, sent, seen)
    for side in (sent, seen):
        if side.agrees:
            return _finding(CONFIRMED, side, sent, seen)
    return _finding(NO_EVIDENCE, sent, sent, seen)


class _Side(NamedTuple):
    """What one kind of evidence says."""

    agrees: bool | None
    words: str | None
    events: tuple[str, ...] = ()


def _finding(verdict: str, by: _Side, sent: _Side, seen: _Side) -> Finding:
    reason = by.words or "nothing that was seen says anything about it"
    return Finding(verdict, reason, sent.words, seen.words, by.events[:_NAMED])


def _transmitted(name: str, claimed: Any, calls: Sequence[Any]) -> _Side:
    found: dict[tuple[str, str], list[str]] = {}
    for call in calls:
        if call.source == "wire":
            found.setdefault(_sent(name, call), []).append(call.call_id)
    if not found:
        return _Side(None, None)
    said = [(_agrees(name, claimed, value), those) for (_, value), those in found.items()]
    odd = [call for agrees, those in said if agrees is False for call in those]
    even = [call for agrees, those in said if agrees for call in those]
    words = "; ".join(_told(name, *sent, len(those)) for sent, those in found.items())
    return _Side(False if odd else True if even else None, words, tuple(odd or even))


def _sent(name: str, call: Any) -> tuple[str, str]:
    """The name in a request, and the value as JSON; empty when it was not sent."""
    if name == "model":
        return name, json.dumps(call.model_requested)
    parameters = json.loads(call.parameters or "{}")
    present = [one for one in names(name) if one in parameters]
    limiting = [one for one in present if parameters[one] is not None] or present
    return (limiting[0], json.dumps(parameters[limiting[0]])) if limiting else (name, "")


def _agrees(name: str, claimed: Any, sent: str) -> bool | None:
    if sent:
        return bool(json.loads(sent) == claimed)
    return bool(DEFAULTS[name] == claimed) if name in DEFAULTS else None


def _told(name: str, called: str, sent: str, number: int) -> str:
    where = f"in {number} request{'' if number == 1 else 's'}"
    if sent:
        return f"sent as {sent if called == name else f'{called}={sent}'} {where}"
    if name in DEFAULTS:
        return f"not sent {where}, where the API's own default is {json.dumps(DEFAULTS[name])}"
    return f"not sent {where}"


def _observed(name: str, claimed: Any, calls: Sequence[Any], tools: Sequence[Any]) -> _Side:
    if name == "model":
        answered = Counter(call.model for call in calls if call.model)
        told = ", ".join(f"{model} answered {n} times" for model, n in answered.items()) or None
        odd = tuple(call.call_id for call in calls if call.model and not _is_model(call.model, str(claimed)))
        return _Side(False if odd else None, told, odd)
    if name != "parallel_tool_calls":
        return _Side(None, None)
    several = [call.call_id for call in calls if len(json.loads(call.tool_calls or "[]")) > 1]
    overlapping = [tool.tool_call_id for tool in tools if tool.overlaps]
    if not several and not overlapping:
        return _Side(None, "no response asked for several tool calls, and none overlapped" if tools else None)
    words = f"{len(several)} responses asked for several tool calls, {len(overlapping)} tool calls overlapped"
    return _Side(bool(claimed), words, (*several, *overlapping))


def _is_model(answered: str, claimed: str) -> bool:
    """Whether it is the model, or a dated state of it: gpt-4-0613 is gpt-4, gpt-4o is not."""
    return re.fullmatch(re.escape(claimed) + r"(-[0-9][0-9-]*)?", answered) is not None


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text
