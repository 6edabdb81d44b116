"""How fast the sink is: from OTLP bytes on a socket to committed rows, beside the limits that are known.

    python benchmarks/sink.py [--rounds 5] [--batches 20] [--only http,copy,disk,cost,sinks]

* ``http``: a sink as a process of its own, on one core, fed by four connections from this process: HTTP and
  gRPC, SQLite and PostgreSQL; with the peak of its memory.
* ``copy``: the journal on PostgreSQL in this process, beside ``COPY`` of the very same event and view rows,
  ready made, into the same tables with as many commits.
* ``disk``: bytes of the database per event, beside the bytes of the event itself.
* ``cost``: ``cost --by commit`` over 10^4, 10^5 and 10^6 calls. Those of the first are folded from events; of
  the others the rows of calls are multiplied, because only their number matters to the question.
* ``sinks``: one and two sinks on one PostgreSQL; two with runs of their own, as behind a collector that
  spreads by trace id, and two that get events of the same runs.

Every number is the median of the rounds; of two things that are compared one follows the other in each round.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path

import grpc
from sqlalchemy import create_engine, text

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.ingest import RECORDS, requests
from telemetry import otlp, queries
from telemetry.costs import price_pending
from telemetry.database import url_of
from telemetry.filters import Filters
from telemetry.journal import Journal
from telemetry.pricing import PriceBook
from telemetry.rows import COLUMNS
from tests.backends import Postgres, started
from tests.journals import Told, usage

CONNECTIONS = 4
TABLES = ("identifier", "stored_event", *COLUMNS)
LOGS = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

Send = Callable[[bytes], None]

_IDS, _OTHER_IDS = b'"0000000000', b'"1000000000'
"""How the ids of runs and producers begin in `benchmarks.ingest`, and others of the same length."""


# --- sinks --------------------------------------------------------------------------------------------


class Sink:
    """A sink as a process, on one core where the system can do that."""

    def __init__(self, place: str, core: int = 0) -> None:
        self.http, self.grpc = _free_port(), _free_port()
        pin = f"import os; hasattr(os, 'sched_setaffinity') and os.sched_setaffinity(0, {{{core}}}); "
        code = f"from telemetry.sink import serve; serve({place!r}, '127.0.0.1', {self.http}, {self.grpc})"
        self.process = subprocess.Popen([sys.executable, "-c", pin + code], cwd=ROOT)
        while not self._answers():
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            connection = HTTPConnection("127.0.0.1", self.http, timeout=30)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def memory_mb(self, which: str = "VmHWM") -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{which}:")[2].split()[0]) / 1024

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    @contextmanager
    def over_http(self) -> Iterator[Send]:
        connection = HTTPConnection("127.0.0.1", self.http, timeout=60)

        def send(body: bytes) -> None:
            connection.request("POST", "/v1/logs", body, {"Content-Type": otlp.PROTOBUF})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status

        yield send
        connection.close()

    @contextmanager
    def over_grpc(self) -> Iterator[Send]:
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc}", own) as channel:
            export = channel.unary_unary(LOGS)
            yield lambda body: export(body, timeout=60)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def rate(sinks: Sequence[Sink], batches: list[bytes], protocol: str) -> float:
    """Events per second until the last one is committed; the connections are spread over the sinks."""
    shares = [batches[at::CONNECTIONS] for at in range(CONNECTIONS)]

    def feed(at: int) -> None:
        sink = sinks[at % len(sinks)]
        with sink.over_http() if protocol == "http" else sink.over_grpc() as send:
            for body in shares[at]:
                send(body)

    began = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(feed, range(CONNECTIONS)))
    return len(batches) * RECORDS / (time.perf_counter() - began)


@contextmanager
def place_of(kind: str, folder: Path, server: Postgres | None) -> Iterator[str]:
    """A place for one journal."""
    if kind == "sqlite":
        yield str(folder / f"{time.monotonic_ns()}.db")
    else:
        assert server is not None
        url = server.create()
        yield url
        server.drop(url)


def served(rounds: int, batches: list[bytes], folder: Path, server: Postgres | None) -> None:
    """Both protocols into both databases."""
    kinds = ["sqlite", *(["postgresql"] if server else [])]
    rates: dict[tuple[str, str], list[float]] = {}
    idle: list[float] = []
    peak: list[float] = []
    for _ in range(rounds):
        for kind in kinds:
            for protocol in ("http", "grpc"):
                with place_of(kind, folder, server) as place:
                    sink = Sink(place)
                    idle.append(sink.memory_mb("VmRSS"))
                    rates.setdefault((kind, protocol), []).append(rate([sink], batches, protocol))
                    peak.append(sink.memory_mb())
                    sink.stop()
    shown = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "http": "HTTP", "grpc": "gRPC"}
    rows = [(f"{shown[kind]}, {shown[protocol]}", *_told(found)) for (kind, protocol), found in rates.items()]
    table("from bytes on a socket to committed rows", "events/s", "lowest to highest", rows=rows)
    memory = {"idle": statistics.median(idle), f"most in {len(peak)} loads": max(peak)}
    table("memory of the sink", "found", rows=[(label, f"{mb:.0f} MB") for label, mb in memory.items()])


def several(rounds: int, batches: list[bytes], folder: Path, server: Postgres | None) -> None:
    """One and two sinks on one PostgreSQL, each on a core of its own."""
    others = [batch.replace(_IDS, _OTHER_IDS) for batch in batches]
    # Connections are dealt to the sinks in turn, and requests to the connections.
    apart = [(batches, others)[at % 2][at] for at in range(len(batches))]
    ways = {
        "one": (1, apart),
        "two, each with runs of its own": (2, apart),
        "two that get events of the same runs": (2, batches),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (number, given) in ways.items():
            with place_of("postgresql", folder, server) as place:
                sinks = [Sink(place, core) for core in range(number)]
                rates[way].append(rate(sinks, given, "http"))
                for sink in sinks:
                    sink.stop()
    rows = []
    for way, found in rates.items():
        ratio = statistics.median(b / a for a, b in zip(rates["one"], found, strict=True))
        rows.append((way, *_told(found), f"{ratio:.2f}"))
    table("sinks on one PostgreSQL", "events/s", "lowest to highest", "of one sink", rows=rows)


# --- beside COPY ----------------------------------------------------------------------------------------


def beside_copy(rounds: int, batches: list[bytes], folder: Path, server: Postgres | None) -> None:
    """The journal on PostgreSQL and COPY of its rows, one after the other."""
    ours: list[float] = []
    limit: list[float] = []
    total = len(batches) * RECORDS
    for _ in range(rounds):
        with place_of("postgresql", folder, server) as place, place_of("postgresql", folder, server) as other:
            with Journal.open(place) as journal:
                began = time.perf_counter()
                for batch in batches:
                    journal.ingest(otlp.decode_logs(batch, otlp.PROTOBUF).bodies, "benchmark")
                ours.append(total / (time.perf_counter() - began))
            limit.append(total / copy(place, other, len(batches)))
    ratio = statistics.median(a / b for a, b in zip(ours, limit, strict=True))
    rows = [
        ("decode, fold, `COPY` of events and views, commit", *_told(ours)),
        ("`COPY` of the same rows, ready made, with as many commits", *_told(limit)),
        ("ratio", f"{ratio:.2f}", ""),
    ]
    table("PostgreSQL beside its limit, in one process", "events/s", "lowest to highest", rows=rows)


def copy(source: str, target: str, commits: int) -> float:
    """Seconds that ``COPY`` takes for the rows of `source`."""
    Journal.open(target).close()
    engines = [create_engine(url_of(place)) for place in (source, target)]
    with engines[0].connect() as connection:
        rows = {
            name: [tuple(row) for row in connection.execute(text(f'SELECT * FROM "{name}"'))]
            for name in TABLES
        }
    raw = engines[1].raw_connection()
    began = time.perf_counter()
    for part in range(commits):
        with raw.cursor() as cursor:
            for name, found in rows.items():
                share = found[part * len(found) // commits : (part + 1) * len(found) // commits]
                with cursor.copy(f'COPY "{name}" FROM STDIN') as target_table:
                    for row in share:
                        target_table.write_row(row)
        raw.commit()
    elapsed = time.perf_counter() - began
    raw.close()
    for engine in engines:
        engine.dispose()
    return elapsed


# --- disk and questions -----------------------------------------------------------------------------------


def disk(batches: list[bytes], folder: Path, server: Postgres | None) -> None:
    """Bytes in the database per event."""
    events = len(batches) * RECORDS
    sent = sum(map(len, batches)) / events
    path = folder / "disk.db"
    with Journal.open(path) as journal:
        for batch in batches:
            journal.ingest(otlp.decode_logs(batch, otlp.PROTOBUF).bodies, "benchmark")
        with journal.engine.connect() as connection:
            body = connection.execute(text("SELECT avg(length(body)) FROM event")).scalar_one()
    size = path.stat().st_size / events  # closed, so that the write-ahead log is in it
    rows = [("the event itself", f"{body:,.0f}"), ("on the wire", f"{sent:,.0f}"), ("SQLite", f"{size:,.0f}")]
    if server is not None:
        rows.append(("PostgreSQL", f"{_on_postgresql(batches, folder, server):,.0f}"))
    table("bytes per event, with its rows in all views", "found", rows=rows)


def _on_postgresql(batches: list[bytes], folder: Path, server: Postgres) -> float:
    with place_of("postgresql", folder, server) as place, Journal.open(place) as journal:
        asked = text("SELECT pg_database_size(current_database())")
        with journal.engine.connect() as connection:
            before = connection.execute(asked).scalar_one()
        for batch in batches:
            journal.ingest(otlp.decode_logs(batch, otlp.PROTOBUF).bodies, "benchmark")
        with journal.engine.connect() as connection:
            grown = connection.execute(asked).scalar_one() - before
    return float(grown / (len(batches) * RECORDS))


def cost(rounds: int, folder: Path) -> None:
    """``cost --by commit`` as the number of calls grows, the number of commits staying at 100."""
    path, book = folder / "cost.db", PriceBook({}, "benchmark")
    rows: list[tuple[str, ...]] = []
    with Journal.open(path) as journal:
        for number in range(1, 101):
            run = Told(number).start(commit=f"{number:040x}")
            for call in range(100):
                run.call(usage=usage(1000 + call, 10))
            journal.ingest(run.finish().bodies, "benchmark")
        price_pending(journal.engine, book)
        for calls in (10**4, 10**5, 10**6):
            if calls > 10**4:
                _multiply(journal)
            elapsed = list(islice(_asked(journal, book), rounds + 2))[2:]
            stored = _count(journal)
            assert stored == calls, stored
            rows.append((f"{calls:,} calls", f"{statistics.median(elapsed) * 1000:.0f} ms"))
    table("`cost --by commit`, 100 commits", "found", rows=rows)


def _asked(journal: Journal, book: PriceBook) -> Iterator[float]:
    while True:
        began = time.perf_counter()
        found = queries.cost(journal.engine, book, "commit", Filters(), None)
        yield time.perf_counter() - began
        assert len(found.lines) == 100


def _multiply(journal: Journal) -> None:
    """Nine more calls beside each, in the rows of calls and in their sums."""
    columns = ", ".join(f'"{name}"' for name in COLUMNS["llm_call"] if name not in ("run_id", "call_id"))
    copies = " UNION ALL ".join(f"SELECT {number} AS n" for number in range(1, 10))
    with journal.engine.begin() as connection:
        stored = _count(journal)
        connection.execute(text(
            f"INSERT INTO llm_call (run_id, call_id, {columns})"
            f" SELECT run_id, call_id || '-' || {stored} || '-' || n, {columns} FROM llm_call, ({copies})"
        ))  # fmt: skip
        for table in ("usage", "cost"):
            connection.execute(text(f'UPDATE "{table}" SET calls = calls * 10'))


def _count(journal: Journal) -> int:
    with journal.engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM llm_call")).scalar_one())


def table(*head: str, rows: Sequence[tuple[str, ...]]) -> None:
    """As it stands in ``docs/benchmarks.md``."""
    for line in (head, ("---",) * len(head), *rows):
        print("| " + " | ".join(line) + " |")
    print(flush=True)


def _told(found: list[float]) -> tuple[str, str]:
    return f"{statistics.median(found):,.0f}", f"{min(found):,.0f} to {max(found):,.0f}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--batches", type=int, default=20)
    options.add_argument("--only", default="http,copy,disk,cost,sinks")
    given = options.parse_args()
    wanted = given.only.split(",")
    batches = requests(given.batches)
    with tempfile.TemporaryDirectory() as name, started() as server:
        folder = Path(name)
        print(
            f"{given.batches * RECORDS:,} events in {given.batches} requests; load {os.getloadavg()[0]:.1f}"
        )
        if "http" in wanted:
            served(given.rounds, batches, folder, server)
        if "copy" in wanted and server:
            beside_copy(given.rounds, batches, folder, server)
        if "sinks" in wanted and server:
            several(given.rounds, batches, folder, server)
        if "disk" in wanted:
            disk(batches, folder, server)
        if "cost" in wanted:
            cost(given.rounds, folder)


if __name__ == "__main__":
    main()
