"""``process.finished``: how the agent ended, what it used, and what it left. Pure.

A failure always has a type and a message, also where there was no process (``tests/test_wrapper.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from agent_shim.events import ProcessFinished
from telemetry.child import Failure
from telemetry.endings import Ending, tell
from telemetry.relay import Tail

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""``ru_maxrss`` is in bytes on macOS and in KiB elsewhere (getrusage(2))."""


def process_finished(
    ending: Ending,
    tails: Mapping[int, Tail],
    redact: Callable[[str], str],
    leftover: list[dict[str, Any]] | None,
    *,
    drained: bool,
    timeout_s: float | None,
) -> tuple[ProcessFinished, int]:
    """The event, and the exit code that the wrapper ends with.

    `tails` are the ends of stdout and stderr by their numbers, none when they were not kept; `leftover` the
    processes that outlived the agent; `drained` says whether all output was passed on.
    """
    texts = {fd: tail.text(redact) for fd, tail in tails.items()}
    told = tell(ending, timeout_s, texts.get(2))
    usage = ending.usage
    event = ProcessFinished(
        outcome=told.outcome,
        exit_code=told.exit_code,
        signal=told.signal,
        core_dumped=told.core_dumped,
        error_type=told.error_type,
        error_message=told.error_message,
        error_phase=("run" if drained else "collect") if told.error_type else None,
        grace_expired=ending.grace_expired,
        stdout_bytes=tails[1].total_bytes if tails else None,
        stderr_bytes=tails[2].total_bytes if tails else None,
        stdout_tail=texts.get(1),
        stderr_tail=texts.get(2),
        user_ns=_ns(usage.ru_utime) if usage else None,
        system_ns=_ns(usage.ru_stime) if usage else None,
        max_rss_bytes=usage.ru_maxrss * _RSS_UNIT if usage else None,
        signals_forwarded=list(ending.forwarded),
        leftover=leftover,
        oom_kills=ending.oom_kills,
    )
    return event, told.returns


def not_started(failure: Failure) -> ProcessFinished:
    """The event where there was no process."""
    return ProcessFinished(
        outcome="spawn_failed",
        error_type=failure.error_type,
        error_message=failure.message,
        error_phase=failure.phase,
    )


def in_short(finished: ProcessFinished) -> str:
    """The end in a few words, to follow the name of the run."""
    if finished.outcome == "spawn_failed":
        return f"was not started: {finished.error_type}: {finished.error_message}"
    if finished.outcome == "exited":
        return f"exited {finished.exit_code}"
    return f"{finished.outcome}: {finished.error_message}"


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
