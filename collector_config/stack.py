"""Runs the stack without containers: collector, Jaeger and our sink, from the files that Compose uses.

``make stack`` keeps it in the foreground; Ctrl-C stops it. Promises, each with its test in
``tests/test_stack.py``:

* Everything listens on the loopback interface alone. The sink takes nothing without the token, which only
  the collector is given.
* What a program says is in ``<name>.log``; a program that ends by itself ends the stack, with its last words.
* Queue and traces stay in the folder: what was not yet taken when the stack was stopped, or killed, is
  taken when it is started again.
"""

from __future__ import annotations

import argparse
import http.client
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from agent_shim.errors import AgentTelemetryError
from collector_config import build
from telemetry.settings import Settings, without_password

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
START_LIMIT_S = 60.0
STOP_LIMIT_S = 15.0
LAST_WORDS = 2000
NAMES = ("sink", "jaeger", "collector")
"""In the order in which they are started: each finds what it sends to."""


class Ports(NamedTuple):
    """Where everything listens; the defaults are those of the configuration files."""

    otlp_grpc: int = 4317
    otlp_http: int = 4318
    sink: int = 4319
    sink_grpc: int = 4320
    jaeger: int = 16686
    jaeger_grpc: int = 16685
    jaeger_otlp: int = 14317
    collector_health: int = 13133
    jaeger_health: int = 13134
    metrics: int = 8888


def _inherited() -> dict[str, str]:
    """Without what sends telemetry somewhere: Jaeger would record itself among the runs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}


def free_ports(number: int = len(Ports._fields)) -> list[int]:
    """Ports that nobody listens on at the moment."""
    probes = [socket.create_server((HOST, 0)) for _ in range(number)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class StackFailed(Exception):
    """A program of the stack cannot be started, or ended by itself; the message has its last words."""


class Stack:
    """The three programs; its folder holds queue, traces, token and logs."""

    def __init__(
        self, folder: Path, journal: str, ports: Ports | None = None, page: Path | None = None
    ) -> None:
        """`page` is a build of Jaeger's page; without one Jaeger shows what is inside of its program."""
        self.folder = folder
        self.journal = journal
        self.ports = ports or Ports()
        self._page = page
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for kept in (folder, folder / "queue", folder / "jaeger"):
            kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._token_file = folder / "sink_token"
        if not self._token_file.exists():
            self._token_file.touch(mode=0o600)
            self._token_file.write_text(secrets.token_urlsafe(32))

    @property
    def endpoint(self) -> str:
        """Where agents send to, over HTTP."""
        return f"http://{HOST}:{self.ports.otlp_http}"

    @property
    def jaeger(self) -> str:
        """Jaeger's page and API."""
        return f"http://{HOST}:{self.ports.jaeger}"

    def start(self, *names: str) -> None:
        """Start programs, all by default, and wait until each is healthy. Raises `StackFailed`."""
        for name in names or NAMES:
            command = self.command(name)
            with (self.folder / f"{name}.log").open("ab") as log:
                self._running[name] = subprocess.Popen(
                    command,
                    env={**_inherited(), **self.environment(name)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for us: the collector is the first to be stopped
                )
            self._await(name)

    def stop(self, *names: str) -> None:
        """Stop programs in order, all by default: whoever sends before whoever takes."""
        for name in names or reversed(NAMES):
            process = self._running.pop(name, None)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self, name: str) -> None:
        """End a program as a crash does: at once."""
        process = self._running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def ended(self) -> str | None:
        """A program that was started and is gone."""
        return next((name for name, process in self._running.items() if process.poll() is not None), None)

    def pid(self, name: str) -> int:
        """The process of a running program."""
        return self._running[name].pid

    def last_words(self, name: str) -> str:
        """The end of what a program said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-LAST_WORDS:]

    def command(self, name: str) -> list[str]:
        """How a program is started. Raises `build.NotBuildable`."""
        if name == "sink":
            ports = ["--port", str(self.ports.sink), "--grpc-port", str(self.ports.sink_grpc)]
            words = ["sink", "--host", HOST, *ports, "--journal", self.journal]
            return [sys.executable, "-m", "telemetry.cli", *words]
        return [str(build.build(name)), f"--config={HERE / name}.yaml"]

    def environment(self, name: str) -> Mapping[str, str]:
        """The variables of a program's configuration file."""
        ports = self.ports
        if name == "sink":
            return {"AGENT_TELEMETRY_SINK_TOKEN": self._token_file.read_text()}
        if name == "jaeger":
            return {
                "JAEGER_HOST": HOST,
                "JAEGER_OTLP_PORT": str(ports.jaeger_otlp),
                "JAEGER_QUERY_PORT": str(ports.jaeger),
                "JAEGER_QUERY_GRPC_PORT": str(ports.jaeger_grpc),
                "JAEGER_HEALTH_PORT": str(ports.jaeger_health),
                "JAEGER_DATA": str(self.folder / "jaeger"),
                "JAEGER_UI_CONFIG": str(HERE / "jaeger-ui.json"),
                "JAEGER_UI_ASSETS": str(self._page or ""),
            }
        return {
            "OTELCOL_HOST": HOST,
            "OTELCOL_GRPC_PORT": str(ports.otlp_grpc),
            "OTELCOL_HTTP_PORT": str(ports.otlp_http),
            "OTELCOL_HEALTH_PORT": str(ports.collector_health),
            "OTELCOL_METRICS_PORT": str(ports.metrics),
            "OTELCOL_QUEUE": str(self.folder / "queue"),
            "JAEGER_ENDPOINT": f"{HOST}:{ports.jaeger_otlp}",
            "SINK_ENDPOINT": f"http://{HOST}:{ports.sink}",
            "SINK_TOKEN_FILE": str(self._token_file),
        }

    def is_healthy(self, name: str) -> bool:
        """What the program's own health check says."""
        ports = self.ports
        port, path = {
            "sink": (ports.sink, "/readyz"),
            "jaeger": (ports.jaeger_health, "/status"),
            "collector": (ports.collector_health, "/"),
        }[name]
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _await(self, name: str) -> None:
        until = time.monotonic() + START_LIMIT_S
        while not self.is_healthy(name):
            if self._running[name].poll() is not None:
                raise StackFailed(f"{name} ended:\n{self.last_words(name)}")
            if time.monotonic() > until:
                raise StackFailed(
                    f"{name} is not healthy after {START_LIMIT_S:.0f} s:\n{self.last_words(name)}"
                )
            time.sleep(0.05)


def main(words: list[str]) -> int:
    """Run the stack until Ctrl-C or SIGTERM."""
    options = _parser().parse_args(words)
    for number in (signal.SIGINT, signal.SIGTERM):  # in the background of a script SIGINT is ignored
        signal.signal(number, signal.default_int_handler)
    try:
        settings = Settings.load(os.environ, {"journal": options.journal})
        ports = Ports(*free_ports()) if options.free_ports else None
        stack = Stack(settings.home / "stack", settings.journal, ports, options.page)
    except AgentTelemetryError as error:
        print(f"{error}\n  {error.hint or ''}".rstrip(), file=sys.stderr)
        return 2
    try:
        stack.start()
        print("\n".join(_greeting(stack, options.journal)), flush=True)
        while (name := stack.ended()) is None:
            time.sleep(0.2)
        print(f"{name} ended:\n{stack.last_words(name)}", file=sys.stderr)
        return 1
    except (StackFailed, build.NotBuildable) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        stack.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make stack", description="Collector, Jaeger and sink on this machine."
    )
    parser.add_argument("--journal", help="where the sink writes: as AGENT_TELEMETRY_JOURNAL")
    parser.add_argument("--free-ports", action="store_true", help="listen on any ports, beside another stack")
    parser.add_argument("--page", type=Path, help="a build of Jaeger's page")
    return parser


def _greeting(stack: Stack, journal: str | None) -> Iterator[str]:
    usual = stack.ports == Ports()
    options = "" if usual else f" --endpoint {stack.endpoint} --jaeger {stack.jaeger}"
    options += f" --journal {shlex.quote(without_password(journal))}" if journal else ""
    yield f"endpoint  {stack.endpoint}"
    yield f"journal   {without_password(stack.journal)}"
    yield f"Jaeger    {stack.jaeger}"
    yield f"logs      {stack.folder}"
    yield f'In another shell: eval "$(agent-telemetry env{options})"'
    yield "Ctrl-C stops all."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
