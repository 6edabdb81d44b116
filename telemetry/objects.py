"""A private git repository: objects of our own, and git asked such that nothing of a worktree runs.

The repository is a folder of ours with a configuration of ours. Its git sees no configuration, hooks,
filters, attributes or fsmonitor of the worktree, of the account or of the system; objects of the agent's
repository can be lent to one question (`Repository.ask` with `lenders`), which only ever reads them: git
writes to what it was lent, the time of its files, whenever it stores what is there already. So blobs and
trees are stored by this module, and nothing is stored while something is lent.
"""

from __future__ import annotations

import hashlib
import os
import select
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

Until = Callable[[], float]
"""When to stop, by ``time.monotonic``; asked again and again, for a signal may bring it forward."""

FORMATS: Mapping[str, int] = {"sha1": 40, "sha256": 64}
"""Object formats of git, and the length of their ids."""
_POLL_S = 0.05
_CHUNK = 1 << 16
_CONFIG = """[core]
\trepositoryformatversion = {version}
\tbare = true
\tfsmonitor = false
\thooksPath = /dev/null
\tattributesFile = /dev/null
\texcludesFile = /dev/null
\tautocrlf = false
\tignoreCase = false
\tprecomposeUnicode = false
\tsymlinks = true
\tfileMode = true
\tquotePath = true
[extensions]
{format}
"""
_ATTRIBUTES = "* -text -crlf -filter -ident !eol !working-tree-encoding !diff !merge !whitespace !delta\n"
"""Above every .gitattributes: bytes are bytes, and nothing is run for them."""


class TreeUnknown(Exception):
    """What was asked cannot be told; the message is the reason, for the record."""


class Entry(NamedTuple):
    """A file in a tree."""

    mode: bytes
    id: str


Entries = Mapping[bytes, Entry]
"""Path → file. Paths are bytes, as git and the system have them."""

LINK = b"120000"
GITLINK = b"160000"


class Repository:
    """The private repository in `folder`."""

    def __init__(self, folder: Path, search_path: str, object_format: str, until: Until) -> None:
        self.folder = folder
        self.git = folder / "git"
        self.until = until
        self.format = object_format
        self._search_path = search_path
        self._make()

    def _make(self) -> None:
        for name in ("objects/pack", "refs", "info"):
            (self.git / name).mkdir(parents=True)
        sha256 = self.format == "sha256"
        extension = "\tobjectFormat = sha256" if sha256 else ""
        (self.git / "config").write_text(_CONFIG.format(version=int(sha256), format=extension))
        (self.git / "HEAD").write_text("ref: refs/heads/none\n")
        (self.git / "info" / "attributes").write_text(_ATTRIBUTES)

    # --- objects ---------------------------------------------------------------------------------

    def id_of(self, kind: str, content: bytes) -> str:
        """The id of an object."""
        return hashlib.new(self.format, b"%s %d\0" % (kind.encode(), len(content)) + content).hexdigest()

    def put(self, kind: str, content: bytes) -> str:
        """Store an object, unless it is here; its id."""
        identity = self.id_of(kind, content)
        path = self._path(identity)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            whole = b"%s %d\0" % (kind.encode(), len(content)) + content
            partial = path.with_name(f"{path.name}.partial")
            partial.write_bytes(zlib.compress(whole, 1))
            partial.replace(path)
        return identity

    def holds(self, identity: str) -> bool:
        """Whether the object was stored here."""
        return self._path(identity).exists()

    def content(self, identity: str) -> bytes:
        """The content of an object that was stored here."""
        whole = zlib.decompress(self._path(identity).read_bytes())
        return whole[whole.index(b"\0") + 1 :]

    def _path(self, identity: str) -> Path:
        return self.git / "objects" / identity[:2] / identity[2:]

    def tree(self, entries: Entries, *, store: bool = False) -> str:
        """The id of the tree of these files."""
        return self._tree(_nested(entries), self.put if store else self.id_of)

    def _tree(self, node: dict[bytes, object], make: Callable[[str, bytes], str]) -> str:
        lines: list[tuple[bytes, bytes]] = []
        for name, value in node.items():
            if isinstance(value, Entry):
                line = b"%s %s\0" % (value.mode, name) + bytes.fromhex(value.id)
                lines.append((name, line))
            else:
                assert isinstance(value, dict)
                identity = self._tree(value, make)
                lines.append((name + b"/", b"40000 %s\0" % name + bytes.fromhex(identity)))
        return make("tree", b"".join(line for _, line in sorted(lines)))

    # --- git -------------------------------------------------------------------------------------

    def ask(
        self,
        *question: str,
        worktree: str | None = None,
        index: Path | None = None,
        lenders: Sequence[str] = (),
        given: bytes | None = None,
    ) -> bytes:
        """What git prints. Raises `TreeUnknown` when it is missing, refuses or takes too long."""
        pieces: list[bytes] = []
        self._run(question, self._environ(worktree, index, lenders), given, pieces.append, worktree)
        return b"".join(pieces)

    def length(self, *question: str, worktree: str, index: Path, lenders: Sequence[str]) -> int:
        """How many bytes git prints."""
        lengths = [0]

        def count(piece: bytes) -> None:
            lengths[0] += len(piece)

        self._run(question, self._environ(worktree, index, lenders), None, count, worktree)
        return lengths[0]

    def _environ(self, worktree: str | None, index: Path | None, lenders: Sequence[str]) -> dict[str, str]:
        environ = {
            "PATH": self._search_path,
            "LC_ALL": "C",
            "HOME": str(self.git),
            "GIT_DIR": str(self.git),
            "GIT_INDEX_FILE": str(index or self.folder / "index"),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
        }
        if worktree:
            environ["GIT_WORK_TREE"] = worktree
        if lenders:
            environ["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = ":".join(map(_quoted, lenders))
        return environ

    def _run(
        self,
        question: Sequence[str],
        environ: dict[str, str],
        given: bytes | None,
        take: Callable[[bytes], None],
        cwd: str | None,
    ) -> None:
        words = ["git", "--no-pager", *question]
        place = cwd or str(self.git)
        run(words, environ, place, self.folder, given or b"", take, self.until, name=f"git {question[0]}")


def run(
    words: Sequence[str],
    environ: Mapping[str, str],
    cwd: str,
    folder: Path,
    given: bytes,
    take: Callable[[bytes], None],
    until: Until,
    *,
    name: str,
) -> None:
    """Run a program in `cwd` and take what it prints; `folder` is for files of ours meanwhile.

    Raises `TreeUnknown` when it is missing, fails or takes too long; it is gone then.
    """
    with tempfile.TemporaryFile(dir=folder) as said, tempfile.TemporaryFile(dir=folder) as stdin:
        stdin.write(given)
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                words,
                env=environ,
                cwd=cwd,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,  # a key on the terminal is not for it
            )
        except OSError as error:
            raise TreeUnknown(_not_started(words[0], cwd, error)) from error
        _follow(process, name, take, until)
        if process.returncode:
            raise TreeUnknown(f"{name}: {_first_line(said)}")


def _not_started(program: str, cwd: str, error: OSError) -> str:
    if error.filename == cwd:
        return f"the folder {cwd} is gone"
    if isinstance(error, FileNotFoundError):
        return f"{program} is not installed"
    return f"{program} cannot be started: {error.strerror}"


def _follow(process: subprocess.Popen[bytes], name: str, take: Callable[[bytes], None], until: Until) -> None:
    """Read its output to the end, in the time that there is."""
    assert process.stdout
    try:
        while True:
            left = until() - time.monotonic()
            if left <= 0:
                raise TreeUnknown(f"{name} took too long")
            if not select.select([process.stdout], [], [], min(left, _POLL_S))[0]:
                continue
            piece = os.read(process.stdout.fileno(), _CHUNK)
            if not piece:
                break
            take(piece)
        process.wait(max(until() - time.monotonic(), _POLL_S))
    except subprocess.TimeoutExpired:
        raise TreeUnknown(f"{name} took too long") from None
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.kill()
            process.wait()


def check(until: Until) -> None:
    """Raises `TreeUnknown` when the time is over."""
    if time.monotonic() > until():
        raise TreeUnknown("reading the files took too long")


def _nested(entries: Entries) -> dict[bytes, object]:
    root: dict[bytes, object] = {}
    for path, entry in entries.items():
        *folders, name = path.split(b"/")
        node = root
        for folder in folders:
            inner = node.setdefault(folder, {})
            if not isinstance(inner, dict):
                raise TreeUnknown(f"{shown(path)} lies in a file")
            node = inner
        node[name] = entry
    return root


def shown(path: bytes) -> str:
    """A path as text; what is no UTF-8 is escaped."""
    return path.decode("utf-8", "backslashreplace")


def _quoted(folder: str) -> str:
    escaped = folder.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _first_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read(_CHUNK).decode("utf-8", "replace").strip().splitlines()
    return lines[0] if lines else "failed"
