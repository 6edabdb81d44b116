"""What is hooked, in one list, and the switch for it."""

from __future__ import annotations

from . import hooks, openai_client, processes, trae, websockets

HOOKS = (
    hooks.Hook("openai", "openai._base_client", openai_client.attach, openai_client.detach),
    hooks.Hook("trae.tools", "trae_agent.tools.base", trae.attach_tools, trae.detach),
    hooks.Hook(
        "trae.docker_tools", "trae_agent.tools.docker_tool_executor", trae.attach_docker_tools, trae.detach
    ),
    *(
        hooks.Hook("openai.websockets", module, websockets.attach, websockets.detach)
        for module in websockets.MODULES
    ),
    hooks.Hook("multiprocessing", "multiprocessing.util", processes.attach, processes.detach),
    hooks.Hook("trae.llm", "trae_agent.utils.llm_clients.llm_client", trae.attach_llm, trae.detach),
)

TARGETS = list(dict.fromkeys(hook.target for hook in HOOKS))


def instrument() -> None:
    """Hook whatever of `HOOKS` is imported or will be. Doing it again does nothing."""
    hooks.arm(HOOKS)


def uninstrument() -> None:
    """Take every hook off; calls that are open are still recorded to their end."""
    hooks.disarm()
