"""The patch turns the files of the start into those of the end, and the facts about it are true."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry import difference, syntax
from tests.worktrees import GIT, Look, commit, git, laid_out, put, repository


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return repository(tmp_path / "work")


@pytest.fixture
def look(top: Path, tmp_path: Path) -> Look:
    return Look(top, tmp_path / "own")


def files_of(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """Path → mode and content, of everything but git's own."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if name.partition("/")[0] == ".git":
            continue
        if path.is_symlink():
            found[name] = (0o120000, str(path.readlink()))
        elif path.is_file():
            found[name] = (path.stat().st_mode & 0o100, path.read_bytes())
    return found


NAMES = st.sampled_from(
    ["a.py", "pkg/b.py", "data.bin", "x", "x/y", "x/y/z", "sp ace", 'q"uote', "ü/é", "-n", ".gitattributes"]
)
CONTENTS = st.one_of(
    st.binary(max_size=40),
    st.text(st.sampled_from("ab \t\r\n+-@\\"), max_size=60).map(str.encode),
    st.sampled_from(
        [b"", b"\n", b"one = 1\ntwo = 2\nthree = 3", b"* text=auto eol=crlf\n", b"diff --git a/x b/x\n"]
    ),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), NAMES, CONTENTS),
        st.tuples(st.just("remove"), NAMES, st.just(b"")),
        st.tuples(st.just("link"), NAMES, st.sampled_from([b"a.py", b"/etc/passwd", b"../..", b"x"])),
        st.tuples(st.just("mode"), NAMES, st.just(b"")),
        st.tuples(st.just("commit"), NAMES, st.just(b"")),
        st.tuples(st.just("stage"), NAMES, st.just(b"")),
    ),
    max_size=8,
)


def take(folder: Path, step: tuple[str, str, bytes]) -> None:
    kind, name, content = step
    path = folder / name
    inside = all(
        parent.is_dir() and not parent.is_symlink() for parent in path.parents if folder in parent.parents
    )
    if kind == "commit":
        commit(folder)
    elif kind == "stage":
        git(folder, "add", "-A")
    elif kind == "mode" and inside and path.is_file() and not path.is_symlink():
        path.chmod(path.stat().st_mode ^ 0o111)
    elif kind == "remove" and inside and os.path.lexists(path):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    elif kind in ("write", "link"):
        for parent in [*reversed(path.parents), path]:
            if (
                folder in parent.parents
                and os.path.lexists(parent)
                and (parent.is_symlink() or not parent.is_dir())
            ):
                parent.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.write_bytes(content) if kind == "write" else path.symlink_to(os.fsdecode(content))


@settings(max_examples=40)
@given(before=STEPS, during=STEPS)
def test_the_patch_makes_the_files_of_the_end_from_those_of_the_start(before: Any, during: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = repository(Path(place, "work"))
        for step in before:
            take(folder, step)
        look = Look(folder, Path(place, "own"))
        copy = laid_out(look.worktree, look.start, Path(place, "copy"))
        assert files_of(copy) == files_of(folder)
        for step in during:
            take(folder, step)
        found = look.difference()
        assert (found.applies, bool(found.files)) == ((True, True) if found.patch else (None, False))
        if found.patch:
            command = ["git", "apply", "--whitespace=nowarn"]
            subprocess.run(command, input=found.patch, cwd=copy, env=GIT, check=True, capture_output=True)
        assert files_of(copy) == files_of(folder)


def test_a_patch_is_what_git_prints_of_the_same_change(top: Path, look: Look) -> None:
    put(top, "a.py", b"one = 1\ntwo = 22\nthree = 3\n")
    put(top, "data.bin", b"\0other")
    by_git = git(top, "diff", "--binary", "--full-index")
    found = look.difference()
    assert found.patch == by_git
    assert (found.added, found.removed) == (1, 1)
    assert found.files == [
        {"path": "a.py", "status": "M", "added": 1, "removed": 1, "parses": True},
        {"path": "data.bin", "status": "M", "binary": True},
    ]


def test_a_patch_on_uncommitted_changes_may_not_apply_to_the_commit(top: Path, tmp_path: Path) -> None:
    put(top, "a.py", b"other = 0\ntwo = 2\nthree = 3\n")
    look = Look(top, tmp_path / "own")
    put(top, "a.py", b"other = 0\ntwo = 3\nthree = 3\n")
    found = look.difference()
    assert (found.applies, found.applies_to_commit) == (True, False)


def test_a_patch_on_a_clean_worktree_applies_to_its_commit(top: Path, look: Look) -> None:
    put(top, "a.py", b"other\n")
    assert look.difference().applies_to_commit


def test_an_empty_patch_is_neither_applied_nor_refused(look: Look) -> None:
    found = look.difference()
    assert (found.patch, found.files, found.applies) == (b"", [], None)


PYTHON = {
    b"one = 1  # new\ntwo = 2\nthree = 3\n": {"only": "comments", "parses": True},
    b"one  =  1\ntwo = 2\n\n\nthree = 3\n": {"only": "whitespace", "parses": True},
    b"one = 1\ntwo = 2\nthree = 4\n": {"parses": True},
    b"if one = 1\n": {"parses": False, "parse_error": "SyntaxError: "},
    b"x = '\0'\n": {"parses": False, "parse_error": "SyntaxError: "},
    b"(" * 5000: {"parses": False, "parse_error": ""},
}


@pytest.mark.parametrize("content", list(PYTHON))
def test_changed_python_files_are_parsed(top: Path, look: Look, content: bytes) -> None:
    put(top, "a.py", content)
    (file,) = look.difference().files
    expected = dict(PYTHON[content])
    message = file.pop("parse_error", None)
    start = expected.pop("parse_error", None)
    assert {name: file[name] for name in ("only", "parses") if name in file} == expected
    assert (message is None) == (start is None)
    assert message is None or start is None or message.startswith(str(start))


def test_whitespace_that_changes_python_code_is_a_change(top: Path, tmp_path: Path) -> None:
    put(top, "a.py", b"if x:\n    y()\n    z()\n")
    commit(top)
    look = Look(top, tmp_path / "own")
    put(top, "a.py", b"if x:\n    y()\nz()\n")
    put(top, "notes.txt", b"x")
    assert "only" not in look.difference().files[0]


def test_whitespace_in_other_files_is_told(top: Path, tmp_path: Path) -> None:
    put(top, "a.c", b"int x;\n")
    commit(top)
    look = Look(top, tmp_path / "own")
    put(top, "a.c", b"int   x;\n\n")
    assert look.difference().files[0]["only"] == "whitespace"


def test_a_parser_that_dies_leaves_the_question_open(
    top: Path, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "syntax.py").write_text("import os; os.kill(os.getpid(), 11)\n")
    monkeypatch.setattr(difference, "__file__", str(tmp_path / "difference.py"))
    put(top, "a.py", b"x = 1\n")
    (file,) = look.difference().files
    assert "parses" not in file


def test_a_new_file_is_parsed_and_a_deleted_one_is_not() -> None:
    import base64

    text = base64.b64encode(b"x = 1").decode()
    assert syntax.judged([{"before": None, "after": text}, {"before": text, "after": None}]) == [
        {"parses": True, "same": False},
        {},
    ]


def test_another_patch_of_the_same_effect_is_known(top: Path, look: Look) -> None:
    put(top, "a.py", b"one = 1\ntwo = 22\nthree = 3\n")
    found = look.difference()
    other = git(top, "diff", "--unified=0", "--no-prefix", "--src-prefix=a/", "--dst-prefix=b/")
    stored = look.worktree.repository
    assert other != found.patch
    minimal = git(top, "diff", "--unified=1")
    assert difference.effect(stored, found.base, minimal) == found.end
