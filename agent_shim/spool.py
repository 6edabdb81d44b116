r"""The spool: an event exists when it is in here.

One file per process and run, ``<data folder>/spool/<run>/<producer>.log``, never rewritten. A line::

    <CRC-32 of the JSON, 8 hexadecimal digits> <canonical JSON of the event>\n

Promises, each with its test in ``tests/test_spool.py``:

* `Spool.append` returns after one ``write()`` under one lock; a process killed right after it has lost
  nothing. Sequence numbers are dense from 1, and the first event is ``producer.started``.
* A short write is cut back. What could not be written is counted by reason and said in the next event
  that can be written (``events.lost``). Until that is said, the file's owner-execute bit is set (that
  needs no space), so that a death before it cannot make the file look whole.
* Whoever is alive holds an exclusive ``flock`` on its file: reading commands tell a silent producer from
  a dead one without trusting process ids, across containers too. The file appears under its name only
  once it is locked and holds its first event, and never in a folder that is being moved away (`held`).
* A forked child never writes into its parent's file; it opens one of its own at its first event.
* An agent that closes descriptors it did not open (``os.closerange``) closes ours too, and the next file or
  socket may get its number: nothing is written there. A new producer begins.
* A finaliser run by the garbage collector uses `append_later`, which takes no lock: the next event, the
  next holder of the lock, or the exit writes it. Encoding happens outside the lock, and nothing inside
  it makes the collector run.
* An exception of the disk never leaves `append`.

The last line of a dead producer may be torn: it was never acknowledged, and readers say so.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import sys
import threading
import time
import weakref
import zlib
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

from . import canonical
from .events import FORMAT_VERSION, Event, EventsLost, ProducerSealed, ProducerStarted, event_id, name_of

LOSSY_MODE = 0o700
CLEAN_MODE = 0o600
SUFFIX = ".log"
MOVING_S = 0.5
"""How long a file does not begin because a run is being moved: that takes a millisecond."""


def new_id() -> str:
    """A UUIDv7 (RFC 9562, section 5.7) as 32 hexadecimal digits: sorts by time, millisecond precision."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"


def process_started() -> str | None:
    """Start time of this process as the system counts it, ``boot id:ticks``; unknown outside Linux."""
    try:
        stat = Path("/proc/self/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{stat.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return None


class Spool:
    """Writes the events of this process for one run. Safe from any thread, and in forked children.

    `folder` is the spool folder of the data folder. `clock` and `monotonic` give nanoseconds, `ids`
    a fresh producer id; tests pass fixed ones.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run: str,
        *,
        role: str,
        redact: Callable[[str], str],
        hooks: list[str] | None = None,
        version: str | None = None,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
        ids: Callable[[], str] = new_id,
    ) -> None:
        self.folder = Path(folder) / run
        self.run = run
        self._role = role
        self._hooks = hooks
        self._version = version
        self._redact = redact
        self._clock = clock
        self._monotonic = monotonic
        self._ids = ids
        self._forked_from: str | None = None
        self._reset()
        _spools.add(self)

    def _reset(self) -> None:
        self.producer = self._ids()
        self._head = f'{{"v":{FORMAT_VERSION},"run":"{self.run}","producer":"{self.producer}","seq":'
        # Re-entrant: a signal handler may run, and record, between two steps of the main thread's own
        # append. Each step leaves the state such that a whole append can happen in between.
        self._lock = threading.RLock()
        self._later: deque[str] = deque()
        self._fd: int | None = None
        self._file = (0, 0)
        self._seq = 0
        self._holes: list[int] = []
        self._lost: dict[str, int] = {}
        self._glue = b""
        self._sealed = False

    # --- writing ---------------------------------------------------------------------------------

    def append(self, event: Event, *, begin: str | None = None, parent: str | None = None) -> str:
        """Write one event and return its id, or ``""`` when it could not be written.

        `begin` is the id of the begin event that this event ends, `parent` the id of the begin event
        inside which it happened.
        """
        if self._fd is None:
            self.open()
        rest = self._encode(event, begin, parent)
        with self._lock:
            if self._later:
                self._drain()
            if self._lost:
                self._tell_losses()
            seq = self._put(rest)
        return event_id(self.producer, seq) if seq else ""

    def append_later(self, event: Event, *, begin: str | None = None, parent: str | None = None) -> None:
        """Keep one event for the next chance to write, without taking a lock. For finalisers."""
        self._later.append(self._encode(event, begin, parent))

    def flush(self) -> None:
        """Write what `append_later` kept and what was lost, if anything."""
        with self._lock:
            if self._later:
                self._drain()
            if self._lost:
                self._tell_losses()

    def seal(self) -> None:
        """Say that this producer is done, and close its file. A later event starts a new producer."""
        with self._lock:
            self.flush()
            self._let_go_if_closed()
            if self._fd is None or self._sealed:
                return
            sealed = ProducerSealed(producer=self.producer, last_seq=self._seq + 1, reason="closed")
            self._put(self._encode(sealed, None, None))
            os.close(self._fd)
            self._fd = None
            self._sealed = True

    @property
    def lost(self) -> dict[str, int]:
        """Events that could not be written and could not be spoken of yet, by reason."""
        return dict(self._lost)

    def _encode(self, event: Event, begin: str | None, parent: str | None) -> str:
        """Everything of the line behind the sequence number, redacted; the costly part, outside the lock."""
        data = {name: value for name, value in zip(event._fields, event) if value is not None}
        text, altered = canonical.text_of(data, self._redact)
        begins = f',"begin":"{begin}"' if begin else ""
        parents = f',"parent":"{parent}"' if parent else ""
        alters = f',"altered":{canonical.encode(altered)}' if altered else ""
        return self._redact(
            f',"name":"{name_of(event)}","time":{self._clock()},"mono":{self._monotonic()}'
            f'{begins}{parents}{alters},"data":{text}}}'
        )

    def open(self) -> None:
        """Open the file and write ``producer.started``, if that has not been done."""
        with self._lock:
            if self._fd is None:
                try:
                    self._open()
                except OSError:
                    pass  # the event that follows tries again, and is counted if it fails too

    def _put(self, rest: str) -> int:
        """Write one line and return its number, or 0. The lock is held."""
        try:
            self._let_go_if_closed()
            if self._fd is None:
                self._open()
            seq = self._holes.pop() if self._holes else self._next()
            body = f"{self._head}{seq}{rest}".encode("ascii")
            line = b"%s%08x %s\n" % (self._glue, zlib.crc32(body), body)
        except OSError as error:
            self._count_loss(_reason(error))
            return 0
        reason, written = "short write", 0
        try:
            written = os.write(self._fd, line)  # type: ignore[arg-type]
        except OSError as error:
            reason = _reason(error)
        if written == len(line):
            self._glue = b""
            return seq
        self._cut_back(written)
        if seq == self._seq:
            self._seq -= 1
        else:
            self._holes.append(seq)
        self._count_loss(reason)
        return 0

    def _let_go_if_closed(self) -> None:
        """Forget the descriptor when the agent has closed it: its number may be the agent's now."""
        if self._fd is not None and _file_of(self._fd) != self._file:
            self._fd = None
            self._sealed = True  # by the deliverer: the lock went with the descriptor

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _cut_back(self, written: int) -> None:
        if not written or self._fd is None:
            return
        try:
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
        except OSError:
            self._glue = b"\n"  # the torn piece stays; the next line must not be glued to it

    def _count_loss(self, reason: str) -> None:
        self._lost[reason] = self._lost.get(reason, 0) + 1
        self._mark(LOSSY_MODE)

    def _mark(self, mode: int) -> None:
        if self._fd is not None:
            try:
                os.fchmod(self._fd, mode)
            except OSError:
                pass  # a read-only disk refuses this too; the wrapper then says it on stderr

    def _tell_losses(self) -> None:
        lost, self._lost = self._lost, {}
        if self._put(self._encode(EventsLost(reasons=lost), None, None)):
            self._mark(CLEAN_MODE)
            return
        for reason, count in self._lost.items():
            # the failed attempt to speak counted itself; it is not an event of the agent
            if reason in lost or count > 1:
                lost[reason] = lost.get(reason, 0) + count - 1
        self._lost = lost

    def _drain(self) -> None:
        while self._later:
            try:
                rest = self._later.popleft()
            except IndexError:
                return
            self._put(rest)

    def _open(self) -> None:
        if self._sealed:
            # A finaliser or a daemon thread outlived the seal, or the agent closed our descriptor: what
            # follows belongs to a new producer.
            kept, self._forked_from = self._later, self.producer
            self._reset()
            self._later = kept
        root = self.folder.parent
        for folder in (root.parent, root):
            folder.mkdir(mode=0o700, parents=folder is root.parent, exist_ok=True)
        with held(root, fcntl.LOCK_SH, MOVING_S):  # or not: recording waits for nobody longer than that
            self._open_in_folder()

    def _open_in_folder(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        hidden = self.folder / f".{self.producer}"
        fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, CLEAN_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._file = fd, _file_of(fd)
        self._introduce()
        try:
            os.rename(hidden, self.folder / f"{self.producer}{SUFFIX}")
        except OSError:  # the folder was moved: what is written there is never looked at
            os.close(fd)
            self._fd, self._sealed = None, True
            raise

    def _introduce(self) -> None:
        started = ProducerStarted(
            role=self._role,
            pid=os.getpid(),
            started=process_started(),
            parent_pid=os.getppid(),
            executable=sys.executable or None,
            python=".".join(map(str, sys.version_info[:3])),
            platform=sys.platform,
            version=self._version,
            hooks=self._hooks,
            forked_from=self._forked_from,
        )
        self._put(self._encode(started, None, None))

    # --- process events --------------------------------------------------------------------------

    def _after_fork_in_child(self) -> None:
        """The child owns neither the file nor what its parent had not written yet."""
        self._let_go_if_closed()
        parent, fd = self.producer, self._fd
        self._reset()
        self._forked_from = parent
        if fd is not None:
            # Closing this copy leaves the parent's lock alone: it lives as long as the parent's does.
            os.close(fd)


_spools: weakref.WeakSet[Spool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for spool in list(_spools):
        spool._after_fork_in_child()


def _flush_at_exit() -> None:
    for spool in list(_spools):
        spool.flush()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_flush_at_exit)


def _file_of(fd: int) -> tuple[int, int]:
    """Which file a descriptor stands for; ``(0, 0)`` for none."""
    try:
        found = os.fstat(fd)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


@contextmanager
def held(folder: str | os.PathLike[str], how: int, patience_s: float) -> Iterator[bool]:
    """Holds the spool folder, and says whether that could be had within `patience_s`.

    ``LOCK_SH``: a file begins in one of its runs. ``LOCK_EX``: a run is moved out of it.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield locked(fd, how, time.monotonic() + patience_s)
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # a child forked meanwhile has a copy of the descriptor
        os.close(fd)


def locked(fd: int, how: int, until: float, every_s: float = 0.001) -> bool:
    """Whether the ``flock`` on a descriptor could be had before the monotonic clock says `until`."""
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(every_s)


def _reason(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


# --- reading -------------------------------------------------------------------------------------


class Line(NamedTuple):
    """One whole line of a spool file."""

    offset: int
    """Where the line ends; reading goes on from here."""
    body: bytes | None
    """The canonical JSON; ``None`` when the checksum is wrong."""


class Tail(NamedTuple):
    """What stands behind the last whole line."""

    offset: int
    torn_bytes: int


def read(path: str | os.PathLike[str], offset: int = 0, limit: int = 8 * 1024 * 1024) -> Iterator[Line]:
    """The whole lines of a spool file from `offset` on, in about `limit` bytes.

    A last line without its end is not given: it is being written, or was torn (`tail`).
    """
    with open(path, "rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield Line(offset, _body(line))
            limit -= len(line)
            if limit <= 0:
                return


def tail(path: str | os.PathLike[str], offset: int) -> Tail:
    """How many bytes of an unfinished line stand behind `offset`, the end of the last whole line."""
    return Tail(offset, os.stat(path).st_size - offset)


def is_alive(path: str | os.PathLike[str]) -> bool:
    """Whether the process that writes this spool file still holds it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def is_lossy(path: str | os.PathLike[str]) -> bool:
    """Whether events were lost that the file says nothing of."""
    return bool(os.stat(path).st_mode & 0o100)


def _body(line: bytes) -> bytes | None:
    body = line[9:-1]
    if line[8:9] != b" " or line[:8] != b"%08x" % zlib.crc32(body):
        return None
    return body
