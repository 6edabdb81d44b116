"""Runs watched while they go on: a table that moves on a terminal, appended lines or JSON elsewhere.

Promises, each with its test in ``tests/test_watch.py``:

* What an agent's process wrote is shown at the next look: each look delivers first, as every reading
  command does, and prices what is new.
* It waits for the first run; then it ends when nothing runs any more and no plan is being worked off, and
  shows of each run how it ended by its own account, and the verdict where it is judged by then, also of
  one that was over before it could be looked at.
* Away from a terminal a line is written when something has changed, and is never taken back.
* What was not seen is unknown, and what lacks something is a lower bound, as in every other answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol, TextIO

from telemetry import display, live
from telemetry.costs import price_pending
from telemetry.deliverer import deliver
from telemetry.display import Column, duration
from telemetry.journal import Journal
from telemetry.live import Live
from telemetry.outcomes import summed
from telemetry.planned import is_at_work
from telemetry.queries import run, short
from telemetry.reading import Reading, exists
from telemetry.reports import claimed, cost_object, status, verified
from telemetry.rows import at
from telemetry.settings import Settings
from telemetry.totals import Cost, Total

DELIVERY_S = 1.0
"""How long a look waits for events to arrive; what comes later is shown at the next one."""
SETTLE_S = 2.0
"""How long nothing must have run before a watch ends: longer than a loop needs from one run to the next."""
FRAME = 3
"""Lines of a terminal beside those of runs: the titles, the sum, the cursor."""
REASON = 100
"""Characters of a failure's message that are shown."""
UNSEEN = "nothing seen yet"


class Screen(Protocol):
    """Where runs are shown."""

    def show(self, going: Sequence[Live], over: Sequence[Live], now_ns: int) -> None:
        """The runs that go on, and those that have ended since the last time."""
        ...

    def close(self) -> None:
        """Leave what is there."""
        ...


class Watch:
    """Looks again and again. Without `names` at every run that goes on, and at those that begin meanwhile."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], names: Sequence[str]) -> None:
        self._settings = settings
        self._environ = environ
        self._names = names
        self._began = datetime.now(UTC)
        self._quiet_at = time.monotonic()
        self._going: set[str] = set()
        self._told: set[str] = set()
        self.ended: list[Live] = []
        """The runs that ended meanwhile, and of those that were named all that are over."""

    def wait(self, interval_s: float, say: Callable[[str], None]) -> None:
        """Until there is a run to look at; said once when there is none yet."""
        if self._names or self._is_any():
            return
        say("Nothing is running; waiting for a run to begin. Ctrl-C ends this.")
        while not self._is_any():
            time.sleep(interval_s)
            deliver(self._settings, self._environ, limit_s=DELIVERY_S)

    def _is_any(self) -> bool:
        if not exists(self._settings.journal):
            return False
        with Journal.open(self._settings.journal) as journal:
            return bool(live.current(journal.engine, self._began))

    def run(self, read: Reading, on: Callable[[], Screen], interval_s: float) -> None:
        """Show runs until none goes on and none is to come. The screen is made once every name is known.

        Raises `NotFound` for a name that is none, and `JournalUnreachable`.
        """
        named = [run(read.engine, name).run_id for name in self._names]
        screen = on()
        try:
            while True:
                going, over = self._look(read, named)
                screen.show(going, over, time.time_ns())
                if not going and self._is_over():
                    return
                time.sleep(interval_s)
                deliver(self._settings, self._environ, limit_s=DELIVERY_S)
                price_pending(read.engine, read.book)
        finally:
            screen.close()

    def _look(self, read: Reading, named: Sequence[str]) -> tuple[list[Live], list[Live]]:
        """The runs that go on, and those that have ended since the last look."""
        ids = named or self._going | set(live.current(read.engine, self._began))
        found = live.look(read.engine, [name for name in ids if name not in self._told])
        going = [one for one in found if one.run.state == "running"]
        over = [one for one in found if one.run.state != "running"]
        self._going = {one.run.run_id for one in going}
        self._told.update(one.run.run_id for one in over)
        self.ended += over
        if going or over:
            self._quiet_at = time.monotonic() + SETTLE_S
        return going, over

    def _is_over(self) -> bool:
        """Whether no run is to be waited for: between two of a plan or of a loop there is a pause."""
        if self._names:
            return True
        return time.monotonic() >= self._quiet_at and not is_at_work(self._settings.home)


def has_failed(one: Live) -> bool:
    """Whether the end of a run is one that no process gives that went well by its own account."""
    ended = one.run
    well = ended.outcome == "returned" or (ended.outcome == "exited" and ended.exit_code == 0)
    return bool(ended.state != "finished" or not well)


def screen_for(out: TextIO, kind: str) -> Screen:
    """The screen of a form of answers: ``table``, ``lines`` or ``json``."""
    return Table(out) if kind == "table" else Lines(out, as_json=kind == "json")


# --- values --------------------------------------------------------------------------------------


def is_seen(one: Live) -> bool:
    """Whether the calls of a run are known."""
    return bool(one.run.capture == "captured")


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
    return " + ".join(f"{Decimal(repr(amount)):f} {currency}" for currency, amount in found.amounts.items())


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
    name: str | None = one.run.commit or one.run.commit_given
    return name


def columns(now_ns: int, *, tasks: bool = True) -> list[Column[Live]]:
    """What is shown of a run; on a terminal its task only with `tasks`."""

    def if_seen(value: Callable[[Live], int]) -> Callable[[Live], int | None]:
        return lambda one: value(one) if is_seen(one) else None

    return [
        Column("time", lambda _: at(now_ns)),
        Column("run_id", lambda one: one.run.run_id, "RUN", lambda one: short(one.run.run_id)),
        Column("task", lambda one: one.run.task, "TASK" if tasks else "", extra=6),
        Column("agent", lambda one: one.run.agent, "AGENT", extra=4),
        Column("commit", _commit, "COMMIT", lambda one: (_commit(one) or display.UNKNOWN)[:8], extra=3),
        Column("state", lambda one: one.run.state),
        Column("status", lambda one: status(one.run)),
        Column("claimed", lambda one: claimed(one.run)),
        Column("claimed_success", lambda one: one.run.claimed_success),
        Column("verdict", lambda one: one.run.verdict),
        Column("verdict_policy", lambda one: one.run.verdict_policy),
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
        self._over: list[Live] = []
        self._drawn = Drawn(console=self._console, auto_refresh=False)
        self._drawn.start()
        self._console.show_cursor(True)  # whoever stops or kills us is left with a whole terminal

    def show(self, going: Sequence[Live], over: Sequence[Live], now_ns: int) -> None:
        from rich.console import Group
        from rich.text import Text

        for one in over:
            self._console.print(Text(_last_words(one)), soft_wrap=True)
        self._over += over
        shown = columns(now_ns, tasks=any(one.run.task for one in going))
        seen = going[: max(1, self._console.height - FRAME)]
        table = [display.table_of(self._console.width, shown, seen)] if going else []
        self._drawn.update(Group(*table, Text(_summary(going, self._over), "bold")), refresh=True)

    def close(self) -> None:
        self._drawn.stop()


def _last_words(one: Live) -> str:
    words = [short(one.run.run_id), one.run.task, one.run.agent, (_commit(one) or "")[:8]]
    said = f"{claimed(one.run)} · verified: {verified(one.run)}"
    used = f"{display.total(tokens(one))} tokens, {display.cost(cost(one))}, {duration(one.run.duration_s)}"
    why = f"; {display.cut(one.run.error_message or 'unknown', REASON)}" if has_failed(one) else ""
    return display.plain(f"{' '.join(word for word in words if word)}: {said}; {used}{why}")


def _summary(going: Sequence[Live], over: Sequence[Live]) -> str:
    failed = sum(map(has_failed, over))
    told = f"{len(going)} running, {len(over)} ended" + (f", {failed} of them failed" if failed else "")
    return f"{told}; {display.cost(summed(cost(one) for one in (*over, *going)))} so far"
