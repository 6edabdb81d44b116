"""Claims held against each request as it is sent, while the agent still runs.

Promises, each with its test in ``tests/test_claim_watch.py``:

* The first request that refutes a claim is told at once, and is an event; it is told once.
* Nothing of it reaches the agent, unless the claims are strict: then the run is ended as by SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agent_shim import spool
from agent_shim.events import ClaimChecked, ClaimMade, event_id
from telemetry import claims, places

POLL_S = 0.1
_STARTED = b'"name":"llm.call.started"'


class ClaimWatch(threading.Thread):
    """Follows the spool of a run's other producers."""

    def __init__(
        self,
        folder: Path,
        own: str,
        made: Sequence[ClaimMade],
        record: Callable[[ClaimChecked], object],
        say: Callable[[str], None],
        *,
        strict: bool,
    ) -> None:
        super().__init__(daemon=True)
        self._folder, self._own, self._strict = folder, own, strict
        self._open = {claim.name: claim for claim in made}
        self._record, self._say = record, say
        self._read: dict[str, int] = {}
        self._over = threading.Event()
        self.ended_by: str | None = None
        """The refutation for which the run was ended."""

    def run(self) -> None:
        """Look until told to stop, and once more then."""
        while not self._over.wait(POLL_S):
            self._look()
        self._look()

    def stop(self) -> None:
        """See the last requests, and end."""
        self._over.set()
        self.join()

    def _look(self) -> None:
        for event in self._requests():
            for claim in list(self._open.values()):
                self._check(claim, event)

    def _requests(self) -> Iterator[dict[str, Any]]:
        for path in places.producers(self._folder):
            if path.stem != self._own:
                for line in spool.read(path, self._read.get(path.stem, 0)):
                    self._read[path.stem] = line.offset
                    if line.body is not None and _STARTED in line.body:
                        yield json.loads(line.body)

    def _check(self, claim: ClaimMade, event: dict[str, Any]) -> None:
        call = _call(event)
        without = frozenset() if event["data"].get("tool_names") else frozenset((call.call_id,))
        found = claims.check(claim.name, claim.value, [call], (), without)
        if found.verdict != claims.REFUTED:
            return
        del self._open[claim.name]
        told = found._asdict() | {"events": list(found.events)}
        self._record(ClaimChecked(name=claim.name, value=claim.value, **told))
        refuted = f"claim {claim.name}={claim.value} is refuted: {found.reason}"
        self._say(f"{refuted}; the run is ended" if self._strict else refuted)
        if self._strict and not self._over.is_set():
            self.ended_by = self.ended_by or refuted
            os.kill(os.getpid(), signal.SIGTERM)


def _call(event: dict[str, Any]) -> Any:
    """A row of ``llm_call``, as far as the begin of a call tells it."""
    data = event["data"]
    return SimpleNamespace(
        call_id=event_id(event["producer"], event["seq"]),
        source="wire",
        parameters=json.dumps(data.get("parameters") or {}),
        absent=json.dumps(data.get("absent") or []),
        surface=data.get("surface"),
        path=data.get("path"),
        model_requested=data.get("model"),
        model=None,
        tool_calls=None,
    )
