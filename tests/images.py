"""Images for ``docker-compose.yml``, made here and tagged with the official names (`make images`).

The real collector and Jaeger of ``collector_config/build.py``, Debian's PostgreSQL,
Debian's Python, all on a Debian made by debootstrap. Nothing is pulled. An image that bears one of the names
already and is not of ours is used as it is. An engine that does not run is started, and stopped at the end.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collector_config import build

HERE = Path(__file__).resolve().parent / "images"
BASE = "agent-telemetry-debootstrap"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
LABEL = "agent-telemetry.made-from"
NAMES = {
    "base": "debian:bookworm-slim",
    "python": "python:3.13-slim-bookworm",
    "postgres": "postgres:18.6",
    "jaeger": "jaegertracing/jaeger:2.13.0",
    "collector": "otel/opentelemetry-collector-contrib:0.162.0",
}
"""Folder below ``images`` → official name, in the order in which they are made."""
ENGINE_LIMIT_S = 60.0


class NoEngine(Exception):
    """Containers cannot be started here; the message says why."""


@contextmanager
def engine() -> Iterator[None]:
    """A Docker engine that answers, for as long as this lasts; others who ask wait. Raises `NoEngine`."""
    build.cache_folder().mkdir(parents=True, exist_ok=True)
    with (build.cache_folder() / "engine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if answers():
            yield
            return
        with _started():
            yield


@contextmanager
def _started() -> Iterator[None]:
    daemon = shutil.which("dockerd")
    if daemon is None:
        raise NoEngine("no Docker engine runs, and dockerd is not installed (Debian: docker.io, iptables)")
    if os.getuid() != 0:
        raise NoEngine("no Docker engine runs, and only root could start one")
    log = build.cache_folder() / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen([daemon], stdout=output, stderr=output, start_new_session=True)
    try:
        _await(process, log)
        yield
    finally:
        process.terminate()
        process.wait(ENGINE_LIMIT_S)


def answers() -> bool:
    """Whether there is a client, and an engine that it reaches."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True).returncode == 0


def missing() -> list[str]:
    """The official names that no image bears."""
    return [name for name in NAMES.values() if _made_from(name) is None]


def make() -> None:
    """Make every image that is not there as it should be. Raises `NoEngine` or `build.NotBuildable`."""
    for folder, name in NAMES.items():
        with tempfile.TemporaryDirectory() as context:
            identity = _fill(Path(context), folder)
            if _made_from(name) in (identity, ""):
                continue
            if folder == "base":
                _debootstrap()
            began = time.monotonic()
            _docker("build", "-q", "--label", f"{LABEL}={identity}", "-t", name, context)
            print(f"{name} made in {time.monotonic() - began:.0f} s", flush=True)


def _await(process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + ENGINE_LIMIT_S
    while not answers():
        if process.poll() is not None or time.monotonic() > until:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise NoEngine(f"dockerd does not start here: {''.join(last)}")
        time.sleep(0.2)


def _made_from(name: str) -> str | None:
    """What an image of ours was made from, nothing for one that is not ours; ``None``: there is none."""
    format_ = f'{{{{index .Config.Labels "{LABEL}"}}}}'
    found = subprocess.run(
        ["docker", "image", "inspect", "--format", format_, name], capture_output=True, text=True
    )
    return found.stdout.strip() if found.returncode == 0 else None


def _fill(context: Path, folder: str) -> str:
    """Put together what an image is made from; its identity."""
    shutil.copytree(HERE / folder, context, dirs_exist_ok=True)
    if folder in ("base", "collector"):
        shutil.copy(CERTIFICATES, context)
    if folder in ("jaeger", "collector"):
        binary = build.build(folder)
        shutil.copy(binary, context)
    if folder == "jaeger":
        busybox = shutil.which("busybox")
        if busybox is None:
            raise NoEngine("busybox is not installed (Debian: busybox-static)")
        shutil.copy(busybox, context / "busybox")
    identity = hashlib.sha256()
    for path in sorted(path for path in context.rglob("*") if path.is_file()):
        identity.update(path.name.encode() + path.read_bytes())
    return identity.hexdigest()[:12]


def _debootstrap() -> None:
    """Make the Debian that everything stands on."""
    if _made_from(BASE) is not None:
        return
    if shutil.which("debootstrap") is None:
        raise NoEngine("debootstrap is not installed")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise NoEngine(f"debootstrap failed: {done.stdout[-300:]}{done.stderr[-300:]}")
        archive = Path(folder, "root.tar")
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        _docker("import", str(archive), BASE)
    print(f"Debian made in {time.monotonic() - began:.0f} s", flush=True)


def _docker(*words: str) -> None:
    done = subprocess.run(["docker", *words], capture_output=True, text=True)
    if done.returncode:
        raise build.NotBuildable(f"docker {words[0]} failed: {done.stdout[-500:]}{done.stderr[-1500:]}")


def main() -> int:
    """Make the images, or say why not: 3 where this machine cannot, 1 where they cannot be built."""
    try:
        with engine():
            make()
    except (NoEngine, build.NotBuildable) as error:
        print(f"docker-compose.yml cannot be tried here: {error}", file=sys.stderr)
        return 3 if isinstance(error, NoEngine) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
