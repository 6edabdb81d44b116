"""Errors of one kind are one kind, and those of another are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from telemetry import cli, fingerprints
from telemetry.policies import shipped
from tests.journals import filled
from tests.judged_runs import EMPTY, begun, called, ended, failed
from tests.test_outcomes import judged


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "No tool output found for function call call_Ab1.",
            "No tool output found for function call call_Zz9.",
        ),
        ("open /tmp/a/b.py: no such file", "open /home/u/x.py: no such file"),
        ("waited 3.5 s for 12 bytes", "waited 20 s for 7 bytes"),
        ("commit 8a3f2c91 is gone", "commit 1122334455667788 is gone"),
        ("cannot reach http://a:1/x", "cannot reach https://b.example/y?z=1"),
        (
            "request 019ab000-0000-7000-8000-000000000001 failed",
            "request 019ab00000007000800000000000ffff failed",
        ),
    ],
)
def test_what_differs_by_chance_is_masked(one: str, other: str) -> None:
    assert fingerprints.normalised(one) == fingerprints.normalised(other)


def test_words_are_not_masked() -> None:
    assert fingerprints.normalised("deadline exceeded, see the facade") == "deadline exceeded, see the facade"


def error(number: int, status: int, message: str) -> object:
    run = begun(number)
    called(run, http_status=status, ended="failed", error_type="ApiError", error_message=message)
    return ended(run, None)


def test_groups_with_status_and_phase_and_one_for_what_was_not_recorded(
    tmp_path: Path, data_home: Path
) -> None:
    runs = [error(1, 429, "slow down 1"), error(2, 429, "slow down 22"), error(3, 400, "slow down 3")]
    runs.append(judged(failed(4), "fail"))
    with filled(tmp_path / "journal.db", *runs) as journal:  # type: ignore[arg-type]
        found = fingerprints.errors(journal.engine, shipped()["default"])
    calls = [g for g in found if g.phase == "call"]
    assert [(g.http_status, len(g.occurrences), g.runs, g.text) for g in calls] == [
        (429, 2, 2, "slow down <n>"),
        (400, 1, 1, "slow down <n>"),
    ]
    (why,) = (g for g in found if g.kind is None)
    assert (why.phase, why.text, why.runs) == ("verdict", fingerprints.normalised("so"), 1)
    place = ("--journal", str(tmp_path / "journal.db"))
    asked = json.loads(CliRunner().invoke(cli.main, ["errors", "--json", *place]).stdout)
    assert {group["fingerprint"] for group in asked} == {group.fingerprint for group in found}
    assert all(len(group["examples"]) == 1 for group in asked)
    lines = CliRunner().invoke(cli.main, ["errors", *place]).stdout.splitlines()[1:]
    assert all(len(line.split("\t")[6]) == 32 for line in lines), "ids are whole where a program reads"


def test_an_error_that_was_got_over_hides_no_reason_of_a_failed_run(tmp_path: Path) -> None:
    over, killed = begun(1), begun(2)
    called(over, http_status=429, ended="failed", error_type="RateLimitError", error_message="slow down")
    called(over, "b:task_done")
    runs = [
        ended(over, EMPTY, success=True),
        ended(killed, EMPTY, outcome="signaled", error_type="Signal:SIGKILL"),
    ]
    with filled(tmp_path / "journal.db", *(judged(run, "fail") for run in runs)) as journal:
        found = fingerprints.errors(journal.engine, shipped()["default"])
    assert {(group.phase, group.kind, group.runs) for group in found} == {
        ("call", "RateLimitError", 1),
        ("run", "Signal:SIGKILL", 1),
        ("verdict", None, 1),
    }
