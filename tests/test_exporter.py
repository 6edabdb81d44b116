"""What the exporter returns from was accepted, and what was not says why."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import requests
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from agent_shim import attributes as attr
from agent_shim import events
from agent_shim.canonical import digest
from agent_shim.errors import DeliveryError, SettingsError
from telemetry.exporter import MAX_BATCH_BYTES, BatchRefused, Exporter, SignalRefused
from telemetry.otlp import PROTOBUF, decode_logs
from telemetry.settings import Endpoint, Settings
from telemetry.spans import SpanFold
from tests.recordings import RUN, Recording, example_run


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class Peer:
    """A real HTTP server that keeps what it gets and answers as told; 200 by default."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received], tuple[int, dict[str, str]]] = lambda _: (200, {})
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Received(self.path, headers, body)
                peer.received.append(request)
                status, extra = peer.answer(request)
                self.send_response(status)
                for name, value in {"content-length": "0", **extra}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def bodies(self) -> list[bytes]:
        logs = [request for request in self.received if request.path.endswith("/v1/logs")]
        return [body for request in logs for body in decode_logs(request.body, PROTOBUF).bodies]

    def spans(self) -> list[Any]:
        requests = [
            trace_service_pb2.ExportTraceServiceRequest.FromString(request.body)
            for request in self.received
            if request.path.endswith("/v1/traces")
        ]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def peer() -> Iterator[Peer]:
    running = Peer()
    yield running
    running.close()


Make = Callable[..., Exporter]


@pytest.fixture
def exporter(peer: Peer) -> Iterator[Make]:
    """Makes exporters to the peer, and closes them."""
    made: list[Exporter] = []

    def make(**options: Any) -> Exporter:
        logs = Endpoint(f"{peer.url}/v1/logs", "http/protobuf")
        traces = Endpoint(f"{peer.url}/v1/traces", "http/protobuf")
        made.append(Exporter(**{"logs": logs, "traces": traces, "request_timeout_s": 1.0, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def folded(recording: Recording) -> list[Any]:
    fold = SpanFold()
    return [span for event in recording.events() for span in fold.add(event)]


def test_events_arrive_byte_for_byte(tmp_path: Path, peer: Peer, exporter: Make) -> None:
    bodies = example_run(tmp_path).bodies()
    assert exporter().events(bodies) == 0
    assert [digest(body) for body in peer.bodies()] == [digest(body) for body in bodies]


def test_a_log_record_says_which_event_it_is(tmp_path: Path, peer: Peer, exporter: Make) -> None:
    recording = example_run(tmp_path)
    exporter().events(recording.bodies())
    request = logs_service_pb2.ExportLogsServiceRequest.FromString(peer.received[0].body)
    records = request.resource_logs[0].scope_logs[0].log_records
    for event, record in zip(recording.events(), records, strict=True):
        assert record.event_name == event["name"]
        assert record.time_unix_nano == event["time"]
        assert record.trace_id.hex() == RUN
        marks = {item.key: item.value.string_value or item.value.int_value for item in record.attributes}
        assert marks == {
            attr.RUN: RUN,
            attr.PRODUCER: event["producer"],
            attr.SEQ: event["seq"],
            attr.VERSION: events.FORMAT_VERSION,
        }


def test_log_records_belong_to_the_spans_that_arrive(tmp_path: Path, peer: Peer, exporter: Make) -> None:
    recording = example_run(tmp_path)
    sending = exporter()
    sending.events(recording.bodies())
    sending.spans(folded(recording))
    request = logs_service_pb2.ExportLogsServiceRequest.FromString(peer.received[0].body)
    named = {record.span_id for record in request.resource_logs[0].scope_logs[0].log_records} - {b""}
    assert named == {span.span_id for span in peer.spans()}


def test_spans_arrive_with_their_own_ids_times_and_events(tmp_path: Path, peer: Peer, exporter: Make) -> None:
    spans = folded(example_run(tmp_path))
    exporter().spans(spans)
    arrived = {span.span_id.hex(): span for span in peer.spans()}
    assert set(arrived) == {span.span_id for span in spans}
    for span in spans:
        wire = arrived[span.span_id]
        assert wire.name == span.name
        assert wire.trace_id.hex() == span.trace_id
        assert wire.parent_span_id.hex() == (span.parent_span_id or "")
        assert (wire.start_time_unix_nano, wire.end_time_unix_nano) == (span.start_ns, span.end_ns)
        assert {item.key for item in wire.attributes} == set(span.attributes)
        assert [event.name for event in wire.events] == [event.name for event in span.events]
        assert (wire.status.code, wire.status.message) == ((2, span.error) if span.error else (0, ""))
        assert wire.kind == {"internal": 1, "client": 3}[span.kind]


def test_the_sdk_cannot_be_told_to_silence_us(
    tmp_path: Path, peer: Peer, exporter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    recording = example_run(tmp_path)
    sending = exporter()
    sending.events(recording.bodies())
    sending.spans(folded(recording))
    assert peer.bodies() == recording.bodies()
    assert min(len(span.attributes) for span in peer.spans()) > 3


def test_variables_for_headers_compression_and_resource_are_honoured(
    tmp_path: Path, peer: Peer, exporter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20common")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Bearer%20spans")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "batch-7")
    handed_down = f"{attr.RUN}={RUN}"  # by a run around this one
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"deployment.environment.name=ci,{handed_down}")
    recording = example_run(tmp_path)
    sending = exporter()
    sending.events(recording.bodies())
    sending.spans(folded(recording))
    logs, spans = peer.received
    assert logs.headers["authorization"] == "Bearer common"
    assert spans.headers["authorization"] == "Bearer spans"
    request = logs_service_pb2.ExportLogsServiceRequest.FromString(gzip.decompress(logs.body))
    resource = {item.key: item.value.string_value for item in request.resource_logs[0].resource.attributes}
    assert resource == {"service.name": "batch-7", "deployment.environment.name": "ci"}


def test_the_service_has_a_name_of_its_own(tmp_path: Path, peer: Peer, exporter: Make) -> None:
    exporter().events(example_run(tmp_path).bodies())
    request = logs_service_pb2.ExportLogsServiceRequest.FromString(peer.received[0].body)
    assert request.resource_logs[0].resource.attributes[0].value.string_value == "agent-telemetry"


def test_endpoints_come_from_the_settings(
    tmp_path: Path, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {
        "AGENT_TELEMETRY_HOME": str(tmp_path / "home"),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"{peer.url}/common",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{peer.url}/spans/v1/traces",
    }
    recording = example_run(tmp_path)
    sending = Exporter.from_settings(Settings.load(environ))
    sending.events(recording.bodies())
    sending.spans(folded(recording))
    sending.close()
    assert [request.path for request in peer.received] == ["/common/v1/logs", "/spans/v1/traces"]


def test_requests_stay_below_their_bound(tmp_path: Path, peer: Peer, exporter: Make) -> None:
    recording = Recording(tmp_path)
    process = recording.process()
    root = process.append(events.RunStarted(way="context"))
    for _ in range(60):
        tool = process.append(events.ToolCallStarted("t", arguments="x" * 60_000), parent=root)
        process.append(events.ToolCallFinished("completed"), begin=tool)
    sending = exporter()
    sending.events(recording.bodies())
    logs = len(peer.received)
    spans = folded(recording)
    sending.spans(spans * 10)
    assert logs > 3
    assert len(peer.received) > logs + 1
    assert max(len(request.body) for request in peer.received) <= MAX_BATCH_BYTES
    assert peer.bodies() == recording.bodies()
    assert len(peer.spans()) == 10 * len(spans)


def test_an_endpoint_that_takes_no_logs_still_gets_spans(tmp_path: Path, peer: Peer, exporter: Make) -> None:
    """Jaeger's own OTLP port is one."""
    peer.answer = lambda request: (404 if request.path == "/v1/logs" else 200, {})
    recording = example_run(tmp_path)
    sending = exporter()
    with pytest.raises(SignalRefused, match="404"):
        sending.events(recording.bodies())
    sending.spans(folded(recording))
    assert len(peer.spans()) == 6


def test_a_signal_without_an_endpoint_is_refused(tmp_path: Path, exporter: Make) -> None:
    with pytest.raises(SignalRefused, match="no endpoint"):
        exporter(logs=None).events(example_run(tmp_path).bodies())


@pytest.mark.parametrize(
    ("status", "headers", "why"),
    [
        (401, {}, "401 Unauthorized"),
        (500, {}, "500 Internal Server Error"),
        (503, {"retry-after": "60"}, "503 Service Unavailable"),
        (308, {"location": "https://elsewhere.test/v1/logs"}, "redirected to https://elsewhere.test"),
    ],
)
def test_what_was_not_accepted_raises_with_the_reason(
    tmp_path: Path, peer: Peer, exporter: Make, status: int, headers: dict[str, str], why: str
) -> None:
    peer.answer = lambda _: (status, headers)
    sending = exporter()
    for _ in range(2):  # the official exporters log the same line only once in 20 s
        with pytest.raises(DeliveryError, match=why) as caught:
            sending.events(example_run(tmp_path / str(_)).bodies())
        assert type(caught.value) is DeliveryError


def test_what_an_endpoint_will_never_take_is_told_apart(tmp_path: Path, peer: Peer, exporter: Make) -> None:
    """So that one event cannot hold back all the others for ever."""
    recording = Recording(tmp_path)
    process = recording.process()
    for letter in "abcdef":
        process.append(events.ToolCallStarted("t", arguments=letter * 60_000, executor=f"{letter}" * 60_000))
    for _ in range(4):
        process.append(events.RunStarted(way="w" * 60_000, command=[x * 60_000 for x in "abcde"]))
    peer.answer = lambda request: (413 if b"ffff" * 1000 in request.body else 200, {})
    with pytest.raises(BatchRefused, match="413") as caught:
        exporter().events(recording.bodies())
    assert 0 < caught.value.refused < len(recording.bodies())
    assert set(recording.bodies()) == set(peer.bodies())


def test_bytes_that_are_no_event_hold_nothing_back(tmp_path: Path, peer: Peer, exporter: Make) -> None:
    bodies = example_run(tmp_path).bodies()
    poison = [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'"\xff"',
        b'{"v":1,"run":[],"producer":1,"seq":"x","time":0,"name":1}',
    ]
    lone = bodies[0].replace(b"run.started", b"\\ud800").replace(b"producer.started", b"\\ud800")
    assert exporter().events([*poison, lone, *bodies]) == len(poison) + 1
    assert peer.bodies() == bodies


@pytest.mark.parametrize(
    ("protocol", "why"), [("http/protobuf", "refused"), ("grpc", "UNAVAILABLE|DEADLINE_EXCEEDED")]
)
def test_nobody_listening_raises_with_the_reason(
    tmp_path: Path, exporter: Make, protocol: str, why: str
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # the port is ours, and nobody listens on it
        sending = exporter(logs=Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", protocol))
        with pytest.raises(DeliveryError, match=why) as caught:
            sending.events(example_run(tmp_path).bodies())
    assert type(caught.value) is DeliveryError


def test_a_call_gives_up_when_its_time_is_over(tmp_path: Path, peer: Peer, exporter: Make) -> None:
    recording = Recording(tmp_path)
    process = recording.process()
    for _ in range(40):
        process.append(events.ToolCallStarted("t", arguments="x" * 65_000))
    sending = exporter(total_timeout_s=0.0)
    with pytest.raises(DeliveryError, match="did not take all logs within"):
        sending.events(recording.bodies())


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_header_that_cannot_be_read_is_a_setting_of_no_use_and_is_not_said(
    peer: Peer,
    exporter: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    protocol: str,
) -> None:
    """It may hold a token, and what the deliverer says is kept in a file."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization: Bearer secret")
    with pytest.raises(SettingsError, match="Header format invalid") as caught:
        exporter(logs=Endpoint(peer.url, protocol))
    assert "secret" not in str(caught.value) + capsys.readouterr().err


def test_a_certificate_that_is_not_there_is_the_reason(
    tmp_path: Path,
    peer: Peer,
    exporter: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where there is one for all programs: the one for this purpose comes first."""
    url = peer.url.replace("http:", "https:")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", requests.certs.where())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "none.pem"))
    with pytest.raises(DeliveryError, match=r"none\.pem"):
        exporter(logs=Endpoint(url, "http/protobuf")).events(example_run(tmp_path).bodies())
    with pytest.raises(SettingsError, match=r"none\.pem"):
        exporter(logs=Endpoint(url, "grpc"))
    assert capsys.readouterr().err == ""


def test_nothing_of_the_official_exporters_reaches_stderr(
    tmp_path: Path, peer: Peer, exporter: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    peer.answer = lambda _: (401, {})
    with pytest.raises(DeliveryError):
        exporter().events(example_run(tmp_path).bodies())
    assert capsys.readouterr().err == ""


# --- gRPC -----------------------------------------------------------------------------------------


class GrpcPeer:
    """A real gRPC server that takes spans, and logs if asked to."""

    def __init__(self, *, takes_logs: bool, limit_bytes: int = 4 * 1024 * 1024) -> None:
        self.bodies: list[bytes] = []
        self.spans: list[Any] = []
        self._server = grpc.server(
            ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", limit_bytes)]
        )
        if takes_logs:
            logs_service_pb2_grpc.add_LogsServiceServicer_to_server(self._logs(), self._server)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self._traces(), self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _logs(self) -> Any:
        peer = self

        class Logs(logs_service_pb2_grpc.LogsServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
                peer.bodies += decode_logs(request.SerializeToString(), PROTOBUF).bodies
                return logs_service_pb2.ExportLogsServiceResponse()

        return Logs()

    def _traces(self) -> Any:
        peer = self

        class Traces(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
                peer.spans += request.resource_spans[0].scope_spans[0].spans
                return trace_service_pb2.ExportTraceServiceResponse()

        return Traces()

    def close(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def grpc_peer(request: pytest.FixtureRequest) -> Iterator[GrpcPeer]:
    running = GrpcPeer(**getattr(request, "param", {"takes_logs": True}))
    yield running
    running.close()


def over_grpc(peer: GrpcPeer) -> dict[str, Any]:
    return {
        "logs": Endpoint(peer.url, "grpc"),
        "traces": Endpoint(peer.url, "grpc"),
        "request_timeout_s": 3.0,
    }


def test_grpc_carries_the_same(tmp_path: Path, grpc_peer: GrpcPeer, exporter: Make) -> None:
    recording = example_run(tmp_path)
    sending = exporter(**over_grpc(grpc_peer))
    sending.events(recording.bodies())
    sending.spans(folded(recording))
    assert grpc_peer.bodies == recording.bodies()
    assert {span.span_id.hex() for span in grpc_peer.spans} == {span.span_id for span in folded(recording)}


@pytest.mark.parametrize("grpc_peer", [{"takes_logs": False}], indirect=True)
def test_a_grpc_endpoint_without_logs_still_gets_spans(
    tmp_path: Path, grpc_peer: GrpcPeer, exporter: Make
) -> None:
    recording = example_run(tmp_path)
    sending = exporter(**over_grpc(grpc_peer))
    with pytest.raises(SignalRefused, match="UNIMPLEMENTED"):
        sending.events(recording.bodies())
    sending.spans(folded(recording))
    assert len(grpc_peer.spans) == 6


def repeated(send: Callable[[], object]) -> None:
    """As senders do: gRPC now and then loses a refusal that comes while the message is still on its way."""
    for _ in range(5):
        try:
            send()
        except DeliveryError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


@pytest.mark.parametrize(
    "grpc_peer", [{"takes_logs": True, "limit_bytes": 2 * MAX_BATCH_BYTES}], indirect=True
)
def test_an_event_too_large_for_a_grpc_server_is_told_apart(
    tmp_path: Path, grpc_peer: GrpcPeer, exporter: Make
) -> None:
    recording = Recording(tmp_path)
    process = recording.process()
    process.append(events.RunStarted(way="w", command=["x" * 65_000] * 40))
    process.append(events.ToolCallStarted("t"))
    sending = exporter(**over_grpc(grpc_peer))
    with pytest.raises(BatchRefused, match="RESOURCE_EXHAUSTED") as caught:
        repeated(lambda: sending.events(recording.bodies()))
    assert caught.value.refused == 1
    assert len(set(grpc_peer.bodies)) == len(recording.bodies()) - 1


def test_a_compression_that_grpc_does_not_know_is_a_setting_of_no_use(
    grpc_peer: GrpcPeer, exporter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate")
    with pytest.raises(SettingsError, match="deflate"):
        exporter(**over_grpc(grpc_peer))
