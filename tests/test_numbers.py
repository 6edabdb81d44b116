"""The number of an attempt is reserved before the agent starts, at the cost of some milliseconds."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from agent_shim.events import AttemptReserved
from telemetry import attempts, numbers
from telemetry.identity import Identity
from telemetry.journal import Journal
from telemetry.settings import Settings
from telemetry.turns import turn
from tests.journals import Told, filled
from tests.test_attempts import COMMIT, KEY, REPO, run_id

pytest_plugins = ("tests.backends",)

KNOWN = Identity(repository=REPO, commit=COMMIT, agent="trae", model_declared="gpt-5")


@pytest.fixture
def settings(data_home: Path) -> Settings:
    return Settings.load({"AGENT_TELEMETRY_HOME": str(data_home)})


def number(settings: Settings, run: int, **known: str | None) -> tuple[int, bool | None]:
    told = numbers.number(settings, {}, run_id(run), KNOWN._replace(**known))
    assert isinstance(told, AttemptReserved)
    return told.number, told.provisional


def test_both_ways_of_asking_count_in_the_same_journal(settings: Settings) -> None:
    with Journal.open(settings.journal) as journal:
        assert attempts.reserve(journal, run_id(1), *KEY) == 1
        assert number(settings, 2) == (2, False)
        assert attempts.reserve(journal, run_id(3), *KEY) == 3
        assert attempts.reserve(journal, run_id(2), *KEY) == 2, "the run has it already"
        assert number(settings, 4, commit=COMMIT[:8]) == (4, False), "a short id counts with the full one"
        assert number(settings, 5, model_declared="gpt-4o") == number(settings, 6, agent=None) == (1, False)


def test_recorded_runs_with_a_number_of_their_own_count(settings: Settings) -> None:
    run = Told(1).start(commit=COMMIT, repository=REPO, agent="trae", model_declared="gpt-5", attempt=7)
    settings.home.mkdir()
    filled(Path(settings.journal), run.finish()).close()
    assert number(settings, 2) == (8, False)


def test_wrappers_that_start_at_the_same_time_get_numbers_of_their_own(settings: Settings) -> None:
    Journal.open(settings.journal).close()
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda run: number(settings, run), range(1, 25)))
    assert sorted(found) == [(n, False) for n in range(1, 25)]


def test_wrappers_that_ask_a_server_that_does_not_answer_wait_for_it_side_by_side(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(3) as threads:
        server.settimeout(numbers.SERVER_S * 0.8)  # one that waited for another would come too late
        away = settings._replace(journal=f"http://127.0.0.1:{server.getsockname()[1]}")
        found = [threads.submit(number, away, run) for run in (1, 2, 3)]
        for connection in [server.accept()[0] for _ in found]:
            connection.close()
        assert sorted(each.result() for each in found) == [(n, True) for n in (1, 2, 3)]


def test_without_a_journal_the_number_is_counted_here_and_provisional(settings: Settings) -> None:
    assert [number(settings, run) for run in (1, 2)] == [(1, True), (2, True)]
    assert not Path(settings.journal).exists(), "nobody makes a journal by starting an agent"
    Journal.open(settings.journal).close()
    assert number(settings, 3) == (3, False), "what was counted here is known here"


@pytest.mark.parametrize("state", ["locked", "no database", "another version", "no server"])
def test_a_journal_that_cannot_be_used_holds_up_no_agent(settings: Settings, state: str) -> None:
    Journal.open(settings.journal).close()
    place = Path(settings.journal)
    with closing(sqlite3.connect(place)) as other:
        if state == "locked":
            other.execute("BEGIN IMMEDIATE")
        elif state == "another version":
            other.execute("ALTER TABLE attempt RENAME TO attempts")
        elif state == "no database":
            place.write_bytes(b"not a database" * 100)
        else:
            settings = settings._replace(journal="http://127.0.0.1:9")
        assert number(settings, 1) == (1, True)


def test_it_is_reserved_in_a_turn_of_ones_own(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes into the file beside another writer can damage it."""
    Journal.open(settings.journal).close()
    monkeypatch.setattr(numbers, "LOCKED_S", 0.0)
    with turn(settings.journal, 0.0):
        assert number(settings, 1) == (1, True)
    assert number(settings, 2) == (2, False)


def test_a_server_is_asked_by_a_process_of_its_own(settings: Settings, place: str) -> None:
    Journal.open(place).close()
    question = f'{{"journal": "{place}", "run": "{run_id(1)}", "key": ["{REPO}", "{COMMIT}", "trae", ""]}}'
    asked = subprocess.run(
        [sys.executable, "-m", "telemetry.attempts"],
        input=question,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "1\n"
    if "://" in place:
        assert number(settings._replace(journal=place), 2, model_declared=None) == (2, False)


def test_a_run_without_a_commit_is_no_attempt(settings: Settings) -> None:
    assert numbers.number(settings, {}, run_id(1), KNOWN._replace(commit=None)) is None
