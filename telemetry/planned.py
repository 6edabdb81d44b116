"""One planned run: holds a lock on its item while the run lasts, so that nobody starts it twice.

Started as ``python -m telemetry.planned LOCK COMMAND…`` by ``run-plan``. It outlives a killed ``run-plan``,
and with it the run and the lock do: whoever goes on with the plan finds the item taken. Exit code: that of
the command; 75 when another process has the item.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TAKEN = 75
PROBED_S = 1.0
"""Whoever asks whether an item is taken holds its lock for a moment; that is no run."""


def main(words: Sequence[str]) -> int:
    """Run a command under a lock; its exit code."""
    held = _held(Path(words[0]), time.monotonic() + PROBED_S)
    if held is None:
        return TAKEN
    process = subprocess.Popen(words[1:], stdin=subprocess.DEVNULL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _: process.send_signal(caught))
    code = process.wait()
    os.close(held)
    return 128 - code if code < 0 else code


def _held(path: Path, until: float) -> int | None:
    held = hold(path)
    while held is None and time.monotonic() < until:
        time.sleep(PROBED_S / 20)
        held = hold(path)
    return held


def hold(path: Path) -> int | None:
    """The lock at `path`, as a descriptor to hold that no child inherits; ``None`` when it is taken."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


@contextmanager
def at_work(home: Path) -> Iterator[None]:
    """Inside, a plan is being worked off in this data folder, and whoever watches its runs can tell."""
    fd = os.open(_at_work(home), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def is_at_work(home: Path) -> bool:
    """Whether any plan is being worked off in this data folder."""
    try:
        return is_taken(_at_work(home))
    except OSError:
        return False  # the folder cannot be written to, so nobody works there


def _at_work(home: Path) -> Path:
    folder = home / "planned"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / "at-work"


def is_taken(path: Path) -> bool:
    """Whether a planned run holds this lock."""
    held = hold(path)
    if held is not None:
        os.close(held)
    return held is None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
