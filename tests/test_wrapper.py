"""A wrapped agent runs as it would without us, and its end is recorded whatever it is."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent_shim.events import span_id
from telemetry import handover
from telemetry.turns import turn
from tests.generations import ROOT
from tests.wrapped import DRIVER, Wrap, eventually, is_alive, wrap

__all__ = ["wrap"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system cannot tell")
PYTHON = sys.executable


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def python(code: str) -> tuple[str, ...]:
    return (PYTHON, "-c", code)


# --- what is recorded of a run ---------------------------------------------------------------------


def test_a_run_is_events_that_name_each_other(wrap: Wrap) -> None:
    done = wrap(*python("print('hello')"))
    wrapper = next(e["producer"] for e in done.events if e["name"] == "run.started")
    own = [event for event in done.events if event["producer"] == wrapper]
    assert [event["name"] for event in own] == [
        *("producer.started", "run.started", "attempt.reserved", "tree.captured", "process.started"),
        *("process.finished", "tree.captured", "patch.captured", "run.finished", "producer.sealed"),
    ]
    assert [event["seq"] for event in own] == list(range(1, 11))
    assert {own[at]["parent"] for at in (2, 3, 4, 6, 7)} == {f"{wrapper}:2"}
    assert own[5]["begin"] == f"{wrapper}:5"
    assert own[8]["begin"] == f"{wrapper}:2"


def test_the_end_lists_every_other_producer_of_the_run(wrap: Wrap) -> None:
    done = wrap(*python("pass"))
    agents = {event["producer"] for event in done.events if event["data"].get("role") == "agent"}
    assert len(agents) == 1
    assert set(done.data("run.finished")["producers"]) == agents


def test_the_agent_knows_its_run_its_parent_and_its_trace(wrap: Wrap) -> None:
    done = wrap("env", environ={"AGENT_TELEMETRY_INCLUDE_USAGE": "a.example,b.example"})
    seen = dict(line.split("=", 1) for line in done.stdout.decode().splitlines() if "=" in line)
    started = next(event for event in done.events if event["name"] == "process.started")
    parent = f"{started['producer']}:{started['seq']}"
    assert seen["AGENT_TELEMETRY_RUN"] == started["run"]
    assert seen["AGENT_TELEMETRY_PARENT"] == parent
    assert seen["AGENT_TELEMETRY_HOME"] == str(wrap.home)
    assert seen["AGENT_TELEMETRY_CONTENT"] == "off"
    assert seen["AGENT_TELEMETRY_INCLUDE_USAGE"] == "a.example,b.example"
    assert seen["TRACEPARENT"] == f"00-{started['run']}-{span_id(parent)}-01"


def test_a_run_inside_a_trace_joins_it(wrap: Wrap) -> None:
    outer = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    done = wrap("env", environ={"TRACEPARENT": outer, "OTEL_RESOURCE_ATTRIBUTES": "team=a"})
    assert done.data("run.started")["trace_parent"] == outer
    assert re.search(rb"TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-(?!b7ad)", done.stdout)
    assert re.search(rb"OTEL_RESOURCE_ATTRIBUTES=team=a,agent_telemetry.run=[0-9a-f]{32}\n", done.stdout)


def test_nothing_of_ours_is_on_the_path_of_a_python_agent(wrap: Wrap) -> None:
    code = "import os, sys; print(os.environ.get('PYTHONPATH'), [p for p in sys.path if 'agent_shim' in p])"
    done = wrap(*python(code))
    assert done.stdout == b"None []\n"
    assert done.data("process.started")["capture"] == "runner"


def test_a_python_agent_behind_a_launcher_is_hooked_and_its_environment_put_back(
    wrap: Wrap, tmp_path: Path
) -> None:
    agent = tmp_path / "agent.py"
    agent.write_text(
        "import os; print(os.environ.get('PYTHONPATH'), os.environ.get('AGENT_TELEMETRY_INJECT'))"
    )
    done = wrap("sh", "-c", f"true; {PYTHON} {agent}", environ={"PYTHONPATH": "/theirs"})
    assert done.data("process.started")["capture"] == "sitecustomize"
    assert done.stdout == b"/theirs None\n"
    assert len({event["producer"] for event in done.events if event["data"].get("role") == "agent"}) == 1


def test_a_run_inside_a_run_says_so(wrap: Wrap, tmp_path: Path) -> None:
    request = tmp_path / "inner"
    request.write_text('{"command": ["true"]}')
    inner = [PYTHON, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{DRIVER}", str(request)]
    done = wrap("env", "AGENT_TELEMETRY_TASK=inner", *inner)
    started = next(e["data"] for e in wrap.recorded("inner") if e["name"] == "run.started")
    assert started["parent_run"] == done.events[0]["run"]
    assert done.events[0]["run"] in started["trace_parent"]


def test_a_secret_is_in_no_event_and_in_no_tail(wrap: Wrap) -> None:
    key = "canary-9f8e7d6c5b4a"
    code = "import os, sys; print(os.environ['SOME_API_KEY']); print(sys.argv, file=sys.stderr)"
    done = wrap(*python(code), "--api-key", "secret-on-the-line", environ={"SOME_API_KEY": key})
    assert key.encode() in done.stdout
    assert done.end["stdout_tail"] == "[redacted:live]\n"
    kept = b"".join(path.read_bytes() for path in wrap.home.rglob("*") if path.is_file())
    assert key.encode() not in kept


# --- how it ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 124, 125, 126, 127, 128, 137, 255])
def test_an_exit_code_is_passed_on_and_recorded(wrap: Wrap, code: int) -> None:
    """W08."""
    done = wrap("sh", "-c", f"exit {code}")
    assert done.returncode == code
    assert (done.end["outcome"], done.end["exit_code"]) == ("exited", code)
    assert ("error_type" in done.end) == (code != 0)


def test_an_exit_code_that_is_too_large_is_the_one_that_the_system_makes_of_it(wrap: Wrap) -> None:
    assert wrap(*python("import os; os._exit(259)")).end["exit_code"] == 3


def test_the_message_of_a_failure_is_the_last_line_of_stderr(wrap: Wrap) -> None:
    """W09."""
    done = wrap(*python("import sys; print('context', file=sys.stderr); sys.exit('boom')"))
    assert done.end["error_type"] == "NonZeroExit"
    assert done.end["error_message"] == "boom"
    assert done.data("run.finished")["error_message"] == "boom"


def test_a_failure_without_a_word_says_the_code(wrap: Wrap) -> None:
    assert wrap("sh", "-c", "exit 3").end["error_message"] == "exit code 3, nothing on stderr"


def test_a_shell_that_reports_a_signal_is_told_apart_from_the_signal(wrap: Wrap) -> None:
    """W12."""
    done = wrap("sh", "-c", "sh -c 'kill -9 $$'; exit $?")
    assert (done.end["outcome"], done.end["exit_code"]) == ("exited", 137)
    assert "signal" not in done.end
    assert done.end["error_message"].endswith("(so a shell says that SIGKILL ended a program)")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGPIPE])
def test_the_end_by_a_signal_names_it(wrap: Wrap, number: signal.Signals) -> None:
    """W10, W11."""
    done = wrap(*python(f"import os, signal; signal.signal({int(number)}, 0) if {int(number)} != 9 else 0;"
                        f" os.kill(os.getpid(), {int(number)})"))  # fmt: skip
    assert done.returncode == 128 + number
    assert (done.end["outcome"], done.end["signal"]) == ("signaled", number)
    assert done.end["error_type"] == f"Signal:{number.name}"
    assert number.name in done.end["error_message"]
    assert done.end["core_dumped"] in (True, False)


def test_a_kill_from_outside_is_neither_a_time_limit_nor_want_of_memory(wrap: Wrap, tmp_path: Path) -> None:
    """W11."""
    with wrap.start(["sleep", "60"], task=tmp_path.name, asked={"timeout_s": 60}) as process:
        os.kill(wrap.wait_for(tmp_path.name, "process.started")["data"]["pid"], signal.SIGKILL)
        process.communicate()
    finished = wrap.wait_for(tmp_path.name, "process.finished")["data"]
    assert (finished["outcome"], finished["signal"]) == ("signaled", signal.SIGKILL)
    assert (finished["error_type"], finished["error_message"]) == ("Signal:SIGKILL", "ended by SIGKILL")
    assert process.returncode == 137


def test_a_time_limit_ends_the_agent_and_says_so(wrap: Wrap) -> None:
    """W14."""
    done = wrap("sleep", "60", asked={"timeout_s": 0.3})
    assert done.returncode == 124
    assert (done.end["outcome"], done.end["signal"]) == ("timeout", signal.SIGTERM)
    assert done.end["error_type"] == "Timeout"
    assert "0.3 s" in done.end["error_message"]
    assert done.end["grace_expired"] is False


@linux
def test_what_a_session_of_its_own_holds_is_ended_too(wrap: Wrap) -> None:
    """W20, W21, W22: a descendant that keeps the pipe, in the group or out of it, holds nobody up."""
    done = wrap("sh", "-c", "setsid sleep 61 & sleep 62 & sleep 0.3; exit 0")
    assert done.returncode == 0
    assert done.end["outcome"] == "exited"
    left = {process["command"]: process["pid"] for process in done.end["leftover"]}
    assert set(left) == {"sleep 61", "sleep 62"}
    assert not any(is_alive(pid) for pid in left.values())


@linux
def test_a_descendant_that_ignores_sigterm_is_killed(wrap: Wrap) -> None:
    stubborn = "trap '' TERM; while :; do sleep 0.1; done"
    done = wrap("sh", "-c", f'setsid sh -c "{stubborn}" & sleep 0.3')
    assert any("trap" in process["command"] for process in done.end["leftover"])
    assert not any(is_alive(process["pid"]) for process in done.end["leftover"])


# --- signals from outside --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_reaches_the_agent(wrap: Wrap, number: signal.Signals, tmp_path: Path) -> None:
    """W16: the same signal, and the agent's own answer to it is passed on."""
    code = (
        f"import signal, sys, pathlib; signal.signal({int(number)}, lambda *_: sys.exit(7));"
        f" pathlib.Path({str(tmp_path / 'ready')!r}).touch(); signal.pause()"
    )
    with wrap.start(python(code), task=tmp_path.name) as process:
        eventually((tmp_path / "ready").exists)
        process.send_signal(number)
        process.communicate()
    finished = wrap.wait_for(tmp_path.name, "process.finished")["data"]
    assert process.returncode == 7
    assert finished["exit_code"] == 7
    assert finished["signals_forwarded"] == [number]
    is_end = number != signal.SIGUSR1
    assert finished["outcome"] == ("cancelled" if is_end else "exited")


@linux
def test_all_is_done_within_the_patience_of_a_pipeline(wrap: Wrap, tmp_path: Path) -> None:
    """W15, W16: an agent that ignores SIGTERM, with a tool in a session of its own that does so too."""
    stubborn = f"trap '' TERM; touch {tmp_path}/ready; while :; do sleep 0.1; done"
    with wrap.start(["sh", "-c", f"setsid sh -c '{stubborn}' & {stubborn}"], task=tmp_path.name) as process:
        eventually((tmp_path / "ready").exists)
        run = wrap.wait_for(tmp_path.name, "process.started")["run"]
        assert len(tree_of(run)) >= 2
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=5)
        alive, recorded = tree_of(run), wrap.recorded(tmp_path.name)  # looked at once, with no patience
    assert alive == []
    ends = {event["name"]: event["data"] for event in recorded}
    assert {"process.finished", "run.finished", "producer.sealed"} <= ends.keys()
    finished = ends["process.finished"]
    assert process.returncode == 128 + signal.SIGTERM
    assert (finished["outcome"], finished["error_type"]) == ("cancelled", "Cancelled")
    assert finished["grace_expired"] is True
    assert finished["leftover"]
    assert not any(is_alive(left["pid"]) for left in finished["leftover"])


def test_an_ignored_signal_stays_ignored(wrap: Wrap) -> None:
    """As ``nohup`` wants it."""
    code = "import signal; print(signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGPIPE))"
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    done = wrap(*python(f"import os; os.execv({PYTHON!r}, [{PYTHON!r}, '-S', '-c', {code!r}])"), **ignore)
    assert done.stdout == b"1 1\n"  # Python itself ignores SIGPIPE


@linux
def test_the_agent_dies_with_a_killed_wrapper(wrap: Wrap, tmp_path: Path) -> None:
    """W17: and the run is delivered, its last word being that its processes are gone."""
    code = f"import pathlib, time; pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)"
    with wrap.start(python(code), task=tmp_path.name) as process:
        eventually((tmp_path / "ready").exists)
        pid = wrap.wait_for(tmp_path.name, "process.started")["data"]["pid"]
        assert is_alive(pid)
        process.kill()
        process.communicate()
    eventually(lambda: not is_alive(pid))

    def seals() -> list[str]:
        events = wrap.recorded(tmp_path.name)
        return sorted(event["data"]["reason"] for event in events if event["name"] == "producer.sealed")

    eventually(lambda: seals() == ["closed", "process gone", "process gone"])


def test_a_stopped_agent_and_its_wrapper_go_on_together(wrap: Wrap, tmp_path: Path) -> None:
    """W33: what is recorded afterwards has both clocks, and the time that it stood still on each."""
    code = f"import pathlib, time; pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(1)"
    with wrap.start(python(code), task=tmp_path.name) as process:
        eventually((tmp_path / "ready").exists)
        pid = wrap.wait_for(tmp_path.name, "process.started")["data"]["pid"]
        process.send_signal(signal.SIGTSTP)
        eventually(lambda: _state(pid) == "T" and _state(process.pid) == "T")
        stopped = (time.time_ns(), time.monotonic_ns())
        time.sleep(0.1)
        continued = (time.time_ns(), time.monotonic_ns())
        process.send_signal(signal.SIGCONT)
        process.communicate()
    assert process.returncode == 0
    began, ended = (wrap.wait_for(tmp_path.name, f"process.{name}") for name in ("started", "finished"))
    assert (ended["data"]["outcome"], ended["data"]["exit_code"]) == ("exited", 0)
    for clock, first, last in zip(("time", "mono"), stopped, continued, strict=True):
        assert began[clock] < first < last < ended[clock]


@linux
def test_a_time_limit_stands_still_while_the_run_is_stopped(wrap: Wrap, tmp_path: Path) -> None:
    code = f"import pathlib; mark = pathlib.Path({str(tmp_path)!r}); (mark / 'ready').touch()\n"
    wait = "while not (mark / 'go').exists(): pass"
    with wrap.start(python(code + wait), task=tmp_path.name, asked={"timeout_s": 1.5}) as process:
        eventually((tmp_path / "ready").exists)
        process.send_signal(signal.SIGTSTP)
        eventually(lambda: _state(process.pid) == "T")
        stopped = time.monotonic()
        while time.monotonic() - stopped < 1.5:
            wrap("true")
        (tmp_path / "go").touch()
        process.send_signal(signal.SIGCONT)
        process.communicate()
    assert process.returncode == 0


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# --- what cannot be started ------------------------------------------------------------------------


def not_started(done: Any, kind: str, code: int, *words: str, phase: str = "spawn") -> None:
    assert done.returncode == code
    assert done.end["outcome"] == "spawn_failed"
    assert (done.end["error_type"], done.end["error_phase"]) == (kind, phase)
    assert "exit_code" not in done.end
    assert all(word in done.end["error_message"] for word in words)
    assert done.data("run.finished")["error_type"] == kind
    assert kind.encode() in done.stderr


def test_a_missing_program(wrap: Wrap) -> None:
    """W01."""
    not_started(wrap("no-such-agent", "run"), "FileNotFoundError", 127, "no-such-agent")
    not_started(wrap("/no/such/agent"), "FileNotFoundError", 127, "/no/such/agent")


def test_a_missing_working_folder(wrap: Wrap) -> None:
    """W02."""
    not_started(
        wrap("true", asked={"cwd": "/no/such/folder"}), "WorkingDirectoryNotFound", 125, "/no/such/folder"
    )


@pytest.mark.parametrize("interpreter", ["/no/such/bin/python", "/no/such/shell"])
def test_a_missing_interpreter(wrap: Wrap, tmp_path: Path, interpreter: str) -> None:
    """W03: the message names the line that asks for it, for an interpreter of Python too."""
    agent = script(tmp_path / "agent", f"#!{interpreter}\n")
    not_started(wrap(agent), "InterpreterNotFound", 127, agent, f"#!{interpreter}")


def test_a_program_that_may_not_be_executed(wrap: Wrap, tmp_path: Path) -> None:
    """W04: also one whose interpreter we could have called ourselves."""
    agent = script(tmp_path / "agent.py", f"#!{PYTHON}\n", 0o644)
    not_started(wrap(agent), "PermissionError", 126, agent)


def test_a_program_without_interpreter_line(wrap: Wrap, tmp_path: Path) -> None:
    """W05."""
    not_started(wrap(script(tmp_path / "agent", "echo hello\n")), "ExecFormatError", 126, "agent")


@linux
def test_an_argument_that_is_too_long(wrap: Wrap) -> None:
    """W06: the system takes 128 KiB in one."""
    not_started(wrap("echo", "x" * 200_000), "ArgumentListTooLong", 126)


def test_an_argument_with_nul(wrap: Wrap) -> None:
    """W07."""
    not_started(wrap("echo", "a\0b"), "ValueError", 125, "NUL", phase="config")


# --- output ----------------------------------------------------------------------------------------


def test_streams_pass_through_apart_and_unchanged(wrap: Wrap) -> None:
    """W24, W26: bytes that are no text too."""
    odd = bytes(range(256))
    code = f"import sys; sys.stdout.buffer.write({odd!r}); sys.stderr.buffer.write(b'err')"
    done = wrap(*python(code))
    assert done.stdout == odd
    assert b"err" in done.stderr
    assert (done.end["stdout_bytes"], done.end["stderr_bytes"]) == (256, 3)
    assert done.end["stderr_tail"] == "err"
    assert done.end["stdout_tail"].startswith("␀\x01\x02")
    assert done.end["stdout_tail"].endswith("\x7f" + "\ufffd" * 128), "what is no UTF-8 is replaced, not lost"


def test_a_tail_is_the_last_eight_kilobytes(wrap: Wrap) -> None:
    done = wrap(*python("print('é' * 9000 + 'end', end='')"))
    tail = done.end["stdout_tail"]
    assert tail == "é" * (len(tail) - 3) + "end"
    assert 8 * 1024 - 2 < len(tail.encode()) <= 8 * 1024


@linux
@pytest.mark.parametrize(
    ("flood", "size"), [("head -c 1073741824 /dev/zero", 1 << 30), ("yes | head -c 268435456", 1 << 28)]
)
def test_a_flood_of_output_costs_no_memory(wrap: Wrap, flood: str, size: int, tmp_path: Path) -> None:
    """W19, W23, W25: 1 GiB in one line, 256 MiB in short ones."""
    with wrap.start(["sh", "-c", flood], task=tmp_path.name, stdout=subprocess.DEVNULL) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _peak_rss(process.pid))
        process.communicate()
    finished = wrap.wait_for(tmp_path.name, "process.finished")["data"]
    assert (finished["outcome"], finished["stdout_bytes"]) == ("exited", size)
    assert 0 < peak < 64 * 1024 * 1024


def _peak_rss(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


def test_a_reader_that_leaves_is_seen_by_the_agent(wrap: Wrap, tmp_path: Path) -> None:
    """W28: as if it wrote to that reader itself."""
    code = "import os\nwhile True: os.write(1, b'x' * 1000)"
    with wrap.start((PYTHON, "-c", code), task=tmp_path.name) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        process.wait()
    finished = wrap.wait_for(tmp_path.name, "process.finished")["data"]
    assert finished["outcome"] == "exited"
    assert finished["error_message"].startswith("BrokenPipeError")


def test_a_reader_that_stands_still_holds_up_no_end(wrap: Wrap, tmp_path: Path) -> None:
    """The pipe to it is full, and a pipeline wants the run to end."""
    code = (
        f"import os, pathlib; os.write(1, b'x' * 60_000); pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
    )
    with wrap.start(python(f"{code}while True: os.write(1, b'x' * 1000)"), task=tmp_path.name) as process:
        eventually((tmp_path / "ready").exists)
        process.send_signal(signal.SIGTERM)
        process.wait(5)
        assert process.stdout is not None
        process.stdout.read()
    finished = wrap.wait_for(tmp_path.name, "process.finished")["data"]
    assert (finished["outcome"], finished["error_phase"]) == ("cancelled", "collect")


def test_a_stream_that_was_closed_is_not_taken_for_a_file_of_ours(wrap: Wrap, tmp_path: Path) -> None:
    def close_output() -> None:
        os.close(1)
        os.close(2)

    code = "import os; os.write(1, b'out'); os.write(2, b'err')"
    done = wrap(*python(code), preexec_fn=close_output, stdout=None, stderr=None)
    assert done.returncode == 0
    assert [event["name"] for event in done.events if event["name"] == "run.finished"] == ["run.finished"]
    assert (done.end["stdout_tail"], done.end["stderr_tail"]) == ("out", "err")


def test_standard_input_is_the_agents(wrap: Wrap, tmp_path: Path) -> None:
    given = tmp_path / "input"
    given.write_bytes(b"from outside")
    with given.open("rb") as file:
        assert wrap("cat", stdin=file).stdout == b"from outside"


def test_tails_can_be_switched_off(wrap: Wrap) -> None:
    done = wrap(
        *python("import sys; print('out'); sys.exit('boom')"), environ={"AGENT_TELEMETRY_TAILS": "off"}
    )
    assert done.stdout == b"out\n"
    assert not {"stdout_tail", "stderr_tail", "stdout_bytes"} & set(done.end)
    assert done.end["error_message"] == "exit code 1"


# --- never in the way ------------------------------------------------------------------------------


def test_an_unusable_data_folder_keeps_no_agent_from_running(wrap: Wrap, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    done = wrap(*python("import os; print(os.environ.get('AGENT_TELEMETRY_RUN'))"),
                environ={"AGENT_TELEMETRY_HOME": str(home)})  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"None\n")
    assert done.stderr.count(b"\n") == 1
    assert b"not recorded" in done.stderr
    assert done.events == []


def test_a_machine_without_git_has_runs_without_commit(wrap: Wrap, tmp_path: Path) -> None:
    done = wrap(PYTHON, "-c", "print('ran')", environ={"PATH": str(tmp_path)})
    assert done.stdout == b"ran\n"
    assert "commit" not in done.data("run.started")


def test_switched_off_it_is_a_plain_exec(wrap: Wrap) -> None:
    code = "import os; print(os.getpid(), os.environ.get('AGENT_TELEMETRY_RUN'))"
    with wrap.start(python(code), environ={"AGENT_TELEMETRY_DISABLED": "1"}) as process:
        stdout, stderr = process.communicate()
    assert stdout == f"{process.pid} None\n".encode()
    assert stderr == b""


def test_one_line_at_the_start_and_one_at_the_end(wrap: Wrap) -> None:
    done = wrap("true")
    run = done.events[0]["run"][-8:]
    journal = wrap.home / "journal.db"
    assert done.stderr.decode().splitlines() == [
        f"agent-telemetry: recording run {run}",
        f"agent-telemetry: run {run} exited 0; its events are in {journal}",
    ]


def test_nothing_heavy_is_loaded_before_the_agent_runs() -> None:
    heavy = ("sqlmodel", "sqlalchemy", "opentelemetry", "genai_prices", "tiktoken", "openai", "click")
    program = f"import sys, telemetry.wrapper; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([PYTHON, "-c", program], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_a_deliverer_is_no_leftover(tmp_path: Path) -> None:
    """It goes on when the run is over, if it has to: here, for a run whose agent still lives."""
    from agent_shim.events import CaptureFailed
    from agent_shim.spool import Spool, new_id
    from telemetry import handover

    other = Spool(tmp_path / "spool", new_id(), role="agent", redact=str)
    other.append(CaptureFailed(where="here", error_type="none"))
    done = Wrap(tmp_path)("true")
    assert done.end["leftover"] == []
    assert handover.is_running(tmp_path)
    other.seal()
    eventually(lambda: not handover.is_running(tmp_path))


def test_the_mode_of_files_is_private(wrap: Wrap) -> None:
    done = wrap("true")
    folders = [wrap.home / "delivered" / done.events[0]["run"], wrap.home / "delivered"]
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in folders)


@linux
def test_a_deliverer_that_is_killed_while_the_run_waits_for_it_is_started_again(wrap: Wrap) -> None:
    def deliverers() -> list[int]:
        home, name = f"AGENT_TELEMETRY_HOME={wrap.home}\0".encode(), handover.DELIVERER.encode()
        return [pid for pid in pids() if name in of(pid, "cmdline") and home in of(pid, "environ")]

    task = "its deliverer is killed"
    with turn(wrap.home / "journal.db", 30):  # so that nothing is delivered yet
        process = wrap.start(["true"], task=task)
        wrap.wait_for(task, "run.finished")
        (first,) = deliverers()
        os.kill(first, signal.SIGKILL)
        assert eventually(lambda: [pid for pid in deliverers() if pid != first])
    assert b"its events" in process.communicate(timeout=30)[1]


def tree_of(run: str) -> list[int]:
    """The living processes below the wrapper of a run; what is dead has no environment."""
    return [pid for pid in pids() if f"AGENT_TELEMETRY_RUN={run}\0".encode() in of(pid, "environ")]


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def of(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""  # it is gone, or another's
