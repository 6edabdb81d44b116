"""How fast the journal takes events: from OTLP/HTTP protobuf bytes to committed rows that can be asked.

Beside it, in the same rounds and on the same core, the limit: ``sqlite3``'s ``executemany`` of the very same
event and view rows, ready made, into the same tables with the same commits. The ratio of the two says
more than either number, which depend on the machine and on what else it does.

    python benchmarks/ingest.py [--rounds 7] [--batches 40] [--beside FOLDER] [--profile]

With ``--beside`` another checkout of this project takes the same bytes, in turn with this one, each in a
process of its own: how a gain is shown on a machine that does other things as well. It prints the tables of
``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__" and "--once" not in sys.argv:
    sys.path.insert(0, str(ROOT))

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

import telemetry.sink
from agent_shim import events
from agent_shim.attributes import PRODUCER, RUN, SCOPE, SEQ, VERSION
from agent_shim.canonical import encode
from agent_shim.events import event_id
from telemetry import otlp
from telemetry.journal import Journal
from telemetry.rows import COLUMNS

RECORDS = 512
"""Log records in a request."""
RUNS = 4
"""Runs whose events arrive side by side, as from one machine with four agents."""

Rows = dict[str, list[tuple[Any, ...]]]

TOOLS = ["bash", "str_replace_based_edit_tool", "json_edit_tool", "sequentialthinking", "task_done"]


# --- the events -----------------------------------------------------------------------------------


def bodies_of_a_run(number: int) -> Iterator[bytes]:
    """Calls of an agent without end: what the shim writes for each, about a kilobyte an event."""
    run, producer = f"{number + 1:032x}", f"{number + 1:016x}{'a' * 16}"
    clock = count(1_763_769_600_000_000_000 + number, 3_000_000)
    numbers = count(1)

    def body(event: Any, **links: str) -> tuple[str, bytes]:
        seq, now = next(numbers), next(clock)
        data = {name: value for name, value in event._asdict().items() if value is not None}
        named = "".join(f',"{name}":"{identity}"' for name, identity in links.items())
        text = (
            f'{{"v":1,"run":"{run}","producer":"{producer}","seq":{seq},"name":"{event.event}"'
            f',"time":{now},"mono":{now % 10**15}{named},"data":{encode(data)}}}'
        )
        return event_id(producer, seq), text.encode()

    for call in count(1):
        tools = [f"call_{call:020x}{i}" for i in range(3)]
        began, text = body(_call_started(tools), parent=event_id(producer, 1))
        yield text
        requested, text = body(
            events.RequestStarted(
                number=1, method="POST", host="api.openai.com", path="/v1/responses", body_bytes=48_213,
                body_sha256=f"{call:064x}",
            ),
            parent=began,
        )  # fmt: skip
        yield text
        yield body(_request_finished(call), begin=requested)[1]
        yield body(_call_finished(call, tools), begin=began)[1]


def _call_started(tools: list[str]) -> events.CallStarted:
    return events.CallStarted(
        surface="responses", method="POST", path="/responses", host="api.openai.com", port=443,
        provider="openai", client="OpenAI", mode="plain", asynchronous=False, stream=False,
        model="gpt-5-2025-08-07",
        parameters={"max_output_tokens": 32768, "top_p": 1.0, "reasoning": {"effort": "high"},
                    "tools": [{"name": name, "type": "function", "strict": True} for name in TOOLS]},
        absent=["parallel_tool_calls", "service_tier", "temperature", "tool_choice", "store", "seed"],
        max_retries=2, timeout_s=600.0, message_count=57, tool_names=TOOLS, tool_outputs=tools,
        trace_parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )  # fmt: skip


def _request_finished(call: int) -> events.RequestFinished:
    limits = {"limit-requests": "10000", "remaining-requests": "9999", "reset-requests": "6ms"}
    limits |= {"limit-tokens": "30000000", "remaining-tokens": "29987654", "reset-tokens": "24ms"}
    return events.RequestFinished(
        http_status=200, http_request_id=f"req_{call:032x}", rate_limit=limits, processing_ms=1834
    )


def _call_finished(call: int, tools: list[str]) -> events.CallFinished:
    arguments = '{"command": "cd /workspace/vllm && python -m pytest tests/kernels -x -q 2>&1 | tail -40"}'
    return events.CallFinished(
        ended="completed", http_status=200, http_request_id=f"req_{call:032x}", requests=1,
        api_ns=1_912_345_678, backoff_ns=0, first_chunk_ns=1_845_000_000, chunks=1,
        response_id=f"resp_{call:040x}", response_status="completed", model="gpt-5-2025-08-07",
        tier="default", finish_reasons=["tool_calls"],
        tool_calls=[
            {"id": tool, "name": "bash", "arguments": arguments, "arguments_bytes": len(arguments),
             "arguments_sha256": f"{call:064x}"}
            for tool in tools
        ],
        usage={"input_tokens": 48_000 + call, "output_tokens": 912, "total_tokens": 48_912 + call,
               "input_tokens_details": {"cached_tokens": 47_104},
               "output_tokens_details": {"reasoning_tokens": 704}},
    )  # fmt: skip


def requests(batches: int) -> list[bytes]:
    """Export requests as a collector sends them."""
    sources = [bodies_of_a_run(number) for number in range(RUNS)]
    calls = RECORDS // RUNS
    return [_request([next(source) for source in sources for _ in range(calls)]) for _ in range(batches)]


def _request(bodies: list[bytes]) -> bytes:
    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    scope.scope.name = SCOPE
    for body in bodies:
        record = otlp.to_record(body)
        log = scope.log_records.add(time_unix_nano=record.time_ns, trace_id=bytes.fromhex(record.trace_id))
        log.event_name = record.event_name
        log.body.string_value = record.body
        for key in (RUN, PRODUCER, SEQ, VERSION):
            value = log.attributes.add(key=key).value
            mark = record.attributes[key]
            if isinstance(mark, int):
                value.int_value = mark
            else:
                value.string_value = mark
    return request.SerializeToString()


# --- the two ways ---------------------------------------------------------------------------------


class Rate(NamedTuple):
    """Events per second."""

    wall: float
    """By the clock, waiting for the disk and for other programs included."""
    cpu: float
    """Per second of processor time."""


@contextmanager
def timed(events: int, rates: list[Rate]) -> Iterator[None]:
    """Adds the rate at which `events` went through."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    rates.append(Rate(events / (time.perf_counter() - wall), events / (time.process_time() - cpu)))


def ingest(path: Path, batches: list[bytes], rates: list[Rate]) -> None:
    """Commit all batches, each by itself, and check that all is there."""
    with Journal.open(path) as journal, timed(len(batches) * RECORDS, rates):
        for batch in batches:
            journal.ingest(otlp.decode_logs(batch, otlp.PROTOBUF).bodies, "benchmark")
    expected = len(batches) * RECORDS
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM event").fetchone() == (expected,)
        assert database.execute("SELECT sum(calls) FROM usage").fetchone() == (expected // 4,)
        assert database.execute("SELECT count(*) FROM llm_request").fetchone() == (expected // 4,)


def rows_of(path: Path) -> Rows:
    """All rows that the journal made."""
    with closing(sqlite3.connect(path)) as database:
        return {
            name: database.execute(f'SELECT * FROM "{name}" ORDER BY rowid').fetchall()
            for name in ("identifier", "stored_event", *COLUMNS)
        }


def insert(path: Path, rows: Rows, batches: int, rates: list[Rate]) -> None:
    """Commit the same rows with ``executemany`` in as many transactions."""
    Journal.open(path).close()
    statements = {
        name: f'INSERT INTO "{name}" VALUES ({", ".join("?" for _ in found[0])})'
        for name, found in rows.items()
        if found
    }
    shares = {name: [_share(rows[name], i, batches) for i in range(batches)] for name in statements}
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous=FULL")
        with timed(batches * RECORDS, rates):
            for i in range(batches):
                database.execute("BEGIN IMMEDIATE")
                for name, statement in statements.items():
                    database.executemany(statement, shares[name][i])
                database.execute("COMMIT")


def _share(rows: list[tuple[Any, ...]], part: int, parts: int) -> list[tuple[Any, ...]]:
    return rows[part * len(rows) // parts : (part + 1) * len(rows) // parts]


# --- measuring ------------------------------------------------------------------------------------


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--batches", type=int, default=40)
    options.add_argument("--beside", type=Path, help="another checkout of this project")
    options.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--profile", action="store_true")
    given = options.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    batches = requests(given.batches)
    gc.freeze()  # what the benchmark itself has made is none of the journal's business
    gc.set_threshold(getattr(telemetry.sink, "GARBAGE", 700))  # as in the sink
    with tempfile.TemporaryDirectory() as folder:
        if given.profile:
            _profile(lambda: ingest(Path(folder, "profiled.db"), batches, []))
        elif given.once:
            rates: list[Rate] = []
            ingest(Path(folder, "once.db"), batches, rates)
            print(*rates[0])
        else:
            _report(given.rounds, batches, Path(folder), given.beside)


def _report(rounds: int, batches: list[bytes], folder: Path, other: Path | None) -> None:
    total = len(batches) * RECORDS
    size = sum(map(len, batches)) / total
    print(f"{total:,} events in {len(batches)} requests of {RECORDS}, {size:,.0f} bytes each on the wire\n")
    ours: list[Rate] = []
    limit: list[Rate] = []
    pairs: list[tuple[Rate, Rate]] = []
    for number in range(rounds):
        made = folder / f"ingested-{number}.db"
        ingest(made, batches, ours)
        insert(folder / f"inserted-{number}.db", rows_of(made), len(batches), limit)
        if other:
            pairs.append((_once(other, len(batches)), _once(ROOT, len(batches))))
    _table("the journal", ours, "`executemany` of the same rows", limit)
    if pairs:
        before, after = zip(*pairs, strict=True)
        _table("now", list(after), "before", list(before))
    print("load average", *(f"{load:.1f}" for load in os.getloadavg()), "on", os.cpu_count(), "cores")


def _once(checkout: Path, batches: int) -> Rate:
    """One round by the code of a checkout, in a process of its own."""
    command = [sys.executable, __file__, "--once", "--batches", str(batches)]
    environ = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    told = subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout
    return Rate(*map(float, told.split()))


def _table(one: str, ours: list[Rate], other: str, theirs: list[Rate]) -> None:
    print("| OTLP bytes to committed rows, SQLite | events/s | lowest to highest | by processor time |")
    print("|---|---|---|---|")
    for label, rates in ((one, ours), (other, theirs)):
        wall = [rate.wall for rate in rates]
        spread = f"{min(wall):,.0f} to {max(wall):,.0f}"
        print(f"| {label} | {median(wall):,.0f} | {spread} | {median(rate.cpu for rate in rates):,.0f} |")
    pairs = list(zip(ours, theirs, strict=True))
    by_clock, by_core = median(a.wall / b.wall for a, b in pairs), median(a.cpu / b.cpu for a, b in pairs)
    print(f"| ratio | {by_clock:.2f} | | {by_core:.2f} |\n")


def _profile(work: Callable[[], object]) -> None:
    profile = cProfile.Profile()
    profile.runcall(work)
    pstats.Stats(profile).sort_stats("tottime").print_stats(28)


if __name__ == "__main__":
    main()
