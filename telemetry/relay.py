"""The agent's output: passed through live and unchanged, its last part kept, a terminal left a terminal.

Promises, each a test in ``tests/test_relay.py`` or ``tests/test_wrapper.py``:

* Bytes are passed on as they come, each stream on its own; memory does not grow with the output.
* A reader that goes away is seen by the agent as if it wrote to that reader itself; one that is slow gets
  all of it.
* Where ours is a terminal, the agent's stream is one too, of the same size. Standard input is never
  touched, so the agent reads the user's own terminal.
* A tail is cut at a character, and secrets are removed before it is cut, so no half of one is left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import termios
import threading
import time
from collections.abc import Callable
from typing import Any

TAIL_BYTES = 8 * 1024
_KEPT_BYTES = 2 * TAIL_BYTES
"""A secret that begins before the tail is still whole in what is kept."""
_CHUNK_BYTES = 64 * 1024
_POLL_S = 0.05
_READER_GONE = (errno.EPIPE, errno.ECONNRESET, errno.EIO)
"""Of a pipe, of a socket, of a terminal."""


class Tail:
    """The last part of a stream, in bounded memory."""

    __slots__ = ("_kept", "total_bytes")

    def __init__(self) -> None:
        self._kept = bytearray()
        self.total_bytes = 0

    def add(self, chunk: bytes) -> None:
        self.total_bytes += len(chunk)
        self._kept += chunk[-_KEPT_BYTES:]
        if len(self._kept) > 2 * _KEPT_BYTES:
            del self._kept[:-_KEPT_BYTES]

    def text(self, redact: Callable[[str], str]) -> str:
        """At most `TAIL_BYTES` of the end, secrets removed, as text; what is no UTF-8 becomes U+FFFD."""
        whole = self.total_bytes == len(self._kept)
        kept = bytes(self._kept) if whole else _from_character(bytes(self._kept[-_KEPT_BYTES:]))
        clean = redact(kept.decode("utf-8", "replace")).encode()
        return (clean if len(clean) <= TAIL_BYTES else _from_character(clean[-TAIL_BYTES:])).decode()


def _from_character(data: bytes) -> bytes:
    start = next((at for at, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 0)
    return data[start:]


class Relay(threading.Thread):
    """Passes one stream of the agent on to ours. The descriptor `source` is closed at its end."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__(name=f"relay-{target}", daemon=True)
        self._source = source
        self._target = target
        self.tail = Tail()
        self.is_writing = False
        """Whether it waits for our reader, not for the agent."""
        self.failure: OSError | None = None
        """Why output could not be passed on, where it is not that the reader is gone."""

    def run(self) -> None:
        try:
            while chunk := _read(self._source):
                self.tail.add(chunk)
                self.is_writing = True
                _write(self._target, chunk)
                self.is_writing = False
        except OSError as error:
            # Closing our end tells the agent that nobody reads, as its own write would.
            self.failure = None if error.errno in _READER_GONE else error
        finally:
            os.close(self._source)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK_BYTES)
    except OSError as error:
        if error.errno == errno.EIO:  # Linux says so when nobody holds the other end of a terminal
            return b""
        raise


def _write(fd: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # whoever shares our stream with us made it non-blocking
            select.select([], [fd], [])


class Streams:
    """The agent's standard output and error: made before it is started, relayed while it runs."""

    def __init__(self) -> None:
        self.terminal = os.isatty(1) or os.isatty(2)
        self._sources: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._relays: dict[int, Relay] = {}
        for fd in (1, 2):
            self._sources[fd], self._ends[fd] = _terminal_like(fd) if os.isatty(fd) else os.pipe()

    @property
    def ends(self) -> dict[int, int]:
        """The agent's descriptors: what it gets for standard output and error."""
        return dict(self._ends)

    def abandon(self) -> None:
        """There is no agent: give everything up."""
        for fd in (*self._ends.values(), *self._sources.values()):
            os.close(fd)

    def begin(self) -> None:
        """The agent holds its ends now: give ours up and pass on what comes."""
        for fd, end in self._ends.items():
            os.close(end)
            self._relays[fd] = Relay(self._sources[fd], fd)
            self._relays[fd].start()

    def resize(self) -> None:
        """Give the agent's terminals the size that ours has now."""
        for fd, source in self._sources.items():
            if os.isatty(fd) and self._relays[fd].is_alive():
                _copy_size(fd, source)

    def finish(self, limit_s: float, is_patient: Callable[[], bool]) -> bool:
        """Wait until everything is passed on; whether it was.

        `limit_s` is for what may still come from whoever holds the agent's end. Our own reader is waited
        for as the agent would have waited for it, as long as `is_patient` says so.
        """
        until = time.monotonic() + limit_s
        for relay in self._relays.values():
            while relay.is_alive() and time.monotonic() < until:
                relay.join(_POLL_S)
                if relay.is_writing and is_patient():
                    until = time.monotonic() + limit_s
        return not any(relay.is_alive() for relay in self._relays.values())

    def failures(self) -> dict[int, OSError]:
        """Stream → why it could not be passed on."""
        return {fd: relay.failure for fd, relay in self._relays.items() if relay.failure}

    def tail(self, fd: int) -> Tail:
        """What was seen of stream `fd`, 1 or 2."""
        return self._relays[fd].tail if fd in self._relays else Tail()


def _terminal_like(fd: int) -> tuple[int, int]:
    """A pseudo-terminal of the size of `fd`: our end and the agent's."""
    source, end = os.openpty()
    mode = termios.tcgetattr(end)
    mode[1] &= ~termios.OPOST  # bytes stay as they are; the user's terminal makes the line ends
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(end, termios.TCSANOW, mode)
    _copy_size(fd, source)
    return source, end


def _copy_size(fd: int, source: int) -> None:
    try:
        size = fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(source, termios.TIOCSWINSZ, size)
    except OSError:
        pass  # the terminal was hung up: there is no size any more


class TerminalMode:
    """The mode of the user's terminal, put back when an agent died while it had changed it."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._mode = self._now()

    def _now(self) -> list[Any] | None:
        try:
            return termios.tcgetattr(self._fd)
        except (termios.error, OSError):
            return None  # no terminal

    def restore(self) -> None:
        """Put the mode back, if it changed and the terminal is ours to change."""
        if self._mode is None or self._now() in (None, self._mode):
            return
        try:
            if os.tcgetpgrp(self._fd) == os.getpgrp():
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._mode)
        except (termios.error, OSError):
            pass  # hung up in the meantime
