"""For tests of this project and of yours: a scripted OpenAI server, its ledger, a fixed clock, fixed ids.

Standard library only. Start with `ScriptedServer`.
"""

from __future__ import annotations

from telemetry.testing.ledger import Billed, Ledger, Received, Requested, Returned
from telemetry.testing.replies import (
    Answer,
    ApiError,
    Delivery,
    Raw,
    Reply,
    ToolCall,
    Usage,
    bad_request,
    calls,
    connection_reset,
    invalid_key,
    model_not_found,
    overloaded,
    quota_exhausted,
    rate_limited,
    server_error,
)
from telemetry.testing.server import ScriptedServer, Turn

__all__ = [
    "Answer",
    "ApiError",
    "Billed",
    "Delivery",
    "FixedClock",
    "FixedIds",
    "Ledger",
    "Raw",
    "Received",
    "Reply",
    "Requested",
    "Returned",
    "ScriptedServer",
    "ToolCall",
    "Turn",
    "Usage",
    "bad_request",
    "calls",
    "connection_reset",
    "invalid_key",
    "model_not_found",
    "overloaded",
    "quota_exhausted",
    "rate_limited",
    "server_error",
]


class FixedClock:
    """A clock that goes on by `step` nanoseconds each time it is read, from `start`.

    Serves as `clock` and as `monotonic` of a spool.
    """

    def __init__(self, start: int = 1_700_000_000_000_000_000, step: int = 1_000_000) -> None:
        self._next = start
        self._step = step

    def __call__(self) -> int:
        now, self._next = self._next, self._next + self._step
        return now


class FixedIds:
    """Ids of the form of a UUIDv7, counted from `first`: 32 hexadecimal digits, in order."""

    def __init__(self, first: int = 1) -> None:
        self._next = first

    def __call__(self) -> str:
        number, self._next = self._next, self._next + 1
        return f"018bcfe5680070008000{number:012x}"
