"""Ends that need a machine to be made: want of memory, a deaf agent, a thread, an input nobody reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetry.supervision import oom_kills
from telemetry.testing import Answer, ScriptedServer, Usage
from tests.generations import ROOT
from tests.wrapped import Wrap, eventually, is_alive, wrap

__all__ = ["wrap"]

PYTHON = sys.executable
GROUPS = Path("/sys/fs/cgroup")
LIMIT_BYTES = 192 << 20

# --- W13: want of memory ---------------------------------------------------------------------------


def limited_group(name: str) -> Path | None:
    """A control group below our own that may use `LIMIT_BYTES`; ``None`` where none can be made."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        version_1 = "memory" in controllers.split(",")
        if controllers and not version_1:
            continue
        folder = (GROUPS / "memory" if version_1 else GROUPS) / group.lstrip("/") / name
        limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if version_1 else ("memory.max",)
        try:
            folder.mkdir()
            for limit in limits:
                (folder / limit).write_text(str(LIMIT_BYTES))
        except OSError:
            if folder.is_dir():
                folder.rmdir()
            continue
        return folder
    return None


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group that is small."""
    folder = limited_group(f"agent-telemetry-{os.getpid()}")
    if folder is None:
        pytest.skip("no control group with a limit of memory can be made here")
    yield folder
    eventually(lambda: not (folder / "cgroup.procs").read_text())
    folder.rmdir()


def test_an_agent_that_the_system_killed_for_want_of_memory(wrap: Wrap, group: Path) -> None:
    """W13: the agent asks for more than its control group has."""

    def enter() -> None:
        (group / "cgroup.procs").write_text("0")

    code = "held = []\nwhile True: held.append(bytearray(b'x' * (8 << 20)))"
    done = wrap(PYTHON, "-c", code, preexec_fn=enter)
    assert done.returncode == 128 + signal.SIGKILL
    assert (done.end["outcome"], done.end["signal"]) == ("oom_killed", signal.SIGKILL)
    assert done.end["error_type"] == "OutOfMemory"
    assert done.end["error_message"] == "killed by the system for want of memory"
    assert LIMIT_BYTES / 2 < done.end["max_rss_bytes"] <= LIMIT_BYTES
    assert done.data("run.finished")["outcome"] == "oom_killed"
    assert done.end["oom_kills"] >= 1


def test_a_kill_from_outside_is_none_for_want_of_memory(wrap: Wrap, group: Path) -> None:
    """W13: where the control group counts such kills and counted none."""

    def enter() -> None:
        (group / "cgroup.procs").write_text("0")

    done = wrap(PYTHON, "-c", "import os; os.kill(os.getpid(), 9)", preexec_fn=enter)
    assert (done.end["outcome"], done.end["signal"]) == ("signaled", signal.SIGKILL)
    assert done.end["oom_kills"] == 0


@pytest.mark.parametrize(
    ("line", "file", "counts"),
    [
        ("0::/a/b", "a/b/memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("4:memory:/a/b", "memory/a/b/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        (
            "4:cpu,memory:/a\n0::/",
            "memory/a/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        ),
    ],
)
def test_kills_for_memory_are_read_where_either_version_counts_them(
    tmp_path: Path, line: str, file: str, counts: str
) -> None:
    """W13, where no control group can be made: the files as the kernel writes them, in a folder of ours."""
    (tmp_path / "cgroup").write_text(f"1:name=systemd:/x\n{line}\n")
    events = tmp_path / file
    events.parent.mkdir(parents=True)
    assert oom_kills(tmp_path / "cgroup", tmp_path) is None
    events.write_text(counts)
    assert oom_kills(tmp_path / "cgroup", tmp_path) == 2
    events.write_text("oom_kill_disable 0\nunder_oom 0\n")  # a kernel before 4.13
    assert oom_kills(tmp_path / "cgroup", tmp_path) is None


# --- W15: a time limit that the agent does not hear -------------------------------------------------


def test_an_agent_that_is_deaf_to_its_time_limit_is_killed(wrap: Wrap) -> None:
    """W15: with what it started, after the grace."""
    code = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "tool = subprocess.Popen(['sleep', '60']); print(tool.pid, flush=True);"
        "time.sleep(60)"
    )
    done = wrap(PYTHON, "-c", code, asked={"timeout_s": 1.0, "grace_s": 0.3})
    assert done.returncode == 124
    assert (done.end["outcome"], done.end["signal"]) == ("timeout", signal.SIGKILL)
    assert done.end["grace_expired"] is True
    assert done.end["error_type"] == "Timeout"
    assert done.end["error_message"] == "not done after 1 s; ended by SIGKILL after it did not obey SIGTERM"
    assert not is_alive(int(done.stdout))


# --- W18: the thread that starts the agent ----------------------------------------------------------


def test_a_run_is_refused_to_a_thread_that_may_end_before_the_agent(wrap: Wrap) -> None:
    """W18: the agent would be killed with the thread; so it is not started, and nothing is recorded."""
    code = """
import os, sys, threading
from telemetry import wrapper
from telemetry.settings import Settings
settings = Settings.load(os.environ, {"task": "in a thread"})
def work():
    try:
        wrapper.run(wrapper.RunRequest(("touch", sys.argv[1]), settings, dict(os.environ)))
    except RuntimeError as error:
        print(error)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    mark = wrap.home / "started"
    environ = {**os.environ, "AGENT_TELEMETRY_HOME": str(wrap.home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([PYTHON, "-c", code, mark], env=environ, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("a run can be started by the main thread only\n", "")
    assert not mark.exists()
    assert wrap.recorded("in a thread") == []


# --- W27, W29: pipes --------------------------------------------------------------------------------


def test_an_agent_that_reads_no_input_breaks_the_writers_pipe_and_no_run(wrap: Wrap, tmp_path: Path) -> None:
    """W27: the pipe is the agent's own, so the writer sees what it would see without us."""
    with wrap.start(["true"], task=tmp_path.name, stdin=subprocess.PIPE) as process:
        process.wait()
        assert process.stdin is not None
        with pytest.raises(BrokenPipeError):
            os.write(process.stdin.fileno(), b"x" * 1_000_000)
    finished = wrap.wait_for(tmp_path.name, "process.finished")["data"]
    assert (finished["outcome"], finished["exit_code"]) == ("exited", 0)
    assert "error_type" not in finished


BUFFERED = """
import openai, os, sys
client = openai.OpenAI()
answer = client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "hi"}])
print("used", answer.usage.total_tokens, os.environ.get("PYTHONUNBUFFERED"))
os.kill(os.getpid(), 9)
"""


def test_an_agent_killed_with_its_output_in_a_buffer_has_its_calls(
    wrap: Wrap, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W29: how the agent buffers is left to it. Its last words are lost; tokens never come from them."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    server.script(Answer("hello", usage=Usage(input=1000, output=50)))
    agent = tmp_path / "agent.py"
    agent.write_text(BUFFERED)
    done = wrap(PYTHON, str(agent), environ=server.environment)
    assert (done.end["outcome"], done.end["signal"]) == ("signaled", signal.SIGKILL)
    assert (done.end["stdout_bytes"], done.end["stdout_tail"]) == (0, "")
    usage = done.data("llm.call.finished")["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (1000, 50)


def test_how_an_agent_buffers_is_left_to_it(wrap: Wrap, monkeypatch: pytest.MonkeyPatch) -> None:
    """W29: ``PYTHONUNBUFFERED`` is neither set nor taken away."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    code = "import json, os; print(json.dumps(os.environ.get('PYTHONUNBUFFERED')))"
    assert json.loads(wrap(PYTHON, "-c", code).stdout) is None
    assert json.loads(wrap(PYTHON, "-c", code, environ={"PYTHONUNBUFFERED": "1"}).stdout) == "1"
