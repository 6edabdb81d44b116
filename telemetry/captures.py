"""The worktree before and after the agent, told as events.

Promises, each a test in ``tests/test_captures.py``:

* Whatever the worktree is, there is an event for the start, one for the end and one for the patch; what
  could not be told has a reason. Nothing here raises, and nothing outlasts the time it is given.
* Our own files are in the data folder, gone at the end, and those of a run that was killed are gone with
  the next one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from agent_shim.events import PatchCaptured, TrajectoryRead, TreeCaptured
from telemetry import difference
from telemetry.command import option_value
from telemetry.difference import Difference
from telemetry.identity import working_folder
from telemetry.objects import TreeUnknown, Until, shown
from telemetry.own_files import OwnFiles
from telemetry.scan import Limits, size_of
from telemetry.scratch import Scratch
from telemetry.settings import Settings
from telemetry.trajectory import read
from telemetry.tree import Snapshot, Worktree, top_of

START_S = 10.0
"""The most that the start of an agent is delayed by: 20,000 files take about 2."""
END_S = 30.0
TEXT_BYTES = 256 * 1024
"""The longest patch whose text is kept."""
LIMITS = Limits()
_PIECE = 48 * 1024
"""Characters of a piece of the text: less than the longest text in an event."""
_LISTED = 100
_FILES_LISTED = 500
_T = TypeVar("_T")


class Capture:
    """One run's look at its worktree: `before`, `after`, `close`."""

    def __init__(
        self,
        settings: Settings,
        command: Sequence[str],
        cwd: str,
        environ: Mapping[str, str],
        run_id: str,
        redact: Callable[[str], str],
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._redact = redact
        self._until: Until = time.monotonic
        self._scratch = Scratch(settings.home, run_id)
        self._folder = working_folder(command, cwd)
        self._worktree: Worktree | None = None
        self._start: Snapshot | None = None
        self._reason = "the start was not looked at"
        self._began_ns = 0
        self.top: str | None = None
        self.own = OwnFiles(
            trajectory=_path(option_value(command, "--trajectory-file"), cwd),
            patch=_path(option_value(command, "--patch-path"), cwd),
        )
        self.patch: bytes | None = None
        """The patch, once `after` could tell it."""
        self.first_edit_ns: int | None = None
        """Time of the oldest change that could still be seen at the end."""

    def before(self, until: Until) -> TreeCaptured:
        """The tree of the start."""
        began = time.monotonic_ns()
        self._until = until
        event = self._begin()
        self.own.note(self.top)
        self._began_ns = time.time_ns()
        return event._replace(elapsed_ns=time.monotonic_ns() - began)

    def after(self, until: Until) -> list[TreeCaptured | PatchCaptured | TrajectoryRead]:
        """The tree of the end, the patch, and the agent's own trajectory where it names one."""
        began = time.monotonic_ns()
        self._until = until
        tree, end = self._end()
        looked = time.monotonic_ns()
        patch = self._changed(end) if end else PatchCaptured(reason=tree.reason)
        patch = patch._replace(
            agent_patches=self._agent_patches(None) if patch.agent_patches is None else patch.agent_patches,
            elapsed_ns=time.monotonic_ns() - looked,
        )
        trajectory = self.own.trajectory
        more = [read(trajectory, self.own.is_written(trajectory), self._redact)] if trajectory else []
        return [tree._replace(elapsed_ns=looked - began), patch, *more]

    def close(self) -> None:
        """Leave nothing behind."""
        self._scratch.remove()

    # --- trees -------------------------------------------------------------------------------------

    def _begin(self) -> TreeCaptured:
        try:
            self.top = top_of(self._folder)
            self._worktree = Worktree(
                self.top,
                self._scratch.make(),
                self._environ,
                lambda: self._until(),
                scratch=self._settings.scratch,
                patch_files=self.own.names_below(self.top),
                limits=LIMITS,
            )
            self._start = self._worktree.begin()
        except Exception as error:  # noqa: BLE001 - a worktree can be anything, and the agent is to start
            self._reason = _reason(error)
            return TreeCaptured(moment="start", worktree=self.top, reason=self._reason)
        return _told("start", self.top, self._start)

    def _end(self) -> tuple[TreeCaptured, Snapshot | None]:
        if self._worktree is None or self._start is None:
            return TreeCaptured(moment="end", worktree=self.top, reason=self._reason), None
        try:
            end = self._worktree.end(self._start)
        except Exception as error:  # noqa: BLE001 - whatever the agent made of it, the run has its end
            return TreeCaptured(moment="end", worktree=self.top, reason=_reason(error)), None
        return _told("end", self._worktree.top, end), end

    # --- the patch ---------------------------------------------------------------------------------

    def _changed(self, end: Snapshot) -> PatchCaptured:
        assert self._worktree and self._start
        start, worktree = self._start, self._worktree
        self.first_edit_ns = worktree.first_edit_ns(start, end)
        excess = difference.excess(start, end)
        left_out = [
            *difference.left_out(start, end),
            *((path, "ignored") for path in worktree.ignored(start, end)),
        ]
        known = PatchCaptured(
            base_commit=start.commit,
            base_tree=start.tree,
            end_commit=end.commit,
            end_tree=end.tree,
            rewritten=[shown(path) for path in worktree.rewritten(start, end, self._began_ns)[:_LISTED]],
            excess=[{"path": shown(path), "bytes": size} for path, size in excess[:_LISTED]],
            excess_count=len(excess),
            left_out=[{"path": shown(path), "why": why} for path, why in left_out[:_LISTED]],
            left_out_count=len(left_out),
        )
        try:
            found = difference.between(
                worktree.repository, start, end, worktree.lenders, [path for path, _ in excess]
            )
        except Exception as error:  # noqa: BLE001 - as above
            return self._with_history(known._replace(reason=_reason(error)), end)
        return self._with_history(self._with_patch(known, found), end)

    def _with_patch(self, known: PatchCaptured, found: Difference) -> PatchCaptured:
        facts = known._replace(
            file_count=len(found.files),
            added=found.added,
            removed=found.removed,
            files=found.files[:_FILES_LISTED],
            parsed_with=difference.parser_version(),
            agent_patches=self._agent_patches(found),
        )
        if known.excess_count:
            return facts._replace(reason=f"{known.excess_count} changed files are beyond the size limits")
        self.patch = found.patch
        return self._with_text(
            facts._replace(
                bytes=len(found.patch),
                sha256=difference.sha256(found.patch),
                applies=found.applies,
                applies_reason=found.applies_reason,
                applies_to_commit=found.applies_to_commit,
            ),
            found.patch,
        )

    def _with_text(self, facts: PatchCaptured, patch: bytes) -> PatchCaptured:
        if not self._settings.patch_text:
            return facts._replace(text_reason="off")
        if len(patch) > TEXT_BYTES:
            return facts._replace(text_reason=f"{len(patch)} bytes are more than {TEXT_BYTES}")
        text = self._redact(patch.decode("utf-8", "replace"))
        pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
        return facts._replace(text=pieces, text_exact=text.encode() == patch and "\0" not in text)

    def _with_history(self, facts: PatchCaptured, end: Snapshot) -> PatchCaptured:
        assert self._worktree and self._start
        worktree, start = self._worktree, self._start
        history = _known(lambda: worktree.history(start, end, _LISTED))
        commits = history.commits if history else None
        return facts._replace(
            commits=[{"id": commit, "subject": shown(subject)} for commit, subject in commits]
            if commits is not None
            else None,
            commit_count=history.total if history else None,
            plain_diff_bytes=_known(worktree.plain_diff_bytes),
        )

    def _agent_patches(self, found: Difference | None) -> list[dict[str, Any]] | None:
        told = []
        for file in self.own.patches():
            content = file.content()
            about: dict[str, Any] = {"path": str(file.path), "source": file.source}
            if content.data is None:
                about["reason"] = content.reason
            else:
                about |= {"bytes": len(content.data), "sha256": difference.sha256(content.data)}
                about["written"] = self.own.is_written(file.path)
                about["same"] = self._has_our_effect(content.data, found)
            told.append({name: value for name, value in about.items() if value is not None})
        return told or None

    def _has_our_effect(self, patch: bytes, found: Difference | None) -> bool | None:
        if found is None or self._worktree is None:
            return None
        if not patch or not found.patch or patch == found.patch:
            return patch == found.patch
        try:
            return difference.effect(self._worktree.repository, found.base, patch) == found.end
        except TreeUnknown:
            return False


def _told(moment: str, top: str, snapshot: Snapshot) -> TreeCaptured:
    entries, unread = snapshot.found.entries, snapshot.found.unread
    committed = snapshot.committed
    event = TreeCaptured(
        moment=moment,
        worktree=top,
        commit=snapshot.commit,
        branch=snapshot.branch,
        tree=snapshot.tree,
        files=len(entries),
        unread=[{"path": shown(p), "bytes": size_of(unread[p])} for p in sorted(unread)[:_LISTED]] or None,
    )
    if committed is None:
        return event
    kept = entries.keys() | unread.keys() | snapshot.aside.keys()
    return event._replace(
        modified=sum(1 for path, entry in committed.items() if entries.get(path, entry) != entry),
        deleted=sum(1 for path in committed if path not in kept),
        untracked=sum(1 for path in entries if path not in committed),
    )


def _known(ask: Callable[[], _T]) -> _T | None:
    try:
        return ask()
    except (TreeUnknown, OSError, ValueError):
        return None


def _reason(error: Exception) -> str:
    if isinstance(error, TreeUnknown):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _path(value: str | None, cwd: str) -> Path | None:
    return Path(os.path.normpath(Path(cwd, value))) if value else None
