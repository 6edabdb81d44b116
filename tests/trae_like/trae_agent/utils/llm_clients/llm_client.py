"""The agent's model layer: one class in front of all providers."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import urllib.request
from dataclasses import dataclass
from enum import Enum
from typing import Any

import openai

from trae_agent.tools.base import ToolCall, ToolResult

SLEEP_S = 0.01
"""The real one sleeps 3 to 30 seconds between its retries."""


@dataclass
class ModelConfig:
    model: str = "gpt-5"
    provider: str = "openai"
    max_retries: int = 2
    max_tokens: int = 4096
    temperature: float = 0.5
    top_p: float = 1.0
    parallel_tool_calls: bool = True


@dataclass
class LLMMessage:
    role: str
    content: str = ""
    tool_result: ToolResult | None = None


@dataclass
class LLMUsage:
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass
class LLMResponse:
    content: str
    usage: LLMUsage | None = None
    model: str | None = None
    finish_reason: str | None = None
    tool_calls: list[ToolCall] | None = None


class LLMProvider(Enum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class LLMClient:
    def __init__(self, model_config: ModelConfig) -> None:
        self.provider = LLMProvider(model_config.provider)
        self.client = OpenAIClient() if self.provider is LLMProvider.OPENAI else AnthropicClient()

    def chat(
        self,
        messages: list[LLMMessage],
        model_config: ModelConfig,
        tools: list[Any] | None = None,
        reuse_history: bool = True,
    ) -> LLMResponse:
        return self.client.chat(messages, model_config, tools, reuse_history)


class OpenAIClient:
    """The Responses API through the real client, with the agent's retries around the client's own."""

    def __init__(self) -> None:
        self.client = openai.OpenAI()
        self.message_history: list[Any] = []

    def chat(
        self, messages: list[LLMMessage], config: ModelConfig, tools: list[Any] | None, reuse_history: bool
    ) -> LLMResponse:
        self.message_history = [*(self.message_history if reuse_history else []), *map(item, messages)]
        response = self._create_with_retries(config, tools)
        if os.environ.get("TRAE_LIKE_FORGETS"):  # as the real one did before February 2026
            self.message_history = [one for one in self.message_history if "output" not in one]
        calls = []
        for block in response.output:
            if block.type == "function_call":
                calls.append(ToolCall(block.name, block.call_id, json.loads(block.arguments), block.id))
                self.message_history.append(block.model_dump(exclude_none=True))
        if response.output_text:
            self.message_history.append({"role": "assistant", "content": response.output_text})
        usage = response.usage and LLMUsage(
            response.usage.input_tokens,
            response.usage.output_tokens,
            cache_read_input_tokens=response.usage.input_tokens_details.cached_tokens,
            reasoning_tokens=response.usage.output_tokens_details.reasoning_tokens,
        )
        return LLMResponse(response.output_text, usage, response.model, response.status, calls or None)

    def _create_with_retries(self, config: ModelConfig, tools: list[Any] | None) -> Any:
        for _ in range(config.max_retries):
            try:
                return self._create_openai_response(config, tools)
            except Exception:  # noqa: BLE001 — as the real one, a 400 included
                sys.stdout.write(f"OpenAI API call failed. Will retry.\n{traceback.format_exc()}")
                time.sleep(SLEEP_S)
        return self._create_openai_response(config, tools)

    def _create_openai_response(self, config: ModelConfig, tools: list[Any] | None) -> Any:
        sent: dict[str, Any] = {} if "gpt-5" in config.model else {"temperature": config.temperature}
        if tools:
            sent["tools"] = [schema(tool) for tool in tools]
        history, limit = self.message_history, config.max_tokens
        return self.client.responses.create(
            input=history, model=config.model, top_p=config.top_p, max_output_tokens=limit, **sent
        )


class AnthropicClient:
    """A provider without the openai client. It asks the same server by plain HTTP: the bill is real."""

    def chat(self, messages: list[LLMMessage], config: ModelConfig, *_: Any) -> LLMResponse:
        told = [{"role": message.role, "content": message.content} for message in messages]
        body = json.dumps({"model": config.model, "messages": told}).encode()
        request = urllib.request.Request(f"{os.environ['OPENAI_BASE_URL']}/chat/completions", body)
        with urllib.request.urlopen(request) as answer:
            body = json.load(answer)
        said, usage = body["choices"][0]["message"], body["usage"]
        asked = [(call["id"], call["function"]) for call in said.get("tool_calls", [])]
        calls = [ToolCall(f["name"], call_id, json.loads(f["arguments"])) for call_id, f in asked]
        kept = LLMUsage(usage["prompt_tokens"], usage["completion_tokens"])
        return LLMResponse(said["content"] or "", kept, body["model"], "end_turn", calls or None)


def item(message: LLMMessage) -> dict[str, Any]:
    result = message.tool_result
    if result is None:
        return {"role": message.role, "content": message.content}
    output = f"{result.result or ''}\nError: {result.error}" if result.error else result.result
    return {"type": "function_call_output", "call_id": result.call_id, "output": output or ""}


def schema(tool: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in tool.parameters},
        "required": list(tool.parameters),
        "additionalProperties": False,
    }
    return {"type": "function", "name": tool.name, "strict": True, "parameters": parameters}
