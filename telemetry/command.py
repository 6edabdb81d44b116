"""Reading a command line: which program it names, which interpreter that wants, which agent it is.

Nothing is started here; files are read only where a script's first lines must say what runs it.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

STAND_IN = "agent-telemetry-python"
KNOWN_AGENTS = ("trae", "codex", "claude", "openhands")

SHELLS = frozenset(("ash", "bash", "dash", "fish", "ksh", "sh", "zsh"))
_STARTERS = """
    asdf bwrap busybox caffeinate catchsegv chroot chrt conda dbus-run-session direnv doas env faketime
    fakeroot firejail gdb gtimeout hatch ionice just ltrace make mamba micromamba mise nice nix-shell
    nohup nox numactl parallel pdm perf pipenv pipx pixi poetry prlimit proxychains proxychains4 pyenv
    py-spy rye script setarch setpriv setsid stdbuf strace su sudo systemd-run taskset time timeout tini
    tox unbuffer unshare uv uvx valgrind watch xargs xvfb-run
"""
LAUNCHERS = SHELLS | frozenset(_STARTERS.split())
"""Programs that start another one, named somewhere in their arguments."""

_TRAE_SHORT = {
    "--model": "-m",
    "--provider": "-p",
    "--working-dir": "-w",
    "--trajectory-file": "-t",
    "--patch-path": "-pp",
}
"""TRAE's own names (``trae_agent/cli.py`` at e839e559)."""
_AGENT_OF_WORD = re.compile(rf"({'|'.join(KNOWN_AGENTS)})(?=$|[-_.])")
_PYTHON = re.compile(r"(?:python|pypy)[0-9.]*[a-z]?(?:-dbg)?")
_HEAD_BYTES = 4096

# `exec` lines that pip (distlib) and uv put behind `#!/bin/sh` when the path of the interpreter has
# spaces or is longer than the system's limit for a first line; sh runs it, Python reads a string.
_TRAMPOLINE = re.compile(rb"#!\s*/bin/sh\s*\n'''exec' (?P<words>[^\n]+) \"\$0\" \"\$@\"\s*\n' '''")
# uv's relocatable environments: the interpreter stands beside the script.
_BESIDE_SCRIPT = re.compile(
    r"\"?\$\(dirname -- \"?\$\(realpath -- \"?\$0\"?\)\"?\)\"?/(?P<name>'[^']+'|[^ ]+)"
)


class Program(NamedTuple):
    """A Python command line, taken apart."""

    options: tuple[str, ...]
    """The interpreter's own options."""
    rest: tuple[str, ...]
    """``-m module …``, ``-c code …`` or ``script …``; empty: no program is named."""
    reason: str | None = None
    """Why the program cannot be started through the runner."""


def parse_python(words: Sequence[str]) -> Program:
    """Take apart what stands behind an interpreter, as CPython's own ``_PyOS_GetOpt`` does."""
    options: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            return _program(options, words[position + 1 :])
        if word == "-" or not word.startswith("-"):
            return _program(options, words[position:])
        if word.startswith("--"):
            if word != "--check-hash-based-pycs":
                return Program(tuple(words), (), f"{word} of the interpreter runs no program")
            options += words[position : position + 2]
            position += 2
            continue
        flags, letter, value = _short(word)
        if letter in ("m", "c"):
            options += [f"-{flags}"] if flags else []
            rest = [value] if value else []
            return _program(options, [f"-{letter}", *rest, *words[position + 1 :]])
        separate = 1 if letter and not value else 0  # -X and -W with their value in the next word
        options += words[position : position + 1 + separate]
        position += 1 + separate
    return _program(options, [])


def python_flags(options: Sequence[str]) -> str:
    """The letters of all flags among an interpreter's options."""
    return "".join(_short(option)[0] for option in options if option[:1] == "-" and option[:2] != "--")


def _short(word: str) -> tuple[str, str, str]:
    """The flags of a word such as ``-uWignore``, the letter that takes a value, and the value in it."""
    for position, letter in enumerate(word[1:], 1):
        if letter in "cmWX":
            return word[1:position], letter, word[position + 1 :]
    return word[1:], "", ""


def _program(options: Sequence[str], rest: Sequence[str]) -> Program:
    reason = None
    if set(python_flags(options)) & set("hV?"):
        reason = "the interpreter only shows its help or version"
    elif not rest or rest[0] == "-":
        reason = "the program is read from standard input"
    return Program(tuple(options), tuple(rest), reason)


def is_python(path: str) -> bool:
    """Whether a program is a Python interpreter, by its name."""
    return _PYTHON.fullmatch(Path(path).name) is not None


def option_value(command: Sequence[str], option: str) -> str | None:
    """The value of a long option in a command line; where it is given again, the last counts, as for click.

    ``--option value``, ``--option=value``, and TRAE's short forms, ``-o value`` and ``-ovalue``.
    """
    short = _TRAE_SHORT.get(option)
    behind = _behind_trae(command) if short else len(command)
    value = None
    for position, word in enumerate(command):
        if word == option or (word == short and position >= behind):
            value = command[position + 1] if position + 1 < len(command) else value
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
        elif short and len(short) == 2 and position >= behind and word.startswith(short):
            value = word[2:]
    return value


def _behind_trae(command: Sequence[str]) -> int:
    """Where TRAE's own options begin: behind its word ``run``; before it they may be an interpreter's."""
    words = list(command)
    if "run" not in words or agent_name(words) != "trae":
        return len(words)
    return words.index("run", 1 if words[0] == "run" else 0) + 1


def agent_name(command: Sequence[str]) -> str | None:
    """The agent that a command starts: ``trae``, ``codex`` … where it is known, else module or script.

    Behind a launcher (``uv run trae-cli``) every word may be the agent; otherwise only the program is.
    """
    words = list(command)
    if is_python(words[0]) or Path(words[0]).name == STAND_IN:
        rest = parse_python(words[1:]).rest
        words = list(rest[1:2] if rest[:1] == ("-m",) else rest[:1] if rest[:1] != ("-c",) else ())
    elif Path(words[0]).name not in LAUNCHERS:
        words = words[:1]
    for word in words:
        known = _AGENT_OF_WORD.match(Path(word).name)
        if known:
            return known[1]
    return _plain_name(words[0] if words else command[0])


def _plain_name(word: str) -> str:
    name = Path(word).name
    is_module = name == word and not word.endswith(".py")
    return name.partition(".")[0] if is_module else name.removesuffix(".py")


# --- finding what runs -----------------------------------------------------------------------------


def find_program(word: str, environ: Mapping[str, str], cwd: str) -> str | None:
    """The file that executing `word` in `cwd` would run, as ``execvp`` finds it; ``None``: there is none."""
    if os.sep in word:
        path = Path(cwd, word)
        return str(path) if path.is_file() else None
    for folder in os.get_exec_path(dict(environ)) if word else ():
        path = Path(cwd, folder, word)
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return None


def head_of(path: str) -> bytes:
    """The first bytes of a file; empty when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""


def script_interpreter(
    head: bytes, script: str, environ: Mapping[str, str], cwd: str
) -> tuple[str, ...] | None:
    """The interpreter that a script's first lines ask for, and its options; ``None``: no script."""
    trampoline = _TRAMPOLINE.match(head)
    if trampoline:
        return _trampoline(os.fsdecode(trampoline["words"]), script)
    if not head.startswith(b"#!"):
        return None
    line = os.fsdecode(head[2:].split(b"\n", 1)[0]).strip()
    program, _, argument = line.partition(" ")
    if Path(program).name == "env":
        return _through_env(argument.strip(), environ, cwd)
    # Linux hands on everything behind the program as one word, macOS takes it apart.
    options = argument.split() if sys.platform == "darwin" else [argument.strip()] * bool(argument.strip())
    return (program, *options) if program else None


def _trampoline(text: str, script: str) -> tuple[str, ...] | None:
    beside = _BESIDE_SCRIPT.fullmatch(text)
    if beside:
        return (str(Path(os.path.realpath(script)).parent / beside["name"].strip("'")),)
    try:
        return tuple(shlex.split(text)) or None
    except ValueError:
        return None


def _through_env(argument: str, environ: Mapping[str, str], cwd: str) -> tuple[str, ...]:
    parts = argument.removeprefix("-S").split() if argument.startswith("-S") else [argument]
    if not parts or not parts[0] or parts[0].startswith("-") or "=" in parts[0]:
        return ("env",)  # options and assignments of env: a launcher like any other
    return (find_program(parts[0], environ, cwd) or parts[0], *parts[1:])
