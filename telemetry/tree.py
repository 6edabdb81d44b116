"""The files of a worktree as they are, as a git tree of our own making.

Promises, each a test in ``tests/test_tree.py``:

* The tree holds every file, byte for byte: committed, changed, untracked, binary, linked, of any name;
  submodules as the commit that they stand at. Nothing of it passes through a filter.
* Left out is what the ignore rules named *at the start*, whatever becomes of ``.gitignore`` meanwhile;
  scratch folders; patch files; new folders that ignore themselves; other repositories inside. What of it
  changed is listed.
* Nothing is written into the worktree, its repository or its index, and nothing of it runs: no hook, no
  filter, no fsmonitor, no configuration. Links are never followed.
* Files beyond the size limit are not read, and named. Time is bounded. What cannot be told raises
  `TreeUnknown` with the reason, and no other error.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from telemetry import ignores
from telemetry.identity import GIT_LIMIT_S, Git
from telemetry.objects import FORMATS, Entry, Repository, TreeUnknown, Until
from telemetry.scan import Found, Limits, Scan, Signature, Tracked, is_refused, signature_of, written_ns_of
from telemetry.settings import worktree_of

_RULES_BYTES = 1 << 20
_INDEX_BYTES = 512 << 20
_POINTER_BYTES = 4096


class Aside(NamedTuple):
    """A file that is no part of the tree."""

    why: str
    """``scratch``, ``patch file``, ``ignores itself``, ``repository of its own`` or ``name``."""
    signature: Signature


class Snapshot(NamedTuple):
    """The files at one moment."""

    found: Found
    aside: dict[bytes, Aside]
    tree: str
    commit: str | None
    branch: str | None
    committed: dict[bytes, Entry] | None
    """The files of the commit, where it could be read."""


class History(NamedTuple):
    """Commits."""

    commits: list[tuple[str, bytes]]
    """Id and subject, newest first."""
    total: int


class Worktree:
    """The worktree at `top`, seen through a private repository in `folder`."""

    def __init__(
        self,
        top: str,
        folder: Path,
        environ: Mapping[str, str],
        until: Until,
        *,
        scratch: Iterable[str] = (),
        patch_files: Iterable[str] = (),
        limits: Limits,
    ) -> None:
        self.top = top
        self._environ = environ
        self._until = until
        self._limits = limits
        self._scratch = frozenset(os.fsencode(name.strip("/")) for name in scratch)
        self._scratch_paths = tuple(name + b"/" for name in self._scratch if b"/" in name)
        self._patch_files = frozenset(os.fsencode(path) for path in patch_files)
        self._git_folder, self._common = git_folders(top)
        self.lenders = [str(self._common / "objects")]
        path = environ.get("PATH", os.defpath)
        self.repository = Repository(folder, path, _object_format(self._common), until)
        self._exclude = folder / "exclude"
        self._tracked: dict[bytes, Tracked] = {}

    def begin(self) -> Snapshot:
        """The files before the agent starts, and the rules that count until the end."""
        commit, branch = self._head()
        committed = self._committed(commit) if commit else {}
        self._tracked = self._read_index(commit)
        others = self._learn_rules()
        stored = {tracked.entry.id for tracked in self._tracked.values()}
        stored.update(entry.id for entry in (committed or {}).values())
        return self._snapshot(others, commit, branch, committed, stored=frozenset(stored))

    def end(self, start: Snapshot) -> Snapshot:
        """The files after the agent is gone, by the rules of the start."""
        self._lend_again()
        commit, branch = self._head()
        committed = self._committed(commit) if commit else {}
        return self._snapshot(self._others(), commit, branch, committed, before=start.found)

    def first_edit_ns(self, start: Snapshot, end: Snapshot) -> int | None:
        """When the oldest of the changes was made that are still there."""
        before, scan = start.found.entries, self._scan()
        changed = (path for path, entry in end.found.entries.items() if before.get(path) != entry)
        return min((status.st_mtime_ns for path in changed if (status := scan.status(path))), default=None)

    def rewritten(self, start: Snapshot, end: Snapshot, since_ns: int) -> list[bytes]:
        """The files that were written after `since_ns` (since 1970) and are as they were at the start."""
        before, scan = start.found.entries, self._scan()
        same = (path for path, entry in end.found.entries.items() if before.get(path) == entry)
        times = ((path, _written_ns(end.found, path, scan)) for path in same)
        return sorted(path for path, written_ns in times if written_ns is not None and written_ns > since_ns)

    def history(self, start: Snapshot, end: Snapshot, limit: int) -> History:
        """The commits made between two moments, at most `limit` of them named. Raises `TreeUnknown`."""
        if end.commit is None or end.commit == start.commit:
            return History([], 0)
        span = [end.commit, f"^{start.commit}"] if start.commit else [end.commit]
        ask = self.repository.ask
        count = int(ask("rev-list", "--count", *span, lenders=self.lenders))
        named = ask("log", "-z", f"--max-count={limit}", "--format=%H %s", *span, lenders=self.lenders)
        lines = (line.partition(b" ") for line in named.split(b"\0") if line)
        return History([(commit.decode(), subject) for commit, _, subject in lines], count)

    def plain_diff_bytes(self) -> int | None:
        """Length of what ``git diff`` shows now: changes that are not committed and not staged."""
        index = self.repository.folder / "index.end"
        if not _copied(git_folders(self.top)[0] / "index", index):
            return None
        question = ("diff-files", "-p", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all")
        return self.repository.length(*question, worktree=self.top, index=index, lenders=self.lenders)

    def ignored(self, start: Snapshot, end: Snapshot) -> list[bytes]:
        """Files that the agent committed although the rules of the start leave them out."""
        if end.committed is None or start.committed is None:
            return []
        scan = self._scan()
        return [
            path
            for path, entry in end.committed.items()
            if start.committed.get(path) != entry
            and path not in end.found.entries
            and path not in end.aside
            and path not in self._tracked
            and scan.status(path) is not None
        ]

    # --- what there is -----------------------------------------------------------------------------

    def _head(self) -> tuple[str | None, str | None]:
        left = min(max(self._until() - time.monotonic(), 0.0), GIT_LIMIT_S)
        git = Git(self.top, self._environ, limit_s=left)
        return git.head(), git.branch()

    def _lend_again(self) -> None:
        """The agent may have made the repository anew: its objects are elsewhere then."""
        try:
            folder = str(git_folders(self.top)[1] / "objects")
        except TreeUnknown:
            return
        if folder not in self.lenders:
            self.lenders.append(folder)

    def _committed(self, commit: str) -> dict[bytes, Entry] | None:
        try:
            listed = self.repository.ask("ls-tree", "-r", "-z", commit, lenders=self.lenders)
        except TreeUnknown:
            return None
        entries = {}
        for line in listed.split(b"\0")[:-1]:
            about, _, path = line.partition(b"\t")
            mode, _, identity = about.split(b" ")
            entries[path] = Entry(mode, identity.decode())
        return entries

    def _read_index(self, commit: str | None) -> dict[bytes, Tracked]:
        """The files that the index names; those of the commit where it cannot be read."""
        own = self.repository.folder / "index"
        if _copied(self._git_folder / "index", own):
            try:
                return self._listed_index()
            except TreeUnknown:
                own.unlink()  # of a form that cannot stand alone, or no index at all
        if commit is not None:
            self.repository.ask("read-tree", commit, lenders=self.lenders)
            return self._listed_index()
        return {}

    def _listed_index(self) -> dict[bytes, Tracked]:
        listed = self.repository.ask("ls-files", "-z", "-s", "-t", lenders=self.lenders)
        tracked = {}
        for line in listed.split(b"\0")[:-1]:
            about, _, path = line.partition(b"\t")
            tag, mode, identity, _ = about.split(b" ")
            if not is_refused(path):
                tracked[path] = Tracked(Entry(mode, identity.decode()), tag == b"S")
        return tracked

    def _snapshot(
        self,
        others: list[bytes],
        commit: str | None,
        branch: str | None,
        committed: dict[bytes, Entry] | None,
        *,
        stored: frozenset[str] = frozenset(),
        before: Found | None = None,
    ) -> Snapshot:
        aside = self._set_aside(others, new=before is not None)
        paths = [path for path in (*self._tracked, *others) if path not in aside]
        found = self._scan().read(paths, self._tracked, stored=stored, before=before, environ=self._environ)
        return Snapshot(found, aside, self.repository.tree(found.entries), commit, branch, committed)

    def _scan(self) -> Scan:
        return Scan(self.top, self.repository, self._until, self._limits)

    # --- the rules ---------------------------------------------------------------------------------

    def _learn_rules(self) -> list[bytes]:
        """Take the ignore rules as they are now into one list; the untracked files that it leaves."""
        scan = self._scan()
        shared = _small(self._common / "info" / "exclude")
        self._exclude.write_bytes(shared)
        by_git = self._others("--exclude-per-directory=.gitignore")
        candidates = {*self._tracked, *by_git}
        files: dict[bytes, bytes] = {}
        while True:
            found = dict(_rules(scan, candidates, files))
            files |= found
            self._exclude.write_bytes(ignores.combined(shared, files))
            others = self._others()
            # What git leaves out and our list does not stands below rules that leave out themselves.
            extra = set(others).difference(by_git)
            candidates = {folder + b"/.gitignore" for path in extra for folder in _folders(path)}
            if not extra or not found:
                return others

    def _others(self, *more: str) -> list[bytes]:
        """The untracked files that the rules leave; other repositories as one with ``/`` at the end."""
        listed = self.repository.ask(
            "ls-files", "-z", "-o", f"--exclude-from={self._exclude}", *more, worktree=self.top
        )
        return listed.split(b"\0")[:-1]

    def _set_aside(self, others: list[bytes], *, new: bool) -> dict[bytes, Aside]:
        scan = self._scan()
        selfish = set(self._selfish(scan, others)) if new else set()
        aside = {}
        tracked = ((path, self._why_unwanted(path)) for path in self._tracked)
        untracked = ((path, self._why_aside(path, selfish)) for path in others)
        for path, why in (*tracked, *untracked):
            if why:
                status = scan.status(path.rstrip(b"/"))
                aside[path] = Aside(why, signature_of(status) if status else ())
        return aside

    def _why_aside(self, path: bytes, selfish: set[bytes]) -> str | None:
        if path.endswith(b"/"):
            return "repository of its own"
        if is_refused(path):
            return "name"
        selfless = selfish.isdisjoint(_folders(path)) if selfish else True
        return self._why_unwanted(path) or (None if selfless else "ignores itself")

    def _why_unwanted(self, path: bytes) -> str | None:
        if path in self._patch_files:
            return "patch file"
        folders = path.split(b"/")[:-1]
        if not self._scratch.isdisjoint(folders) or path.startswith(self._scratch_paths):
            return "scratch"
        return None

    def _selfish(self, scan: Scan, others: list[bytes]) -> Iterator[bytes]:
        """Folders that came with a ``.gitignore`` for all that is in them."""
        for path in others:
            folder, _, name = path.rpartition(b"/")
            if name == ignores.FILE and folder:
                content = scan.content(path, _RULES_BYTES)
                if content is not None and ignores.ignores_itself(content):
                    yield folder


def top_of(folder: str) -> str:
    """The worktree that `folder` lies in. Raises `TreeUnknown`."""
    top = worktree_of(Path(folder))
    if top is None:
        raise TreeUnknown(f"{folder} is in no git worktree")
    return str(top)


def git_folders(top: str) -> tuple[Path, Path]:
    """The folder of a worktree's own git files, and that of its repository. Raises `TreeUnknown`."""
    link = Path(top, ".git")
    folder = link
    if not link.is_dir():
        pointer = os.fsdecode(_small(link, _POINTER_BYTES)).strip()
        if not pointer.startswith("gitdir:"):
            raise TreeUnknown(f"{link} is no git folder")
        folder = Path(top, pointer.removeprefix("gitdir:").strip())
    if not (folder / "HEAD").exists():
        raise TreeUnknown(f"{folder} is no git folder")
    common = os.fsdecode(_small(folder / "commondir", _POINTER_BYTES)).strip()
    return folder, Path(folder, common) if common else folder


def _object_format(common: Path) -> str:
    config = os.fsdecode(_small(common / "config")).lower()
    for line in config.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "objectformat" and value.strip() in FORMATS:
            return value.strip()
    return "sha1"


def _rules(
    scan: Scan, candidates: Iterable[bytes], known: Mapping[bytes, bytes]
) -> Iterator[tuple[bytes, bytes]]:
    """Folder → rules, of those of the files that hold rules."""
    for path in candidates:
        folder, _, name = path.rpartition(b"/")
        if name == ignores.FILE and folder not in known:
            content = scan.content(path, _RULES_BYTES)
            if content is not None:
                yield folder, content


def _folders(path: bytes) -> Iterator[bytes]:
    """The folders that a path lies in, the top folder not among them."""
    folder = path.rpartition(b"/")[0]
    while folder:
        yield folder
        folder = folder.rpartition(b"/")[0]


def _small(path: Path, limit: int = _RULES_BYTES) -> bytes:
    """The beginning of a file of git's own; empty when there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        return file.read(limit) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


def _copied(source: Path, target: Path) -> bool:
    """Whether there is an index, and a copy of it now."""
    content = _small(source, _INDEX_BYTES)
    if content:
        target.write_bytes(content)
    return bool(content)


def _written_ns(found: Found, path: bytes, scan: Scan) -> int | None:
    """When a file was written; ``None`` for one that is gone by now or cannot be seen."""
    signature = found.signatures.get(path)
    if signature:
        return written_ns_of(signature)
    status = scan.status(path)
    return status.st_mtime_ns if status else None
