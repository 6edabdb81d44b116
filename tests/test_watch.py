"""Runs are watched while they go on: real runs, a real journal, a real pseudo-terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from telemetry import watch as module
from telemetry.live import Live
from telemetry.planned import at_work
from telemetry.reading import reading
from telemetry.settings import Settings
from telemetry.testing import Answer, Delivery, ScriptedServer, Usage, rate_limited
from telemetry.totals import Cost
from telemetry.watch import Watch
from tests.wrapped import eventually

STATE = (
    "phase",
    "state",
    "calls",
    "tokens",
    "tokens_reason",
    "cost",
    "cost_reason",
    "retries",
    "failed_requests",
)
CLI = [sys.executable, "-m", "telemetry.cli"]
QUICK = ["run", "--task", "quick", "--", "true"]
AGENT = """
import os, pathlib, sys, time
import openai, agent_shim
gate = pathlib.Path(sys.argv[1])
def wait_for(name):
    while not (gate / name).exists():
        time.sleep(0.02)
client = openai.OpenAI()
def ask():
    return client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
ask()
with agent_shim.tool_call("bash", arguments="{}"):
    wait_for("tool")
wait_for("own")
ask()
wait_for("end")
sys.exit("it \\x1b[2J did not work")
"""


class Watching:
    """``watch`` in a process of its own, what it wrote read as it comes."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._out, self._err = folder / "watch.out", folder / "watch.err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [*CLI, "watch", "--interval", "0.1", *words], stdout=out, stderr=err
            )

    @property
    def lines(self) -> list[str]:
        """Those that are whole."""
        return self._out.read_text().split("\n")[:-1]

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def until_waiting(self) -> None:
        eventually(lambda: "waiting for a run to begin" in self._err.read_text())

    def until_phase(self, phase: str) -> dict[str, Any]:
        found = eventually(lambda: [one for one in self.objects if one["phase"] == phase])
        return dict(found[0])

    def end(self) -> int:
        return self.process.wait(30)


def ran(*words: str) -> int:
    """The exit code of a command of ours."""
    return subprocess.run([*CLI, *words], capture_output=True, timeout=60).returncode


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    folder = tmp_path / "gates"
    folder.mkdir()
    return folder


def start_agent(server: ScriptedServer, gates: Path, *options: str) -> subprocess.Popen[bytes]:
    program = gates.parent / "agent.py"
    program.write_text(AGENT)
    return subprocess.Popen(
        [*CLI, "run", *options, "--", sys.executable, str(program), str(gates)],
        env={**os.environ, **server.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


# --- what is shown -------------------------------------------------------------------------------


def test_each_phase_of_a_run_is_shown_with_what_it_has_used_so_far(
    server: ScriptedServer, gates: Path, tmp_path: Path, data_home: Path
) -> None:
    """Started before the first run: it waits, follows the run through its phases, and ends with it."""
    used = Usage(input=1000, output=50)
    stalled = Answer("hello", usage=used, delivery=Delivery(fault="stall"))
    server.script(stalled, rate_limited(retry_after_ms=2000), Answer("again", usage=used))
    watching = Watching(tmp_path, "--json", "--exit-status")
    watching.until_waiting()
    running = start_agent(server, gates, "--task", "item-1")
    begun = watching.until_phase("model call")
    assert (begun["task"], begun["calls"], begun["tokens"]) == ("item-1", 1, None)
    assert begun["tokens_reason"] == "1 of 1 calls unknown"
    server.resume()
    in_tool = watching.until_phase("tool bash")
    assert (in_tool["tokens"], in_tool["tokens_reason"]) == (1050, None)
    assert in_tool["cost_reason"] is None
    (gates / "tool").touch()
    watching.until_phase("agent")
    (gates / "own").touch()
    refused = watching.until_phase("back-off")
    assert (refused["tokens"], refused["failed_requests"]) == (1050, 1)
    assert refused["tokens_reason"] == "1 of 2 calls unknown", "a lower bound"
    eventually(lambda: [one for one in watching.objects if one["retries"] == 1])
    (gates / "end").touch()
    running.wait()
    assert watching.end() == 1, "a run has failed, and --exit-status was asked for"
    last = watching.objects[-1]
    assert (last["state"], last["status"], last["tokens"]) == ("finished", "exit 1", 2100)
    assert (last["claimed"], last["verdict"]) == ("exit 1", None), "it was not judged"
    states = [{name: one[name] for name in STATE} for one in watching.objects]
    assert all(one != following for one, following in pairwise(states)), "a line says what is new"


def test_a_run_that_nobody_sees_into_has_no_tokens_and_no_phase(tmp_path: Path, data_home: Path) -> None:
    watching = Watching(tmp_path, "--json")
    watching.until_waiting()
    running = subprocess.Popen([*CLI, "run", "--", "tail", "-f", "/dev/null"], stderr=subprocess.DEVNULL)
    seen = watching.until_phase("running")
    assert (seen["calls"], seen["tokens"], seen["cost"]) == (None, None, None)
    assert "no hook for tail" in seen["tokens_reason"]
    running.send_signal(signal.SIGTERM)
    running.wait()
    assert watching.end() == 0
    assert watching.objects[-1]["status"] == "cancelled"


def test_a_run_that_was_over_at_once_is_shown_too(tmp_path: Path, data_home: Path) -> None:
    """Between two looks."""
    watching = Watching(tmp_path, "--interval", "2")
    watching.until_waiting()
    assert ran(*QUICK) == 0
    assert watching.end() == 0
    names, line = watching.lines
    told = dict(zip(names.rstrip("\n").split("\t"), line.rstrip("\n").split("\t"), strict=True))
    assert (told["task"], told["status"], told["phase"]) == ("quick", "exit 0", "ended")


def test_a_run_that_is_named_is_waited_for_and_no_other(data_home: Path) -> None:
    assert ran(*QUICK) == 0
    done = subprocess.run([*CLI, "watch", "@last", "--json"], capture_output=True, text=True, timeout=60)
    (line,) = done.stdout.splitlines()
    assert (json.loads(line)["status"], done.stderr, done.returncode) == ("exit 0", "", 0)
    judged = subprocess.run([*CLI, "judge", "@last", "--policy", "strict", "--json"], capture_output=True)
    again = subprocess.run([*CLI, "watch", "@last", "--json"], capture_output=True, timeout=60)
    told, (verdict,) = json.loads(again.stdout), json.loads(judged.stdout)
    assert (told["claimed"], told["verdict"]) == ("exit 0", verdict["verdict"])
    assert (told["verdict_policy"], json.loads(line)["verdict"]) == ("strict", None)
    none = subprocess.run([*CLI, "watch", "01234567"], capture_output=True, text=True, timeout=60)
    assert (none.stdout, none.returncode) == ("", 2), "the error is all that is written"
    assert none.stderr.startswith("agent-telemetry: No run '01234567'")


# --- when it ends --------------------------------------------------------------------------------


class Seen:
    """A screen that counts looks at nothing, and says when there were enough."""

    def __init__(self, enough: int, then: Any) -> None:
        self.idle, self._enough, self._then = 0, enough, then
        self.over: list[str] = []

    def show(self, going: Sequence[Live], over: Sequence[Live], _: int) -> None:
        self.over += [one.run.task for one in over]
        self.idle += not going and not over
        if self.idle == self._enough:
            self._then()

    def close(self) -> None:
        pass


@pytest.mark.parametrize("plan", [True, False])
def test_it_goes_on_between_two_runs_of_a_plan(
    data_home: Path, monkeypatch: pytest.MonkeyPatch, plan: bool
) -> None:
    """However long nothing runs; without a plan it ends at the first look that sees nothing."""
    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    settings = Settings.load(os.environ)
    watching = Watch(settings, os.environ, ())
    assert ran(*QUICK) == 0
    with ExitStack() as working:
        if plan:
            working.enter_context(at_work(settings.home))
        screen = Seen(5, working.close)
        with reading(settings, os.environ) as read:
            watching.run(read, lambda: screen, 0.05)
    assert screen.over == ["quick"]
    assert screen.idle == (5 if plan else 0)


def test_every_run_of_a_batch_is_shown(tmp_path: Path, data_home: Path) -> None:
    """A watch that was there before the batch."""
    items = [{"item_id": f"item-{n}", "human": f"{n:040x}", "pre": None} for n in (1, 2, 3)]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"repo": "https://github.com/o/r", "task_id": "proof", "items": items}))
    watching = Watching(tmp_path, "--json")
    watching.until_waiting()
    assert ran("run-plan", "--from", str(plan), "--workers", "2", "--", "true") == 0
    assert watching.end() == 0
    ended = {one["task"]: one["status"] for one in watching.objects if one["state"] == "finished"}
    assert ended == {f"item-{n}": "exit 0" for n in (1, 2, 3)}


# --- a terminal ----------------------------------------------------------------------------------


class Terminal:
    """``watch`` on a terminal of 24 lines."""

    def __init__(self, columns: int) -> None:
        self.fd, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [*CLI, "watch", "--interval", "0.1"],
            stdin=end, stdout=end, stderr=end, env={**environ, "TERM": "xterm-256color"},
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
        )  # fmt: skip
        os.close(end)
        self.seen = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while chunk := os.read(self.fd, 65536):
                self.seen += chunk
        except OSError:
            pass  # the other side is closed

    @property
    def lines(self) -> list[str]:
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen.decode())
        return text.replace("\r", "\n").split("\n")

    def until(self, pattern: str) -> None:
        eventually(lambda: any(re.search(pattern, line) for line in self.lines))

    @property
    def shows_cursor(self) -> bool:
        return self.seen.rfind(b"\x1b[?25h") > self.seen.rfind(b"\x1b[?25l")


@pytest.mark.parametrize(("columns", "titles"), [(80, r"^RUN +COMMIT +PHASE"), (120, r"^RUN +TASK +AGENT")])
def test_a_table_fits_the_terminal_and_the_last_words_of_a_run_stay(
    server: ScriptedServer, gates: Path, data_home: Path, columns: int, titles: str
) -> None:
    """What an agent wrote steers no terminal."""
    server.script(Answer("hello", usage=Usage(input=1000, output=50)))
    terminal = Terminal(columns)
    terminal.until("waiting for a run")
    running = start_agent(server, gates, "--task", "item-1", "--commit", "abcdef0123")
    terminal.until(titles)
    terminal.until(r"tool bash")
    terminal.until(r"1 running, 0 ended; \$0\.00")
    assert terminal.shows_cursor
    for gate in ("tool", "own", "end"):
        (gates / gate).touch()
    running.wait()
    assert terminal.process.wait(30) == 0
    terminal.until(r"item-1 agent abcdef01: exit 1 · verified: not judged; .* tokens, \$0\.00\d+, .*; it ")
    terminal.until("0 running, 1 ended, 1 of them failed")
    assert b"\x1b[2J did" not in terminal.seen
    words = [line for line in terminal.lines if "exit 1 · " not in line]
    assert max(map(len, words)) <= columns
    assert terminal.shows_cursor
    os.close(terminal.fd)


def test_a_cost_of_less_than_a_millionth_is_not_shown_to_programs_as_nothing() -> None:
    run, total = SimpleNamespace(capture="captured"), SimpleNamespace(cost=Cost({"USD": 2.5e-7}))
    one: Any = SimpleNamespace(total=total, run=run)
    assert module._amounts(one) == "0.00000025 USD"


def test_ctrl_c_ends_it_without_a_word(data_home: Path) -> None:
    terminal = Terminal(80)
    terminal.until("waiting for a run")
    os.write(terminal.fd, b"\x03")
    assert terminal.process.wait(30) == 130
    assert "Traceback" not in terminal.seen.decode()
    os.close(terminal.fd)


def test_a_reader_that_leaves_ends_it_without_a_word(data_home: Path) -> None:
    with subprocess.Popen([*CLI, "watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout
        assert watching.stderr
        assert b"waiting" in watching.stderr.readline()
        watching.stdout.close()
        assert ran(*QUICK) == 0
        assert watching.stderr.read() == b""
