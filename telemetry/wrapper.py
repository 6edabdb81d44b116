"""A run: one execution of an agent, recorded from the outside.

Promises, each a test in ``tests/test_wrapper.py``:

* The agent runs, whatever becomes of our own records. What could not be recorded is said in one line.
* The agent's output, input, exit code and signals are what they would be without us.
* ``run.started``, ``process.started``, ``process.finished`` and ``run.finished`` are written, in that
  order, for every way a run can end short of our own death; a failure never lacks its type and message.
* Importing this module and starting the agent needs no database, no OpenTelemetry, no third-party code.

Events are delivered to the journal by another process (`telemetry.deliverer`); at the end we wait for our
own, bounded, and say where they are.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import agent_shim
from agent_shim import spool
from agent_shim.events import (
    AttemptRefused,
    AttemptReserved,
    ClaimMade,
    ProcessFinished,
    ProcessStarted,
    RunFinished,
    RunStarted,
    TreeCaptured,
)
from agent_shim.redaction import Redactor, live_secrets, redact_arguments
from telemetry import (
    agent_environment,
    child,
    descendants,
    handover,
    launch,
    numbers,
    pipeline_files,
    places,
    settled,
)
from telemetry.agent_config import configuration
from telemetry.captures import END_S, START_S, Capture
from telemetry.command import find_program
from telemetry.endings import Ending
from telemetry.identity import Identity, identify
from telemetry.process_end import in_short, not_started, process_finished
from telemetry.relay import Streams, TerminalMode
from telemetry.settings import VERSION, Settings, without_password
from telemetry.spooled import Run
from telemetry.supervision import TIMEOUT_GRACE_S, Signals, Supervision, shares_terminal

if TYPE_CHECKING:
    from telemetry.claim_watch import ClaimWatch

SHIM = Path(str(agent_shim.__file__)).parent
DRAIN_S = 2.0
"""How long output may still come when the agent and all that it left are gone."""
DELIVERY_S = 5.0
VERDICTS, UNDECIDED = {"pass": 0, "fail": 1}, 3
"""Exit codes by the verdict; a run that could not be judged is like a journal that cannot be reached."""
REFUSED = 75
"""Exit code when no attempt was left: EX_TEMPFAIL of sysexits.h."""
HURRY_TREE_S = 3.4
"""The same for looking at the tree: after the 2 seconds of the agent, before the delivery."""
HURRY_S = 4.0
"""From a signal from outside to our end: a pipeline's patience of 5 seconds, less our own exit."""
_POLL_S, _AGAIN_S = 0.05, 1.0


class RunRequest(NamedTuple):
    """What is to be run and recorded."""

    command: tuple[str, ...]
    settings: Settings
    environ: Mapping[str, str]
    """The environment that the agent is to have, beside what the recording adds."""
    way: str = "run"
    """``run`` or ``stand-in``; the latter prints nothing unless something is wrong."""
    cwd: str | None = None
    """Working folder of the agent; ours when left out."""
    timeout_s: float | None = None
    grace_s: float = TIMEOUT_GRACE_S
    """From SIGTERM to SIGKILL after the time limit."""
    tags: Mapping[str, str] | None = None
    attempt: int | None = None
    claims: tuple[ClaimMade, ...] = ()
    strict_claims: bool = False
    """End the run at the first request that refutes one."""
    admit: Callable[[str, Identity], AttemptReserved | AttemptRefused] | None = None
    """Says whether the run with this id may start; asked before anything is recorded. Never raises."""
    pipeline_files: str | None = None
    """Folder for the files that a pipeline looks for; the stand-in knows its own."""
    exit_by_policy: str | None = None
    """Give the verdict under this policy as exit code: 0 pass, 1 fail, 3 unknown."""


def run(request: RunRequest) -> int:
    """Run the agent and record it; the exit code to end with. Raises `RuntimeError` off the main thread.

    The code is the agent's own, 128+n when signal n ended it, 124 after the time limit, 127 or 126 when
    the program was not found or could not be executed, 125 for a mistake in what was asked of us. With
    ``AGENT_TELEMETRY_DISABLED`` this process becomes the agent, and the call does not return.
    """
    if threading.current_thread() is not threading.main_thread():
        # The agent would be killed when the thread that started it ends; and signals come to the main one.
        raise RuntimeError("a run can be started by the main thread only")
    if request.settings.disabled:
        return plainly(request)
    _fill_standard_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Until there is an agent, Ctrl-C is our end; as an exception it would be lost inside an import.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        recording = Recording(request)
        recording.begin()
    except Exception as error:  # noqa: BLE001 - the one place: nothing of ours may keep an agent from running
        say(f"not recorded: {type(error).__name__}: {error}")
        return child.OURS if request.admit else plainly(request)  # it may not run without being counted
    return recording.refuse() if recording.refusal else recording.execute()


def _fill_standard_streams() -> None:
    """Where one is closed, nothing that is opened later may take its place: not our spool file."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)


def plainly(request: RunRequest) -> int:
    """Become the agent, unrecorded; an exit code when that is not possible."""
    cwd = request.cwd or _folder()
    executable = find_program(request.command[0], request.environ, cwd)
    failure = child.refusal(request.command, executable)
    if failure is None:
        failure = child.become_now(request.command, executable or "", request.environ, cwd)
    say(f"{failure.error_type}: {failure.message}")
    return failure.exit_code


def _folder() -> str:
    """Our working folder; one that was removed is still one to start a program in."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "."


def say(line: str) -> None:
    """One line to the user."""
    try:
        os.write(2, f"agent-telemetry: {line}\n".encode("utf-8", "replace"))
    except OSError:
        pass  # nobody reads it


class Recording:
    """One run, from its first event to its last."""

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._settings = request.settings
        self._environ = agent_environment.outside(request.environ)
        self._cwd = request.cwd or _folder()
        self.run_id = spool.new_id()
        self._redact = Redactor(live_secrets(self._environ))
        folder = places.spool_folder(self._settings.home)
        self._spool = spool.Spool(folder, self.run_id, role="wrapper", redact=self._redact, version=VERSION)
        self._trace_parent = agent_environment.trace_parent(self._environ)
        self._begin = ""
        self._process = ""
        self.refusal: AttemptRefused | None = None
        self._started_at = time.time()
        self._capture = Capture(
            self._settings, request.command, self._cwd, self._environ, self.run_id, self._redact
        )
        self._trees: tuple[TreeCaptured, ...] = ()
        self._number = request.attempt

    # --- before the agent --------------------------------------------------------------------------

    def begin(self) -> None:
        """Say what is about to run. From here on events exist, or it is known that they cannot."""
        request, settings = self._request, self._settings
        known = identify(settings, request.command, self._cwd, self._environ, way=request.way)
        admitted = request.admit(self.run_id, known) if request.admit else self._numbered(known)
        self.refusal = admitted if isinstance(admitted, AttemptRefused) else None
        if isinstance(admitted, AttemptReserved):
            self._number = admitted.number
        try:
            places.make(settings.home)
            places.write_destination(settings.home, self.run_id, places.destination_of(settings))
            self._begin = self._spool.append(self._started(known))
            read = configuration(known.agent, request.command, self._cwd, self._environ)
            for event in (admitted, read, *request.claims):
                if event is not None:
                    self._spool.append(event, parent=self._begin)
        except OSError as error:
            say(f"not recorded: {error.filename or settings.home}: {error.strerror}")
        else:
            if not self._begin:
                say(f"not recorded: {_losses(self._spool.lost)} in {self._spool.folder}")
            elif request.way == "run" and not self.refusal:
                say(f"recording run {self.run_id[-8:]}")
        hooks = SHIM if self._begin else None
        self._launch = launch.decide(self._request.command, self._environ, self._cwd, hooks)

    def _numbered(self, known: Identity) -> AttemptReserved | None:
        if self._request.attempt is not None:
            return None
        try:
            return numbers.number(self._settings, self._environ, self.run_id, known)
        except OSError:
            return None  # the run counts without a number

    def refuse(self) -> int:
        """Record that nothing was started; the exit code to end with."""
        refusal = self.refusal
        assert refusal is not None
        say(f"not started: {refusal.message}")
        if self._begin:
            kind = f"Attempt{refusal.reason.title().replace(' ', '')}"
            finished = RunFinished(outcome="refused", error_type=kind, error_message=refusal.message)
            self._spool.append(finished, begin=self._begin)
            self._spool.seal()
            handover.start(self._settings, self._environ)
        return REFUSED

    def _started(self, known: Identity) -> RunStarted:
        request, settings, system = self._request, self._settings, os.uname()
        self._told = RunStarted(
            way=request.way,
            command=redact_arguments(request.command),
            cwd=self._cwd,
            batch=settings.batch,
            tags=dict(request.tags) if request.tags else None,
            attempt=request.attempt,
            trace_parent=self._trace_parent,
            parent_run=self._environ.get("AGENT_TELEMETRY_RUN"),
            host=system.nodename,
            platform=f"{system.sysname}-{system.release}-{system.machine}",
            version=VERSION,
            content=settings.content,
            **known._asdict(),
        )
        return self._told

    # --- the agent ---------------------------------------------------------------------------------

    def execute(self) -> int:
        """Start the agent, watch over it, and record its end; the exit code to end with."""
        before = descendants.pids_below_us()
        with Signals().caught() as signals, descendants.adopting():
            streams = Streams() if self._settings.tails else None
            self._look_before(signals)
            own_group = not shares_terminal()  # only the foreground may read from one
            started = self._start(streams, own_group, signals)
            if isinstance(started, child.Failure):
                if streams:
                    streams.abandon()
                return self._finish(not_started(started), started.exit_code, signals)
            return self._watch(started, signals, streams, own_group, before)

    def _look_before(self, signals: Signals) -> None:
        """Record the tree of the start; the agent waits for it, but not long."""
        if self._begin:
            self._trees = (self._capture.before(_until(signals, START_S, 0.0)),)
            self._spool.append(self._trees[0], parent=self._begin)

    def _start(self, streams: Streams | None, own_group: bool, signals: Signals) -> int | child.Failure:
        plan = self._launch
        refused = child.refusal(plan.arguments, plan.executable)
        if refused:
            self._tell_start(None, streams)
            return refused
        ends = streams.ends if streams else {}
        environment = {**self._environ, **dict(plan.environment)}
        try:
            process = child.fork(
                plan.arguments, plan.executable or "", environment, self._cwd, ends,
                own_group=own_group, mask=signals.outside,
            )  # fmt: skip
        except OSError as error:
            self._tell_start(None, streams)
            return child.Failure(type(error).__name__, f"no process to be had: {error}", child.OURS)
        self._tell_start(process.pid, streams)
        report = process.release(self._variables() if self._begin else {})
        if report:
            os.waitpid(process.pid, 0)
            return child.failure_of(report, plan.executable or "", self._cwd)
        if streams:
            streams.begin()
        return process.pid

    def _tell_start(self, pid: int | None, streams: Streams | None) -> None:
        plan = self._launch
        event = ProcessStarted(
            pid=pid,
            executable=plan.executable,
            arguments=redact_arguments(plan.arguments),
            capture=plan.capture,
            capture_reason=plan.capture_reason,
            terminal=streams.terminal if streams else os.isatty(1),
        )
        self._process = self._spool.append(event, parent=self._begin)

    def _variables(self) -> dict[str, str]:
        return agent_environment.variables(
            self._settings, self._environ, self.run_id, self._process, self._trace_parent
        )

    def _watch(
        self, pid: int, signals: Signals, streams: Streams | None, own_group: bool, before: frozenset[int]
    ) -> int:
        mode = TerminalMode()
        deliverer = handover.start(self._settings, self._environ) if self._begin else None
        others = before | {deliverer} if deliverer else before
        claims = self._watch_claims()
        ending = Supervision(
            pid,
            signals,
            own_group=own_group,
            timeout_s=self._request.timeout_s,
            grace_s=self._request.grace_s,
            resized=streams.resize if streams else None,
            others=others,
        ).run()
        leftover = descendants.end(others, group=pid if own_group else None)
        if claims:
            claims.stop()
            ending = ending._replace(refuted=claims.ended_by)
        drained = _drain(streams, ending, signals) if streams else True
        mode.restore()
        tails = {fd: streams.tail(fd) for fd in (1, 2)} if streams else {}
        finished, code = process_finished(
            ending, tails, self._redact, leftover, drained=drained, timeout_s=self._request.timeout_s
        )
        return self._finish(finished, code, signals)

    def _watch_claims(self) -> ClaimWatch | None:
        """Hold the claims against each request as it is sent."""
        request = self._request
        if not request.claims or not self._begin:
            return None
        from telemetry.claim_watch import ClaimWatch  # most runs claim nothing

        watch = ClaimWatch(
            self._spool.folder,
            self._spool.producer,
            request.claims,
            lambda event: self._spool.append(event, parent=self._begin),
            say,
            strict=request.strict_claims,
        )
        watch.start()
        return watch

    # --- its end -----------------------------------------------------------------------------------

    def _finish(self, finished: ProcessFinished, code: int, signals: Signals) -> int:
        """Write the last events, see them delivered, and say where they are."""
        if not self._begin:
            if finished.error_phase in ("spawn", "config"):
                say(f"{finished.error_type}: {finished.error_message}")
            return code
        self._spool.append(finished, begin=self._process)
        self._look_after(finished, signals)
        lost = self._spool.lost
        self._spool.append(
            RunFinished(
                outcome=finished.outcome,
                exit_code=finished.exit_code,
                signal=finished.signal,
                error_type=finished.error_type,
                error_message=finished.error_message,
                producers=places.other_producers(self._spool.folder, self._spool.producer),
            ),
            begin=self._begin,
        )
        self._spool.seal()
        self._see_delivered(signals)
        if self._request.way == "run" or lost or finished.outcome == "spawn_failed":
            say(self._summary(finished, lost))
        return self._settle(code, signals)

    def _settle(self, code: int, signals: Signals) -> int:
        """Where it was asked for, see the run judged; the exit code to end with."""
        rule, folder = self._request.exit_by_policy, self._pipeline_folder()
        if rule is None and folder is None:
            return code
        told: dict[str, Any] = {}
        why: str | None = "the run was ended from outside, and had to be gone"
        if signals.ending_at is None:
            asked = (self._settings, self._environ, self.run_id, rule or "default")
            told, why = settled.ask(*asked, lambda: signals.ending_at is not None)
        if folder:
            try:
                pipeline_files.fill(folder, self.run_id, told, why, self._redact)
            except OSError as error:
                say(f"files for the pipeline not filled: {error.filename or folder}: {error.strerror}")
        if rule is None:
            return code
        say(self._redact(f"verdict {told.get('verdict', 'unknown')}: {told.get('verdict_reason') or why}"))
        return VERDICTS.get(str(told.get("verdict")), UNDECIDED)

    def _look_after(self, finished: ProcessFinished, signals: Signals) -> None:
        """Record what became of the tree, and write the files that a pipeline looks for."""
        gone_at = time.time()
        found = self._capture.after(_until(signals, END_S, HURRY_TREE_S))
        for event in found:
            self._spool.append(event, parent=self._begin)
        folder = self._pipeline_folder()
        if folder:
            attempt = pipeline_files.Attempt(
                run_id=self.run_id,
                number=self._number,
                started=self._told,
                started_at=self._started_at,
                finished=finished,
                finished_at=gone_at,
                found=(*self._trees, *found),
                first_edit_ns=self._capture.first_edit_ns,
                timeout_s=self._request.timeout_s,
                journal=without_password(self._settings.journal),
            )
            try:
                targets = [file.path for file in self._capture.own.patches()]
                pipeline_files.write(folder, attempt, self._capture.patch, targets, self._redact)
            except OSError as error:
                say(f"files for the pipeline not written: {error.filename or folder}: {error.strerror}")
        self._capture.close()

    def _pipeline_folder(self) -> Path | None:
        """Where a pipeline looks for the files of this run."""
        if self._request.pipeline_files:
            return Path(self._cwd, self._request.pipeline_files)
        trajectory = self._capture.own.trajectory
        return trajectory.parent if trajectory and self._request.way == "stand-in" else None

    def _see_delivered(self, signals: Signals) -> None:
        """Wait, for a while, until every event of the run is in the journal."""
        until = time.monotonic() + DELIVERY_S
        home, seen = self._settings.home, Run(self._settings.home, self.run_id)
        again = 0.0
        while time.monotonic() < until and not handover.is_complete(home, seen):
            if time.monotonic() >= again:  # the first one may have had to give up, or was killed
                handover.start(self._settings, self._environ)
                again = time.monotonic() + _AGAIN_S
            if signals.ending_at is not None:
                until = min(until, signals.ending_at + HURRY_S)
            signals.wait(_POLL_S)

    def _summary(self, finished: ProcessFinished, lost: Mapping[str, int]) -> str:
        home, journal = self._settings.home, without_password(self._settings.journal)
        waiting = handover.undelivered(home, self.run_id)
        if not waiting:
            where = f"its events are in {journal}"
        elif self._spool.producer in waiting:
            where = f"its events wait in {self._spool.folder}, not yet in {journal}"
        else:
            where = f"its events are in {journal}, those of {len(waiting)} of its processes not yet"
        line = f"run {self.run_id[-8:]} {in_short(finished)}; {where}"
        return self._redact(f"{line}; lost: {_losses(lost)}" if lost else line)


def _drain(streams: Streams, ending: Ending, signals: Signals) -> bool:
    """Pass on what is left of the output; whether all of it was."""
    limit_s = DRAIN_S if signals.ending_at is None else DRAIN_S / 4
    drained = streams.finish(limit_s, lambda: not ending.timed_out and signals.is_patient())
    for fd, failure in streams.failures().items():
        say(f"{'stdout' if fd == 1 else 'stderr'} could not be passed on: {failure.strerror}")
    return drained


def _until(signals: Signals, limit_s: float, hurry_s: float) -> Callable[[], float]:
    """When to stop: after `limit_s`, or `hurry_s` after a signal that asks to end."""
    last = time.monotonic() + limit_s

    def until() -> float:
        return last if signals.ending_at is None else min(last, signals.ending_at + hurry_s)

    return until


def _losses(lost: Mapping[str, int]) -> str:
    return (
        ", ".join(f"{count} ({reason})" for reason, count in sorted(lost.items())) or "nothing can be written"
    )
