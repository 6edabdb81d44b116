"""What capture adds to a program that uses the openai client: CPU per call and per chunk, import, memory.

    python benchmarks/capture.py [rounds]

Bare and captured take turns in one process, block by block, against a scripted server in another, so that
a drift of the machine's speed hits both. CPU time of the client's process, medians over the rounds; the
added time is the median of the differences of neighbouring blocks. Captured means: on disk when the call
returns. *Looking* is the part of it that grows with the request, timed apart: tool calls paired with their
outputs, parameters, tools, the hash of the body.
"""

from __future__ import annotations

import json
import multiprocessing
import os
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

CHUNKS = 500
HELLO = [{"role": "user", "content": "hello"}]
LONG = [{"role": "user", "content": "a long one"}]


def serve(pipe: Any) -> None:
    from telemetry.testing import Answer, ScriptedServer

    def answer(body: dict[str, Any]) -> Answer:
        chunks = 100_000 if body.get("messages") == LONG else CHUNKS
        return Answer("x " * chunks if body.get("stream") else "hello")

    with ScriptedServer(default=answer) as server:
        pipe.send(server.url)
        pipe.recv()


def history(messages: int) -> list[dict[str, Any]]:
    """An agent's turn: tool calls and their outputs of 3 kB each."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    for number in range(messages // 2):
        call = {"id": f"call_{number}", "type": "function", "function": {"name": "run", "arguments": "{}"}}
        turns.append({"role": "assistant", "content": None, "tool_calls": [call]})
        turns.append({"role": "tool", "tool_call_id": f"call_{number}", "content": "x" * 3000})
    return turns


def measure(work: Callable[[], object], times: int) -> float:
    """CPU microseconds of one execution."""
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times * 1e6


def compare(name: str, work: Callable[[], object], times: int, rounds: int, per: int = 1) -> float:
    """Print a row, and return what the bare client takes."""
    import agent_shim

    measure(work, times)
    bare, captured = [], []
    for _ in range(rounds):
        bare.append(measure(work, times) / per)
        with agent_shim.run():
            work()
            captured.append(measure(work, times) / per)
        agent_shim.uninstrument()
    added = [c - b for b, c in zip(bare, captured, strict=True)]
    middle = statistics.median(bare)
    print(
        f"| {name} | {middle:.1f} | {statistics.median(added):.1f} | {min(added):.1f} to {max(added):.1f} "
        f"| {statistics.median(added) / middle:.1%} |",
        flush=True,
    )
    return middle


def look(messages: int, bare: float) -> None:
    """Print what is spent on looking at a request of so many messages."""
    from agent_shim import openai_request as request
    from agent_shim.canonical import digest

    body = {"model": "gpt-5", "messages": history(messages)}
    content = json.dumps(body).encode()

    def work() -> None:
        request.pairing("chat.completions", body, request.Requested())
        request.parameters(body)
        request.absent("chat.completions", body)
        request.tool_names(body)
        digest(content)

    spent = statistics.median(measure(work, 5) for _ in range(21))
    print(f"| {messages} messages, {len(content):,} bytes | {bare:.0f} | {spent:.0f} | {spent / bare:.2%} |")


def resident_mb() -> float:
    """Memory of this process now (``/proc/self/statm``)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory(chat: Any) -> None:
    """Print what is resident after calls, and after chunks of one stream, as their number grows."""
    import agent_shim

    made = 0
    with agent_shim.run():
        for total in (1_000, 2_500, 5_000, 10_000):
            for _ in range(total - made):
                chat(model="gpt-5", messages=HELLO)
            made = total
            print(f"| {total:,} calls | {resident_mb():.1f} |", flush=True)
        number = 0
        for number, _ in enumerate(chat(model="gpt-5", messages=LONG, stream=True), 1):
            if number in (1_000, 10_000, 100_000):
                print(f"| chunk {number:,} of one stream | {resident_mb():.1f} |", flush=True)
        assert number > 100_000, number


def import_cost() -> None:
    program = """
import sys, time
{before}
sys.path.insert(0, {root!r})
start = time.process_time()
import agent_shim.instrumentation, agent_shim.attached
print(time.process_time() - start)
"""
    for name, before in (("alone", ""), ("after openai", "import openai")):
        command = [sys.executable, "-c", program.format(before=before, root=str(ROOT))]
        times = [
            float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1e3
            for _ in range(11)
        ]
        print(f"| import, {name} | {statistics.median(times):.1f} | {min(times):.1f} to {max(times):.1f} |")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    url = here.recv()
    with tempfile.TemporaryDirectory() as home:
        os.environ["AGENT_TELEMETRY_HOME"] = home
        os.environ["AGENT_TELEMETRY_INCLUDE_USAGE"] = "off"
        measure_all(url, rounds)
    print("\n| CPU ms | median | lowest to highest |\n|---|---|---|")
    import_cost()
    here.send(None)
    server.join(5)


def measure_all(url: str, rounds: int) -> None:
    import openai

    client = openai.OpenAI(base_url=url, api_key="sk-benchmark-0123456789")
    chat: Any = client.chat.completions.create
    ask: Any = client.responses.create
    print(f"openai {openai.__version__}, Python {sys.version.split()[0]}, {rounds} rounds\n")
    print("| CPU µs | bare | added | lowest to highest | of bare |\n|---|---|---|---|---|")
    compare("call (chat)", lambda: chat(model="gpt-5", messages=HELLO), 40, rounds)
    compare("call (responses)", lambda: ask(model="gpt-5", input="hello"), 40, rounds)
    stream = lambda: list(chat(model="gpt-5", messages=HELLO, stream=True))  # noqa: E731
    compare("chunk (chat stream)", stream, 3, rounds, CHUNKS)
    stream = lambda: list(ask(model="gpt-5", input="hello", stream=True))  # noqa: E731
    compare("chunk (responses stream)", stream, 3, rounds, CHUNKS)
    bare = {}
    for messages in (10, 40, 100, 1000):
        turn = history(messages)
        work = lambda turn=turn: chat(model="gpt-5", messages=turn)  # noqa: E731
        times = 4 if messages > 100 else 30
        bare[messages] = compare(f"turn with {messages} messages", work, times, rounds)
    print("\n| CPU µs | bare client | looking | of bare |\n|---|---|---|---|")
    for messages, spent in bare.items():
        look(messages, spent)
    print("\n| memory | MB |\n|---|---|")
    memory(chat)


if __name__ == "__main__":
    main()
