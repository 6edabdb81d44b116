"""Beside other instrumentations of the same client: both keep working, and nothing is counted twice."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from agent_shim.spool import new_id
from telemetry.testing import Answer, ScriptedServer, Usage, bad_request
from tests import spools
from tests.generations import PEERS, interpreter

ROOT = Path(__file__).resolve().parent.parent
FULL = Usage(input=1000, output=50, cached=800, reasoning=30)
SPANS = {
    "genai_openai": 4,
    "openllmetry": 4,
    "openinference": 4,
    "logfire": 4,
    "langfuse": 1,
    "respx": 1,
    "vcr": 1,
}
"""The least that each sees of five calls, by itself: that it still works beside us."""


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("peer", SPANS)
def test_both_record_and_the_journal_equals_the_ledger(
    peer: str, order: str, server: ScriptedServer, data_home: Path
) -> None:
    server.script(*[Answer("one two", usage=FULL)] * 4, bad_request("no"))
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(data_home.parent),
        "OURS": str(ROOT),
        "AGENT_TELEMETRY_HOME": str(data_home),
        "AGENT_TELEMETRY_RUN": new_id(),
        # Langfuse wants keys and a host; nothing listens there.
        "LANGFUSE_PUBLIC_KEY": "pk-lf-x",
        "LANGFUSE_SECRET_KEY": "sk-lf-x",
        "LANGFUSE_TIMEOUT": "1",
        "LANGFUSE_HOST": "http://127.0.0.1:9",
        "LANGFUSE_BASE_URL": "http://127.0.0.1:9",
    }
    start = [str(ROOT / "agent_shim" / "bootstrap.py")] if order == "after" else []
    program = [str(ROOT / "tests" / "peer_side.py"), peer, order, server.url]
    done = subprocess.run(
        [interpreter(PEERS), *start, *program], env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["seen"] == [1050, told["seen"][1], "one two", "response.completed", "BadRequestError"]
    assert told["spans"] >= SPANS[peer]
    calls = [row for row in spools.rows(data_home, "llm_call") if row["host"] == "127.0.0.1"]
    assert len(calls) == 5
    counted = [row for row in calls if row["usage_source"] == "reported"]
    total = server.ledger.total()
    assert sum(row["input_tokens"] for row in counted) == total.input == 4000
    assert sum(row["output_tokens"] for row in counted) == total.output
    assert spools.events(data_home, "capture.failed") == []
