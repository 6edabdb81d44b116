"""Every way of naming a Python program leads to its interpreter; what is not Python is left alone."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.command import parse_python
from telemetry.launch import Launch, decide
from tests.generations import find_python

SHIM = Path("/shim")
RUNNER = str(SHIM / "bootstrap.py")
PYTHON = sys.executable


def executable(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o755)
    return path


def launch(*command: str, path: Path | None = None, cwd: Path = Path("/"), **environ: str) -> Launch:
    variables = {"PATH": str(path) if path else os.environ["PATH"], **environ}
    return decide(command, variables, str(cwd), SHIM)


# --- an interpreter --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "rest"),
    [
        ("-m pkg.cli run --file x", "", "-m pkg.cli run --file x"),
        ("script.py -u -m", "", "script.py -u -m"),
        ("-c pass a b", "", "-c pass a b"),
        ("-u -O -E -I -s -S -B -P -q -v -b -d script.py", "-u -O -E -I -s -S -B -P -q -v -b -d", "script.py"),
        ("-uBsE script.py", "-uBsE", "script.py"),
        ("-OO -bb script.py", "-OO -bb", "script.py"),
        ("-X dev -W error script.py", "-X dev -W error", "script.py"),
        ("-Xdev -Werror -m pkg", "-Xdev -Werror", "-m pkg"),
        ("-uW ignore -BXdev script.py", "-uW ignore -BXdev", "script.py"),
        ("-um pkg run", "-u", "-m pkg run"),
        ("-mpkg run", "", "-m pkg run"),
        ("-Ecpass x", "-E", "-c pass x"),
        ("-u -- script.py -m", "-u", "script.py -m"),
        ("--check-hash-based-pycs never script.py", "--check-hash-based-pycs never", "script.py"),
        ("-i script.py", "-i", "script.py"),
    ],
)
def test_options_of_the_interpreter_stay_with_it(given: str, options: str, rest: str) -> None:
    program = parse_python(shlex.split(given))
    assert program == (tuple(options.split()), tuple(rest.split()), None)
    started = launch(PYTHON, *given.split())
    assert started.arguments == (PYTHON, *options.split(), RUNNER, *rest.split())
    assert (started.capture, started.executable, started.environment) == ("runner", PYTHON, ())


@pytest.mark.parametrize(
    "given",
    [
        "-m pkg",
        "-um pkg",
        "-X dev -c pass",
        "-W ignore -u -c pass",
        "-uWignore -mpkg",
        "-BsE -c pass x",
        "-ucpass",
    ],
)
def test_the_interpreter_itself_sees_the_words_the_same_way(given: str, tmp_path: Path) -> None:
    """Against CPython: the program that `parse_python` finds is the one that runs."""
    program = parse_python(shlex.split(given))
    (tmp_path / "pkg.py").write_text("")
    show = "import sys; print(sys.argv[1:], sys.flags.dont_write_bytecode, sys.warnoptions)"
    (tmp_path / "pkg.py").write_text(show)

    def run(words: list[str]) -> bytes:
        words = [show if word == "pass" else word.replace("cpass", f"c{show}") for word in words]
        return subprocess.run([PYTHON, *words], cwd=tmp_path, capture_output=True, check=True).stdout

    assert run(shlex.split(given)) == run([*program.options, *program.rest])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "standard input"),
        ("-", "standard input"),
        ("-u -", "standard input"),
        ("-V", "version"),
        ("-VV", "version"),
        ("-h", "help"),
        ("--version", "--version"),
        ("--help-all", "--help-all"),
    ],
)
def test_what_runs_no_program_is_started_as_it_is(given: str, reason: str) -> None:
    started = launch(PYTHON, *given.split())
    assert (started.arguments, started.capture) == ((PYTHON, *given.split()), "none")
    assert reason in (started.capture_reason or "")


def test_the_option_that_skips_a_line_goes_the_other_way() -> None:
    """``-x`` would skip the first line of the runner instead of the program's."""
    assert launch(PYTHON, "-x", "script.py").capture == "sitecustomize"


def test_a_launcher_started_as_a_module_goes_the_other_way() -> None:
    assert launch(PYTHON, "-m", "pipx", "run", "agent").capture == "sitecustomize"


def test_an_interpreter_on_the_path_keeps_the_name_it_was_called_by(tmp_path: Path) -> None:
    (tmp_path / "python3").symlink_to(PYTHON)
    started = launch("python3", "-m", "pkg", path=tmp_path)
    assert started.arguments == ("python3", RUNNER, "-m", "pkg")
    assert started.executable == str(tmp_path / "python3")


def test_an_interpreter_that_is_too_old_is_left_alone() -> None:
    old = find_python("3.9")
    if old is None:
        pytest.skip("no Python 3.9 on this machine")
    started = launch(str(old), "-m", "pkg")
    assert (started.arguments, started.capture) == ((str(old), "-m", "pkg"), "none")
    assert started.capture_reason == "Python 3.9 is older than 3.10"


def test_an_interpreter_whose_name_does_not_tell_is_asked(tmp_path: Path) -> None:
    """As behind pyenv and its like: a script called ``python3``."""
    old = executable(tmp_path / "old" / "python3", "#!/bin/sh\nprintf '2 7'\n")
    new = executable(tmp_path / "new" / "python3", f'#!/bin/sh\nexec {PYTHON} "$@"\n')
    broken = executable(tmp_path / "broken" / "python3", "#!/bin/sh\nexit 1\n")
    assert launch(str(old), "x.py").capture_reason == "Python 2.7 is older than 3.10"
    assert launch(str(new), "x.py").arguments == (str(new), RUNNER, "x.py")
    assert "does not say" in (launch(str(broken), "x.py").capture_reason or "")


# --- a script --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first_lines", "options"),
    [
        (f"#!{PYTHON}\n", ()),
        (f"#! {PYTHON} \n", ()),
        (f"#!{PYTHON} -I\n", ("-I",)),
        (f"#!{PYTHON} -sE\n", ("-sE",)),
        (f"#!/bin/sh\n'''exec' {PYTHON} \"$0\" \"$@\"\n' '''\n", ()),
        (f"#!/bin/sh\n'''exec' '{PYTHON}' \"$0\" \"$@\"\n' '''\n", ()),
        (f"#!/bin/sh\n'''exec' \"{PYTHON}\" -I \"$0\" \"$@\"\n' '''\n", ("-I",)),
    ],
)
def test_a_script_is_started_through_the_interpreter_that_it_asks_for(
    tmp_path: Path, first_lines: str, options: tuple[str, ...]
) -> None:
    script = executable(tmp_path / "bin" / "agent", first_lines + "print()\n")
    started = launch("agent", "run", "-u", path=script.parent)
    assert started.arguments == (PYTHON, *options, RUNNER, str(script), "run", "-u")
    assert (started.capture, started.executable) == ("runner", PYTHON)


@pytest.mark.parametrize(
    "line", ["#!/usr/bin/env python3", "#!/usr/bin/env -S python3", "#! /usr/bin/env  python3"]
)
def test_a_script_that_leaves_it_to_env_gets_the_first_on_the_path(tmp_path: Path, line: str) -> None:
    script = executable(tmp_path / "agent", f"{line}\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(PYTHON)
    started = launch(str(script), path=tmp_path / "bin")
    assert started.arguments == (str(tmp_path / "bin" / "python3"), RUNNER, str(script))


def test_options_behind_env_are_the_interpreters(tmp_path: Path) -> None:
    script = executable(tmp_path / "agent", "#!/usr/bin/env -S python3 -u -O\n")
    (tmp_path / "python3").symlink_to(PYTHON)
    assert launch(str(script), path=tmp_path).arguments == (
        str(tmp_path / "python3"), "-u", "-O", RUNNER, str(script),
    )  # fmt: skip


def test_a_script_of_a_relocatable_environment_has_its_interpreter_beside_it(tmp_path: Path) -> None:
    """As uv writes it; the link leads to the real folder."""
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "python3").symlink_to(PYTHON)
    trampoline = "'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python3' \"$0\" \"$@\"\n' '''\n"
    script = executable(tmp_path / "venv" / "agent", f"#!/bin/sh\n{trampoline}")
    (tmp_path / "link").symlink_to(script)
    started = launch(str(tmp_path / "link"))
    assert started.arguments == (str(tmp_path / "venv" / "python3"), RUNNER, str(tmp_path / "link"))


def test_a_relative_program_is_looked_up_in_its_own_working_folder(tmp_path: Path) -> None:
    executable(tmp_path / "bin" / "agent", f"#!{PYTHON}\n")
    assert launch("bin/agent", cwd=tmp_path).arguments[1:] == (RUNNER, str(tmp_path / "bin" / "agent"))


# --- launchers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["uv", "uvx", "poetry", "pipx", "hatch", "conda", "env", "nice", "timeout", "sh"]
)
def test_a_launcher_hands_the_hooks_on(tmp_path: Path, name: str) -> None:
    """Whatever it is itself: a binary, a script of Python, a script of the shell."""
    for content in (b"\x7fELF", f"#!{PYTHON}\n".encode(), b"#!/bin/bash\n"):
        executable(tmp_path / name, content)
        started = launch(name, "run", "agent", path=tmp_path)
        assert (started.arguments, started.capture) == ((name, "run", "agent"), "sitecustomize")
        added = dict(started.environment)
        assert added["PYTHONPATH"] == str(SHIM / "site")
        assert json.loads(added["AGENT_TELEMETRY_INJECT"]) == [name, "run", "agent"]
        assert "AGENT_TELEMETRY_PYTHONPATH" not in added


def test_the_path_that_was_there_comes_behind_and_is_kept(tmp_path: Path) -> None:
    executable(tmp_path / "uv", b"\x7fELF")
    added = dict(launch("uv", "run", path=tmp_path, PYTHONPATH="/a:/b").environment)
    assert added["PYTHONPATH"] == f"{SHIM / 'site'}:/a:/b"
    assert added["AGENT_TELEMETRY_PYTHONPATH"] == "/a:/b"


def test_the_words_inside_a_shell_command_count() -> None:
    added = dict(launch("sh", "-c", "cd x && exec trae-cli 'a b'").environment)
    assert {"trae-cli", "a b"} <= set(json.loads(added["AGENT_TELEMETRY_INJECT"]))


def test_a_long_command_does_not_grow_its_environment_beyond_what_the_system_takes() -> None:
    """The program stands near the beginning."""
    words = [f"word-{number}" for number in range(100_000)]
    handed = dict(launch("sh", "-c", "exec trae-cli", *words).environment)["AGENT_TELEMETRY_INJECT"]
    assert len(handed) <= 64 * 1024
    assert json.loads(handed)[:4] == ["sh", "-c", "exec trae-cli", "exec"]
    assert "trae-cli" in json.loads(handed)


def test_a_script_of_the_shell_may_lead_to_python(tmp_path: Path) -> None:
    script = executable(tmp_path / "trae-cli", "#!/usr/bin/env bash\nexec pyenv exec trae-cli\n")
    assert launch(str(script)).capture == "sitecustomize"


# --- what is left alone ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x7fELF\x02", "is no Python program"),
        (b"\xcf\xfa\xed\xfe", "is no Python program"),
        (b"#!/usr/bin/env node\n", "runs in node"),
        (b"#!/usr/bin/perl -w\n", "runs in perl"),
    ],
)
def test_what_is_not_python_is_started_as_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    executable(tmp_path / "codex", content)
    executable(tmp_path / "node", b"\x7fELF")
    started = launch("codex", "exec", path=tmp_path)
    assert (started.arguments, started.capture, started.environment) == (("codex", "exec"), "none", ())
    assert (started.capture_reason or "").startswith("no hook for codex (")
    assert words in (started.capture_reason or "")


def test_what_cannot_be_started_is_left_to_fail_as_it_is(tmp_path: Path) -> None:
    not_executable = executable(tmp_path / "a", f"#!{PYTHON}\n")
    not_executable.chmod(0o644)
    no_interpreter = executable(tmp_path / "b", "#!/no/such/python\n")
    for command in ("no-such-agent", "/no/such/agent", str(not_executable), str(no_interpreter), ""):
        started = launch(command, "x")
        assert (started.arguments, started.capture, started.environment) == ((command, "x"), "none", ())


def test_without_the_hooks_nothing_is_changed() -> None:
    started = decide([PYTHON, "-m", "pkg"], os.environ, "/", None)
    assert started == Launch((PYTHON, "-m", "pkg"), PYTHON, "none", None, ())
