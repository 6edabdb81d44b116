"""The ignore rules of a worktree as one list, so that they can be kept when the agent edits them.

Git reads ``.gitignore`` in every folder, the deepest one counting most, each pattern relative to its
folder. As one list they are anchored to the top folder, and stand in the order of their depth, since in
one list the last pattern that matches counts. (gitignore(5).)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

FILE = b".gitignore"
_SPECIAL = re.compile(rb"([\\*?\[\]])")
_BOM = b"\xef\xbb\xbf"


def combined(shared: bytes, files: Mapping[bytes, bytes]) -> bytes:
    """One list of rules: `shared` of the repository, and folder → content of its ``.gitignore``."""
    lines = _lines(shared)
    for folder in sorted(files, key=lambda folder: (folder.count(b"/") + bool(folder), folder)):
        if b"\n" not in folder:  # no line of the list can name such a folder
            lines += [anchored(line, folder) for line in _lines(files[folder])]
    return b"\n".join(lines) + b"\n"


def anchored(line: bytes, folder: bytes) -> bytes:
    """A pattern of the ``.gitignore`` in `folder` (empty: the top) as one of the top folder."""
    if not folder:
        return line
    negation, pattern = (b"!", line[1:]) if line.startswith(b"!") else (b"", line)
    base = b"/" + _SPECIAL.sub(rb"\\\1", folder) + b"/"
    if b"/" in pattern.rstrip(b" ").removesuffix(b"/"):
        return negation + base + pattern.removeprefix(b"/")
    return negation + base + b"**/" + pattern


def ignores_itself(content: bytes) -> bool:
    """Whether a ``.gitignore`` leaves out its whole folder, as those that tools put into their caches do."""
    return [line.strip() for line in _lines(content) if line.strip()] == [b"*"]


def _lines(content: bytes) -> list[bytes]:
    lines = (line.removesuffix(b"\r") for line in content.removeprefix(_BOM).split(b"\n"))
    return [line for line in lines if line and not line.startswith(b"#")]
