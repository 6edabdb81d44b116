"""Working a plan off: each open item is a run of its own, several at a time, until none is open.

Promises, each with its test in ``tests/test_batch.py``:

* Nothing is kept but the journal and locks: killed at any moment and started again, it goes on where the
  journal stands. A run that goes on by itself meanwhile is waited for, not started again.
* Each run reserves its attempt, and is judged when it is over.
* A journal that cannot be reached for a while holds up what is yet to begin, and ends nothing.
* After Ctrl-C nothing new begins; the runs under way are told to end, and are recorded.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from agent_shim.errors import JournalUnreachable
from telemetry.filters import Filters
from telemetry.judging import judge, pending
from telemetry.outcomes import lines
from telemetry.planned import at_work, is_taken
from telemetry.plans import OPEN, Item, Plan, State, states
from telemetry.policies import Policy
from telemetry.reading import reading
from telemetry.settings import Settings

POLL_S = 0.05
_OTHERS_S = 0.5
"""How often to look for runs that an earlier start of the plan left under way."""
JOURNAL_S = 60.0
"""How long to go on asking a journal that does not answer, when none of our runs is under way."""
_END = (signal.SIGINT, signal.SIGTERM)


class Batch(NamedTuple):
    """What is to be worked off, and how."""

    plan: Plan
    command: Sequence[str]
    """With ``{item_id}``, ``{commit}``, ``{pre}`` and ``{repo}`` filled in per item."""
    workers: int
    max_attempts: int
    policy: str
    """As given: a name or a file."""
    excluded: Mapping[str, str]
    timeout_s: float | None = None
    cwd: str | None = None
    """Working folder of the runs, filled in per item."""


class Running(NamedTuple):
    """A run under way; they are kept by commit, because plans repeat names, and commits."""

    name: str
    process: subprocess.Popen[bytes]


class Stopped(Exception):
    """Ctrl-C, or SIGTERM."""


def work(
    batch: Batch, rule: Policy, settings: Settings, environ: Mapping[str, str], tell: Callable[[str], None]
) -> list[State]:
    """Work a plan off; the states of its items at the end.

    Raises `Stopped` after Ctrl-C, and `JournalUnreachable` when there is nothing to wait for.
    """
    running: dict[str, Running] = {}
    tried: dict[str, int] = {}
    with at_work(settings.home), _ending() as ended:
        found = current(batch, rule, settings, environ)
        while True:
            _start(batch, found, running, tried, settings, environ, tell)
            others = [one.item for one in found if one.item.commit not in running]
            elsewhere = [item for item in others if is_taken(lock_of(settings, batch, item))]
            if not running and not elsewhere:
                return found
            _wait(running, bool(elsewhere), ended, tell)
            ask = partial(current, batch, rule, settings, environ)
            found = _once_reached(ask, running, ended, tell) or found
            if ended():
                _stop(running, tell)
                raise Stopped


def current(batch: Batch, rule: Policy, settings: Settings, environ: Mapping[str, str]) -> list[State]:
    """The states of the items now, everything that is over judged."""
    with reading(settings, environ) as read:
        of_batch = Filters(batch=batch.plan.task_id)
        late = pending(read.engine, of_batch, rule)
        if late:
            judge(read, settings, environ, late, rule)
        found = lines(read.engine, rule, of_batch if batch.plan.task_id else None)
    return states(batch.plan, found, max_attempts=batch.max_attempts, excluded=batch.excluded)


def _start(
    batch: Batch,
    found: Sequence[State],
    running: dict[str, Running],
    tried: dict[str, int],
    settings: Settings,
    environ: Mapping[str, str],
    tell: Callable[[str], None],
) -> None:
    """Start what is open, as far as there are workers; an item that never begins is not started for ever."""
    for state in found:
        key, name = state.item.commit, state.item.item_id
        if len(running) >= batch.workers:
            return
        if state.state != OPEN or key in running or tried.get(key, 0) >= batch.max_attempts:
            continue
        lock = lock_of(settings, batch, state.item)
        if is_taken(lock):
            continue
        tried[key] = tried.get(key, 0) + 1
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "telemetry.planned", str(lock), *_command(batch, state.item)],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C of the terminal is ours to pass on
        )
        running[key] = Running(name, process)
        done = sum(one.state != OPEN for one in found)
        tell(f"{name}: attempt {state.attempts + 1} begins ({done} of {len(found)} items are settled)")


def _command(batch: Batch, item: Item) -> list[str]:
    """The command line of one run."""
    options = {
        "--commit": item.commit,
        "--repo": batch.plan.repository,
        "--task": item.item_id,
        "--batch": batch.plan.task_id,
        "--max-attempts": str(batch.max_attempts),
        "--policy": batch.policy,
        "--timeout": None if batch.timeout_s is None else str(batch.timeout_s),
        "--cwd": None if batch.cwd is None else _filled(batch.cwd, batch, item),
    }
    words = [word for name, value in options.items() if value for word in (name, value)]
    agent = [_filled(word, batch, item) for word in batch.command]
    return [sys.executable, "-I", "-m", "telemetry.cli", "run", *words, "--", *agent]


def _filled(word: str, batch: Batch, item: Item) -> str:
    values = {
        "item_id": item.item_id,
        "commit": item.commit,
        "pre": str(item.raw.get("pre") or ""),
        "repo": batch.plan.repository or "",
    }
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def lock_of(settings: Settings, batch: Batch, item: Item) -> Path:
    """The lock that a run of this item holds while it lasts."""
    name = "\n".join((batch.plan.repository or "", batch.plan.task_id or "", item.commit))
    return settings.home / "planned" / hashlib.sha256(name.encode()).hexdigest()[:32]


# --- waiting and ending ----------------------------------------------------------------------------


def _wait(
    running: dict[str, Running],
    elsewhere: bool,
    ended: Callable[[], bool],
    tell: Callable[[str], None],
) -> None:
    """Until a run is over, or it is time to look for those of others."""
    until = time.monotonic() + _OTHERS_S
    while not ended():
        over = [key for key, one in running.items() if one.process.poll() is not None]
        for name, process in map(running.pop, over):
            tell(f"{name}: exit {process.returncode}")
        if over or (elsewhere and not running and time.monotonic() > until):
            return
        time.sleep(POLL_S)


def _once_reached(
    ask: Callable[[], list[State]],
    running: Mapping[str, Running],
    ended: Callable[[], bool],
    tell: Callable[[str], None],
) -> list[State] | None:
    """What `ask` gives when the journal can be reached; ``None`` when the end is asked for before."""
    until, told = time.monotonic() + JOURNAL_S, False
    while not ended():
        try:
            return ask()
        except JournalUnreachable as error:
            if any(one.process.poll() is None for one in running.values()):
                until = time.monotonic() + JOURNAL_S
            elif time.monotonic() > until:
                raise
            if not told:
                tell(f"{error}; nothing begins until it answers, and what is under way goes on")
                told = True
            time.sleep(_OTHERS_S)
    return None


def _stop(running: Mapping[str, Running], tell: Callable[[str], None]) -> None:
    """Tell the runs to end, and see them end: each records how."""
    tell(f"stopping {len(running)} runs: they count as attempts; what has not begun stays open")
    for one in running.values():
        one.process.send_signal(signal.SIGTERM)
    for one in running.values():
        one.process.wait()


@contextmanager
def _ending() -> Iterator[Callable[[], bool]]:
    """Whether somebody asked for the end."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        asked.append(number)
        if len(asked) > 2:
            os._exit(128 + number)  # three times: at once, the runs go on by themselves

    before = {number: signal.signal(number, note) for number in _END}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
