"""The three tools: read a file, write a file, run a command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND_LIMIT_S = 60
OUTPUT_LIMIT = 20_000


def read_file(folder: Path, path: str) -> str:
    """The text of a file."""
    return (folder / path).read_text()


def write_file(folder: Path, path: str, text: str) -> str:
    """Create or replace a file."""
    (folder / path).write_text(text)
    return f"wrote {len(text)} characters"


def run(folder: Path, command: str) -> str:
    """Run a shell command; its exit code and output."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_LIMIT_S,
    )
    return f"exit code {done.returncode}\n{done.stdout[-OUTPUT_LIMIT:]}"


TOOLS: dict[str, Callable[..., str]] = {"read_file": read_file, "write_file": write_file, "run": run}


def _schema(name: str, *parameters: str) -> Any:
    return {
        "type": "function",
        "name": name,
        "description": TOOLS[name].__doc__,
        "strict": False,  # with True the client would parse the arguments, and raise on broken ones
        "parameters": {
            "type": "object",
            "properties": {parameter: {"type": "string"} for parameter in parameters},
            "required": list(parameters),
            "additionalProperties": False,
        },
    }


SCHEMAS = [_schema("read_file", "path"), _schema("write_file", "path", "text"), _schema("run", "command")]


def execute(name: str, arguments: str, folder: Path) -> tuple[str, str | None]:
    """The output of a tool as the model is to read it, and what went wrong, if anything did."""
    try:
        output = TOOLS[name](folder, **json.loads(arguments))
    except (KeyError, TypeError, ValueError, OSError, subprocess.TimeoutExpired) as error:
        failure = f"{type(error).__name__}: {error}"
        return f"error: {failure}", failure
    failed = name == "run" and not output.startswith("exit code 0\n")
    return output, output.partition("\n")[0] if failed else None
