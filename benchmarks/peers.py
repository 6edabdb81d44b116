"""What capture adds, beside what other instrumentations of the openai client add, in one run.

    python benchmarks/peers.py [rounds]

Each round runs every subject once, in a process of its own, in the environment that ``make generations``
makes for them (``requirements/peers.txt``), against a scripted server in another process. A process measures
its columns bare, switches the subject on, and measures them again: what is printed is the difference, CPU
time of the client's process, medians over the rounds. The others are as their own documentation switches
them on, exporting to memory, and without content where they can. Ours has every event on the disk when the
call returns; theirs keep spans in memory.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SUBJECTS: dict[str, dict[str, str]] = {
    "ours": {},
    "ours, with content": {"AGENT_TELEMETRY_CONTENT": "on"},
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
    if subject.startswith("ours"):
        import agent_shim

        agent_shim.instrument()
    else:
        getattr(peer_side, way.get(name, name.lower()))()


def measure(subject: str, url: str) -> dict[str, float]:
    """Run in the process of one subject: what it adds, in all columns, and what is spent without it."""
    import openai

    client = openai.OpenAI(base_url=url, api_key="sk-benchmark-0123456789")
    bare, before = columns(client), peak_mb()
    start = time.process_time()
    switch_on(subject)
    added = {"import ms": (time.process_time() - start) * 1e3}
    # a client of its own: not every instrumentation sees those made before it
    client = openai.OpenAI(base_url=url, api_key="sk-benchmark-0123456789")
    captured = columns(client)
    added |= {name: captured[name] - value for name, value in bare.items()}
    added["memory MB"] = peak_mb() - before
    return added | {f"bare {name}": value for name, value in bare.items()}


def columns(client: Any) -> dict[str, float]:
    from benchmarks.capture import history

    chat, ask = client.chat.completions.create, client.responses.create
    hello, turns = [{"role": "user", "content": "hello"}], history(40)
    usage = {"include_usage": True}
    stream = cpu(lambda: list(chat(model="gpt-5", messages=hello, stream=True, stream_options=usage)), 12)
    events = cpu(lambda: list(ask(model="gpt-5", input="hello", stream=True)), 12)
    return {
        "call": cpu(lambda: chat(model="gpt-5", messages=hello), 60),
        "chat chunk": stream / CHUNKS,
        "responses chunk": events / CHUNKS,
        "turn of 40": cpu(lambda: chat(model="gpt-5", messages=turns), 50),
    }


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu(work: Callable[[], object], times: int) -> float:
    """CPU microseconds of one execution, after some to warm up; the median of five parts."""
    for _ in range(max(1, times // 5)):
        work()
    parts = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(max(1, times // 5)):
            work()
        parts.append((time.process_time() - start) / max(1, times // 5) * 1e6)
    return statistics.median(parts)


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
    print(f"{rounds} rounds, medians\n")
    print("| CPU µs added | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    everything = [one for round_ in results for one in round_.values()]
    print(row("bare client, beside it", everything, [f"bare {name}" for name in COLUMNS]))
    for subject in SUBJECTS:
        print(row(subject, [round_[subject] for round_ in results], COLUMNS))


def row(name: str, found: list[dict[str, float]], columns: Sequence[str]) -> str:
    cells = [statistics.median(one[c] for one in found) if c in found[0] else None for c in columns]
    return f"| {name} | " + " | ".join("" if cell is None else f"{cell:.1f}" for cell in cells) + " |"


if __name__ == "__main__":
    main()
