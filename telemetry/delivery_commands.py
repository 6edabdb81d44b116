"""The commands that move what was recorded: ``reconcile`` and ``send``.

Light: what a command needs is imported when it runs.
"""

from __future__ import annotations

import os
import sys

import click

from telemetry.options import FINDINGS, journal_option, open_reading
from telemetry.settings import Settings


@click.command()
@journal_option
@click.argument("run", required=False)
def reconcile(run: str | None, journal: str | None) -> None:
    """Compare what this machine recorded with what the journal holds, and send again what is missing.

    RUN is as for show; without it every run in the data folder is compared. Exits with 1 when something is
    still missing.
    """
    from telemetry import reconcile as files

    settings = Settings.load(os.environ, {"journal": journal})
    found = list(files.reconcile(settings, os.environ, run))
    for one in found:
        if one.why:
            click.echo(f"agent-telemetry: run {one.run}: {one.why}", err=True)
    compared = [one for one in found if one.lost is not None]
    events, sent = sum(one.events for one in compared), sum(one.missing for one in compared)
    click.echo(
        f"{events} events of {len(compared)} run{'' if len(compared) == 1 else 's'} compared;"
        f" {sent} were missing and sent again.",
        err=True,
    )
    sys.exit(FINDINGS if any(one.why for one in found) else 0)


@click.command()
@journal_option
@click.option("--endpoint", metavar="URL", help="OpenTelemetry endpoint; by default that of the settings.")
@click.argument("run", default="@last")
def send(run: str, endpoint: str | None, journal: str | None) -> None:
    """Send a recorded run to an OpenTelemetry endpoint: spans and log records with their first times and ids.

    RUN is its short id, the beginning of its id, or @last.
    """
    from agent_shim.errors import SettingsError
    from telemetry import queries
    from telemetry.exporter import Exporter
    from telemetry.sending import send as send_run

    settings = Settings.load(os.environ, {"journal": journal, "otlp_endpoint": endpoint})
    if endpoint:
        settings = settings._replace(otlp_logs_endpoint=None, otlp_traces_endpoint=None)
    if not (settings.otlp("logs") or settings.otlp("traces")):
        raise SettingsError("No endpoint is set.", hint="Name one: --endpoint http://localhost:4318")
    with open_reading(journal) as read:
        exporter = Exporter.from_settings(settings)
        try:
            sent = send_run(read.engine, queries.run(read.engine, run).run_id, exporter)
        finally:
            exporter.close()
    for why in sent.refused:
        click.echo(f"agent-telemetry: {why}", err=True)
    click.echo(f"{sent.events} log records and {sent.spans} spans sent.", err=True)


COMMANDS = (reconcile, send)
