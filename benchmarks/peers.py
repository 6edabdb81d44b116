"""What capture adds, beside what other instrumentations of the openai client add, in one run.

    python benchmarks/peers.py [rounds]

Each round runs every subject once, in a process of its own, in the environment that ``make generations``
makes for them (``requirements/peers.txt``). CPU time of the client's process against a scripted server in
another one; the table has medians over the rounds, as difference to the bare client of the same round. The
others are as their own documentation switches them on, exporting to memory, and without content where they
can. Ours has every event on the disk when the call returns; theirs keep spans in memory.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SUBJECTS = {
    "bare": {},
    "ours": {},
    "genai-openai 1.3b0": {},
    "OpenLLMetry 0.62.4": {},
    "OpenLLMetry 0.62.4, no content": {"TRACELOOP_TRACE_CONTENT": "false"},
    "OpenInference 0.1.66": {},
    "OpenInference 0.1.66, no content": {
        "OPENINFERENCE_HIDE_INPUTS": "true",
        "OPENINFERENCE_HIDE_OUTPUTS": "true",
    },
    "logfire 6.0.0b8": {},
    "Langfuse 5.0.4": {},
}
COLUMNS = ("call", "chat chunk", "responses chunk", "turn of 40", "import ms", "memory MB")
CHUNKS = 500


def switch_on(subject: str) -> None:
    from tests import peer_side

    way = {"genai": "genai_openai", "OpenLLMetry": "openllmetry", "OpenInference": "openinference"}
    name = subject.split()[0].split("-")[0]
    if subject == "ours":
        import agent_shim

        agent_shim.instrument()
    elif subject != "bare":
        getattr(peer_side, way.get(name, name.lower()))()


def measure(subject: str, url: str) -> dict[str, float]:
    """Run in the process of one subject: all its columns."""
    import openai

    from benchmarks.capture import history

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    switch_on(subject)
    found = {"import ms": (time.process_time() - start) * 1e3}
    client = openai.OpenAI(base_url=url, api_key="sk-benchmark-0123456789")
    chat: Any = client.chat.completions.create
    ask: Any = client.responses.create
    hello, turns = [{"role": "user", "content": "hello"}], history(40)
    usage = {"include_usage": True}
    found["call"] = cpu(lambda: chat(model="gpt-5", messages=hello), 60)
    stream = cpu(lambda: list(chat(model="gpt-5", messages=hello, stream=True, stream_options=usage)), 4)
    found["chat chunk"] = stream / CHUNKS
    found["responses chunk"] = cpu(lambda: list(ask(model="gpt-5", input="hello", stream=True)), 4) / CHUNKS
    found["turn of 40"] = cpu(lambda: chat(model="gpt-5", messages=turns), 15)
    found["memory MB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return found


def cpu(work: Callable[[], object], times: int) -> float:
    """CPU microseconds of one execution, after one to warm up."""
    work()
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times * 1e6


def run(python: Path, subject: str, url: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as home:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "AGENT_TELEMETRY_HOME": home,
            "LANGFUSE_PUBLIC_KEY": "pk-lf-x",
            "LANGFUSE_SECRET_KEY": "sk-lf-x",
            "LANGFUSE_BASE_URL": "http://127.0.0.1:9",
            "LANGFUSE_TIMEOUT": "1",
            **SUBJECTS[subject],
        }
        command = [python, __file__, "--measure", subject, url]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise SystemExit(f"{subject}: {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3])))
        return
    from benchmarks.capture import serve
    from tests.generations import PEERS, interpreter

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    url = here.recv()
    python = interpreter(PEERS)
    results = [{subject: run(python, subject, url) for subject in SUBJECTS} for _ in range(rounds)]
    here.send(None)
    server.join(5)
    print(f"{rounds} rounds, medians; CPU us beyond the bare client of the same round")
    print(f"{'':34}" + "".join(f"{column:>16}" for column in COLUMNS))
    for subject in SUBJECTS:
        cells = []
        for column in COLUMNS:
            base = 0.0 if subject == "bare" else 1.0
            values = [one[subject][column] - base * one["bare"][column] for one in results]
            cells.append(f"{statistics.median(values):16.1f}")
        print(f"{subject:34}" + "".join(cells))


if __name__ == "__main__":
    main()
