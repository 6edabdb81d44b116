"""The agent's process: how it is started, and what it means when it cannot be.

Promises, each a test in ``tests/test_wrapper.py``:

* The process exists before it becomes the agent, so the event that tells of it is written first and its
  id is in the agent's environment.
* The agent gets our standard input untouched, and signals as a program started by a shell has them.
* When this process is killed, the agent is killed too (Linux).
* Every way in which a start can fail has a name of its own, and a message that names the culprit.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from telemetry.command import head_of

PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``."""
NOT_FOUND, NOT_EXECUTABLE, OURS = 127, 126, 125
"""Exit codes of ``env``, ``timeout`` and their like for a program that cannot be started."""


class Failure(NamedTuple):
    """Why the agent could not be started."""

    error_type: str
    message: str
    exit_code: int
    phase: str = "spawn"


class Child:
    """A process that waits to become the agent. Made by `fork`; `release` lets it go on."""

    def __init__(self, pid: int, go: int, answer: int) -> None:
        self.pid = pid
        self._go = go
        self._answer = answer

    def release(self, variables: Mapping[str, str]) -> dict[str, Any] | None:
        """Let it become the agent, with `variables` added; what went wrong, if it could not."""
        try:
            with os.fdopen(self._go, "wb") as go:
                go.write(json.dumps(dict(variables)).encode())
        except BrokenPipeError:
            pass  # it was killed before it began; how, its end will tell
        with os.fdopen(self._answer, "rb") as answer:
            text = answer.read()
        return json.loads(text) if text else None


def fork(
    arguments: Sequence[str],
    executable: str,
    environment: Mapping[str, str],
    cwd: str,
    streams: Mapping[int, int],
    *,
    own_group: bool,
    mask: Iterable[int] = (),
) -> Child:
    """A new process that waits for `Child.release`. Raises `OSError` when the system has none to give.

    `mask` has the signals that the agent is to have blocked.

    To be called by the main thread, before there are others: the signal that ends the agent with its
    parent is bound to the thread that started it.
    """
    go, go_on = os.pipe()
    answer, report = os.pipe()
    parent_dies = _death_signal()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go_on)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _become(arguments, executable, environment, cwd, streams, go, report, parent_dies)
        finally:
            os._exit(OURS)
    os.close(go)
    os.close(report)
    if own_group:
        os.setpgid(pid, pid)
    return Child(pid, go_on, answer)


def _become(
    arguments: Sequence[str],
    executable: str,
    environment: Mapping[str, str],
    cwd: str,
    streams: Mapping[int, int],
    go: int,
    report: int,
    parent_dies: Any,
) -> None:
    signal.set_wakeup_fd(-1)  # it is the parent's
    parent_dies()
    _restore_signals()
    with os.fdopen(go, "rb") as told:
        text = told.read()
    if not text:
        os._exit(OURS)  # the parent died, or gave up
    step = "cwd"
    try:
        os.chdir(cwd)
        step = "exec"
        for target, source in streams.items():
            os.dup2(source, target)
        os.execve(executable, list(arguments), {**environment, **json.loads(text)})
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        os.write(report, json.dumps({"step": step, "errno": number, "text": str(error)}).encode())


def _restore_signals() -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them; a shell would not have


def _death_signal() -> Any:
    """What the child does so that it ends with its parent; prepared before the fork."""
    if sys.platform != "linux":
        return lambda: None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before it could be asked for
            os._exit(OURS)

    return ask


def become_now(
    arguments: Sequence[str], executable: str, environment: Mapping[str, str], cwd: str
) -> Failure:
    """Replace this process by the program; why not, if that failed."""
    step = "cwd"
    try:
        os.chdir(cwd)
        step = "exec"
        _restore_signals()
        os.execve(executable, list(arguments), dict(environment))
    except OSError as error:
        return failure_of({"step": step, "errno": error.errno}, executable, cwd)


# --- what a failed start means ---------------------------------------------------------------------


def refusal(arguments: Sequence[str], executable: str | None) -> Failure | None:
    """Why a command cannot be started, where that is known without trying."""
    if any("\0" in word for word in arguments):
        return Failure("ValueError", "an argument of the command contains NUL", OURS, "config")
    if executable is None:
        return Failure("FileNotFoundError", f"{arguments[0]}: no such program", NOT_FOUND)
    return None


def failure_of(report: Mapping[str, Any], executable: str, cwd: str) -> Failure:
    """What a child's report means, by the step that failed and the system's error number."""
    number = report.get("errno") or 0
    text = os.strerror(number) if number else str(report.get("text"))
    if report["step"] == "cwd":
        missing = number == errno.ENOENT
        return Failure("WorkingDirectoryNotFound" if missing else _type(number), f"{cwd}: {text}", OURS)
    if number == errno.ENOENT:
        return _missing_interpreter(executable)
    if number == errno.ENOEXEC:
        message = f"{executable}: has no #! line and is no binary of this machine"
        return Failure("ExecFormatError", message, NOT_EXECUTABLE)
    if number == errno.E2BIG:
        message = "the arguments and the environment together, or one argument, are too long"
        return Failure("ArgumentListTooLong", message, NOT_EXECUTABLE)
    return Failure(_type(number), f"{executable}: {text}", NOT_EXECUTABLE)


def _missing_interpreter(executable: str) -> Failure:
    if not Path(executable).exists():
        return Failure("FileNotFoundError", f"{executable}: no such program", NOT_FOUND)
    head = head_of(executable)
    if head.startswith(b"#!"):
        line = os.fsdecode(head.split(b"\n", 1)[0]).strip()
        return Failure("InterpreterNotFound", f"{executable}: its interpreter is missing: {line}", NOT_FOUND)
    return Failure("InterpreterNotFound", f"{executable}: its loader is missing", NOT_FOUND)


def _type(number: int) -> str:
    return type(OSError(number, "")).__name__ if number else "OSError"
