"""Claims are held against the wire and against what happened, and both are said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from agent_shim import openai_request
from agent_shim.errors import SettingsError
from telemetry import claims, evidence
from telemetry.claims import Finding
from telemetry.filters import CALL, RUN, TOOL
from tests.journals import Told, filled
from tests.judged_runs import begun, called, ended, executed

OFFERS: dict[str, Any] = {"tool_names": ["bash"]}


def check(path: Path, run: Told, name: str, value: str) -> Finding:
    with filled(path / "journal.db", run) as journal, journal.engine.connect() as connection:
        row = connection.execute(select(RUN)).one()
        calls, tools = (evidence.rows(connection, table, row, "started_at") for table in (CALL, TOOL))
        return claims.check(name, value, calls, tools, evidence.without_tools(connection, row.run_id))


def test_a_parameter_that_was_never_sent_has_the_apis_default(tmp_path: Path) -> None:
    """The mitigation that never was: configured false, absent on the wire."""
    run = begun()
    first = called(run, "a:bash", started={**OFFERS, "absent": ["parallel_tool_calls"]})
    called(run)  # without tools the parameter means nothing
    found = check(tmp_path, ended(run, None), "parallel_tool_calls", "false")
    assert found.verdict == "refuted"
    assert found.transmitted == "not sent in 1 call, where the API's own default is true"
    assert found.reason == found.transmitted
    assert found.events == (first,)


@pytest.mark.parametrize(
    ("value", "sent", "verdict"),
    [
        ("false", False, "confirmed"),
        ("false", True, "refuted"),
        ("true", True, "confirmed"),
        ("False", False, "confirmed"),
        ("True", False, "refuted"),
    ],
)
def test_what_was_sent_decides(tmp_path: Path, value: str, sent: bool, verdict: str) -> None:
    run = begun()
    called(run, "a:bash", started={**OFFERS, "parameters": {"parallel_tool_calls": sent}})
    executed(run, "a:bash")
    found = check(tmp_path, ended(run, None), "parallel_tool_calls", value)
    assert (found.verdict, found.transmitted) == (verdict, f"sent as {str(sent).lower()} in 1 call")
    assert found.observed == "no response asked for several tool calls, and none overlapped"


def test_what_happened_refutes_what_was_sent(tmp_path: Path) -> None:
    run = begun()
    call = called(run, "a:bash", "b:bash", started={**OFFERS, "parameters": {"parallel_tool_calls": False}})
    begins = [run.tell("tool.call.started", tool="bash", call_id=i, parent=run.process) for i in "ab"]
    for begin in begins:
        run.tell("tool.call.finished", begin=begin, ended="completed")
    found = check(tmp_path, ended(run, None), "parallel_tool_calls", "false")
    assert found.verdict == "refuted"
    assert found.reason == "1 response asked for several tool calls, 2 tool calls overlapped"
    assert set(found.events) == {call, *begins}


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("temperature", "0.5", "confirmed"),
        ("temperature", "0.2", "refuted"),
        ("seed", "7", "no evidence"),
        ("model", "gpt-5", "confirmed"),
        ("model", "gpt-4o", "refuted"),
    ],
)
def test_other_parameters(tmp_path: Path, name: str, value: str, verdict: str) -> None:
    run = begun()
    called(run, started={"parameters": {"temperature": 0.5}, "absent": ["seed"]})
    assert check(tmp_path, ended(run, None), name, value).verdict == verdict


@pytest.mark.parametrize("claimed", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
@pytest.mark.parametrize("sent", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_a_limit_of_tokens_is_one_under_each_of_its_names(tmp_path: Path, claimed: str, sent: str) -> None:
    run = begun()
    called(run, started={"parameters": {sent: 4096}, "absent": [claimed]})
    called(run, started={"parameters": {sent: 4096, "temperature": 1}})
    found = check(tmp_path, ended(run, None), claimed, "4096")
    told = "4096" if claimed == sent else f"{sent}=4096"
    assert (found.verdict, found.reason) == ("confirmed", f"sent as {told} in 2 calls")


def test_another_limit_refutes_under_each_of_its_names(tmp_path: Path) -> None:
    run = begun()
    called(run, started={"parameters": {"max_tokens": None, "max_completion_tokens": 512}})
    found = check(tmp_path, ended(run, None), "max_tokens", "4096")
    assert (found.verdict, found.reason) == ("refuted", "sent as max_completion_tokens=512 in 1 call")


def test_a_run_that_nobody_saw_is_no_evidence(tmp_path: Path) -> None:
    run = Told(1).start(capture="none", capture_reason="no hook").finish()
    found = check(tmp_path, run, "parallel_tool_calls", "false")
    assert found == ("no evidence", "nothing that was seen says anything about it", None, None, ())


@pytest.mark.parametrize("text", ["x", "=1", "x="])
def test_a_claim_has_a_name_and_a_value(text: str) -> None:
    with pytest.raises(SettingsError, match="asserts nothing"):
        claims.parse(text)


def test_a_file_of_claims_may_begin_with_a_mark_and_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "claims").write_bytes(b"\xef\xbb\xbftemperature=1\r\n# a note\r\n")
    assert claims.written(tmp_path / "claims") == ["temperature=1"]
    (tmp_path / "claims").write_bytes(b"\xff\xfet=1")
    with pytest.raises(SettingsError, match="cannot be read"):
        claims.written(tmp_path / "claims")


def test_a_claim_has_one_value() -> None:
    assert claims.parse_all(["model=gpt-5", "model=gpt-5"]) == {"model": "gpt-5"}
    with pytest.raises(SettingsError, match="model is claimed to be gpt-5 and to be gpt-4o"):
        claims.parse_all(["model=gpt-5", "model=gpt-4o"])


@pytest.mark.parametrize(
    ("answered", "verdict"),
    [
        ("gpt-5", "confirmed"),
        ("gpt-5-2025-08-07", "confirmed"),
        ("gpt-5-mini", "refuted"),
        ("gpt-5o", "refuted"),
    ],
)
def test_another_model_that_answers_refutes_although_the_right_one_was_asked(
    tmp_path: Path, answered: str, verdict: str
) -> None:
    run = begun()
    run.call(started={"model": "gpt-5"}, model=answered)
    assert check(tmp_path, ended(run, None), "model", "gpt-5").verdict == verdict


@pytest.mark.parametrize(
    ("name", "value", "sent"),
    [
        ("tool_choice", "none", "none"),
        ("reasoning_effort", "none", "none"),
        ("stop", "123", "123"),
        ("seed", "none", None),
        ("seed", "7.0", 7),
    ],
)
def test_a_value_may_mean_text_or_its_type(tmp_path: Path, name: str, value: str, sent: object) -> None:
    run = begun()
    called(run, started={**OFFERS, "parameters": {name: sent}})
    assert check(tmp_path, ended(run, None), name, value).verdict == "confirmed"


def test_a_number_is_no_truth_value(tmp_path: Path) -> None:
    run = begun()
    called(run, started={"parameters": {"seed": 1}})
    assert check(tmp_path, ended(run, None), "seed", "true").verdict == "refuted"


@pytest.mark.parametrize("claimed", ["reasoning_effort", "reasoning.effort"])
@pytest.mark.parametrize(("value", "verdict"), [("high", "confirmed"), ("low", "refuted")])
def test_an_effort_is_one_wherever_it_is_sent(tmp_path: Path, claimed: str, value: str, verdict: str) -> None:
    run = begun()
    called(run, started={"surface": "responses", "parameters": {"reasoning": {"effort": "high"}}})
    called(run, started={"parameters": {"reasoning_effort": "high"}})
    assert check(tmp_path, ended(run, None), claimed, value).verdict == verdict


def test_a_long_value_is_compared_by_its_hash(tmp_path: Path) -> None:
    run, long = begun(), {"type": "json_schema", "schema": "x" * 300}
    called(run, started={"parameters": openai_request.parameters({"response_format": long})})
    for value, verdict in ((json.dumps(long), "confirmed"), ('{"type":"text"}', "refuted")):
        assert check(tmp_path / verdict, ended(run, None), "response_format", value).verdict == verdict


@pytest.mark.parametrize(
    "started",
    [
        {"surface": "embeddings", "path": "/embeddings"},
        {"surface": "models", "method": "GET", "path": "/models", "model": None},
        {"surface": "responses", "method": "GET", "path": "/responses/resp_1", "model": None},
    ],
)
def test_a_call_that_does_not_take_a_parameter_refutes_none(tmp_path: Path, started: dict[str, Any]) -> None:
    run = begun()
    called(run, started={"path": "/chat/completions", "parameters": {"temperature": 0.5}})
    called(run, started={"model": "gpt-5", **started})
    ended(run, None)
    for name, value in (("temperature", "0.5"), ("model", "gpt-5")):
        assert check(tmp_path / name, run, name, value).verdict == "confirmed"


def test_what_is_not_recorded_is_not_said_to_be_not_sent(tmp_path: Path) -> None:
    run = begun()
    called(run)
    found = check(tmp_path, ended(run, None), "temprature", "0.5")
    assert (found.verdict, found.reason) == ("no evidence", "not recorded: no parameter of this name is")
