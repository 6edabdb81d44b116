"""Runs the wrapper as a user does, in a process of its own, and reads back what was recorded.

One deliverer serves all tests of a module: a producer that lives as long keeps it from leaving, so that
not every test waits for one to start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent_shim import spool
from agent_shim.spool import Spool, new_id
from telemetry import handover
from telemetry.settings import Settings
from tests.generations import ROOT

DRIVER = """
import json, os, sys
from telemetry import wrapper
from telemetry.settings import Settings
asked = json.load(open(sys.argv[1]))
settings = Settings.load(os.environ, asked.pop("flags", None))
command = tuple(asked.pop("command"))
sys.exit(wrapper.run(wrapper.RunRequest(command, settings, dict(os.environ), **asked)))
"""
PATIENCE_S = 30.0


class Wrapped(NamedTuple):
    """What came of a wrapped command."""

    returncode: int
    stdout: bytes
    stderr: bytes
    events: list[dict[str, Any]]
    """Of all producers of the run, in stored form."""
    seconds: float

    def data(self, name: str) -> dict[str, Any]:
        """The data of the only event of that name."""
        (event,) = [event for event in self.events if event["name"] == name]
        data: dict[str, Any] = event["data"]
        return data

    @property
    def end(self) -> dict[str, Any]:
        return self.data("process.finished")


class Wrap:
    """A data folder in which commands are wrapped."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def start(
        self,
        command: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        task: str = "",
        asked: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start a wrapped command; the recording is found again by `task`."""
        request = self.home / f"{task or new_id()}.request"
        request.write_text(json.dumps({"command": list(command), **(asked or {})}))
        variables = {**os.environ, "AGENT_TELEMETRY_HOME": str(self.home), "AGENT_TELEMETRY_TASK": task}
        options = {"stdin": subprocess.DEVNULL, "stdout": -1, "stderr": -1, **options}
        return subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{DRIVER}", request],
            env={**variables, **(environ or {})},
            **options,
        )

    def __call__(self, *command: str, **options: Any) -> Wrapped:
        """Wrap a command and wait for its end."""
        task = new_id()
        begin = time.monotonic()
        with self.start(command, task=task, **options) as process:
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
        seconds = time.monotonic() - begin
        return Wrapped(process.returncode, stdout or b"", stderr or b"", self.recorded(task), seconds)

    def recorded(self, task: str) -> list[dict[str, Any]]:
        """The events of the run with that task."""
        for events in recorded_in(self.home):
            if any(e["data"].get("task") == task for e in events if e["name"] == "run.started"):
                return events
        return []

    def wait_for(self, task: str, name: str) -> dict[str, Any]:
        """The first event of that name, once it is there."""
        found = eventually(lambda: [e for e in self.recorded(task) if e["name"] == name])
        event: dict[str, Any] = found[0]
        return event


@pytest.fixture(scope="module")
def wrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wrap]:
    """Wraps commands, in a data folder whose deliverer is at work."""
    home = tmp_path_factory.mktemp("home")
    living = Spool(home / "spool", new_id(), role="agent", redact=str)
    living.flush()
    living.append(_hello())
    environ = {name: value for name, value in os.environ.items() if name == "PATH"}
    handover.start(Settings.load({"AGENT_TELEMETRY_HOME": str(home)}), environ)
    eventually(lambda: handover.is_running(home))
    yield Wrap(home)
    living.seal()
    eventually(lambda: not handover.is_running(home))


def _hello() -> Any:
    from agent_shim.events import CaptureFailed

    return CaptureFailed(where="test", error_type="none")


def recorded_in(home: Path) -> list[list[dict[str, Any]]]:
    """The events of each run in a data folder, whose deliverer may be moving the runs that are complete."""
    while True:
        folders = _run_folders(home)
        try:
            found = [_events_in(folder) for folder in folders]
        except FileNotFoundError:
            continue
        if _run_folders(home) == folders:
            return found


def _run_folders(home: Path) -> list[Path]:
    return [*home.glob("spool/*"), *home.glob("delivered/*")]


def _events_in(folder: Path) -> list[dict[str, Any]]:
    """Every event in a run's folder, in stored form, file by file."""
    files = sorted(folder.glob("*.log"))
    return [json.loads(line.body) for file in files for line in spool.read(file) if line.body is not None]


def eventually(question: Callable[[], Any], limit_s: float = PATIENCE_S) -> Any:
    """The first answer that is true; fails when none comes."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        answer = question()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError("it never came to be")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
