"""Usage as providers report it, in one form.

Promises, each with its test in ``tests/test_projections.py``:

* Cached, cache-write and reasoning tokens are parts of the totals and never added to them.
* What was not reported is ``None``. A number that cannot be right is ``None`` as well, or stands with a
  reason beside it; nothing is corrected silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# Chat Completions and Responses, with their details: the API reference of OpenAI. The others: what
# OpenAI-compatible servers and proxies put beside or instead of them. The first that is there counts.
_INPUT = ("input_tokens", "prompt_tokens")
_OUTPUT = ("output_tokens", "completion_tokens")
_CACHED = ("cached_tokens", "cache_read_input_tokens", "prompt_cache_hit_tokens")
_CACHE_WRITE = ("cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens")
_REASONING = ("reasoning_tokens",)
_TOTAL = ("total_tokens",)
_DETAILS = (
    *("input_tokens_details", "prompt_tokens_details"),
    *("output_tokens_details", "completion_tokens_details"),
)

_MAX_COUNT = 2**40
"""Above any count that is meant; eight million of them still sum up to a 64-bit number."""


class Usage(NamedTuple):
    """Tokens of one response."""

    input: int | None
    """All of them, the cached ones and the cache writes included."""
    cached: int | None
    cache_write: int | None
    output: int | None
    """All of them, the reasoning ones included."""
    reasoning: int | None
    reason: str | None
    """What is unknown or doubtful, and why."""

    @property
    def known(self) -> bool:
        """Whether it says anything about the totals."""
        return self.input is not None or self.output is not None


NOTHING = Usage(None, None, None, None, None, None)

_TOKENLESS = (
    "containers", "conversations", "files", "models", "moderations", "responses.input_tokens", "uploads",
    "vector_stores",
)  # fmt: skip
"""Surfaces on which nothing is billed by tokens (OpenAI, API reference and pricing page)."""


def none_due(method: str | None, surface: str | None, http_status: int | None) -> str | None:
    """Why a call that reported no usage used no tokens; ``None`` where it may have used some.

    A request that only reads creates nothing, and one that the API refuses (4xx) is refused before
    anything is generated. After a 5xx, a timeout or a broken connection the answer may have been made and
    billed, so that these stay unknown.
    """
    if method in ("GET", "DELETE", "HEAD"):
        return f"{method} generates nothing"
    if (surface or "").startswith(_TOKENLESS):
        return f"{surface} is not billed by tokens"
    if http_status is not None and 400 <= http_status < 500 and http_status != 408:
        return f"refused with status {http_status}"
    return None


def reported(raw: Mapping[str, Any], provider: str | None = None) -> Usage:
    """The usage in a response of `provider`."""
    doubts: list[str] = []
    told = dict(raw)
    for name in _DETAILS:
        details = raw.get(name)
        if type(details) is dict:
            told.update(details)
    given = _count(told, _INPUT, "input tokens", doubts)
    output = _count(told, _OUTPUT, "output tokens", doubts)
    cached = _count(told, _CACHED, "cached tokens", doubts)
    write = _count(told, _CACHE_WRITE, "cache-write tokens", doubts)
    reasoning = _count(told, _REASONING, "reasoning tokens", doubts)
    total = _count(told, _TOTAL, "total tokens", doubts)
    if output is None and given is not None and given == total:
        output = 0  # embeddings: the response says that the input is all there is
    if provider == "anthropic" and given is not None and "input_tokens" in raw:
        # Its own API counts cached tokens beside the input tokens, not among them.
        given += (cached or 0) + (write or 0)
        total = None
    return _checked(Usage(given, cached, write, output, reasoning, None), total, doubts)


def kept_by_agent(raw: Mapping[str, Any], provider: str | None = None) -> Usage:
    """The usage that an agent keeps of a response.

    A part that is 0 there is unknown: agents start their counters at 0 and fill what they know of.
    """
    usage = reported({name: value for name, value in raw.items() if value != 0 or name in _TOTALS}, provider)
    if not usage.input and not usage.output:
        return NOTHING._replace(reason=usage.reason)
    return usage


_TOTALS = frozenset(_INPUT + _OUTPUT)


def _count(told: dict[str, Any], names: tuple[str, ...], what: str, doubts: list[str]) -> int | None:
    for name in names:
        value = told.get(name)
        if type(value) is int and 0 <= value < _MAX_COUNT:
            return value
        if value is not None:
            doubts.append(f"{what} are not a count")
            return None
    return None


def _checked(usage: Usage, total: int | None, doubts: list[str]) -> Usage:
    given, cached, write, output, reasoning, _ = usage
    if given is None and "input tokens are not a count" not in doubts:
        doubts.append("input tokens not reported")
    if output is None and "output tokens are not a count" not in doubts:
        doubts.append("output tokens not reported")
    if given is not None and (cached or 0) + (write or 0) > given:
        doubts.append("more cached tokens than input tokens")
        cached = write = None
    if output is not None and (reasoning or 0) > output:
        doubts.append("more reasoning tokens than output tokens")
        reasoning = None
    if None not in (total, given, output) and total != (given or 0) + (output or 0):
        doubts.append("total tokens are not input plus output")
    return Usage(given, cached, write, output, reasoning, "; ".join(doubts) or None)
