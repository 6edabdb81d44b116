"""Places in the data folder: where a run's files are, and what is written there beside the spool.

::

    spool/<run>/<producer>.log       events (`agent_shim.spool`)
    spool/<run>/destination.json     where they go
    positions/<run>/<producer>.json  how far they are there, written by the deliverer alone
    delivered/<run>/                 the spool folder of a run that is complete at its destination
    deliverer.lock, deliverer.log    the one process that delivers (`telemetry.handover`)

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

from agent_shim.spool import MOVING_S, SUFFIX, held, read
from telemetry.settings import Endpoint, Settings, without_password

DESTINATION = "destination.json"
PRIVATE = 0o700


class Destination(NamedTuple):
    """Where the events of a run go."""

    journal: str
    """Path or URL, without password."""
    logs: Endpoint | None = None
    traces: Endpoint | None = None


def make(home: Path) -> None:
    """Make the data folder, for this account alone. Raises `OSError`."""
    for folder in (home, home / "spool", home / "positions", home / "delivered"):
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)


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
    return _folders(spool_folder(home))


def positioned(home: Path) -> list[str]:
    """The runs that have positions."""
    return _folders(home / "positions")


def _folders(parent: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
    except FileNotFoundError:
        return []


def other_producers(folder: Path, own: str) -> list[str]:
    """The producers of a run beside `own`, those of deliverers left out: they come and go."""
    return [path.stem for path in producers(folder) if path.stem != own and role_of(path) != "deliverer"]


def role_of(path: Path) -> str | None:
    """The role that a producer gave itself in its first event."""
    for line in read(path, 0, 1):
        if line.body is not None:
            data = json.loads(line.body).get("data", {})
            return str(data["role"]) if "role" in data else None
    return None


# --- destination -----------------------------------------------------------------------------------


def destination_of(settings: Settings) -> Destination:
    """The destination that these settings name, without secrets."""
    logs, traces = (_clean(settings.otlp(signal)) for signal in ("logs", "traces"))
    return Destination(without_password(settings.journal), logs, traces)


def _clean(end: Endpoint | None) -> Endpoint | None:
    return end._replace(url=without_password(end.url)) if end else None


def write_destination(home: Path, run: str, destination: Destination) -> None:
    """Keep where the events of `run` go. Raises `OSError`."""
    make(home)
    content: dict[str, Any] = {"journal": destination.journal}
    ends = {"logs": destination.logs, "traces": destination.traces}
    otlp = {name: {"endpoint": end.url, "protocol": end.protocol} for name, end in ends.items() if end}
    if otlp:
        content["otlp"] = otlp
    with held(spool_folder(home), fcntl.LOCK_SH, MOVING_S):
        write_json(run_folder(home, run) / DESTINATION, content)


def read_destination(folder: Path) -> Destination | None:
    """The destination kept in a run's folder; ``None`` when there is none that can be read."""
    content = read_json(folder / DESTINATION)
    try:
        otlp = content.get("otlp", {})
        ends = {name: Endpoint(end["endpoint"], end["protocol"]) for name, end in otlp.items()}
        return Destination(str(content["journal"]), ends.get("logs"), ends.get("traces"))
    except (KeyError, TypeError, AttributeError):
        return None


def destination(home: Path, run: str) -> Destination | None:
    """The destination kept for a run; one that goes on after it was delivered goes on to the same."""
    folders = (run_folder(home, run), delivered_folder(home, run))
    return next(filter(None, map(read_destination, folders)), None)


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
