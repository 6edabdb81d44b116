"""Records what two agents say of themselves over OTLP: Claude Code and Codex, the programs themselves.

Run by hand, in a network namespace that has nothing but its loopback, so that nothing leaves the machine:

    npm install @anthropic-ai/claude-code@2.1.330 @openai/codex@0.169.0
    unshare -n sh -c 'ip link set lo up; python tests/foreign/record_agents.py node_modules tests/foreign'

The answers are scripted, on the loopback; the programs are those of the packages. ``<name>.<signal>.pb`` are
the bodies of all export requests that they sent, one after the other, which protobuf reads as one. Of them
only the name of this machine, those of folders and the hash that stands for its user are replaced
(`scrubbed`).
"""

from __future__ import annotations

import json
import platform
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from telemetry.testing import (
    Answer,
    Delivery,
    ScriptedServer,
    ToolCall,
    Usage,
    bad_request,
    calls,
    server_error,
)

CLAUDE = "@anthropic-ai/claude-code-linux-x64/claude"
CODEX = "@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex"
PROMPT = "a private question"
LIMIT_S = 180
RUN = "018f3a5c7d2e7000800000000000cafe"
"""Handed to Claude Code as a resource attribute; Codex is given none, so that its session is its run."""

CONFIG = """
model = "gpt-5"
model_provider = "scripted"
[model_providers.scripted]
name = "scripted"
base_url = "{url}"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
[otel]
environment = "test"
exporter = {{ otlp-http = {{ endpoint = "{sink}/v1/logs", protocol = "binary" }} }}
"""

Sent = list[tuple[str, bytes]]
"""Signal and body of each export request."""


class Receiver(BaseHTTPRequestHandler):
    """Takes every export request as it is."""

    sent: Sent

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.sent.append((self.path.rpartition("/")[2], body))
        self.send_response(200)
        self.send_header("content-type", self.headers["content-type"])
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Messages(BaseHTTPRequestHandler):
    """Answers as Anthropic's Messages API does, from a script."""

    protocol_version = "HTTP/1.1"
    script: Iterator[dict[str, Any]]
    count = 0

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        turn = next(self.script)
        type(self).count += 1
        if "error" in turn:
            self._send(
                turn["status"], json.dumps({"type": "error", "error": turn["error"]}), "application/json"
            )
        else:
            events = _message(turn, str(asked["model"]), self.count)
            lines = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
            self._send(200, "".join(lines), "text/event-stream")

    def do_HEAD(self) -> None:
        self._send(200, "", "text/plain")

    def _send(self, status: int, text: str, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.send_header("request-id", f"req_scripted{self.count}")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


def _message(turn: dict[str, Any], model: str, number: int) -> Iterator[dict[str, Any]]:
    usage = dict(turn["usage"])
    block = {"type": "tool_use", "id": f"toolu_scripted{number}", "name": "Bash", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": json.dumps(turn["input"])}
    head = {"id": f"msg_scripted{number}", "type": "message", "role": "assistant", "model": model}
    yield {"type": "message_start", "message": {**head, "content": [], "stop_reason": None, "usage": usage}}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    stop = {"stop_reason": "tool_use", "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": usage["output_tokens"]}}
    yield {"type": "message_stop"}


def _shell(command: str, **usage: int) -> dict[str, Any]:
    return {"input": {"command": command, "description": "a step"}, "usage": usage}


def _error(status: int, kind: str, message: str) -> dict[str, Any]:
    return {"status": status, "error": {"type": kind, "message": message}}


def claude(program: Path, folder: Path, sink: str) -> None:
    """A tool that works, a call that is refused once, a tool that fails, a call that is refused for good."""
    usage = {"input_tokens": 1000, "output_tokens": 50}
    cached = {"cache_read_input_tokens": 800, "cache_creation_input_tokens": 100}
    script = (
        _shell("echo hello", **usage, **cached),
        _error(529, "overloaded_error", "Overloaded"),
        _shell("exit 3", input_tokens=1200, output_tokens=20),
    )
    Messages.script = chain(script, repeat(_error(400, "invalid_request_error", "messages: text is empty")))
    variables = {
        "ANTHROPIC_BASE_URL": _served(Messages),
        "ANTHROPIC_API_KEY": "sk-ant-scripted",
        "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
        "CLAUDE_CODE_ENHANCED_TELEMETRY_BETA": "1",  # spans too
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink,
        "OTEL_RESOURCE_ATTRIBUTES": f"agent_telemetry.run={RUN}",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "IS_SANDBOX": "1",  # as root it refuses to work without asking, but in a sandbox
    }
    options = ["--dangerously-skip-permissions", "--model", "claude-sonnet-4-5"]
    _run([str(program / CLAUDE), "-p", PROMPT, *options], folder, variables)


def codex(program: Path, folder: Path, sink: str) -> None:
    """A tool, a 500 that is tried again, a response that fails, a stream that breaks, a refusal for good."""
    script = (
        calls(
            ToolCall("exec_command", {"cmd": "echo hello"}), usage=Usage(1000, 50, cached=800, reasoning=30)
        ),
        server_error(500),
        Answer("half", ended="failed", usage=None),
        Answer("half", usage=Usage(70, 7), delivery=Delivery(fault="close", after=3)),
        calls(ToolCall("exec_command", {"cmd": "exit 3"}), usage=Usage(1200, 20)),
        calls(ToolCall("no_such_tool", {}), usage=Usage(300, 30)),
        bad_request("Your input exceeds the context window.", code="context_length_exceeded"),
    )
    with ScriptedServer(*script, prefix="codex") as server:
        (folder / "config.toml").write_text(CONFIG.format(url=server.url, sink=sink))
        variables = {
            "CODEX_HOME": str(folder),
            "OPENAI_API_KEY": "sk-scripted",
            "OTEL_BLRP_SCHEDULE_DELAY": "20",  # it ends without handing over what its queue still holds
        }
        options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
        _run([str(program / CODEX), "exec", *options, PROMPT], folder, variables)
        assert server.left == 0


def _run(command: list[str], folder: Path, variables: dict[str, str]) -> None:
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), **variables}
    done = subprocess.run(
        command, cwd=folder, env=environ, stdin=-3, capture_output=True, text=True, timeout=LIMIT_S
    )
    print(done.returncode, done.stdout[-500:], done.stderr[-500:])


def _served(handler: type[BaseHTTPRequestHandler]) -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def scrubbed(body: bytes, folder: str) -> bytes:
    """`body` without the names of this machine; each is replaced by as many other bytes."""
    names = (folder, socket.gethostname(), platform.release())
    for secret in map(str.encode, names):
        body = re.sub(rb"(?<![a-z])" + re.escape(secret) + rb"(?![a-z])", b"x" * len(secret), body)
    return re.sub(rb"[0-9a-f]{64}", b"0" * 64, body)


def record(name: str, agent: Callable[[Path, Path, str], None], programs: Path, out: Path) -> None:
    sent = Receiver.sent = []
    with tempfile.TemporaryDirectory() as folder:
        agent(programs.resolve(), Path(folder), _served(Receiver))
    for signal in {signal for signal, _ in sent}:
        bodies = (scrubbed(body, folder) for of, body in sent if of == signal)
        (out / f"{name}.{signal.replace('traces', 'spans')}.pb").write_bytes(b"".join(bodies))


if __name__ == "__main__":
    record("claude-code", claude, Path(sys.argv[1]), Path(sys.argv[2]))
    record("codex", codex, Path(sys.argv[1]), Path(sys.argv[2]))
