"""The sink over real sockets, into a real journal: what it acknowledged is stored, once."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import random
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from sqlalchemy import Engine, event, text

from agent_shim import events
from agent_shim.canonical import digest
from agent_shim.errors import JournalTooNew, SettingsError
from telemetry import sink
from telemetry.exporter import Exporter, SignalRefused
from telemetry.intake import Limits
from telemetry.journal import Delivery, Ingested, Journal
from telemetry.otlp import JSON, MAX_MESSAGE, PROTOBUF, to_record
from telemetry.settings import Endpoint
from telemetry.spans import SpanFold
from tests.recordings import RUN, Recording, example_run
from tests.test_otlp import JSON_REQUEST, in_json, in_protobuf

pytest_plugins = ("tests.backends",)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """Of a failure, in the encoding that the answer names."""
        if self.headers["content-type"] == PROTOBUF:
            return Status.FromString(self.body).message
        return json.loads(self.body)["message"]


class Client:
    """Speaks plain HTTP to a port."""

    def __init__(self, port: int) -> None:
        self.port = port

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def post(self, path: str, body: Any, kind: str = PROTOBUF, **headers: str) -> Answer:
        return self.request("POST", path, body, content_type=kind, **headers)

    def logs(self, bodies: Sequence[bytes], kind: str = PROTOBUF, **headers: str) -> Answer:
        encode = in_protobuf if kind == PROTOBUF else in_json
        return self.post("/v1/logs", encode([to_record(body) for body in bodies]), kind, **headers)

    def received(self) -> dict[str, int]:
        return json.loads(self.request("GET", "/readyz").body)["received"]


class RunningSink(Client):
    """A sink in a thread, on a port of its own."""

    def __init__(self, journal: Path | str, **options: Any) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        super().__init__(listener.getsockname()[1])
        self.server = sink.server(sink.Writer(str(journal)), **options)
        self._thread = threading.Thread(target=self._run, args=(listener,))
        self._thread.start()
        while not self.server.started:
            time.sleep(0.005)

    def _run(self, listener: socket.socket) -> None:
        with listener:
            self.server.run(sockets=[listener])

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join()


Start = Callable[..., RunningSink]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts sinks, and stops them."""
    running: list[RunningSink] = []

    def begin(journal: Path | str | None = None, **options: Any) -> RunningSink:
        running.append(RunningSink(journal or tmp_path / "journal.db", **options))
        return running[-1]

    yield begin
    for each in running:
        each.stop()


@pytest.fixture
def running(start: Start) -> RunningSink:
    return start()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSink]:
    """For tests that store nothing."""
    running = RunningSink(tmp_path_factory.mktemp("sink") / "journal.db")
    yield running
    running.stop()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def bodies(tmp_path: Path) -> list[bytes]:
    return example_run(tmp_path / "spool").bodies()


def rows(journal: Path, table: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(journal)) as database:
        return sorted(database.execute(f"SELECT * FROM {table}"), key=repr)


def stored(journal: Path) -> list[bytes]:
    with contextlib.closing(sqlite3.connect(journal)) as database:
        return [body.encode() for (body,) in database.execute("SELECT body FROM event")]


def hashes(bodies: Sequence[bytes]) -> list[str]:
    return sorted(digest(body) for body in bodies)


VIEWS = ("event", "run", "producer", "llm_call", "llm_request", "tool_call", "usage", "quarantine")

PACKED = gzip.compress(b"{}")

both_encodings = pytest.mark.parametrize("kind", [PROTOBUF, JSON])


# --- the whole way --------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_events_have_the_same_hash_in_the_spool_and_in_the_journal(
    running: RunningSink,
    journal: Path,
    bodies: list[bytes],
    compression: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through the official exporter, the server and the database."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    endpoint = Endpoint(f"http://127.0.0.1:{running.port}/v1/logs", "http/protobuf")
    exporter = Exporter(logs=endpoint, traces=None)
    exporter.events(bodies)
    exporter.close()
    assert hashes(stored(journal)) == hashes(bodies)
    assert {row[5].hex() for row in rows(journal, "event")} == set(hashes(bodies))


def test_our_own_spans_are_taken_and_ignored(running: RunningSink, tmp_path: Path, journal: Path) -> None:
    fold = SpanFold()
    spans = [span for event in example_run(tmp_path / "s").events() for span in fold.add(event)]
    endpoint = Endpoint(f"http://127.0.0.1:{running.port}/v1/traces", "http/protobuf")
    exporter = Exporter(logs=None, traces=endpoint)
    exporter.spans(spans)
    exporter.close()
    assert running.received()["own_spans"] == len(spans)
    assert stored(journal) == []


@pytest.mark.parametrize("seed", range(4))
def test_duplicates_and_any_order_of_requests_give_the_same_journal(
    start: Start, tmp_path: Path, bodies: list[bytes], seed: int
) -> None:
    in_order, shuffled = tmp_path / "in-order.db", tmp_path / "shuffled.db"
    assert start(in_order).logs(bodies).status == 200
    mixed = random.Random(seed)
    sent = bodies + mixed.sample(bodies, 7)
    mixed.shuffle(sent)
    other = start(shuffled)
    while sent:
        size = mixed.randint(1, 4)
        assert other.logs(sent[:size], mixed.choice([PROTOBUF, JSON])).status == 200
        del sent[:size]
    for view in VIEWS:
        assert rows(shuffled, view) == rows(in_order, view)


def test_requests_at_the_same_time_store_every_event_once(
    running: RunningSink, tmp_path: Path, journal: Path
) -> None:
    runs = [Recording(tmp_path / "spool", run=f"{number:032x}") for number in range(1, 6)]
    for recording in runs:
        process = recording.process()
        for _ in range(8):
            process.append(events.ToolCallStarted("t"))
    bodies = [body for recording in runs for body in recording.bodies()]
    bodies = [body.replace(b"018f3a5c", f"018f3a{at // 9:02x}".encode()) for at, body in enumerate(bodies)]
    with ThreadPoolExecutor(8) as threads:
        chunks = [bodies[at : at + 3] for at in range(0, len(bodies), 3)] * 3
        statuses = set(threads.map(lambda chunk: running.logs(chunk).status, chunks))
    assert statuses == {200}
    assert hashes(stored(journal)) == hashes(bodies)


# --- the protocol -----------------------------------------------------------------------------------


@both_encodings
@pytest.mark.parametrize("path", ["/v1/logs", "/v1/traces", "/v1/metrics"])
def test_an_empty_request_is_a_full_success(shared: RunningSink, kind: str, path: str) -> None:
    answer = shared.post(path, b"" if kind == PROTOBUF else b"{}", kind)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert answer.body == (b"" if kind == PROTOBUF else b"{}")


@both_encodings
def test_both_encodings_are_taken_on_one_port(
    running: RunningSink, journal: Path, bodies: list[bytes], kind: str
) -> None:
    answer = running.logs(bodies, kind)
    assert (answer.status, answer.headers["content-type"]) == (200, kind)
    assert answer.body == (b"" if kind == PROTOBUF else b"{}")
    assert hashes(stored(journal)) == hashes(bodies)


@pytest.mark.parametrize(
    "given", [f"{JSON}; charset=utf-8", "Application/JSON", f"{JSON};charset=UTF-8", f" {JSON} "]
)
def test_parameters_and_case_of_the_content_type_do_not_matter(shared: RunningSink, given: str) -> None:
    assert shared.post("/v1/logs", b"{}", given).status == 200


@pytest.mark.parametrize(
    "given", ["", "text/plain", "application/x-www-form-urlencoded", "application/protobuf", ";"]
)
def test_any_other_content_type_is_refused(shared: RunningSink, given: str) -> None:
    answer = shared.request("POST", "/v1/logs", b"{}", **({"content_type": given} if given else {}))
    assert (answer.status, answer.headers["content-type"]) == (415, JSON)
    assert PROTOBUF in answer.message


@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
def test_content_encodings(
    running: RunningSink, journal: Path, bodies: list[bytes], encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    body = encode(in_protobuf([to_record(body) for body in bodies]))
    assert running.post("/v1/logs", body, content_encoding=encoding).status == 200
    assert hashes(stored(journal)) == hashes(bodies)


@both_encodings
@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", b"x", 415),
        ("gzip, gzip", PACKED, 415),
        ("gzip", b"no gzip", 400),
        ("gzip", PACKED[:-4], 400),
        ("gzip", PACKED * 2, 400),
        ("deflate", PACKED, 400),
    ],
    ids=["unknown", "two layers", "no gzip", "cut", "two members", "another"],
)
def test_a_body_that_cannot_be_inflated_is_refused(
    shared: RunningSink, kind: str, encoding: str, body: bytes, status: int
) -> None:
    answer = shared.post("/v1/logs", body, kind, content_encoding=encoding)
    assert (answer.status, answer.headers["content-type"]) == (status, kind)
    assert answer.message


@both_encodings
@pytest.mark.parametrize("path", ["/v1/logs", "/v1/traces", "/v1/metrics"])
def test_what_cannot_be_decoded_is_refused_and_nothing_of_it_stored(
    running: RunningSink, journal: Path, bodies: list[bytes], kind: str, path: str
) -> None:
    encode = in_protobuf if kind == PROTOBUF else in_json
    answer = running.post(path, encode([to_record(body) for body in bodies])[:-1] + b"\xff", kind)
    assert (answer.status, answer.headers["content-type"]) == (400, kind)
    assert "export request" in answer.message
    assert stored(journal) == []
    assert rows(journal, "quarantine") == []


@both_encodings
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/logs", 405), ("PUT", "/v1/traces", 405), ("POST", "/v1/profiles", 404), ("POST", "/", 404)],
)
def test_other_methods_and_paths_have_a_status_too(
    shared: RunningSink, kind: str, method: str, path: str, status: int
) -> None:
    answer = shared.request(method, path, b"", content_type=kind)
    assert (answer.status, answer.headers["content-type"]) == (status, kind)
    assert answer.message


def test_messages_are_short(shared: RunningSink) -> None:
    answer = shared.post("/v1/logs", b"[" + b'"x",' * 10_000, JSON)
    assert answer.status == 400
    assert len(answer.message) <= MAX_MESSAGE


# --- what is taken in -------------------------------------------------------------------------------


@both_encodings
def test_records_that_are_no_events_are_kept_and_acknowledged_with_a_warning(
    running: RunningSink, journal: Path, bodies: list[bytes], kind: str
) -> None:
    """A refusal would make the client drop their good neighbours too, or send them for ever."""
    records = [to_record(body) for body in bodies]
    poison = [records[0]._replace(body=text) for text in ("", "{", '{"v":99}', "\u0000", "[" * 50_000)]
    encode = in_protobuf if kind == PROTOBUF else in_json
    answer = running.post("/v1/logs", encode([*poison, *records]), kind)
    assert answer.status == 200
    if kind == PROTOBUF:
        partial = ExportLogsServiceResponse.FromString(answer.body).partial_success
        assert partial.rejected_log_records == 0
        message = partial.error_message
    else:
        ((name, message),) = json.loads(answer.body)["partialSuccess"].items()
        assert name == "errorMessage"
    assert message.startswith("5 records")
    assert hashes(stored(journal)) == hashes(bodies)
    assert len(rows(journal, "quarantine")) == 5


def test_another_event_under_the_same_number_is_kept_beside_the_first(
    running: RunningSink, journal: Path, bodies: list[bytes]
) -> None:
    other = bodies[0].replace(b'"pid":', b'"pid":9')
    assert other != bodies[0]
    running.logs(bodies)
    assert b"quarantine" in running.logs([other]).body
    assert hashes(stored(journal)) == hashes(bodies)
    assert [row[-1] for row in rows(journal, "quarantine")] == [other]


def test_json_as_other_programs_write_it_is_taken(running: RunningSink, journal: Path) -> None:
    """Its one record of ours is no event; the other is not ours."""
    assert running.post("/v1/logs", json.dumps(JSON_REQUEST), JSON).status == 200
    assert running.received()["foreign_records"] == 1
    assert len(rows(journal, "quarantine")) == 1


@pytest.mark.parametrize("times", [{}, {"time_unix_nano": 2**64 - 1}, {"observed_time_unix_nano": 5}])
def test_times_and_trace_of_the_record_do_not_matter_to_an_event(
    running: RunningSink, journal: Path, bodies: list[bytes], times: dict[str, int]
) -> None:
    """They stand in its body; collectors and processors may have changed the record's own."""
    request = ExportLogsServiceRequest.FromString(in_protobuf([to_record(bodies[0])]))
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    for field in ("time_unix_nano", "observed_time_unix_nano", "trace_id", "span_id", "event_name"):
        record.ClearField(field)
    for field, value in times.items():
        setattr(record, field, value)
    record.trace_id = b"short"
    assert running.post("/v1/logs", request.SerializeToString()).status == 200
    assert stored(journal) == [bodies[0]]


def test_spans_of_others_are_counted_and_those_without_an_id_rejected(running: RunningSink) -> None:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    spans.add(trace_id=b"t" * 16, span_id=b"s" * 8)
    spans.add(trace_id=bytes(16), span_id=b"s" * 8)
    answer = running.post("/v1/traces", request.SerializeToString())
    partial = ExportTraceServiceResponse.FromString(answer.body).partial_success
    assert (answer.status, partial.rejected_spans, bool(partial.error_message)) == (200, 1, True)
    assert running.received() | {"foreign_spans": 1, "invalid_spans": 1} == running.received()


def test_metrics_are_taken_and_counted(running: RunningSink) -> None:
    request = ExportMetricsServiceRequest()
    request.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    assert running.post("/v1/metrics", request.SerializeToString()).status == 200
    assert running.received()["metrics"] == 1


# --- bounds -----------------------------------------------------------------------------------------


@both_encodings
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_bound_is_refused(start: Start, kind: str, chunked: bool) -> None:
    small = start(limits=Limits(body_bytes=1000))
    body = iter([b"x" * 600, b"x" * 600]) if chunked else b"x" * 1200
    answer = small.post("/v1/logs", body, kind)
    assert (answer.status, answer.headers["content-type"]) == (413, kind)
    assert "1000 bytes" in answer.message


def test_a_body_that_inflates_beyond_the_bound_is_refused(start: Start) -> None:
    small = start(limits=Limits(body_bytes=1000))
    for size, status in ((1000, 400), (1001, 413)):
        body = gzip.compress(b"\xff" * size)
        assert small.post("/v1/logs", body, content_encoding="gzip").status == status


def test_what_all_bodies_hold_together_is_bounded(start: Start, bodies: list[bytes]) -> None:
    """Beyond it clients are told to come again, and the room of an answered request is free again."""
    small = start(limits=Limits(total_bytes=len(in_protobuf([to_record(body) for body in bodies])) * 2))
    for _ in range(3):
        assert small.logs(bodies).status == 200
    answer = small.logs(bodies * 2)
    assert answer.status == 503
    assert "retry-after" in answer.headers
    assert small.logs(bodies).status == 200


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(
    running: RunningSink, journal: Path, bodies: list[bytes]
) -> None:
    body = in_protobuf([to_record(body) for body in bodies])
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(_head(len(body)) + body[:-1])
    assert running.logs(bodies[:1]).status == 200
    assert stored(journal) == bodies[:1]


def test_a_body_that_never_ends_is_given_up(start: Start) -> None:
    hasty = start(limits=Limits(body_seconds=0.2))
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=30) as connection:
        connection.sendall(_head(100) + b"x")
        assert connection.recv(12) == b"HTTP/1.1 503"


@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"])
@pytest.mark.parametrize("half", [b"", b"POST /v1/logs HTT"])
def test_a_head_that_never_ends_closes_the_connection(
    start: Start, monkeypatch: pytest.MonkeyPatch, first: bytes, half: bytes
) -> None:
    monkeypatch.setattr(sink, "HEAD_TIMEOUT_S", 0.2)
    hasty = start()
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=30) as connection:
        connection.sendall(first)
        if first:
            assert connection.recv(12) == b"HTTP/1.1 200"
        connection.sendall(half)
        while connection.recv(1000):
            continue


def _head(length: int, more: str = "") -> bytes:
    return (
        f"POST /v1/logs HTTP/1.1\r\nhost: localhost\r\ncontent-type: {PROTOBUF}\r\n"
        f"content-length: {length}\r\n{more}\r\n"
    ).encode()


# --- not now ----------------------------------------------------------------------------------------


@both_encodings
def test_a_locked_journal_is_a_reason_to_come_again(
    start: Start, journal: Path, bodies: list[bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "PATIENCE_S", 0.1)
    running = start()
    with contextlib.closing(sqlite3.connect(journal, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = running.logs(bodies, kind)
        assert (answer.status, answer.headers["content-type"]) == (503, kind)
        assert 0 < int(answer.headers["retry-after"]) < 8
        assert "locked" in answer.message
        other.execute("ROLLBACK")
    assert running.logs(bodies, kind).status == 200
    assert hashes(stored(journal)) == hashes(bodies)


def test_a_journal_that_cannot_be_reached_is_used_once_it_can(
    start: Start, tmp_path: Path, bodies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "PATIENCE_S", 0.1)
    (tmp_path / "folder").write_text("in the way")
    journal = tmp_path / "folder" / "journal.db"
    running = start(journal)
    assert running.logs(bodies).status == 503
    assert running.request("GET", "/readyz").status == 503
    assert running.request("GET", "/healthz").status == 200
    (tmp_path / "folder").unlink()
    (tmp_path / "folder").mkdir()
    assert running.logs(bodies).status == 200
    assert running.request("GET", "/readyz").status == 200
    assert hashes(stored(journal)) == hashes(bodies)


def test_when_too_many_wait_the_next_is_told_to_come_again(
    start: Start, journal: Path, bodies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "BACKLOG", 1)
    monkeypatch.setattr(sink, "PATIENCE_S", 20.0)
    running = start()
    with contextlib.closing(sqlite3.connect(journal, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(3) as threads:
            answers = [threads.submit(running.logs, [body]) for body in bodies[:3]]
            while not any(answer.done() for answer in answers):
                time.sleep(0.01)
            refused = [answer.result() for answer in answers if answer.done()]  # two, if the writer sleeps
            assert {(answer.status, "too many" in answer.message) for answer in refused} == {(503, True)}
            other.execute("ROLLBACK")
            assert {answer.result().status for answer in answers} == {200, 503}


@pytest.mark.parametrize("faulty", [False, True])
def test_requests_that_wait_share_a_transaction_and_no_fault(
    journal: Path, bodies: list[bytes], faulty: bool
) -> None:
    given = [Delivery([body], "test") for body in bodies[:5]]
    if faulty:
        given[1] = Delivery([None], "test")  # type: ignore[list-item]
    writer = sink.Writer(str(journal))
    commits: list[object] = []
    counted = commits.append

    async def store() -> list[Ingested | BaseException]:
        waiting = [asyncio.create_task(writer.store(delivery)) for delivery in given]
        await asyncio.sleep(0)  # now each is in the queue
        event.listen(Engine, "commit", counted)
        writer.start()
        return await asyncio.gather(*waiting, return_exceptions=True)

    told = asyncio.run(store())
    event.remove(Engine, "commit", counted)
    writer.close()
    assert [one for one in told if isinstance(one, Ingested)] == [Ingested(1, 0, 0, 0)] * (5 - faulty)
    assert sorted(stored(journal)) == sorted(body for one in given for body in one.bodies if body)
    assert len(commits) == (4 if faulty else 1)


def test_a_fault_of_ours_makes_no_client_drop_what_it_has(bodies: list[bytes]) -> None:
    """Clients drop for good on a 500."""
    import uvicorn

    from telemetry.intake import Intake
    from telemetry.receiver import application

    async def fail(_: object, /) -> Any:
        raise ZeroDivisionError

    listener = socket.create_server(("127.0.0.1", 0))
    intake = Intake(fail, fail, None, Limits())
    server = uvicorn.Server(uvicorn.Config(application(intake), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.005)
    answer = Client(listener.getsockname()[1]).logs(bodies)
    server.should_exit = True
    thread.join()
    listener.close()
    assert (answer.status, answer.message) == (503, "not now: ZeroDivisionError")


# --- who may -----------------------------------------------------------------------------------------


@both_encodings
@pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong", "Basic secret", "secret", "Bearer s€cret"])
def test_nothing_is_taken_without_the_token(
    start: Start, journal: Path, bodies: list[bytes], kind: str, given: str | None
) -> None:
    guarded = start(token="secret")
    headers = {} if given is None else {"authorization": given.encode().decode("latin-1")}
    answer = guarded.logs(bodies, kind, **headers)
    assert (answer.status, answer.headers["content-type"]) == (401, kind)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.request("GET", f"/v1/runs/{RUN}/held", **headers).status == 401
    assert stored(journal) == []
    assert guarded.logs(bodies, kind, authorization="bearer secret").status == 200
    assert guarded.request("GET", "/healthz").status == 200


def test_a_web_page_cannot_send_by_pointing_its_own_name_here(
    running: RunningSink, bodies: list[bytes]
) -> None:
    assert running.logs(bodies, host="evil.test").status == 403
    assert running.logs(bodies, host="[::1]:4318").status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "example.test"])
def test_it_does_not_listen_beyond_the_loopback_without_a_token(journal: Path, host: str) -> None:
    with pytest.raises(SettingsError, match="without a token") as caught:
        sink.serve(str(journal), host, 0, environ={})
    assert sink.TOKEN in (caught.value.hint or "")
    assert not journal.exists()


def test_an_address_that_cannot_be_listened_on_is_a_setting_of_no_use(journal: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match="cannot listen"):
        sink.serve(str(journal), "127.0.0.1", taken.getsockname()[1], environ={})


def test_a_journal_of_a_newer_version_is_refused_at_the_start(journal: Path) -> None:
    Journal.open(journal).close()
    with contextlib.closing(sqlite3.connect(journal)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    with pytest.raises(JournalTooNew):
        sink.serve(str(journal), "127.0.0.1", 0, environ={})


# --- questions ----------------------------------------------------------------------------------------


def test_it_says_which_sequence_numbers_it_holds(running: RunningSink, bodies: list[bytes]) -> None:
    first, second = (f"018f3a5c{number:024x}" for number in (1, 2))
    missing = [
        body
        for body in bodies
        if json.loads(body)["producer"] == second and json.loads(body)["seq"] in (2, 3, 5)
    ]
    running.logs([body for body in bodies if body not in missing])
    held = json.loads(running.request("GET", f"/v1/runs/{RUN}/held").body)
    assert held == {first: [[1, 6]], second: [[1, 1], [4, 4], [6, 14]]}
    assert json.loads(running.request("GET", f"/v1/runs/{'f' * 32}/held").body) == {}


def test_it_counts_what_came_in(running: RunningSink, bodies: list[bytes]) -> None:
    running.logs(bodies)
    running.logs(bodies)
    assert running.received() == {
        "foreign_records": 0,
        "received_records": 0,
        "new": len(bodies),
        "duplicates": len(bodies),
        "conflicts": 0,
        "quarantined": 0,
    }


# --- as a process -------------------------------------------------------------------------------------


class SinkProcess(Client):
    """A sink as a process of its own."""

    def __init__(self, journal: Path | str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            super().__init__(free.getsockname()[1])
        code = f"from telemetry.sink import serve; serve({str(journal)!r}, '127.0.0.1', {self.port})"
        root = Path(__file__).parent.parent
        self.process = subprocess.Popen([sys.executable, "-c", code], cwd=root)
        while not self._answers():
            assert self.process.poll() is None
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/healthz").status == 200
        except OSError:
            return False

    def is_listening(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=30).close()
        except ConnectionRefusedError:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def peak_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.fixture
def start_process(journal: Path) -> Iterator[Callable[..., SinkProcess]]:
    started: list[SinkProcess] = []

    def begin(place: Path | str = journal) -> SinkProcess:
        started.append(SinkProcess(place))
        return started[-1]

    yield begin
    for each in started:
        each.kill()


def test_a_sink_killed_between_requests_has_lost_nothing_that_it_acknowledged(
    start_process: Callable[[], SinkProcess], journal: Path, bodies: list[bytes]
) -> None:
    first = start_process()
    acknowledged = bodies[: len(bodies) // 2]
    assert first.logs(acknowledged).status == 200
    first.kill()
    assert hashes(stored(journal)) == hashes(acknowledged)
    assert start_process().logs(bodies).status == 200
    assert hashes(stored(journal)) == hashes(bodies)


@contextlib.contextmanager
def held_up(place: str) -> Iterator[None]:
    """Nobody can store an event in a journal of either kind."""
    if place.startswith("postgresql:"):
        with psycopg.connect(place) as other:
            other.execute("LOCK TABLE event")
            yield
            other.rollback()
        return
    with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def held_by(place: str) -> list[str]:
    """The hashes of all events of a journal of either kind."""
    with Journal.open(place) as journal, journal.engine.connect() as connection:
        return hashes([body.encode() for body in connection.scalars(text("SELECT body FROM event"))])


def test_a_sink_killed_before_its_commit_has_acknowledged_nothing(
    start_process: Callable[..., SinkProcess], place: str, bodies: list[bytes]
) -> None:
    """And the same request, sent again, stores every event once."""
    Journal.open(place).close()
    first = start_process(place)
    with held_up(place), ThreadPoolExecutor(1) as thread:
        body = in_protobuf([to_record(body) for body in bodies])
        with socket.create_connection(("127.0.0.1", first.port), timeout=30) as connection:
            connection.sendall(_head(len(body), "expect: 100-continue\r\n"))
            assert connection.recv(12) == b"HTTP/1.1 100"
            connection.sendall(body)
            ready = thread.submit(first.request, "GET", "/healthz")
            assert ready.result().status == 200
            first.kill()
            with contextlib.suppress(ConnectionResetError):
                assert b"200" not in connection.recv(1000)
    assert held_by(place) == []
    assert start_process(place).logs(bodies).status == 200
    assert held_by(place) == hashes(bodies)


def test_asked_to_stop_it_answers_what_it_has_taken(
    start_process: Callable[[], SinkProcess], journal: Path, bodies: list[bytes]
) -> None:
    running = start_process()
    body = in_protobuf([to_record(body) for body in bodies])
    with socket.create_connection(("127.0.0.1", running.port), timeout=30) as connection:
        connection.sendall(_head(len(body), "expect: 100-continue\r\n"))
        assert connection.recv(12) == b"HTTP/1.1 100"
        running.process.terminate()
        while running.is_listening():
            time.sleep(0.01)
        connection.sendall(body)
        received = b""
        while chunk := connection.recv(1000):
            received += chunk
    assert b"HTTP/1.1 200" in received
    running.process.wait()
    assert hashes(stored(journal)) == hashes(bodies)


def test_a_bomb_does_not_fill_the_memory(start_process: Callable[[], SinkProcess]) -> None:
    running = start_process()
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1024 * 1024)) for _ in range(256)) + packer.flush()
    before = running.peak_bytes()
    answers = [running.post("/v1/logs", bomb, content_encoding="gzip") for _ in range(3)]
    assert [answer.status for answer in answers] == [413] * 3
    assert running.peak_bytes() - before < 100 * 1024 * 1024
    assert running.request("GET", "/readyz").status == 200


def test_an_exporter_with_a_wrong_token_says_so(
    start: Start, bodies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent_shim.errors import DeliveryError

    guarded = start(token="secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20wrong")
    exporter = Exporter(
        logs=Endpoint(f"http://127.0.0.1:{guarded.port}/v1/logs", "http/protobuf"), traces=None
    )
    with pytest.raises(DeliveryError, match="401") as caught:
        exporter.events(bodies)
    exporter.close()
    assert not isinstance(caught.value, SignalRefused)
