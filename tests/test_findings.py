"""Configured, transmitted, claimed and judged, as ``show`` tells them of one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from telemetry import cli
from tests.journals import filled
from tests.judged_runs import CHANGED, begun, called, ended

CONFIGURED = {
    "parallel_tool_calls": False,
    "temperature": 0.5,
    "max_tokens": 4096,
    "top_p": 1.0,
    "top_k": 0,
    "max_retries": 10,
}


def shown(home: Path, sent: dict[str, Any]) -> dict[str, Any]:
    home.mkdir()
    run = begun()
    turn = run.tell("agent.turn.started", parent=run.process, agent="trae", configured=CONFIGURED)
    absent = ["parallel_tool_calls", "temperature"]
    called(run, "a:bash", parent=turn, started={"parameters": sent, "absent": absent, "unanswered": ["z"]})
    run.tell("agent.turn.finished", begin=turn, ended="completed")
    run.tell("result.attached", run.wrapper, name="speedup", value=1.25, source="bench", unit="x")
    filled(home / "journal.db", ended(run, CHANGED)).close()
    found: dict[str, Any] = json.loads(CliRunner().invoke(cli.main, ["show", "--json"]).stdout)
    return found


def test_what_was_sent_otherwise_than_configured_is_listed(data_home: Path) -> None:
    """A limit of tokens is sent under another name; retries and the like are never meant to be sent."""
    found = shown(data_home, {"max_output_tokens": 4096, "top_p": 1})
    assert {one["name"]: one["transmitted"] for one in found["differences"]} == {
        "parallel_tool_calls": "never sent; the API's own default is true",
        "temperature": "never sent; the API's own default is 1",
        "top_k": "never sent",
    }


def test_another_value_on_the_wire_is_a_difference(data_home: Path) -> None:
    found = shown(data_home, {"max_output_tokens": 512, "top_p": 1})
    (one,) = [one for one in found["differences"] if one["name"] == "max_tokens"]
    assert (one["configured"], one["transmitted"]) == ("4096", "sent 512 in 1 requests")


def test_faults_and_results_are_shown(data_home: Path) -> None:
    found = shown(data_home, {})
    assert [fault["kind"] for fault in found["faults"]] == ["unanswered", "never executed"]
    assert [(one["name"], one["value"], one["unit"]) for one in found["results"]] == [("speedup", 1.25, "x")]


def test_claims_and_differences_alone(data_home: Path) -> None:
    shown(data_home, {"max_output_tokens": 4096, "top_p": 1, "top_k": 0, "temperature": 0.5})
    asked = CliRunner().invoke(cli.main, ["show", "--claims"])
    assert asked.stdout.splitlines() == [
        "source\tname\tvalue\tverdict\tobserved\ttransmitted",
        "configuration\tparallel_tool_calls\tfalse\trefuted\t\tnever sent; the API's own default is true",
    ]
