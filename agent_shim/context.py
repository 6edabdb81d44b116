"""A run in one's own code: ``with agent_shim.run(commit=…)``.

The events go to the spool of the data folder; ``agent-telemetry`` commands, or the deliverer they start,
take them from there. If an OpenTelemetry span is current, the run joins its trace. Processes started
inside inherit the run through the environment: the variables of `Run.environment` are set in
``os.environ`` while the run is the only one of the process.
"""

from __future__ import annotations

import atexit
import os
import platform
import socket
import sys
from contextvars import ContextVar, Token
from pathlib import Path
from types import TracebackType
from typing import Any, Mapping

from . import hooks, instrumentation, recorder
from .errors import SettingsError
from .events import RunFinished, RunStarted, span_id
from .openai_client import current_trace_parent
from .recorder import Recorder
from .redaction import Redactor, live_secrets, redact_arguments
from .spool import Spool, new_id


def data_folder(environ: Mapping[str, str]) -> Path:
    """Where spool and journal are: ``AGENT_TELEMETRY_HOME``, else the account's user data folder.

    The account's own home is asked, because pipelines replace HOME and the XDG variables. Raises
    SettingsError when the variable does not hold an absolute path.
    """
    given = environ.get("AGENT_TELEMETRY_HOME")
    if given:
        if not os.path.isabs(given):
            raise SettingsError(
                f"AGENT_TELEMETRY_HOME is not an absolute path: {given}", hint="give it as an absolute path"
            )
        return Path(given)
    import pwd

    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "agent-telemetry"
    return home / ".local" / "share" / "agent-telemetry"


_announced: set[str] = set()
"""Runs of this process that its environment names, for the processes that it starts."""


class Run:
    """A run of this process. Use it as a context manager; it is made by `run`."""

    def __init__(
        self, started: RunStarted, home: Path, *, content: bool, usage_hosts: frozenset[str] | None
    ) -> None:
        self.run_id = new_id()
        self._started = started
        self._home = home
        redactor = Redactor(live_secrets(os.environ))
        spool = Spool(
            home / "spool", self.run_id, role="wrapper", redact=redactor, hooks=instrumentation.TARGETS
        )
        self._recorder = Recorder(spool, redactor, content=content, usage_hosts=usage_hosts)
        self._begin = ""
        self._entered: list[tuple[ContextVar[Any], Token[Any]]] = []
        self._replaced: dict[str, str | None] = {}

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make a process started with them part of this run, and of its trace."""
        return {
            "AGENT_TELEMETRY_HOME": str(self._home),
            "AGENT_TELEMETRY_RUN": self.run_id,
            "AGENT_TELEMETRY_PARENT": self._begin,
            "TRACEPARENT": f"00-{self._trace_id()}-{span_id(self._begin)}-01",
        }

    def _trace_id(self) -> str:
        joined = self._started.trace_parent
        return joined.split("-")[1] if joined else self.run_id

    def __enter__(self) -> Run:
        if is_disabled(os.environ):
            return self
        self.begin()
        self._entered = [
            (recorder.in_context, recorder.in_context.set(self._recorder)),
            (recorder.parent_in_context, recorder.parent_in_context.set(self._begin)),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._entered:
            variable, token = self._entered.pop()
            try:
                variable.reset(token)
            except ValueError:
                variable.set(None)  # left in another context than it was entered in
        if self._begin:
            self.end(error)

    def begin(self) -> None:
        """Begin the run for the whole process."""
        instrumentation.instrument()
        self._begin = self._recorder.record(self._started)
        if not self._begin:
            why = ", ".join(self._recorder.spool.lost) or "unknown why"
            sys.stderr.write(f"agent-telemetry: not recorded: {self._home}: {why}\n")
        self._recorder.parent = self._begin
        alone = not recorder.active()
        recorder.activate(self._recorder)
        hooks.report(self._recorder)
        if alone:
            _announced.add(self.run_id)
            for name, value in self.environment.items():
                self._replaced[name] = os.environ.get(name)
                os.environ[name] = value

    def end(self, error: BaseException | None = None) -> None:
        """End the run, with the exception that ended it if there was one."""
        outcome = "returned" if error is None else "raised"
        finished = RunFinished(
            outcome=outcome,
            error_type=recorder.error_type(error) if error is not None else None,
            error_message=recorder.message_of(error) if error is not None else None,
            producers=self._others(),
        )
        self._recorder.record(finished, begin=self._begin)
        recorder.deactivate(self._recorder)
        _announced.discard(self.run_id)
        for name, value in self._replaced.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._recorder.spool.seal()

    def _others(self) -> list[str]:
        own = self._recorder.spool
        return sorted(path.stem for path in own.folder.glob("*.log") if path.stem != own.producer)


def run(
    *,
    commit: str | None = None,
    repository: str | None = None,
    task: str | None = None,
    batch: str | None = None,
    tags: Mapping[str, str] | None = None,
    agent: str | None = None,
) -> Run:
    """A run to be used as ``with agent_shim.run(commit=…):``; every hooked call inside belongs to it.

    Values that are not given are taken from ``AGENT_TELEMETRY_COMMIT``, ``_REPO``, ``_TASK`` and
    ``_BATCH``. Raises SettingsError for a data folder that cannot be used; nothing else.
    """
    environ = os.environ
    commit, commit_source = _given(commit, environ.get("AGENT_TELEMETRY_COMMIT"))
    repository, repository_source = _given(repository, environ.get("AGENT_TELEMETRY_REPO"))
    content = recorder.is_on(environ, "AGENT_TELEMETRY_CONTENT")
    started = RunStarted(
        way="context",
        agent=agent or Path(sys.argv[0] or "python").stem or None,
        command=redact_arguments(sys.orig_argv),
        cwd=os.getcwd(),
        task=task or environ.get("AGENT_TELEMETRY_TASK"),
        batch=batch or environ.get("AGENT_TELEMETRY_BATCH"),
        tags=dict(tags) if tags else None,
        trace_parent=current_trace_parent(),
        parent_run=_parent_run(environ),
        host=socket.gethostname(),
        platform=platform.platform(terse=True),
        content=content,
        commit=commit,
        commit_source=commit_source,
        repository=repository,
        repository_source=repository_source,
    )
    hosts = recorder.usage_hosts(environ.get("AGENT_TELEMETRY_INCLUDE_USAGE", ""))
    return Run(started, data_folder(environ), content=content, usage_hosts=hosts)


def _parent_run(environ: Mapping[str, str]) -> str | None:
    """The run around this one; one of this process that only stands in the environment is beside it."""
    around = recorder.in_context.get()
    if around is not None:
        return around.spool.run
    inherited = environ.get("AGENT_TELEMETRY_RUN")
    return None if inherited in _announced else inherited


def _given(argument: str | None, variable: str | None) -> tuple[str | None, str | None]:
    """A value and where it came from; ``None`` twice when it was not given."""
    if argument:
        return argument, "option"
    return (variable, "environment") if variable else (None, None)


def instrument() -> None:
    """Hook the OpenAI client and TRAE in this process.

    Calls outside any ``with agent_shim.run()`` belong to the run that the environment names, else to one
    of their own, which begins at the first of them and ends with the process.
    ``AGENT_TELEMETRY_DISABLED=1`` turns this into nothing.
    """
    if is_disabled(os.environ):
        return
    recorder.on_first_use(_implicit_run)
    instrumentation.instrument()


def uninstrument() -> None:
    """Take every hook off again. A run that `instrument` began ends with the process."""
    recorder.on_first_use(None)
    instrumentation.uninstrument()


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether ``AGENT_TELEMETRY_DISABLED`` asks for nothing to be recorded."""
    return recorder.is_on(environ, "AGENT_TELEMETRY_DISABLED")


def _implicit_run() -> Recorder | None:
    recorder.on_first_use(None)
    try:
        inherited = recorder.from_environment(os.environ, instrumentation.TARGETS)
        if inherited is not None:
            recorder.activate(inherited)
            hooks.report(inherited)
            return inherited
        implicit = run()
        implicit.begin()
    except Exception:
        return None  # no usable data folder: the calls go on unrecorded, `doctor` says why
    atexit.register(implicit.end)
    return implicit._recorder
