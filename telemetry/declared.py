"""The model that an agent was told to use: command line over file, in the order of the agent itself.

Promises, each with its test in ``tests/test_declared.py``:

* What the agent would take is told, before it starts. What cannot be told is ``None``, never a guess.
* A file of any content and size costs little and raises nothing; of it, nothing but the model is taken.

The order is that of TRAE (``trae_agent/utils/config.py`` at e839e559): ``--model``, then the model that the
file gives the agent; no variable names a model. Of other agents only ``--model`` is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from telemetry.command import option_value

LIMIT_BYTES = 1024 * 1024
"""Of a file that is parsed before the agent starts; a configuration has a few KiB."""
FILE_VARIABLE, _FILE = "TRAE_CONFIG_FILE", "trae_config.yaml"


def declared_model(
    agent: str | None, command: Sequence[str], cwd: str, environ: Mapping[str, str]
) -> str | None:
    """The model that `command` declares for its agent, as far as it can be told."""
    given = option_value(command, "--model")
    if given or agent != "trae":
        return given
    file = Path(cwd, config_file(command, cwd, environ))
    content = _content(file)
    return _of_legacy_file(content) if file.suffix == ".json" else _of_file(content)


def config_file(command: Sequence[str], cwd: str, environ: Mapping[str, str]) -> str:
    """The configuration file that TRAE takes, as it is named; where ``x.yaml`` is not there, ``x.json``."""
    named = option_value(command, "--config-file") or environ.get(FILE_VARIABLE) or _FILE
    file = Path(named)
    if file.suffix not in (".yaml", ".yml") or Path(cwd, file).exists():
        return named
    other = file.with_suffix(".json")
    return str(other) if Path(cwd, other).exists() else named


def _content(file: Path) -> dict[str, Any]:
    """JSON is YAML too."""
    import yaml  # only where a file has to say it

    try:
        with file.open("rb") as opened:
            text = opened.read(LIMIT_BYTES + 1)
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = yaml.load(text, loader) if len(text) <= LIMIT_BYTES else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}  # the agent itself will say what is wrong with it
    return content if isinstance(content, dict) else {}


def _of_file(content: Mapping[str, Any]) -> str | None:
    named = _under(content, "agents", "trae_agent", "model")
    return _text(_under(content, "models", named, "model")) if isinstance(named, str) else None


def _of_legacy_file(content: Mapping[str, Any]) -> str | None:
    """An older form, which TRAE knows by the file's name alone."""
    provider = content.get("default_provider")
    return _text(_under(content, "model_providers", provider, "model")) if isinstance(provider, str) else None


def _under(content: object, *names: str) -> object:
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
