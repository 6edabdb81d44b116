"""Real git worktrees, and our look at them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

from telemetry import difference
from telemetry.difference import Difference
from telemetry.scan import Limits
from telemetry.tree import Snapshot, Worktree

GIT = {
    "PATH": os.environ["PATH"],
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(folder: Path | str, *words: str, given: bytes | None = None) -> bytes:
    command = [
        "git",
        "-C",
        str(folder),
        "-c",
        "init.defaultBranch=main",
        "-c",
        "protocol.file.allow=always",
        *words,
    ]
    return subprocess.run(command, env=GIT, input=given, check=True, capture_output=True).stdout


def write(folder: Path | str, **files: str) -> None:
    for name, text in files.items():
        put(folder, name.replace("__", "/").replace("_py", ".py"), text.encode())


def put(folder: Path | str, name: str, content: bytes) -> Path:
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def commit(folder: Path | str, subject: str = "more") -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", subject)
    return git(folder, "rev-parse", "HEAD").decode().strip()


def repository(folder: Path) -> Path:
    """A repository with a few committed files."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    put(folder, "a.py", b"one = 1\ntwo = 2\nthree = 3\n")
    put(folder, "pkg/b.py", b"def f():\n    return 1\n")
    put(folder, "data.bin", bytes(range(256)) * 4)
    put(folder, ".gitignore", b"build/\n*.o\n")
    commit(folder, "first")
    return folder


def forever() -> float:
    return time.monotonic() + 60


class Look:
    """The worktree at `top` from now until `end`."""

    def __init__(self, top: Path, folder: Path, **more: Any) -> None:
        until = more.pop("until", forever)
        more.setdefault("limits", Limits())
        self.worktree = Worktree(str(top), folder, dict(os.environ), until, **more)
        self.start: Snapshot = self.worktree.begin()
        self.last: Snapshot | None = None

    def end(self) -> Snapshot:
        self.last = self.worktree.end(self.start)
        return self.last

    def difference(self) -> Difference:
        end = self.end()
        gone = [path for path, _ in difference.excess(self.start, end)]
        return difference.between(self.worktree.repository, self.start, end, self.worktree.lenders, gone)

    def changed(self) -> dict[str, str]:
        """Path → status of the changed files."""
        return {file["path"]: file["status"] for file in self.difference().files}

    def left_out(self) -> dict[str, str]:
        """Path → why, of changed files that are no part of the patch."""
        assert self.last
        return {os.fsdecode(path): why for path, why in difference.left_out(self.start, self.last)}


def small_limits(file_bytes: int = 1000, total_bytes: int = 3000) -> Limits:
    return Limits(file_bytes, total_bytes)


def laid_out(worktree: Worktree, snapshot: Snapshot, folder: Path) -> Path:
    """The files of a snapshot, written into a folder by git."""
    stored = worktree.repository
    difference._take(stored, snapshot.found.entries.values(), worktree.lenders)
    tree = stored.tree(snapshot.found.entries, store=True)
    folder.mkdir()
    index = folder.with_suffix(".index")
    stored.ask("read-tree", tree, index=index)
    stored.ask("checkout-index", "-a", worktree=str(folder), index=index)
    return folder
