"""Runs watched while they go on: a table that moves on a terminal, appended lines or JSON elsewhere.

Promises, each with its test in ``tests/test_watch.py``:

* What an agent's process wrote is shown at the next look: each look delivers first, as every reading
  command does, and prices what is new.
* It ends when nothing that it watches runs any more, and shows of each run how it ended.
* Away from a terminal a line is written when something has changed, and is never taken back.
* What was not seen is unknown, and what lacks something is a lower bound, as in every other answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol, TextIO

from telemetry import display, live
from telemetry.costs import price_pending
from telemetry.deliverer import deliver
from telemetry.display import Column, duration
from telemetry.live import Live
from telemetry.queries import run, short
from telemetry.reading import Reading
from telemetry.reports import cost_object, status
from telemetry.rows import at
from telemetry.settings import Settings
from telemetry.totals import Cost, Total

DELIVERY_S = 1.0
"""How long a look waits for events to arrive; what comes later is shown at the next one."""
UNSEEN = "nothing seen yet"


class Screen(Protocol):
    """Where runs are shown."""

    def show(self, going: Sequence[Live], over: Sequence[Live], now_ns: int) -> None:
        """The runs that go on, and those that have ended since the last time."""
        ...

    def close(self) -> None:
        """Leave what is there."""
        ...


def watch(
    read: Reading,
    settings: Settings,
    environ: Mapping[str, str],
    names: Sequence[str],
    screen: Screen,
    interval_s: float,
) -> list[Live]:
    """Show runs until none goes on; those that ended meanwhile, and of `names` those that had before.

    Without `names` every run that goes on, those too that begin meanwhile. Raises `NotFound` for a name
    that is none, and `JournalUnreachable`.
    """
    watched = [run(read.engine, name).run_id for name in names]
    ended: list[Live] = []
    try:
        while True:
            ids = watched if names else list(dict.fromkeys([*live.running(read.engine), *watched]))
            found = live.look(read.engine, ids)
            over = [one for one in found if one.run.state != "running"]
            going = [one for one in found if one.run.state == "running"]
            screen.show(going, over, time.time_ns())
            ended += over
            if not going:
                return ended
            watched = [one.run.run_id for one in going]
            time.sleep(interval_s)
            deliver(settings, environ, limit_s=DELIVERY_S)
            price_pending(read.engine, read.book)
    finally:
        screen.close()


def has_failed(one: Live) -> bool:
    """Whether the end of a run is one that no process gives that went well by its own account."""
    ended = one.run
    well = ended.outcome == "returned" or (ended.outcome == "exited" and ended.exit_code == 0)
    return ended.state != "finished" or not well


def screen_for(out: TextIO, kind: str) -> Screen:
    """The screen of a form of answers: ``table``, ``lines`` or ``json``."""
    return Table(out) if kind == "table" else Lines(out, as_json=kind == "json")


# --- values --------------------------------------------------------------------------------------


def is_seen(one: Live) -> bool:
    """Whether the calls of a run are known."""
    return one.run.capture == "captured"


def _unseen(one: Live) -> str:
    return str(one.run.capture_reason or UNSEEN)


def tokens(one: Live) -> Total:
    """Input and output so far."""
    if not is_seen(one):
        return Total(None, _unseen(one))
    parts = [one.total.tokens[name] for name in ("uncached", "cached", "output")]
    values = [part.value for part in (*parts, one.total.tokens["cache_write"]) if part.value is not None]
    reasons = dict.fromkeys(part.reason for part in parts if part.reason)
    return Total(sum(values) if values else None, "; ".join(reasons) or None)


def cost(one: Live) -> Cost:
    """The cost so far."""
    return one.total.cost if is_seen(one) else Cost({}, _unseen(one))


def _amounts(one: Live) -> str | None:
    found = cost(one)
    if not found.amounts:
        return None if found.reason else "0"
    return " + ".join(f"{amount:f} {currency}" for currency, amount in found.amounts.items())


def _age_s(stored: str | None, now_ns: int) -> float | None:
    if stored is None:
        return None
    return max(0.0, now_ns / 1e9 - datetime.fromisoformat(stored).timestamp())


def _last_event_s(one: Live, now_ns: int) -> float | None:
    return None if one.last_event_ns is None else max(0.0, (now_ns - one.last_event_ns) / 1e9)


def _phase(one: Live, now_ns: int) -> str:
    if one.run.state != "running":
        return status(one.run)
    since = _age_s(one.phase.since, now_ns)
    return one.phase.name if since is None else f"{one.phase.name} {duration(since)}"


def _commit(one: Live) -> str | None:
    return one.run.commit or one.run.commit_given


def columns(now_ns: int) -> list[Column[Live]]:
    """What is shown of a run."""

    def if_seen(value: Callable[[Live], int]) -> Callable[[Live], int | None]:
        return lambda one: value(one) if is_seen(one) else None

    return [
        Column("time", lambda one: at(now_ns)),
        Column("run_id", lambda one: one.run.run_id, "RUN", lambda one: short(one.run.run_id)),
        Column("agent", lambda one: one.run.agent, "AGENT", extra=4),
        Column("commit", _commit, "COMMIT", lambda one: (_commit(one) or display.UNKNOWN)[:8], extra=3),
        Column("state", lambda one: one.run.state),
        Column("status", lambda one: status(one.run)),
        Column("phase", lambda one: one.phase.name, "PHASE", lambda one: _phase(one, now_ns)),
        Column("phase_s", lambda one: _age_s(one.phase.since, now_ns)),
        Column(
            "last_event_s",
            lambda one: _last_event_s(one, now_ns),
            "LAST EVENT",
            lambda one: duration(_last_event_s(one, now_ns)),
            right=True,
            extra=5,
        ),
        Column("calls", if_seen(lambda one: one.run.calls), "CALLS", right=True, extra=1),
        Column(
            "tokens", lambda one: tokens(one).value, "TOKENS", lambda one: display.total(tokens(one)), True
        ),
        Column("tokens_reason", lambda one: tokens(one).reason),
        Column("cost", _amounts, "COST", lambda one: display.cost(cost(one)), right=True),
        Column("cost_reason", lambda one: cost(one).reason),
        Column("retries", if_seen(lambda one: one.retries), "RETRIES", right=True, extra=2),
        Column(
            "failed_requests", if_seen(lambda one: one.run.failed_requests), "FAILED", right=True, extra=2
        ),
    ]


# --- screens -------------------------------------------------------------------------------------


class Lines:
    """Appended lines: tab-separated under a line of names, or a JSON object each."""

    def __init__(self, out: TextIO, *, as_json: bool) -> None:
        self._out = out
        self._as_json = as_json
        self._shown: dict[str, Any] = {}
        if not as_json:
            display.write_lines(out, columns(0), ())

    def show(self, going: Sequence[Live], over: Sequence[Live], now_ns: int) -> None:
        for one in (*over, *going):
            state = (one.phase, one.run.state, one.run.calls, one.retries, one.run.failed_requests,
                     tokens(one), cost(one))  # fmt: skip
            if self._shown.get(one.run.run_id) != state:
                self._shown[one.run.run_id] = state
                self._write(one, now_ns)
        self._out.flush()

    def _write(self, one: Live, now_ns: int) -> None:
        if self._as_json:
            told = {column.name: column.raw(one) for column in columns(now_ns)}
            self._out.write(json.dumps(told | cost_object(cost(one))) + "\n")
        else:
            display.append_lines(self._out, columns(now_ns), [one])

    def close(self) -> None:
        self._out.flush()


class Table:
    """A table that is drawn again at each look; a run that has ended leaves a line above it."""

    def __init__(self, out: TextIO) -> None:
        from rich.live import Live as Drawn

        self._console = display.console_on(out)
        self._drawn = Drawn(console=self._console, auto_refresh=False)
        self._drawn.start()

    def show(self, going: Sequence[Live], over: Sequence[Live], now_ns: int) -> None:
        from rich.text import Text

        for one in over:
            self._console.print(Text(_last_words(one)), soft_wrap=True)
        table = display.table_of(self._console.width, columns(now_ns), going) if going else ""
        self._drawn.update(table, refresh=True)

    def close(self) -> None:
        self._drawn.stop()


def _last_words(one: Live) -> str:
    words = [short(one.run.run_id), one.run.agent or "", (_commit(one) or "")[:8], status(one.run)]
    used = f"{display.total(tokens(one))} tokens, {display.cost(cost(one))}, {duration(one.run.duration_s)}"
    return display.plain(f"{' '.join(word for word in words if word)}: {used}")
