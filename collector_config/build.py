"""Builds the programs of the stack from their Go modules: collector, Jaeger, the Compose plugin.

``python collector_config/build.py [NAME ...]`` prints where each one is. Promises:

* Versions and checksums are those of ``modules/*/go.mod`` and ``go.sum``; nothing else is ever built, and
  with another one in those files, or another Go, it is built anew.
* A binary is in the cache folder (``$XDG_CACHE_HOME/agent-telemetry``, or in ``~/.cache``), whole or
  not at all, however many build it at the same time and whoever is killed meanwhile.

The modules come from where the installed Go is set up to get them. ``--lock`` resolves ``go.sum`` again after
a version changed in ``go.mod`` (or in ``builder.yaml``, for the collector).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
MODULES = HERE / "modules"
MANIFEST = HERE / "builder.yaml"
BUILDER = "go.opentelemetry.io/collector/cmd/builder"
LOWEST_GO = (1, 26)
"""What the modules ask for."""
UNLISTED = "go.opentelemetry.io/collector,github.com/open-telemetry/opentelemetry-collector-contrib"
"""Modules of which the checksum database lacks some; ``go.sum`` holds the checksums of all."""


class Program(NamedTuple):
    """Something to build."""

    binary: str
    package: str
    """``.`` is what the builder writes by the manifest."""
    tags: str = ""


PROGRAMS = {
    "collector": Program("otelcol", ".", "grpcnotrace"),  # the tag of the official distributions
    "jaeger": Program("jaeger", "github.com/jaegertracing/jaeger/cmd/jaeger"),
    "compose": Program("docker-compose", "github.com/docker/compose/v2/cmd"),
}


class NotBuildable(Exception):
    """The programs cannot be built here; the message says why."""


def build(name: str) -> Path:
    """The binary of program `name`, built unless it is there. Raises `NotBuildable`."""
    target = _target(name)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                _make(name, target)
    return target


def built(name: str) -> Path | None:
    """The binary of program `name` if it was built here."""
    try:
        target = _target(name)
    except NotBuildable:
        return None
    return target if target.exists() else None


def cache_folder() -> Path:
    """Where binaries are kept: outside of the tree, safe to delete."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if given.startswith("/") else Path.home() / ".cache"
    return base / "agent-telemetry"


def version_of(name: str) -> str:
    """The version of program `name`, as its ``go.mod`` has it."""
    text = (MODULES / name / "go.mod").read_text()
    module = "go.opentelemetry.io/collector/otelcol" if name == "collector" else PROGRAMS[name].package
    while not (found := re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", text, re.MULTILINE)):
        module = module.rpartition("/")[0]
    return found[1]


def _target(name: str) -> Path:
    """Named by all that goes into it."""
    used = [Path(__file__), *(MODULES / name).iterdir()]
    if PROGRAMS[name].package == ".":
        used += [MANIFEST, *(MODULES / "builder").iterdir()]
    identity = hashlib.sha256(_go_version().encode())
    for path in sorted(used):
        identity.update(path.read_bytes())
    return cache_folder() / f"{name}-{version_of(name)}-{identity.hexdigest()[:12]}" / PROGRAMS[name].binary


def _go_version() -> str:
    go = shutil.which("go")
    if go is None:
        raise NotBuildable("no Go is installed: collector and Jaeger are built from their Go modules")
    text = subprocess.run([go, "version"], check=True, capture_output=True, text=True).stdout
    number = re.search(r"go(\d+)\.(\d+)", text)
    if number is None or (int(number[1]), int(number[2])) < LOWEST_GO:
        lowest = ".".join(map(str, LOWEST_GO))
        raise NotBuildable(f"collector and Jaeger need Go {lowest} or later, this is {text.strip()}")
    return text


def _make(name: str, target: Path) -> None:
    program = PROGRAMS[name]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        work = Path(folder, "module")
        shutil.copytree(MODULES / name, work)
        if program.package == ".":
            _generate(work)
        whole = Path(folder, program.binary)
        options = ["-mod=readonly", "-trimpath", "-ldflags=-s -w", f"-tags={program.tags}"]
        _go(work, "build", *options, "-o", str(whole), program.package)
        whole.replace(target)


def _generate(work: Path) -> None:
    """Write the collector's source by the manifest; its modules are those of ``modules/collector``."""
    builder = work.parent / "builder"
    _go(MODULES / "builder", "build", "-mod=readonly", "-trimpath", "-o", str(builder), BUILDER)
    command = [str(builder), "--config", str(MANIFEST), "--skip-get-modules", "--skip-compilation"]
    _run(command, work)


def _go(folder: Path, *words: str, **environ: str) -> None:
    _run(["go", *words], folder, GOWORK="off", GOFLAGS="-buildvcs=false", CGO_ENABLED="0", **environ)


def _run(command: list[str], folder: Path, **environ: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environ}, stdout=-1, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise NotBuildable(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")


def lock() -> None:
    """Resolve the modules of all programs again."""
    for name in ("builder", "jaeger", "compose"):
        package = BUILDER if name == "builder" else PROGRAMS[name].package
        with tempfile.TemporaryDirectory() as folder:  # building is what finds every checksum that it needs
            _go(MODULES / name, "build", "-mod=mod", "-o", folder, package, GONOSUMDB=UNLISTED)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "collector")
        work.mkdir()
        _generate(work)
        builder = [str(work.parent / "builder"), "--config", str(MANIFEST), "--skip-compilation"]
        _run(builder, work, GONOSUMDB=UNLISTED)
        for file in ("go.mod", "go.sum"):
            shutil.copy(work / file, MODULES / "collector" / file)


def main(words: list[str]) -> int:
    """Build what is named, or everything."""
    try:
        if words == ["--lock"]:
            lock()
            return 0
        for name in words or PROGRAMS:
            print(build(name), flush=True)
    except NotBuildable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
