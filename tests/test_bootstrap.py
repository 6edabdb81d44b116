"""Becoming the agent: what the program sees is what Python itself would have shown it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zipapp
from pathlib import Path

import pytest

from agent_shim.spool import new_id
from tests import spools

SHIM = Path(__file__).resolve().parent.parent / "agent_shim"
BOOTSTRAP = SHIM / "bootstrap.py"

SHOW = textwrap.dedent(
    """
    import json, os, sys
    main = sys.modules["__main__"]
    print(json.dumps({
        "argv": sys.argv, "path0": sys.path[0], "name": __name__, "file": globals().get("__file__"),
        "package": __package__, "spec": getattr(__spec__, "name", None), "doc": __doc__,
        "globals": sorted(name for name in vars(main) if name not in ("json", "os", "sys", "main")),
        "own": sorted(name for name in os.environ if name.startswith("AGENT_TELEMETRY")),
        "pythonpath": os.environ.get("PYTHONPATH"), "cwd": os.getcwd(),
    }))
    """
)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with the same program as script, module, package and zip."""
    folder = tmp_path / "program"
    (folder / "package").mkdir(parents=True)
    (folder / "script.py").write_text(SHOW)
    (folder / "console-script").write_text("#!/usr/bin/env python3\n" + SHOW)
    (folder / "package" / "__init__.py").touch()
    (folder / "package" / "__main__.py").write_text(SHOW)
    (folder / "package" / "module.py").write_text(SHOW)
    (folder / "app").mkdir()
    (folder / "app" / "__main__.py").write_text(SHOW)
    zipapp.create_archive(folder / "app", folder / "app.pyz")
    return folder


def run(arguments: list[str], cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("options", [[], ["-I"], ["-P"], ["-S"], ["-u", "-X", "utf8"]], ids=" ".join)
@pytest.mark.parametrize(
    "arguments",
    [
        ["script.py", "a", "--b"],
        ["./script.py"],
        ["console-script", "-m", "x"],
        ["-m", "package.module", "a"],
        ["-m", "package"],
        ["-c", SHOW, "a"],
        ["app"],
        ["app.pyz", "a"],
    ],
    ids=lambda arguments: " ".join(arguments[:2])[:20].strip(),
)
def test_the_program_sees_what_python_would_show_it(
    program: Path, options: list[str], arguments: list[str]
) -> None:
    python = [sys.executable, *options]
    if options in (["-P"],) and sys.version_info < (3, 11):
        pytest.skip("-P came with Python 3.11")
    expected = run([*python, *arguments], program)
    actual = run([*python, str(BOOTSTRAP), *arguments], program)
    assert actual.returncode == expected.returncode, actual.stderr
    if expected.returncode:  # a module that an isolated interpreter does not find
        assert expected.stderr.splitlines()[-1:] == actual.stderr.splitlines()[-1:]
        return
    assert json.loads(actual.stdout) == json.loads(expected.stdout)


@pytest.mark.parametrize(
    ("code", "status"),
    [("raise SystemExit(7)", 7), ("import os; os._exit(3)", 3), ("1/0", 1), ("exit('no')", 1)],
)
def test_the_exit_status_is_the_programs_own(program: Path, code: str, status: int) -> None:
    done = run([sys.executable, str(BOOTSTRAP), "-c", code], program)
    assert done.returncode == status


def test_an_agent_with_a_package_of_our_name_keeps_its_own(program: Path) -> None:
    (program / "agent_shim").mkdir()
    (program / "agent_shim" / "__init__.py").write_text("mine = 1")
    (program / "telemetry").mkdir()
    (program / "telemetry" / "__init__.py").write_text("mine = 2")
    code = "import agent_shim, telemetry; print(agent_shim.mine + telemetry.mine)"
    done = run([sys.executable, str(BOOTSTRAP), "-c", code], program)
    assert done.stdout == "3\n", done.stderr


def test_a_data_folder_that_cannot_be_used_costs_the_agent_nothing(program: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = run(
        [sys.executable, str(BOOTSTRAP), "-c", "print('ran')"],
        program,
        AGENT_TELEMETRY_HOME=str(blocked),
        AGENT_TELEMETRY_RUN=new_id(),
    )
    assert (done.returncode, done.stdout) == (0, "ran\n")


# --- the fallback through sitecustomize ----------------------------------------------------------


def through_site(
    tmp_path: Path, python: list[str], words: list[str], before: str | None = None
) -> tuple[subprocess.CompletedProcess[str], int]:
    """Start Python as a launcher would, and give its result and the number of producers it made."""
    home = tmp_path / "home"
    environ = {
        "AGENT_TELEMETRY_HOME": str(home),
        "AGENT_TELEMETRY_RUN": new_id(),
        "AGENT_TELEMETRY_INJECT": json.dumps(words),
        "PYTHONPATH": str(SHIM / "site") + (os.pathsep + before if before else ""),
    }
    if before:
        environ["AGENT_TELEMETRY_PYTHONPATH"] = before
    done = run(python, tmp_path / "program", **environ)
    return done, len(spools.events(home, "producer.started"))


@pytest.mark.parametrize(
    ("arguments", "words", "hooked"),
    [
        (["console-script", "x"], ["uv", "run", "console-script", "x"], True),
        (["-m", "package.module"], ["uv", "run", "python", "-m", "package.module"], True),
        (["-X", "utf8", "script.py"], ["uv", "run", "script.py"], True),
        (["script.py"], ["uv", "run", "other.py"], False),
        (["-c", "pass"], ["uv", "run", "pass"], False),
        (["-m", "pip", "--version"], ["uv", "run", "script.py"], False),
    ],
)
def test_only_the_agents_own_process_is_hooked(
    program: Path, tmp_path: Path, arguments: list[str], words: list[str], hooked: bool
) -> None:
    done, producers = through_site(tmp_path, [sys.executable, *arguments], words)
    assert done.returncode == 0, done.stderr
    assert producers == hooked


def test_programs_that_the_agent_starts_inherit_nothing(program: Path, tmp_path: Path) -> None:
    (program / "starter.py").write_text(
        "import os, subprocess, sys\n"
        "print(os.environ.get('PYTHONPATH'), os.environ.get('AGENT_TELEMETRY_INJECT'))\n"
        "subprocess.run([sys.executable, 'starter.py', 'again'], check=True) if len(sys.argv) == 1 else 0\n"
    )
    done, producers = through_site(
        tmp_path, [sys.executable, "starter.py"], ["uv", "starter.py"], before="/their/own"
    )
    assert done.stdout == "/their/own None\n" * 2, done.stderr
    assert producers == 1


def test_a_sitecustomize_that_was_there_still_runs(program: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("print('theirs')")
    for words in (["uv", "script.py"], ["uv", "other"]):
        done, _ = through_site(tmp_path, [sys.executable, "script.py"], words, before=str(theirs))
        assert done.stdout.startswith("theirs\n"), done.stderr
