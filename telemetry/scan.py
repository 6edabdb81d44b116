"""Files as they lie on the disk, read without following a link and without trusting a name."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from telemetry.identity import GIT_LIMIT_S, Git
from telemetry.objects import GITLINK, LINK, Entry, Repository, Until, check

Signature = tuple[int, ...]
"""Mode, size, times and number of a file: where they are the same, its content is the same."""

_RACY_NS = 100_000_000
"""A file that changed this shortly before it was read may change again and show the same times."""
_STEP = 128
_CHUNK = 1 << 20
_DOT_GIT = re.compile(rb"(?i)(?:\.git|git~1)[ .]*(?::.*)?")
"""What git takes for ``.git`` on some system, and refuses in a tree."""

_ODD = re.compile(rb"(?i)\.git|git~1|//|^/|/$|(?:^|/)\.\.?(?:/|$)")
"""What a path has that may be refused; few have it."""


class Limits(NamedTuple):
    """How much is read."""

    file_bytes: int = 5 << 20
    total_bytes: int = 50 << 20
    """Of all files together that are not in the repository anyway."""


class Tracked(NamedTuple):
    """A file that the index names."""

    entry: Entry
    is_sparse: bool
    """Left out of the worktree on purpose."""


class Found(NamedTuple):
    """What was found on the disk."""

    entries: dict[bytes, Entry]
    signatures: dict[bytes, Signature]
    unread: dict[bytes, Signature]
    """Files beyond the limits, or that must not be read. One that is tracked is in `entries` as tracked."""


class Scan:
    """One look at files of the worktree at `top`."""

    def __init__(self, top: str, repository: Repository, until: Until, limits: Limits) -> None:
        self._top = os.fsencode(top)
        self._repository = repository
        self._until = until
        self._limits = limits
        self._left = limits.total_bytes
        self._folders: dict[bytes, bool] = {b"": True}
        self.found = Found({}, {}, {})

    def read(
        self,
        paths: Iterable[bytes],
        tracked: Mapping[bytes, Tracked],
        *,
        stored: frozenset[str] = frozenset(),
        before: Found | None = None,
        environ: Mapping[str, str],
    ) -> Found:
        """Read the files. Contents are stored unless their ids are among `stored` or as they were `before`.

        Raises `TreeUnknown` when the time is over.
        """
        for number, path in enumerate(paths):
            if number % _STEP == 0:
                check(self._until)
            known = tracked.get(path)
            if known and known.entry.mode == GITLINK:
                self.found.entries[path] = self._submodule(path, known.entry, environ)
                continue
            status = self.status(path)
            if status is None:
                if known and known.is_sparse:
                    self.found.entries[path] = known.entry
            elif stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
                self._file(path, status, known, stored, before)
        return self.found

    def status(self, path: bytes) -> os.stat_result | None:
        """What is there; ``None`` also when a link leads there."""
        if not self._is_inside(path.rpartition(b"/")[0]):
            return None
        try:
            return os.lstat(self._at(path))
        except OSError:
            return None

    def content(self, path: bytes, limit: int) -> bytes | None:
        """The content of a file; ``None`` when it is none, is longer or must not be read."""
        status = self.status(path)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        return self._content(path, limit)

    def _at(self, path: bytes) -> bytes:
        return self._top + b"/" + path

    def _is_inside(self, folder: bytes) -> bool:
        """Whether no part of the way to a folder is a link."""
        known = self._folders.get(folder)
        if known is None:
            known = self._is_inside(folder.rpartition(b"/")[0])
            try:
                known = known and stat.S_ISDIR(os.lstat(self._at(folder)).st_mode)
            except OSError:
                known = False
            self._folders[folder] = known
        return known

    def _file(
        self,
        path: bytes,
        status: os.stat_result,
        known: Tracked | None,
        stored: frozenset[str],
        before: Found | None,
    ) -> None:
        signature = signature_of(status)
        was = before.entries.get(path) if before else None
        if before and was and before.signatures.get(path) == signature:
            self._note(path, was, signature)
            return
        if before and before.unread.get(path) == signature:
            self._unread(path, signature, was)
            return
        link = stat.S_ISLNK(status.st_mode)
        content = self._link(path) if link else self._content(path, self._limits.file_bytes)
        entry = self._stored(content, _mode(status), stored, was) if content is not None else None
        if entry is None:
            self._unread(path, signature, known.entry if known else None)
        else:
            racy = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _RACY_NS
            self._note(path, entry, None if racy else signature)

    def _note(self, path: bytes, entry: Entry, signature: Signature | None) -> None:
        self.found.entries[path] = entry
        if signature is not None:
            self.found.signatures[path] = signature

    def _unread(self, path: bytes, signature: Signature, entry: Entry | None) -> None:
        self.found.unread[path] = signature
        if entry is not None:
            self.found.entries[path] = entry

    def _stored(self, content: bytes, mode: bytes, stored: frozenset[str], was: Entry | None) -> Entry | None:
        """The entry of a file, its content stored where it must be; ``None`` when that is too much."""
        identity = self._repository.id_of("blob", content)
        if identity not in stored and (was is None or was.id != identity):
            if len(content) > self._left:
                return None
            self._left -= len(content)
            self._repository.put("blob", content)
        return Entry(mode, identity)

    def _link(self, path: bytes) -> bytes | None:
        try:
            return os.readlink(self._at(path))  # noqa: PTH115 - bytes
        except OSError:
            return None

    def _content(self, path: bytes, limit: int) -> bytes | None:
        try:
            descriptor = os.open(self._at(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None  # it may not be read, or is gone
        try:
            return _read(descriptor, limit)
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _submodule(self, path: bytes, known: Entry, environ: Mapping[str, str]) -> Entry:
        """The commit that a submodule stands at; as the index has it where it is not checked out."""
        if self.status(path + b"/.git") is None:
            return known
        left = min(max(self._until() - time.monotonic(), 0.0), GIT_LIMIT_S)
        head = Git(os.fsdecode(self._at(path)), environ, limit_s=left).head()
        return Entry(GITLINK, head) if head and len(head) == len(known.id) else known


def _read(descriptor: int, limit: int) -> bytes | None:
    """The content of a file; ``None`` when it is no file, or longer."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
        return None
    content = os.read(descriptor, status.st_size + 1)
    while len(content) <= limit and (more := os.read(descriptor, _CHUNK)):
        content += more
    return content if len(content) <= limit else None


def signature_of(status: os.stat_result) -> Signature:
    """What tells that a file is untouched."""
    return (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def size_of(signature: Signature) -> int:
    """The size in a signature, in bytes."""
    return signature[1]


def written_ns_of(signature: Signature) -> int:
    """The time in a signature at which the content was written, in nanoseconds since 1970."""
    return signature[2]


def is_refused(path: bytes) -> bool:
    """Whether git refuses such a path in a tree."""
    if not _ODD.search(path):
        return False
    if any(part in (b"", b".", b"..") for part in path.split(b"/")):
        return True
    return any(_DOT_GIT.fullmatch(part) for part in re.split(rb"[/\\]", path))


def _mode(status: os.stat_result) -> bytes:
    if stat.S_ISLNK(status.st_mode):
        return LINK
    return b"100755" if status.st_mode & stat.S_IXUSR else b"100644"
