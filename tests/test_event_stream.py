"""Event streams are read the same however they are written, and in whatever pieces they come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_shim import openai_response
from agent_shim.openai_response import EventStream, Findings

TEXT = 'a "text" with data: {"finish_reason":null}\n\n, "tool_calls" and "error"'


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"id": "c1", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


CALL = [{"index": 0, "id": "call_1", "function": {"name": "run", "arguments": '{"a":'}}]
REST = [{"index": 0, "function": {"arguments": "1}"}}]
CHAT: list[dict[str, Any]] = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": TEXT}),
    chunk({"reasoning_content": TEXT}) | {"usage": None},
    chunk({"tool_calls": CALL}),
    chunk({"tool_calls": REST}),
    chunk({"content": "x"}),
    chunk({}, "tool_calls"),
    {"id": "c1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
]
ITEM = {"type": "function_call", "call_id": "call_1", "name": "run", "arguments": '{"a":1}'}
RESPONSES: list[dict[str, Any]] = [
    {"type": "response.created", "response": {"id": "c1", "model": "m", "status": "in_progress"}},
    {"type": "response.output_text.delta", "delta": TEXT},
    {"type": "response.output_text.delta", "delta": "x"},
    {"type": "response.output_item.done", "output_index": 0, "item": ITEM},
    {
        "type": "response.completed",
        "response": {"id": "c1", "status": "completed", "usage": {"input_tokens": 7, "output_tokens": 2}},
    },
]


def written(values: list[dict[str, Any]], end: bytes, spaced: bool, named: bool) -> bytes:
    """The stream as a server writes it: line ends, spaces in its JSON, event names."""
    out = []
    for value in values:
        data = json.dumps(value, separators=None if spaced else (",", ":")).encode()
        name = b"event: %s%s" % (value["type"].encode(), end) if named and "type" in value else b""
        out.append(name + b"data: " + data + end + end)
    return b"".join(out) + b": comment" + end + end + b"data: [DONE]" + end + end


ways = st.tuples(
    st.sampled_from([CHAT, RESPONSES]), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.booleans(), st.booleans()
)


@given(ways, st.lists(st.integers(1, 400), min_size=1, max_size=40), st.booleans())
def test_pieces_and_ways_of_writing_make_no_difference(
    way: tuple[list[dict[str, Any]], bytes, bool, bool], sizes: list[int], keep: bool
) -> None:
    stream, rest = EventStream(Findings(keep)), written(*way)
    while rest:
        for size in sizes:
            piece, rest = rest[:size], rest[size:]
            assert stream.feed(piece) == piece
    stream.end()
    found = stream.findings
    assert stream.events == len(way[0])
    assert (found.id, found.model, found.terminal) == ("c1", "m", True)
    assert found.usage is not None
    assert sum(found.usage.values()) == 9
    assert [(call["id"], call["arguments"]) for call in found.tool_calls() or []] == [("call_1", '{"a":1}')]


@pytest.mark.parametrize("blank", [b"\n\n", b"\n\n\n\n", b"data: \n\n", b"event: ping\ndata: \n\n"])
@pytest.mark.parametrize("at_once", [True, False], ids=["together", "apart"])
def test_a_blank_event_is_none(blank: bytes, at_once: bool) -> None:
    """In front, between and at the end, in a piece with another or alone."""
    stream = EventStream(Findings())
    for value in CHAT:
        raw = b"data: " + json.dumps(value).encode() + b"\n\n"
        for piece in [blank + raw + blank] if at_once else [blank, raw, blank]:
            stream.feed(piece)
    assert (stream.events, stream.findings.id, stream.findings.model) == (len(CHAT), "c1", "m")


@pytest.mark.parametrize("spaced", [False, True], ids=["compact", "spaced"])
@pytest.mark.parametrize(("values", "said"), [(CHAT, 5), (RESPONSES, 3)], ids=["chat", "responses"])
@pytest.mark.parametrize("whole", [True, False], ids=["an event a piece", "a byte a piece"])
def test_an_event_that_is_only_text_is_not_decoded(
    values: list[dict[str, Any]], said: int, spaced: bool, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    decode = openai_response._decode
    monkeypatch.setattr(openai_response, "_decode", lambda data: decoded.append(data) or decode(data))
    stream = EventStream(Findings())
    for value in values:
        raw = b"data: " + json.dumps(value, separators=None if spaced else (",", ":")).encode() + b"\n\n"
        for piece in [raw] if whole else [raw[at : at + 1] for at in range(len(raw))]:
            stream.feed(piece)
    assert (stream.events, len(decoded)) == (len(values), said)
