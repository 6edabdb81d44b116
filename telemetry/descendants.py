"""The processes that an agent started: found, ended and listed when they outlive it.

Promises, each a test in ``tests/test_wrapper.py``:

* On Linux nothing that the agent started gets away: this process adopts orphans (``subreaper``), so one
  in a session of its own is found too. Elsewhere the agent's process group is ended, and what was left
  is unknown.
* What was running before the agent is never touched, nor is a deliverer.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
"""From ``linux/prctl.h``."""
TERM_GRACE_S = 0.5
_KILL_LIMIT_S = 1.0
_COMMAND_LIMIT = 200
_LISTED = 100
"""More than that is a flood; all of it is ended, the first ones are named."""
DELIVERER = "telemetry.deliverer"


class Process(NamedTuple):
    """One process as ``/proc/<pid>/stat`` shows it."""

    pid: int
    parent: int
    state: str
    started: str
    """Start time in clock ticks since boot: with the pid it names a process for good."""


@contextmanager
def adopting() -> Iterator[None]:
    """Inside, orphans among our descendants become our children. Nothing happens outside Linux."""
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int()
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def descendants(of: int, without: Iterable[int] = ()) -> list[Process]:
    """All processes below `of`, leaving out those in `without` and what is below them; Linux only."""
    children: dict[int, list[Process]] = {}
    for process in _processes():
        children.setdefault(process.parent, []).append(process)
    left_out, found, open_ = set(without), [], [of]
    while open_:
        for process in children.get(open_.pop(), ()):
            if process.pid not in left_out:
                found.append(process)
                open_.append(process.pid)
    return found


def _are_seen() -> bool:
    """Whether the system shows processes: it is Linux, and nothing hides ``/proc``."""
    return sys.platform == "linux" and Path(f"/proc/{os.getpid()}/stat").exists()


def pids_below_us() -> frozenset[int]:
    """The processes below this one now; empty where that cannot be known."""
    if not _are_seen():
        return frozenset()
    return frozenset(process.pid for process in descendants(os.getpid()))


def reap(without: Iterable[int]) -> None:
    """Take note of adopted children that are gone; those in `without` belong to somebody else here."""
    if not _are_seen():
        return
    left_out = set(without)
    me = os.getpid()
    for process in _processes():
        if process.parent == me and process.state == "Z" and process.pid not in left_out:
            _reap_one(process.pid)


def end(
    without: Iterable[int], *, group: int | None = None, grace_s: float = TERM_GRACE_S
) -> list[dict[str, Any]] | None:
    """End what is left below this process and say what it was; ``None`` where that cannot be known.

    There, the process group `group` is ended.
    """
    if not _are_seen():
        _end_group(group, grace_s)
        return None
    ended: dict[tuple[int, str], dict[str, Any]] = {}
    begin = time.monotonic()
    while True:
        left = [p for p in descendants(os.getpid(), without) if not _is_deliverer(p.pid)]
        living = [p for p in left if p.state != "Z"]
        late = time.monotonic() - begin
        for process in living:
            key = (process.pid, process.started)
            if key not in ended:
                ended[key] = {"pid": process.pid, "command": _command(process.pid)}
                _signal(process.pid, signal.SIGTERM)
                _signal(process.pid, signal.SIGCONT)
            if late >= grace_s:
                _signal(process.pid, signal.SIGKILL)
        reap(without)
        if not living or late > grace_s + _KILL_LIMIT_S:
            return list(ended.values())[:_LISTED]
        time.sleep(0.01)


def _end_group(group: int | None, grace_s: float) -> None:
    if group is None:
        return
    try:
        os.killpg(group, signal.SIGTERM)
        time.sleep(grace_s)
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nothing is left in it


def _processes() -> Iterator[Process]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            process = _process(int(entry.name))
            if process is not None:
                yield process


def _process(pid: int) -> Process | None:
    try:
        # The name of the program, in parentheses, may itself hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return Process(pid, int(fields[1]), fields[0].decode(), fields[19].decode())
    except (OSError, IndexError):
        return None  # gone in the meantime


def _command(pid: int) -> str:
    words = _arguments(pid)
    return " ".join(words)[:_COMMAND_LIMIT] if words else "?"


def _arguments(pid: int) -> list[str]:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        return [word.decode("utf-8", "replace") for word in line.split(b"\0")[:-1]]
    except OSError:
        return []


def _is_deliverer(pid: int) -> bool:
    return DELIVERER in _arguments(pid)[1:4]


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # ended by itself
    except PermissionError:
        pass  # runs under another account (sudo): it is listed, and cannot be ended by us


def _reap_one(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass  # reaped elsewhere in this process
