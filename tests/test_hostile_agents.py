"""Agents and surroundings that would break a wrapper: it stays out of the way, and the record is right."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry import child
from tests.generations import ROOT
from tests.wrapped import Wrap, eventually, is_alive, wrap

__all__ = ["wrap"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system cannot tell")
PYTHON = sys.executable


def python(code: str) -> tuple[str, ...]:
    return (PYTHON, "-S", "-c", code)


# --- what an agent does ----------------------------------------------------------------------------


def test_an_agent_that_left_its_group_is_held_to_its_time_limit(wrap: Wrap) -> None:
    code = "import os, time; os.setpgid(0, os.getpgid(os.getppid())); time.sleep(60)"
    done = wrap(*python(code), asked={"timeout_s": 0.5})
    assert (done.end["outcome"], done.end["signal"]) == ("timeout", signal.SIGTERM)


def test_an_agent_that_stopped_itself_hears_of_the_end(wrap: Wrap, tmp_path: Path) -> None:
    """It is waked, so that it can end in its own way."""
    code = (
        "import os, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7));"
        "os.kill(os.getpid(), signal.SIGSTOP); signal.pause()"
    )
    with wrap.start(python(code), task=tmp_path.name) as process:
        pid = wrap.wait_for(tmp_path.name, "process.started")["data"]["pid"]
        eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 7


def test_an_agent_that_closes_its_streams_is_waited_for(wrap: Wrap) -> None:
    code = "import os, time\nfor fd in (0, 1, 2): os.close(fd)\ntime.sleep(0.5); os._exit(4)"
    done = wrap(*python(code))
    assert (done.returncode, done.end["exit_code"]) == (4, 4)


@linux
def test_a_daemon_that_an_agent_leaves_behind_is_ended_and_named(wrap: Wrap) -> None:
    """In a session of its own, its parent gone, its streams closed."""
    code = """
import os, time
ours, theirs = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in (0, 1, 2): os.close(fd)
        os.write(theirs, b"x")
        time.sleep(60)
    os._exit(0)
os.read(ours, 1)
"""
    done = wrap(*python(code))
    (left,) = done.end["leftover"]
    assert "setsid" in left["command"]
    assert not is_alive(left["pid"])
    assert (done.end["outcome"], done.end["exit_code"]) == ("exited", 0)


def test_an_agent_that_is_killed_before_it_began_tells_so_by_its_end(tmp_path: Path) -> None:
    started = child.fork(["true"], shutil.which("true") or "", os.environ, str(tmp_path), {}, own_group=True)
    os.kill(started.pid, signal.SIGKILL)
    os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
    assert started.release({"A": "b"}) is None
    assert os.waitstatus_to_exitcode(os.waitpid(started.pid, 0)[1]) == -signal.SIGKILL


def test_ctrl_c_before_there_is_an_agent_is_the_end(wrap: Wrap, tmp_path: Path) -> None:
    """While the journal is asked, as here, or a module is imported, where Python loses the exception."""
    code = f"""
import os, pathlib, sys, time
from telemetry import wrapper
from telemetry.settings import Settings
def admit(*_):
    pathlib.Path({str(tmp_path / "asked")!r}).touch()
    time.sleep(60)
request = wrapper.RunRequest(("true",), Settings.load(os.environ, {{}}), dict(os.environ), admit=admit)
sys.exit(wrapper.run(request))
"""
    environ = {**os.environ, "AGENT_TELEMETRY_HOME": str(wrap.home)}
    with subprocess.Popen([PYTHON, "-c", code], env=environ, cwd=ROOT, stderr=subprocess.PIPE) as process:
        eventually((tmp_path / "asked").exists)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate()
    assert (process.returncode, stderr) == (-signal.SIGINT, b"")


# --- what it is given ------------------------------------------------------------------------------


def test_a_command_and_an_environment_that_are_no_utf_8_are_passed_on(wrap: Wrap) -> None:
    """And a secret among them is in no file of ours."""
    odd, key = os.fsdecode(b"\xff\xfe-word"), os.fsdecode(b"\xff-canary-0123")
    code = "import os, sys; os.write(1, os.fsencode(sys.argv[1]) + os.environb[b'SOME_API_KEY'])"
    program = [PYTHON, "-m", "telemetry.cli", "run", "--task", "odd", "--", *python(code), odd]
    environ = {**os.environ, "AGENT_TELEMETRY_HOME": str(wrap.home), "SOME_API_KEY": key}
    done = subprocess.run(program, env=environ, cwd=ROOT, capture_output=True, timeout=60)
    assert done.stdout == os.fsencode(odd + key)
    finished = wrap.wait_for("odd", "process.finished")["data"]
    assert finished["stdout_tail"] == "\ufffd\ufffd-word[redacted:live]"
    kept = b"".join(path.read_bytes() for path in wrap.home.rglob("*") if path.is_file())
    assert b"canary-0123" not in kept


@linux
@pytest.mark.parametrize(
    "launcher", [("sh", "-c", "echo $#", "sh"), python("import sys; print(len(sys.argv) - 1)")]
)
def test_a_command_that_the_system_just_takes_is_taken(wrap: Wrap, launcher: tuple[str, ...]) -> None:
    """A megabyte of arguments; what the recording adds stays small."""
    words = [f"{number:020d}" for number in range(40_000)]
    assert wrap(*launcher, *words).stdout == b"40000\n"


def test_a_working_folder_that_was_removed_is_still_one_to_start_in(wrap: Wrap, tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    done = wrap("sh", "-c", "exit 3", cwd=folder, preexec_fn=lambda: folder.rmdir())
    assert (done.returncode, done.end["exit_code"]) == (3, 3)


def test_an_empty_environment_is_enough(wrap: Wrap) -> None:
    """As ``cron`` gives one: no terminal, no HOME, no PATH."""
    program = [PYTHON, "-m", "telemetry.cli", "run", "--task", "bare", "--", "sh", "-c", "exit 3"]
    home = {"AGENT_TELEMETRY_HOME": str(wrap.home)}
    done = subprocess.run(program, env=home, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    assert done.returncode == 3
    assert wrap.wait_for("bare", "process.finished")["data"]["exit_code"] == 3


@linux
def test_where_processes_are_hidden_what_was_left_is_unknown(wrap: Wrap) -> None:
    """``/proc`` is empty, as in some sandboxes."""
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    hide = "mount -t tmpfs none /proc"
    if shutil.which("unshare") is None or subprocess.run([*namespace, hide], capture_output=True).returncode:
        pytest.skip("no name space can be made here")
    run = [PYTHON, "-m", "telemetry.cli", "run", "--task", "hidden", "--", "true"]
    environ = {**os.environ, "AGENT_TELEMETRY_HOME": str(wrap.home)}
    done = subprocess.run([*namespace, f'{hide} && exec "$@"', "sh", *run], env=environ, cwd=ROOT)
    assert done.returncode == 0
    assert "leftover" not in wrap.wait_for("hidden", "process.finished")["data"]


# --- where its output goes -------------------------------------------------------------------------


def test_a_reader_that_is_slow_gets_all_of_the_output(wrap: Wrap) -> None:
    """Also what is still on its way when the agent is gone, however long the reader takes."""
    size = 150_000
    hasty = (
        "import sys; sys.path.insert(0, ''); from telemetry import cli, wrapper; wrapper.DRAIN_S = 0.1;"
        "cli.main(['run', '--task', 'slow', '--', *sys.argv[1:]])"
    )
    agent = python(f"import os; os.write(1, b'x' * {size})")
    environ = {**os.environ, "AGENT_TELEMETRY_HOME": str(wrap.home)}
    with subprocess.Popen([PYTHON, "-c", hasty, *agent], env=environ, cwd=ROOT, stdout=-1) as process:
        pid = wrap.wait_for("slow", "process.started")["data"]["pid"]
        eventually(lambda: not is_alive(pid))
        wrap("true")  # takes longer than is waited for an agent's end
        assert process.stdout is not None
        assert len(process.stdout.read()) == size


@linux
def test_output_that_cannot_be_passed_on_is_said(wrap: Wrap) -> None:
    with Path("/dev/full").open("wb") as full:
        done = wrap("echo", "hello", stdout=full)
    assert b"agent-telemetry: stdout could not be passed on: No space left on device" in done.stderr
    assert done.end["stdout_tail"] == "hello\n"
