"""The interpreter stand-in: put where a pipeline names its Python, it records the known agents.

``agent-telemetry-python -m trae_agent.cli run …`` runs the interpreter that ``AGENT_TELEMETRY_PYTHON``
names, and records it. Anything else that a pipeline does with its Python (``-c``, ``-V``, pip) runs
unrecorded and unchanged. Nothing is printed unless something is wrong.

This module is started isolated (``python -I``): the caller's ``PYTHONPATH`` may hold a package called
``telemetry``; it is handed on to the agent as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent_shim.errors import SettingsError
from telemetry import child
from telemetry.command import STAND_IN, parse_python
from telemetry.settings import Settings, is_disabled

AGENT_MODULES = ("trae_agent", "codex_agent", "openhands")
"""Packages whose ``-m`` is a run of an agent."""
VARIABLE = "AGENT_TELEMETRY_PYTHON"


def main(arguments: Sequence[str] | None = None) -> int:
    """Stand in for the interpreter; the exit code, where this process did not become another."""
    words = tuple(sys.argv[1:] if arguments is None else arguments)
    environ = dict(os.environ)
    settings, wrong = _settings(environ)
    python = checked(settings.python if settings else environ.get(VARIABLE))
    if isinstance(python, child.Failure):
        return _refuse(python)
    command = (python, *words)
    if wrong:
        sys.stderr.write(f"agent-telemetry: not recorded: {wrong}\n")
    if settings is None or settings.disabled or not is_agent(words):
        return _refuse(child.become_now(command, python, environ, str(Path.cwd())))
    from telemetry import wrapper

    return wrapper.run(wrapper.RunRequest(command, settings, environ, way="stand-in"))


def is_agent(words: Sequence[str]) -> bool:
    """Whether what an interpreter is given is a known agent."""
    rest = parse_python(words).rest
    return rest[:1] == ("-m",) and "".join(rest[1:2]).partition(".")[0] in AGENT_MODULES


def _settings(environ: Mapping[str, str]) -> tuple[Settings | None, str | None]:
    """The settings, or what is wrong with them; that is of no interest when nothing is to be recorded."""
    try:
        return Settings.load(environ), None
    except SettingsError as error:
        wrong = str(error)
    try:
        return None, None if is_disabled(environ) else wrong
    except SettingsError:
        return None, wrong


def checked(python: str | None) -> str | child.Failure:
    """The interpreter to stand in for, or why it cannot be started."""
    hint = f"set {VARIABLE} to the path of the agent's own interpreter"
    if not python:
        return child.Failure("SettingsError", f"{STAND_IN} stands in for no interpreter: {hint}", child.OURS)
    path, given = Path(python), f"{VARIABLE}={python}"
    if not path.is_file():
        return child.Failure("FileNotFoundError", f"{given}: no such file; {hint}", child.NOT_FOUND)
    if not os.access(path, os.X_OK):
        return child.Failure("PermissionError", f"{given}: not executable; {hint}", child.NOT_EXECUTABLE)
    if path.name == STAND_IN or path.resolve().name == STAND_IN:
        return child.Failure("SettingsError", f"{given}: is this stand-in itself; {hint}", child.OURS)
    return python


def _refuse(failure: child.Failure) -> int:
    sys.stderr.write(f"agent-telemetry: {failure.message}\n")
    return failure.exit_code


if __name__ == "__main__":
    sys.exit(main())
