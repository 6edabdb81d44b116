"""Several sinks on one PostgreSQL: nothing skipped, nothing doubled, the views as of one sink alone."""

from __future__ import annotations

import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from telemetry import attempts
from telemetry.journal import Journal
from tests.journals import Told, usage
from tests.test_sink import VIEWS, RunningSink, hashes

if TYPE_CHECKING:
    from tests.backends import Postgres

pytest_plugins = ("tests.backends",)

AT_ONCE = 20
"""Events in a request."""


def runs() -> list[Told]:
    """Four runs of one commit, of forty calls each, some under its short id."""
    told = []
    for number in range(1, 5):
        run = Told(number).start(commit=("8a3f2c91" * 5)[: 40 if number % 2 else 8])
        for call in range(40):
            run.call(usage=usage(100 + call, 10), response_id=f"resp_{number}_{call}")
        told.append(run.finish())
    return told


def content(place: str) -> dict[str, list[Any]]:
    with Journal.open(place) as journal, journal.engine.connect() as connection:
        return {
            table: sorted(map(tuple, connection.execute(text(f'SELECT * FROM "{table}"'))), key=repr)
            for table in VIEWS
        }


def parts(bodies: list[bytes]) -> list[list[bytes]]:
    return [bodies[at : at + AT_ONCE] for at in range(0, len(bodies), AT_ONCE)]


def persist(sinks: list[RunningSink], at: int, part: list[bytes]) -> int:
    """Send until some sink says that it has it; how often it had to be sent."""
    for tries, sink in enumerate(cycle(sinks[at % len(sinks) :] + sinks[: at % len(sinks)]), 1):
        answer = sink.logs(part)
        if answer.status == 200:
            return tries
        assert answer.status == 503, answer.message
        assert tries < 500
    raise AssertionError("unreachable: the cycle has no end")


def test_two_sinks_that_fold_the_same_runs_at_once_give_the_rows_of_one(
    postgres: Postgres, tmp_path: Path
) -> None:
    """Every event is sent to both, in another order, in requests that mix the runs."""
    told = runs()
    bodies = [body for run in told for body in run.bodies]
    alone, shared = postgres.create(), postgres.create()
    with Journal.open(alone) as journal:
        journal.ingest(bodies, "test")
    sinks = [RunningSink(shared) for _ in range(2)]
    mixed = [random.Random(seed).sample(bodies, len(bodies)) for seed in range(2)]
    turns = [(at, part) for pair in zip(*map(parts, mixed), strict=True) for at, part in enumerate(pair)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda turn: persist([sinks[turn[0]]], 0, turn[1]), turns))
    counted = [sink.received() for sink in sinks]
    for sink in sinks:
        sink.stop()
    assert sum(count["new"] for count in counted) == len(bodies)
    assert sum(count["duplicates"] for count in counted) == len(bodies)
    wanted, found = content(alone), content(shared)
    for table in VIEWS:
        assert found[table] == wanted[table], table
    for url in (alone, shared):
        postgres.drop(url)


def test_a_restart_of_the_server_loses_and_doubles_nothing(postgres: Postgres) -> None:
    """Two sinks, four clients that send again what was not accepted, a server killed in the middle."""
    if postgres.restart is None:
        pytest.skip("the server is not ours to restart")
    bodies = [body for run in runs() for body in run.bodies]
    url = postgres.create()
    sinks = [RunningSink(url) for _ in range(2)]
    work = list(enumerate(parts(bodies)))
    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(persist, sinks, at, part) for at, part in work]
        while sum(job.done() for job in jobs) < len(jobs) // 4:
            jobs[len(jobs) // 4].result()
        subprocess.run(postgres.restart, check=True, stdout=subprocess.DEVNULL, timeout=60)
        for job in jobs:
            job.result()
    for sink in sinks:
        assert sink.request("GET", "/readyz").status == 200
        sink.stop()
    found = content(url)
    assert hashes([row[6].encode() for row in found["event"]]) == hashes(bodies)
    assert all(row[-1] for row in found["producer"])
    with Journal.open(url) as journal:
        journal.rebuild()
    assert content(url) == found
    postgres.drop(url)


def test_two_sinks_reserve_attempts_without_giving_one_twice(postgres: Postgres) -> None:
    url = postgres.create()
    sinks = [RunningSink(url) for _ in range(2)]
    places = [f"http://127.0.0.1:{sink.port}" for sink in sinks]

    def reserve(number: int) -> int:
        return attempts.reserve(places[number % 2], f"{number:032x}", "r", "c0ffee00", "trae", None)

    with ThreadPoolExecutor(6) as threads:
        numbers = list(threads.map(reserve, range(1, 31)))
    for sink in sinks:
        sink.stop()
    assert sorted(numbers) == list(range(1, 31))
    postgres.drop(url)
