"""The first request that refutes a claim is told while the agent runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.testing import Answer, ScriptedServer
from tests.wrapped import recorded_in

AGENT = """
import openai, sys, time
client = openai.OpenAI()
for word in sys.argv[1:]:
    client.chat.completions.create(model="gpt-5", temperature=float(word), messages=[])
    print("answered", flush=True)
if sys.argv[-1] == "0.9":
    time.sleep(60)
"""


def run(server: ScriptedServer, *words: str) -> tuple[int, str, str]:
    server.script(*[Answer("yes")] * 9)
    done = subprocess.run(
        [sys.executable, "-m", "telemetry.cli", "run", *words],
        env={**os.environ, **server.environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def recorded(home: Path) -> list[dict[str, object]]:
    return [event for events in recorded_in(home) for event in events]


def agent(*temperatures: str) -> list[str]:
    return ["--", sys.executable, "-c", AGENT, *temperatures]


def test_a_refuted_claim_is_told_once_and_recorded(server: ScriptedServer, data_home: Path) -> None:
    claims = ["--claim", "temperature=0.5", "--claim", "model=gpt-5"]
    code, out, err = run(server, *claims, *agent("0.5", "0.7", "0.8"))
    assert (code, out) == (0, "answered\n" * 3)
    assert err.count("is refuted") == 1
    assert "claim temperature=0.5 is refuted: sent as 0.7 in 1 call" in err
    (event,) = [event for event in recorded(data_home) if event["name"] == "claim.checked"]
    assert json.loads(json.dumps(event["data"]))["verdict"] == "refuted"


def test_strict_claims_end_the_run(server: ScriptedServer, data_home: Path) -> None:
    code, _, err = run(server, "--claim", "temperature=0.5", "--strict-claims", *agent("0.5", "0.9"))
    assert code == 128 + signal.SIGTERM
    assert "is refuted: sent as 0.9 in 1 call; the run is ended" in err
    (end,) = [event for event in recorded(data_home) if event["name"] == "run.finished"]
    assert end["data"]["outcome"] == "cancelled"  # type: ignore[index]
    (process,) = [event for event in recorded(data_home) if event["name"] == "process.finished"]
    told = "claim temperature=0.5 is refuted: sent as 0.9 in 1 call; ended by SIGTERM"
    assert (process["data"]["error_type"], process["data"]["error_message"]) == ("ClaimRefuted", told)  # type: ignore[index]


@pytest.mark.parametrize("lines", ["# the mitigation\ntemperature=0.5\n\nmodel=gpt-5\n"])
def test_claims_come_from_a_file_too(
    server: ScriptedServer, data_home: Path, tmp_path: Path, lines: str
) -> None:
    (tmp_path / "claims.txt").write_text(lines)
    code, _, err = run(server, "--claims", str(tmp_path / "claims.txt"), *agent("0.5"))
    assert (code, "is refuted" in err) == (0, False)
    made = [event["data"] for event in recorded(data_home) if event["name"] == "claim.made"]
    assert [(claim["name"], claim["source"]) for claim in made] == [  # type: ignore[index]
        ("temperature", "file"),
        ("model", "file"),
    ]


def test_a_claim_on_the_command_line_that_contradicts_the_file_is_refused(
    server: ScriptedServer, data_home: Path, tmp_path: Path
) -> None:
    """One of the two would go unchecked."""
    (tmp_path / "claims.txt").write_text("temperature=0.5\n")
    words = ["--claims", str(tmp_path / "claims.txt"), "--claim", "temperature=0.7"]
    code, out, err = run(server, *words, *agent("0.5"))
    assert (code, out) == (2, "")
    assert "temperature is claimed to be 0.5 and to be 0.7" in err
