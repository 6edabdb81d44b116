"""Capture tried out: the agent's own interpreter makes one call, to a server of ours on this machine.

Promises, each with its test in ``tests/test_doctor.py``:

* The agent is not started, and nothing is sent anywhere else; what is recorded goes into a folder of its
  own, which is removed again.
* What is told is what was recorded, not what should have been.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from agent_shim import spool

LIMIT_S = 30.0
"""A cold import of a client on a slow disk takes some seconds; a doctor does not wait for ever."""
TOKENS = (11, 7)
"""Input and output that the server tells."""

PROGRAM = """
import openai, sys
client = openai.OpenAI(base_url=sys.argv[1], api_key="sk-self-test-0123456789", max_retries=0)
client.chat.completions.create(model="self-test", messages=[{"role": "user", "content": "hello"}])
"""
ANSWER = {
    "id": "chatcmpl-self-test",
    "object": "chat.completion",
    "created": 0,
    "model": "self-test",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": TOKENS[0], "completion_tokens": TOKENS[1], "total_tokens": sum(TOKENS)},
}


class Tried(NamedTuple):
    """What one call left behind."""

    calls: int
    requests: int
    tokens: tuple[Any, Any] | None
    """Input and output as recorded."""
    failed: list[str]
    """Hooks that did not take, failures of ours, and what the program said where it ended badly."""

    @property
    def well(self) -> bool:
        """Whether all of it was seen, once."""
        return (self.calls, self.requests, self.tokens, self.failed) == (1, 1, TOKENS, [])


def try_capture(interpreter: str, shim: Path, environ: Mapping[str, str]) -> Tried:
    """Make one call in `interpreter`, hooked from `shim`. Raises OSError and `subprocess.SubprocessError`."""
    with tempfile.TemporaryDirectory() as home, _server() as url:
        own = {name: value for name, value in environ.items() if not name.startswith("AGENT_TELEMETRY_")}
        run = spool.new_id()
        own |= {"AGENT_TELEMETRY_HOME": home, "AGENT_TELEMETRY_RUN": run, "NO_PROXY": "*", "no_proxy": "*"}
        command = [interpreter, str(shim / "bootstrap.py"), "-c", PROGRAM, url]
        done = subprocess.run(command, env=own, cwd=home, capture_output=True, text=True, timeout=LIMIT_S)
        tried = _tried(_events(Path(home) / "spool" / run))
    said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    return tried._replace(failed=tried.failed + said) if done.returncode else tried


def _events(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob(f"*{spool.SUFFIX}"))
    return [json.loads(line.body) for file in files for line in spool.read(file) if line.body]


def _tried(events: list[dict[str, Any]]) -> Tried:
    ends = [event["data"] for event in events if event["name"] == "llm.call.finished"]
    requests = [event["data"] for event in events if event["name"] == "llm.request.finished"]
    usage = ends[0].get("usage") if ends else None
    failed = [
        f"{event['data'].get('point') or event['data'].get('where')}: {event['data']['error_message']}"
        for event in events
        if event["name"] in ("hook.failed", "capture.failed")
    ]
    tokens = (usage.get("prompt_tokens"), usage.get("completion_tokens")) if usage else None
    return Tried(len(ends), len(requests), tokens, failed)


@contextmanager
def _server() -> Iterator[str]:
    """A server that gives `ANSWER` to everything; its base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the doctor's own lines are what is read."""
