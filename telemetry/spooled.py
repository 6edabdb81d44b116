"""A run's spool files as the deliverer sees them: what is new in each, and which producer is done.

Promises, each a test in ``tests/test_deliverer.py``:

* What is given to a destination goes on from its own position there, which is kept only after the
  destination has it: killed at any moment, nothing is lost, and what is sent again is the same.
* A line with a wrong checksum is passed on as it is, checksum and all, so that it can only be taken for
  what it is: no event.
* A producer is sealed once, by itself or, when its process is gone and its file is read to the end, by a
  deliverer; also when deliverers are killed in between.
"""

from __future__ import annotations

import fcntl
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from agent_shim import spool
from agent_shim.events import ProducerSealed
from telemetry import places

BATCH_BYTES = 4 * 1024 * 1024
_SEQ = re.compile(rb'\{"v":\d+,"run":"[0-9a-f]+","producer":"[0-9a-f]+","seq":(\d+),')
_SEALED = b'"name":"producer.sealed"'


def sequence_number(body: bytes) -> int | None:
    """The number of an event as the spool writes it; ``None`` for anything else."""
    found = _SEQ.match(body)
    return int(found[1]) if found else None


class Batch(NamedTuple):
    """What is new in one file for one destination."""

    bodies: list[bytes]
    """Events; a line with a wrong checksum whole, with its checksum."""
    end: int
    """The position behind them."""


class Producer:
    """One spool file."""

    def __init__(self, home: Path, path: Path) -> None:
        self.path = path
        self.producer = path.stem
        self.run = path.parent.name
        self.is_sealed = False
        self.sealed_others: set[str] = set()
        """Producers that this one sealed: deliverers do that."""
        self._home = home
        self._positions = places.read_positions(home, self.run, self.producer)
        self._keeping = threading.Lock()
        self._scanned = 0
        self._last_seq = 0
        self._corrupt = 0

    def scan(self) -> None:
        """Read on, and note what the file says of itself."""
        for line in spool.read(self.path, self._scanned):
            self._scanned = line.offset
            self._note(line.body)

    def _note(self, body: bytes | None) -> None:
        if body is None:
            self._corrupt += 1
            return
        self._last_seq = max(self._last_seq, sequence_number(body) or 0)
        if _SEALED in body:
            sealed = json.loads(body)["data"].get("producer")
            if sealed == self.producer:
                self.is_sealed = True
            else:
                self.sealed_others.add(sealed)

    def death(self) -> ProducerSealed | None:
        """How it ended, if its process is gone without having said so; ``None`` while it lives."""
        if spool.is_alive(self.path):
            return None
        while self._unscanned():  # what it wrote between our last look and its end
            self.scan()
        if self.is_sealed:
            return None
        torn = max(0, spool.tail(self.path, self._scanned).torn_bytes)
        return ProducerSealed(
            producer=self.producer,
            last_seq=self._last_seq,
            reason="process gone",
            torn_bytes=torn or None,
            corrupt_lines=self._corrupt or None,
            lossy=spool.is_lossy(self.path) or None,
        )

    def _unscanned(self) -> bool:
        return next(spool.read(self.path, self._scanned, 1), None) is not None

    # --- destinations ------------------------------------------------------------------------------

    def position(self, destination: str) -> int:
        """How far `destination` has this file, in bytes."""
        return self._positions.get(destination, 0)

    def batch(self, start: int, upto: int | None = None) -> Batch:
        """What stands behind `start`, at most to position `upto`, in about `BATCH_BYTES`."""
        bodies: list[bytes] = []
        end = start
        for line in spool.read(self.path, start, BATCH_BYTES):
            if upto is not None and line.offset > upto:
                break
            bodies.append(line.body if line.body is not None else self._raw(end, line.offset))
            end = line.offset
        return Batch(bodies, end)

    def _raw(self, start: int, end: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(end - start).rstrip(b"\n")

    def keep(self, destination: str, position: int) -> None:
        """`destination` has everything up to `position`."""
        with self._keeping:
            self._positions[destination] = position
            places.write_positions(self._home, self.run, self.producer, self._positions)

    def is_delivered(self, destination: str) -> bool:
        """Whether `destination` has every whole line of the file."""
        return self.position(destination) >= self._scanned and not self._unscanned()


class Run:
    """The spool folder of one run."""

    def __init__(self, home: Path, run: str) -> None:
        self.run = run
        self.folder = places.run_folder(home, run)
        self.producers: Mapping[str, Producer] = {}
        self._home = home

    def refresh(self) -> None:
        """Look for new files and for new lines."""
        known = dict(self.producers)
        for path in places.producers(self.folder):
            if path.stem not in known:
                known[path.stem] = Producer(self._home, path)
        self.producers = known  # replaced, not changed: another thread may be going through it
        for producer in known.values():
            producer.scan()
        sealed = set().union(*(producer.sealed_others for producer in known.values()))
        for name in sealed & known.keys():
            known[name].is_sealed = True

    def unsealed(self) -> list[Producer]:
        """The producers that live, or are gone without a word."""
        return [producer for producer in self.producers.values() if not producer.is_sealed]

    def is_alive(self, without: set[str]) -> bool:
        """Whether a process still writes here, those of the producers in `without` left out."""
        others = [producer for producer in self.unsealed() if producer.producer not in without]
        return any(producer.path.exists() and spool.is_alive(producer.path) for producer in others)

    def is_delivered(self, destination: str) -> bool:
        """Whether `destination` has all that is there now."""
        return all(producer.is_delivered(destination) for producer in self.producers.values())

    def retire(self) -> bool:
        """Move the folder to ``delivered``, unless a process began a file here that was not looked at yet.

        A run that went on after it was moved joins its first part.
        """
        with spool.held(self.folder.parent, fcntl.LOCK_EX, 0.0) as alone:
            hidden = self._hidden()
            if not alone or any(map(spool.is_alive, hidden)) or self._has_more():
                return False
            for path in hidden:
                path.unlink()  # whoever began it is gone, and was told of nothing in it
            self._move(places.delivered_folder(self._home, self.run))
        forget_positions(self._home, self.run)
        return True

    def _hidden(self) -> list[Path]:
        """The files that processes are about to begin here, which they do without the lock if they must."""
        return [path for path in self.folder.iterdir() if re.fullmatch(r"\.[0-9a-f]{32}", path.name)]

    def _has_more(self) -> bool:
        return any(path.stem not in self.producers for path in places.producers(self.folder))

    def _move(self, target: Path) -> None:
        target.parent.mkdir(mode=places.PRIVATE, parents=True, exist_ok=True)
        if target.exists():
            for path in self.folder.iterdir():
                path.replace(target / path.name)
            self.folder.rmdir()
        else:
            self.folder.rename(target)


def forget_positions(home: Path, run: str) -> None:
    """The positions of a run that is delivered: nothing goes on from there."""
    folder = places.positions_folder(home, run)
    for path in folder.iterdir() if folder.is_dir() else ():
        path.unlink()
    if folder.is_dir():
        folder.rmdir()
