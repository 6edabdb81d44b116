"""Records what an agent does, inside the agent's own process, with the standard library alone.

In one's own code::

    import agent_shim

    with agent_shim.run(commit="1a2b3c4", task="speed-up"):
        ...  # every call of the openai client in here is recorded
        with agent_shim.tool_call("run", call_id=call.call_id, arguments=call.arguments) as tool:
            ...  # a tool of one's own; an exception, or tool.failed("…"), is a failure

Agents that are programs are wrapped from outside instead: ``agent-telemetry run -- trae-cli run …``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .context import Run, instrument, run, uninstrument
    from .tools import ToolCall, tool_call

__all__ = ["Run", "ToolCall", "instrument", "run", "tool_call", "uninstrument"]


def __getattr__(name: str) -> Any:
    # Loaded at first use: the interpreter stand-in imports this package on every start of an agent.
    if name in __all__:
        from . import context, tools

        return getattr(tools if name in ("ToolCall", "tool_call") else context, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
