"""The hook on the WebSocket surfaces of the ``openai`` package: they are recorded, and not decoded.

``connect`` of the realtime, responses and live resources goes past the HTTP client. Each use of it is a
call whose usage is unknown, with that as the reason, so that none of it is missing silently.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Callable

from . import hooks, openai_request, recorder
from .events import CallFinished, CallStarted

MODULES = (
    "openai.resources.beta.realtime.realtime",
    "openai.resources.beta.responses.responses",
    "openai.resources.live.forks",
    "openai.resources.live.live",
    "openai.resources.live.sideband",
    "openai.resources.realtime.realtime",
    "openai.resources.realtime.translations.translations",
    "openai.resources.responses.responses",
)
"""Modules with a ``connect`` of their own, in one generation of the SDK or another."""

NOT_DECODED = "what passes over a WebSocket is not decoded"

_undo: list[tuple[Any, str, Any, bool]] = []


def attach(module: ModuleType) -> hooks.Attached:
    """Wrap ``connect`` of every resource of the module that has one."""
    owners = [
        owner
        for owner in vars(module).values()
        if isinstance(owner, type) and owner.__module__ == module.__name__ and "connect" in vars(owner)
    ]
    surface = ".".join(module.__name__.split(".")[2:-1])
    return hooks.Attached([hooks.wrap(owner, "connect", _wrap(surface), _undo) for owner in owners], [])


def detach() -> None:
    """Put everything back."""
    hooks.unwrap(_undo)


def _wrap(surface: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def connect(self: Any, *args: Any, **kwargs: Any) -> Any:
            _record(surface, self, kwargs.get("model"))
            return original(self, *args, **kwargs)

        return connect

    return make


def _record(surface: str, resource: Any, model: Any) -> None:
    to = recorder.current()
    if to is None:
        return
    try:
        client = resource._client
        name = type(client).__name__
        started = CallStarted(
            surface=surface,
            method="WEBSOCKET",
            host=client.base_url.host,
            port=client.base_url.port,
            provider=openai_request.provider(client.base_url.host, name),
            client=name,
            asynchronous=name.startswith("Async"),
            model=model if isinstance(model, str) else None,
        )
        begin = to.record(started, parent=recorder.parent(to))
        to.record(CallFinished(ended="not_followed", usage_missing=NOT_DECODED), begin=begin)
    except Exception as error:
        to.failed("websockets.connect", error)
