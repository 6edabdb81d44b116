"""Log records of other instrumentations: which are kept, and of each what. Pure, and data for the most part.

The one place where the names in them are known. Sources: the event of the OpenTelemetry GenAI conventions;
what Claude Code 2.1.330 and Codex 0.169.0 sent when ``tests/foreign`` was recorded, and their pages on
monitoring. What has no name here is not kept: others put prompts, answers and output of tools into them.
"""

from __future__ import annotations

from collections.abc import Iterable

from telemetry import aliases

DETAILS = "gen_ai.client.inference.operation.details"
"""A call of a model, as the conventions have it: the attributes of its span."""
CLAUDE_REQUEST = "claude_code.api_request"
CLAUDE_ERROR = "claude_code.api_error"
CLAUDE_TOOL = "claude_code.tool_result"
CODEX_START = "codex.conversation_starts"
CODEX_REQUEST = "codex.api_request"
CODEX_STREAM = "codex.sse_event"
CODEX_TOOL = "codex.tool_result"

AGENTS = {"claude_code": "claude", "codex": "codex"}
"""First word of an event's name → the agent that tells it."""

SESSIONS = ("session.id", "conversation.id")
"""What an agent's own logs call a session."""

_CLAUDE = frozenset(("session.id", "event.sequence", "duration_ms", "request_id", "anthropic.provider"))
_CODEX = frozenset(("conversation.id", "duration_ms", "model"))

KEPT: dict[str, frozenset[str]] = {
    DETAILS: aliases.KEPT,
    CLAUDE_REQUEST: _CLAUDE | {
        "model", "input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens", "cost_usd",
        "ttft_ms",
    },
    CLAUDE_ERROR: _CLAUDE | {"model", "error", "status_code", "attempt"},
    CLAUDE_TOOL: _CLAUDE | {
        "tool_name", "tool_use_id", "success", "error_type", "tool_input_size_bytes",
        "tool_result_size_bytes",
    },
    CODEX_START: _CODEX | {"provider_name"},
    CODEX_REQUEST: _CODEX | {"http.response.status_code", "error.message", "attempt", "auth.request_id"},
    CODEX_STREAM: _CODEX | {
        "event.kind", "error.message", "input_token_count", "output_token_count", "cached_token_count",
        "cache_write_token_count", "reasoning_token_count", "ttft_ms",
    },
    CODEX_TOOL: _CODEX | {"tool_name", "call_id", "success"},
}  # fmt: skip
"""Event name → the attributes that are kept: facts, no content."""


def known(names: Iterable[object]) -> str | None:
    """The first of `names` that is an event whose records are kept."""
    return next((name for name in names if isinstance(name, str) and name in KEPT), None)


def is_told(log: str, attributes: Iterable[str]) -> bool:
    """Whether a record says something: Codex logs each piece of a stream, and only its end matters here."""
    return log != CODEX_STREAM or not {"input_token_count", "error.message"}.isdisjoint(attributes)
