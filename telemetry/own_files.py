"""The files that an agent writes about itself: patches and a trajectory. Read, and never believed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

PATCH_FILE = "model_patch.diff"
"""Name of the patch file in the worktree, as the prompts of ISO-Bench ask for it."""
LIMIT_BYTES = 64 << 20


class Content(NamedTuple):
    """What is in a file, or why that is not known."""

    data: bytes | None
    reason: str | None = None


class PatchFile(NamedTuple):
    """A patch file of the agent's own."""

    path: Path
    source: str
    """``option`` or ``worktree``."""

    def content(self) -> Content:
        """What is in it."""
        return content_of(self.path)


class OwnFiles:
    """The files that one run may write about itself."""

    def __init__(self, *, trajectory: Path | None, patch: Path | None) -> None:
        self.trajectory = trajectory
        self._option = patch
        self._top: str | None = None
        self._before: dict[Path, tuple[int, ...] | None] = {}

    def patches(self) -> list[PatchFile]:
        """The patch file that the command names, and the one in the worktree."""
        found = [PatchFile(self._option, "option")] if self._option else []
        inside = Path(self._top, PATCH_FILE) if self._top else None
        if inside and inside != self._option and os.path.lexists(inside):
            found.append(PatchFile(inside, "worktree"))
        return found

    def names_below(self, top: str) -> list[str]:
        """Their names below a worktree, as far as they are there."""
        own = [Path(top, PATCH_FILE), *filter(None, (self._option, self.trajectory))]
        real = [Path(os.path.realpath(path.parent), path.name) for path in own]
        return [str(path.relative_to(top)) for path in real if path.is_relative_to(top)]

    def note(self, top: str | None) -> None:
        """Remember how they are before the agent starts."""
        self._top = top
        inside = [Path(top, PATCH_FILE)] if top else []
        for path in filter(None, (*inside, self._option, self.trajectory)):
            self._before[path] = _signature(path)

    def is_written(self, path: Path) -> bool:
        """Whether a file is another than before the agent started."""
        return _signature(path) != self._before.get(path)


def content_of(path: Path, limit: int = LIMIT_BYTES) -> Content:
    """What is in a file that an agent wrote: links are not followed, pipes not waited for."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - a descriptor
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Content(None, "not a file")
            if status.st_size > limit:
                return Content(None, f"{status.st_size} bytes are more than {limit}")
            return Content(file.read(limit))
    except OSError as error:
        return Content(None, error.strerror or type(error).__name__)


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
