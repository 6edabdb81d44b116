"""Processes of `multiprocessing` are part of the run, however they are started."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agent_shim.spool import new_id
from telemetry.testing import ScriptedServer
from tests import generations, spools

BOOTSTRAP = Path(__file__).resolve().parent.parent / "agent_shim" / "bootstrap.py"
AGENT = """
import multiprocessing, sys

def ask(model):
    import openai
    openai.OpenAI().embeddings.create(model=model, input="x")

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        pool.map(ask, ["a", "b"], chunksize=1)
    print("done")
"""
IN_ONES_OWN_CODE = AGENT.replace("    with m", "    with agent_shim.run(), m").replace(
    "import m", "import agent_shim, m"
)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("generation", ["1.86.0", "3.54.0"])
def test_calls_in_a_pool_belong_to_the_run(
    tmp_path: Path, data_home: Path, server: ScriptedServer, generation: str, method: str
) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    named = {"AGENT_TELEMETRY_HOME": str(data_home), "AGENT_TELEMETRY_RUN": new_id()}
    command = [generations.interpreter(generation), BOOTSTRAP, "agent.py", method]
    environment = {"PATH": os.environ["PATH"], **server.environment, **named}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
    calls = spools.events(data_home, "llm.call.finished")
    ended = [(call["run"], call["data"]["ended"]) for call in calls]
    assert ended == [(named["AGENT_TELEMETRY_RUN"], "completed")] * 2
    assert len(server.ledger.requests) == 2


@pytest.mark.parametrize(("method", "seen"), [("spawn", 2), ("forkserver", 0)])
def test_in_ones_own_code_a_server_that_outlives_the_run_is_left_alone(
    tmp_path: Path, data_home: Path, server: ScriptedServer, method: str, seen: int
) -> None:
    (tmp_path / "own.py").write_text(IN_ONES_OWN_CODE)
    own = {"PYTHONPATH": str(BOOTSTRAP.parent.parent), "AGENT_TELEMETRY_HOME": str(data_home)}
    command = [generations.interpreter("3.54.0"), "own.py", method]
    environment = {"PATH": os.environ["PATH"], **server.environment, **own}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
    assert len(spools.events(data_home, "llm.call.finished")) == seen
    assert len(server.ledger.requests) == 2
