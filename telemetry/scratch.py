"""A folder of a run's own in the data folder, for as long as the run lives."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path


class Scratch:
    """The folder; a lock on it tells that its run lives. Those whose run is gone are removed by the next."""

    def __init__(self, home: Path, run_id: str) -> None:
        self._all = home / "trees"
        self._folder = self._all / run_id
        self._lock: int | None = None

    def make(self) -> Path:
        """The folder, empty. Raises `OSError`."""
        self._all.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._all.iterdir():
            _remove_abandoned(left)
        self._folder.mkdir(mode=0o700)
        self._lock = _locked(self._folder)
        return self._folder

    def remove(self) -> None:
        """It is needed no more."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove_abandoned(folder: Path) -> None:
    with suppress(OSError):  # another run was faster
        lock = _locked(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(folder: Path) -> int | None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
