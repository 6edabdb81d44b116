"""The one boundary between hooks and spool: whatever fails on our side stays on our side.

A `Recorder` writes the events of one run from this process. It never raises: a failure of ours becomes
a ``capture.failed`` event, counted, at most one a second per place. Which recorder a hook writes to is
decided by `current`: the one of the surrounding ``with agent_shim.run()``, else the one of the process.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextvars import ContextVar
from typing import Any, Callable, Mapping

from .canonical import digest
from .events import CaptureFailed, Event
from .redaction import Redactor, live_secrets
from .spool import Spool

PRIVATE_NAME = "_agent_telemetry_shim"
"""Name under which `bootstrap` loads this package into an agent."""

INLINE_ARGUMENTS = 200
"""Arguments and results up to this many characters are kept when content is not; longer ones are told
apart by length and hash."""

MAX_MESSAGE = 4096
"""Characters of an error message that are kept."""


class Recorder:
    """Writes events of one run; what hooks need to know of it stands beside.

    `parent` is the id of the begin event that everything at top level happens in. `content` says whether
    prompt and tool content is kept. `usage_hosts` are the hosts, beside the known ones, that are asked
    for usage at the end of a stream; ``None`` turns that off.
    """

    def __init__(
        self,
        spool: Spool,
        redactor: Redactor,
        *,
        parent: str | None = None,
        content: bool = False,
        usage_hosts: frozenset[str] | None = frozenset(),
    ) -> None:
        self.spool = spool
        self.redactor = redactor
        self.parent = parent
        self.content = content
        self.usage_hosts = usage_hosts
        self._failures: dict[str, tuple[float, int]] = {}

    def record(self, event: Event, *, begin: str | None = None, parent: str | None = None) -> str:
        """Write an event and return its id, ``""`` when that was not possible."""
        try:
            return self.spool.append(event, begin=begin, parent=parent)
        except Exception as error:
            self.failed("record", error)
            return ""

    def record_later(self, event: Event, *, begin: str) -> None:
        """Keep an end event for the next chance to write; takes no lock, for finalisers."""
        try:
            self.spool.append_later(event, begin=begin)
        except Exception as error:
            self.failed("record_later", error, later=True)

    def failed(self, where: str, error: BaseException, *, later: bool = False) -> None:
        """Record that our own code failed at `where`."""
        try:
            now = time.monotonic()
            last, count = self._failures.get(where, (float("-inf"), 0))
            if now - last < 1.0:
                self._failures[where] = (last, count + 1)
                return
            self._failures[where] = (now, 0)
            event = CaptureFailed(
                where=where, error_type=error_type(error), error_message=message_of(error), times=count + 1
            )
            (self.spool.append_later if later else self.spool.append)(event)
        except Exception:
            pass  # nothing is left to say it with


def error_type(error: BaseException) -> str:
    """The class of an exception as its users write it: ``openai.RateLimitError``, ``ValueError``."""
    kind = type(error)
    package = kind.__module__.partition(".")[0]
    return kind.__qualname__ if package == "builtins" else f"{package}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    """The exception's text, at most `MAX_MESSAGE` characters; never empty."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return text[:MAX_MESSAGE] or type(error).__qualname__


def is_cancellation(error: BaseException) -> bool:
    """Whether the exception ends a call without saying anything about it (cancelled, interrupted)."""
    return not isinstance(error, Exception)


# --- which recorder ------------------------------------------------------------------------------

in_context: ContextVar[Recorder | None] = ContextVar("agent_telemetry_recorder", default=None)
parent_in_context: ContextVar[str | None] = ContextVar("agent_telemetry_parent", default=None)
"""Id of the begin event that surrounds the current context, below the recorder's own parent."""

_lock = threading.Lock()
_active: list[Recorder] = []
_first_use: Callable[[], Recorder | None] | None = None


def current() -> Recorder | None:
    """The recorder of this context; in a thread that has none, the process's latest active one.

    In an agent that a wrapper started, a copy of this package that the agent imports by its usual name
    records through the private copy that `bootstrap` loaded: one process, one producer.
    """
    recorder = in_context.get()
    if recorder is not None:
        return recorder
    if _active:
        return _active[-1]
    private = sys.modules.get(f"{PRIVATE_NAME}.recorder")
    if private is not None and private.__name__ != __name__:
        found: Recorder | None = private.current()
        return found
    return _first_use() if _first_use is not None else None


def parent(recorder: Recorder) -> str | None:
    """The begin event that whatever begins now happens in."""
    return parent_in_context.get() or recorder.parent


def activate(recorder: Recorder) -> None:
    """Make `recorder` the one of the process, for threads and contexts that have none."""
    with _lock:
        _active.append(recorder)


def deactivate(recorder: Recorder) -> None:
    """End what `activate` began."""
    with _lock:
        if recorder in _active:
            _active.remove(recorder)


def active() -> list[Recorder]:
    """The active recorders of this process, for what concerns all of them."""
    return list(_active)


def on_first_use(make: Callable[[], Recorder | None] | None) -> None:
    """What gives a recorder to a hook that finds none (``agent_shim.instrument()`` without a run)."""
    global _first_use
    _first_use = make


def is_on(environ: Mapping[str, str], switch: str) -> bool:
    """Whether a variable switches something on."""
    return environ.get(switch, "").strip().lower() in ("1", "true", "yes", "on")


def usage_hosts(setting: str) -> frozenset[str] | None:
    """The value of ``AGENT_TELEMETRY_INCLUDE_USAGE``: ``on``, ``off`` or further hosts, by commas."""
    word = setting.strip().lower()
    if word in ("off", "0", "false", "no"):
        return None
    if word in ("", "on", "1", "true", "yes"):
        return frozenset()
    return frozenset(host.strip().lower() for host in setting.split(",") if host.strip())


def from_environment(environ: Mapping[str, str], hooks: list[str]) -> Recorder | None:
    """The recorder for a process that a wrapper started; ``None`` when none did."""
    home, run = environ.get("AGENT_TELEMETRY_HOME"), environ.get("AGENT_TELEMETRY_RUN")
    if not home or not run:
        return None
    redactor = Redactor(live_secrets(environ))
    spool = Spool(os.path.join(home, "spool"), run, role="agent", redact=redactor, hooks=hooks)
    return Recorder(
        spool,
        redactor,
        parent=environ.get("AGENT_TELEMETRY_PARENT"),
        content=is_on(environ, "AGENT_TELEMETRY_CONTENT"),
        usage_hosts=usage_hosts(environ.get("AGENT_TELEMETRY_INCLUDE_USAGE", "")),
    )


def kept_text(recorder: Recorder, text: str) -> dict[str, Any]:
    """`text` as its length and hash, and itself where it is short or content is kept."""
    raw = text.encode("utf-8", "replace")
    kept: dict[str, Any] = {"bytes": len(raw), "sha256": digest(raw)}
    if recorder.content or len(text) <= INLINE_ARGUMENTS:
        kept["text"] = text
    return kept
