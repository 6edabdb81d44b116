"""What went wrong in other instrumentations, as tests of ours; each is named after what it prevents.

The list is ``docs/prevented.md``; what other files show as a matter of course is there with its test.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agent_shim
from agent_shim import hooks, openai_client
from agent_shim.openai_response import EventStream, Findings
from agent_shim.spool import new_id
from telemetry.testing import Answer, Delivery, ScriptedServer, Usage
from tests import spools

ROOT = Path(__file__).resolve().parent.parent
FULL = Usage(input=1000, output=50)

ASK = """
import openai
client = openai.OpenAI()
messages = [{"role": "user", "content": "hello"}]
print(client.chat.completions.create(model="gpt-5", messages=messages).choices[0].message.content)
"""


def start(server: ScriptedServer, home: Path, code: str) -> subprocess.Popen[str]:
    """A wrapped agent of a few lines."""
    environ = {
        "PATH": os.environ["PATH"],
        "AGENT_TELEMETRY_HOME": str(home),
        "AGENT_TELEMETRY_RUN": new_id(),
        **server.environment,
    }
    command = [sys.executable, str(ROOT / "agent_shim" / "bootstrap.py"), "-c", code]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_one_missing_function_does_not_switch_off_the_others_silently() -> None:
    class AsyncAPIClient:
        async def request(self) -> None: ...

    module: Any = types.SimpleNamespace(AsyncAPIClient=AsyncAPIClient)
    try:
        attached = openai_client.attach(module)
    finally:
        openai_client.detach()
    assert attached.points == ["AsyncAPIClient.request"]
    assert [point for point, _ in attached.failed] == ["SyncAPIClient.request"]


def test_a_hook_that_raises_leaves_the_import_alone_and_says_so(data_home: Path) -> None:
    def fails(module: types.ModuleType) -> hooks.Attached:
        raise RuntimeError("no such thing")

    with agent_shim.run():
        hooks.disarm()
        sys.modules.pop("colorsys", None)
        hooks.arm([hooks.Hook("colours", "colorsys", fails, lambda: None)])
        import colorsys

        assert colorsys.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0)
        hooks.disarm()
    [failed] = spools.events(data_home, "hook.failed")
    assert failed["data"] == {
        "target": "colours",
        "point": "colorsys",
        "error_type": "RuntimeError",
        "error_message": "no such thing",
    }


# --- replies that nobody foresaw -------------------------------------------------------------------

CHUNK = {
    "id": "x", "object": "chat.completion.chunk", "model": "gpt-5", "service_tier": "default",
    "choices": [{"index": 0, "delta": {"content": "a", "tool_calls": [{"index": 0, "id": "c",
                 "function": {"name": "f", "arguments": "{}"}}]}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    "response": {"id": "r", "output": [{"type": "function_call", "call_id": "c"}], "usage": None},
    "type": "response.completed", "error": None,
}  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn, value: Any = CHUNK) -> Any:
    """A reply of which some part, at any depth, is something else."""
    if draw(st.integers(0, 5)) == 0:
        return draw(anything)
    if isinstance(value, dict):
        return {key: draw(mutated(item)) for key, item in value.items() if draw(st.integers(0, 9))}
    if isinstance(value, list):
        return [draw(mutated(item)) for item in value]
    return value


@settings(max_examples=300)
@given(mutated(), st.sampled_from(["chat.completions", "responses", "embeddings", "images"]))
def test_no_shape_of_a_reply_makes_reading_it_fail(reply: Any, surface: str) -> None:
    findings = Findings(keep=True)
    findings.read_body(json.dumps(reply).encode(), "application/json", surface)
    findings.read(reply)
    findings.tool_calls()
    findings.reasons()


@settings(max_examples=300)
@given(
    st.lists(
        mutated().map(lambda reply: f"data: {json.dumps(reply)}\n\n".encode()) | st.binary(max_size=40),
        max_size=5,
    ),
    st.data(),
)
def test_no_stream_however_cut_is_changed_or_fails(events: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(events)
    stream = EventStream(Findings())
    given_back = b""
    at = 0
    while at < len(whole):
        size = data.draw(st.integers(1, 40))
        given_back += stream.feed(whole[at : at + size])
        at += size
    stream.end()
    assert given_back == whole


# --- the list ----------------------------------------------------------------------------------------


def test_every_bug_of_the_list_has_a_test() -> None:
    rows = [line.split("|") for line in (ROOT / "docs" / "prevented.md").read_text().splitlines()[7:]]
    assert len(rows) == 25
    for row in rows:
        file, _, name = row[4].strip(" `").partition("::")
        assert f"\ndef {name}(" in (ROOT / file).read_text(), row[1]


# --- a disk that is full, a process that is killed ------------------------------------------------


def test_a_disk_that_is_full_costs_the_agent_nothing(server: ScriptedServer, data_home: Path) -> None:
    server.script(Answer("hi"), Answer("hi"))
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += f"resource.setrlimit(resource.RLIMIT_FSIZE, (600, {resource.RLIM_INFINITY}))"
    agent = start(server, data_home, limited + ASK + ASK)
    out, err = agent.communicate(timeout=60)
    assert (agent.returncode, out, err) == (0, "hi\nhi\n", "")


STREAM = """
import openai, os, sys, time
client = openai.OpenAI()
messages = [{"role": "user", "content": "hello"}]
client.chat.completions.create(model="gpt-5", messages=messages)
stream = client.chat.completions.create(model="gpt-5", messages=messages, stream=True)
next(stream)
print("open", flush=True)
"""


@pytest.mark.parametrize(
    "death", [signal.SIGTERM, signal.SIGKILL, "os._exit(3)", "os.abort()", "normal end"], ids=str
)
def test_no_death_in_the_middle_of_a_stream_loses_what_was_before(
    death: Any, server: ScriptedServer, data_home: Path
) -> None:
    server.script(Answer("one", usage=FULL), Answer("one two", delivery=Delivery(fault="stall", after=2)))
    if death == "normal end":
        code = STREAM
    else:
        code = STREAM + ("time.sleep(60)" if isinstance(death, signal.Signals) else death)
    with start(server, data_home, code) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "open\n"
        if isinstance(death, signal.Signals):
            agent.send_signal(death)
        agent.wait(30)
    spools.deliver(data_home)
    first, second = sorted(spools.rows(data_home, "llm_call"), key=lambda row: row["started_at"])
    assert (first["ended"], first["input_tokens"]) == ("completed", 1000)
    assert (second["ended"], second["http_status"] in (200, None)) == ("interrupted", True)
    assert (second["usage_source"], second["input_tokens"]) == ("unknown", None)
    assert second["usage_reason"]


def test_memory_does_not_grow_with_calls_or_chunks(server: ScriptedServer, data_home: Path) -> None:
    """Ids are kept for a bounded number of responses, chunks not at all."""
    stream = EventStream(Findings(), take_usage_out=True)
    chunk = b'{"id":"x","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":null}'
    piece = b"data: " + chunk + b"\n\n"
    for _ in range(100_000):
        stream.feed(piece)
    assert stream.events == 100_000
    kept = [value for value in vars(stream).values() if isinstance(value, (list, bytes))]
    assert sum(map(len, kept)) == 0
    for number in range(10_000):
        openai_client.requested.remember(f"resp_{number}", ("c",))
    assert openai_client.requested.of("resp_9999") == ("c",)
    assert openai_client.requested.of("resp_0") == ()
