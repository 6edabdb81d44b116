"""Watching over the agent's process until it is gone: signals, the time limit, the end of its tree.

Promises, each a test in ``tests/test_wrapper.py``:

* A signal that reaches us reaches the agent, the same one. Where the agent shares our terminal, the
  terminal has already sent it what a key made (interrupt, quit, stop), and it is not sent twice.
* Where the terminal stops the agent, we stop with it, so that the shell can go on; the time limit stands
  still meanwhile. An agent that stops itself otherwise is still held to its time limit.
* A time limit ends with SIGTERM, and SIGKILL after a grace of 10 seconds. A signal from outside gives 2
  seconds, so that all is done within the 5 that a pipeline waits.
* The agent's own end decides what is recorded, not the end of what it left behind.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
_STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""What stops a program for the sake of its terminal."""
_SIGINFO = struct.Struct("Iii")
_SIGINFO_BYTES = 128
_SI_KERNEL = 128
"""``struct signalfd_siginfo`` of signalfd(2): number, error, code; the code of a signal from the system."""
_KEYS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)
"""What a terminal sends to every process in its foreground."""


class Signals:
    """The signals that arrived, in order, and descriptors that wake a ``select``."""

    def __init__(self) -> None:
        self._arrived: deque[tuple[int, bool]] = deque()
        self._ending_at: float | None = None
        self._keys = -1
        self.outside: frozenset[int] = frozenset()
        """The signals that were blocked around us: the mask that a program we start is to have."""
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)

    @property
    def ending_at(self) -> float | None:
        """When the first signal came that asks to end."""
        self._read_keys()
        return self._ending_at

    def note(self, number: int, _frame: FrameType | None = None, *, by_key: bool = False) -> None:
        self._arrived.append((number, by_key))
        if number in _ENDING and self._ending_at is None:
            self._ending_at = time.monotonic()

    def arrived(self) -> Iterator[tuple[int, bool]]:
        """The signals since the last time, each with whether a key of the terminal made it."""
        self._read_keys()
        while self._arrived:
            yield self._arrived.popleft()

    def is_patient(self) -> bool:
        """When the agent is gone: whether nobody asks to end. Asked to stop, we stop."""
        if signal.SIGTSTP in [number for number, _ in self.arrived()]:
            os.kill(os.getpid(), signal.SIGSTOP)
        return self._ending_at is None

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        """Inside, signals are noted here instead of having their effect. Those ignored stay ignored."""
        wakeup = signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        before = {}
        for number in (*_FORWARDED, signal.SIGCHLD):
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGCHLD:
                before[number] = signal.signal(number, self.note)
        keys = [number for number in _KEYS if number in before]
        self._keys = _descriptor_of(keys)
        self.outside = frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, keys if self._keys >= 0 else ()))
        try:
            yield self
        finally:
            self._read_keys()  # one that waits would have its own effect as soon as it is let through
            signal.pthread_sigmask(signal.SIG_SETMASK, self.outside)
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            signal.set_wakeup_fd(wakeup)
            for fd in (self._wake, self._woken, self._keys):
                if fd >= 0:
                    os.close(fd)
            self._keys = -1

    def wait(self, limit_s: float | None) -> None:
        """Until a signal arrived, or `limit_s` is over."""
        select.select([fd for fd in (self._wake, self._keys) if fd >= 0], [], [], limit_s)
        try:
            os.read(self._wake, 4096)
        except BlockingIOError:
            pass  # the time is over

    def _read_keys(self) -> None:
        """Take what the descriptor has: it tells a key of the terminal from somebody's ``kill``."""
        while self._keys >= 0:
            try:
                told = os.read(self._keys, _SIGINFO_BYTES)
            except BlockingIOError:
                return
            number, _, code = _SIGINFO.unpack_from(told)
            self.note(number, by_key=code == _SI_KERNEL)


def _descriptor_of(numbers: Sequence[signal.Signals]) -> int:
    """A descriptor that these signals are read from when they are blocked; -1 where there is no such thing.

    There, that one came from the terminal is taken for granted when its foreground is ours.
    """
    if sys.platform != "linux":
        return -1
    bits = sum(1 << (number - 1) for number in numbers)
    mask = (ctypes.c_ubyte * 128).from_buffer_copy(bits.to_bytes(128, sys.byteorder))
    return int(ctypes.CDLL(None).signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC))


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
        self._stopped = False
        self._asked_to_stop = False
        self._forwarded: list[int] = []
        self._oom_before = oom_kills()

    def run(self) -> Ending:
        """Watch until the process is gone, or cannot be ended."""
        while True:
            pid, status, usage = os.wait4(self._pid, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if pid and (os.WIFSTOPPED(status) or os.WIFCONTINUED(status)):
                self._note_stop(status)
                continue
            for number, by_key in self._signals.arrived():
                if not pid:
                    self._handle(number, by_key)
                elif self._is_key(number, by_key) and number in _ENDING:
                    self._key = number  # it came to both of us, and the agent was quicker
            if pid:
                return self._ending(status, usage)
            if self._watch_the_clock():
                return self._ending(None, None)
            self._signals.wait(self._next_s())

    def _handle(self, number: int, by_key: bool) -> None:
        if number == signal.SIGCHLD:
            descendants.reap(self._others)
            return
        if number == signal.SIGWINCH and self._resized:
            self._resized()
        from_terminal = self._is_key(number, by_key)
        if not from_terminal:
            self._send(number)
            self._forwarded.append(number)
            self._asked_to_stop = number == signal.SIGTSTP
        if number in _ENDING and self._stopped:
            self._send(signal.SIGCONT)  # else it would not hear of it
        if number == signal.SIGTSTP and self._stopped:
            self._stop()
        elif number in _ENDING and from_terminal:
            self._key = number  # the agent decides what a key means, as without us
        elif number in _ENDING and not self._timed_out:
            self.cancelled_by = self.cancelled_by or number
            self._grant(OUTSIDE_GRACE_S)

    def _is_key(self, number: int, by_key: bool) -> bool:
        """Whether the terminal sent it, and so to the agent too."""
        return not self._own_group and number in _KEYS and (by_key or _takes_keys_for_granted())

    def _note_stop(self, status: int) -> None:
        """The agent was stopped, or goes on."""
        self._stopped = os.WIFSTOPPED(status)
        for_terminal = self._stopped and os.WSTOPSIG(status) in _STOPS
        if for_terminal and (self._asked_to_stop or not self._own_group):
            self._stop()

    def _stop(self) -> None:
        """Stop as the agent did; the time limit stands still meanwhile."""
        begin = time.monotonic()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._asked_to_stop = False
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
        if not self._own_group or not self._leads_group():
            _signal(os.kill, self._pid, number)  # it may have left the group that was made for it
        if self._own_group:
            _signal(os.killpg, self._pid, number)

    def _leads_group(self) -> bool:
        try:
            return os.getpgid(self._pid) == self._pid
        except ProcessLookupError:
            return True

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


def _signal(send: Callable[[int, int], None], to: int, number: int) -> None:
    try:
        send(to, number)
    except (ProcessLookupError, PermissionError):
        pass  # it is gone already, or runs under another account


def _tells_of(status: int, number: int) -> bool:
    code = os.waitstatus_to_exitcode(status)
    return code in (-number, 128 + number)


def shares_terminal() -> bool:
    """Whether there is a terminal that an agent in a group of its own could not read from.

    Whatever its standard input is: a tool may ask for a password on ``/dev/tty``.
    """
    terminal = _terminal()
    if terminal is not None:
        os.close(terminal)
    return terminal is not None


def _terminal() -> int | None:
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def _takes_keys_for_granted() -> bool:
    """Where the system does not tell who sent a signal: the terminal did, if our foreground it is."""
    terminal = None if sys.platform == "linux" else _terminal()
    if terminal is None:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


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
