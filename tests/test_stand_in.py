"""The stand-in is an interpreter to the pipeline, and records the agents among what is run with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from telemetry.stand_in import is_agent
from tests.generations import ROOT
from tests.wrapped import Wrap, eventually, wrap

__all__ = ["wrap"]

PYTHON = sys.executable

AGENT = """
import json, os, sys
import telemetry
print(json.dumps({
    "argv": sys.argv, "telemetry": telemetry.__file__, "path": os.environ.get("PYTHONPATH"),
    "executable": sys.executable, "cwd": os.getcwd(), "run": os.environ.get("AGENT_TELEMETRY_RUN"),
}))
sys.exit(int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 0)
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A folder with an agent, and with a package that has our name."""
    (tmp_path / "path" / "trae_agent").mkdir(parents=True)
    (tmp_path / "path" / "trae_agent" / "__init__.py").touch()
    (tmp_path / "path" / "trae_agent" / "cli.py").write_text(AGENT)
    (tmp_path / "path" / "telemetry").mkdir()
    (tmp_path / "path" / "telemetry" / "__init__.py").touch()
    return tmp_path


@pytest.fixture
def stand_in(pipeline: Path, wrap: Wrap) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Calls the stand-in as the console script does, with the caller's PYTHONPATH."""

    def call(*arguments: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
        variables = {
            **os.environ,
            "AGENT_TELEMETRY_HOME": str(wrap.home),
            "AGENT_TELEMETRY_PYTHON": PYTHON,
            "PYTHONPATH": str(pipeline / "path"),
            **environ,
        }
        program = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); from agent_shim.stand_in import main; main()"
        )
        command = [PYTHON, "-S", "-c", program, *arguments]
        return subprocess.run(
            command, env=variables, cwd=pipeline, capture_output=True, timeout=60, check=False
        )

    return call


Call = Callable[..., subprocess.CompletedProcess[bytes]]


def recorded(wrap: Wrap, task: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = eventually(lambda: wrap.recorded(task))
    return events


def test_an_agent_is_recorded_and_nothing_is_printed(stand_in: Call, wrap: Wrap, pipeline: Path) -> None:
    item = pipeline / "vllm_core-0042"
    item.mkdir()
    (item / "prompt.json").write_text('{"commits": {"pre": "00000000", "human": "1234abcd"}}')
    done = stand_in("-m", "trae_agent.cli", "run", "--trajectory-file", str(item / "trajectory.json"))
    assert (done.returncode, done.stderr) == (0, b"")
    events = recorded(wrap, "vllm_core-0042")
    started = next(event["data"] for event in events if event["name"] == "run.started")
    assert (started["way"], started["agent"]) == ("stand-in", "trae")
    assert (started["commit"], started["commit_source"]) == ("1234abcd", "prompt.json")
    assert started["command"][:3] == [PYTHON, "-m", "trae_agent.cli"]
    assert json.loads(done.stdout)["run"] == events[0]["run"]


def test_the_callers_python_path_is_the_agents_and_never_ours(stand_in: Call, pipeline: Path) -> None:
    """It holds a package ``telemetry``: the agent imports that one, we do not."""
    done = stand_in("-m", "trae_agent.cli", AGENT_TELEMETRY_TASK="path")
    seen = json.loads(done.stdout)
    assert seen["path"] == str(pipeline / "path")
    assert seen["telemetry"] == str(pipeline / "path" / "telemetry" / "__init__.py")
    assert seen["executable"] == PYTHON
    assert seen["cwd"] == str(pipeline)


@pytest.mark.parametrize("code", ["0", "7"])
def test_the_exit_code_is_the_agents(stand_in: Call, code: str) -> None:
    assert stand_in("-u", "-m", "trae_agent.cli", code, AGENT_TELEMETRY_TASK="code").returncode == int(code)


def test_anything_else_is_run_unrecorded(stand_in: Call, wrap: Wrap) -> None:
    before = len(list(wrap.home.glob("*/*/*.log")))
    done = stand_in("-c", "import os, sys; print(os.environ.get('AGENT_TELEMETRY_RUN'), sys.argv)", "a")
    assert done.stdout == b"None ['-c', 'a']\n"
    assert stand_in("-V").stdout.startswith(b"Python 3.")
    assert stand_in("-m", "this").stdout.startswith(b"The Zen")
    assert len(list(wrap.home.glob("*/*/*.log"))) == before


def test_switched_off_it_is_the_interpreter(stand_in: Call) -> None:
    done = stand_in("-m", "trae_agent.cli", AGENT_TELEMETRY_DISABLED="1")
    assert json.loads(done.stdout)["run"] is None
    assert done.stderr == b""


def test_switched_off_nothing_else_is_asked_of_the_settings(stand_in: Call) -> None:
    done = stand_in("-m", "trae_agent.cli", AGENT_TELEMETRY_DISABLED="1", AGENT_TELEMETRY_HOME="relative")
    assert json.loads(done.stdout)["run"] is None
    assert done.stderr == b""


def test_settings_that_cannot_be_used_keep_no_agent_from_running(stand_in: Call) -> None:
    done = stand_in("-m", "trae_agent.cli", AGENT_TELEMETRY_TAILS="perhaps")
    assert json.loads(done.stdout)["run"] is None
    assert done.stderr.count(b"\n") == 1
    assert b"not recorded: tails" in done.stderr


@pytest.mark.parametrize(
    ("python", "code", "words"),
    [
        ("", 125, b"AGENT_TELEMETRY_PYTHON"),
        ("/no/such/python", 127, b"/no/such/python"),
        ("FILE", 126, b"not executable"),
        ("ITSELF", 125, b"stand-in itself"),
        ("LINK", 125, b"stand-in itself"),
    ],
)
def test_an_interpreter_that_cannot_be_run_is_a_clear_error(
    stand_in: Call, tmp_path: Path, python: str, code: int, words: bytes
) -> None:
    itself = tmp_path / "agent-telemetry-python"
    itself.write_text("#!/bin/sh\n")
    itself.chmod(0o755)
    (tmp_path / "python").symlink_to(itself)
    (tmp_path / "file").touch()
    names = {"FILE": "file", "ITSELF": itself.name, "LINK": "python"}
    given = str(tmp_path / names[python]) if python in names else python
    done = stand_in("-m", "trae_agent.cli", AGENT_TELEMETRY_PYTHON=given)
    assert done.returncode == code
    assert words in done.stderr
    assert b"AGENT_TELEMETRY_PYTHON" in done.stderr
    assert done.stdout == b""


def test_the_agent_is_ended_as_a_pipeline_ends_it(wrap: Wrap, pipeline: Path) -> None:
    """SIGTERM to the stand-in alone, and five seconds of patience."""
    (pipeline / "path" / "trae_agent" / "cli.py").write_text(
        f"import pathlib, time; pathlib.Path({str(pipeline / 'ready')!r}).touch(); time.sleep(60)"
    )
    environ = {"AGENT_TELEMETRY_HOME": str(wrap.home), "AGENT_TELEMETRY_PYTHON": PYTHON}
    process = subprocess.Popen(
        [PYTHON, "-I", "-m", "telemetry.stand_in", "-m", "trae_agent.cli"],
        env={**os.environ, **environ, "PYTHONPATH": str(pipeline / "path")},
        stdout=subprocess.PIPE,
    )
    with process:
        eventually((pipeline / "ready").exists)
        process.send_signal(signal.SIGTERM)
        process.wait(5)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("-m trae_agent.cli run", True),
        ("-um trae_agent.cli", True),
        ("-X dev -m codex_agent.cli", True),
        ("-m openhands.core.main", True),
        ("-m pip install trae_agent", False),
        ("-m trae_agent_tools", False),
        ("-c pass", False),
        ("trae_agent/cli.py", False),
        ("", False),
    ],
)
def test_an_agent_is_a_known_module(words: str, answer: bool) -> None:
    assert is_agent(words.split()) is answer
