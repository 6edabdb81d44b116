"""The files that a pipeline of ISO-Bench's kind looks for, written when the agent is gone.

``model_patch.diff`` is the patch that the run made, where it is known: in the run's folder, where
``--patch-path`` names it, and in the worktree where the agent left one, because the pipeline takes that one
first. A patch of other content that stood there is kept as ``model_patch.agent.diff``. ``journal.json`` has
the old shape with its gaps filled, ``attempt.json`` is ours. Each is replaced as a whole or left as it was.
(``docs/decisions/0010-files-for-the-pipeline.md`` says what becomes of them there.)
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from agent_shim.events import PatchCaptured, ProcessFinished, RunStarted, TrajectoryRead, TreeCaptured
from telemetry.own_files import LIMIT_BYTES, PATCH_FILE, content_of

AGENT_PATCH = "model_patch.agent.diff"
_AGENT_BRANCH = re.compile(r"agent/(.+)/[0-9a-f]{7,64}")
_PROMPT_BYTES = 4 << 20
SETTLED = (
    *("verdict", "verdict_policy", "verdict_reason", "empty_cause"),
    *("calls", "calls_reason", "tokens", "tokens_reason", "cost", "cost_reason"),
)
_UNSETTLED = dict.fromkeys(SETTLED) | {"settled_reason": "the run is not judged yet"}
"""What only the journal knows, until `fill`."""
_STEPS_EXCEEDED = "exceeded maximum steps"
"""TRAE's own words."""


class Attempt(NamedTuple):
    """Everything that the files tell."""

    run_id: str
    number: int | None
    """Of the attempt."""
    started: RunStarted
    started_at: float
    """Seconds since 1970."""
    finished: ProcessFinished
    finished_at: float
    found: Sequence[TreeCaptured | PatchCaptured | TrajectoryRead]
    first_edit_ns: int | None
    """Time of the first change that can still be seen; of several changes of a file, the last."""
    timeout_s: float | None
    journal: str

    @property
    def patch(self) -> PatchCaptured | None:
        """What was recorded of the patch."""
        return next((event for event in self.found if isinstance(event, PatchCaptured)), None)

    @property
    def trajectory(self) -> TrajectoryRead | None:
        """What the agent wrote of itself."""
        return next((event for event in self.found if isinstance(event, TrajectoryRead)), None)

    def tree(self, moment: str) -> TreeCaptured | None:
        """The tree of the ``start`` or of the ``end``."""
        trees = (event for event in self.found if isinstance(event, TreeCaptured))
        return next((tree for tree in trees if tree.moment == moment), None)

    @property
    def first_edit_s(self) -> float | None:
        """From the start to the first change."""
        return round(self.first_edit_ns / 1e9 - self.started_at, 3) if self.first_edit_ns else None

    @property
    def duration_s(self) -> float:
        """From the start of the run to the end of the agent."""
        return round(self.finished_at - self.started_at, 3)


def write(
    folder: Path,
    attempt: Attempt,
    patch: bytes | None,
    targets: Iterable[Path],
    redact: Callable[[str], str],
) -> list[Path]:
    """Write the files into `folder`, and the patch to `targets` too; what was written. Raises `OSError`."""
    written = write_patch(folder, patch, targets) if patch is not None else []
    prompt = _read(folder / "prompt.json", _PROMPT_BYTES)
    for name, content in (
        ("attempt.json", attempt_file(attempt)),
        ("journal.json", journal_file(attempt, prompt)),
    ):
        _replace(folder / name, redact(json.dumps(content, indent=2)).encode() + b"\n")
        written.append(folder / name)
    return written


def write_patch(folder: Path, patch: bytes, targets: Iterable[Path]) -> list[Path]:
    """Put the patch where it is looked for, and keep what the agent had put there."""
    places = list(dict.fromkeys([*targets, folder / PATCH_FILE]))
    others = dict.fromkeys(
        content for content in (content_of(place).data for place in places) if content and content != patch
    )
    written = []
    for number, content in enumerate(others, 1):
        kept = folder / (AGENT_PATCH if number == 1 else f"model_patch.agent-{number}.diff")
        _replace(kept, content)
        written.append(kept)
    for place in places:
        _replace(place, patch)
    return [*written, *places]


def fill(
    folder: Path, run_id: str, told: Mapping[str, Any], why: str | None, redact: Callable[[str], str]
) -> None:
    """Put verdict, tokens and cost into the files of a run, or why they are unknown. Raises `OSError`."""
    known = {name: told.get(name) for name in SETTLED} | {"settled_reason": why}
    for name in ("attempt.json", "journal.json"):
        content = _read(folder / name)
        if run_id in (content.get("run"), _object(content.get("run_metadata")).get("run_id")):
            _replace(folder / name, redact(json.dumps(content | known, indent=2)).encode() + b"\n")


# --- attempt.json ---------------------------------------------------------------------------------


def attempt_file(attempt: Attempt) -> dict[str, Any]:
    """Facts of the run by themselves, for scripts without the journal; unknown is null."""
    started, finished = attempt.started, attempt.finished
    return {
        "schema": 1,
        "run": attempt.run_id,
        "journal": attempt.journal,
        "attempt": attempt.number,
        **_fields(started, "way agent model_declared repository commit commit_source task batch"),
        "started": _time(attempt.started_at),
        "finished": _time(attempt.finished_at),
        "duration_s": attempt.duration_s,
        **_fields(finished, "outcome exit_code signal error_type error_message grace_expired"),
        **_fields(finished, "stdout_bytes stderr_bytes stdout_tail stderr_tail"),
        "start": _known(attempt.tree("start"), without="moment elapsed_ns"),
        "end": _known(attempt.tree("end"), without="moment elapsed_ns"),
        "patch": _known(attempt.patch, without="text text_exact text_reason elapsed_ns"),
        "trajectory": _known(attempt.trajectory),
        **_UNSETTLED,
    }


def _fields(event: Any, names: str) -> dict[str, Any]:
    return {name: getattr(event, name) for name in names.split()}


def _known(event: Any, without: str = "") -> dict[str, Any] | None:
    if event is None:
        return None
    return {name: value for name, value in event._asdict().items() if name not in without.split()}


# --- journal.json ---------------------------------------------------------------------------------


def journal_file(attempt: Attempt, prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline's own record in its old shape, with the fields filled that it left null or out."""
    started, patch = attempt.started, attempt.patch
    commits = _object(prompt.get("commits"))
    branch = started.branch or ""
    found = _AGENT_BRANCH.fullmatch(branch)
    failure = _failure(attempt)
    agent = started.agent or "agent"
    return {
        "task_id": found[1] if found else started.batch or started.task,
        "commits": {
            "pre": commits.get("pre") or started.base_commit,
            "human": commits.get("human") or started.commit,
        },
        "agent_branch": branch or None,
        "status": _status(attempt, failure),
        agent: {
            "cli": next(iter(started.command or []), None),
            "time_budget_minutes": attempt.timeout_s / 60 if attempt.timeout_s else None,
            "returncode": _returncode(attempt.finished),
            "duration_s": attempt.duration_s,
        },
        "metrics": {
            "time_to_first_edit_s": attempt.first_edit_s,
            "commit_count": patch.commit_count if patch else None,
            "patch_size_loc": _lines(patch),
            "changed_files_count": patch.file_count if patch else None,
            "violations_count": _violations(patch, prompt),
        },
        "run_metadata": {
            "repo": started.repository,
            "agent": agent,
            "model": started.model_declared,
            "run_timestamp": _time(attempt.started_at),
            "run_id": attempt.run_id,
            "attempt": attempt.number,
        },
        "error": failure[1] if failure else None,
        "error_type": failure[0] if failure else None,
        **_UNSETTLED,
        "timestamps": {"started": attempt.started_at, "written": attempt.finished_at},
    }


def _failure(attempt: Attempt) -> tuple[str, str] | None:
    """Type and message of what went wrong, as far as the process and the tree tell."""
    finished, patch = attempt.finished, attempt.patch
    if finished.error_type:
        return finished.error_type, finished.error_message or ""
    if patch is None or patch.bytes is None:
        return "PatchUnknown", (patch.reason if patch else None) or "no patch was recorded"
    if patch.bytes == 0:
        return "EmptyPatch", "the run changed nothing that counts"
    return None


def _status(attempt: Attempt, failure: tuple[str, str] | None) -> str:
    """One of the pipeline's three words. Judging is the journal's business; this is what can be said now."""
    told = attempt.trajectory
    said = f"{told.final_result or ''} {told.error or ''}".lower() if told else ""
    if _STEPS_EXCEEDED in said:
        return "max_steps_exceeded"
    return "error" if failure else "success"


def _returncode(finished: ProcessFinished) -> int | None:
    """As Python's subprocess counts it."""
    return -finished.signal if finished.signal and finished.exit_code is None else finished.exit_code


def _lines(patch: PatchCaptured | None) -> int | None:
    if patch is None or patch.added is None or patch.removed is None:
        return None
    return patch.added + patch.removed


def _violations(patch: PatchCaptured | None, prompt: Mapping[str, Any]) -> int | None:
    """Changed files that the prompt does not name; unknown when it names none."""
    targets = prompt.get("target_files")
    if patch is None or patch.files is None or not isinstance(targets, list) or not targets:
        return None
    names = [name.rstrip("/") for name in targets if isinstance(name, str)]
    paths = [file["path"] for file in patch.files]
    return sum(1 for path in paths if not any(_is_named(path, name) for name in names))


def _is_named(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}/") or fnmatch(path, name)


def _read(path: Path, limit_bytes: int = LIMIT_BYTES) -> dict[str, Any]:
    """The object in a file that others may have written; empty when there is none."""
    try:
        return _object(json.loads(content_of(path, limit_bytes).data or b"{}"))
    except (ValueError, RecursionError):
        return {}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- files ----------------------------------------------------------------------------------------


def _replace(path: Path, content: bytes) -> None:
    """Replace a file as a whole; a link is replaced, not followed."""
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        Path(partial).replace(path)
    except OSError:
        with suppress(FileNotFoundError):
            Path(partial).unlink()
        raise
