"""Claims: assertions about a run, held against what was transmitted and observed. Pure, but for `written`.

Promises, each with its test in ``tests/test_claims.py``:

* Transmitted and observed are told apart. What contradicts a claim refutes it, in either; what agrees
  confirms it; where neither says anything there is no evidence, which is not agreement.
* A parameter that was not sent has the API's own default, where that is known; both are said. Only calls
  that generate text have it: an embedding without a temperature refutes no temperature.
* A parameter is the same one under each of its names, such as a limit of tokens; the answer says under which
  it was sent. What is no parameter that the record keeps is said to be none, never to be *not sent*.
* A value on a command line has no type: ``none`` is text or no value, ``123`` text or a number.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agent_shim.canonical import canonical, digest, encode
from agent_shim.errors import SettingsError
from agent_shim.events import PARAMETERS

CONFIRMED, REFUTED, NO_EVIDENCE = "confirmed", "refuted", "no evidence"
DEFAULTS = {"parallel_tool_calls": True, "temperature": 1, "top_p": 1, "stream": False, "n": 1}
"""The API's own, by the OpenAI API reference for Chat Completions and Responses (2025-12)."""
OF_TOOLS = ("parallel_tool_calls", "tool_choice")
"""Parameters that mean nothing in a request without tools."""
_SAME = (
    ("max_tokens", "max_completion_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("verbosity", "text.verbosity"),
)
"""One parameter each: in Chat Completions, then and now, and in Responses (OpenAI API reference 2025-12)."""
_GENERATING = ("chat.completions", "responses", "completions")
"""The surfaces that take these parameters."""
_WORDS = {"true": True, "false": False, "null": None, "none": None}
"""As people write them, in JSON and in Python."""
_NOT_KEPT = "not recorded: no parameter of this name is"
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


def parse_all(texts: Iterable[str]) -> dict[str, str]:
    """The same of many. Raises `SettingsError` for a name with two values too: one would go unchecked."""
    made: dict[str, str] = {}
    for name, value in map(parse, texts):
        if made.setdefault(name, value) != value:
            hint = "a claim is one value; leave one of them out"
            raise SettingsError(f"{name} is claimed to be {made[name]} and to be {value}", hint=hint)
    return made


def written(file: Path) -> list[str]:
    """The claims in a file, one a line; lines that begin with # are notes. Raises `SettingsError`."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{file} cannot be read: {error}", hint="one NAME=VALUE a line, in UTF-8"
        ) from error
    return [line for line in lines if line and not line.startswith("#")]


def names(name: str) -> tuple[str, ...]:
    """What a parameter may be called in a request, its own name first."""
    return (name, *(other for group in _SAME if name in group for other in group if other != name))


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
    asked = [call for call in calls if _takes(name, call, without_tools)]
    sent = _transmitted(name, value, asked) if _is_kept(name) else _Side(None, _NOT_KEPT)
    seen = _observed(name, claimed, calls, tools)
    for side in (sent, seen):
        if side.agrees is False:
            return _finding(REFUTED, side, sent, seen)
    for side in (sent, seen):
        if side.agrees:
            return _finding(CONFIRMED, side, sent, seen)
    return _finding(NO_EVIDENCE, sent, sent, seen)


def _takes(name: str, call: Any, without_tools: frozenset[str]) -> bool:
    """Whether the parameter means something in this call."""
    if name == "model":
        return call.model_requested is not None
    whole = (call.path or call.surface or "").partition("?")[0].replace("/", ".")
    creates = call.surface in _GENERATING and whole.endswith(call.surface)  # not a look at what was stored
    return creates and (name not in OF_TOOLS or call.call_id not in without_tools)


def _is_kept(name: str) -> bool:
    return name == "model" or any(one.partition(".")[0] in PARAMETERS for one in names(name))


class _Side(NamedTuple):
    """What one kind of evidence says."""

    agrees: bool | None
    words: str | None
    events: tuple[str, ...] = ()


def _finding(verdict: str, by: _Side, sent: _Side, seen: _Side) -> Finding:
    reason = by.words or "nothing that was seen says anything about it"
    return Finding(verdict, reason, sent.words, seen.words, by.events[:_NAMED])


def _transmitted(name: str, claimed: str, calls: Sequence[Any]) -> _Side:
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
    present = {one: value for one in names(name) for value in _at(parameters, one)}
    limiting = [one for one, value in present.items() if value is not None] or list(present)
    return (limiting[0], json.dumps(present[limiting[0]])) if limiting else (name, "")


def _at(parameters: Any, path: str) -> Iterator[Any]:
    """The value at ``reasoning.effort``, if there is one."""
    for part in path.split("."):
        if not isinstance(parameters, dict) or part not in parameters:
            return
        parameters = parameters[part]
    yield parameters


def _agrees(name: str, claimed: str, sent: str) -> bool | None:
    if sent:
        return _means(claimed, json.loads(sent))
    return _means(claimed, DEFAULTS[name]) if name in DEFAULTS else None


def _means(claimed: str, sent: Any) -> bool:
    """Whether what was written can mean what was sent; a long value was kept by length and hash."""
    value = _value(claimed)
    if isinstance(sent, dict) and "sha256" in sent and "bytes" in sent:
        return bool(sent["sha256"] == digest(encode(canonical(value)[0]).encode()))
    if isinstance(sent, bool) or isinstance(value, bool):
        return value is sent or claimed == sent
    return bool(value == sent or claimed == sent)


def _told(name: str, called: str, sent: str, number: int) -> str:
    where = f"in {number} call{'' if number == 1 else 's'}"
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
    responses = f"{len(several)} response{'' if len(several) == 1 else 's'}"
    words = f"{responses} asked for several tool calls, {len(overlapping)} tool calls overlapped"
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
