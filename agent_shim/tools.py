"""Tool calls of one's own agent: ``with agent_shim.tool_call("run", call_id=call.id) as tool:``.

TRAE's tools are hooked; a loop of one's own says by itself when a tool runs. Outside any run, and where
nothing is recorded, this does nothing.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from . import recorder
from .canonical import canonical, encode
from .events import ToolCallFinished, ToolCallStarted
from .recorder import Recorder, error_type, is_cancellation, kept_text, message_of


class ToolCall:
    """One execution of a tool, from entering the ``with`` block to leaving it."""

    def __init__(self, to: Recorder | None, begin: str) -> None:
        self._to = to
        self._begin = begin
        self._failure: tuple[str, str] | None = None
        self._result: str | None = None

    def failed(self, message: str, *, error_type: str = "ToolError") -> None:
        """Say that the tool ran and reported failure. An exception says so by itself."""
        self._failure = (error_type, message[: recorder.MAX_MESSAGE] or error_type)

    def returned(self, text: str) -> None:
        """Say what the tool gave back; kept if it is short or content is, else told by length and hash."""
        self._result = text

    def __enter__(self) -> ToolCall:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finish(self._to, self._begin, error=error, failure=self._failure, result=self._result)


def tool_call(tool: str, *, call_id: str | None = None, arguments: Any = None) -> ToolCall:
    """A tool call to be used as ``with agent_shim.tool_call(…) as tool:``.

    `call_id` is the model's id of the call, which ties it to the response that requested it; `arguments`
    as the model gave them, text or values.
    """
    to = recorder.current()
    return ToolCall(to, begin(to, tool, call_id, "agent_shim.tool_call", arguments))


def begin(to: Recorder | None, tool: str, call_id: Any, executor: str, arguments: Any) -> str:
    """Record that a tool call began; gives the id of its begin event, ``""`` where nothing is recorded."""
    if to is None:
        return ""
    try:
        if not isinstance(arguments, str):
            arguments = encode(canonical(arguments)[0])
        kept = kept_text(to, arguments)
        event = ToolCallStarted(
            tool=tool,
            call_id=call_id if isinstance(call_id, str) else None,
            executor=executor,
            arguments=kept.get("text"),
            arguments_bytes=kept["bytes"],
            arguments_sha256=kept["sha256"],
        )
        return to.record(event, parent=recorder.parent(to))
    except Exception as error:
        to.failed("tools.begin", error)
        return ""


def finish(
    to: Recorder | None,
    begun: str,
    *,
    error: BaseException | None = None,
    failure: tuple[str, str] | None = None,
    result: str | None = None,
) -> None:
    """Record that the tool call with begin event `begun` is over: raised, failed or completed."""
    if to is None or not begun:
        return
    try:
        if error is not None:
            ended, failure = (
                "cancelled" if is_cancellation(error) else "raised",
                (error_type(error), message_of(error)),
            )
        else:
            ended = "failed" if failure else "completed"
        kept = kept_text(to, result) if result is not None else {}
        event = ToolCallFinished(
            ended=ended,
            error_type=failure[0] if failure else None,
            error_message=failure[1] if failure else None,
            result=kept.get("text"),
            result_bytes=kept.get("bytes"),
            result_sha256=kept.get("sha256"),
        )
        to.record(event, begin=begun)
    except Exception as mine:
        to.failed("tools.finish", mine)
