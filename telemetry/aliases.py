"""What other instrumentations call things: their attribute names → those of `agent_shim.attributes`.

The one place where old and foreign names are known. Sources: the renames of the OpenTelemetry GenAI
conventions up to revision e07f4eba (2026-10-02); OpenLLMetry
(``opentelemetry-semantic-conventions-ai`` 0.5.1); OpenInference (``openinference-semantic-conventions``
0.1.42); the spans of Claude Code 2.1.330. What has no name here is not kept: others put prompts and answers
into their attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_shim import attributes as attr

CLAUDE_CALL = "llm_request.context"
"""Of Claude Code's spans, those of calls have it, whatever its value."""

ALIASES: dict[str, str] = {
    # renamed in the conventions
    "gen_ai.system": attr.PROVIDER_NAME,
    "gen_ai.usage.prompt_tokens": attr.USAGE_INPUT_TOKENS,
    "gen_ai.usage.completion_tokens": attr.USAGE_OUTPUT_TOKENS,
    "gen_ai.usage.cache_creation.input_tokens": attr.USAGE_CACHE_WRITE_INPUT_TOKENS,
    "gen_ai.openai.request.service_tier": attr.OPENAI_REQUEST_SERVICE_TIER,
    "gen_ai.openai.response.service_tier": attr.OPENAI_RESPONSE_SERVICE_TIER,
    "gen_ai.openai.response.system_fingerprint": attr.OPENAI_RESPONSE_SYSTEM_FINGERPRINT,
    # OpenLLMetry
    "llm.request.type": attr.OPERATION_NAME,
    "gen_ai.is_streaming": attr.REQUEST_STREAM,
    "llm.is_streaming": attr.REQUEST_STREAM,
    "gen_ai.usage.cache_read_input_tokens": attr.USAGE_CACHE_READ_INPUT_TOKENS,
    "gen_ai.usage.cache_creation_input_tokens": attr.USAGE_CACHE_WRITE_INPUT_TOKENS,
    "gen_ai.usage.reasoning_tokens": attr.USAGE_REASONING_OUTPUT_TOKENS,
    # OpenInference
    "openinference.span.kind": attr.OPERATION_NAME,
    "llm.system": attr.PROVIDER_NAME,
    "llm.provider": attr.PROVIDER_NAME,
    "llm.model_name": attr.RESPONSE_MODEL,
    "embedding.model_name": attr.RESPONSE_MODEL,
    "llm.token_count.prompt": attr.USAGE_INPUT_TOKENS,
    "llm.token_count.completion": attr.USAGE_OUTPUT_TOKENS,
    "llm.token_count.prompt_details.cache_read": attr.USAGE_CACHE_READ_INPUT_TOKENS,
    "llm.token_count.prompt_details.cache_write": attr.USAGE_CACHE_WRITE_INPUT_TOKENS,
    "llm.token_count.completion_details.reasoning": attr.USAGE_REASONING_OUTPUT_TOKENS,
    # Claude Code; its input tokens are those beside the cache
    CLAUDE_CALL: attr.OPERATION_NAME,
    "input_tokens": attr.USAGE_INPUT_TOKENS,
    "output_tokens": attr.USAGE_OUTPUT_TOKENS,
    "cache_read_tokens": attr.USAGE_CACHE_READ_INPUT_TOKENS,
    "cache_creation_tokens": attr.USAGE_CACHE_WRITE_INPUT_TOKENS,
    "error_class": attr.ERROR_TYPE,
}

KEPT = frozenset(ALIASES) | {
    attr.OPERATION_NAME, attr.PROVIDER_NAME, attr.REQUEST_MODEL, attr.REQUEST_STREAM,
    attr.REQUEST_REASONING_LEVEL, attr.OPENAI_API_TYPE, attr.OPENAI_REQUEST_SERVICE_TIER,
    attr.RESPONSE_ID, attr.RESPONSE_MODEL, attr.RESPONSE_FINISH_REASONS, attr.RESPONSE_TIME_TO_FIRST_CHUNK,
    attr.OPENAI_RESPONSE_SERVICE_TIER, attr.OPENAI_RESPONSE_SYSTEM_FINGERPRINT,
    attr.USAGE_INPUT_TOKENS, attr.USAGE_OUTPUT_TOKENS, attr.USAGE_CACHE_READ_INPUT_TOKENS,
    attr.USAGE_CACHE_WRITE_INPUT_TOKENS, attr.USAGE_REASONING_OUTPUT_TOKENS,
    attr.SERVER_ADDRESS, attr.ERROR_TYPE, attr.TOOL_NAME, attr.TOOL_CALL_ID, attr.AGENT_NAME,
    attr.CONVERSATION_ID,
}  # fmt: skip
"""The attributes of a span that are kept: facts about a call, no content."""

INFERENCE = frozenset(("chat", "text_completion", "generate_content", "embeddings", "fetch_response"))
"""Operations (`attributes.OPERATION_NAME`) that are calls of a model."""

_OPERATIONS = {
    "LLM": "chat",
    "EMBEDDING": "embeddings",
    "completion": "text_completion",
    "embedding": "embeddings",
}
_PROVIDERS = {"xai": "x_ai", "gemini": "gcp.gemini", "vertex_ai": "gcp.vertex_ai", "OpenAI": "openai"}


def translated(given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` under the names of the conventions. A name that is already one of them comes first.

    An operation that is no text is none.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name in ALIASES:
            found.setdefault(ALIASES[name], value)
        else:
            found[name] = value
    if CLAUDE_CALL in given:
        found[attr.OPERATION_NAME] = "chat"
        found |= _with_cache(found)
    operation, provider = found.pop(attr.OPERATION_NAME, None), found.get(attr.PROVIDER_NAME)
    if isinstance(operation, str):
        found[attr.OPERATION_NAME] = _OPERATIONS.get(operation, operation)
    if isinstance(provider, str):
        found[attr.PROVIDER_NAME] = _provider(provider)
    return found


def _with_cache(found: Mapping[str, Any]) -> dict[str, int]:
    names = (attr.USAGE_INPUT_TOKENS, attr.USAGE_CACHE_READ_INPUT_TOKENS, attr.USAGE_CACHE_WRITE_INPUT_TOKENS)
    counts = [found[name] for name in names if type(found.get(name)) is int]
    return {names[0]: sum(counts)} if names[0] in found else {}


def _provider(name: str) -> str:
    if name.startswith("az.ai."):
        return f"azure.ai.{name.removeprefix('az.ai.')}"
    return _PROVIDERS.get(name, name)
