"""The patch between two moments of a worktree, and the facts about it.

Promises, each a test in ``tests/test_difference.py``:

* The patch is what git makes of the two trees: full ids, binary files included, no renames, so that
  ``git apply`` gives the files of the end on those of the start. That it does so is tried each time.
* Only what changed is looked at, in a repository of our own that nothing is lent to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from telemetry.objects import GITLINK, LINK, Entries, Entry, Repository, TreeUnknown, run, shown
from telemetry.scan import Signature, size_of
from telemetry.tree import Snapshot

_DIFF = (
    *("diff-tree", "-r", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color", "--full-index"),
    *("--diff-algorithm=myers", "--no-indent-heuristic", "--submodule=short", "--ignore-submodules=none"),
)
_PARSE_LIMIT_S = 5.0
_PYTHON = (b".py", b".pyi")


class Excess(NamedTuple):
    """A changed file beyond the limits."""

    path: bytes
    size: int | None


class Difference(NamedTuple):
    """What changed from one moment to another."""

    base: str
    """Id of the tree of the changed files as they were; not of all files."""
    end: str
    patch: bytes
    files: list[dict[str, Any]]
    added: int
    removed: int
    applies: bool | None
    applies_reason: str | None
    applies_to_commit: bool | None


def excess(start: Snapshot, end: Snapshot) -> list[Excess]:
    """Changed files that were not read at the start or at the end."""
    before, after = start.found.unread, end.found.unread
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return [Excess(path, _size(after.get(path) or before.get(path))) for path in changed]


def left_out(start: Snapshot, end: Snapshot) -> list[tuple[bytes, str]]:
    """Changed files that are set aside, and why."""
    before, after = start.aside, end.aside
    return [
        (path, (after.get(path) or before[path]).why)
        for path in sorted(before.keys() | after.keys())
        if path not in before or path not in after or before[path].signature != after[path].signature
    ]


def between(
    repository: Repository, start: Snapshot, end: Snapshot, lenders: list[str], without: Iterable[bytes] = ()
) -> Difference:
    """The difference, `without` some paths. Raises `TreeUnknown`."""
    before, after = start.found.entries, end.found.entries
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    changed.difference_update(without)
    ids = [_part(before, changed), _part(after, changed)]
    _take(repository, [entry for entries in ids for entry in entries.values()], lenders)
    base, last = (repository.tree(entries, store=True) for entries in ids)
    patch = repository.ask(*_DIFF, "-p", "--binary", base, last)
    files = _files(repository, base, last, *ids)
    applies, reason = _applies(repository, base, last, patch)
    return Difference(
        base=base,
        end=last,
        patch=patch,
        files=files,
        added=sum(file.get("added") or 0 for file in files),
        removed=sum(file.get("removed") or 0 for file in files),
        applies=applies,
        applies_reason=reason,
        applies_to_commit=_applies_to(repository, start, changed, patch, lenders),
    )


def effect(repository: Repository, base: str, patch: bytes) -> str:
    """The tree that a patch makes of `base`. Raises `TreeUnknown` when git refuses it."""
    index = repository.folder / "index.effect"
    repository.ask("read-tree", base, index=index)
    repository.ask("apply", "--cached", "--whitespace=nowarn", "-", index=index, given=patch)
    return repository.ask("write-tree", index=index).decode().strip()


# --- objects --------------------------------------------------------------------------------------


def _part(entries: Entries, paths: Iterable[bytes]) -> dict[bytes, Entry]:
    return {path: entries[path] for path in paths if path in entries}


def _take(repository: Repository, entries: Iterable[Entry], lenders: list[str]) -> None:
    """Store what the entries name and is so far in the agent's repository alone."""
    wanted = {entry.id for entry in entries if entry.mode != GITLINK and not repository.holds(entry.id)}
    if not wanted:
        return
    order = "".join(f"{identity}\n" for identity in sorted(wanted)).encode()
    answer = repository.ask("cat-file", "--batch", lenders=lenders, given=order)
    for kind, content in _objects(answer):
        wanted.discard(repository.put(kind, content))
    if wanted:
        raise TreeUnknown(f"{len(wanted)} objects of the start are gone from the agent's repository")


def _objects(answer: bytes) -> Iterable[tuple[str, bytes]]:
    """The objects that ``git cat-file --batch`` printed; those that are missing are left out."""
    position = 0
    while position < len(answer):
        newline = answer.index(b"\n", position)
        words = answer[position:newline].split(b" ")
        position = newline + 1
        if len(words) == 3 and words[2].isdigit():
            size = int(words[2])
            yield words[1].decode(), answer[position : position + size]
            position += size + 1


# --- files ----------------------------------------------------------------------------------------


def _files(
    repository: Repository, base: str, last: str, before: Entries, after: Entries
) -> list[dict[str, Any]]:
    counts = _counts(repository.ask(*_DIFF, "--numstat", "-z", base, last))
    layout = _counts(repository.ask(*_DIFF, "--numstat", "-z", "-w", "--ignore-blank-lines", base, last))
    files = {
        path: _file(path, before.get(path), after.get(path), counts.get(path))
        for path in sorted(before.keys() | after.keys())
    }
    for path, file in files.items():
        is_text = file["status"] == "M" and "binary" not in file and "mode" not in file
        if is_text and sum(layout.get(path) or (0, 0)) == 0 and counts.get(path):
            file["only"] = "whitespace"
    _look_at_python(repository, files, before, after)
    return list(files.values())


def _file(
    path: bytes, old: Entry | None, new: Entry | None, counts: tuple[int, int] | None
) -> dict[str, Any]:
    file: dict[str, Any] = {"path": shown(path), "status": _status(old, new)}
    if counts is None:
        file["binary"] = True
    else:
        file["added"], file["removed"] = counts
    if old and new and old.mode != new.mode:
        file["mode"] = [old.mode.decode(), new.mode.decode()]
    elif (old or new or Entry(b"", "")).mode in (LINK, GITLINK, b"100755"):
        file["mode"] = [entry.mode.decode() if entry else None for entry in (old, new)]
    return file


def _status(old: Entry | None, new: Entry | None) -> str:
    if old is None or new is None:
        return "A" if old is None else "D"
    return "M" if old.mode[:2] == new.mode[:2] else "T"


def _counts(printed: bytes) -> dict[bytes, tuple[int, int] | None]:
    """Path → lines added and removed, or ``None`` for a binary file."""
    counts: dict[bytes, tuple[int, int] | None] = {}
    for line in printed.split(b"\0")[:-1]:
        added, removed, path = line.split(b"\t", 2)
        counts[path] = None if added == b"-" else (int(added), int(removed))
    return counts


def _look_at_python(
    repository: Repository, files: Mapping[bytes, dict[str, Any]], before: Entries, after: Entries
) -> None:
    paths = [
        path
        for path, file in files.items()
        if path.endswith(_PYTHON) and path in after and after[path].mode not in (LINK, GITLINK)
    ]
    asked = [
        {side: _base64(repository, entries.get(path)) for side, entries in _sides(before, after)}
        for path in paths
    ]
    for path, said in zip(paths, _parsed(repository, asked), strict=True):
        same = said.pop("same", None)
        files[path].update(said)
        if files[path]["status"] != "M" or "mode" in files[path]:
            continue
        if same:
            files[path].setdefault("only", "comments")
        else:
            files[path].pop("only", None)  # in Python, whitespace can be a change


def _sides(before: Entries, after: Entries) -> tuple[tuple[str, Entries], ...]:
    return ("before", before), ("after", after)


def _base64(repository: Repository, entry: Entry | None) -> str | None:
    return base64.b64encode(repository.content(entry.id)).decode() if entry else None


def _parsed(repository: Repository, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the parser says of each; nothing when it died or took too long."""
    if not asked:
        return []
    words = [sys.executable, "-I", str(Path(__file__).with_name("syntax.py"))]
    last = time.monotonic() + _PARSE_LIMIT_S
    pieces: list[bytes] = []
    try:
        run(
            words,
            {"PATH": os.defpath},
            str(repository.folder),
            repository.folder,
            json.dumps(asked).encode(),
            pieces.append,
            lambda: min(last, repository.until()),
            name="the parser",
        )
        said: list[dict[str, Any]] = json.loads(b"".join(pieces))
    except (TreeUnknown, ValueError):
        return [{} for _ in asked]
    return said


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def parser_version() -> str:
    """Version of the Python whose parser is asked."""
    return platform.python_version()


# --- applying -------------------------------------------------------------------------------------


def _applies(repository: Repository, base: str, last: str, patch: bytes) -> tuple[bool | None, str | None]:
    if not patch:
        return None, "the patch is empty"
    try:
        made = effect(repository, base, patch)
    except TreeUnknown as error:
        return False, str(error)
    return (True, None) if made == last else (False, "it makes other files than those of the end")


def _applies_to(
    repository: Repository, start: Snapshot, changed: Iterable[bytes], patch: bytes, lenders: list[str]
) -> bool | None:
    """Whether it applies to the commit of the start as well, without what was uncommitted then."""
    if start.committed is None or not patch:
        return None
    part = _part(start.committed, changed)
    try:
        _take(repository, part.values(), lenders)
        effect(repository, repository.tree(part, store=True), patch)
    except TreeUnknown as error:
        return None if "too long" in str(error) else False
    return True


def _size(signature: Signature | None) -> int | None:
    return size_of(signature) if signature else None
