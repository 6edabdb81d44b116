"""The body of an unread response, followed while the caller reads it.

The response object stays what it is; four of its public methods (``iter_bytes``, ``aiter_bytes``,
``close``, ``aclose``) get a shadow on the instance, which passes everything through: no byte is read
earlier, kept back or given in another order than without us, and a connection is released when it would
be. The one exception is documented in `openai_response.EventStream`.

How a body can end, and what the call's end event then says::

    read to its end, or to the end that the stream itself names     completed
    closed before that                                              closed_early
    an exception while reading                                      failed
    cancelled while reading (CancelledError, KeyboardInterrupt, …)  cancelled
    collected as garbage, never closed                              abandoned
    the process ends with the body open                             interrupted

Nothing outside the response refers to it, else an abandoned one would never be collected. The shadows do
refer to their own response: a streamed one is part of a cycle in any case (its stream knows it), and its
``close`` must work while that cycle is being collected, when weak references are dead already.
"""

from __future__ import annotations

import atexit
import time
import weakref
from typing import Any, AsyncIterator, Iterator

from .openai_call import Call, in_memory
from .openai_response import MAX_DECODED, EventStream, Findings
from .recorder import is_cancellation

_open: weakref.WeakSet[BodyWatch] = weakref.WeakSet()


class BodyWatch:
    """Reads along with the caller and ends the call."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.findings = Findings(call.recorder.content)
        self.over = False
        self.reading = False
        self._pieces: list[bytes] = []
        self._size = 0
        self.events: EventStream | None = None
        if "event-stream" in call.content_type or (call.stream and "json" not in call.content_type):
            self.events = EventStream(self.findings, take_usage_out=call.usage_added)
        _open.add(self)

    # --- what the caller reads ------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> bytes:
        """One piece of the decoded body; gives back what the caller is to see. Never raises."""
        call = self.call
        if self.over and self.events is None:
            return chunk  # read again, from memory
        if call.first_chunk_ns is None:
            call.first_chunk_ns = time.monotonic_ns() - call.started_ns
        try:
            if self.events is not None:
                return self.events.feed(chunk)
            self._size += len(chunk)
            if self._size <= MAX_DECODED:
                self._pieces.append(chunk)
        except Exception as error:
            self.findings.not_decoded = "the stream could not be decoded"
            self.events = None
            call.recorder.failed("streams.feed", error)
        return chunk

    def at_end(self) -> bytes:
        """The body is over; gives back what of it the caller has not seen yet."""
        rest = b""
        try:
            if self.events is not None:
                rest = self.events.end()
            elif self._size > MAX_DECODED:
                self.findings.not_decoded = f"body of {self._size} bytes is not decoded"
            elif self.findings.not_decoded is None:
                self.call.read_body(self.findings, b"".join(self._pieces))
        except Exception as error:
            self.call.recorder.failed("streams.at_end", error)
        self.finish("completed")
        return rest

    def broken(self, error: BaseException) -> None:
        """Reading raised."""
        self.finish("cancelled" if is_cancellation(error) else "failed", error)

    def closed(self) -> None:
        """The response was closed. While a read is under way, its own end says more."""
        if self.over or self.reading:
            return
        if self._said_all():
            self.finish("completed")
            return
        if self.events is None and not self._pieces and self.findings.not_decoded is None:
            self.findings.not_decoded = "the body was not read through a decoding reader"
        self.finish("closed_early")

    def abandoned(self) -> None:
        """The response was collected as garbage. Takes no lock."""
        self.finish("completed" if self._said_all() else "abandoned", later=True)

    def _said_all(self) -> bool:
        """Whether the stream itself said that it is over, or what went wrong; then the call says the same."""
        findings = self.findings
        if findings.terminal or findings.error_type:
            return True
        return bool(findings.finish_reasons and findings.usage)

    def finish(self, ended: str, error: BaseException | None = None, *, later: bool = False) -> None:
        """End the call, once."""
        if self.over:
            return
        self.over = True
        call = self.call
        try:
            now = time.monotonic_ns()
            call.api_ns += now - call.last_end_ns
            chunks = self.events.events if self.events is not None else None
            call.finish(ended, self.findings, error, chunks=chunks, later=later)
        except Exception as failure:
            call.recorder.failed("streams.finish", failure, later=later)


def watch(call: Call, response: Any) -> None:
    """Follow the unread body of `response`; the call ends when it does."""
    follower = BodyWatch(call)
    kind = type(response)

    def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
        return _read(follower, kind.iter_bytes(response, chunk_size))

    def aiter_bytes(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        return _aread(follower, kind.aiter_bytes(response, chunk_size))

    def close() -> None:
        try:
            kind.close(response)
        finally:
            follower.closed()

    async def aclose() -> None:
        try:
            await kind.aclose(response)
        finally:
            follower.closed()

    response.iter_bytes, response.aiter_bytes = iter_bytes, aiter_bytes
    response.close, response.aclose = close, aclose
    weakref.finalize(response, follower.abandoned).atexit = False
    call.watched = True


def watch_error(call: Call, begin: str, response: Any) -> None:
    """Tell of an unread error response when the client reads it, to raise, or closes it, to retry.

    It does one of the two at once, so that nothing waits for this.
    """
    kind = type(response)
    state = {"reading": False, "told": False}

    def tell() -> None:
        if state["told"] or state["reading"]:
            return
        state["told"] = True
        try:
            call.request_answered(begin, response, in_memory(response))
        except Exception as error:
            call.recorder.failed("streams.watch_error", error)

    def read() -> Any:
        state["reading"] = True  # reading closes the response before its content is there
        try:
            return kind.read(response)
        finally:
            state["reading"] = False
            tell()

    async def aread() -> Any:
        state["reading"] = True
        try:
            return await kind.aread(response)
        finally:
            state["reading"] = False
            tell()

    def close() -> None:
        try:
            kind.close(response)
        finally:
            tell()

    async def aclose() -> None:
        try:
            await kind.aclose(response)
        finally:
            tell()

    response.read, response.aread, response.close, response.aclose = read, aread, close, aclose


def _read(follower: BodyWatch, pieces: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        follower.reading = True
        try:
            chunk = next(pieces)
        except StopIteration:
            break
        except BaseException as error:
            follower.broken(error)
            raise
        finally:
            follower.reading = False
        seen = follower.feed(chunk)
        if seen:
            yield seen
    rest = follower.at_end()
    if rest:
        yield rest


async def _aread(follower: BodyWatch, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        follower.reading = True
        try:
            chunk = await pieces.__anext__()
        except StopAsyncIteration:
            break
        except BaseException as error:
            follower.broken(error)
            raise
        finally:
            follower.reading = False
        seen = follower.feed(chunk)
        if seen:
            yield seen
    rest = follower.at_end()
    if rest:
        yield rest


def _end_open_bodies() -> None:
    """At exit: a body that is still open will not be read any more."""
    for follower in list(_open):
        follower.finish("interrupted")


atexit.register(_end_open_bodies)
