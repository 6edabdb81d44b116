"""The hooks on trae-agent: both of its tool executors, and its model layer.

``ToolExecutor.execute_tool_call`` runs every tool call on the host, ``DockerToolExecutor
._execute_in_docker`` those in a container, past the former. ``LLMClient.chat`` is one turn with whichever
provider; its usage is only a second opinion where the OpenAI client is behind it.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Callable

from . import hooks, recorder, tools
from .events import TurnFinished, TurnStarted
from .recorder import Recorder, error_type, is_cancellation, message_of

_undo: list[tuple[Any, str, Any, bool]] = []

CONFIGURED = (
    "parallel_tool_calls", "max_retries", "max_tokens", "max_completion_tokens", "temperature", "top_p",
    "top_k", "supports_tool_calling", "candidate_count", "stop_sequences",
)  # fmt: skip
"""Fields of TRAE's ``ModelConfig`` that are recorded: what is configured, sent or not."""


def attach_tools(module: ModuleType) -> hooks.Attached:
    """Wrap ``trae_agent.tools.base.ToolExecutor.execute_tool_call``."""
    return _attach(module, "ToolExecutor", "execute_tool_call", _wrap_async_tool)


def attach_docker_tools(module: ModuleType) -> hooks.Attached:
    """Wrap ``DockerToolExecutor._execute_in_docker``."""
    return _attach(module, "DockerToolExecutor", "_execute_in_docker", _wrap_tool)


def attach_llm(module: ModuleType) -> hooks.Attached:
    """Wrap ``LLMClient.chat``."""
    return _attach(module, "LLMClient", "chat", _wrap_chat)


def detach() -> None:
    """Put everything back."""
    hooks.unwrap(_undo)


def _attach(module: ModuleType, owner: str, name: str, make: Callable[[Any], Any]) -> hooks.Attached:
    try:
        return hooks.Attached([hooks.wrap(getattr(module, owner), name, make, _undo)], [])
    except AttributeError as error:
        return hooks.Attached([], [(f"{owner}.{name}", error)])


# --- tools ---------------------------------------------------------------------------------------


def _wrap_async_tool(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def execute_tool_call(self: Any, tool_call: Any, *args: Any, **kwargs: Any) -> Any:
        to, begun = _tool_started(tool_call, "ToolExecutor.execute_tool_call")
        try:
            result = await original(self, tool_call, *args, **kwargs)
        except BaseException as error:
            tools.finish(to, begun, error=error)
            raise
        _tool_returned(to, begun, result)
        return result

    return execute_tool_call


def _wrap_tool(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def _execute_in_docker(self: Any, tool_call: Any, *args: Any, **kwargs: Any) -> Any:
        to, begun = _tool_started(tool_call, "DockerToolExecutor._execute_in_docker")
        try:
            result = original(self, tool_call, *args, **kwargs)
        except BaseException as error:
            tools.finish(to, begun, error=error)
            raise
        _tool_returned(to, begun, result)
        return result

    return _execute_in_docker


def _tool_started(tool_call: Any, executor: str) -> tuple[Recorder | None, str]:
    to = recorder.current()
    name = getattr(tool_call, "name", None)
    arguments = getattr(tool_call, "arguments", None)
    call_id = getattr(tool_call, "call_id", None)
    return to, tools.begin(to, name if isinstance(name, str) else "?", call_id, executor, arguments)


def _tool_returned(to: Recorder | None, begun: str, result: Any) -> None:
    text = getattr(result, "result", None)
    failure = None
    if getattr(result, "success", None) is False:
        why = getattr(result, "error", None) or text
        message = why[: recorder.MAX_MESSAGE] if isinstance(why, str) else ""
        failure = ("ToolError", message or "the tool reported failure without a message")
    tools.finish(to, begun, failure=failure, result=text if isinstance(text, str) else None)


# --- turns ---------------------------------------------------------------------------------------


def _wrap_chat(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def chat(self: Any, messages: Any, model_config: Any, *args: Any, **kwargs: Any) -> Any:
        to, begin = _turn_started(self, messages, model_config, args, kwargs)
        token = recorder.parent_in_context.set(begin) if begin else None
        try:
            response = original(self, messages, model_config, *args, **kwargs)
        except BaseException as error:
            _turn_raised(to, begin, error)
            raise
        finally:
            if token is not None:
                recorder.parent_in_context.reset(token)
        _turn_returned(to, begin, response)
        return response

    return chat


def _turn_started(
    client: Any, messages: Any, model_config: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Recorder | None, str]:
    to = recorder.current()
    if to is None:
        return None, ""
    try:
        offered = kwargs.get("tools", args[0] if args else None)
        provider = getattr(getattr(client, "provider", None), "value", None)
        configured = {name: getattr(model_config, name, None) for name in CONFIGURED}
        event = TurnStarted(
            agent="trae",
            provider=provider,
            model=getattr(model_config, "model", None),
            configured={name: value for name, value in configured.items() if value is not None},
            message_count=len(messages) if isinstance(messages, list) else None,
            tool_count=len(offered) if isinstance(offered, list) else 0,
        )
        return to, to.record(event, parent=recorder.parent(to))
    except Exception as error:
        to.failed("trae.turn_started", error)
        return to, ""


def _turn_returned(to: Recorder | None, begin: str, response: Any) -> None:
    if to is None or not begin:
        return
    try:
        usage = getattr(response, "usage", None)
        calls = getattr(response, "tool_calls", None)
        event = TurnFinished(
            ended="completed",
            model=getattr(response, "model", None),
            finish_reason=getattr(response, "finish_reason", None),
            tool_calls=[_requested(call) for call in calls] if isinstance(calls, list) else None,
            usage=dict(vars(usage)) if usage is not None else None,
        )
        to.record(event, begin=begin)
    except Exception as error:
        to.failed("trae.turn_returned", error)


def _requested(call: Any) -> dict[str, Any]:
    return {"id": getattr(call, "call_id", None), "name": getattr(call, "name", None)}


def _turn_raised(to: Recorder | None, begin: str, error: BaseException) -> None:
    if to is None or not begin:
        return
    ended = "cancelled" if is_cancellation(error) else "failed"
    event = TurnFinished(ended=ended, error_type=error_type(error), error_message=message_of(error))
    to.record(event, begin=begin)
