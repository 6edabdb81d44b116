"""What capture adds to a program that uses the openai client: CPU per call and per chunk, import, memory.

    python benchmarks/capture.py [rounds]

Bare and captured take turns in one process, block by block, against a scripted server in another, so that
a drift of the machine's speed hits both. CPU time of the client's process, medians over the rounds; the
added time is the median of the differences of neighbouring blocks. Captured means: on disk when the call
returns.
"""

from __future__ import annotations

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

CHUNKS = 500


def serve(pipe: Any) -> None:
    from telemetry.testing import Answer, ScriptedServer

    def answer(body: dict[str, Any]) -> Answer:
        return Answer("x " * CHUNKS if body.get("stream") else "hello")

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


def compare(name: str, work: Callable[[], object], times: int, rounds: int, per: int = 1) -> None:
    import agent_shim

    measure(work, times)
    bare, captured = [], []
    for _ in range(rounds):
        bare.append(measure(work, times) / per)
        with agent_shim.run():
            captured.append(measure(work, times) / per)
        agent_shim.uninstrument()
    added = statistics.median(c - b for b, c in zip(bare, captured, strict=True))
    middle = statistics.median(bare)
    print(f"{name:34} {middle:10.1f} {added:10.1f} {added / middle:8.2%}")


def import_cost() -> None:
    program = """
import sys, time
{before}
sys.path.insert(0, {root!r})
start = time.process_time()
import agent_shim.instrumentation, agent_shim.attached
print(time.process_time() - start)
"""
    for name, before in (("import, alone", ""), ("import, after openai", "import openai")):
        command = [sys.executable, "-c", program.format(before=before, root=str(ROOT))]
        times = [
            float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(7)
        ]
        print(f"{name:34} {'':10} {statistics.median(times) * 1e3:7.1f} ms")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    url = here.recv()
    with tempfile.TemporaryDirectory() as home:
        os.environ["AGENT_TELEMETRY_HOME"] = home
        os.environ["AGENT_TELEMETRY_INCLUDE_USAGE"] = "off"
        import openai

        client = openai.OpenAI(base_url=url, api_key="sk-benchmark-0123456789")
        chat, ask = client.chat.completions.create, client.responses.create
        hello = [{"role": "user", "content": "hello"}]
        print(
            f"openai {openai.__version__}, Python {sys.version.split()[0]}, {rounds} rounds;"
            " CPU us, added us, added"
        )
        compare("call (chat)", lambda: chat(model="gpt-5", messages=hello), 40, rounds)  # type: ignore[arg-type]
        compare("call (responses)", lambda: ask(model="gpt-5", input="hello"), 40, rounds)
        for messages in (10, 40, 100, 1000):
            turns = history(messages)
            compare(
                f"turn with {messages} messages",
                lambda t=turns: chat(model="gpt-5", messages=t),
                4 if messages > 100 else 15,
                rounds,
            )  # type: ignore[misc]
        stream = lambda: list(chat(model="gpt-5", messages=hello, stream=True))  # type: ignore[call-overload] # noqa: E731
        compare("chunk (chat stream)", stream, 3, rounds, CHUNKS)
        stream = lambda: list(ask(model="gpt-5", input="hello", stream=True))  # noqa: E731
        compare("chunk (responses stream)", stream, 3, rounds, CHUNKS)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        import agent_shim

        with agent_shim.run():
            for _ in range(2000):
                chat(model="gpt-5", messages=hello)  # type: ignore[arg-type]
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{'memory grown over 2,000 calls':34} {'':10} {grown:7.1f} MB")
    import_cost()
    here.send(None)
    server.join(5)


if __name__ == "__main__":
    main()
