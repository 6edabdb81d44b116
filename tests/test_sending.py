"""``send``: a recorded run, replayed from real journals of both kinds to a real endpoint."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agent_shim.errors import DeliveryError
from telemetry import sending
from telemetry.exporter import Exporter
from telemetry.journal import Journal
from telemetry.sending import send
from telemetry.settings import Endpoint
from telemetry.spans import SpanFold
from tests.recordings import RUN, example_run
from tests.test_sink import RunningSink, hashes, stored

pytest_plugins = ("tests.backends",)


class Backend(HTTPServer):
    """Keeps what it is sent; it does not know the paths in `refused`, nor takes what holds `never`."""

    def __init__(self, *refused: str, never: bytes = b"\0none") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refused = refused
        self.never = never
        self.taken: list[tuple[str, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()

    def exporter(self) -> Exporter:
        ends = [Endpoint(f"{self.url}/v1/{signal}", "http/protobuf") for signal in ("logs", "traces")]
        return Exporter(logs=ends[0], traces=ends[1])


class _Handler(BaseHTTPRequestHandler):
    server: Backend

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = 404 if self.path in self.server.refused else 400 if self.server.never in body else 200
        if status == 200:
            self.server.taken.append((self.path, body))
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    backend.stop()


def test_spans_have_their_first_times_and_ids_and_nothing_is_doubled(
    place: str, tmp_path: Path, backend: Backend
) -> None:
    recording = example_run(tmp_path / "spool")
    fold = SpanFold()
    first = [span for event in recording.events() for span in fold.add(event)] + fold.rest()
    with Journal.open(place) as journal:
        journal.ingest(recording.bodies(), "test")
        sent = send(journal.engine, RUN, backend.exporter())
    spans = [
        span
        for path, body in backend.taken
        if path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    wanted = {(s.trace_id, s.span_id, s.parent_span_id or "", s.name, s.start_ns, s.end_ns) for s in first}
    found = [
        (s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex(), s.name, s.start_time_unix_nano,
         s.end_time_unix_nano)
        for s in spans
    ]  # fmt: skip
    assert (len(found), set(found)) == (len(wanted), wanted)
    assert sent == (len(recording.bodies()), len(first), [])


def test_log_records_are_the_events_as_they_were(tmp_path: Path, backend: Backend) -> None:
    recording = example_run(tmp_path / "spool")
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.ingest(recording.bodies(), "test")
        send(journal.engine, RUN, backend.exporter())
    records = [
        record
        for path, body in backend.taken
        if path == "/v1/logs"
        for resource in ExportLogsServiceRequest.FromString(body).resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]
    times = {event["time"] for event in recording.events()}
    assert {record.time_unix_nano for record in records} == times
    assert hashes([record.body.string_value.encode() for record in records]) == hashes(recording.bodies())


def test_an_endpoint_that_takes_no_logs_gets_the_spans(tmp_path: Path) -> None:
    recording, tracing = example_run(tmp_path / "spool"), Backend("/v1/logs")
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.ingest(recording.bodies(), "test")
        sent = send(journal.engine, RUN, tracing.exporter())
    tracing.stop()
    assert (sent.events, sent.spans > 0, len(sent.refused)) == (0, True, 1)


def test_what_is_refused_for_good_holds_nothing_else_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_AT_ONCE", 1)
    recording, picky = example_run(tmp_path / "spool"), Backend(never=b"tool.call.started")
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.ingest(recording.bodies(), "test")
        sent = send(journal.engine, RUN, picky.exporter())
    picky.stop()
    lost = sum(b'"tool.call.started"' in body for body in recording.bodies())
    assert (sent.events, sent.spans > 0) == (len(recording.bodies()) - lost, True)
    assert len(sent.refused) == lost > 0


def test_an_endpoint_that_takes_neither_is_an_error(tmp_path: Path) -> None:
    recording, nothing = example_run(tmp_path / "spool"), Backend("/v1/logs", "/v1/traces")
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.ingest(recording.bodies(), "test")
        with pytest.raises(DeliveryError, match="Nothing was sent"):
            send(journal.engine, RUN, nothing.exporter())
    nothing.stop()


def test_what_could_not_be_sent_by_hand_is_not_promised_for_later(tmp_path: Path) -> None:
    recording, nothing = example_run(tmp_path / "spool"), Backend()
    nothing.stop()
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.ingest(recording.bodies(), "test")
        with pytest.raises(DeliveryError, match="did not accept") as refused:
            send(journal.engine, RUN, nothing.exporter())
    assert refused.value.hint == "See whether an OpenTelemetry endpoint listens there."


def test_the_command_sends_the_last_run_into_another_journal(tmp_path: Path) -> None:
    """Sent twice, the sink has every event once."""
    recording = example_run(tmp_path / "spool")
    with Journal.open(tmp_path / "from.db") as journal:
        journal.ingest(recording.bodies(), "test")
    running = RunningSink(tmp_path / "to.db")
    environ = {**os.environ, "AGENT_TELEMETRY_HOME": str(tmp_path / "home")}
    words = ["send", "--journal", str(tmp_path / "from.db"), "--endpoint", f"http://127.0.0.1:{running.port}"]
    code = "from telemetry.cli import main; main()"
    for _ in range(2):
        asked = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=Path(__file__).parent.parent, env=environ, capture_output=True, text=True,
        )  # fmt: skip
        assert asked.returncode == 0, asked.stderr
        assert f"{len(recording.bodies())} log records" in asked.stderr
    running.stop()
    assert hashes(stored(tmp_path / "to.db")) == hashes(recording.bodies())
