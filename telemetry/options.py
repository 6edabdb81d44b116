"""What the commands have in common: errors told in words, options that many take, the journal opened.

Light: what only a command needs is imported when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, time, timedelta, tzinfo
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from agent_shim.errors import AgentTelemetryError, JournalError
from telemetry.settings import Settings

if TYPE_CHECKING:
    from telemetry.filters import Filters
    from telemetry.reading import Reading
    from telemetry.reports import Form

FINDINGS, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
OURS = 125
"""``run`` failed for a reason of ours, before there was an agent."""
STATUSES = (
    *("running", "interrupted", "finished", "exit-0", "failed", "not-captured", "incomplete"),
    *("exited", "signaled", "timeout", "cancelled", "oom-killed", "spawn-failed", "refused", "returned"),
    "raised",
)
"""As in `telemetry.filters`, which is too heavy to ask for help."""

WORDS_FOLLOW = {"allow_interspersed_args": False}
"""From the first word that is no option on, everything belongs to the agent's command."""

Command = TypeVar("Command", bound=Callable[..., Any])


class Failure(click.ClickException):
    """A foreseen error on its way to the user."""

    def __init__(self, error: AgentTelemetryError, exit_code: int) -> None:
        super().__init__(str(error))
        self.exit_code = exit_code  # type: ignore[misc]
        self.hint = error.hint

    def show(self, file: IO[Any] | None = None) -> None:
        """Message and way out, on stderr."""
        from telemetry.display import plain

        click.echo(f"agent-telemetry: {plain(self.message)}", file, err=True)
        if self.hint:
            click.echo(f"  {plain(self.hint)}", file, err=True)


class Commands(click.Group):
    """The commands; turns errors of ours into messages."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except AgentTelemetryError as error:
            code = UNREACHABLE if isinstance(error, JournalError) else USAGE
            raise Failure(error, code) from error
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


# --- what options mean ---------------------------------------------------------------------------


class Zone(click.ParamType):  # type: ignore[type-arg]
    """A time zone by its name; ``local`` is the machine's own."""

    name = "zone"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The zone, ``None`` for the machine's own."""
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        if not isinstance(value, str) or value == "local":
            return None if value == "local" else value
        try:
            return ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError):
            self.fail(f"{value!r} is no time zone, such as UTC or Europe/Berlin", param, ctx)


class Moment(click.ParamType):  # type: ignore[type-arg]
    """A day, or a time; without an offset it is in the zone of ``--tz``. A day ends where the next begins."""

    name = "when"

    def __init__(self, *, end: bool = False) -> None:
        self._end = end

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The time, with the offset it was given; `_at` gives it the zone of ``--tz`` where it has none."""
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is neither a day (2026-01-31) nor an ISO 8601 time", param, ctx)
        whole_day = len(value) <= len("2026-01-31") and found.time() == time.min
        return found + timedelta(days=1) if self._end and whole_day else found


def _at(moment: datetime | None, zone: tzinfo | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=zone) if zone else moment.astimezone()


def combined(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one, in their order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


journal_option = click.option(
    "--journal", metavar="PLACE", help="SQLite file or postgresql:// URL of the journal."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
tz_option = click.option(
    "--tz", type=Zone(), default="local", help="Time zone of times: UTC, Europe/Berlin, local."
)
reads = combined(journal_option, tz_option, json_option)
chooses = combined(
    click.option("--since", type=Moment(), help="Runs that started at or after this day or time."),
    click.option("--until", type=Moment(end=True), help="Runs that started before this, or by this day."),
    click.option("--commit", metavar="SHA", help="Runs of commits that begin like this."),
    click.option("--model", help="Runs, and of them calls, that this model answered; * stands for any text."),
    click.option("--status", type=click.Choice(STATUSES), multiple=True, metavar="STATUS",
                 help="Runs whose process ended like this: " + ", ".join(STATUSES) + ". May be given again."),
    click.option("--agent", help="Runs of this agent."),
    click.option("--task", help="Runs of this task."),
    click.option("--batch", help="Runs of this batch."),
)  # fmt: skip


def filters_of(since: Any, until: Any, tz: tzinfo | None, **others: Any) -> Filters:
    """What the options of `chooses` choose."""
    from telemetry.filters import Filters

    return Filters(since=_at(since, tz), until=_at(until, tz), **others)


def form_of(as_json: bool, tz: tzinfo | None) -> Form:
    """The form of an answer: a table for a terminal, lines for a pipe, JSON where it is asked for."""
    from telemetry.display import is_terminal
    from telemetry.reports import Form

    kind = "json" if as_json else "table" if is_terminal(sys.stdout) else "lines"
    return Form(sys.stdout, kind, tz)


@contextmanager
def open_reading(journal: str | None) -> Iterator[Reading]:
    """The journal of the settings, current and priced; what is not in it yet is said on stderr."""
    from telemetry.reading import exists, reading

    settings = Settings.load(os.environ, {"journal": journal})
    with reading(settings, os.environ) as read:
        if not exists(settings.journal):
            click.echo(f"agent-telemetry: there is no journal at {settings.journal} yet", err=True)
        yield read
        for run, why in read.missing.items():
            click.echo(f"agent-telemetry: run {run} is not all in the journal yet: {why}", err=True)
