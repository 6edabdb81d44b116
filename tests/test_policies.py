"""Policies are data; the verdict follows from them and the checks alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent_shim.errors import SettingsError
from telemetry import cli
from telemetry.checks import NAMES, Check
from telemetry.policies import Policy, decides, read, shipped, verdict


def checked(**states: str) -> list[Check]:
    """All checks, passed unless named; dashes are underscores."""
    named = {name.replace("_", "-"): state for name, state in states.items()}
    return [Check(name, named.get(name, "pass"), f"{name} it is") for name in NAMES]


def policy(text: str) -> Policy:
    (found,) = read(tomllib.loads(text), "a file").values()
    return found


def test_the_default_policy_is_the_one_that_is_promised() -> None:
    default = shipped()["default"]
    assert default.must_pass == {"exit-0", "patch-not-empty", "patch-applies", "telemetry-complete"}
    assert (default.must_not_fail, default.attempt) == (frozenset(), "any")
    assert set(shipped()) == {"default", "strict", "lenient"}


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({}, ("pass", "patch-not-empty it is")),
        ({"exit_0": "fail"}, ("fail", "exit-0 it is")),
        ({"exit_0": "fail", "patch_applies": "fail"}, ("fail", "exit-0 it is; patch-applies it is")),
        ({"patch_not_empty": "unknown"}, ("unknown", "patch-not-empty it is")),
        ({"patch_not_empty": "unknown", "exit_0": "fail"}, ("fail", "exit-0 it is")),
        (
            {"telemetry_complete": "unknown", "exit_0": "fail"},
            ("unknown", "the telemetry is not complete: telemetry-complete it is"),
        ),
        (
            {"files_parse": "fail", "result": "fail"},
            ("pass", "patch-not-empty it is; not asked for, and failed: files-parse it is; result it is"),
        ),
    ],
)
def test_the_verdict_of_the_default_policy(states: dict[str, str], said: tuple[str, str]) -> None:
    assert verdict(shipped()["default"], checked(**states)) == said


def test_what_must_not_fail_may_be_unknown() -> None:
    lenient = shipped()["lenient"]
    assert verdict(lenient, checked(patch_applies="unknown")).verdict == "pass"
    assert verdict(lenient, checked(patch_applies="fail")).verdict == "fail"
    assert verdict(lenient, checked(exit_0="fail", telemetry_complete="unknown")).verdict == "pass"


def test_the_hash_is_of_the_content() -> None:
    one = policy('[policy.a]\nmust_pass = ["exit-0", "files-parse"]')
    same = policy('[policy.b]\nmust_pass = ["files-parse", "exit-0"]\nattempt = "any"')
    other = policy('[policy.a]\nmust_pass = ["exit-0", "files-parse"]\nattempt = "last"')
    assert one.sha256 == same.sha256 != other.sha256


@pytest.mark.parametrize(
    ("attempt", "verdicts", "decided"),
    [
        ("any", ["fail", "pass", "fail"], "pass"),
        ("any", ["fail", "fail"], "fail"),
        ("any", ["fail", "unknown"], "unknown"),
        ("any", ["fail", None], None),
        ("first", ["fail", "pass"], "fail"),
        ("last", ["pass", "fail"], "fail"),
        ("any", [], None),
    ],
)
def test_a_policy_says_which_attempt_decides(
    attempt: str, verdicts: list[str | None], decided: str | None
) -> None:
    assert decides(shipped()["default"]._replace(attempt=attempt), verdicts) == decided


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[policy.a]\nmust_pass = ["exit"]', "no check is called 'exit'"),
        ('[policy.a]\nmust_pas = ["exit-0"]', "has an unknown key: must_pas"),
        ('[policy.a]\nmust_pass = ["exit-0"]\nattempt = "best"', "attempt is 'best'"),
        ("[policy.a]", "asks for nothing"),
        ('[policy.a]\nmust_pass = "exit-0"', "must_pass is no list of names"),
        *(
            (
                f'[policy.a]\nmust_pass = ["result"]\nresult = {{ name = "x"{rest} }}',
                "result is not just a name",
            )
            for rest in ("", ", at_least = nan", ", at_least = 1, at_most = 2")
        ),
        ('[policy.a]\nmust_pass = ["result"]', "asks for a result and names none"),
        ("policy = 1", "is no table"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        policy(text)
    assert refused.value.hint


@pytest.mark.parametrize("more", [[], ["--exit-status", "verdict"], ["--max-attempts", "1"]])
def test_a_policy_that_there_is_not_is_told_before_an_agent_is_started(
    data_home: Path, more: list[str]
) -> None:
    asked = CliRunner().invoke(cli.main, ["run", "--policy", "mien", *more, "--", "true"])
    assert asked.exit_code == 125
    assert "no policy is called 'mien'" in asked.stderr
    assert not data_home.exists()
