"""Environments with other generations of the openai client, each on another Python where one is found.

``make generations`` (part of ``make test``) makes them in ``.cache/generations`` from
``requirements/openai-<version>.txt``: pinned, with hashes. An environment belongs to its lock and its
Python; when either changes, it is made anew, and one whose making was interrupted is made again.

Tests ask `interpreter` for one. They run nothing of ours in it but what is loaded into an agent.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "generations"

PREFERRED_PYTHON = {"1.86.0": "3.10", "1.109.1": "3.12", "2.54.0": "3.13", "3.54.0": "3.11"}
"""openai version → Python it is tried on, if that is installed; else the one that runs the tests."""

GENERATIONS: tuple[str, ...] = tuple(PREFERRED_PYTHON)
"""The lowest version supported, the last of 1.x, and the newest 2.x and 3.x at the time of locking."""

PEERS = "peers"
"""The environment with other instrumentations of the client beside the newest one."""


def interpreter(generation: str) -> Path:
    """The Python of the environment with openai `generation`, or of `PEERS`.

    One that was not made skips the test, saying how to make it; under CI it fails the test.
    """
    environment = _environment(generation)
    if not (environment / "made").exists():
        import pytest

        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"no environment with {generation}: run `make generations`")
    return environment / "bin" / "python"


def find_python(version: str) -> Path | None:
    """An installed Python `version` (``3.12``): on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for candidate in filter(None, candidates):
        if _version(candidate).startswith(f"{version}."):
            return Path(candidate)
    return None


def make(generation: str) -> Path:
    """Make an environment unless it is there, and return its Python."""
    environment = _environment(generation)
    environment.mkdir(parents=True, exist_ok=True)
    with (environment.parent / f"{environment.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (environment / "made").exists():
            _install(environment, generation)
            (environment / "made").touch()
    return environment / "bin" / "python"


def _install(environment: Path, generation: str) -> None:
    subprocess.run([_base_python(generation), "-m", "venv", "--clear", environment], check=True)
    pip = [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--require-hashes", "--only-binary=:all:", "-r", _lock(generation)], check=True)


def _environment(generation: str) -> Path:
    base = _base_python(generation)
    identity = _lock(generation).read_bytes() + f"{base} {_version(base)}".encode()
    return CACHE / f"{_name(generation)}-{hashlib.sha256(identity).hexdigest()[:12]}"


def _base_python(generation: str) -> str:
    preferred = PREFERRED_PYTHON.get(generation)
    return str((preferred and find_python(preferred)) or sys.executable)


def _lock(generation: str) -> Path:
    return ROOT / "requirements" / f"{_name(generation)}.txt"


def _name(generation: str) -> str:
    return generation if generation == PEERS else f"openai-{generation}"


def _version(python: str | Path) -> str:
    """``3.12.1``, or nothing when it does not run: a shim may name a Python that is not installed."""
    program = "import platform; print(platform.python_version())"
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    with ThreadPoolExecutor(max_workers=2) as pool:
        wanted = (*GENERATIONS, PEERS)
        for generation, python in zip(wanted, pool.map(make, wanted), strict=True):
            print(f"openai {generation:8} Python {_version(python):8} {python.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
