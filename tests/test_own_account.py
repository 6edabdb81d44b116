"""What an agent says of itself is kept beside the record, and never becomes it.

Real wrapped runs of `tests/trae_like`, which has TRAE's habits: exit code 0 whatever happened, retries that
only its output tells of, a patch of what is not committed, a trajectory that is written over.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from telemetry.testing import Ledger, server_error
from tests.generations import ROOT
from tests.trae_runs import TraeRun, server_for
from tests.verdict_runs import CLI, COMMIT, DONE, EDIT, LOOK, Scenario, bash
from tests.wrapped import Wrap, Wrapped, wrap

__all__ = ["wrap"]

TRAE_LIKE = ROOT / "tests" / "trae_like"
CUT = "printf '{\"agent_steps\": [' > ../item/trajectory.json; kill -9 $PPID"
"""What is left when the agent dies while it writes its trajectory."""
SCENARIOS = (
    Scenario("never done", (EDIT, LOOK, LOOK), max_steps=3),
    Scenario("no edit", (LOOK, DONE)),
    Scenario("untracked only", (bash("echo 'fast = True' > faster.py"), DONE)),
    Scenario("committed only", (EDIT, COMMIT, DONE)),
    Scenario("retried", (*[server_error()] * 3, EDIT, DONE), retries=1),
    Scenario("cut", (EDIT, bash(CUT))),
)


class Ended(NamedTuple):
    """A run that is over."""

    home: Path
    run: TraeRun
    done: Wrapped
    ledger: Ledger

    @property
    def checks(self) -> dict[str, str]:
        """Check → state."""
        return {check["name"]: check["state"] for check in self.judged["checks"]}

    @property
    def judged(self) -> dict[str, Any]:
        run = self.done.events[0]["run"]
        environ = {"PATH": os.environ["PATH"], "AGENT_TELEMETRY_HOME": str(self.home)}
        command = [*CLI, "judge", run, "--policy", "strict", "--json"]
        (found,) = json.loads(subprocess.run(command, env=environ, capture_output=True).stdout)
        return dict(found)


@pytest.fixture(scope="module")
def ended(wrap: Wrap, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    return {one.name: execute(wrap, one, tmp_path_factory.mktemp("runs") / "item") for one in SCENARIOS}


def execute(wrap: Wrap, scenario: Scenario, folder: Path) -> Ended:
    folder.mkdir()
    with server_for(scenario) as server:
        run = TraeRun(folder, server, scenario)
        done = wrap(
            sys.executable,
            *run.arguments,
            environ={"PYTHONPATH": str(TRAE_LIKE), **server.environment},
            cwd=run.worktree,
        )
    return Ended(wrap.home, run, done, server.ledger)


def test_exit_code_0_of_an_agent_that_gave_up_is_no_success(ended: dict[str, Ended]) -> None:
    """W30: what the process said and what its agent wrote stand apart, and the check goes by the latter."""
    run = ended["never done"]
    assert (run.done.end["outcome"], run.done.end["exit_code"]) == ("exited", 0)
    assert run.done.data("trajectory.read")["success"] is False
    judged = run.judged
    states = {check["name"]: check["state"] for check in judged["checks"]}
    assert (states["exit-0"], states["agent-done"], states["patch-not-empty"]) == ("pass", "fail", "pass")
    assert judged["verdict"] == "fail"


@pytest.mark.parametrize(
    ("name", "handed_in", "changed"),
    [
        ("no edit", False, []),
        ("untracked only", False, ["faster.py"]),
        ("committed only", False, ["speed.py"]),
    ],
)
def test_the_patch_is_the_trees_and_not_the_agents(
    ended: dict[str, Ended], name: str, handed_in: bool, changed: list[str]
) -> None:
    """W31: committed and untracked changes too, where the agent's own diff shows neither."""
    run = ended[name]
    assert run.done.end["exit_code"] == 0
    assert (run.run.patch.stat().st_size > 0) == handed_in
    patch = run.done.data("patch.captured")
    assert [file["path"] for file in patch["files"]] == changed
    assert (patch["bytes"] > 0) == bool(changed)
    assert len(patch["sha256"]) == 64
    assert run.checks["patch-not-empty"] == ("pass" if changed else "fail")


def test_every_attempt_at_the_api_is_an_event_of_its_own(ended: dict[str, Ended]) -> None:
    """W32: those of the agent's own retry too, of which it only prints."""
    run = ended["retried"]
    assert b"API call failed" in run.done.stdout
    served = [request.status for request in run.ledger.requests]
    assert served == [500, 500, 500, 200, 200]
    events = [event["data"] for event in run.done.events if event["name"] == "llm.request.finished"]
    assert [event["http_status"] for event in events] == served
    calls = [event["data"]["ended"] for event in run.done.events if event["name"] == "llm.call.finished"]
    assert calls == ["failed", "completed", "completed"]


def test_a_trajectory_that_is_cut_is_kept_as_a_fact_and_counts_for_nothing(ended: dict[str, Ended]) -> None:
    """W34: the tokens are those of the wire."""
    run = ended["cut"]
    content = run.run.trajectory.read_bytes()
    read = run.done.data("trajectory.read")
    assert (read["valid_json"], read["written"]) == (False, True)
    assert (read["bytes"], read["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert read["reason"].startswith("not JSON: ")
    assert not read.keys() & {"success", "steps", "input_tokens", "output_tokens"}
    usages = [e["data"]["usage"] for e in run.done.events if e["name"] == "llm.call.finished"]
    assert sum(usage["input_tokens"] for usage in usages) == run.ledger.total().input
    assert run.done.end["outcome"] == "signaled"
