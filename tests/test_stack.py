"""The real collector and the real Jaeger, from their files in ``collector_config``, with our sink.

The binaries are those of ``collector_config/build.py`` (`make programs`); without them the tests skip, under
CI they fail.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from agent_shim import spool
from agent_shim.attributes import UNANSWERED
from collector_config import build
from collector_config.stack import HERE, HOST, Ports, Stack, free_ports
from telemetry.exporter import Exporter
from telemetry.intake import Limits
from telemetry.otlp import PROTOBUF
from telemetry.settings import Endpoint
from telemetry.spans import SpanFold
from telemetry.testing import (
    Answer,
    Delivery,
    ScriptedServer,
    ToolCall,
    Turn,
    Usage,
    calls,
    invalid_key,
    rate_limited,
)
from tests.generations import ROOT
from tests.recordings import example_run
from tests.test_received import FOLDER, RUN
from tests.traced import COMMIT, ERROR, REPOSITORY, Agent, Jaeger, Recorded, Span
from tests.wrapped import eventually, is_alive

PATIENCE_S = 90.0
"""After an outage, the longest pauses of deliverer and collector come first: 30 s and 15 s."""
GIB = 1 << 30


def binary(name: str) -> Path:
    """A program that was built; says what to do where there is none."""
    found = build.built(name)
    if found is None:
        stop = pytest.fail if os.environ.get("CI") else pytest.skip
        stop(f"no {name} was built for this Go: run `make programs`")
    return found


# --- the collector's configuration -----------------------------------------------------------------


def understood(name: str, folder: Path, **variables: str) -> Any:
    """A program's configuration as the program itself understands it, defaults included."""
    stack = Stack(folder, str(folder / "journal.db"))
    said = subprocess.run(
        [binary(name), "print-config", f"--config={HERE / name}.yaml", "--format=json"],
        env={**os.environ, **stack.environment(name), **variables},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The collector's configuration."""
    return understood("collector", tmp_path_factory.mktemp("configured"), OTELCOL_HOST="0.0.0.0")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Jaeger's configuration."""
    return understood("jaeger", tmp_path_factory.mktemp("shown"))


PAGE = json.loads((HERE / "jaeger-ui.json").read_text())


@pytest.mark.parametrize("name", ["otlp_grpc/jaeger", "otlp_http/sink"])
class TestEachQueue:
    def test_is_on_disk(self, configured: Any, name: str) -> None:
        assert configured["exporters"][name]["sending_queue"]["storage"] == "file_storage/queue"

    def test_takes_nothing_that_it_would_drop(self, configured: Any, name: str) -> None:
        """A full queue makes senders wait, and its size is bounded in bytes of disk."""
        queue = configured["exporters"][name]["sending_queue"]
        assert queue["block_on_overflow"] is True
        assert queue["queue_size"] == GIB

    def test_acknowledges_before_its_reader_answers_and_gathers_nothing(
        self, configured: Any, name: str
    ) -> None:
        queue = configured["exporters"][name]["sending_queue"]
        assert queue["wait_for_result"] is False and queue["batch"] is None

    def test_is_tried_for_ever(self, configured: Any, name: str) -> None:
        retry = configured["exporters"][name]["retry_on_failure"]
        assert retry["enabled"] is True and retry["max_elapsed_time"] == 0

    def test_is_served_within_moments_of_its_readers_return(self, configured: Any, name: str) -> None:
        retry = configured["exporters"][name]["retry_on_failure"]
        assert retry["initial_interval"] == 10**9 and retry["max_interval"] == 15 * 10**9

    def test_gives_its_reader_the_time_to_store_before_it_answers(self, configured: Any, name: str) -> None:
        assert configured["exporters"][name]["timeout"] == 30 * 10**9


def test_the_sink_is_sent_no_more_at_once_than_it_can_write(configured: Any) -> None:
    """It writes its journal one by one; Jaeger's store takes several at once."""
    consumers = {name: way["sending_queue"]["num_consumers"] for name, way in configured["exporters"].items()}
    assert consumers == {"otlp_grpc/jaeger": 4, "otlp_http/sink": 2}


def test_what_the_collector_takes_its_readers_take_too(configured: Any, shown: Any) -> None:
    """Otherwise it would be acknowledged, and refused for good behind that."""
    protocols = configured["receivers"]["otlp"]["protocols"]
    most = protocols["http"]["max_request_body_size"]
    assert protocols["grpc"]["max_recv_msg_size_mib"] << 20 == most == Limits().body_bytes
    assert shown["receivers"]["otlp"]["protocols"]["grpc"]["max_recv_msg_size_mib"] << 20 > most


def test_what_is_acknowledged_survives_a_power_failure(configured: Any) -> None:
    storage = configured["extensions"]["file_storage/queue"]
    assert storage["fsync"] is True and storage["directory"].endswith("/configured0/queue")
    assert storage["timeout"] == 10 * 10**9, "a file that is locked after a crash is waited for"
    assert "file_storage/queue" in configured["service"]["extensions"]


def test_the_file_of_the_queue_shrinks_again(configured: Any) -> None:
    compaction = configured["extensions"]["file_storage/queue"]["compaction"]
    assert compaction["on_start"] and compaction["on_rebound"] and compaction["cleanup_on_start"]


def test_memory_is_limited_before_anything_else_and_nothing_is_batched_in_it(configured: Any) -> None:
    for pipeline in configured["service"]["pipelines"].values():
        assert pipeline["processors"] == ["memory_limiter"]
    assert list(configured["processors"]) == ["memory_limiter"]
    limiter = configured["processors"]["memory_limiter"]
    assert limiter["limit_mib"] == 400 and limiter["spike_limit_mib"] == 100
    assert limiter["check_interval"] == 10**9


def test_events_and_spans_have_a_way_of_their_own_each(configured: Any) -> None:
    ways = {signal: way["exporters"] for signal, way in configured["service"]["pipelines"].items()}
    assert ways == {"logs": ["otlp_http/sink"], "traces": ["otlp_grpc/jaeger", "otlp_http/sink"]}


def test_addresses_come_by_variable_and_the_sink_is_sent_the_token(configured: Any) -> None:
    protocols = configured["receivers"]["otlp"]["protocols"]
    assert protocols["grpc"]["endpoint"] == "0.0.0.0:4317"
    assert configured["extensions"]["health_check"]["endpoint"] == "0.0.0.0:13133"
    assert configured["exporters"]["otlp_http/sink"]["auth"]["authenticator"] == "bearertokenauth/sink"


def test_without_variables_it_listens_on_the_loopback_alone(tmp_path: Path) -> None:
    command = [binary("collector"), "print-config", f"--config={HERE / 'collector.yaml'}"]
    bare = subprocess.run([*command, "--validate=false"], env={}, capture_output=True, text=True)
    endpoints = [line.split(": ", 1)[1] for line in bare.stdout.splitlines() if "endpoint: 1" in line]
    assert endpoints and all(endpoint.startswith("127.0.0.1:") for endpoint in endpoints)
    assert "0.0.0.0" not in bare.stdout


@pytest.mark.parametrize("name", ["collector", "jaeger"])
def test_the_real_program_finds_its_file_valid(name: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path, str(tmp_path / "journal.db"))
    command = [binary(name), "validate", f"--config={HERE / name}.yaml"]
    done = subprocess.run(
        command, env={**os.environ, **stack.environment(name)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# --- Jaeger's configuration ------------------------------------------------------------------------


def test_jaeger_keeps_traces_on_disk_and_each_for_its_time(shown: Any) -> None:
    """Synced before the collector is told that they were taken, for then it forgets them."""
    (store,) = shown["extensions"]["jaeger_storage"]["backends"].values()
    assert store["badger"]["ephemeral"] is False and store["badger"]["consistency"] is True
    assert {Path(folder).parts[-2] for folder in store["badger"]["directories"].values()} == {"jaeger"}
    assert store["badger"]["ttl"]["spans"] == 30 * 24 * 3600 * 10**9
    assert [other for kind, other in store.items() if kind != "badger" and other] == []


def test_jaeger_answers_when_its_store_has_the_spans(shown: Any) -> None:
    """Nothing waits in its memory, and the page reads what is written."""
    assert shown["exporters"]["jaeger_storage_exporter"]["queue"]["enabled"] is False
    assert not shown["processors"]
    written = shown["exporters"]["jaeger_storage_exporter"]["trace_storage"]
    assert written == shown["extensions"]["jaeger_query"]["storage"]["traces"]


def test_of_a_span_its_failure_is_on_top_and_then_what_the_model_did() -> None:
    """A span that did not fail has nothing that begins with ``error.``: there GenAI is on top."""
    assert PAGE["topTagPrefixes"][:2] == ["error.", "gen_ai."]


def test_links_are_made_of_what_the_root_of_a_run_bears(tmp_path: Path) -> None:
    """Each link stands at an attribute of it, and its address needs no other."""
    fold = SpanFold()
    root = [span for event in example_run(tmp_path).events() for span in fold.add(event)][-1]
    assert PAGE["linkPatterns"]
    for link in PAGE["linkPatterns"]:
        named = [link["key"], *re.findall(r"#\{([^}]+)\}", link["url"])]
        assert set(named) <= set(root.attributes)


# --- the stack at work -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Collector, Jaeger and sink, on ports of their own; a test may stop what it starts again."""
    for name in ("collector", "jaeger"):
        binary(name)
    folder = tmp_path_factory.mktemp("stack")
    running = Stack(folder, str(folder / "journal.db"), Ports(*free_ports()))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def agent(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """An agent that sends to the stack."""
    folder = tmp_path_factory.mktemp("agent")
    return Agent(folder, OTEL_EXPORTER_OTLP_ENDPOINT=stack.endpoint, AGENT_TELEMETRY_JAEGER=stack.jaeger)


@pytest.fixture
def jaeger(stack: Stack) -> Jaeger:
    return Jaeger(stack.jaeger)


def events(journal: Path | str, run: str) -> list[Any]:
    """Id and hash of every event of a run."""
    if not Path(journal).exists():
        return []
    connection = sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=30)
    try:
        query = "SELECT producer, seq, sha256 FROM event WHERE run_id = ? ORDER BY producer, seq"
        return connection.execute(query, [run]).fetchall()
    finally:
        connection.close()


def in_the_sink(stack: Stack, agent: Agent, run: str) -> bool:
    """Whether the sink's journal has what the run's own has, by content."""
    own = events(agent.journal, run)
    return len(own) > 0 and events(stack.journal, run) == own


def in_both(stack: Stack, agent: Agent, jaeger: Jaeger, recorded: Recorded) -> list[Any]:
    """Wait until a run is whole in Jaeger and in the sink's journal; its spans."""
    eventually(lambda: agent.is_delivered(recorded.run), PATIENCE_S)
    eventually(lambda: in_the_sink(stack, agent, recorded.run), PATIENCE_S)
    expected = expected_spans(agent, recorded.run)
    eventually(lambda: span_ids(jaeger, recorded.run) == expected, PATIENCE_S)
    return jaeger.trace(recorded.run)


def span_ids(jaeger: Jaeger, run: str) -> list[str]:
    return sorted(span.span_id for span in jaeger.trace(run))


def expected_spans(agent: Agent, run: str) -> list[str]:
    """The spans that the events of a run fold to."""
    return sorted(span.span_id for span in folded(agent, run)[1])


def folded(agent: Agent, run: str) -> tuple[list[bytes], list[Any]]:
    files = sorted((agent.home / "delivered" / run).glob("*.log"))
    bodies = [line.body for file in files for line in spool.read(file) if line.body is not None]
    fold = SpanFold()
    spans = [span for body in bodies for span in fold.add(json.loads(body))]
    return bodies, spans + fold.rest()


def counted(spans: list[Span]) -> dict[str, int]:
    """How many spans there are of each operation."""
    return dict(Counter(span.operation for span in spans if span.operation))


def steps(number: int, *, delay_s: float = 0.0) -> list[Turn]:
    """So many calls with a tool call each, and a last word."""
    one = Answer(
        tool_calls=(ToolCall("run", {"command": "true"}),),
        usage=Usage(input=1000, output=50),
        delivery=Delivery(delay_s=delay_s),
    )
    return [*[one] * number, Answer("Done.", usage=Usage(input=10, output=5))]


@pytest.fixture(scope="module")
def failed(stack: Stack, agent: Agent) -> Recorded:
    """A run with a refused request, a failed tool, and an agent that gives up."""
    with ScriptedServer() as server:
        return agent.run(
            server,
            rate_limited(),
            calls(ToolCall("run", {"command": "exit 3"}), usage=Usage(input=1200, output=80, cached=200)),
            calls(ToolCall("read_file", {"path": "task.txt"}), usage=Usage(input=1500, output=40)),
            invalid_key(),
        )


def test_jaeger_shows_the_run_under_its_own_id(
    stack: Stack, agent: Agent, jaeger: Jaeger, failed: Recorded
) -> None:
    """As one tree: the agent, its calls, its tools."""
    spans = in_both(stack, agent, jaeger, failed)
    (root,) = [span for span in spans if not span.parent]
    assert root.operation == "invoke_agent"
    assert counted(spans) == {"invoke_agent": 1, "chat": 3, "execute_tool": 2}
    known = {span.span_id for span in spans}
    assert all(span.parent in known for span in spans if span is not root)
    assert jaeger.services() == ["agent-telemetry"]


def test_the_root_says_at_first_sight_what_it_used_and_why_it_failed(
    stack: Stack, agent: Agent, jaeger: Jaeger, failed: Recorded
) -> None:
    in_both(stack, agent, jaeger, failed)
    root = jaeger.root(failed.run)
    assert root is not None
    assert failed.exit_code == 1
    assert root.status == ERROR and root.message.endswith("(the last call failed: 401 invalid_api_key)")
    assert root.name.endswith(": exit 1, last call failed with 401 invalid_api_key")
    assert root.attributes["process.exit.code"] == 1
    assert root.attributes["gen_ai.usage.input_tokens"] == 2700
    assert root.attributes["gen_ai.usage.output_tokens"] == 120
    assert root.attributes["agent_telemetry.total.calls"] == 3
    assert root.attributes["agent_telemetry.total.requests"] == 4
    assert root.attributes["agent_telemetry.total.failed_requests"] == 2
    assert root.attributes["agent_telemetry.total.failed_tool_calls"] == 1
    assert root.attributes["vcs.ref.head.revision"] == COMMIT
    assert root.attributes["vcs.repository.url.full"] == REPOSITORY


def test_calls_have_their_tokens_and_each_failed_request_as_an_event(
    stack: Stack, agent: Agent, jaeger: Jaeger, failed: Recorded
) -> None:
    chats = [span for span in in_both(stack, agent, jaeger, failed) if span.operation == "chat"]
    used = sorted(span.attributes.get("gen_ai.usage.input_tokens", 0) for span in chats)
    assert used == [0, 1200, 1500]
    (retried,) = [span for span in chats if span.attributes.get("gen_ai.usage.input_tokens") == 1200]
    assert retried.status != ERROR
    assert [said["http.response.status_code"] for _, said in retried.events] == [429]
    (refused,) = [span for span in chats if span.status == ERROR]
    assert refused.attributes["http.response.status_code"] == 401 or refused.events


def test_a_tool_that_failed_is_an_error(stack: Stack, agent: Agent, jaeger: Jaeger, failed: Recorded) -> None:
    tools = [span for span in in_both(stack, agent, jaeger, failed) if span.operation == "execute_tool"]
    assert {span.attributes["gen_ai.tool.name"]: span.status == ERROR for span in tools} == {
        "run": True,
        "read_file": False,
    }


FORGETFUL = """
import openai

client, asked = openai.OpenAI(), [{"role": "user", "content": "Go."}]
answer = client.chat.completions.create(model="gpt-5", messages=asked).choices[0].message.to_dict()
client.chat.completions.create(model="gpt-5", messages=[*asked, answer, *asked])
"""


def test_a_tool_call_that_was_left_unanswered_is_named_by_the_call_that_left_it(
    stack: Stack, agent: Agent, jaeger: Jaeger, server: ScriptedServer
) -> None:
    """And that call is an error, since the API refuses it. Jaeger's store keeps a list as its JSON."""
    asks = calls(ToolCall("run", {"command": "true"}, "call_left"))
    recorded = agent.run(server, asks, program=("-c", FORGETFUL))
    spans = in_both(stack, agent, jaeger, recorded)
    left = {span.status: span.attributes.get(UNANSWERED) for span in spans if span.operation == "chat"}
    assert left == {0: None, ERROR: '["call_left"]'}


def test_the_page_that_jaeger_serves_is_told_how_to_show_runs(jaeger: Jaeger) -> None:
    """The page inside of the program is a placeholder, but is given the configuration of the real one."""
    status, page = jaeger.get(f"/trace/{'0' * 31}1")
    told = re.search(r"JAEGER_CONFIG = (\{.*\});", page.decode())
    assert status == 200 and told is not None
    assert json.loads(told[1]) == PAGE


def test_a_call_that_was_interrupted_is_closed_as_such(
    stack: Stack, agent: Agent, jaeger: Jaeger, server: ScriptedServer
) -> None:
    """The agent is ended while it waits for the model."""
    running = agent.start(server, Answer("never", delivery=Delivery(fault="stall")))
    server.ledger.wait(1)
    running.terminate()
    recorded = agent.finish(running)
    spans = in_both(stack, agent, jaeger, recorded)
    (chat,) = [span for span in spans if span.operation == "chat"]
    assert chat.status == ERROR and chat.attributes["error.type"] == "interrupted"


def test_calls_of_which_only_the_spans_of_others_tell_are_in_the_journal(
    stack: Stack, jaeger: Jaeger
) -> None:
    """As Jaeger has them: whoever sends both to one endpoint asks for both."""
    spans = (FOLDER / "openinference.spans.pb").read_bytes()
    request = Request(f"{stack.endpoint}/v1/traces", spans, {"content-type": PROTOBUF})
    with urlopen(request) as answer:
        assert answer.status == 200
    eventually(lambda: len(jaeger.trace(RUN)) == 6, PATIENCE_S)
    eventually(lambda: len(events(stack.journal, RUN)) == 6, PATIENCE_S)


# --- outages ---------------------------------------------------------------------------------------


def test_what_the_collector_acknowledged_survives_its_being_killed(
    stack: Stack, agent: Agent, jaeger: Jaeger, server: ScriptedServer
) -> None:
    """Nobody but its queue on disk has what was taken while both of its readers were away."""
    stack.stop("sink", "jaeger")
    recorded = agent.run(server, *steps(3))
    eventually(lambda: agent.is_delivered(recorded.run), PATIENCE_S)
    stack.kill("collector")
    stack.start()
    assert counted(in_both(stack, agent, jaeger, recorded)) == {
        "invoke_agent": 1,
        "chat": 4,
        "execute_tool": 3,
    }


def test_a_collector_that_is_killed_under_load_loses_nothing(
    stack: Stack, agent: Agent, jaeger: Jaeger, server: ScriptedServer
) -> None:
    """Killed while events arrive, away for half of the run, back while more arrive."""
    running = agent.start(server, *steps(24, delay_s=0.01))
    server.ledger.wait(8)
    stack.kill("collector")
    server.ledger.wait(16)
    stack.start("collector")
    recorded = agent.finish(running)
    billed = server.ledger.total()
    root = next(span for span in in_both(stack, agent, jaeger, recorded) if not span.parent)
    assert root.attributes["gen_ai.usage.input_tokens"] == billed.input == 24_010
    assert root.attributes["gen_ai.usage.output_tokens"] == billed.output == 1_205
    assert counted(in_both(stack, agent, jaeger, recorded)) == {
        "invoke_agent": 1,
        "chat": 25,
        "execute_tool": 24,
    }


def test_events_reach_the_sink_while_jaeger_is_away_and_its_traces_outlive_a_restart(
    stack: Stack, agent: Agent, jaeger: Jaeger, server: ScriptedServer, failed: Recorded
) -> None:
    before = span_ids(jaeger, failed.run)
    stack.kill("jaeger")
    recorded = agent.run(server, *steps(2))
    eventually(lambda: in_the_sink(stack, agent, recorded.run), PATIENCE_S)
    stack.start("jaeger")
    in_both(stack, agent, jaeger, recorded)
    assert span_ids(jaeger, failed.run) == before


def test_spans_reach_jaeger_while_the_sink_is_away(
    stack: Stack, agent: Agent, jaeger: Jaeger, server: ScriptedServer
) -> None:
    stack.kill("sink")
    recorded = agent.run(server, *steps(2))
    eventually(lambda: jaeger.root(recorded.run), PATIENCE_S)
    stack.start("sink")
    in_both(stack, agent, jaeger, recorded)


def test_a_run_that_is_sent_again_by_hand_is_there_once_with_its_first_times(
    stack: Stack, agent: Agent, jaeger: Jaeger, failed: Recorded
) -> None:
    """Sent twice, from the journal in which it was recorded."""
    in_both(stack, agent, jaeger, failed)
    before, spans = events(stack.journal, failed.run), folded(agent, failed.run)[1]
    seen, shown = _duplicates(stack), _taken_by_jaeger(stack)
    for _ in range(2):
        agent.ask("send", failed.run, "--endpoint", stack.endpoint)
    eventually(lambda: _duplicates(stack) >= seen + 2 * len(before), PATIENCE_S)
    eventually(lambda: _taken_by_jaeger(stack) >= shown + 2 * len(spans), PATIENCE_S)
    assert events(stack.journal, failed.run) == before
    times = [(span.span_id, span.start_ns, span.end_ns) for span in jaeger.trace(failed.run)]
    assert sorted(times) == sorted((span.span_id, span.start_ns, span.end_ns) for span in spans)


def _taken_by_jaeger(stack: Stack) -> int:
    """How many spans it has acknowledged to the collector since that was started."""
    with urlopen(f"http://{HOST}:{stack.ports.metrics}/metrics") as answer:
        told = re.findall(
            r'^otelcol_exporter_sent_spans\S*\{.*exporter="otlp_grpc/jaeger".*\} (\S+)$',
            answer.read().decode(), re.MULTILINE,
        )  # fmt: skip
    return sum(int(float(number)) for number in told)


def test_what_comes_twice_is_there_once(stack: Stack, agent: Agent, jaeger: Jaeger, failed: Recorded) -> None:
    in_both(stack, agent, jaeger, failed)
    bodies, spans = folded(agent, failed.run)
    before = events(stack.journal, failed.run), span_ids(jaeger, failed.run)
    seen = _duplicates(stack)
    exporter = Exporter(
        logs=Endpoint(f"{stack.endpoint}/v1/logs", "http/protobuf"),
        traces=Endpoint(f"{stack.endpoint}/v1/traces", "http/protobuf"),
    )
    exporter.events(bodies, failed.run)
    exporter.spans(spans)
    exporter.close()
    eventually(lambda: _duplicates(stack) >= seen + len(bodies), PATIENCE_S)
    assert (events(stack.journal, failed.run), span_ids(jaeger, failed.run)) == before


def _duplicates(stack: Stack) -> int:
    connection = http.client.HTTPConnection(HOST, stack.ports.sink, timeout=10)
    connection.request("GET", "/readyz")
    received = json.loads(connection.getresponse().read())["received"]
    connection.close()
    return int(received.get("duplicates", 0))


# --- make stack ------------------------------------------------------------------------------------


@pytest.fixture
def foreground(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """What `make stack` runs, once it says that all is there."""
    for name in ("collector", "jaeger"):
        binary(name)
    process = subprocess.Popen(
        [sys.executable, "-m", "collector_config.stack", "--free-ports"],
        cwd=ROOT,
        env={
            **os.environ,
            "AGENT_TELEMETRY_HOME": str(tmp_path / "home"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",  # as in a shell that sends runs to a stack
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def greeting(process: subprocess.Popen[str]) -> dict[str, str]:
    """What it says of itself, by the first word."""
    assert process.stdout is not None
    said = {}
    for line in process.stdout:
        if line.startswith("Ctrl-C"):
            break
        name, _, value = line.partition(" ")
        said[name] = value.strip()
    return said


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_stack_says_where_it_is_and_ctrl_c_stops_all_of_it(
    foreground: subprocess.Popen[str], tmp_path: Path
) -> None:
    said = greeting(foreground)
    assert said["journal"] == str(tmp_path / "home" / "journal.db")
    assert Jaeger(said["Jaeger"]).services() == []
    assert f"--endpoint {said['endpoint']}" in said["In"]
    started = children(foreground.pid)
    assert len(started) == 3
    environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in started]
    assert not [each for each in environments if b"OTEL_" in each.replace(b"OTELCOL_", b"")]
    foreground.send_signal(signal.SIGINT)
    assert foreground.wait(60) == 0
    assert not [pid for pid in started if is_alive(pid)]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_in_the_background_of_a_script_it_can_be_stopped_too(name: str, tmp_path: Path) -> None:
    """Shells start what they put there with SIGINT ignored."""
    for program in ("collector", "jaeger"):
        binary(program)
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' INT; exec {sys.executable} -m collector_config.stack --free-ports"],
        cwd=ROOT,
        env={**os.environ, "AGENT_TELEMETRY_HOME": str(tmp_path / "home")},
        stdout=subprocess.PIPE,
        text=True,
    )
    greeting(process)
    started = children(process.pid)
    process.send_signal(signal.Signals[name])
    process.communicate(timeout=60)
    assert process.returncode == 0 and len(started) == 3
    assert not [pid for pid in started if is_alive(pid)]


def test_a_program_that_ends_by_itself_ends_the_stack_with_its_last_words(
    foreground: subprocess.Popen[str], tmp_path: Path
) -> None:
    greeting(foreground)
    started = children(foreground.pid)
    os.kill(started[-1], signal.SIGKILL)
    _, stderr = foreground.communicate(timeout=60)
    assert foreground.returncode == 1
    last_words = (tmp_path / "home" / "stack" / "collector.log").read_text().splitlines()[-1]
    assert "collector ended:" in stderr and last_words in stderr
    assert not [pid for pid in started if is_alive(pid)]


def test_everything_listens_on_the_loopback_alone(stack: Stack) -> None:
    mine = {_inode(link) for name in ("collector", "jaeger", "sink") for link in _descriptors(stack, name)}
    listening = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[9] in mine
    ]
    assert len(listening) >= len(Ports._fields)
    addresses = {line[1].partition(":")[0] for line in listening}
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}  # the second is the first in IPv6


def _descriptors(stack: Stack, name: str) -> list[str]:
    links = Path("/proc", str(stack.pid(name)), "fd").iterdir()
    return [str(link.readlink()) for link in links]


def _inode(link: str) -> str:
    return link.removeprefix("socket:[").removesuffix("]")
