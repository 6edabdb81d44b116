"""What an agent is configured by is known before it starts, and no secret is in it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from telemetry.agent_config import LIMIT_BYTES, configuration

COMMAND = ["python", "-m", "trae_agent.cli", "run", "--model", "gpt-5", "--config-file", "conf.yaml"]


def test_command_line_environment_and_file_without_secrets(tmp_path: Path) -> None:
    content = b"model_providers: {openai: {api_key: sk-secret}}\n"
    (tmp_path / "conf.yaml").write_bytes(content)
    environ = {
        "OPENAI_API_KEY": "sk-secret",
        "OPENAI_BASE_URL": "https://user:secret@gateway.example/v1?key=secret",
        "PATH": "/secret",
    }
    read = configuration("trae", COMMAND, str(tmp_path), environ)
    assert read is not None
    assert read.options == {"--model": "gpt-5", "--config-file": "conf.yaml"}
    assert read.environment == {"OPENAI_API_KEY": "set", "OPENAI_BASE_URL": "https://gateway.example/v1"}
    assert (read.file_bytes, read.file_sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert "secret" not in str(read)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    read = configuration("trae", COMMAND, str(tmp_path), {})
    assert read is not None
    assert (read.file, read.file_sha256, read.file_reason) == ("conf.yaml", None, "No such file or directory")
    (tmp_path / "conf.yaml").write_bytes(b"x" * (LIMIT_BYTES + 1))
    read = configuration("trae", COMMAND, str(tmp_path), {})
    assert read is not None and read.file_reason == f"longer than {LIMIT_BYTES} bytes"


def test_the_file_is_found_in_the_agents_own_order(tmp_path: Path) -> None:
    named = configuration("trae", ["trae-cli"], str(tmp_path), {"TRAE_CONFIG_FILE": "of_variable.yaml"})
    usual = configuration("trae", ["trae-cli"], str(tmp_path), {})
    assert named is not None and usual is not None
    assert (named.file, usual.file) == ("of_variable.yaml", "trae_config.yaml")


def test_where_the_yaml_is_not_there_the_json_of_its_name_is_taken(tmp_path: Path) -> None:
    """By who asks for the model as by who records the file."""
    (tmp_path / "conf.json").write_text('{"default_provider": "openai"}')
    read = configuration("trae", COMMAND, str(tmp_path), {})
    assert read is not None and (read.file, read.file_reason) == ("conf.json", None)


def test_of_other_agents_nothing_is_said(tmp_path: Path) -> None:
    assert configuration("codex", ["codex", "--model", "o3"], str(tmp_path), {}) is None
