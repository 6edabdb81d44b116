"""What is read from a request of the OpenAI client before it leaves.

Only what is already in memory is looked at: an iterator that the caller passed is never advanced, and
nothing of the caller's is changed. Functions take the body as the dictionary that will be serialized.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from functools import lru_cache
from typing import Any, Mapping, NamedTuple

from .canonical import canonical, digest, encode
from .events import PARAMETERS

MAX_PARAMETER = 200
"""Characters of JSON up to which a parameter's value is kept; a longer one is told by length and hash."""

_WATCHED_BOTH = ("parallel_tool_calls", "service_tier", "temperature", "tool_choice", "top_p", "store")
WATCHED = {
    "chat.completions": (*_WATCHED_BOTH, "max_completion_tokens", "max_tokens", "reasoning_effort", "seed"),
    "responses": (*_WATCHED_BOTH, "max_output_tokens", "previous_response_id", "reasoning", "truncation"),
}
"""Parameters whose absence is recorded too: what a configuration claims may never have been sent."""

# Providers by host; names from the GenAI conventions, `gen_ai.provider.name`.
_PROVIDERS = {
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.x.ai": "x_ai",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.moonshot.ai": "moonshot_ai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "openrouter.ai": "openrouter",
    "ark.cn-beijing.volces.com": "volcengine",
}

_WORD = re.compile(r"[a-z_]+\Z")
"""A segment of a path that names something; an id has capitals or digits, as a model has."""


@lru_cache(maxsize=256)
def surface(path: str) -> str:
    """The API surface of a request path: ``chat.completions``, ``responses``, ``audio.speech``, …

    Ids in the path are left out, so that surfaces stay few. The first segment is never one.
    """
    parts = [part for part in path.partition("?")[0].split("/") if part and part not in ("v1", "openai")]
    if "deployments" in parts:
        at = parts.index("deployments")
        del parts[at : at + 2]
    return ".".join(parts[:1] + [part for part in parts[1:] if _WORD.match(part)]) or "/"


def provider(host: str | None, client: str) -> str:
    """The provider behind a host. An unknown host is OpenAI's to the best of our knowledge: it is the
    OpenAI client that speaks to it (the conventions: a proxy does not change the provider)."""
    host = host or ""
    if "Azure" in client or host.endswith(".openai.azure.com"):
        return "azure.ai.openai"
    return _PROVIDERS.get(host, "openai")


def reports_usage_when_asked(host: str | None, further: frozenset[str]) -> bool:
    """Whether a streamed chat to this host may be asked for usage (``stream_options.include_usage``)."""
    host = (host or "").lower()
    return (
        host == "api.openai.com" or host.endswith((".api.openai.com", ".openai.azure.com")) or host in further
    )


def is_set(value: Any) -> bool:
    """Whether a parameter is really sent: the SDK's own markers for *not given* are not."""
    return type(value).__name__ not in ("NotGiven", "Omit")


def parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """The known parameters of a body as sent; large values by length and hash."""
    found: dict[str, Any] = {}
    for name in PARAMETERS:
        if name in body and is_set(body[name]):
            found[name] = _small(body[name])
    return found


def _small(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float):
        return value
    clean, _ = canonical(value)
    text = encode(clean)
    if len(text) <= MAX_PARAMETER:
        return clean
    kept: dict[str, Any] = {"bytes": len(text), "sha256": digest(text.encode())}
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        kept["type"] = value["type"]
    return kept


def absent(of_surface: str, body: Mapping[str, Any]) -> list[str] | None:
    """The watched parameters of a surface that the body does not carry."""
    watched = WATCHED.get(of_surface)
    if watched is None:
        return None
    return [name for name in watched if name not in body or not is_set(body[name])]


def tool_names(body: Mapping[str, Any]) -> list[str] | None:
    """Names of the tools offered; built-in tools by their type. ``None`` when none are."""
    tools = body.get("tools")
    if type(tools) not in (list, tuple) or not tools:
        return None
    return [_tool_name(tool) for tool in tools]


def _tool_name(tool: Any) -> str:
    if not isinstance(tool, dict):
        return "?"
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else tool.get("name")
    return name if isinstance(name, str) else str(tool.get("type", "?"))


class Pairing(NamedTuple):
    """How the tool calls in a request's history are answered."""

    messages: int | None
    outputs: list[str]
    """Ids whose outputs this request sends back: those behind the last answer of the model."""
    unanswered: list[str]
    """Ids requested in the history, or in the previous response, that have no output."""


class Requested:
    """Which tool calls a response requested, for requests that name it by ``previous_response_id``."""

    def __init__(self, size: int = 512) -> None:
        self._size = size
        self._calls: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def remember(self, response_id: str, call_ids: tuple[str, ...]) -> None:
        """Keep the calls of one response; the oldest is forgotten beyond the size."""
        self._calls[response_id] = call_ids
        if len(self._calls) > self._size:
            self._calls.popitem(last=False)

    def of(self, response_id: Any) -> tuple[str, ...]:
        """The calls of a response, none when it was never seen."""
        return self._calls.get(response_id, ()) if isinstance(response_id, str) else ()


def pairing(of_surface: str, body: Mapping[str, Any], requested: Requested) -> Pairing | None:
    """Tool calls and their outputs in a request, before the API looks at them.

    The API refuses a request in which a call has no output ("No tool output found for function call").
    """
    if of_surface == "chat.completions":
        return _pairing_of_chat(body.get("messages"))
    if of_surface == "responses":
        return _pairing_of_responses(body.get("input"), requested.of(body.get("previous_response_id")))
    return None


def _pairing_of_chat(messages: Any) -> Pairing | None:
    if type(messages) not in (list, tuple):
        return None
    asked: dict[str, None] = {}
    outputs: list[str] = []
    answered: set[str] = set()
    for message in messages:
        if not isinstance(message, dict):
            continue
        role = message.get("role")
        if role == "tool":
            call_id = str(message.get("tool_call_id"))
            outputs.append(call_id)
            answered.add(call_id)
        elif role == "assistant":
            outputs = []
            calls = message.get("tool_calls")
            for call in calls if isinstance(calls, (list, tuple)) else ():
                if isinstance(call, dict) and isinstance(call.get("id"), str):
                    asked[call["id"]] = None
    return Pairing(len(messages), outputs, [call_id for call_id in asked if call_id not in answered])


def _pairing_of_responses(items: Any, previous: tuple[str, ...]) -> Pairing | None:
    if type(items) not in (list, tuple):
        return Pairing(None, [], list(previous)) if previous else None
    asked: dict[str, None] = dict.fromkeys(previous)
    outputs: list[str] = []
    answered: set[str] = set()
    for item in items:
        if not isinstance(item, dict):
            continue
        kind = item.get("type")
        if not isinstance(kind, str):
            continue
        if kind.endswith("_call_output"):
            call_id = str(item.get("call_id"))
            outputs.append(call_id)
            answered.add(call_id)
        elif kind in ("function_call", "custom_tool_call"):
            if isinstance(item.get("call_id"), str):
                asked[item["call_id"]] = None
            outputs = []
    return Pairing(len(items), outputs, [call_id for call_id in asked if call_id not in answered])
