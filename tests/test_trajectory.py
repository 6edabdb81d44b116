"""What TRAE wrote of itself is read as claims, and a file of any form gives a reason instead of an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent_shim.redaction import Redactor
from telemetry import trajectory


def step(number: int, error: str | None = None) -> dict[str, Any]:
    return {"step_number": number, "state": "completed", "error": error}


def interaction(**usage: int) -> dict[str, Any]:
    return {"provider": "openai", "response": {"model": "gpt-5", "usage": usage}}


WHOLE = {
    "task": "t",
    "start_time": "2026-11-23T09:00:00",
    "end_time": "2026-11-23T09:05:00",
    "provider": "openai",
    "model": "gpt-5",
    "max_steps": 200,
    "llm_interactions": [
        interaction(input_tokens=10, output_tokens=2, cache_read_input_tokens=4, reasoning_tokens=1),
        interaction(input_tokens=20, output_tokens=3),
    ],
    "agent_steps": [step(1), step(2, "Error code: 400 - no tool output")],
    "success": False,
    "final_result": None,
}


def told(path: Path, content: bytes) -> dict[str, Any]:
    path.write_bytes(content)
    event = trajectory.read(path, True, Redactor(["canary-secret-4242"]))
    return {name: value for name, value in event._asdict().items() if value is not None}


def test_a_whole_trajectory_is_told_in_numbers(tmp_path: Path) -> None:
    found = told(tmp_path / "t.json", json.dumps(WHOLE).encode())
    assert len(found.pop("sha256")) == 64
    assert found.pop("bytes") > 0
    assert found == {
        "path": str(tmp_path / "t.json"),
        "written": True,
        "valid_json": True,
        "success": False,
        "error": "Error code: 400 - no tool output",
        "errors": 1,
        "steps": 2,
        "max_steps": 200,
        "interactions": 2,
        "input_tokens": 30,
        "output_tokens": 5,
        "cached_tokens": 4,
        "reasoning_tokens": 1,
        "provider": "openai",
        "model": "gpt-5",
        "start_time": "2026-11-23T09:00:00",
        "end_time": "2026-11-23T09:05:00",
    }


@pytest.mark.parametrize(
    ("content", "valid", "reason"),
    [
        (json.dumps(WHOLE).encode()[:200], False, "not JSON: "),
        (b"", False, "not JSON: "),
        (b"\xff\xfe\x00", False, "not JSON: "),
        (b"[" * 100_000, False, "not JSON: "),
        (b"[]", True, "not an object"),
        (b"null", True, "not an object"),
    ],
)
def test_a_trajectory_that_cannot_be_read_has_a_reason(
    tmp_path: Path, content: bytes, valid: bool, reason: str
) -> None:
    found = told(tmp_path / "t.json", content)
    assert found["valid_json"] is valid
    assert found["reason"].startswith(reason)
    assert "success" not in found


def test_values_of_any_other_form_are_unknown(tmp_path: Path) -> None:
    odd = {
        "success": "yes",
        "agent_steps": [1, {"error": {"x": 1}}],
        "llm_interactions": {"a": 1},
        "max_steps": 1.5,
    }
    found = told(tmp_path / "t.json", json.dumps(odd).encode())
    assert not found.keys() & {"success", "error", "max_steps", "input_tokens"}
    assert (found["steps"], found["interactions"]) == (1, 0)


def test_a_secret_in_a_claim_is_removed(tmp_path: Path) -> None:
    found = told(tmp_path / "t.json", json.dumps({"final_result": "key canary-secret-4242"}).encode())
    assert found["final_result"] == "key [redacted:live]"


def test_a_missing_trajectory_has_a_reason(tmp_path: Path) -> None:
    event = trajectory.read(tmp_path / "none.json", False, str)
    assert (event.reason, event.valid_json, event.written) == ("No such file or directory", None, False)
