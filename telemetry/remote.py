"""A journal on another machine, reached through its sink: ``AGENT_TELEMETRY_JOURNAL=http://host:4319``.

Promises, each with its test in ``tests/test_remote.py``:

* `RemoteJournal.ingest` returns after the sink has committed; what it raises from was not acknowledged and
  can be sent again.
* It asks for the ranges that the journal holds and for attempt numbers in the words of `Journal` itself.
* The sink's token comes from the environment (``AGENT_TELEMETRY_SINK_TOKEN``) and is in no message.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote

import requests

from agent_shim.errors import JournalUnreachable, SettingsError
from telemetry import otlp
from telemetry.journal import Ingested
from telemetry.settings import without_password

TOKEN = "AGENT_TELEMETRY_SINK_TOKEN"
TIMEOUT_S = 15.0
"""For one request; the sink itself gives up after 4 s of waiting for others that write."""
MAX_BATCH_BYTES = 4 * 1024 * 1024
"""Of event bodies in one request: a fifth of what a sink takes."""
_MAX_REASON = 300


class RemoteJournal:
    """What a deliverer and a wrapper ask of a journal, asked of its sink. For one thread."""

    def __init__(self, url: str, environ: Mapping[str, str], *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._session = requests.Session()
        token = environ.get(TOKEN)
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def __enter__(self) -> RemoteJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ingest(self, bodies: Sequence[bytes], _source: str) -> Ingested:
        """Have the sink store event bodies; it does not say how many of them it had already.

        Raises `JournalUnreachable`; then they are to be sent again.
        """
        for batch in _batches(bodies):
            self._ask("POST", "/v1/logs", data=otlp.encode_bodies(batch), kind=otlp.PROTOBUF)
        return Ingested(len(bodies), 0, 0, 0)

    def held(self, run_id: str) -> dict[str, list[tuple[int, int]]]:
        """Producer → ranges of sequence numbers, both ends included, that the journal holds of a run."""
        found = self._json(self._ask("GET", f"/v1/runs/{quote(run_id, safe='')}/held"))
        try:
            return {producer: [(int(a), int(b)) for a, b in ranges] for producer, ranges in found.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise self._unreachable("it answers as no sink does") from error

    def reserve(
        self, run_id: str, repository: str | None, commit: str | None, agent: str | None, model: str | None
    ) -> int:
        """The number of the attempt that a run is (`attempts.reserve`)."""
        asked = {"run": run_id, "repository": repository, "commit": commit, "agent": agent, "model": model}
        answer = self._ask("POST", "/v1/attempts", data=json.dumps(asked).encode(), kind=otlp.JSON)
        try:
            return int(self._json(answer)["attempt"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._unreachable("it answers as no sink does") from error

    def admit(
        self, run_id: str, wanted: Mapping[str, str | None], limit: int, policy: str | None
    ) -> dict[str, Any]:
        """What the sink decides of a limited attempt (`admission.decide`)."""
        asked = {"run": run_id, **wanted, "limit": limit, "policy": policy}
        answer = self._json(
            self._ask("POST", "/v1/attempts", data=json.dumps(asked).encode(), kind=otlp.JSON)
        )
        if not isinstance(answer, dict) or answer.keys().isdisjoint(("attempt", "refused")):
            raise self._unreachable("it answers as no sink does")
        return answer

    def _ask(self, method: str, path: str, *, data: bytes | None = None, kind: str = "") -> requests.Response:
        headers = {"Content-Type": kind} if kind else {}
        try:
            answer = self._session.request(
                method, self._url + path, data=data, headers=headers, timeout=self._timeout_s,
                allow_redirects=False,
            )  # fmt: skip
        except requests.RequestException as error:
            raise self._unreachable(first_cause(error)) from error
        if answer.status_code == 400 and kind == otlp.JSON:
            raise SettingsError(_reason(answer))
        if answer.status_code != 200:
            raise self._unreachable(_reason(answer))
        return answer

    def _json(self, answer: requests.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise self._unreachable("it answers as no sink does") from error

    def _unreachable(self, why: str) -> JournalUnreachable:
        return JournalUnreachable(
            f"The sink {without_password(self._url)} did not answer as it should: {why[:_MAX_REASON]}",
            hint=f"Check AGENT_TELEMETRY_JOURNAL and {TOKEN}; events stay in the spool until it answers.",
        )


def first_cause(error: BaseException) -> str:
    """What the system said of a request that failed: what libraries make of it names their objects."""
    while not isinstance(error, OSError) or isinstance(error, requests.RequestException):
        deeper = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if deeper is None:
            break
        error = deeper
    return str(error)


def _batches(bodies: Sequence[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for body in bodies:
        if batch and size + len(body) > MAX_BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += len(body)
    if batch:
        yield batch


def _reason(answer: requests.Response) -> str:
    """The message in the status that a sink gives with every refusal."""
    kind = answer.headers.get("content-type", "")
    return f"{answer.status_code} {otlp.message_of(answer.content, kind) or answer.reason}"
