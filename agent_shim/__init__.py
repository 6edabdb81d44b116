"""Records what an agent does, inside the agent's own process, with the standard library alone.

In one's own code::

    import agent_shim

    with agent_shim.run(commit="1a2b3c4", task="speed-up"):
        ...  # every call of the openai client in here is recorded

Agents that are programs are wrapped from outside instead: ``agent-telemetry run -- trae-cli run …``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .context import Run, instrument, run, uninstrument

__all__ = ["Run", "instrument", "run", "uninstrument"]


def __getattr__(name: str) -> Any:
    # Loaded at first use: the interpreter stand-in imports this package on every start of an agent.
    if name in __all__:
        from . import context

        return getattr(context, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
