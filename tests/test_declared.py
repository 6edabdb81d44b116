"""The model that an agent was told to use is what the agent itself would take."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemetry.declared import LIMIT_BYTES, declared_model

TRAE = ("python", "-m", "trae_agent.cli", "run")
FILE = """\
agents:
  trae_agent: {model: main, enable_lakeview: true}
lakeview: {model: small}
models:
  small: {model_provider: openai, model: gpt-4o-mini}
  main: {model_provider: openai, model: gpt-5, api_key: sk-never}
"""
LEGACY = '{"default_provider": "openai", "model_providers": {"openai": {"model": "gpt-4o"}}}'


def declared(
    folder: Path, *options: str, agent: str = "trae", environ: dict[str, str] | None = None
) -> str | None:
    return declared_model(agent, (*TRAE, *options), str(folder), environ or {})


def test_the_agents_entry_of_the_file_names_the_model(tmp_path: Path) -> None:
    (tmp_path / "trae_config.yaml").write_text(FILE)
    assert declared(tmp_path) == "gpt-5"
    assert declared(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    "options",
    [("--model", "o3"), ("--model=o3",), ("-m", "o3"), ("-mo3",), ("--model", "o1", "--model", "o3")],
)
def test_the_command_line_counts_before_the_file_and_the_last_word_in_it(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "trae_config.yaml").write_text(FILE)
    assert declared(tmp_path, *options) == "o3"


def test_the_file_is_named_by_option_then_variable_then_custom(tmp_path: Path) -> None:
    (tmp_path / "trae_config.yaml").write_text(FILE)
    (tmp_path / "by_variable.yaml").write_text(FILE.replace("gpt-5", "by variable"))
    (tmp_path / "by_option.yml").write_text(FILE.replace("gpt-5", "by option"))
    environ = {"TRAE_CONFIG_FILE": "by_variable.yaml"}
    assert declared(tmp_path, environ=environ) == "by variable"
    assert declared(tmp_path, "--config-file", "by_option.yml", environ=environ) == "by option"


def test_the_older_form_is_known_by_its_name_and_stands_in_for_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "trae_config.json").write_text(LEGACY)
    assert declared(tmp_path) == declared(tmp_path, "--config-file", "trae_config.json") == "gpt-4o"


@pytest.mark.parametrize(
    "content",
    ["", "- a", "agents: [", "agents: {trae_agent: {model: [main]}}", "models: 3", "\0", "[" * 5000,
     "&a [*a]", "!!python/object/apply:os.abort []", FILE + "#" * LIMIT_BYTES],
)  # fmt: skip
def test_what_a_file_does_not_say_is_unknown(tmp_path: Path, content: str) -> None:
    (tmp_path / "trae_config.yaml").write_text(content)
    assert declared(tmp_path) is None


def test_of_other_agents_no_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "trae_config.yaml").write_text(FILE)
    assert declared(tmp_path, agent="codex") is None
