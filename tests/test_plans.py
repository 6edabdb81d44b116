"""What of a plan is open is asked of the journal, each time, with the reason per item."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent_shim.errors import SettingsError
from telemetry import cli, plans
from tests.journals import NOON_NS, SECOND, filled
from tests.judged_runs import begun, failed, solved
from tests.test_outcomes import judged

ITEMS = [
    {"item_id": "i-0001", "human": "a" * 40, "pre": "", "pre_parent_index": 1, "note": "kept"},
    {"item_id": "i-0002", "human": "bbbbbbbb", "pre": None},
    {"item_id": "i-0003", "human": "c" * 40},
    {"item_id": "i-0004", "human": "d" * 40},
    {"item_id": "i-0005", "human": "e" * 40},
    {"item_id": "i-0006", "human": "f" * 40},
]
PLAN = {"repo": "/data/clones/r", "task_id": "core", "items": ITEMS, "made_by": "hand"}


def at(number: int) -> dict[str, int]:
    return {"start_ns": NOON_NS + number * 100 * SECOND}


@pytest.fixture
def place(tmp_path: Path, data_home: Path) -> list[str]:
    """A plan, and a journal in which one commit is solved, one fails alike, one failed once, one runs."""
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    runs = [
        judged(failed(1, commit="b" * 40, **at(1)), "fail"),
        judged(solved(2, commit="b" * 40, **at(2)), "pass"),
        judged(failed(3, commit="c" * 40, **at(3)), "fail"),
        judged(failed(4, commit="c" * 40, **at(4)), "fail"),
        judged(failed(5, commit="d" * 40, **at(5)), "fail"),
        begun(6, commit="e" * 40, **at(6)),
    ]
    filled(tmp_path / "journal.db", *runs).close()
    return ["--from", str(tmp_path / "plan.json"), "--journal", str(tmp_path / "journal.db")]


def ask(*words: str) -> str:
    asked = CliRunner().invoke(cli.main, ["plan", *words])
    assert asked.exit_code == 0, asked.output
    return asked.stdout


def test_each_item_has_its_state_and_its_reason(place: list[str]) -> None:
    found = json.loads(ask(*place, "--json", "--exclude", f"{'f' * 12}=no GPU"))
    assert [(item["item_id"], item["state"], item["reason"]) for item in found] == [
        ("i-0001", "open", "no attempt yet"),
        ("i-0002", "solved", "run 00000002 passed"),
        ("i-0003", "failing", "the last 2 attempts failed alike: so"),
        ("i-0004", "open", "the last of 1 attempts failed: so"),
        ("i-0005", "open", "an attempt is running"),
        ("i-0006", "excluded", "no GPU"),
    ]


def test_what_the_attempt_that_tells_the_state_says_of_itself_stands_beside_its_verdict(
    place: list[str],
) -> None:
    found = json.loads(ask(*place, "--json"))
    assert [(item["claimed"], item["verdict"]) for item in found] == [
        (None, None),
        ("exit 0, success", "pass"),
        ("exit 0, success", "fail"),
        ("exit 0, success", "fail"),
        ("running", None),
        (None, None),
    ]
    names, *lines = (line.split("\t") for line in ask(*place).splitlines())
    assert [dict(zip(names, line, strict=True))["claimed"] for line in lines[:2]] == ["", "exit 0, success"]


def test_attempts_exhaust_an_item(place: list[str]) -> None:
    found = json.loads(ask(*place, "--json", "--max-attempts", "1"))
    assert (found[3]["state"], found[3]["reason"]) == ("exhausted", "1 of 1 attempts are used")
    assert found[1]["state"] == "solved", "what is solved is not exhausted"


def test_what_remains_is_a_plan_again_with_its_keys_kept(place: list[str], tmp_path: Path) -> None:
    left = json.loads(ask(*place, "--remaining"))
    assert left == {**PLAN, "items": [ITEMS[0], ITEMS[3], ITEMS[4], ITEMS[5]]}
    (tmp_path / "left.json").write_text(json.dumps(left))
    assert len(plans.read(tmp_path / "left.json").items) == 4


def test_a_plan_may_be_yaml_and_its_commits_are_text(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(
        "repo: https://x/r\nitems:\n- {item_id: i, human: 01234567, pre: null, pre_parent_index: 1}\n"
    )
    (item,) = plans.read(tmp_path / "plan.yaml").items
    assert item.raw == {"item_id": "i", "human": "01234567", "pre": None, "pre_parent_index": 1}
    (tmp_path / "plan.yml").write_text("items: [")
    with pytest.raises(SettingsError, match="is no plan"):
        plans.read(tmp_path / "plan.yml")


@pytest.mark.parametrize("text", ["[]", "{", '{"items": [{"item_id": "x"}]}', '{"items": 1}'])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(SettingsError, match="is no plan") as refused:
        plans.read(tmp_path / "plan.json")
    assert "human" in (refused.value.hint or "")


@pytest.mark.parametrize("commit", [None, "", "HEAD", "abc123", ["a"], 7])
def test_an_item_without_a_commit_is_refused_by_name(tmp_path: Path, commit: object) -> None:
    """It would stay open for ever, and an agent would be started for it."""
    (tmp_path / "plan.json").write_text(json.dumps({"items": [{"item_id": "i-0007", "human": commit}]}))
    with pytest.raises(SettingsError, match="item 'i-0007' has no commit under human"):
        plans.read(tmp_path / "plan.json")


def test_an_exclusion_that_fits_nothing_is_said(place: list[str]) -> None:
    words = ["plan", *place, "--exclude", "i-9999=typo", "--exclude", f"{'d' * 9}=no GPU"]
    told = "--exclude i-9999: no item and no commit of the plan is called so"
    assert CliRunner().invoke(cli.main, words).stderr == f"agent-telemetry: {told}\n"


def test_an_attempt_that_is_not_judged_says_what_judges_it(place: list[str]) -> None:
    found = json.loads(ask(*place, "--json", "--policy", "strict"))
    assert found[3]["reason"].endswith("attempts is not judged: agent-telemetry judge --all judges it")
