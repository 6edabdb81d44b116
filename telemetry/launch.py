"""How the agent is started so that the hooks get into it, decided without starting anything of it.

Promises, each a test in ``tests/test_launch.py``:

* A Python interpreter, or a script that says which interpreter it wants, is started through
  ``agent_shim/bootstrap.py`` with all its own options; nothing of ours is then on ``PYTHONPATH``, so the
  programs that the agent's tools start see nothing of it.
* A launcher that may lead to Python (``uv run``, ``sh -c`` …) gets the ``sitecustomize`` fallback.
* What is known not to be Python is started exactly as given, and the reason is said.
* A command that cannot be started at all is left as it was given, so that its failure is its own.

Files are read (first lines, links) and, when its name does not tell, an interpreter is asked for its
version; nothing is written.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from telemetry.command import (
    LAUNCHERS,
    SHELLS,
    find_program,
    head_of,
    is_python,
    parse_python,
    python_flags,
    script_interpreter,
)

OLDEST_PYTHON = (3, 10)
"""The oldest interpreter that the hooks run in."""

_VERSION_IN_NAME = re.compile(r"python(\d)\.(\d+)[a-z]?(?:-dbg)?")
_OTHER_LANGUAGES = frozenset(("bun", "deno", "java", "lua", "node", "osascript", "perl", "php", "ruby"))
_NATIVE = (
    b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\xfe\xed\xfa\xcf",
)  # fmt: skip
"""First bytes of ELF and Mach-O files."""
_ASK_LIMIT_S = 10.0
_WORDS_BYTES = 64 * 1024
"""Of a command's words in the agent's environment: Linux takes 128 KiB in one variable, and all of the
environment counts together with the command."""


class Launch(NamedTuple):
    """How the agent's process is started."""

    arguments: tuple[str, ...]
    """The words given to the process, its program first."""
    executable: str | None
    """The file that is executed; ``None``: there is none of that name."""
    capture: str
    """``runner``, ``sitecustomize`` or ``none``."""
    capture_reason: str | None = None
    """Why nothing is captured, when `capture` is ``none``."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that this way of capturing adds or replaces."""


def decide(command: Sequence[str], environ: Mapping[str, str], cwd: str, shim: Path | None) -> Launch:
    """How to start `command` in folder `cwd` with environment `environ`.

    `shim` is the folder of ``agent_shim``; ``None``: nothing is to be captured.
    """
    command = tuple(command)
    executable = find_program(command[0], environ, cwd)
    if executable is None or not os.access(executable, os.X_OK) or shim is None:
        return Launch(command, executable, "none", "the program cannot be started" if shim else None)
    name = Path(executable).name
    if name in LAUNCHERS:
        return _fallback(command, executable, environ, shim)
    if is_python(name):
        return _python(command, executable, command, environ, cwd, shim)
    head = head_of(executable)
    interpreter = script_interpreter(head, executable, environ, cwd)
    if interpreter and is_python(interpreter[0]):
        if find_program(interpreter[0], environ, cwd) is None:
            return Launch(command, executable, "none", f"its interpreter {interpreter[0]} is missing")
        return _python(command, executable, (*interpreter, executable, *command[1:]), environ, cwd, shim)
    reason = _not_python(name, head, interpreter)
    if reason:
        return Launch(command, executable, "none", reason)
    return _fallback(command, executable, environ, shim)


def _python(
    command: tuple[str, ...],
    executable: str,
    words: tuple[str, ...],
    environ: Mapping[str, str],
    cwd: str,
    shim: Path,
) -> Launch:
    """The launch of a command that amounts to `words`: an interpreter, its options, a program."""
    program = parse_python(words[1:])
    path = find_program(words[0], environ, cwd) or executable
    reason = program.reason or _too_old(path, environ, cwd)
    if reason:
        return Launch(command, executable, "none", reason)
    # -x leaves out the first line of the program, which would be the first line of our runner.
    starts_another = program.rest[0] == "-m" and "".join(program.rest[1:2]).partition(".")[0] in LAUNCHERS
    if "x" in python_flags(program.options) or starts_another:
        return _fallback(command, executable, environ, shim)
    arguments = (words[0], *program.options, str(shim / "bootstrap.py"), *program.rest)
    return Launch(arguments, path, "runner")


def _fallback(command: tuple[str, ...], executable: str, environ: Mapping[str, str], shim: Path) -> Launch:
    old = environ.get("PYTHONPATH")
    added = {
        "PYTHONPATH": str(shim / "site") + (os.pathsep + old if old else ""),
        "AGENT_TELEMETRY_INJECT": json.dumps(_words(command)),
    }
    if old is not None:
        added["AGENT_TELEMETRY_PYTHONPATH"] = old
    return Launch(command, executable, "sitecustomize", None, tuple(added.items()))


def _words(command: Sequence[str]) -> list[str]:
    """The first words of a command, those inside ``sh -c '…'`` too: the gate looks for the program there."""
    shell = Path(command[0]).name in SHELLS
    kept: dict[str, None] = {}
    left = _WORDS_BYTES
    for word in command:
        for part in (word, *(_shell_words(word) if shell else ())):
            if part not in kept and len(part) <= 4096:
                left -= len(json.dumps(part)) + 2
                if left < 0:
                    return list(kept)
                kept[part] = None
    return list(kept)


def _shell_words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return []  # not shell syntax


def _not_python(name: str, head: bytes, interpreter: tuple[str, ...] | None) -> str | None:
    if interpreter:
        language = Path(interpreter[0]).name
        return f"no hook for {name} (it runs in {language})" if language in _OTHER_LANGUAGES else None
    return f"no hook for {name} (it is no Python program)" if head.startswith(_NATIVE) else None


def _too_old(path: str, environ: Mapping[str, str], cwd: str) -> str | None:
    """Why the hooks cannot run in an interpreter; ``None``: they can."""
    named = _VERSION_IN_NAME.fullmatch(Path(path).resolve().name)
    version = (int(named[1]), int(named[2])) if named else _ask_version(path, environ, cwd)
    if version is None:
        return f"{path} does not say which Python it is"
    if version < OLDEST_PYTHON:
        return f"Python {version[0]}.{version[1]} is older than {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]}"
    return None


def _ask_version(path: str, environ: Mapping[str, str], cwd: str) -> tuple[int, int] | None:
    import subprocess

    question = "import sys; sys.stdout.write('%d %d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [path, "-S", "-E", "-c", question],
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_ASK_LIMIT_S,
            check=True,
        )
        major, minor = map(int, answer.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return major, minor
