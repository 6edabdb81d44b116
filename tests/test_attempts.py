"""Attempt numbers, reserved in real journals of both kinds, directly and through a sink."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from agent_shim.errors import JournalUnreachable, SettingsError
from telemetry import attempts
from telemetry.journal import Journal
from telemetry.remote import TOKEN
from tests.journals import Told
from tests.test_sink import RunningSink

pytest_plugins = ("tests.backends",)

REPO, COMMIT = "https://github.com/o/r", "8a3f2c91" * 5
KEY = (REPO, COMMIT, "trae", "gpt-5")


def run_id(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture(params=["direct", "sink"])
def journal(request: pytest.FixtureRequest, place: str) -> Iterator[str]:
    """A journal by its own place, or by the URL of a sink before it."""
    if request.param == "direct":
        yield place
        return
    running = RunningSink(place)
    yield f"http://127.0.0.1:{running.port}"
    running.stop()


def test_attempts_are_numbered_from_one_by_repository_commit_agent_and_model(journal: str) -> None:
    assert attempts.reserve(journal, run_id(1), *KEY) == 1
    assert attempts.reserve(journal, run_id(2), *KEY) == 2
    others = [("another", *KEY[1:]), (REPO, "b" * 40, *KEY[2:]), (REPO, COMMIT, "codex", "gpt-5")]
    others += [(*KEY[:3], "gpt-4o"), (*KEY[:3], None), (None, None, None, None)]
    for number, key in enumerate(others, 10):
        assert attempts.reserve(journal, run_id(number), *key) == 1


def test_a_run_that_asks_again_gets_the_number_it_has(journal: str) -> None:
    first = [attempts.reserve(journal, run_id(number), *KEY) for number in (1, 2, 3)]
    again = [attempts.reserve(journal, run_id(number), *KEY) for number in (1, 2, 3)]
    assert first == again == [1, 2, 3]


def test_runs_that_reserve_at_the_same_time_get_numbers_of_their_own_without_gaps(journal: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        runs = [run_id(number) for number in range(1, 25)]
        numbers = list(threads.map(lambda run: attempts.reserve(journal, run, *KEY), [*runs, *runs]))
    assert numbers[:24] == numbers[24:]
    assert sorted(numbers[:24]) == list(range(1, 25))


def test_processes_that_reserve_at_the_same_time_get_numbers_of_their_own(place: str) -> None:
    Journal.open(place).close()
    code = (
        "import sys\nfrom telemetry import attempts\n"
        f"for n in range(10): print(attempts.reserve({place!r}, sys.argv[1] + f'{{n:031x}}', *{KEY!r}))"
    )
    root = Path(__file__).parent.parent
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)], cwd=root, stdout=subprocess.PIPE, text=True
        )
        for number in range(3)
    ]
    numbers = [int(line) for process in processes for line in process.communicate()[0].split()]
    assert sorted(numbers) == list(range(1, 31))


def test_a_short_commit_counts_with_the_full_one_that_it_begins(journal: str) -> None:
    assert attempts.reserve(journal, run_id(1), REPO, COMMIT[:8], "trae", "gpt-5") == 1
    assert attempts.reserve(journal, run_id(2), *KEY) == 2
    assert attempts.reserve(journal, run_id(3), REPO, COMMIT[:12], "trae", "gpt-5") == 3
    assert attempts.reserve(journal, run_id(4), REPO, COMMIT[:8] + "0000", "trae", "gpt-5") == 2


def test_recorded_runs_count_that_were_given_a_number_by_hand(place: str) -> None:
    told = Told(1).start(commit=COMMIT, agent="trae", model_declared="gpt-5", attempt=4)
    with Journal.open(place) as journal:
        journal.ingest(told.bodies, "test")
        assert attempts.reserve(journal, run_id(1), *KEY) == 5
        assert attempts.reserve(journal, run_id(2), REPO, COMMIT, "trae", None) == 1


def test_a_rebuild_forgets_no_reservation(place: str) -> None:
    with Journal.open(place) as journal:
        attempts.reserve(journal, run_id(1), *KEY)
        journal.rebuild()
        assert attempts.reserve(journal, run_id(2), *KEY) == 2
        with journal.engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM attempt")).scalar_one() == 2


@pytest.mark.parametrize("key", [("x" * 5000, None, None, None), ("a\0b", None, None, None)])
def test_a_name_that_cannot_be_kept_is_refused(journal: str, key: tuple[str, None, None, None]) -> None:
    with pytest.raises(SettingsError, match="4096"):
        attempts.reserve(journal, run_id(1), *key)


def test_a_run_id_that_is_none_is_refused(journal: str) -> None:
    with pytest.raises(SettingsError, match="32 hexadecimal"):
        attempts.reserve(journal, "../etc", *KEY)


def test_through_a_sink_the_token_is_asked_for(tmp_path: Path) -> None:
    running = RunningSink(tmp_path / "journal.db", token="secret")
    url = f"http://127.0.0.1:{running.port}"
    try:
        with pytest.raises(JournalUnreachable, match="token") as caught:
            attempts.reserve(url, run_id(1), *KEY, environ={TOKEN: "wrong-token"})
        assert "wrong-token" not in str(caught.value)
        assert attempts.reserve(url, run_id(1), *KEY, environ={TOKEN: "secret"}) == 1
        assert running.request("POST", "/v1/attempts", b"{}").status == 401
    finally:
        running.stop()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"run":5}', b'{"run":"0"}', b'{"repository":[]}'])
def test_what_is_no_question_is_refused(tmp_path: Path, body: bytes) -> None:
    running = RunningSink(tmp_path / "journal.db")
    assert running.post("/v1/attempts", body, "application/json").status == 400
    running.stop()
