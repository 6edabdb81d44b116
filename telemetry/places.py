"""Places in the data folder: where a run's files are, and what is written there beside the spool.

::

    spool/<run>/<producer>.log       events (`agent_shim.spool`)
    spool/<run>/destination.json     where they go
    positions/<run>/<producer>.json  how far they are there, written by the deliverer alone
    delivered/<run>/                 the spool folder of a run that is complete at its destination
    deliverer.lock, deliverer.log

Every file here is replaced as a whole, so a reader sees the old one or the new one. No secret is in
any of them: a password is put back from the environment of the process that needs it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent_shim.spool import SUFFIX
from telemetry.settings import Endpoint, Settings, without_password

DESTINATION = "destination.json"
PRIVATE = 0o700


class Destination(NamedTuple):
    """Where the events of a run go."""

    journal: str
    """Path or URL, without password."""
    logs: Endpoint | None = None
    traces: Endpoint | None = None
    service: str | None = None
    """``OTEL_SERVICE_NAME`` of the run."""
    resource: str | None = None
    """``OTEL_RESOURCE_ATTRIBUTES`` of the run."""


def spool_folder(home: Path) -> Path:
    return home / "spool"


def run_folder(home: Path, run: str) -> Path:
    return home / "spool" / run


def delivered_folder(home: Path, run: str) -> Path:
    return home / "delivered" / run


def positions_folder(home: Path, run: str) -> Path:
    return home / "positions" / run


def producers(folder: Path) -> list[Path]:
    """The spool files of a run, oldest producer first."""
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX))
    except (FileNotFoundError, NotADirectoryError):
        return []


def runs(home: Path) -> list[str]:
    """The runs that have a spool folder, oldest first."""
    try:
        return sorted(entry.name for entry in os.scandir(spool_folder(home)) if entry.is_dir())
    except FileNotFoundError:
        return []


# --- destination -----------------------------------------------------------------------------------


def destination_of(settings: Settings, environ: Mapping[str, str]) -> Destination:
    """The destination that these settings name, without secrets."""
    signals = {name: settings.otlp(name) for name in ("logs", "traces")}
    clean = {
        name: end._replace(url=without_password(end.url)) if end else None for name, end in signals.items()
    }
    exports = any(clean.values())
    return Destination(
        journal=without_password(settings.journal),
        logs=clean["logs"],
        traces=clean["traces"],
        service=environ.get("OTEL_SERVICE_NAME") or None if exports else None,
        resource=environ.get("OTEL_RESOURCE_ATTRIBUTES") or None if exports else None,
    )


def write_destination(home: Path, run: str, destination: Destination) -> None:
    """Keep where the events of `run` go. Raises `OSError`."""
    otlp: dict[str, Any] = {}
    for name in ("logs", "traces"):
        end: Endpoint | None = getattr(destination, name)
        if end is not None:
            otlp[name] = {"endpoint": end.url, "protocol": end.protocol}
    if otlp:
        otlp |= {k: getattr(destination, k) for k in ("service", "resource") if getattr(destination, k)}
    content = {"journal": destination.journal} | ({"otlp": otlp} if otlp else {})
    write_json(run_folder(home, run) / DESTINATION, content)


def read_destination(folder: Path) -> Destination | None:
    """The destination kept in a run's folder; ``None`` when there is none that can be read."""
    content = read_json(folder / DESTINATION)
    if not isinstance(content.get("journal"), str):
        return None
    otlp = content.get("otlp") or {}
    ends = {
        name: Endpoint(otlp[name]["endpoint"], otlp[name]["protocol"]) if name in otlp else None
        for name in ("logs", "traces")
    }
    service, resource = otlp.get("service"), otlp.get("resource")
    return Destination(content["journal"], ends["logs"], ends["traces"], service, resource)


def with_secret(url: str, candidates: Iterable[str]) -> str:
    """`url`, or that one of `candidates` that is the same and has the password."""
    return next((whole for whole in candidates if without_password(whole) == url), url)


# --- positions -------------------------------------------------------------------------------------


def read_positions(home: Path, run: str, producer: str) -> dict[str, int]:
    """Where delivery of a producer's file goes on, in bytes, by destination."""
    content = read_json(positions_folder(home, run) / f"{producer}.json")
    return {name: value for name, value in content.items() if isinstance(value, int)}


def write_positions(home: Path, run: str, producer: str, positions: Mapping[str, int]) -> None:
    """Keep how far a producer's file is delivered. Raises `OSError`."""
    write_json(positions_folder(home, run) / f"{producer}.json", dict(positions))


def undelivered(home: Path, run: str) -> list[str]:
    """The producers of `run` that have whole events which are not in the journal yet."""
    waiting = []
    for path in producers(run_folder(home, run)):
        try:
            size = path.stat().st_size
        except FileNotFoundError:  # the run was just moved to `delivered`
            return []
        if read_positions(home, run, path.stem).get("journal", 0) < size:
            waiting.append(path.stem)
    return waiting


# --- the lock of the deliverer ---------------------------------------------------------------------


def lock_deliverer(home: Path) -> int | None:
    """Become the one deliverer of this data folder: a descriptor to hold, or ``None`` if there is one.

    Raises `OSError` when the folder cannot be used.
    """
    home.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    fd = os.open(home / "deliverer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd
    except BlockingIOError:
        os.close(fd)
        return None


# --- whole files -----------------------------------------------------------------------------------


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file by `content` as a whole, private to the account. Raises `OSError`."""
    path.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            json.dump(content, file, sort_keys=True)
        hidden.replace(path)
    except OSError:
        hidden.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty when there is no such file or nothing that can be read in it."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
