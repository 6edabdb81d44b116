"""Attempts are counted before the agent starts, and the one too many is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from telemetry.admission import decide
from telemetry.journal import Journal
from telemetry.otlp import JSON
from tests.journals import filled
from tests.judged_runs import COMMIT, REPOSITORY, solved
from tests.test_sink import RunningSink

pytest_plugins = ("tests.backends",)

CLI = [sys.executable, "-m", "telemetry.cli"]
IDENTITY = ["--repo", REPOSITORY, "--commit", COMMIT]


def start(*options: str, code: int = 0, agent: str = "") -> subprocess.Popen[str]:
    """A run of an agent called `trae` that leaves a mark and ends with `code`."""
    words = ["run", *IDENTITY, *options, "--", agent or "./trae", str(code)]
    return subprocess.Popen([*CLI, *words], stdout=-1, stderr=-1, text=True)


def run(*options: str, **agent: Any) -> tuple[int, str]:
    process = start(*options, **agent)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.fixture(autouse=True)
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in a folder that is no repository."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "trae").write_text('#!/bin/sh\necho ran >> ran\nexit "$1"\n')
    (folder / "trae").chmod(0o700)
    monkeypatch.chdir(folder)


def ran() -> int:
    return len(Path("ran").read_text().splitlines()) if Path("ran").exists() else 0


@pytest.fixture
def counted(place: str, data_home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty journal of each kind, in which runs are counted."""
    monkeypatch.setenv("AGENT_TELEMETRY_JOURNAL", place)
    return place


def catch_up() -> None:
    """Bring into the journal what the runs left in the spool."""
    subprocess.run([*CLI, "runs"], check=True, capture_output=True)


def rows(place: str, query: str) -> list[tuple[Any, ...]]:
    with Journal.open(place) as journal, journal.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_of_runs_at_the_same_time_no_more_start_than_the_limit_says(counted: str) -> None:
    processes = [start("--max-attempts", "2", code=3) for _ in range(5)]
    told = [process.communicate(timeout=100)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [3, 3, 75, 75, 75]
    assert ran() == 2
    assert sum("has had its 2 attempts" in err for err in told) == 3
    catch_up()
    assert rows(counted, "SELECT attempt FROM run WHERE outcome = 'exited' ORDER BY 1") == [(1,), (2,)]
    assert rows(counted, "SELECT count(*) FROM event WHERE name = 'attempt.refused'") == [(3,)]
    refused = "SELECT DISTINCT outcome, error_type, attempt, capture FROM run WHERE outcome = 'refused'"
    assert rows(counted, refused) == [("refused", "AttemptExhausted", None, "captured")]
    code, _ = run("--max-attempts", "3", code=4)
    assert code == 4, "what was refused took no number away"
    catch_up()
    assert rows(counted, "SELECT max(attempt), max(number) FROM run, attempt") == [(3, 3)]


def test_a_solved_commit_is_not_tried_again_unless_asked(counted: str) -> None:
    filled(counted, solved(1)).close()
    code, err = run("--max-attempts", "3")
    assert (code, ran()) == (75, 0)
    assert f"commit {COMMIT[:12]} is solved by run 00000001 (policy default); --again tries it" in err
    catch_up()
    (event,) = rows(counted, "SELECT body FROM event WHERE name = 'attempt.refused'")
    refusal = json.loads(event[0])["data"]
    assert (refusal["reason"], refusal["policy"], refusal["used"]) == ("solved", "default", 1)
    assert refusal["solved_by"].endswith("00000001")
    assert run("--max-attempts", "3", "--again", code=5)[0] == 5
    catch_up()
    assert rows(counted, "SELECT attempt FROM run WHERE exit_code = 5") == [(1,)]


def test_runs_that_were_not_numbered_count_as_well(data_home: Path) -> None:
    assert run(code=3)[0] == 3
    assert run("--max-attempts", "1", code=3)[0] == 75
    assert ran() == 1


def test_without_a_journal_nothing_can_be_counted_and_nothing_starts(data_home: Path) -> None:
    place = "postgresql://u@127.0.0.1:1/x?connect_timeout=1"
    code, err = run("--journal", place, "--max-attempts", "3")
    assert (code, ran()) == (75, 0)
    assert "without the journal attempts cannot be counted" in err


# --- where the journal is behind a sink ----------------------------------------------------------------


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningSink]:
    """A sink on another machine, as far as runs can tell: its journal is in no data folder of theirs."""
    place = tmp_path / "far" / "journal.db"
    place.parent.mkdir()
    filled(place, solved(1)).close()
    running = RunningSink(place, admit=lambda journal, asked: decide(journal, place.parent, asked))
    monkeypatch.setenv("AGENT_TELEMETRY_JOURNAL", f"http://127.0.0.1:{running.port}")
    yield running
    running.stop()


def test_a_commit_that_is_solved_in_a_journal_behind_a_sink_is_not_tried_again(far: RunningSink) -> None:
    """It was never judged there: the sink looks at its events, and writes nothing."""
    code, err = run("--max-attempts", "3")
    assert (code, ran()) == (75, 0)
    assert f"commit {COMMIT[:12]} is solved by run 00000001 (policy default); --again tries it" in err
    assert run("--max-attempts", "3", "--again", code=5)[0] == 5
    assert run("--max-attempts", "1", "--again", code=5)[0] == 75
    assert ran() == 1


def test_attempts_are_counted_behind_a_sink_and_a_refused_run_takes_none(far: RunningSink) -> None:
    wanted = {"repository": "r", "commit": "c", "agent": "a", "model": None, "limit": 1, "policy": "default"}
    ids = [f"{number:032x}" for number in range(1, 4)]

    def ask(run_id: str, **other: Any) -> dict[str, Any]:
        answer = far.post("/v1/attempts", json.dumps({**wanted, "run": run_id, **other}), JSON)
        return {"status": answer.status} | json.loads(answer.body)

    assert ask(ids[0]) == ask(ids[0]) == {"status": 200, "attempt": 1}
    assert ask(ids[1])["refused"]["reason"] == "exhausted"
    assert ask(ids[1], limit=2) == {"status": 200, "attempt": 2}
    assert ask(ids[2], limit=None) == {"status": 200, "attempt": 3}
    assert [ask("4" * 32, **bad)["status"] for bad in ({"limit": 0}, {"limit": "x"}, {"policy": 5})] == [
        400
    ] * 3


def test_a_sink_reads_no_policy_file_for_others(far: RunningSink) -> None:
    asked = {"run": "1" * 32, "commit": "c", "limit": 1, "policy": "/etc/hostname.toml"}
    answer = far.post("/v1/attempts", json.dumps(asked), JSON)
    assert (answer.status, "no file is read" in answer.message) == (400, True)
    assert (
        "is a file, and the journal is behind a sink" in run("--max-attempts", "3", "--policy", "x.toml")[1]
    )
