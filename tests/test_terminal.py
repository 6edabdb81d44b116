"""Where the user has a terminal, so has the agent."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.generations import ROOT
from tests.wrapped import Wrap, eventually, wrap

__all__ = ["wrap"]

PYTHON = sys.executable


def take_terminal(end: int) -> None:
    """Before a program starts: it leads a session of its own, on this terminal."""
    os.setsid()
    fcntl.ioctl(end, termios.TIOCSCTTY, 0)


class Terminal:
    """A terminal with a wrapped program in its foreground."""

    def __init__(self, wrap: Wrap, task: str) -> None:
        self.wrap = wrap
        self.task = task
        self.fd, self.end = os.openpty()
        self.resize(30, 100)
        self.seen = b""

    def run(self, code: str) -> None:
        end = self.end
        self.process = self.wrap.start(
            [PYTHON, "-c", code], task=self.task, stdin=end, stdout=end, stderr=end,
            preexec_fn=lambda: take_terminal(end),
        )  # fmt: skip

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: bytes) -> None:
        os.write(self.fd, text)

    def read_until(self, word: bytes) -> bytes:
        """Everything that was shown, once `word` was."""
        until = time.monotonic() + 30
        os.set_blocking(self.fd, False)
        while word not in self.seen and time.monotonic() < until:
            try:
                self.seen += os.read(self.fd, 4096)
            except BlockingIOError:
                time.sleep(0.01)
        assert word in self.seen, self.seen
        return self.seen

    def wait(self) -> dict[str, Any]:
        """The recorded end, once the wrapper is gone."""
        self.read_until(b"its events are in")
        self.process.wait()
        finished: dict[str, Any] = self.wrap.wait_for(self.task, "process.finished")["data"]
        return finished


@pytest.fixture
def terminal(wrap: Wrap, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal of 30 rows and 100 columns."""
    terminal = Terminal(wrap, tmp_path.name)
    yield terminal
    if terminal.process.poll() is None:
        terminal.process.kill()
        terminal.process.wait()
    os.close(terminal.fd)
    os.close(terminal.end)


def test_the_agent_sees_a_terminal_of_the_same_size_and_reads_from_it(terminal: Terminal) -> None:
    terminal.run(
        "import json, os, sys; size = os.get_terminal_size();"
        "print(json.dumps([os.isatty(0), os.isatty(1), os.isatty(2), size.lines, size.columns]), flush=True);"
        "print('heard', input(), flush=True)"
    )
    shown = terminal.read_until(b"]")
    line = next(line for line in shown.splitlines() if line.startswith(b"["))
    assert json.loads(line) == [True, True, True, 30, 100]
    terminal.type(b"a word\n")
    terminal.read_until(b"heard a word\r\n")
    finished = terminal.wait()
    assert finished["exit_code"] == 0
    assert finished["stdout_tail"].endswith("heard a word\n")


def test_the_agent_is_told_of_a_new_size(terminal: Terminal) -> None:
    terminal.run(
        "import os, signal, time; changed = [];"
        "signal.signal(signal.SIGWINCH, lambda *_: changed.append(tuple(os.get_terminal_size(1))));"
        "print('ready', flush=True)\n"
        "while (50, 20) not in changed: time.sleep(0.01)\n"
        "print('seen', flush=True)"
    )
    terminal.read_until(b"ready")
    terminal.resize(20, 50)
    terminal.read_until(b"seen")
    assert terminal.wait()["exit_code"] == 0


def test_a_key_that_interrupts_reaches_the_agent_once_and_the_agent_decides(terminal: Terminal) -> None:
    terminal.run(
        "import signal, time; times = [];"
        "signal.signal(signal.SIGINT, lambda *_: times.append(1)); print('ready', flush=True)\n"
        "while not times: time.sleep(0.01)\n"
        "time.sleep(0.3); print('times', len(times), flush=True); input()"
    )
    terminal.read_until(b"ready")
    terminal.type(b"\x03")
    terminal.read_until(b"times 1")
    terminal.type(b"\n")
    finished = terminal.wait()
    assert (finished["outcome"], finished["exit_code"]) == ("exited", 0)
    assert terminal.process.returncode == 0


def test_a_key_that_ended_the_agent_is_a_cancelled_run(terminal: Terminal) -> None:
    terminal.run("import time, signal; signal.signal(2, 0); print('ready', flush=True); time.sleep(60)")
    terminal.read_until(b"ready")
    terminal.type(b"\x03")
    finished = terminal.wait()
    assert (finished["outcome"], finished["signal"]) == ("cancelled", signal.SIGINT)
    assert terminal.process.returncode == 128 + signal.SIGINT


def test_the_mode_of_the_terminal_is_put_back(terminal: Terminal) -> None:
    before = termios.tcgetattr(terminal.end)
    terminal.run(
        "import os, signal, tty; tty.setraw(0); print('raw', flush=True);os.kill(os.getpid(), signal.SIGKILL)"
    )
    terminal.read_until(b"raw")
    terminal.wait()
    eventually(lambda: termios.tcgetattr(terminal.end) == before)


# --- the shell of the user -------------------------------------------------------------------------


@pytest.fixture
def shell(wrap: Wrap, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in which a shell with job control waits."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    terminal = Terminal(wrap, tmp_path.name)
    environ = {**os.environ, "AGENT_TELEMETRY_HOME": str(wrap.home), "AGENT_TELEMETRY_TASK": tmp_path.name}
    terminal.process = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "--noediting", "-i"],
        stdin=terminal.end, stdout=terminal.end, stderr=terminal.end, cwd=ROOT,
        env={**environ, "PS1": "> ", "HISTFILE": ""}, preexec_fn=lambda: take_terminal(terminal.end),
    )  # fmt: skip
    terminal.read_until(b"> ")
    yield terminal
    terminal.process.kill()
    terminal.process.wait()
    os.close(terminal.fd)
    os.close(terminal.end)


RUN = shlex.join([PYTHON, "-m", "telemetry.cli", "run", "--"])


def finished(terminal: Terminal) -> dict[str, Any]:
    """The recorded end of the only run."""
    terminal.read_until(b"its events are in")
    told: dict[str, Any] = terminal.wrap.wait_for(terminal.task, "process.finished")["data"]
    return told


def test_a_stopped_run_goes_on_in_the_foreground_of_its_shell(shell: Terminal) -> None:
    shell.type(f"{RUN} sh -c 'echo rea''dy; read word; echo heard-$word'\n".encode())
    shell.read_until(b"ready")
    shell.type(b"\x1a")
    shell.read_until(b"Stopped")
    shell.type(b"fg\n")
    shell.type(b"it\n")
    shell.read_until(b"heard-it")
    assert finished(shell)["exit_code"] == 0


@pytest.mark.parametrize("stop", ["TSTP", "TTIN"])
def test_an_agent_that_stops_for_its_terminal_gives_the_shell_back(shell: Terminal, stop: str) -> None:
    """As it does when it wants to read in the background."""
    shell.type(f"{RUN} sh -c 'kill -{stop} $$; echo went-on'\n".encode())
    shell.read_until(b"Stopped")
    shell.type(b"fg\n")
    shell.read_until(b"went-on\r\n")
    assert finished(shell)["exit_code"] == 0


def test_a_tool_may_ask_on_the_terminal_whatever_the_input_is(shell: Terminal) -> None:
    """As for a password; a program outside of the foreground would be stopped."""
    shell.type(f"true | {RUN} sh -c 'echo rea''dy; read word < /dev/tty; echo got-$word'\n".encode())
    shell.read_until(b"ready")
    shell.type(b"it\n")
    shell.read_until(b"got-it")
    assert finished(shell)["exit_code"] == 0


def test_a_key_ends_an_agent_that_stopped_itself(terminal: Terminal) -> None:
    terminal.run(
        "import os, signal; signal.signal(2, 0); print('ready', flush=True); os.kill(os.getpid(), 19)"
    )
    terminal.read_until(b"ready")
    pid = terminal.wrap.wait_for(terminal.task, "process.started")["data"]["pid"]
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    terminal.type(b"\x03")
    finished = terminal.wait()
    assert (finished["outcome"], finished["signal"]) == ("cancelled", signal.SIGINT)


def test_what_somebody_sends_is_told_from_a_key_and_passed_on(terminal: Terminal) -> None:
    """The terminal sends a key's signal to all; a ``kill`` reaches us alone."""
    terminal.run(
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(9));"
        "print('ready', flush=True); time.sleep(60)"
    )
    terminal.read_until(b"ready")
    terminal.process.send_signal(signal.SIGINT)
    finished = terminal.wait()
    assert (finished["outcome"], finished["exit_code"]) == ("cancelled", 9)
    assert finished["signals_forwarded"] == [signal.SIGINT]


def test_a_terminal_that_vanishes_ends_the_run_and_its_end_is_recorded(wrap: Wrap, tmp_path: Path) -> None:
    """A connection that broke: the agent is told, and what it did until then is kept."""
    terminal = Terminal(wrap, tmp_path.name)
    terminal.run("import signal, time; signal.signal(1, 1); print('ready', flush=True); time.sleep(60)")
    terminal.read_until(b"ready")
    os.close(terminal.end)
    os.close(terminal.fd)
    assert terminal.process.wait(30) == 128 + signal.SIGHUP
    finished = wrap.wait_for(tmp_path.name, "process.finished")["data"]
    assert (finished["outcome"], finished["signal"]) == ("cancelled", signal.SIGKILL)
    assert finished["error_message"].startswith(
        "SIGHUP from outside; ended by SIGKILL after it did not obey SIGHUP"
    )
    assert finished["stdout_tail"] == "ready\n"
