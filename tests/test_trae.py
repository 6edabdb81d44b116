"""The real TRAE agent, bare and recorded: what the journal says is what the server's ledger says.

Skipped unless ``TRAE_PYTHON`` and ``TRAE_PATH`` are set; `tests.trae_runs` says to what.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from telemetry.testing import ScriptedServer
from tests.trae_runs import MODEL, SCENARIOS, Scenario, TraeRun, server_for

PYTHON = os.environ.get("TRAE_PYTHON")
SOURCE = os.environ.get("TRAE_PATH")

pytestmark = pytest.mark.skipif(
    not (PYTHON and SOURCE), reason="TRAE_PYTHON and TRAE_PATH do not name an installed TRAE"
)

every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


def trae_environment() -> dict[str, str]:
    """As a pipeline starts TRAE: its source on the path, nothing else of it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1"}


def statuses(server: ScriptedServer) -> tuple[int | None, ...]:
    return tuple(request.status for request in server.ledger.requests)


@every_scenario
def test_trae_itself_behaves_as_the_scenario_says(scenario: Scenario, tmp_path: Path) -> None:
    """A tripwire: when this fails, TRAE changed, not we."""
    with server_for(scenario) as server:
        run = TraeRun(tmp_path, server, scenario)
        done = subprocess.run(
            [str(PYTHON), *run.arguments],
            env=trae_environment(),
            cwd=run.worktree,
            capture_output=True,
            text=True,
        )
    assert statuses(server) == scenario.statuses, done.stdout + done.stderr
    assert done.returncode == scenario.exit_code, done.stdout + done.stderr
    assert bool(run.change) == scenario.tree_changed
    assert (run.patch.read_text() != "" if run.patch.exists() else None) == scenario.patch_written
    assert run.written["success"] == scenario.claims_success
    agent_usage = [bill.usage for bill in server.ledger.billed if bill.model == MODEL]
    billed = (sum(u.input for u in agent_usage), sum(u.output for u in agent_usage))
    assert run.recorded[:2] == (scenario.recorded or billed)[:2]
