"""The command line: ``agent-telemetry``.

Promises, each with its test in ``tests/test_cli.py``:

* ``-h`` costs at most 150 ms of CPU: what a command needs is imported inside it. ``run`` imports nothing
  before the agent starts but click and the standard library.
* Output goes to a terminal as tables, into a pipe as tab-separated lines under a line of names, with
  ``--json`` as JSON. What is said besides the answer goes to stderr.
* Exit codes: 0 done, 1 findings, 2 usage, 3 the journal cannot be reached, 130 interrupted; ``run`` gives
  the agent's own. A foreseen error is a message and the way out, never a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from agent_shim.errors import AgentTelemetryError, JournalError
from telemetry.settings import VERSION, Settings, without_password

if TYPE_CHECKING:
    from telemetry.filters import Filters
    from telemetry.reading import Reading
    from telemetry.reports import Form

FINDINGS, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
OURS = 125
"""``run`` failed for a reason of ours, before there was an agent."""
STATUSES = (
    *("running", "interrupted", "finished", "exit-0", "failed", "not-captured", "incomplete"),
    *("exited", "signaled", "timeout", "cancelled", "oom-killed", "spawn-failed", "returned", "raised"),
)
"""As in `telemetry.filters`, which is too heavy to ask for help."""

_WORDS_FOLLOW = {"allow_interspersed_args": False}
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


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_journal_option = click.option(
    "--journal", metavar="PLACE", help="SQLite file or postgresql:// URL of the journal."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
_tz_option = click.option(
    "--tz", type=Zone(), default="local", help="Time zone of times: UTC, Europe/Berlin, local."
)
_reads = _options(_journal_option, _tz_option, _json_option)
_chooses = _options(
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


def _filters(since: Any, until: Any, tz: tzinfo | None, **others: Any) -> Filters:
    from telemetry.filters import Filters

    return Filters(since=_at(since, tz), until=_at(until, tz), **others)


def _form(as_json: bool, tz: tzinfo | None) -> Form:
    from telemetry.display import is_terminal
    from telemetry.reports import Form

    kind = "json" if as_json else "table" if is_terminal(sys.stdout) else "lines"
    return Form(sys.stdout, kind, tz)


@contextmanager
def _reading(journal: str | None) -> Iterator[Reading]:
    from telemetry.reading import reading

    settings = Settings.load(os.environ, {"journal": journal})
    with reading(settings, os.environ) as read:
        yield read
        for run, why in read.missing.items():
            click.echo(f"agent-telemetry: run {run} is not all in the journal yet: {why}", err=True)


# --- commands ------------------------------------------------------------------------------------


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION)
def main() -> None:
    """A flight recorder for coding-agent runs: what happened, and what it cost."""


@main.command(context_settings=_WORDS_FOLLOW)
@click.option("--commit", metavar="SHA", help="The commit that the run works on.")
@click.option("--repo", help="The repository of the commit.")
@click.option("--task", help="The pipeline's own name of the task.")
@click.option("--batch", help="The pipeline's own name of the batch.")
@click.option(
    "--tag", "tags", metavar="NAME=VALUE", multiple=True, help="A note on the run. May be given again."
)
@click.option("--attempt", type=click.IntRange(min=1), help="Which try at the commit this is.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="End the agent after this time.",
)
@click.option(
    "--cwd", metavar="FOLDER", type=click.Path(exists=True, file_okay=False), help="Where the agent works."
)
@_journal_option
@click.option(
    "--content/--no-content", default=None, help="Keep prompts, answers and tool calls, secrets removed."
)
@click.option("--tails/--no-tails", default=None, help="Keep the end of stdout and stderr.")
@click.argument(
    "command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]..."
)
def run(
    command: tuple[str, ...],
    tags: tuple[str, ...],
    attempt: int | None,
    timeout: float | None,
    cwd: str | None,
    **flags: Any,
) -> NoReturn:
    """Run an agent and record it. Gives the agent's own exit code."""
    from telemetry import wrapper

    try:
        settings = Settings.load(os.environ, flags)
    except AgentTelemetryError as error:
        raise Failure(error, OURS) from error
    request = wrapper.RunRequest(
        command=command,
        settings=settings,
        environ=os.environ,
        cwd=str(Path(cwd).absolute()) if cwd else None,
        timeout_s=timeout,
        tags=_tags(tags),
        attempt=attempt,
    )
    sys.exit(wrapper.run(request))


def _tags(tags: tuple[str, ...]) -> dict[str, str] | None:
    pairs = [tag.partition("=") for tag in tags]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise click.BadParameter("write NAME=VALUE", param_hint="--tag")
    return {name: value for name, _, value in pairs} or None


@main.command()
@_chooses
@click.option("--limit", type=click.IntRange(min=1), help="At most so many runs; 30 on a terminal.")
@_reads
def runs(limit: int | None, journal: str | None, tz: tzinfo | None, as_json: bool, **chosen: Any) -> None:
    """List runs, the latest first."""
    from telemetry import queries, reports

    form = _form(as_json, tz)
    most = limit or (30 if form.kind == "table" else None)
    with _reading(journal) as read:
        found = queries.runs(read.engine, _filters(tz=tz, **chosen), most + 1 if most else None)
    reports.runs(found[:most], form, more=len(found) > len(found[:most]), filtered=any(chosen.values()))


@main.command()
@click.argument("run", default="@last")
@_reads
def show(run: str, journal: str | None, tz: tzinfo | None, as_json: bool) -> None:
    """Show one run: RUN is its short id, the beginning of its id, or @last."""
    from telemetry import queries, timeline

    with _reading(journal) as read:
        found = queries.timeline(read.engine, queries.run(read.engine, run), read.book)
    timeline.show(found, _form(as_json, tz))


@main.command()
@click.option(
    "--by",
    type=click.Choice(["commit", "model", "run", "day"]),
    default="commit",
    show_default=True,
    help="What a line is about; days are those of UTC.",
)
@_chooses
@click.option("--limit", type=click.IntRange(min=1), help="At most so many lines; totals are of all.")
@_reads
def cost(
    by: str, limit: int | None, journal: str | None, tz: tzinfo | None, as_json: bool, **chosen: Any
) -> None:  # fmt: skip
    """Show tokens, cost and time, and how much of them is known."""
    from telemetry import queries, reports

    with _reading(journal) as read:
        filters = _filters(tz=tz, **chosen)
        report = queries.cost(read.engine, read.book, by, filters, limit)
    reports.cost(report, _form(as_json, tz), filtered=any(chosen.values()))


@main.command(context_settings=_WORDS_FOLLOW)
@_journal_option
@_json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND [ARGUMENT]...]")
def doctor(journal: str | None, as_json: bool, command: tuple[str, ...]) -> None:
    """Check that recording works here, and what would be seen of COMMAND. Exits with 1 when a check fails."""
    from telemetry import doctor as checks

    settings = Settings.load(os.environ, {"journal": journal})
    found = checks.examine(settings, os.environ, command)
    checks.report(found, _form(as_json, None))
    sys.exit(FINDINGS if any(check.state == "fail" for check in found) else 0)


@main.command()
@_journal_option
def rebuild(journal: str | None) -> None:
    """Make the journal's tables again from its events, and price all calls anew."""
    from telemetry.costs import forget, price_pending

    with _reading(journal) as read:
        read.journal.rebuild()
        forget(read.journal.engine)
        priced = price_pending(read.journal.engine, read.book)
    click.echo(f"Rebuilt; {priced} run{'' if priced == 1 else 's'} priced with {read.book.name}.", err=True)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=4319, show_default=True, help="Port to listen on."
)
@_journal_option
def sink(host: str, port: int, journal: str | None) -> None:
    """Take events from an OpenTelemetry Collector into the journal, until stopped."""
    from telemetry import sink as server

    settings = Settings.load(os.environ, {"journal": journal})
    click.echo(
        f"agent-telemetry: sink on http://{host}:{port}, journal {without_password(settings.journal)}",
        err=True,
    )
    server.serve(settings.journal, host, port)


if __name__ == "__main__":
    main(prog_name="agent-telemetry")
