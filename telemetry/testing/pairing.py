"""The service's rule that every tool call is answered, and every tool output belongs to a call.

A request that breaks it is refused before a model sees it, so nothing is billed. The Responses API keeps
stored responses in mind too: the open calls of ``previous_response_id`` count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from telemetry.testing.ledger import Returned
from telemetry.testing.replies import ApiError


def chat_refusal(body: dict[str, Any]) -> ApiError | None:
    """The refusal of a chat whose assistant message has a tool call without its tool message."""
    messages = _objects(body.get("messages"))
    answered = {message.get("tool_call_id") for message in messages if message.get("role") == "tool"}
    asked = [call.get("id") for message in messages for call in _objects(message.get("tool_calls"))]
    missing = [str(call_id) for call_id in asked if call_id not in answered]
    if missing:
        return _refusal(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            "'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(missing),
            "messages",
        )
    if answered - set(asked):
        return _refusal(
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
            "'tool_calls'.",
            "messages",
        )
    return None


def response_refusal(body: dict[str, Any], still_open: Sequence[str]) -> ApiError | None:
    """The refusal of a Responses request with an open call, or with an output that answers none.

    `still_open` are the calls that the stored response before it left without an output.
    """
    items = _objects(body.get("input"))
    asked = [
        *still_open,
        *(str(item.get("call_id")) for item in items if item.get("type") == "function_call"),
    ]
    answered = [str(item.get("call_id")) for item in items if item.get("type") == "function_call_output"]
    for call_id in asked:
        if call_id not in answered:
            return _refusal(f"No tool output found for function call {call_id}.", "input")
    for call_id in answered:
        if call_id not in asked:
            return _refusal(f"No tool call found for function call output with call_id {call_id}.", "input")
    return None


def outputs(body: dict[str, Any], request: int) -> list[Returned]:
    """The tool outputs that a request of either surface carries."""
    tools = [message for message in _objects(body.get("messages")) if message.get("role") == "tool"]
    found = [Returned(str(message.get("tool_call_id")), message.get("content"), request) for message in tools]
    for item in _objects(body.get("input")):
        if item.get("type") == "function_call_output":
            found.append(Returned(str(item.get("call_id")), item.get("output"), request))
    return found


def _refusal(message: str, param: str) -> ApiError:
    return ApiError(400, message, param=param)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
