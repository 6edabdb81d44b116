"""Checks: what can be said of a run, each with the events that it rests on. Pure.

Promises, each with its test in ``tests/test_checks.py``:

* A check has one of three states. What was not seen is *unknown*, never *pass* and never *fail*.
* Each says in a sentence why, and names the events.
* Nothing is a verdict: what is needed of which check is a policy (`telemetry.policies`).

A row is any object with the fields of `telemetry.tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

from . import faults
from .causes import Cause

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"
COMPLETE = "telemetry-complete"
VERIFICATION = "verification"
"""Name of the result that a verification command leaves: its exit code."""
_LISTED = 5
"""How many events or files a sentence names."""


class Check(NamedTuple):
    """One thing that can be said of a run."""

    name: str
    state: str
    """``pass``, ``fail`` or ``unknown``."""
    reason: str
    events: tuple[str, ...] = ()


class Patch(NamedTuple):
    """What a run changed, as ``patch.captured`` says it."""

    event: str
    data: Mapping[str, Any]

    @property
    def empty(self) -> bool | None:
        """Whether nothing that counts was changed; ``None``: the change is not known."""
        size = self.data.get("bytes")
        return None if self.data.get("reason") or type(size) is not int else size == 0

    @property
    def files(self) -> list[Mapping[str, Any]]:
        """The changed files; at most 500 are listed."""
        return [file for file in self.data.get("files") or () if isinstance(file, Mapping)]

    @property
    def names(self) -> list[str]:
        """Their paths."""
        return [str(file.get("path")) for file in self.files]

    @property
    def is_listed(self) -> bool:
        """Whether every changed file is in the list."""
        return self.data.get("file_count") == len(self.files)


class Evidence(NamedTuple):
    """What the journal holds of one run."""

    run: Any
    ends: Mapping[str, str]
    """Name of an event of which a run has one → its id."""
    calls: Sequence[Any] = ()
    requests: Sequence[Any] = ()
    tools: Sequence[Any] = ()
    results: Sequence[Any] = ()
    patch: Patch | None = None
    empty: Cause | None = None
    """Why the patch is empty, where it is."""
    handed_in: Cause | None = None
    """Why the agent's own patch file is not the patch, where it is not."""
    allowed: tuple[str, ...] = ()
    """Patterns of the files that may be changed; empty: nothing says so."""
    threshold: tuple[str, float] | None = None
    """Name of a result, and what it has to reach."""


def examine(evidence: Evidence) -> list[Check]:
    """All checks, in the order of `NAMES`."""
    return [Check(name, *_CHECKS[name](evidence)) for name in NAMES]


_Found = tuple[str, str, tuple[str, ...]]


# --- the process -----------------------------------------------------------------------------------


def _exit(evidence: Evidence) -> _Found:
    run, seen = evidence.run, _ends(evidence, "process.finished", "run.finished")
    if run.state != "finished":
        return UNKNOWN, run.error_message or "the run is not finished", seen
    if run.outcome == "returned" or (run.outcome == "exited" and run.exit_code == 0):
        return PASS, "the process ended by itself, with 0", seen
    if run.outcome == "exited":
        after = ", after the agent had said that it was done" if run.claimed_success else ""
        return FAIL, f"the process ended with {run.exit_code}: {run.error_message}{after}", seen
    others = {
        "raised": f"the run ended with {run.error_type}",
        "spawn_failed": "the process was never started",
    }
    told = others.get(run.outcome, f"the process did not end by itself: {run.outcome}")
    return FAIL, f"{told}: {run.error_message}", seen


def _done(evidence: Evidence) -> _Found:
    said = evidence.run.claimed_success
    asked = [tool for tool in evidence.tools if tool.tool in faults.DONE_TOOLS]
    events = tuple(tool.requested_by for tool in asked if tool.requested_by)
    if said is not None:
        told = f"the agent's own record says success: {'true' if said else 'false'}"
        return PASS if said else FAIL, told, _ends(evidence, "trajectory.read") + events
    if asked:
        return PASS, f"the agent asked for {asked[-1].tool}", events
    if evidence.run.agent == "trae" and evidence.run.capture == "captured":
        return FAIL, "the agent never asked for task_done", events
    return UNKNOWN, "nothing that was seen says whether the agent was done", ()


# --- the patch -------------------------------------------------------------------------------------


def _not_empty(evidence: Evidence) -> _Found:
    patch = evidence.patch
    if patch is None or patch.empty is None:
        return UNKNOWN, f"the patch is not known: {_why_unknown(patch)}", _of(patch)
    if patch.empty:
        return FAIL, f"the patch is empty: {empty_cause(evidence)}", _of(patch)
    handed = f"; {evidence.handed_in.message}" if evidence.handed_in else ""
    return PASS, f"{_count(patch.data.get('file_count') or 0, 'file')} changed{handed}", _of(patch)


def _not_trivial(evidence: Evidence) -> _Found:
    patch = evidence.patch
    if patch is None or patch.empty is None:
        return UNKNOWN, f"the patch is not known: {_why_unknown(patch)}", _of(patch)
    real = [str(file.get("path")) for file in patch.files if not file.get("only")]
    if real:
        return PASS, f"more than whitespace and comments changed in {_listed(real)}", _of(patch)
    if patch.empty:
        return UNKNOWN, "there is no patch", _of(patch)
    if patch.is_listed:
        return FAIL, "nothing but whitespace, comments or scratch files was changed", _of(patch)
    return UNKNOWN, "not every changed file is listed", _of(patch)


def _applies(evidence: Evidence) -> _Found:
    patch = evidence.patch
    if patch is None or patch.empty is None:
        return UNKNOWN, f"the patch is not known: {_why_unknown(patch)}", _of(patch)
    if patch.empty:
        return UNKNOWN, "there is no patch to apply", _of(patch)
    applies = patch.data.get("applies")
    if applies is None:
        return UNKNOWN, patch.data.get("applies_reason") or "nobody tried to apply the patch", _of(patch)
    base = str(patch.data.get("base_commit") or "the base")[:12]
    told = f"the patch applies to {base}" if applies else f"the patch does not apply to {base}"
    reason = patch.data.get("applies_reason")
    return PASS if applies else FAIL, f"{told}: {reason}" if reason and not applies else told, _of(patch)


def _parses(evidence: Evidence) -> _Found:
    patch = evidence.patch
    if patch is None or patch.empty is None:
        return UNKNOWN, f"the patch is not known: {_why_unknown(patch)}", _of(patch)
    parsed = [file for file in patch.files if file.get("parses") is not None]
    wrong = [f"{file['path']}: {file.get('parse_error')}" for file in parsed if not file["parses"]]
    if wrong:
        return FAIL, f"changed files that do not parse: {_listed(wrong)}", _of(patch)
    open_ = [name for name in patch.names if name.endswith((".py", ".pyi"))]
    if not patch.is_listed or len(parsed) < len([name for name in open_ if not _deleted(patch, name)]):
        return UNKNOWN, "not every changed Python file was parsed", _of(patch)
    version = patch.data.get("parsed_with") or "Python"
    return PASS, f"{_count(len(parsed), 'changed Python file')} parsed ({version})", _of(patch)


def _deleted(patch: Patch, name: str) -> bool:
    return any(file.get("path") == name and file.get("status") == "D" for file in patch.files)


def _allowed(evidence: Evidence) -> _Found:
    patch = evidence.patch
    if not evidence.allowed:
        return UNKNOWN, "nothing says which files may be changed", _of(patch)
    if patch is None or patch.empty is None:
        return UNKNOWN, f"the patch is not known: {_why_unknown(patch)}", _of(patch)
    odd = [name for name in patch.names if not any(fnmatch(name, rule) for rule in evidence.allowed)]
    if odd:
        return FAIL, f"files that may not be changed: {_listed(odd)}", _of(patch)
    if not patch.is_listed:
        return UNKNOWN, "not every changed file is listed", _of(patch)
    return PASS, f"{_count(len(patch.files), 'changed file')}, all of which may be changed", _of(patch)


def _why_unknown(patch: Patch | None) -> str:
    return str(patch.data.get("reason") or "its length was not seen") if patch else "none was captured"


def empty_cause(evidence: Evidence) -> str:
    """Why a patch is empty, as far as the record tells."""
    return evidence.empty.message if evidence.empty else "the cause is not in the record"


# --- the protocol ----------------------------------------------------------------------------------


def _answered(evidence: Evidence) -> _Found:
    return _faultless(evidence, faults.unanswered(evidence.calls), "every tool call was answered")


def _executed(evidence: Evidence) -> _Found:
    if evidence.run.capture == "captured" and not evidence.tools:
        return UNKNOWN, "no tool call was seen", ()
    found = faults.never_executed(evidence.tools)
    return _faultless(evidence, found, "every requested tool call was executed")


def _retries(evidence: Evidence) -> _Found:
    found = faults.futile_retries(evidence.requests)
    nested = faults.nested_retries(evidence.calls, evidence.requests)
    fine = "; ".join(fault.reason for fault in nested) or "no refused request was sent again"
    return _faultless(evidence, found, fine)


def _recovered(evidence: Evidence) -> _Found:
    if evidence.run.capture != "captured":
        return UNKNOWN, _unseen(evidence), ()
    failed = faults.unrecovered(evidence.calls)
    events = tuple(call.call_id for call in failed)
    if failed:
        return (
            FAIL,
            f"an API error was not recovered from: {faults.failure_of(failed[-1], evidence.requests)}",
            events,
        )
    return PASS, f"the last of {_count(len(evidence.calls), 'call')} succeeded", events


def _faultless(evidence: Evidence, found: Sequence[faults.Fault], fine: str) -> _Found:
    events = tuple(event for fault in found for event in fault.events if event)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        return FAIL, f"{found[0].reason}{more}", events
    if evidence.run.capture != "captured":
        return UNKNOWN, _unseen(evidence), ()
    return PASS, fine, ()


# --- the record ------------------------------------------------------------------------------------


def _captured(evidence: Evidence) -> _Found:
    state = {"captured": PASS, "not captured": FAIL}.get(evidence.run.capture, UNKNOWN)
    reason = "the calls of the agent were seen" if state == PASS else _unseen(evidence)
    return state, reason, _ends(evidence, "process.started")


def _complete(evidence: Evidence) -> _Found:
    run = evidence.run
    if run.complete:
        return PASS, f"all {run.events} events are here", _ends(evidence, "run.finished")
    return UNKNOWN, run.incomplete_reason or "not all events are here", _ends(evidence, "run.finished")


# --- measured afterwards ---------------------------------------------------------------------------


def _verified(evidence: Evidence) -> _Found:
    result = _latest(evidence, VERIFICATION)
    if result is None or result.value is None:
        return UNKNOWN, "no verification command was run", ()
    told = f"the verification command ended with {result.value:g}: {result.source}"
    return PASS if result.value == 0 else FAIL, told, (result.event_id,)


def _result(evidence: Evidence) -> _Found:
    if evidence.threshold is None:
        return UNKNOWN, "the policy names no result", ()
    name, least = evidence.threshold
    result = _latest(evidence, name)
    if result is None or result.value is None:
        return UNKNOWN, f"no result {name} is attached", ()
    told = f"{name} is {result.value:g} ({result.source}), at least {least:g} is asked for"
    return PASS if result.value >= least else FAIL, told, (result.event_id,)


def _latest(evidence: Evidence, name: str) -> Any:
    same = [result for result in evidence.results if result.name == name]
    return max(same, key=lambda result: result.attached_at or "", default=None)


# --- words -----------------------------------------------------------------------------------------


def _ends(evidence: Evidence, *names: str) -> tuple[str, ...]:
    return tuple(evidence.ends[name] for name in names if name in evidence.ends)


def _of(patch: Patch | None) -> tuple[str, ...]:
    return (patch.event,) if patch else ()


def _unseen(evidence: Evidence) -> str:
    return (
        f"the calls of the agent were not seen: {evidence.run.capture_reason or 'nothing is known of them'}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"


_CHECKS = {
    "exit-0": _exit,
    "agent-done": _done,
    "patch-not-empty": _not_empty,
    "patch-not-trivial": _not_trivial,
    "patch-applies": _applies,
    "files-parse": _parses,
    "files-allowed": _allowed,
    "tools-answered": _answered,
    "tools-executed": _executed,
    "no-futile-retry": _retries,
    "api-recovered": _recovered,
    "calls-captured": _captured,
    COMPLETE: _complete,
    VERIFICATION: _verified,
    "result": _result,
}
NAMES = tuple(_CHECKS)
"""The checks, in the order in which they are shown."""
