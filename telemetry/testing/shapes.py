"""How an answer looks on each surface of the API: pure functions from an `Answer` to JSON objects.

The shapes follow the service's published reference and what its own client parses: a chat stream carries
its usage in one extra chunk without choices, and only when ``stream_options.include_usage`` asks for it; the
Responses API carries it in the last event.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from telemetry.testing.replies import Answer, ApiError, ToolCall, Usage

EMBEDDING = (0.5, -0.25, 0.125)
_FINISH = {"length": "length", "content_filter": "content_filter"}
_STATUS = {"length": "incomplete", "content_filter": "incomplete", "failed": "failed"}
_REASON = {"length": "max_output_tokens", "content_filter": "content_filter"}
_SENT_BACK: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""What a response repeats of its request, with the service's defaults."""


class Ask(NamedTuple):
    """What the server knows of a request when it makes the answer."""

    body: dict[str, Any]
    response_id: str
    created: int


def settled(answer: Answer, ask: Ask) -> Answer:
    """The answer with everything filled in that the request or the server decides."""
    asked = ask.body.get("service_tier")
    tier = answer.tier or (asked if asked not in (None, "auto") else "default")
    suffix = ask.response_id.rpartition("_")[2].rpartition("-")[2]
    named = tuple(
        call._replace(call_id=call.call_id or f"call_{suffix}_{number}")
        for number, call in enumerate(answer.tool_calls, 1)
    )
    model = answer.model or str(ask.body.get("model", "unknown"))
    return replace(answer, model=model, tier=tier, tool_calls=named)


def arguments_text(call: ToolCall) -> str:
    """The arguments as the model wrote them."""
    return call.arguments if isinstance(call.arguments, str) else json.dumps(dict(call.arguments))


# --- chat completions ---------------------------------------------------------------------------


def chat_usage(usage: Usage) -> dict[str, Any]:
    """Usage in the words of chat completions."""
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached,
            "cache_write_tokens": usage.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def chat_body(answer: Answer, ask: Ask) -> dict[str, Any]:
    """A chat completion that is not streamed."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text or None,
        "refusal": answer.refusal,
        "annotations": [],
    }
    if answer.tool_calls:
        message["tool_calls"] = [_chat_tool_call(call) for call in answer.tool_calls]
    body = _chat_head(answer, ask, "chat.completion")
    body["choices"] = [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(answer)}]
    if answer.usage is not None and answer.reported != "never":
        body["usage"] = chat_usage(answer.usage)
    return body


def chat_chunks(answer: Answer, ask: Ask) -> list[dict[str, Any]]:
    """The chunks of a streamed chat completion, the usage chunk only where it was asked for."""
    options = ask.body.get("stream_options") or {}
    asked = bool(options.get("include_usage")) and answer.reported == "last"
    chunks = [_chat_chunk(answer, ask, delta, None) for delta in _chat_deltas(answer)]
    chunks.append(_chat_chunk(answer, ask, {}, _finish(answer)))
    if asked and answer.usage is not None:
        for chunk in chunks:
            chunk["usage"] = None
        last = _chat_head(answer, ask, "chat.completion.chunk")
        chunks.append({**last, "choices": [], "usage": chat_usage(answer.usage)})
    if answer.reported == "every" and answer.usage is not None:
        for number, chunk in enumerate(chunks, 1):
            grown = answer.usage.output * number // len(chunks)
            chunk["usage"] = chat_usage(answer.usage._replace(output=grown))
    if answer.error_after is not None:
        return [*chunks[: answer.error_after], error_body(_failure(answer))]
    return chunks


def _chat_head(answer: Answer, ask: Ask, kind: str) -> dict[str, Any]:
    return {
        "id": ask.response_id,
        "object": kind,
        "created": ask.created,
        "model": answer.model,
        "service_tier": answer.tier,
        "system_fingerprint": "fp_scripted",
    }


def _chat_chunk(answer: Answer, ask: Ask, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**_chat_head(answer, ask, "chat.completion.chunk"), "choices": [choice]}


def _chat_deltas(answer: Answer) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if answer.tool_calls else "", "refusal": None}
    for piece in _pieces(answer.text):
        yield {"content": piece}
    for piece in _pieces(answer.refusal or ""):
        yield {"refusal": piece}
    for index, call in enumerate(answer.tool_calls):
        whole = _chat_tool_call(call)
        text = whole["function"]["arguments"]
        yield {"tool_calls": [{"index": index, **whole, "function": {"name": call.name, "arguments": ""}}]}
        for piece in _halves(text):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _chat_tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments_text(call)}
    return {"id": call.call_id, "type": "function", "function": function}


def _finish(answer: Answer) -> str:
    return _FINISH.get(answer.ended, "tool_calls" if answer.tool_calls else "stop")


# --- responses ----------------------------------------------------------------------------------


def response_usage(usage: Usage) -> dict[str, Any]:
    """Usage in the words of the Responses API."""
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


def response_body(answer: Answer, ask: Ask, status: str | None = None) -> dict[str, Any]:
    """A response as it stands at its end, or earlier when `status` is ``queued`` or ``in_progress``."""
    final = status is None
    failed = final and answer.ended == "failed"
    reason = _REASON.get(answer.ended) if final else None
    told = final and answer.usage is not None and answer.reported != "never"
    return {
        "id": ask.response_id,
        "object": "response",
        "created_at": ask.created,
        "status": status or _STATUS.get(answer.ended, "completed"),
        "background": bool(ask.body.get("background")),
        "error": {"code": answer.error_code, "message": answer.error_message} if failed else None,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": answer.model,
        "output": _output(answer, ask) if final else [],
        "service_tier": answer.tier if final else ask.body.get("service_tier", "auto"),
        "usage": response_usage(answer.usage) if told and answer.usage is not None else None,
        **{name: ask.body.get(name, default) for name, default in _SENT_BACK.items()},
    }


def response_events(answer: Answer, ask: Ask) -> list[dict[str, Any]]:
    """The typed events of a streamed response, numbered from 0."""
    events = list(_events(answer, ask))
    if answer.error_after is not None:
        error = {"type": "error", "code": answer.error_code, "message": answer.error_message, "param": None}
        events = [*events[: answer.error_after], error]
    for number, event in enumerate(events):
        event["sequence_number"] = number
    return events


def _events(answer: Answer, ask: Ask) -> Iterator[dict[str, Any]]:
    yield {"type": "response.created", "response": response_body(answer, ask, "in_progress")}
    yield {"type": "response.in_progress", "response": response_body(answer, ask, "in_progress")}
    for index, item in enumerate(_output(answer, ask)):
        at = {"output_index": index}
        opened = {**item, "status": "in_progress"}
        if item["type"] == "message":
            opened["content"] = []
        yield {"type": "response.output_item.added", **at, "item": opened}
        if item["type"] == "message":
            yield from _content_events(item, at)
        elif item["type"] == "function_call":
            yield from _argument_events(item, at)
        yield {"type": "response.output_item.done", **at, "item": item}
    kind = f"response.{_STATUS.get(answer.ended, 'completed')}"
    yield {"type": kind, "response": response_body(answer, ask)}


def _content_events(item: dict[str, Any], at: dict[str, Any]) -> Iterator[dict[str, Any]]:
    at = {**at, "item_id": item["id"], "content_index": 0}
    part = item["content"][0]
    key, kind = ("text", "output_text") if part["type"] == "output_text" else ("refusal", "refusal")
    extra: dict[str, Any] = {"logprobs": []} if key == "text" else {}
    yield {"type": "response.content_part.added", **at, "part": {**part, key: ""}}
    for piece in _pieces(part[key]):
        yield {"type": f"response.{kind}.delta", **at, "delta": piece, **extra}
    yield {"type": f"response.{kind}.done", **at, key: part[key], **extra}
    yield {"type": "response.content_part.done", **at, "part": part}


def _argument_events(item: dict[str, Any], at: dict[str, Any]) -> Iterator[dict[str, Any]]:
    at = {**at, "item_id": item["id"]}
    kind = "response.function_call_arguments"
    for piece in _halves(item["arguments"]):
        yield {"type": f"{kind}.delta", **at, "delta": piece}
    yield {"type": f"{kind}.done", **at, "name": item["name"], "arguments": item["arguments"]}


def _output(answer: Answer, ask: Ask) -> list[dict[str, Any]]:
    suffix = ask.response_id.rpartition("_")[2]
    status = "completed" if answer.ended == "completed" else "incomplete"
    output: list[dict[str, Any]] = []
    if answer.usage is not None and answer.usage.reasoning:
        output.append({"id": f"rs_{suffix}", "type": "reasoning", "summary": []})
    content: list[dict[str, Any]] = []
    if answer.refusal is not None:
        content = [{"type": "refusal", "refusal": answer.refusal}]
    elif answer.text:
        content = [{"type": "output_text", "text": answer.text, "annotations": [], "logprobs": []}]
    if content:
        message = {"id": f"msg_{suffix}", "type": "message", "role": "assistant"}
        output.append({**message, "status": status, "content": content})
    for number, call in enumerate(answer.tool_calls, 1):
        item = {"id": f"fc_{suffix}_{number}", "type": "function_call", "status": status}
        output.append({**item, "call_id": call.call_id, "name": call.name, "arguments": arguments_text(call)})
    return output


# --- the other surfaces -------------------------------------------------------------------------


def embedding_body(answer: Answer, ask: Ask) -> dict[str, Any]:
    """One fixed vector for each input, in the encoding asked for."""
    given = ask.body.get("input", "")
    count = len(given) if isinstance(given, list) and given and not isinstance(given[0], int) else 1
    vector: Any = list(EMBEDDING)
    if ask.body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(EMBEDDING)}f", *EMBEDDING)).decode()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
    body: dict[str, Any] = {"object": "list", "data": data, "model": answer.model}
    if answer.usage is not None and answer.reported != "never":
        tokens = answer.usage.input
        body["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return body


def moderation_body(answer: Answer, ask: Ask) -> dict[str, Any]:
    """A moderation that finds nothing. Moderations carry no usage and cost nothing."""
    names = ("harassment", "hate", "illicit", "self-harm", "sexual", "violence")
    result = {
        "flagged": False,
        "categories": dict.fromkeys(names, False),
        "category_scores": dict.fromkeys(names, 0.0),
        "category_applied_input_types": {name: ["text"] for name in names},
    }
    return {"id": ask.response_id, "model": answer.model, "results": [result]}


def model_body(model: str) -> dict[str, Any]:
    """One entry of the list of models."""
    return {"id": model, "object": "model", "created": 1_700_000_000, "owned_by": "scripted"}


def error_body(error: ApiError) -> dict[str, Any]:
    """The error object, as the body of a refusal or as a chunk of a chat stream."""
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": fields}


def _failure(answer: Answer) -> ApiError:
    return ApiError(500, answer.error_message, "server_error", answer.error_code)


def _pieces(text: str) -> list[str]:
    """The text in words, each with the blank in front of it."""
    words = text.split(" ")
    return [word if number == 0 else f" {word}" for number, word in enumerate(words) if word or number]


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]
