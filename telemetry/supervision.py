"""Watching over the agent's process until it is gone: signals, the time limit, the end of its tree.

Promises, each a test in ``tests/test_wrapper.py``:

* A signal that reaches us reaches the agent, the same one. Where the agent shares our terminal, the
  terminal has already sent it what a key made (interrupt, quit, stop), and it is not sent twice.
* A time limit ends with SIGTERM, and SIGKILL after a grace of 10 seconds. A signal from outside gives 2
  seconds, so that all is done within the 5 that a pipeline waits.
* The agent's own end decides what is recorded, not the end of what it left behind.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from telemetry import descendants
from telemetry.endings import Ending

TIMEOUT_GRACE_S = 10.0
OUTSIDE_GRACE_S = 2.0
_UNKILLABLE_S = 1.0
"""How long to wait for a process that was killed; one that hangs in the kernel is left to itself."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_FORWARDED = (*_ENDING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
_KEYS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)
"""What a terminal sends to every process in its foreground."""


class Signals:
    """The signals that arrived, in order, and a descriptor that wakes a ``select``."""

    def __init__(self) -> None:
        self.arrived: deque[int] = deque()
        self.ending_at: float | None = None
        """When the first signal came that asks to end."""
        self.wake, self._woken = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(self._woken, False)

    def note(self, number: int, _frame: FrameType | None) -> None:
        self.arrived.append(number)
        if number in _ENDING and self.ending_at is None:
            self.ending_at = time.monotonic()

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        """Inside, signals are noted here instead of having their effect. Those ignored stay ignored."""
        wakeup = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        before = {}
        for number in (*_FORWARDED, signal.SIGCHLD):
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGCHLD:
                before[number] = signal.signal(number, self.note)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            signal.set_wakeup_fd(wakeup)
            os.close(self.wake)
            os.close(self._woken)

    def wait(self, limit_s: float | None) -> None:
        """Until a signal arrived, or `limit_s` is over."""
        select.select([self.wake], [], [], limit_s)
        try:
            os.read(self.wake, 4096)
        except BlockingIOError:
            pass  # the time is over


class Supervision:
    """Watches one process. `run` returns when it is gone."""

    def __init__(
        self,
        pid: int,
        signals: Signals,
        *,
        own_group: bool,
        timeout_s: float | None,
        resized: Callable[[], None] | None,
        others: frozenset[int],
        grace_s: float = TIMEOUT_GRACE_S,
    ) -> None:
        self._pid = pid
        self._signals = signals
        self._own_group = own_group
        self._resized = resized
        self._others = others | {pid}
        """Children that are not the agent's, or not to be reaped here."""
        self._times_out_at = time.monotonic() + timeout_s if timeout_s is not None else None
        self._kill_at: float | None = None
        self._killed_at: float | None = None
        self._grace_s = grace_s
        self._timed_out = False
        self.cancelled_by: int | None = None
        self._key: int | None = None
        self._forwarded: list[int] = []
        self._oom_before = oom_kills()

    def run(self) -> Ending:
        """Watch until the process is gone, or cannot be ended."""
        while True:
            pid, status, usage = os.wait4(self._pid, os.WNOHANG)
            if pid:
                return self._ending(status, usage)
            while self._signals.arrived:
                self._handle(self._signals.arrived.popleft())
            if self._watch_the_clock():
                return self._ending(None, None)
            self._signals.wait(self._next_s())

    def _handle(self, number: int) -> None:
        if number == signal.SIGCHLD:
            if sys.platform == "linux":
                descendants.reap(self._others)
            return
        if number == signal.SIGWINCH and self._resized:
            self._resized()
        from_terminal = not self._own_group and number in _KEYS and _in_foreground()
        if not from_terminal:
            self._send(number)
            self._forwarded.append(number)
        if number == signal.SIGTSTP:
            self._stop()
        elif number in _ENDING and from_terminal:
            self._key = number  # the agent decides what a key means, as without us
        elif number in _ENDING and not self._timed_out:
            self.cancelled_by = self.cancelled_by or number
            self._grant(OUTSIDE_GRACE_S)

    def _stop(self) -> None:
        """Stop as asked; the time limit stands still meanwhile."""
        begin = time.monotonic()
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._times_out_at is not None:
            self._times_out_at += time.monotonic() - begin

    def _grant(self, grace_s: float) -> None:
        at = time.monotonic() + grace_s
        self._kill_at = min(at, self._kill_at) if self._kill_at is not None else at

    def _watch_the_clock(self) -> bool:
        """Do what is due; whether there is nothing left to do but to give up."""
        now = time.monotonic()
        if self._times_out_at is not None and now >= self._times_out_at and not self._is_ending():
            self._timed_out = True
            self._send(signal.SIGTERM)
            self._send(signal.SIGCONT)
            self._grant(self._grace_s)
        if self._kill_at is not None and now >= self._kill_at and self._killed_at is None:
            self._killed_at = now
            self._send(signal.SIGKILL)
        return self._killed_at is not None and now >= self._killed_at + _UNKILLABLE_S

    def _is_ending(self) -> bool:
        return self._timed_out or self.cancelled_by is not None

    def _next_s(self) -> float | None:
        if self._killed_at is not None:
            due: float | None = self._killed_at + _UNKILLABLE_S
        elif self._kill_at is not None:
            due = self._kill_at
        else:
            due = self._times_out_at
        return max(0.0, due - time.monotonic()) if due is not None else None

    def _send(self, number: int) -> None:
        try:
            if self._own_group:
                os.killpg(self._pid, number)
            else:
                os.kill(self._pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # it is gone already, or runs under another account

    def _ending(self, status: int | None, usage: resource.struct_rusage | None) -> Ending:
        by_key = self._key is not None and status is not None and _tells_of(status, self._key)
        now = oom_kills()
        return Ending(
            status=status,
            usage=usage,
            timed_out=self._timed_out,
            cancelled_by=self.cancelled_by or (self._key if by_key else None),
            grace_expired=self._killed_at is not None if self._is_ending() else None,
            forwarded=tuple(self._forwarded),
            oom_kills=now - self._oom_before if now is not None and self._oom_before is not None else None,
        )


def _tells_of(status: int, number: int) -> bool:
    code = os.waitstatus_to_exitcode(status)
    return code in (-number, 128 + number)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def oom_kills(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """How many processes of our control group were killed for memory; ``None``: unknown.

    As the kernel counts it: in ``memory.events`` of version 2, in ``memory.oom_control`` of version 1.
    """
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            counted = _counted(root / group.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            counted = _counted(root / "memory" / group.lstrip("/") / "memory.oom_control")
        else:
            continue
        if counted is not None:
            return counted
    return None


def _counted(file: Path) -> int | None:
    try:
        return next(int(line.split()[1]) for line in file.read_text().splitlines() if line[:9] == "oom_kill ")
    except (OSError, StopIteration, ValueError, IndexError):
        return None  # not mounted here, or an older kernel
