"""What the journal makes of a run when it is over: verdict, tokens and cost, in a process of its own.

``python -m telemetry.settling RUN POLICY`` judges the run and prints one JSON object. The wrapper asks for
it, because it loads no database itself. Promises, each with its test in ``tests/test_settling.py``:

* The run is judged as ``judge`` judges it: by an event in the journal.
* What is not known is null and has a reason beside it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from agent_shim.errors import AgentTelemetryError
from telemetry import queries, totals
from telemetry.database import reachable
from telemetry.filters import RUN
from telemetry.judging import judge
from telemetry.policies import named
from telemetry.reading import Reading, reading
from telemetry.reports import cost_object, tokens_reason
from telemetry.settings import Settings


def settle(settings: Settings, environ: Mapping[str, str], run_id: str, name: str) -> dict[str, Any]:
    """Judge a run under policy `name`; what is known of it then. Raises `AgentTelemetryError`."""
    rule = named(settings.home, name)
    with reading(settings, environ) as read:
        (judged,) = judge(read, settings, environ, [queries.run(read.engine, run_id)], rule)
        used = _used(read, run_id)
    return {
        "verdict": judged.verdict.verdict,
        "verdict_policy": rule.name,
        "verdict_reason": judged.verdict.reason,
        "empty_cause": judged.event.empty_cause,
        **used,
    }


def _used(read: Reading, run_id: str) -> dict[str, Any]:
    with reachable(read.engine), read.engine.connect() as connection:
        (group,) = totals.group(connection, "run", [RUN.c.run_id == run_id]).values()
    line = group.line()
    tokens = {name: total.value for name, total in line.tokens.items()}
    return {
        "calls": line.calls.value,
        "calls_reason": line.calls.reason,
        "tokens": tokens,
        "tokens_reason": tokens_reason(line),
        **cost_object(line.cost),
    }


def main(words: list[str] | None = None) -> int:
    """Print what is known; 1 and a line on stderr when nothing is."""
    run_id, name = sys.argv[1:] if words is None else words
    try:
        told = settle(Settings.load(os.environ), os.environ, run_id, name)
    except AgentTelemetryError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
