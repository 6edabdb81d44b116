"""How the end of the agent's process is told: outcome, error, exit code. Pure.

Promises, each a test in ``tests/test_endings.py``: an end other than exit code 0 always has an error type
and a message; an exit code is passed on as it is, and the end by a signal is 128 and its number, as a
shell says it.
"""

from __future__ import annotations

import os
import re
import resource
import signal
from typing import NamedTuple

TIMED_OUT = 124
"""Exit code, as of ``timeout``."""
_MESSAGE_LIMIT = 500
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]")


class Ending(NamedTuple):
    """What was seen of the end."""

    status: int | None
    """As ``wait`` gives it; ``None``: the process could not be ended."""
    usage: resource.struct_rusage | None = None
    timed_out: bool = False
    cancelled_by: int | None = None
    """The signal from outside that ended it, or ours where `refuted` says so."""
    grace_expired: bool | None = None
    """Whether SIGKILL had to follow; ``None`` when nothing was asked to end."""
    forwarded: tuple[int, ...] = ()
    oom_kills: int | None = None
    """Processes of our control group that the system killed for memory meanwhile; ``None``: unknown."""
    refuted: str | None = None
    """The claim for whose refutation it was ended."""


class Told(NamedTuple):
    """The same as the events tell it."""

    outcome: str
    exit_code: int | None
    signal: int | None
    error_type: str | None
    error_message: str | None
    core_dumped: bool | None
    returns: int
    """The exit code that the wrapper ends with."""


def tell(ending: Ending, timeout_s: float | None, stderr_tail: str | None) -> Told:
    """The end in the words of ``process.finished``. `stderr_tail` is ``None`` when none was kept."""
    code = os.waitstatus_to_exitcode(ending.status) if ending.status is not None else None
    exit_code = code if code is not None and code >= 0 else None
    number = -code if code is not None and code < 0 else None
    core = os.WCOREDUMP(ending.status) if ending.status is not None and number else None
    outcome = _outcome(ending, number)
    kind, message = _error(outcome, ending, exit_code, number, timeout_s, stderr_tail)
    return Told(outcome, exit_code, number, kind, message, core, _returns(outcome, ending, exit_code, number))


def _outcome(ending: Ending, number: int | None) -> str:
    if ending.timed_out:
        return "timeout"
    if ending.cancelled_by is not None:
        return "cancelled"
    if number == signal.SIGKILL and ending.oom_kills:
        return "oom_killed"
    return "signaled" if number else "exited"


def _error(
    outcome: str,
    ending: Ending,
    exit_code: int | None,
    number: int | None,
    timeout_s: float | None,
    stderr_tail: str | None,
) -> tuple[str | None, str | None]:
    how = _how(ending, exit_code, number)
    if outcome == "timeout":
        return "Timeout", f"not done after {timeout_s:g} s; {how}"
    if outcome == "cancelled" and ending.refuted:
        return "ClaimRefuted", f"{ending.refuted}; {how}"
    if outcome == "cancelled":
        return "Cancelled", f"{_name(ending.cancelled_by or 0)} from outside; {how}"
    if outcome == "oom_killed":
        return "OutOfMemory", "killed by the system for want of memory"
    last = _last_line(stderr_tail) if stderr_tail is not None else None
    if number:
        return f"Signal:{_name(number)}", f"{how}; last line of stderr: {last}" if last else how
    if exit_code == 0:
        return None, None
    if stderr_tail is None:
        return "NonZeroExit", how
    return "NonZeroExit", f"{last}{_hint(exit_code)}" if last else f"{how}, nothing on stderr"


def _how(ending: Ending, exit_code: int | None, number: int | None) -> str:
    asked = _name(ending.cancelled_by or signal.SIGTERM)
    after = f" after it did not obey {asked}" if ending.grace_expired else ""
    if number:
        return f"ended by {_name(number)}{after}"
    if exit_code is None:
        return "could not be ended, even by SIGKILL"
    return f"exit code {exit_code}{_hint(exit_code)}"


def _hint(exit_code: int | None) -> str:
    """What a code means that a shell has made of a signal."""
    if exit_code is None or not 128 < exit_code < 160:
        return ""
    return f" (so a shell says that {_name(exit_code - 128)} ended a program)"


def _returns(outcome: str, ending: Ending, exit_code: int | None, number: int | None) -> int:
    if outcome == "timeout":
        return TIMED_OUT
    if exit_code is not None:
        return exit_code
    return 128 + (ending.cancelled_by or number or int(signal.SIGKILL))


def _last_line(tail: str) -> str | None:
    for line in reversed(tail.splitlines()):
        text = _ESCAPES.sub("", line).strip()
        if text:
            return text[:_MESSAGE_LIMIT]
    return None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal
