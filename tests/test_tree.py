"""The tree of a worktree is what lies there, and nothing of the worktree runs or changes meanwhile."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from telemetry import scan
from telemetry.difference import excess
from telemetry.objects import TreeUnknown
from telemetry.tree import top_of
from tests.worktrees import Look, commit, git, put, repository, small_limits


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return repository(tmp_path / "work")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "own"


def contents(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything below a folder, with times, modes and contents."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_ctime_ns, content)
    return found


# --- what is in it --------------------------------------------------------------------------------


def test_a_clean_worktree_has_the_tree_of_its_commit(top: Path, own: Path) -> None:
    start = Look(top, own).start
    assert start.tree == git(top, "rev-parse", "HEAD^{tree}").decode().strip()
    assert start.commit == git(top, "rev-parse", "HEAD").decode().strip()
    assert (start.branch, start.aside, start.found.unread) == ("main", {}, {})


def test_what_is_not_committed_is_in_the_tree_as_git_itself_would_commit_it(top: Path, own: Path) -> None:
    put(top, "a.py", b"changed\n")
    put(top, "new/deep/file", b"\0\xff binary")
    put(top, "staged", b"staged\n")
    git(top, "add", "staged")
    (top / "pkg" / "b.py").unlink()
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    (top / "link").symlink_to("/etc/passwd")
    put(top, "build/out.o", b"ignored")
    start = Look(top, own).start
    commit(top)
    assert start.tree == git(top, "rev-parse", "HEAD^{tree}").decode().strip()


def test_commits_and_loose_changes_are_one_change(top: Path, own: Path) -> None:
    look = Look(top, own)
    put(top, "a.py", b"committed\n")
    new = commit(top, "agent's work")
    put(top, "pkg/b.py", b"not committed\n")
    put(top, "c.py", b"untracked\n")
    assert look.changed() == {"a.py": "M", "pkg/b.py": "M", "c.py": "A"}
    assert look.last and look.last.commit == new
    history = look.worktree.history(look.start, look.last, 10)
    assert history == ([(new, b"agent's work")], 1)


def test_a_plain_diff_shows_nothing_of_what_was_committed(top: Path, own: Path) -> None:
    look = Look(top, own)
    put(top, "a.py", b"changed\n")
    shown = len(git(top, "diff"))
    assert look.worktree.plain_diff_bytes() == shown > 0
    commit(top)
    assert look.worktree.plain_diff_bytes() == 0


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "tab\there",
        "new\nline",
        '"quoted"',
        "back\\slash",
        "-dash",
        ":(glob)*",
        "ünïcode",
        " ",
        "*",
        "[a]",
    ],
)
def test_names_of_any_characters_are_kept(top: Path, own: Path, name: str) -> None:
    put(top, f"at start/{name}", b"1")
    look = Look(top, own)
    put(top, f"at start/{name}", b"2")
    put(top, f"{name}/inside", b"3")
    difference = look.difference()
    assert [file["status"] for file in difference.files] == ["M", "A"] if name > "at" else ["A", "M"]
    assert difference.applies


def test_names_that_are_no_text_are_kept(top: Path, own: Path) -> None:
    look = Look(top, own)
    (Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe"))).write_bytes(b"x")
    assert look.changed() == {"\\xff\\xfe": "A"}


def test_a_submodule_is_the_commit_that_it_stands_at(top: Path, own: Path, tmp_path: Path) -> None:
    other = repository(tmp_path / "other")
    git(top, "submodule", "--quiet", "add", str(other), "sub")
    commit(top)
    look = Look(top, own)
    assert look.start.tree == git(top, "rev-parse", "HEAD^{tree}").decode().strip()
    put(top / "sub", "more", b"x")
    commit(top / "sub")
    difference = look.difference()
    assert [(file["path"], file["status"]) for file in difference.files] == [("sub", "M")]
    assert b"Subproject commit" in difference.patch


def test_mode_and_kind_of_a_file_are_changes(top: Path, own: Path) -> None:
    look = Look(top, own)
    (top / "a.py").chmod(0o755)
    (top / "pkg" / "b.py").unlink()
    (top / "pkg" / "b.py").symlink_to("../a.py")
    found = {file["path"]: (file["status"], file["mode"]) for file in look.difference().files}
    assert found == {"a.py": ("M", ["100644", "100755"]), "pkg/b.py": ("T", ["100644", "120000"])}


def test_a_file_that_became_a_folder_and_a_folder_that_became_a_file(top: Path, own: Path) -> None:
    look = Look(top, own)
    (top / "a.py").unlink()
    put(top, "a.py/inside", b"x")
    shutil.rmtree(top / "pkg")
    put(top, "pkg", b"y")
    difference = look.difference()
    assert sorted((file["path"], file["status"]) for file in difference.files) == [
        ("a.py", "D"), ("a.py/inside", "A"), ("pkg", "A"), ("pkg/b.py", "D"),
    ]  # fmt: skip
    assert difference.applies


def test_a_file_that_is_touched_and_not_changed_is_no_change(top: Path, own: Path) -> None:
    look = Look(top, own)
    os.utime(top / "a.py", (1, 1))
    (top / "pkg" / "b.py").write_bytes((top / "pkg" / "b.py").read_bytes())
    assert look.changed() == {}


def test_a_file_of_the_same_size_and_time_is_still_a_change(
    top: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_RACY_NS", 0)
    before = (top / "a.py").stat()
    look = Look(top, own)
    assert b"a.py" in look.start.found.signatures
    (top / "a.py").write_bytes(b"x" * before.st_size)
    os.utime(top / "a.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert look.changed() == {"a.py": "M"}


def test_a_file_is_read_again_if_it_changed_just_before_it_was_read(
    top: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_RACY_NS", 10**18)
    assert Look(top, own).start.found.signatures == {}


def test_an_untouched_file_is_not_read_again(top: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_RACY_NS", 0)
    look = Look(top, own)
    monkeypatch.setattr(scan, "_read", lambda *_: None)
    end = look.end()
    assert (end.tree, end.found.unread) == (look.start.tree, {})


# --- worktrees of every kind ----------------------------------------------------------------------


def linked(top: Path, tmp_path: Path) -> Path:
    git(top, "worktree", "add", "-q", "-b", "agent/task/12345678", str(tmp_path / "linked"))
    return tmp_path / "linked"


def fresh(top: Path, tmp_path: Path) -> Path:
    """As ISO-Bench makes it: the link to the repository removed, a new one with one commit in its place."""
    folder = linked(top, tmp_path)
    (folder / ".git").unlink()
    git(folder, "init", "-q")
    commit(folder, "Initial state")
    return folder


def reused(top: Path, tmp_path: Path) -> Path:
    """An earlier attempt left commits and changes."""
    folder = linked(top, tmp_path)
    put(folder, "earlier", b"committed")
    commit(folder, "an earlier attempt")
    put(folder, "a.py", b"left over\n")
    put(folder, "rest", b"left over\n")
    return folder


def detached(top: Path, tmp_path: Path) -> Path:
    git(top, "checkout", "-q", "--detach")
    return top


def of_sha256(top: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "sha256"
    folder.mkdir()
    git(folder, "init", "-q", "--object-format=sha256")
    put(folder, "a.py", b"one = 1\n")
    commit(folder)
    return folder


def without_commit(top: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "unborn"
    folder.mkdir()
    git(folder, "init", "-q")
    put(folder, "a.py", b"one = 1\n")
    return folder


def split_index(top: Path, tmp_path: Path) -> Path:
    git(top, "update-index", "--split-index")
    return top


def shallow(top: Path, tmp_path: Path) -> Path:
    commit(top)
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{top}", "shallow")
    return tmp_path / "shallow"


def lent(top: Path, tmp_path: Path) -> Path:
    git(tmp_path, "clone", "-q", "--shared", str(top), "lent")
    return tmp_path / "lent"


KINDS = [linked, fresh, reused, detached, of_sha256, without_commit, split_index, shallow, lent]


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_this_run_changed_is_the_change(
    top: Path, own: Path, tmp_path: Path, kind: Callable[[Path, Path], Path]
) -> None:
    folder = kind(top, tmp_path)
    look = Look(folder, own)
    assert look.changed() == {}
    put(folder, "a.py", b"one = 2\n")
    new = commit(folder, "agent's")
    put(folder, "c.py", b"c = 1\n")
    difference = look.difference()
    assert {file["path"]: file["status"] for file in difference.files} == {"a.py": "M", "c.py": "A"}
    assert difference.applies
    assert look.last
    assert look.worktree.history(look.start, look.last, 5).commits[0] == (new, b"agent's")
    if kind is not without_commit:
        assert look.worktree.history(look.start, look.last, 5).total == 1


def test_a_branch_is_told_and_a_detached_head_has_none(top: Path, own: Path, tmp_path: Path) -> None:
    assert Look(linked(top, tmp_path), own).start.branch == "agent/task/12345678"
    assert Look(detached(top, tmp_path), tmp_path / "own2").start.branch is None


def test_files_of_a_sparse_checkout_are_not_deleted(top: Path, own: Path) -> None:
    git(top, "sparse-checkout", "set", "--no-cone", "/*", "!/pkg/")
    assert not (top / "pkg").exists()
    look = Look(top, own)
    assert look.start.tree == git(top, "rev-parse", "HEAD^{tree}").decode().strip()
    assert look.changed() == {}


def test_an_agent_that_makes_the_repository_anew_hides_nothing(top: Path, own: Path, tmp_path: Path) -> None:
    folder = linked(top, tmp_path)
    look = Look(folder, own)
    (folder / ".git").unlink()
    git(folder, "init", "-q")
    put(folder, "a.py", b"new\n")
    commit(folder)
    assert look.changed() == {"a.py": "M"}


def test_objects_that_the_agent_destroyed_leave_the_patch_unknown(top: Path, own: Path) -> None:
    look = Look(top, own)
    shutil.rmtree(top / ".git")
    put(top, "new", b"x")
    assert look.changed() == {"new": "A"}
    put(top, "a.py", b"changed\n")
    with pytest.raises(TreeUnknown, match="1 objects of the start are gone"):
        look.changed()


def test_a_folder_without_worktree_has_no_tree(tmp_path: Path) -> None:
    with pytest.raises(TreeUnknown, match="in no git worktree"):
        top_of(str(tmp_path))


def test_without_git_the_tree_is_unknown(top: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(own / "nothing"))
    with pytest.raises(TreeUnknown, match="git is not installed"):
        Look(top, own)


def test_a_folder_that_is_no_repository_after_all_has_no_tree(tmp_path: Path) -> None:
    put(tmp_path, ".git", b"gitdir: nowhere\n")
    with pytest.raises(TreeUnknown, match="is no git folder"):
        Look(tmp_path, tmp_path / "own")


# --- what is left out -----------------------------------------------------------------------------


def test_ignore_rules_are_those_of_the_start(top: Path, own: Path) -> None:
    put(top, "build/old", b"1")
    look = Look(top, own)
    put(top, ".gitignore", b"*.py\n")
    put(top, "build/old", b"2")
    put(top, "build/new", b"3")
    put(top, "c.py", b"hidden by the agent")
    git(top, "add", "-f", "build")
    commit(top, "all of it")
    assert look.changed() == {".gitignore": "M", "c.py": "A"}
    assert look.last
    assert [os.fsdecode(path) for path in look.worktree.ignored(look.start, look.last)] == [
        "build/new",
        "build/old",
    ]


RULES = {
    ".gitignore": "*.log\n!keep.log\n/rooted\nd/\n# no rule\n\\#odd\n\\!odd\ntrailing   \n",
    "x/.gitignore": "*\n!*.py\n!.gitignore\n",
    "x/[odd]*/.gitignore": "/here\nsub/there\n**/deep\n",
    "self/.gitignore": "*\n",
    "crlf/.gitignore": "*.tmp\r\n\r\n",
    ".git/info/exclude": "private\n",
}
FILES = [
    *(
        "a.log",
        "keep.log",
        "rooted",
        "y/rooted",
        "d/f",
        "y/d/f",
        "y/d",
        "#odd",
        "!odd",
        "trailing",
        "private",
    ),
    *(
        "x/a",
        "x/a.py",
        "x/y/b.py",
        "x/[odd]*/here",
        "x/[odd]*/z/here",
        "x/[odd]*/sub/there",
        "x/[odd]*/q/deep",
    ),
    *(
        "x/o/here",
        "self/a.py",
        "self/b/c.py",
        "crlf/a.tmp",
        "crlf/b/a.tmp",
        "crlf/a.py",
        "y/private",
        "x/a.log",
    ),
]


def test_the_rules_are_understood_as_git_understands_them(top: Path, own: Path) -> None:
    for name, text in RULES.items():
        put(top, name, text.encode())
    for name in FILES:
        if not (top / name).exists():
            put(top, name, name.encode())
    by_git = git(top, "ls-files", "-z", "-o", "-c", "--exclude-standard").split(b"\0")[:-1]
    assert sorted(Look(top, own).start.found.entries) == sorted(by_git)


def test_rules_of_a_folder_that_ignores_itself_are_kept_too(top: Path, own: Path) -> None:
    put(top, "venv/.gitignore", b"*\n")
    put(top, "venv/lib", b"1")
    look = Look(top, own)
    (top / "venv" / ".gitignore").unlink()
    assert look.changed() == {}


def test_caches_that_tools_make_during_the_run_are_no_change(top: Path, own: Path) -> None:
    look = Look(top, own, scratch=(".bench_scratch", "__pycache__"))
    put(top, ".some_cache/.gitignore", b"# made by a tool\n*\n")
    put(top, ".some_cache/v/data", b"x")
    put(top, ".bench_scratch/notes", b"x")
    put(top, "pkg/__pycache__/b.pyc", b"x")
    put(top, "pkg/__pycache__.py", b"x")
    assert look.changed() == {"pkg/__pycache__.py": "A"}
    assert look.left_out() == {
        ".some_cache/.gitignore": "ignores itself",
        ".some_cache/v/data": "ignores itself",
        ".bench_scratch/notes": "scratch",
        "pkg/__pycache__/b.pyc": "scratch",
    }


def test_a_scratch_folder_that_was_there_and_is_untouched_is_not_told(top: Path, own: Path) -> None:
    put(top, ".bench_scratch/old", b"x")
    look = Look(top, own, scratch=(".bench_scratch",), patch_files=("model_patch.diff",))
    put(top, "model_patch.diff", b"diff")
    assert (look.changed(), look.left_out()) == ({}, {"model_patch.diff": "patch file"})


def test_what_an_earlier_attempt_committed_of_it_is_left_out_too(top: Path, own: Path) -> None:
    put(top, ".bench_scratch/notes", b"x")
    put(top, "model_patch.diff", b"x")
    commit(top)
    look = Look(top, own, scratch=(".bench_scratch",), patch_files=("model_patch.diff",))
    put(top, ".bench_scratch/notes", b"y")
    (top / "model_patch.diff").unlink()
    assert look.changed() == {}
    assert look.left_out() == {".bench_scratch/notes": "scratch", "model_patch.diff": "patch file"}


def test_other_repositories_inside_are_left_out_and_told(top: Path, own: Path) -> None:
    repository(top / "was there")
    look = Look(top, own)
    repository(top / "hidden")
    commit(top / "was there")
    assert look.changed() == {}
    assert look.left_out()["hidden/"] == "repository of its own"


@pytest.mark.parametrize("name", [".GIT/config", "sub/.git /x", "git~1", ".Git", "a\\.git\\hooks"])
def test_names_that_stand_for_git_itself_are_left_out(top: Path, own: Path, name: str) -> None:
    look = Look(top, own)
    put(top, name, b"x")
    put(top, "good", b"x")
    assert look.changed() == {"good": "A"}
    assert look.left_out() == {name: "name"}


# --- limits ---------------------------------------------------------------------------------------


def test_files_beyond_the_limit_are_not_read_and_count_when_they_change(top: Path, own: Path) -> None:
    put(top, "tracked big", b"x" * 2000)
    commit(top)
    put(top, "untracked big", b"x" * 2000)
    put(top, "grows", b"small")
    look = Look(top, own, limits=small_limits(1500))
    assert look.start.found.unread.keys() == {b"tracked big", b"untracked big"}
    assert look.changed() == {}
    put(top, "grows", b"x" * 2000)
    put(top, "untracked big", b"y" * 2000)
    put(top, "a.py", b"changed\n")
    assert look.changed() == {"a.py": "M"}
    assert look.last
    assert excess(look.start, look.last) == [(b"grows", 2000), (b"untracked big", 2000)]


def test_all_files_together_have_a_limit(top: Path, own: Path) -> None:
    look = Look(top, own, limits=small_limits(1500, 2500))
    for number in range(4):
        put(top, f"new{number}", bytes([number]) * 1000)
    assert (len(look.changed()), look.last is not None) == (2, True)
    assert look.last
    assert len(excess(look.start, look.last)) == 2


def test_time_is_bounded(top: Path, own: Path) -> None:
    with pytest.raises(TreeUnknown, match="too long"):
        Look(top, own, until=lambda: time.monotonic() - 1)


# --- nothing runs, nothing is written, nothing is followed ----------------------------------------


def booby_trapped(top: Path, canary: Path) -> None:
    """Everything in a worktree that git can be made to run something with."""
    script = put(top.parent, "trap", f"#!/bin/sh\necho \"$0 $@\" >> '{canary}'\ncat\n".encode())
    script.chmod(0o755)
    for name in ("fsmonitor", "sshCommand", "pager", "editor", "askPass", "alternateRefsCommand", "gitProxy"):
        git(top, "config", f"core.{name}", str(script))
    for name in (
        *(
            "filter.bad.clean",
            "filter.bad.smudge",
            "filter.bad.process",
            "diff.bad.command",
            "diff.bad.textconv",
        ),
        *("diff.external", "interactive.diffFilter", "gpg.program", "uploadpack.packObjectsHook"),
        *("submodule.x.update", "credential.helper"),
    ):
        git(top, "config", name, f"!{script}" if name == "submodule.x.update" else str(script))
    git(top, "config", "log.showSignature", "true")
    git(top, "config", "core.hooksPath", str(top / "hooks"))
    for hook in (
        "post-index-change",
        "pre-commit",
        "post-checkout",
        "fsmonitor-watchman",
        "reference-transaction",
    ):
        for folder in (top / "hooks", top / ".git" / "hooks"):
            folder.mkdir(exist_ok=True)
            shutil.copy(script, folder / hook)
    put(
        top,
        ".gitattributes",
        b"* filter=bad diff=bad\n*.py filter=bad diff=bad text eol=crlf working-tree-encoding=UTF-16\n",
    )
    put(
        top,
        ".gitmodules",
        f'[submodule "x"]\n\tpath = x\n\turl = ext::{script}\n\tupdate = !{script}\n'.encode(),
    )


@pytest.mark.parametrize("moment", ["start", "end"])
def test_nothing_that_a_worktree_names_is_run(top: Path, own: Path, tmp_path: Path, moment: str) -> None:
    canary = tmp_path / "canary"
    if moment == "start":
        booby_trapped(top, canary)
    look = Look(top, own)
    if moment == "end":
        booby_trapped(top, canary)
    put(top, "a.py", b"one = 1\r\ntwo = 2\n")
    difference = look.difference()
    assert look.last
    look.worktree.history(look.start, look.last, 5)
    look.worktree.plain_diff_bytes()
    assert difference.applies
    assert not canary.exists()
    # The trap itself works: git with the worktree's own configuration falls into it.
    subprocess.run(["git", "-C", str(top), "status"], capture_output=True, check=False)
    subprocess.run(["git", "-C", str(top), "diff"], capture_output=True, check=False)
    assert canary.exists()


def test_a_submodule_is_not_asked_through_its_own_traps(top: Path, own: Path, tmp_path: Path) -> None:
    other = repository(tmp_path / "other")
    git(top, "submodule", "--quiet", "add", str(other), "sub")
    commit(top)
    canary = tmp_path / "canary"
    script = put(tmp_path, "trap", f"#!/bin/sh\ntouch '{canary}'\n".encode())
    script.chmod(0o755)
    git(top / "sub", "config", "core.fsmonitor", str(script))
    put(top / "sub", "a.py", b"dirty")
    look = Look(top, own)
    put(top, "new", b"x")
    assert look.changed() == {"new": "A"}
    look.worktree.plain_diff_bytes()
    assert not canary.exists()


def test_nothing_is_written_into_the_worktree_or_its_repository(top: Path, own: Path, tmp_path: Path) -> None:
    put(top, "untracked", b"x")
    put(top, "a.py", b"changed\n")
    git(top, "add", "a.py")
    git(top, "gc", "-q")
    before = contents(top)
    look = Look(top, own)
    assert contents(top) == before
    put(top, "a.py", b"one = 1\ntwo = 2\nthree = 3\n")  # content that the repository has already
    put(top, "copy.py", b"def f():\n    return 1\n")
    commit(top)
    before = contents(top)
    assert look.difference().applies
    assert look.last
    look.worktree.history(look.start, look.last, 5)
    look.worktree.plain_diff_bytes()
    assert contents(top) == before


def test_links_are_not_followed_out_of_the_worktree(top: Path, own: Path, tmp_path: Path) -> None:
    secret = put(tmp_path, "outside/b.py", b"secret = 1\n")
    look = Look(top, own)
    shutil.rmtree(top / "pkg")
    (top / "pkg").symlink_to(secret.parent)
    (top / "direct").symlink_to(secret)
    difference = look.difference()
    assert {file["path"]: file["status"] for file in difference.files} == {
        "pkg": "A", "pkg/b.py": "D", "direct": "A",
    }  # fmt: skip
    assert b"secret = 1" not in difference.patch


def test_pipes_and_files_that_may_not_be_read_hang_nothing(top: Path, own: Path) -> None:
    look = Look(top, own)
    (top / "a.py").unlink()
    os.mkfifo(top / "a.py")
    os.mkfifo(top / "pipe")
    assert look.changed() == {"a.py": "D"}


@pytest.mark.parametrize("name", ["index", "commondir", "HEAD", "info/exclude"])
def test_pipes_in_the_place_of_gits_own_files_hang_nothing(top: Path, own: Path, name: str) -> None:
    look = Look(top, own)
    (top / ".git" / name).unlink(missing_ok=True)
    os.mkfifo(top / ".git" / name)
    put(top, "new", b"x")
    assert look.changed() == {"new": "A"}
    assert name != "index" or look.worktree.plain_diff_bytes() is None


def test_a_worktree_that_is_gone_at_the_end_has_no_tree(top: Path, own: Path) -> None:
    look = Look(top, own)
    shutil.rmtree(top)
    with pytest.raises(TreeUnknown, match="is gone"):
        look.end()


def test_a_worktree_that_its_configuration_puts_elsewhere_is_still_this_one(
    top: Path, own: Path, tmp_path: Path
) -> None:
    git(top, "config", "core.worktree", str(tmp_path))
    put(tmp_path, "elsewhere", b"x")
    look = Look(top, own)
    put(top, "new", b"x")
    assert look.changed() == {"new": "A"}
