"""The commands that judge: ``judge``, ``result``, ``retries``, ``errors``, ``plan``, ``run-plan``.

Light: what a command needs is imported when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from telemetry.options import (
    FINDINGS,
    INTERRUPTED,
    WORDS_FOLLOW,
    chooses,
    filters_of,
    form_of,
    journal_option,
    json_option,
    open_reading,
    reads,
)
from telemetry.settings import Settings

if TYPE_CHECKING:
    from telemetry.plans import Plan

policy_option = click.option(
    "--policy", default="default", show_default=True, metavar="NAME",
    help="The policy: default, strict, lenient, one of config.toml, or a TOML file.",
)  # fmt: skip
K = 3
"""Of pass@k, where none is asked for."""
_plan_options = (
    click.option("--from", "source", required=True, type=click.Path(exists=True, dir_okay=False),
                 metavar="PLAN", help="The plan file of the pipeline."),
    click.option("--exclude", multiple=True, metavar="ITEM=REASON",
                 help="An item or a commit that is left out, and why. May be given again."),
)  # fmt: skip


def _settings(journal: str | None) -> Settings:
    return Settings.load(os.environ, {"journal": journal})


@click.command()
@click.argument("run", required=False)
@click.option(
    "--all", "everything", is_flag=True, help="Every run that fits and is not judged by the policy."
)
@policy_option
@click.option(
    "--verify",
    metavar="COMMAND",
    help="Run this, such as tests, in a clean checkout with the patch; 0 passes. No shell: sh -c '…' is one.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Exit with 1 unless every verdict is pass; with --all, the earlier ones too.",
)
@chooses
@reads
def judge(
    run: str | None, everything: bool, policy: str, verify: str | None, check: bool,
    journal: str | None, tz: tzinfo | None, as_json: bool, **chosen: Any,
) -> None:  # fmt: skip
    """Judge RUN (by default @last) by what was recorded of it, under a policy. Runs nothing again."""
    from telemetry import judging, policies, queries, verdicts

    if everything and run:
        raise click.UsageError("RUN is one run, and --all is every one: leave one of them out")
    if not everything and any(chosen.values()):
        raise click.UsageError("options that choose runs go with --all")
    settings = _settings(journal)
    rule = policies.named(settings.home, policy)
    with open_reading(journal) as read:
        those = filters_of(tz=tz, **chosen)
        if everything:
            found = judging.pending(read.engine, those, rule)
        else:
            found = [queries.run(read.engine, run or "@last")]
        if verify:
            results = {one.run_id: [judging.verification(read, one, verify, os.environ)] for one in found}
            judging.write(settings, os.environ, results)
        judged = judging.judge(read, settings, os.environ, found, rule)
        if everything and check:
            passed = judging.all_pass(read.engine, those, rule)
        else:
            passed = all(one.verdict.verdict == "pass" for one in judged)
    verdicts.judged(judged, rule, form_of(as_json, tz), whole=not everything)
    sys.exit(FINDINGS if check and not passed else 0)


@click.command()
@click.argument("run")
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--source", required=True, help="Who measured it, or how.")
@click.option("--unit", help="Of the values.")
@journal_option
def result(
    run: str, values: tuple[str, ...], source: str, unit: str | None, journal: str | None
) -> None:  # fmt: skip
    """Attach measured results to RUN, such as speedup=1.31: facts for checks and comparisons."""
    from agent_shim.events import ResultAttached
    from telemetry import judging, queries

    pairs = [_number(value) for value in values]
    if len(dict(pairs)) < len(pairs):
        raise click.UsageError("one name has two values: only the last would count")
    with open_reading(journal) as read:
        found = queries.run(read.engine, run)
    events = [ResultAttached(name=name, value=value, source=source, unit=unit) for name, value in pairs]
    judging.write(_settings(journal), os.environ, {found.run_id: events})


def _number(text: str) -> tuple[str, float]:
    from math import isfinite

    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not name or not isfinite(number):
        raise click.BadParameter("write NAME=NUMBER", param_hint="NAME=VALUE")
    return name, number


@click.command()
@policy_option
@click.option(
    "--over", type=click.IntRange(min=0), default=0, help="Only commits with more attempts than this."
)
@click.option("-k", "k", type=click.IntRange(min=1), default=K, show_default=True, help="For pass@k.")
@click.option(
    "--result", "name", metavar="NAME", help="Show what result attached under this name, per attempt."
)
@chooses
@reads
def retries(
    policy: str, over: int, k: int, name: str | None,
    journal: str | None, tz: tzinfo | None, as_json: bool, **chosen: Any,
) -> None:  # fmt: skip
    """Show the attempts at each commit: what came of them, what they cost, how much bought nothing."""
    from telemetry import outcomes, policies, verdicts

    rule = policies.named(_settings(journal).home, policy)
    with open_reading(journal) as read:
        found = outcomes.lines(read.engine, rule, filters_of(tz=tz, **chosen))
        measured = outcomes.measured(read.engine, name) if name else None
    shown = [line for line in found if len(line.attempts) > over]
    rates = [outcomes.rate(found, n) for n in dict.fromkeys((1, k))]
    verdicts.retries(shown, rates, rule, form_of(as_json, tz), measured)


@click.command()
@policy_option
@click.option(
    "--examples", type=click.IntRange(min=0), default=1, show_default=True, help="Runs to name per kind."
)
@chooses
@reads
def errors(
    policy: str, examples: int, journal: str | None, tz: tzinfo | None, as_json: bool, **chosen: Any
) -> None:
    """Show what went wrong, by kind: errors, and why runs failed by the policy."""
    from telemetry import fingerprints, policies, verdicts

    rule = policies.named(_settings(journal).home, policy)
    with open_reading(journal) as read:
        found = fingerprints.errors(read.engine, rule, filters_of(tz=tz, **chosen))
    verdicts.errors(found, examples, form_of(as_json, tz))


# --- plans -----------------------------------------------------------------------------------------


def _excluded(given: Sequence[str], plan: Plan) -> dict[str, str]:
    from telemetry.plans import unmatched

    pairs = [one.partition("=") for one in given]
    for name, equals, why in pairs:
        if not name or not equals or not why:
            raise click.BadParameter("write ITEM=REASON", param_hint="--exclude")
    excluded = {name: why for name, _, why in pairs}
    for name in unmatched(plan, excluded):
        click.echo(
            f"agent-telemetry: --exclude {name}: no item and no commit of the plan is called so", err=True
        )
    return excluded


def _plan(source: str) -> Plan:
    from telemetry.plans import read

    return read(Path(source))


@click.command()
@_plan_options[0]
@_plan_options[1]
@policy_option
@click.option("--max-attempts", type=click.IntRange(min=1), help="So many attempts exhaust an item.")
@click.option("--remaining", is_flag=True, help="Print the plan with its open items alone, in its own form.")
@click.option("--agent", help="Count the attempts of this agent alone.")
@click.option("--model", help="Count the attempts with this declared model alone.")
@reads
def plan(
    source: str, exclude: tuple[str, ...], policy: str, max_attempts: int | None, remaining: bool,
    agent: str | None, model: str | None, journal: str | None, tz: tzinfo | None, as_json: bool,
) -> None:  # fmt: skip
    """Print what of a plan is open now, and why: a question to the journal, nothing is stored."""
    from telemetry import display, outcomes, plans, policies, verdicts
    from telemetry.filters import Filters

    wanted = _plan(source)
    rule = policies.named(_settings(journal).home, policy)
    with open_reading(journal) as read:
        lines = outcomes.lines(read.engine, rule, Filters(agent=agent))
    chosen = [line for line in lines if model is None or line.model == model]
    found = plans.states(wanted, chosen, max_attempts=max_attempts, excluded=_excluded(exclude, wanted))
    if remaining:
        display.write_json(sys.stdout, plans.remaining(wanted, found))
    else:
        verdicts.plan(found, form_of(as_json, tz))


@click.command("run-plan", context_settings=WORDS_FOLLOW)
@_plan_options[0]
@_plan_options[1]
@policy_option
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at a time.")
@click.option("--max-attempts", type=click.IntRange(min=1), default=1, show_default=True, help="Per item.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For each run."
)
@click.option("--cwd", metavar="FOLDER", help="Where the agent works; filled in per item.")
@journal_option
@json_option
@click.argument(
    "command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]..."
)
def run_plan(
    source: str, exclude: tuple[str, ...], policy: str, workers: int, max_attempts: int,
    timeout: float | None, cwd: str | None, journal: str | None, as_json: bool, command: tuple[str, ...],
) -> None:  # fmt: skip
    """Work off what of a plan is open: a recorded run per item, judged when it is over.

    {item_id}, {commit}, {pre} and {repo} in the command are filled in per item. Killed and started again,
    it goes on where the journal stands.
    """
    from telemetry import batch, policies, verdicts

    settings = _settings(journal)
    rule = policies.named(settings.home, policy)
    environ = {
        **os.environ,
        "AGENT_TELEMETRY_HOME": str(settings.home),
        "AGENT_TELEMETRY_JOURNAL": settings.journal,
    }
    wanted = _plan(source)
    left_out = _excluded(exclude, wanted)
    task = batch.Batch(wanted, command, workers, max_attempts, policy, left_out, timeout, cwd)
    try:
        found = batch.work(task, rule, settings, environ, lambda line: click.echo(line, err=True))
    except batch.Stopped:
        sys.exit(INTERRUPTED)
    verdicts.plan(found, form_of(as_json, None))


COMMANDS = (judge, result, retries, errors, plan, run_plan)
