"""A run of the example agent with an OTLP endpoint, and what Jaeger has of it."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from telemetry.testing import ScriptedServer, Turn
from tests.generations import ROOT

COMMIT = "5f2d8c1be0a94d3f8a7c6b5e4d3c2b1a09f8e7d6"
REPOSITORY = "https://git.example.org/wordtools"
EXAMPLE = ("-m", "agent", "task.txt", "--max-steps", "100")
"""The example agent, as Python is told to run it."""
ERROR = 2
"""Status code of a span in OTLP."""


class Recorded(NamedTuple):
    """What became of a wrapped agent."""

    run: str
    exit_code: int
    stderr: str


class Agent:
    """Runs the example agent under ``agent-telemetry run``, in a data folder of its own."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.home = folder / "home"
        self.folder = folder / "work"
        self.folder.mkdir(parents=True)
        (self.folder / "task.txt").write_text("Make it faster.")
        self._environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), str(ROOT)]),
            "AGENT_TELEMETRY_HOME": str(self.home),
            **environ,
        }

    @property
    def journal(self) -> Path:
        """What the run itself wrote, without the stack."""
        return self.home / "journal.db"

    def start(
        self,
        server: ScriptedServer,
        *script: Turn,
        options: Sequence[str] = (),
        program: Sequence[str] = EXAMPLE,
    ) -> subprocess.Popen[str]:
        """Start a run of the agent, or of another Python `program`, on a script."""
        server.script(*script)
        about = ["--commit", COMMIT, "--repo", REPOSITORY, *options]
        return self._command(["run", *about, "--", sys.executable, *program], server.environment)

    def run(
        self,
        server: ScriptedServer,
        *script: Turn,
        options: Sequence[str] = (),
        program: Sequence[str] = EXAMPLE,
    ) -> Recorded:
        """A run from its begin to its end."""
        return self.finish(self.start(server, *script, options=options, program=program))

    def finish(self, process: subprocess.Popen[str]) -> Recorded:
        """Wait for the end of a run that was started."""
        _, stderr = process.communicate(timeout=120)
        (run,) = {folder.name for folder in self.home.glob("*/0*")} - self.known()
        (self.home / f"known-{run}").touch()
        return Recorded(run, process.returncode, stderr)

    def known(self) -> set[str]:
        """The runs that were finished before."""
        return {path.name.removeprefix("known-") for path in self.home.glob("known-*")}

    def is_delivered(self, run: str) -> bool:
        """Whether all that was recorded of a run was taken wherever it goes."""
        return (self.home / "delivered" / run).exists()

    def ask(self, *words: str, **environ: str) -> str:
        """What a command of ours prints."""
        with self._command(list(words), environ) as process:
            stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        return stdout

    def _command(self, words: list[str], environ: Mapping[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "telemetry.cli", *words],
            cwd=self.folder,
            env={**self._environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


class Span(NamedTuple):
    """A span as Jaeger's API gives it."""

    span_id: str
    parent: str
    name: str
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    status: int
    message: str
    start_ns: int
    end_ns: int

    @property
    def operation(self) -> Any:
        return self.attributes.get("gen_ai.operation.name")


class Jaeger:
    """Asks Jaeger's API of the third version."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace; none when Jaeger has none of it, or does not answer."""
        try:
            status, body = self.get(f"/api/v3/traces/{trace_id}")
        except OSError:
            return []
        if status != 200:
            return []
        return [
            _span(span)
            for resource in json.loads(body)["result"]["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    def root(self, trace_id: str) -> Span | None:
        """The span of the run, which comes last."""
        return next((span for span in self.trace(trace_id) if not span.parent), None)

    def services(self) -> list[str]:
        """The names of what sent spans."""
        return list(json.loads(self.get("/api/v3/services")[1])["services"])


def _span(span: Mapping[str, Any]) -> Span:
    status = span.get("status", {})
    return Span(
        span["spanId"],
        span.get("parentSpanId", ""),
        span["name"],
        _attributes(span),
        [(event["name"], _attributes(event)) for event in span.get("events", [])],
        status.get("code", 0),
        status.get("message", ""),
        int(span["startTimeUnixNano"]),
        int(span["endTimeUnixNano"]),
    )


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in holder.get("attributes", [])}


def _value(value: Mapping[str, Any]) -> Any:
    ((kind, found),) = value.items()
    if kind == "intValue":
        return int(found)
    if kind == "arrayValue":
        return [_value(item) for item in found.get("values", [])]
    return found
