"""A TRAE-shaped run through the real collector into real Jaeger and our sink on a real PostgreSQL.

While it goes on, the collector, Jaeger, PostgreSQL and the sink are ended and started again, each in its
turn. In the end Jaeger, the journal and the scripted server's ledger agree.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from collector_config.stack import Ports, Stack, free_ports
from telemetry.testing import Answer, Delivery, ScriptedServer, ToolCall, Usage, calls, rate_limited
from tests.generations import ROOT
from tests.test_stack import PATIENCE_S, binary
from tests.traced import COMMIT, ERROR, REPOSITORY, Agent, Jaeger, Span
from tests.wrapped import eventually

if TYPE_CHECKING:
    from tests.backends import Postgres

pytest_plugins = ("tests.backends",)

STEPS = 24
FAILING = 5
"""The step whose command fails."""
REFUSED = 9
"""The step whose first request is refused."""


@pytest.fixture
def journal(postgres: Postgres) -> Iterator[str]:
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture
def stack(journal: str, tmp_path: Path) -> Iterator[Stack]:
    for name in ("collector", "jaeger"):
        binary(name)
    running = Stack(tmp_path / "stack", journal, Ports(*free_ports()))
    try:
        running.start()
        yield running
    finally:
        running.stop()


class Trae(Agent):
    """The agent with TRAE's interface, in a repository of its own."""

    def __init__(self, folder: Path, **environ: str) -> None:
        super().__init__(folder, **environ, PYTHONPATH=f"{ROOT / 'tests' / 'trae_like'}:{ROOT}")
        subprocess.run(["git", "init", "--quiet", self.folder], check=True)
        config = {
            "agents": {"trae_agent": {"model": "main", "enable_lakeview": False}},
            "model_providers": {"p": {"provider": "openai"}},
            "models": {"main": {"model_provider": "p", "model": "gpt-5"}},
        }
        self._config = folder / "config.yaml"
        self._config.write_text(json.dumps(config))

    def begin(self, server: ScriptedServer) -> subprocess.Popen[str]:
        """Start it on the script of `server`."""
        options = {
            "--file": self.folder / "task.txt", "--config-file": self._config, "--working-dir": self.folder,
            "--patch-path": self.folder.parent / "patch", "--trajectory-file": self.folder.parent / "t.json",
            "--max-steps": STEPS + 5,
        }  # fmt: skip
        words = [str(word) for pair in options.items() for word in pair]
        about = ["--commit", COMMIT, "--repo", REPOSITORY]
        agent = [sys.executable, "-m", "trae_agent.cli", "run", *words]
        return self._command(["run", *about, "--", *agent], server.environment)


def script() -> Iterator[Any]:
    """So many commands, of which one fails; one request is refused, and tried again."""
    for step in range(1, STEPS + 1):
        if step == REFUSED:
            yield rate_limited()
        command = "exit 3" if step == FAILING else "true"
        usage = Usage(input=1000 + step, output=50, cached=512, reasoning=16)
        asked = calls(ToolCall("bash", {"command": command}), usage=usage)
        yield Answer(tool_calls=asked.tool_calls, usage=usage, delivery=Delivery(delay_s=0.02))
    yield calls(ToolCall("task_done"), usage=Usage(input=900, output=10))


def asked(journal: str, query: str, run: str) -> list[Any]:
    """Rows of the journal about a run; none while it does not answer."""
    engine = create_engine(make_url(journal).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(query), {"run": run})]
    engine.dispose()
    return found


def is_complete(journal: str, run: str) -> bool:
    return asked(journal, "SELECT complete FROM run WHERE run_id = :run", run) == [(True,)]


@pytest.mark.timeout(300)
def test_jaeger_journal_and_ledger_agree_after_everything_was_restarted_in_the_middle(
    stack: Stack, journal: str, postgres: Postgres, tmp_path: Path
) -> None:
    if postgres.restart is None:
        pytest.skip("the PostgreSQL server is not ours to restart")
    agent = Trae(tmp_path / "agent", OTEL_EXPORTER_OTLP_ENDPOINT=stack.endpoint)
    with ScriptedServer(*script()) as server:
        running = agent.begin(server)
        for number, name in enumerate(("collector", "jaeger", None, "sink"), 1):
            server.ledger.wait(5 * number)
            if name:
                stack.kill(name)
                stack.start(name)
            else:
                subprocess.run(postgres.restart, check=True, stdout=subprocess.DEVNULL, timeout=60)
        recorded = agent.finish(running)
        ledger = server.ledger
        assert server.left == 0
    jaeger = Jaeger(stack.jaeger)
    eventually(lambda: jaeger.root(recorded.run), PATIENCE_S)
    eventually(lambda: is_complete(journal, recorded.run), PATIENCE_S)
    billed, tools = ledger.total(), sorted(call.call_id for call in ledger.tool_calls)

    executed = sorted(call.call_id for call in ledger.tool_calls if call.name == "bash")

    expected = {"invoke_agent": 1, "chat": len(ledger.billed), "execute_tool": len(executed)}
    eventually(lambda: operations(jaeger.trace(recorded.run)) == expected, PATIENCE_S)
    spans = jaeger.trace(recorded.run)
    (root,) = [span for span in spans if not span.parent]
    assert {span.parent for span in spans} - {""} <= {span.span_id for span in spans}
    chats = [span for span in spans if span.operation == "chat"]
    assert sum(span.attributes["gen_ai.usage.input_tokens"] for span in chats) == billed.input
    assert root.attributes["gen_ai.usage.input_tokens"] == billed.input
    assert root.attributes["gen_ai.usage.output_tokens"] == billed.output
    assert root.attributes["gen_ai.usage.cache_read.input_tokens"] == billed.cached
    assert root.attributes["agent_telemetry.total.requests"] == len(ledger.requests)
    ids = [span.attributes["gen_ai.tool.call.id"] for span in spans if span.operation == "execute_tool"]
    assert sorted(ids) == executed  # TRAE does not execute `task_done`
    refusals = [said["http.response.status_code"] for span in chats for _, said in span.events]
    assert refusals == [429]
    assert [span.status for span in (root, *chats)].count(ERROR) == 0

    (told,) = asked(journal, TOLD, recorded.run)
    assert told == (len(ledger.billed), len(ledger.requests), 1, len(tools))
    (used,) = asked(journal, USED, recorded.run)
    assert used == (billed.input, billed.output, billed.cached, billed.reasoning)
    statuses = asked(journal, "SELECT http_status FROM llm_request WHERE run_id = :run", recorded.run)
    assert Counter(statuses) == Counter((request.status,) for request in ledger.requests)
    called = asked(journal, "SELECT call_id FROM tool_call WHERE run_id = :run ORDER BY 1", recorded.run)
    assert [call_id for (call_id,) in called] == tools


TOLD = "SELECT calls, requests, failed_requests, tool_calls FROM run WHERE run_id = :run"
USED = (
    "SELECT sum(input_tokens), sum(output_tokens), sum(cached_tokens), sum(reasoning_tokens)"
    " FROM usage WHERE run_id = :run"
)


def operations(spans: list[Span]) -> dict[str, int]:
    """How many spans there are of each operation."""
    return dict(Counter(span.operation for span in spans if span.operation))
