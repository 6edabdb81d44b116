"""The sink over gRPC, and what HTTP and gRPC promise alike, into real journals of both kinds."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from sqlalchemy import text

from agent_shim.errors import DeliveryError, JournalUnreachable
from telemetry import sink
from telemetry.exporter import Exporter
from telemetry.intake import Limits
from telemetry.journal import Journal
from telemetry.otlp import to_record
from telemetry.settings import Endpoint
from tests.recordings import example_run
from tests.test_otlp import in_protobuf
from tests.test_sink import RunningSink, hashes

pytest_plugins = ("tests.backends",)

SIGNALS = {"logs": "logs", "traces": "trace", "metrics": "metrics"}
"""Name in a path → name of the service."""


class Reply(NamedTuple):
    """Of either protocol, in the words of gRPC."""

    code: str
    message: str
    body: bytes
    retry_s: list[int]
    """How long to wait, at each place where it is said."""


class Speaking(RunningSink):
    """A sink that speaks both protocols."""

    def __init__(self, journal: Path | str, **options: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        rpc = sink.Address("127.0.0.1", int(self.address.rpartition(":")[2]))
        super().__init__(journal, rpc=rpc, **options)
        self.channel = grpc.insecure_channel(self.address)

    def stop(self) -> None:
        self.channel.close()
        super().stop()

    def grpc(self, signal: str, body: bytes, **metadata: str) -> Reply:
        return self.grpc_on(self.channel, signal, body, **metadata)

    def grpc_on(self, channel: grpc.Channel, signal: str, body: bytes, **metadata: str) -> Reply:
        name = SIGNALS[signal]
        method = f"/opentelemetry.proto.collector.{name}.v1.{name.capitalize()}Service/Export"
        packing = {"compression": grpc.Compression.Gzip} if metadata.pop("gzip", "") else {}
        try:
            answer = channel.unary_unary(method)(body, timeout=60, metadata=list(metadata.items()), **packing)
        except grpc.RpcError as error:
            return Reply(error.code().name, error.details(), b"", _retry(dict(error.trailing_metadata())))
        return Reply("OK", "", answer, [])

    def http(self, signal: str, body: bytes, **headers: str) -> Reply:
        answer = self.post(f"/v1/{signal}", body, **headers)
        code = HTTP_CODES[answer.status]
        retry = [int(answer.headers["retry-after"])] if "retry-after" in answer.headers else []
        return Reply(code, "" if code == "OK" else answer.message, answer.body, retry)

    def send(self, protocol: str, signal: str, body: bytes, **metadata: str) -> Reply:
        return {"http": self.http, "grpc": self.grpc}[protocol](signal, body, **metadata)

    def health(self, service: str = "") -> str:
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


HTTP_CODES = {
    200: "OK",
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    413: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


def _retry(trailers: dict[str, Any]) -> list[int]:
    found = []
    if "grpc-status-details-bin" in trailers:
        for packed in Status.FromString(trailers["grpc-status-details-bin"]).details:
            retry = RetryInfo()
            assert packed.Unpack(retry)
            found.append(retry.retry_delay.seconds)
    if "google.rpc.retryinfo-bin" in trailers:
        found.append(RetryInfo.FromString(trailers["google.rpc.retryinfo-bin"]).retry_delay.seconds)
    return found


Start = Callable[..., Speaking]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts sinks, and stops them."""
    running: list[Speaking] = []

    def begin(journal: Path | str, **options: Any) -> Speaking:
        running.append(Speaking(journal, **options))
        return running[-1]

    yield begin
    for each in running:
        each.stop()


@pytest.fixture
def running(start: Start, tmp_path: Path) -> Speaking:
    return start(tmp_path / "journal.db")


@pytest.fixture
def bodies(tmp_path: Path) -> list[bytes]:
    return example_run(tmp_path / "spool").bodies()


@pytest.fixture
def request_of(bodies: list[bytes]) -> bytes:
    return in_protobuf([to_record(body) for body in bodies])


def stored(place: Path | str) -> list[bytes]:
    with Journal.open(place) as journal, journal.engine.connect() as connection:
        return [body.encode() for body in connection.scalars(text("SELECT body FROM event"))]


def quarantined(place: Path | str) -> int:
    with Journal.open(place) as journal, journal.engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM quarantine")).scalar_one()


both = pytest.mark.parametrize("protocol", ["http", "grpc"])
every_signal = pytest.mark.parametrize("signal", list(SIGNALS))


# --- what both promise ------------------------------------------------------------------------------


@both
def test_the_same_request_at_the_same_time_and_later_is_stored_once(
    start: Start, place: str, bodies: list[bytes], request_of: bytes, protocol: str
) -> None:
    running = start(place)
    with ThreadPoolExecutor(6) as threads:
        replies = list(threads.map(lambda _: running.send(protocol, "logs", request_of), range(12)))
    assert {(reply.code, reply.body) for reply in replies} == {("OK", b"")}
    assert running.send(protocol, "logs", request_of).code == "OK"
    assert hashes(stored(place)) == hashes(bodies)


@both
@every_signal
def test_an_empty_request_and_empty_envelopes_are_a_full_success(
    running: Speaking, protocol: str, signal: str
) -> None:
    envelope = b"\x0a\x00"  # one resource with nothing in it, the same in all three messages
    assert running.send(protocol, signal, b"") == Reply("OK", "", b"", [])
    assert running.send(protocol, signal, envelope) == Reply("OK", "", b"", [])


@both
@every_signal
def test_what_cannot_be_decoded_is_refused_for_good(
    running: Speaking, tmp_path: Path, request_of: bytes, protocol: str, signal: str
) -> None:
    reply = running.send(protocol, signal, request_of[:-1] + b"\xff")
    assert (reply.code, reply.retry_s) == ("INVALID_ARGUMENT", [])
    assert "export request" in reply.message
    assert stored(tmp_path / "journal.db") == []


@both
def test_records_that_are_no_events_are_kept_with_a_warning_and_their_neighbours_stored(
    start: Start, place: str, bodies: list[bytes], protocol: str
) -> None:
    running = start(place)
    records = [to_record(body) for body in bodies]
    poison = [records[0]._replace(body=each) for each in ("", '{"v":99}', "\0", "[" * 50_000)]
    reply = running.send(protocol, "logs", in_protobuf([*poison, *records]))
    partial = ExportLogsServiceResponse.FromString(reply.body).partial_success
    assert (reply.code, partial.rejected_log_records) == ("OK", 0)
    assert partial.error_message.startswith("4 records")
    assert (hashes(stored(place)), quarantined(place)) == (hashes(bodies), 4)


@both
def test_a_conflicting_event_is_kept_beside_the_first(
    start: Start, place: str, bodies: list[bytes], request_of: bytes, protocol: str
) -> None:
    running = start(place)
    other = bodies[0].replace(b'"pid":', b'"pid":9')
    running.send(protocol, "logs", request_of)
    assert b"quarantine" in running.send(protocol, "logs", in_protobuf([to_record(other)])).body
    assert (hashes(stored(place)), quarantined(place)) == (hashes(bodies), 1)


@both
def test_spans_with_bad_ids_are_rejected_one_by_one(running: Speaking, protocol: str) -> None:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for trace_id, span_id in ((16 * b"t", 8 * b"s"), (bytes(16), 8 * b"s"), (16 * b"t", b"s"), (b"", b"")):
        spans.add(trace_id=trace_id, span_id=span_id, parent_span_id=b"")
    reply = running.send(protocol, "traces", request.SerializeToString())
    partial = ExportTraceServiceResponse.FromString(reply.body).partial_success
    assert (reply.code, partial.rejected_spans, bool(partial.error_message)) == ("OK", 3, True)


@both
def test_metrics_are_counted(running: Speaking, protocol: str) -> None:
    request = ExportMetricsServiceRequest()
    request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    assert running.send(protocol, "metrics", request.SerializeToString()).code == "OK"
    assert running.received()["metrics"] == 1


@both
@pytest.mark.parametrize("gzip", ["", "yes"])
def test_a_request_beyond_the_bound_is_refused_and_not_asked_for_again(
    start: Start, tmp_path: Path, protocol: str, gzip: str
) -> None:
    """As sent, and as inflated: 20,000 zeros are a few bytes in gzip."""
    small = start(tmp_path / "journal.db", limits=Limits(body_bytes=10_000))
    if protocol == "http" and gzip:
        import gzip as packer

        reply = small.http("logs", packer.compress(bytes(20_000)), content_encoding="gzip")
    else:
        reply = small.send(protocol, "logs", bytes(20_000), **({"gzip": gzip} if gzip else {}))
    assert (reply.code, reply.retry_s) == ("RESOURCE_EXHAUSTED", [])


@both
def test_a_locked_journal_is_a_reason_to_come_again(
    start: Start, tmp_path: Path, bodies: list[bytes], request_of: bytes, protocol: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The time to wait is below what Python's clients take, at every place where clients look for it."""
    monkeypatch.setattr(sink, "PATIENCE_S", 0.1)
    journal = tmp_path / "journal.db"
    running = start(journal)
    with contextlib.closing(sqlite3.connect(journal, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        reply = running.send(protocol, "logs", request_of)
        other.execute("ROLLBACK")
    assert (reply.code, "locked" in reply.message) == ("UNAVAILABLE", True)
    assert len(reply.retry_s) == {"http": 1, "grpc": 2}[protocol]
    assert all(0 < seconds < 8 for seconds in reply.retry_s)
    assert running.send(protocol, "logs", request_of).code == "OK"
    assert hashes(stored(journal)) == hashes(bodies)


@both
def test_what_all_requests_hold_together_is_bounded(
    start: Start, tmp_path: Path, bodies: list[bytes], request_of: bytes, protocol: str
) -> None:
    small = start(tmp_path / "journal.db", limits=Limits(total_bytes=len(request_of) * 2))
    reply = small.send(protocol, "logs", in_protobuf([to_record(body) for body in bodies * 3]))
    assert (reply.code, bool(reply.retry_s)) == ("UNAVAILABLE", True)
    assert small.send(protocol, "logs", request_of).code == "OK"


@both
@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic secret", "secret"])
def test_nothing_is_taken_without_the_token(
    start: Start, tmp_path: Path, request_of: bytes, protocol: str, given: str | None
) -> None:
    guarded = start(tmp_path / "journal.db", token="secret")
    told = {} if given is None else {"authorization": given}
    reply = guarded.send(protocol, "logs", request_of, **told)
    assert (reply.code, reply.retry_s) == ("UNAUTHENTICATED", [])
    assert stored(tmp_path / "journal.db") == []
    assert guarded.send(protocol, "logs", request_of, authorization="bearer secret").code == "OK"


@both
def test_a_fault_of_ours_makes_no_client_drop_what_it_has(
    running: Speaking, request_of: bytes, protocol: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Journal, "ingest", fail)
    reply = running.send(protocol, "logs", request_of)
    assert (reply.code, reply.message) == ("UNAVAILABLE", "not now: ZeroDivisionError")
    if protocol == "grpc":
        assert "Traceback" in caplog.text


@both
def test_a_text_of_a_mebibyte_survives_unchanged(
    start: Start, place: str, bodies: list[bytes], protocol: str
) -> None:
    running = start(place)
    huge = bodies[0].replace(b'"pid":', b'"note":"' + b"\xc3\xa9" * 2**19 + b'","pid":')
    assert running.send(protocol, "logs", in_protobuf([to_record(huge)])).code == "OK"
    assert stored(place) == [huge]


# --- gRPC alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_the_official_exporter_delivers_over_grpc(
    start: Start, place: str, bodies: list[bytes], compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compression:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret")
    running = start(place, token="secret")
    exporter = Exporter(logs=Endpoint(f"http://{running.address}", "grpc"), traces=None)
    exporter.events(bodies)
    exporter.close()
    assert hashes(stored(place)) == hashes(bodies)


def test_the_official_exporter_comes_again_when_it_is_told_to(
    running: Speaking, tmp_path: Path, bodies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And succeeds at the second try, within its own deadline of 10 s."""
    monkeypatch.setattr("telemetry.grpc_receiver.RETRY_AFTER_S", 1)
    take, tries = Journal.ingest, [0]

    def ingest(*given: Any) -> Any:
        tries[0] += 1
        if tries[0] == 1:
            raise JournalUnreachable("not yet")
        return take(*given)

    monkeypatch.setattr(Journal, "ingest", ingest)
    exporter = Exporter(logs=Endpoint(f"http://{running.address}", "grpc"), traces=None)
    exporter.events(bodies)
    exporter.close()
    assert tries == [2]
    assert hashes(stored(tmp_path / "journal.db")) == hashes(bodies)


def test_a_wrong_token_is_said_by_the_exporter(
    start: Start, tmp_path: Path, bodies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20wrong")
    running = start(tmp_path / "journal.db", token="secret")
    exporter = Exporter(logs=Endpoint(f"http://{running.address}", "grpc"), traces=None)
    with pytest.raises(DeliveryError, match="UNAUTHENTICATED"):
        exporter.events(bodies)
    exporter.close()


def test_many_requests_on_one_connection_and_on_many_store_every_event_once(
    start: Start, place: str, tmp_path: Path, bodies: list[bytes]
) -> None:
    running = start(place)
    single = [in_protobuf([to_record(body)]) for body in bodies]
    channels = [
        grpc.insecure_channel(running.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(3)
    ]
    with ThreadPoolExecutor(12) as threads:
        turns = [(channels[at % 3], body) for at in range(3) for body in single]
        codes = set(threads.map(lambda turn: running.grpc_on(turn[0], "logs", turn[1]).code, turns))
    for channel in channels:
        channel.close()
    assert codes == {"OK"}
    assert hashes(stored(place)) == hashes(bodies)


def test_a_bomb_does_not_get_through(start: Start, tmp_path: Path) -> None:
    """64 MiB of zeros, 64 kB in gzip, against a bound of 1 MiB."""
    small = start(tmp_path / "journal.db", limits=Limits(body_bytes=2**20))
    assert small.grpc("logs", bytes(2**26), gzip="yes").code == "RESOURCE_EXHAUSTED"
    assert small.health() == "SERVING"


def test_health_follows_the_journal(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "PATIENCE_S", 0.1)
    (tmp_path / "folder").write_text("in the way")
    running = start(tmp_path / "folder" / "journal.db")
    assert running.health() == "NOT_SERVING"
    (tmp_path / "folder").unlink()
    assert running.health() == "SERVING"
    assert running.health("opentelemetry.proto.collector.logs.v1.LogsService") == "SERVING"
    with pytest.raises(grpc.RpcError) as caught:
        running.health("another")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_asked_to_stop_it_answers_what_it_has_taken(
    running: Speaking, tmp_path: Path, bodies: list[bytes], request_of: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, entered, go_on = Journal.ingest, threading.Event(), threading.Event()

    def ingest(*given: Any) -> Any:
        entered.set()
        go_on.wait()
        return take(*given)

    monkeypatch.setattr(Journal, "ingest", ingest)
    with ThreadPoolExecutor(1) as thread:
        reply = thread.submit(running.grpc, "logs", request_of)
        entered.wait()
        running.server.should_exit = True
        go_on.set()
        assert reply.result().code == "OK"
    assert hashes(stored(tmp_path / "journal.db")) == hashes(bodies)


def test_a_method_that_is_not_there_is_unimplemented(running: Speaking) -> None:
    method = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"
    with pytest.raises(grpc.RpcError) as caught:
        running.channel.unary_unary(method)(b"", timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
