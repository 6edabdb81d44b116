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
from collections.abc import Mapping
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from agent_shim.errors import AgentTelemetryError
from telemetry import delivery_commands, judge_commands
from telemetry.judge_commands import K, policy_option
from telemetry.options import (
    FINDINGS,
    OURS,
    WORDS_FOLLOW,
    Commands,
    Failure,
    chooses,
    filters_of,
    form_of,
    journal_option,
    json_option,
    open_reading,
    reads,
)
from telemetry.settings import VERSION, Settings, without_password

if TYPE_CHECKING:
    from agent_shim.events import ClaimMade

STACK_ENDPOINT, STACK_JAEGER = "http://127.0.0.1:4318", "http://127.0.0.1:16686"
"""Of ``make stack`` and of ``docker-compose.yml``."""

# --- commands ------------------------------------------------------------------------------------


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION)
def main() -> None:
    """A flight recorder for coding-agent runs: what happened, and what it cost."""


@main.command(context_settings=WORDS_FOLLOW)
@click.option("--commit", metavar="SHA", help="The commit that the run works on.")
@click.option("--repo", help="The repository of the commit.")
@click.option("--task", help="The pipeline's own name of the task.")
@click.option("--batch", help="The pipeline's own name of the batch.")
@click.option(
    "--tag", "tags", metavar="NAME=VALUE", multiple=True, help="A note on the run. May be given again."
)
@click.option("--attempt", type=click.IntRange(min=1), help="Which try at the commit this is.")
@click.option(
    "--max-attempts",
    type=click.IntRange(min=1),
    help="Number the attempt in the journal; refuse (75) one beyond this, or at a solved commit.",
)
@click.option("--again", is_flag=True, help="With --max-attempts: try a solved commit again.")
@policy_option
@click.option(
    "--claim", "claims", metavar="NAME=VALUE", multiple=True,
    help="Assert a parameter of the requests; judge checks it. May be given again.",
)  # fmt: skip
@click.option(
    "--claims",
    "claims_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Such assertions, one NAME=VALUE a line.",
)
@click.option("--strict-claims", is_flag=True, help="End the run at the first request that refutes a claim.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="End the agent after this time.",
)
@click.option(
    "--exit-status", type=click.Choice(["agent", "verdict"]), default="agent", show_default=True,
    help="Whose exit code to give. By the verdict of --policy: 0 pass, 1 fail, 3 unknown.",
)  # fmt: skip
@click.option("--cwd", metavar="FOLDER", help="Where the agent works.")
@click.option(
    "--pipeline-files", metavar="FOLDER", type=click.Path(exists=True, file_okay=False),
    help="Write journal.json, attempt.json and model_patch.diff there, for the scripts of a pipeline.",
)  # fmt: skip
@journal_option
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
    max_attempts: int | None,
    again: bool,
    policy: str,
    claims: tuple[str, ...],
    claims_file: str | None,
    strict_claims: bool,
    timeout: float | None,
    cwd: str | None,
    pipeline_files: str | None,
    exit_status: str,
    **flags: Any,
) -> NoReturn:
    """Run an agent and record it. Gives the agent's own exit code, or that of its verdict."""
    from telemetry import wrapper

    try:
        settings = Settings.load(os.environ, flags)
        _known(policy, settings)
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
        claims=_claims(claims, claims_file),
        strict_claims=strict_claims,
        admit=_admission(settings, max_attempts, None if again else policy),
        pipeline_files=str(Path(pipeline_files).absolute()) if pipeline_files else None,
        exit_by_policy=policy if exit_status == "verdict" else None,
    )
    sys.exit(wrapper.run(request))


def _known(policy: str, settings: Settings) -> None:
    """Raise `SettingsError` for a policy that there is not, before an agent has cost anything.

    That of a journal behind a sink is the sink's to know.
    """
    if policy == "default":
        return  # and nothing more is loaded, as for most runs
    from telemetry.policies import named
    from telemetry.settings import is_remote

    if not is_remote(settings.journal):
        named(settings.home, policy)


def _admission(settings: Settings, limit: int | None, policy: str | None) -> Any:
    """Says whether a run may start; ``None`` where nothing limits it."""
    if limit is None:
        return None
    from telemetry.admission import admit

    return lambda run_id, known: admit(settings, os.environ, run_id, known, limit, policy)


def _claims(given: tuple[str, ...], file: str | None) -> tuple[ClaimMade, ...]:
    if not given and file is None:
        return ()
    from agent_shim.events import ClaimMade
    from telemetry.claims import parse_all, written

    lines = written(Path(file)) if file else []
    parse_all([*lines, *given])
    made = [ClaimMade(*pair, source="file", place=file) for pair in parse_all(lines).items()]
    return (*made, *(ClaimMade(*pair, source="option") for pair in parse_all(given).items()))


def _tags(tags: tuple[str, ...]) -> dict[str, str] | None:
    pairs = [tag.partition("=") for tag in tags]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise click.BadParameter("write NAME=VALUE", param_hint="--tag")
    return {name: value for name, _, value in pairs} or None


@main.command()
@chooses
@click.option("--limit", type=click.IntRange(min=1), help="At most so many runs; 30 on a terminal.")
@policy_option
@reads
def runs(
    limit: int | None, policy: str, journal: str | None, tz: tzinfo | None, as_json: bool, **chosen: Any
) -> None:
    """List runs, the latest first.

    CLAIMED (claimed) is what a run says of itself: how its process ended (status), and what the agent wrote
    (claimed_success). VERIFIED (verdict) is the latest verdict of a policy. Below are pass@1, pass@k and n
    of the commits of all runs that fit, under --policy; away from a terminal on stderr, and in JSON not at
    all: retries has them.
    """
    from telemetry import outcomes, policies, queries, reports, verdicts

    rule = policies.named(Settings.load(os.environ, {"journal": journal}).home, policy)
    form, filters = form_of(as_json, tz), filters_of(tz=tz, **chosen)
    most = limit or (30 if form.kind == "table" else None)
    with open_reading(journal) as read:
        found = queries.runs(read.engine, filters, most + 1 if most else None)
        tried = [] if as_json else outcomes.lines(read.engine, rule, filters)
    reports.runs(found[:most], form, more=len(found) > len(found[:most]), filtered=any(chosen.values()))
    verdicts.passing(tried, [outcomes.rate(tried, n) for n in (1, K)], rule, form, sys.stderr)


@main.command()
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=0.5,
    show_default=True,
    help="Time between two looks.",
)
@click.option("--exit-status", is_flag=True, help="Exit with 1 when a run that was watched has failed.")
@journal_option
@click.option("--json", "as_json", is_flag=True, help="A JSON object per line, whenever something changes.")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
def watch(
    runs: tuple[str, ...], interval: float, exit_status: bool, journal: str | None, as_json: bool
) -> None:
    """Watch runs while they go on: what each is doing, its tokens and cost so far.

    RUN is as for show; without it every run is watched, those too that begin meanwhile: the first one is
    waited for. Ends when none of them goes on, and no plan is being worked off. A cost or number of tokens
    with a ≥ before it lacks something.
    """
    from telemetry.watch import Watch, has_failed, screen_for

    settings = Settings.load(os.environ, {"journal": journal})
    watching = Watch(settings, os.environ, runs)
    watching.wait(interval, lambda line: click.echo(line, err=True))
    with open_reading(journal) as read:
        watching.run(read, lambda: screen_for(sys.stdout, form_of(as_json, None).kind), interval)
    sys.exit(FINDINGS if exit_status and any(has_failed(one) for one in watching.ended) else 0)


@main.command()
@click.argument("run", default="@last")
@click.option(
    "--claims", is_flag=True, help="Only what was claimed or configured, and what was sent and seen."
)
@reads
def show(run: str, claims: bool, journal: str | None, tz: tzinfo | None, as_json: bool) -> None:
    """Show one run: RUN is its short id, the beginning of its id, or @last."""
    from telemetry import findings, queries, timeline

    jaeger = Settings.load(os.environ, {"journal": journal}).jaeger
    with open_reading(journal) as read:
        found = queries.timeline(read.engine, queries.run(read.engine, run), read.book)
    if claims:
        findings.show_claims(found, timeline.parameters(found), form_of(as_json, tz))
    else:
        timeline.show(found, form_of(as_json, tz), jaeger)


@main.command()
@click.option(
    "--by",
    type=click.Choice(["commit", "model", "run", "day"]),
    default="commit",
    show_default=True,
    help="What a line is about; days are those of UTC.",
)
@chooses
@click.option("--limit", type=click.IntRange(min=1), help="At most so many lines; totals are of all.")
@reads
def cost(
    by: str, limit: int | None, journal: str | None, tz: tzinfo | None, as_json: bool, **chosen: Any
) -> None:  # fmt: skip
    """Show tokens, cost and time, and how much of them is known.

    CALLS are those that can have used tokens: one that the API refused is among the calls of runs and show,
    and not here. RUNS are all that fit, those too whose attempt was refused before it started.
    """
    from telemetry import queries, reports

    with open_reading(journal) as read:
        filters = filters_of(tz=tz, **chosen)
        report = queries.cost(read.engine, read.book, by, filters, limit)
    reports.cost(report, form_of(as_json, tz), filtered=any(chosen.values()))


@main.command(context_settings=WORDS_FOLLOW)
@journal_option
@json_option
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND [ARGUMENT]...]")
def doctor(journal: str | None, as_json: bool, command: tuple[str, ...]) -> None:
    """Check that recording works here, and what would be seen of COMMAND. Exits with 1 when a check fails."""
    from telemetry import doctor as checks

    settings = Settings.load(os.environ, {"journal": journal})
    found = checks.examine(settings, os.environ, command)
    checks.report(found, form_of(as_json, None))
    sys.exit(FINDINGS if any(check.state == "fail" for check in found) else 0)


@main.command()
@journal_option
def rebuild(journal: str | None) -> None:
    """Make the journal's tables again from its events, and price all calls anew."""
    from telemetry.costs import forget, price_pending

    with open_reading(journal) as read:
        read.journal.rebuild()
        forget(read.journal.engine)
        priced = price_pending(read.journal.engine, read.book)
    click.echo(f"Rebuilt; {priced} run{'' if priced == 1 else 's'} priced with {read.book.name}.", err=True)


@main.command()
@click.option("--endpoint", metavar="URL", help="Where the collector listens.  [default: the stack's]")
@click.option("--jaeger", metavar="URL", help="Where Jaeger's page is.  [default: the stack's]")
@journal_option
def env(endpoint: str | None, jaeger: str | None, journal: str | None) -> None:
    """Print what sends this shell's runs to the stack: eval "$(agent-telemetry env)"."""
    import shlex

    flags = {"journal": journal, "otlp_endpoint": endpoint, "jaeger": jaeger}
    settings = Settings.load(os.environ, flags)
    for variable, value in (
        ("AGENT_TELEMETRY_HOME", str(settings.home)),
        ("AGENT_TELEMETRY_JOURNAL", settings.journal),
        ("AGENT_TELEMETRY_JAEGER", settings.jaeger or STACK_JAEGER),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", settings.otlp_endpoint or STACK_ENDPOINT),
    ):
        click.echo(f"export {variable}={shlex.quote(value)}")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=4319, show_default=True, help="Port to listen on."
)
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535), default=4320, show_default=True, help="Port for OTLP/gRPC."
)
@journal_option
def sink(host: str, port: int, grpc_port: int, journal: str | None) -> None:
    """Take events from an OpenTelemetry Collector into the journal, until stopped."""
    from telemetry import sink as server

    settings = Settings.load(os.environ, {"journal": journal})
    click.echo(
        f"agent-telemetry: sink on http://{host}:{port}, gRPC on port {grpc_port},"
        f" journal {without_password(settings.journal)}",
        err=True,
    )
    server.serve(settings.journal, host, port, grpc_port, admit=_decision(settings))


def _decision(settings: Settings) -> Any:
    """Answers runs that ask a sink for an attempt. What judges is loaded when one asks with a limit."""

    def decide(journal: Any, asked: Mapping[str, object]) -> Mapping[str, object]:
        from telemetry import admission, intake

        limited = asked.get("limit") is not None
        return admission.decide(journal, settings.home, asked) if limited else intake.numbered(journal, asked)

    return decide


for command in (*judge_commands.COMMANDS, *delivery_commands.COMMANDS):
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="agent-telemetry")
