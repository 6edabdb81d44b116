"""A verification command, such as tests, run in a clean checkout of the base with the patch on it.

Promises, each with its test in ``tests/test_judging.py``:

* Nothing of the worktree runs or changes: the objects of its repository are read through a repository of
  our own, with no hooks, no filters and no configuration.
* What cannot be tried raises `Unverified` with the reason: the worktree is gone, the text of the patch was
  not kept, the patch does not apply.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from agent_shim.errors import NotFound
from telemetry.checks import Patch
from telemetry.identity import Git

GIT_LIMIT_S = 60.0
_STDERR = 2
"""Where the command's output goes: standard output is for the verdicts, which programs read."""
_PROGRAM = "name a program; for what a shell understands, write sh -c '…'"
_TOLD = 200
"""Characters of what git says that are kept."""


class Unverified(NotFound):
    """The patch cannot be checked out."""


def verify(
    command: str, patch: Patch | None, worktree: str | None, environ: Mapping[str, str], limit_s: float
) -> int:
    """The exit code of `command`, run without a shell; 124 after `limit_s`. Raises `Unverified`."""
    with TemporaryDirectory(prefix="agent-telemetry-") as folder:
        checkout = Path(folder, "checkout")
        _check_out(patch, worktree, environ, Path(folder), checkout)
        try:
            done = subprocess.run(
                shlex.split(command), cwd=checkout, env=dict(environ), check=False, timeout=limit_s,
                stdout=_STDERR,
            )  # fmt: skip
            return done.returncode
        except subprocess.TimeoutExpired:
            return 124
        except (OSError, ValueError) as error:
            raise Unverified(f"{command!r} cannot be run: {error}", hint=_PROGRAM) from error


def _check_out(
    patch: Patch | None, worktree: str | None, environ: Mapping[str, str], folder: Path, target: Path
) -> None:
    text, base = _text(patch), str(patch.data.get("base_commit") or "") if patch else ""
    objects = Git(worktree, environ).ask("rev-parse", "--git-path", "objects") if worktree else None
    if not base or not worktree or objects is None:
        raise Unverified("the repository or the base of the run is not known any more", hint=_HINT)
    target.mkdir()
    git = _Git(folder, target, environ)
    git.ask("init", "--quiet", why="no repository of our own could be made")
    alternates = folder / "git" / "objects" / "info" / "alternates"
    alternates.write_text(f"{Path(worktree, objects).resolve()}\n")
    git.ask("read-tree", base, why=f"the base {base[:12]} cannot be read")
    git.ask("apply", "--cached", "-", given=text, why=f"the patch does not apply to {base[:12]}")
    git.ask("checkout-index", "--all", why="it cannot be checked out")


def _text(patch: Patch | None) -> bytes:
    pieces = patch.data.get("text") if patch else None
    if patch is None or patch.empty is not False or not pieces or patch.data.get("text_exact") is False:
        reason = str(patch.data.get("text_reason") or "") if patch else ""
        raise Unverified(f"the text of the patch is not known {reason}".strip(), hint=_HINT)
    return "".join(pieces).encode("utf-8", "surrogateescape")


_HINT = "a patch can be verified while its repository is there and its text was kept"


class _Git:
    """Git with a repository and an index of our own."""

    def __init__(self, folder: Path, target: Path, environ: Mapping[str, str]) -> None:
        self._target = target
        self._environ = {
            "PATH": environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "GIT_DIR": str(folder / "git"),
            "GIT_INDEX_FILE": str(folder / "index"),
            "GIT_WORK_TREE": str(target),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
        }

    def ask(self, *words: str, why: str, given: bytes = b"") -> None:
        """Have git do something. Raises `Unverified`, saying `why`."""
        command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false", *words]
        try:
            subprocess.run(
                command, cwd=self._target, env=self._environ, input=given, capture_output=True,
                timeout=GIT_LIMIT_S, check=True,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().partition("\n")[0][:_TOLD]
            raise Unverified(f"{why}: {said}", hint=_HINT) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unverified(f"{why}: {error}", hint=_HINT) from error
