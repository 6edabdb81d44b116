"""A run in one's own code, and hooks that are put on and taken off again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import TracerProvider

import agent_shim
from agent_shim.errors import SettingsError
from agent_shim.events import span_id
from telemetry.testing import Answer, ScriptedServer
from tests import spools

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def unhooked() -> Any:
    yield
    agent_shim.uninstrument()


def ask(server: ScriptedServer) -> Any:
    with openai.OpenAI(base_url=server.url, api_key="sk-test") as client:
        return client.responses.create(model="gpt-5", input="hello")


def test_calls_inside_the_block_belong_to_the_run(server: ScriptedServer, data_home: Path) -> None:
    with agent_shim.run(commit="abc1234", task="t", repository="r", tags={"k": "v"}) as run:
        ask(server)
    ask(server)
    [started] = spools.events(data_home, "run.started")
    [call] = spools.events(data_home, "llm.call.started")
    assert (started["data"]["commit"], started["data"]["commit_source"]) == ("abc1234", "option")
    assert (started["run"], call["run"]) == (run.run_id, run.run_id)
    assert call["parent"] == f"{started['producer']}:{started['seq']}"
    [row] = spools.rows(data_home, "run")
    assert (row["outcome"], row["complete"], row["capture"]) == ("returned", 1, "captured")


def test_an_exception_ends_the_run_and_comes_out_untouched(server: ScriptedServer, data_home: Path) -> None:
    mine = ValueError("mine")
    with pytest.raises(ValueError) as caught, agent_shim.run():
        raise mine
    assert caught.value is mine
    [finished] = spools.events(data_home, "run.finished")
    assert finished["data"]["outcome"] == "raised"
    assert (finished["data"]["error_type"], finished["data"]["error_message"]) == ("ValueError", "mine")


def test_the_run_joins_the_trace_that_is_current_and_hands_it_on(
    server: ScriptedServer, data_home: Path
) -> None:
    tracer = TracerProvider().get_tracer("mine")
    with tracer.start_as_current_span("outer") as outer, agent_shim.run() as run:
        handed_on = os.environ["TRACEPARENT"]
        with tracer.start_as_current_span("inner") as inner:
            ask(server)
    context = outer.get_span_context()
    [started] = spools.events(data_home, "run.started")
    [call] = spools.events(data_home, "llm.call.started")
    trace = f"{context.trace_id:032x}"
    assert started["data"]["trace_parent"].split("-")[1:3] == [trace, f"{context.span_id:016x}"]
    assert call["data"]["trace_parent"].split("-")[2] == f"{inner.get_span_context().span_id:016x}"
    own = span_id(f"{started['producer']}:{started['seq']}")
    assert handed_on == f"00-{trace}-{own}-01" == run.environment["TRACEPARENT"]
    assert "TRACEPARENT" not in os.environ


def test_threads_without_a_context_of_their_own_belong_to_the_run(
    server: ScriptedServer, data_home: Path
) -> None:
    with agent_shim.run():
        thread = threading.Thread(target=ask, args=(server,))
        thread.start()
        thread.join()
    assert len(spools.events(data_home, "llm.call.finished")) == 1


def test_runs_one_inside_the_other_keep_their_own_calls(server: ScriptedServer, data_home: Path) -> None:
    with agent_shim.run(task="outer") as outer:
        ask(server)
        with agent_shim.run(task="inner") as inner:
            ask(server)
        ask(server)
    calls = [event["run"] for event in spools.events(data_home, "llm.call.started")]
    assert sorted(calls) == sorted([outer.run_id, inner.run_id, outer.run_id])
    [started] = [e for e in spools.events(data_home, "run.started") if e["run"] == inner.run_id]
    assert started["data"]["parent_run"] == outer.run_id


def test_runs_beside_each_other_are_not_inside_each_other(data_home: Path) -> None:
    async def one(name: str, others: asyncio.Barrier) -> None:
        with agent_shim.run(task=name):
            await others.wait()

    async def both() -> None:
        others = asyncio.Barrier(2)
        await asyncio.gather(one("a", others), one("b", others))

    asyncio.run(both())
    started = spools.events(data_home, "run.started")
    assert [event["data"].get("parent_run") for event in started] == [None, None]


def test_uninstrument_puts_everything_back(server: ScriptedServer, data_home: Path) -> None:
    before = vars(openai._base_client.SyncAPIClient)["request"]
    with openai.OpenAI(base_url=server.url, api_key="sk-test") as client:
        with agent_shim.run():
            client.responses.create(model="gpt-5", input="hello")
        agent_shim.uninstrument()
        assert vars(openai._base_client.SyncAPIClient)["request"] is before
        assert "send" not in vars(client._client)
        client.responses.create(model="gpt-5", input="hello")
        with agent_shim.run():
            client.responses.create(model="gpt-5", input="again")
    assert len(spools.events(data_home, "llm.call.finished")) == 2


def test_disabled_means_nothing_is_hooked_and_nothing_written(
    server: ScriptedServer, data_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_TELEMETRY_DISABLED", "1")
    agent_shim.instrument()
    with agent_shim.run():
        ask(server)
    assert not data_home.exists()


def test_a_data_folder_that_cannot_be_written_is_said_once_and_costs_nothing(
    server: ScriptedServer, data_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_home.write_text("a file is in the way")
    with agent_shim.run():
        ask(server)
    said = capsys.readouterr().err
    assert said.startswith(f"agent-telemetry: not recorded: {data_home}: ")
    assert said.count("\n") == 1
    assert len(server.ledger.requests) == 1


def test_a_data_folder_that_is_not_absolute_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_TELEMETRY_HOME", "relative/folder")
    with pytest.raises(SettingsError, match="AGENT_TELEMETRY_HOME"):
        agent_shim.run()


def program(text: str, **environ: str) -> None:
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ}
    subprocess.run([sys.executable, "-c", text], env=kept, check=True, timeout=60)


ASK = """
import openai
openai.OpenAI().responses.create(model="gpt-5", input="hello")
"""


def test_instrument_alone_begins_a_run_at_the_first_call_and_ends_it_with_the_process(
    server: ScriptedServer, data_home: Path
) -> None:
    program(
        "import agent_shim; agent_shim.instrument()" + ASK,
        AGENT_TELEMETRY_HOME=str(data_home),
        **server.environment,
    )
    names = [event["name"] for event in spools.events(data_home)]
    assert names.count("run.started") == names.count("run.finished") == names.count("llm.call.finished") == 1
    assert names[-1] == "producer.sealed"


def test_a_child_process_that_instruments_joins_the_run(server: ScriptedServer, data_home: Path) -> None:
    with agent_shim.run() as run:
        program("import agent_shim; agent_shim.instrument()" + ASK, **run.environment, **server.environment)
    [call] = spools.events(data_home, "llm.call.started")
    assert call["run"] == run.run_id
    assert [event["run"] for event in spools.events(data_home, "run.started")] == [run.run_id]
    assert {e["data"]["role"] for e in spools.events(data_home, "producer.started")} == {"wrapper", "agent"}


def test_content_is_kept_only_when_asked_for(
    server: ScriptedServer, data_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script(Answer("the answer"), Answer("the answer"))
    with agent_shim.run():
        ask(server)
    monkeypatch.setenv("AGENT_TELEMETRY_CONTENT", "1")
    with agent_shim.run():
        ask(server)
    calls = spools.events(data_home, "llm.call.started"), spools.events(data_home, "llm.call.finished")
    assert [event["data"].get("input") for event in calls[0]] == [None, {"input": "hello", "model": "gpt-5"}]
    assert [event["data"].get("output") for event in calls[1]] == [None, "the answer"]


# --- tools of one's own agent --------------------------------------------------------------------


def test_a_tool_of_ones_own_is_a_tool_call_with_its_outcome(server: ScriptedServer, data_home: Path) -> None:
    with agent_shim.run():
        with agent_shim.tool_call("read", call_id="c1", arguments={"path": "f"}) as tool:
            tool.returned("text")
        with agent_shim.tool_call("run", call_id="c2", arguments='{"command": "false"}') as tool:
            tool.failed("exit status 1")
        with pytest.raises(KeyError), agent_shim.tool_call("write", call_id="c3"):
            raise KeyError("missing")
    rows = sorted(spools.rows(data_home, "tool_call"), key=lambda row: str(row["call_id"]))
    assert [(row["tool"], row["ended"], row["error_type"], row["error_message"]) for row in rows] == [
        ("read", "completed", None, None),
        ("run", "failed", "ToolError", "exit status 1"),
        ("write", "raised", "KeyError", "'missing'"),
    ]
    assert [row["arguments"] for row in rows] == ['{"path":"f"}', '{"command": "false"}', "null"]


def test_a_tool_call_outside_any_run_does_nothing(data_home: Path) -> None:
    with agent_shim.tool_call("read") as tool:
        tool.returned("text")
    assert not data_home.exists()


def test_in_a_wrapped_agent_its_own_copy_records_through_ours(data_home: Path) -> None:
    bootstrap = str(ROOT / "agent_shim" / "bootstrap.py")
    code = "import agent_shim\nwith agent_shim.tool_call('read'): pass"
    environ = {"AGENT_TELEMETRY_HOME": str(data_home), "AGENT_TELEMETRY_RUN": "0" * 32}
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ}
    subprocess.run([sys.executable, bootstrap, "-c", code], env=kept, check=True, timeout=60)
    names = [event["name"] for event in spools.events(data_home)]
    assert names == ["producer.started", "tool.call.started", "tool.call.finished"]


def test_a_websocket_surface_is_recorded_as_not_decoded(server: ScriptedServer, data_home: Path) -> None:
    with agent_shim.run(), openai.OpenAI(base_url=server.url, api_key="sk-test") as client:
        client.realtime.connect(model="gpt-realtime")
    [row] = spools.rows(data_home, "llm_call")
    assert (row["surface"], row["model_requested"], row["ended"]) == (
        "realtime",
        "gpt-realtime",
        "not_followed",
    )
    assert (row["usage_source"], row["input_tokens"]) == ("unknown", None)
    assert "WebSocket" in row["usage_reason"]
