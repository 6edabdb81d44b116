"""Attempts at commits: the pattern, the cost, and what bought nothing."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner

from telemetry import cli, outcomes, verdicts
from telemetry.costs import price_pending
from telemetry.display import duration
from telemetry.journal import Journal
from telemetry.policies import shipped
from telemetry.pricing import PriceBook
from telemetry.reports import Form
from telemetry.totals import Cost
from tests.journals import NOON_NS, SECOND, Told, filled
from tests.judged_runs import begun, failed, solved

DEFAULT = shipped()["default"]
OTHER = "d" * 40


def judged(run: Told, verdict: str, policy: str = "default") -> Told:
    """With the event that a judgement leaves."""
    sha256 = shipped()[policy].sha256
    run.tell(
        "run.judged",
        run.wrapper,
        policy=policy,
        policy_sha256=sha256,
        verdict=verdict,
        reason="so",
        checks=[],
    )
    return run


def at(number: int) -> dict[str, int]:
    return {"start_ns": NOON_NS + number * 100 * SECOND}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A commit solved at the second of four attempts, and another that is not judged."""
    runs = [
        judged(failed(1, **at(1)), "fail"),
        judged(solved(2, **at(2)), "pass"),
        judged(solved(3, **at(3)), "pass"),
        judged(failed(4, **at(4)), "unknown"),
        solved(5, commit=OTHER, **at(5)),
    ]
    opened = filled(tmp_path / "journal.db", *runs)
    price_pending(opened.engine, PriceBook({}, "none"))
    return opened


def test_the_pattern_and_what_bought_nothing(journal: Journal) -> None:
    first, second = outcomes.lines(journal.engine, DEFAULT)
    assert (first.pattern, first.verdict) == ("✗✓✓?", "pass")
    assert [attempt.run.run_id[-1] for attempt in first.futile] == ["1", "3", "4"]
    assert (second.pattern, second.verdict, list(second.futile)) == ("·", None, [])
    total = outcomes.summed(attempt.cost for attempt in first.attempts).amounts["USD"]
    lost = outcomes.summed(attempt.cost for attempt in first.futile).amounts["USD"]
    assert 0 < lost < total


def test_an_attempt_that_was_refused_is_none(journal: Journal) -> None:
    run = Told(9)
    root = run.tell("run.started", run.wrapper, way="run", commit="c" * 40, agent="trae",
                    repository="https://github.com/o/r")  # fmt: skip
    run.tell("attempt.refused", run.wrapper, parent=root, reason="exhausted")
    run.tell("run.finished", run.wrapper, begin=root, outcome="refused", error_type="AttemptExhausted")
    journal.ingest(run.bodies, "test")
    assert len(outcomes.lines(journal.engine, DEFAULT)[0].attempts) == 4


def test_the_verdict_of_another_policy_is_none_of_this_one(journal: Journal) -> None:
    (first, _) = outcomes.lines(journal.engine, shipped()["strict"])
    assert (first.pattern, first.verdict) == ("····", None)


def test_pass_at_k_is_the_unbiased_estimate_over_commits_with_k_attempts(journal: Journal) -> None:
    found = outcomes.lines(journal.engine, DEFAULT)
    assert outcomes.rate(found, 1) == (1, pytest.approx(2 / 3), 1)
    assert outcomes.rate(found, 2) == (2, 1.0, 1)
    assert outcomes.rate(found, 4) == (4, None, 0)


def test_the_noise_of_adding_is_no_part_of_a_sum() -> None:
    assert outcomes.summed([Cost({"USD": 0.1}), Cost({"USD": 0.2})]).amounts == {"USD": 0.3}


def test_a_cost_that_is_not_known_makes_the_sum_a_lower_bound() -> None:
    costs = [Cost({"USD": 1.0}), Cost({}, "1 of 2 calls unknown"), Cost({"EUR": 2.0})]
    told = "1 of 2 calls unknown in 1 of 3 runs"
    assert outcomes.summed(costs) == ({"EUR": 2.0, "USD": 1.0}, told)


def test_runs_has_the_rates_and_what_is_in_none(journal: Journal, tmp_path: Path, data_home: Path) -> None:
    def asked(*words: str) -> tuple[list[str], str]:
        got = CliRunner().invoke(cli.main, ["runs", "--journal", str(tmp_path / "journal.db"), *words])
        return got.stdout.splitlines(), got.stderr

    lines, told = asked("--limit", "1")
    assert len(lines) == 2, "a line of names, and one per run"
    assert told == (
        "agent-telemetry: 2 commits, 5 attempts, policy default (any attempt decides): 1 solved, 0 failed,"
        " 1 open; pass@1 66.7% (n = 1), pass@3 100.0% (n = 1)."
        " In no rate: 1 not judged (agent-telemetry judge --all), 1 of unknown verdict.\n"
    )
    assert asked("--commit", OTHER)[1].endswith(
        "0 solved, 0 failed, 1 open; pass@1 unknown (n = 0), pass@3 unknown (n = 0)."
        " In no rate: 1 not judged (agent-telemetry judge --all).\n"
    )
    assert (
        "policy strict (first attempt decides): 0 solved, 0 failed, 2 open" in asked("--policy", "strict")[1]
    )
    assert asked("--json")[1] == asked("--commit", "e")[1] == ""


def test_below_a_table_of_runs_are_the_rates(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    out, err = StringIO(), StringIO()
    found = outcomes.lines(journal.engine, DEFAULT)
    verdicts.passing(found, [outcomes.rate(found, 1)], DEFAULT, Form(out, "table"), err)
    assert out.getvalue().startswith("2 commits, 5 attempts, policy default (any attempt decides): 1 solved")
    assert err.getvalue() == ""


def test_a_commit_of_two_agents_is_one_commit_that_is_counted_twice(tmp_path: Path) -> None:
    out = StringIO()
    with filled(tmp_path / "two.db", solved(1, agent="trae"), solved(2, agent="other")) as journal:
        verdicts.passing(outcomes.lines(journal.engine, DEFAULT), [], DEFAULT, Form(out, "lines"), out)
    assert out.getvalue().startswith(
        "agent-telemetry: 1 commit (counted 2 times: per agent and model), 2 att"
    )


def test_the_command_says_all_of_it(journal: Journal, tmp_path: Path, data_home: Path) -> None:
    place = ("--journal", str(tmp_path / "journal.db"))
    asked = json.loads(CliRunner().invoke(cli.main, ["retries", "-k", "2", "--json", *place]).stdout)
    assert [rate["k"] for rate in asked["rates"]] == [1, 2]
    first, second = asked["commits"]
    assert first["futile"]["attempts"] == 3
    said = [(one["claimed"], one["claimed_success"], one["verdict"]) for one in first["attempts"]]
    assert said == [("exit 0, success", True, verdict) for verdict in ("fail", "pass", "pass", "unknown")]
    assert (first["claimed"], second["claimed"]) == ("4× exit 0, success", "exit 0, success")
    lines = CliRunner().invoke(cli.main, ["retries", "--over", "1", *place]).stdout.splitlines()
    assert len(lines) == 2
    told = dict(zip(lines[0].split("\t"), lines[1].split("\t"), strict=True))
    assert (told["pattern"], told["claimed"], told["verdict"]) == ("✗✓✓?", "4× exit 0, success", "pass")


def test_attempts_are_compared_by_what_was_measured_of_each(tmp_path: Path, data_home: Path) -> None:
    """The latest of a name, from whatever source, with its unit; what was not measured is unknown."""
    runs = [solved(number, **at(number)) for number in (1, 2, 3)]
    for run, value, source in ((runs[1], 1.2, "one run"), (runs[1], 1.31, "three runs"), (runs[2], 0.9, "x")):
        run.tell("result.attached", run.wrapper, name="speedup", value=value, source=source, unit="times")
    runs[0].tell("result.attached", runs[0].wrapper, name="tests", value=3, source="x")
    filled(tmp_path / "journal.db", *runs).close()
    words = ["retries", "--result", "speedup", "--journal", str(tmp_path / "journal.db")]
    names, line = (line.split("\t") for line in CliRunner().invoke(cli.main, words).stdout.splitlines())
    assert dict(zip(names, line, strict=True))["result"] == "unknown · 1.31 times · 0.9 times"
    (commit,) = json.loads(CliRunner().invoke(cli.main, [*words, "--json"]).stdout)["commits"]
    first, second, _ = (one["result"] for one in commit["attempts"])
    assert first == {"name": "speedup", "value": None, "reason": "no result speedup is attached"}
    assert (second["value"], second["unit"], second["source"]) == (1.31, "times", "three runs")
    assert "result" not in names_without(words)


def names_without(words: list[str]) -> list[str]:
    return CliRunner().invoke(cli.main, [words[0], *words[3:]]).stdout.partition("\n")[0].split("\t")


def test_what_attempts_cost_in_time_is_summed_and_a_missing_end_makes_it_a_lower_bound(
    journal: Journal, tmp_path: Path, data_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In JSON, and in the sentence below the table, beside the money."""
    monkeypatch.setenv("COLUMNS", "300")
    journal.ingest(begun(6, commit=OTHER, **at(6)).bodies, "test")
    asked = CliRunner().invoke(cli.main, ["retries", "--json", "--journal", str(tmp_path / "journal.db")])
    first, second = json.loads(asked.stdout)["commits"]
    each = [one["duration_s"] for one in first["attempts"]]
    assert min(each) > 0
    assert (first["total"]["duration_s"], first["total"]["duration_s_reason"]) == (sum(each), None)
    assert first["futile"]["duration_s"] == sum(each) - each[1]
    ended, running = (one["duration_s"] for one in second["attempts"])
    assert (running, second["total"]["duration_s"]) == (None, ended)
    assert second["total"]["duration_s_reason"] == "1 of 2 attempts without a known end"
    out = StringIO()
    verdicts.retries(outcomes.lines(journal.engine, DEFAULT), [], DEFAULT, Form(out, "table"))
    spent, lost = duration(sum(each) + ended), duration(sum(each) - each[1])
    (sentence,) = [line for line in out.getvalue().splitlines() if "bought nothing:" in line]
    assert sentence.startswith("6 attempts at 2 commits cost ")
    assert f" and ≥ {spent}; 3 of them bought nothing: " in sentence
    assert sentence.endswith(f" and {lost}.")
    assert "4× exit 0, success" in out.getvalue()
