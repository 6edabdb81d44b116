"""What the scripted server saw and billed: the other side of the books.

Promises, each with its test in ``tests/test_testing.py``:

* Every HTTP request stands here once, before a byte of its answer leaves the server.
* Every answer that the model gave is billed here once, read by the client or not, polled once or often.
* A journal that agrees with this ledger has lost nothing and invented nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from telemetry.testing.replies import Usage


class Received(NamedTuple):
    """One HTTP request, and what it was answered."""

    number: int
    """From 1, in the order of arrival."""
    method: str
    path: str
    """Below ``/v1``, without the query."""
    headers: Mapping[str, str]
    """Names in lower case."""
    content: bytes
    body: Any
    """The body parsed as JSON; ``None`` when it is none."""
    request_id: str
    """``x-request-id`` of the answer."""
    status: int | None
    """``None`` when the connection broke before the headers."""
    fault: str | None
    error_code: str | None
    """``code`` of the error object, or its type when it has no code."""
    response_id: str | None

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the parameters in the body, as sent."""
        return tuple(self.body) if isinstance(self.body, dict) else ()

    @property
    def retry_count(self) -> int | None:
        """The client's own count of its retries of this call, 0 for the first request."""
        count = self.headers.get("x-stainless-retry-count")
        return int(count) if count is not None else None


class Billed(NamedTuple):
    """One answer of a model, billed once."""

    response_id: str
    request: int
    """Number of the request that caused it."""
    path: str
    model: str
    tier: str
    usage: Usage


class Requested(NamedTuple):
    """One tool call that an answer requested."""

    call_id: str
    name: str
    arguments: str
    response_id: str


class Returned(NamedTuple):
    """One tool output that a request brought back; an agent that sends its whole history repeats it."""

    call_id: str
    output: Any
    request: int


class Ledger:
    """The server's own account. Safe to read while the server runs; every reading is a copy."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: list[Received] = []
        self._billed: dict[str, Billed] = {}
        self._requested: list[Requested] = []
        self._returned: list[Returned] = []

    @property
    def requests(self) -> tuple[Received, ...]:
        """All HTTP requests, in the order of arrival."""
        with self._changed:
            return tuple(sorted(self._requests))

    @property
    def billed(self) -> tuple[Billed, ...]:
        """All billed answers."""
        with self._changed:
            return tuple(self._billed.values())

    @property
    def tool_calls(self) -> tuple[Requested, ...]:
        """All tool calls requested by answers."""
        with self._changed:
            return tuple(self._requested)

    @property
    def tool_outputs(self) -> tuple[Returned, ...]:
        """All tool outputs that requests carried, each time they did."""
        with self._changed:
            return tuple(self._returned)

    def total(self, model: str | None = None) -> Usage:
        """The sum of all that was billed, for one answering model or for all."""
        total = Usage()
        for entry in self.billed:
            if model in (None, entry.model):
                total = total.plus(entry.usage)
        return total

    def wait(self, requests: int, timeout_s: float = 30.0) -> None:
        """Return once so many requests have arrived; `TimeoutError` when they do not."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= requests, timeout_s):
                raise TimeoutError(f"{len(self._requests)} of {requests} requests after {timeout_s} s")

    def enter(
        self,
        received: Received,
        billed: Billed | None,
        requested: list[Requested],
        returned: list[Returned],
    ) -> None:
        """Write one request down with all that it caused. For the server."""
        with self._changed:
            self._requests.append(received)
            self._returned.extend(returned)
            if billed is not None:
                self._billed[billed.response_id] = billed
            self._requested.extend(requested)
            self._changed.notify_all()
