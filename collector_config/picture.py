"""Takes the picture of Jaeger's trace page that the documentation shows: of a real run, in a real browser.

``python -m collector_config.picture PAGE OUT.png``: PAGE is a build of Jaeger's page (``docs/stack.md`` says
how to make one), the browser is headless Chromium. The run is one that fails: the server refuses a request
and takes the next, a tool fails, the API key is refused in the end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from collector_config.stack import Ports, Stack, free_ports
from telemetry.testing import ScriptedServer, ToolCall, Usage, calls, invalid_key, rate_limited

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "5f2d8c1be0a94d3f8a7c6b5e4d3c2b1a09f8e7d6"
SIZE = "1440,540"
LIMIT_S = 60.0
SCRIPT = (
    rate_limited(),
    calls(ToolCall("read_file", {"path": "task.txt"}), usage=Usage(input=3120, output=212)),
    calls(ToolCall("run", {"command": "python3 check.py"}), usage=Usage(input=3602, output=260, cached=1024)),
    invalid_key(),
)


def main(page: Path, out: Path) -> None:
    """Run the stack, one run and the browser."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stack = Stack(folder / "stack", str(folder / "sink.db"), Ports(*free_ports()), page.resolve())
        try:
            stack.start()
            run = _record(folder, stack)
            _await_root(stack, run)
            _photograph(f"{stack.jaeger}/trace/{run}", out, folder)
        finally:
            stack.stop()


def _record(folder: Path, stack: Stack) -> str:
    """One run of the example agent; its id."""
    (folder / "task.txt").write_text("Make it faster.")
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), str(ROOT)]),
        "AGENT_TELEMETRY_HOME": str(folder / "home"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": stack.endpoint,
    }
    about = ["--commit", COMMIT, "--repo", "https://git.example.org/wordtools", "--task", "speed-up"]
    agent = [sys.executable, "-m", "agent", "task.txt"]
    with ScriptedServer(*SCRIPT) as server:
        subprocess.run(
            [sys.executable, "-m", "telemetry.cli", "run", *about, "--", *agent],
            cwd=folder,
            env={**environ, **server.environment},
            check=False,  # it fails, and that is what is shown
        )
    listed = subprocess.run(
        [sys.executable, "-m", "telemetry.cli", "runs", "--json"],
        env=environ,
        check=True,
        capture_output=True,
    )
    (only,) = json.loads(listed.stdout)
    return str(only["run_id"])


def _await_root(stack: Stack, run: str) -> None:
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{stack.jaeger}/api/v3/traces/{run}") as answer:
                if b"agent_telemetry.total.calls" in answer.read():
                    return
        except OSError:
            pass  # 404 until the first span is there
        time.sleep(0.2)
    raise SystemExit(f"Jaeger does not have the run {run}")


def _photograph(url: str, out: Path, folder: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("no Chromium is installed")
    options = ["--headless", "--disable-gpu", "--hide-scrollbars", f"--window-size={SIZE}"]
    options += [f"--user-data-dir={folder / 'browser'}", "--virtual-time-budget=20000"]
    options += ["--no-sandbox"] if os.getuid() == 0 else []  # its own refuses root
    subprocess.run([browser, *options, f"--screenshot={out.resolve()}", url], check=True, capture_output=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
