"""The scripted server looks to the real client like the service, fault for fault, and its books are right."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_shim import spool
from agent_shim.events import EventsLost
from telemetry.testing import (
    Answer,
    ApiError,
    Delivery,
    FixedClock,
    FixedIds,
    Raw,
    Reply,
    ScriptedServer,
    ToolCall,
    Usage,
    bad_request,
    calls,
    connection_reset,
    invalid_key,
    model_not_found,
    overloaded,
    quota_exhausted,
    rate_limited,
    server_error,
)

MESSAGES: Any = [{"role": "user", "content": "hello"}]
WITH_USAGE: Any = {"include_usage": True}
FULL = Usage(input=1000, output=50, cached=800, cache_write=30, reasoning=20)
TEXT = "Grüße, schöne Welt: 日本語 🙂"


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="sk-test", max_retries=0) as client:
        yield client


def ask_chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="gpt-5", messages=MESSAGES, **options)


def ask_response(client: openai.OpenAI, **options: Any) -> Any:
    return client.responses.create(model="gpt-5", input="hello", **options)


def read_chat(client: openai.OpenAI) -> str:
    chunks = ask_chat(client, stream=True, stream_options=WITH_USAGE)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def read_response(client: openai.OpenAI) -> str:
    events = ask_response(client, stream=True)
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


# --- answers --------------------------------------------------------------------------------------


def test_a_chat_completion_carries_all_parts_of_usage(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer(TEXT, usage=FULL, model="gpt-5-2025-08-07", tier="flex"))
    completion = ask_chat(client)
    assert completion.choices[0].message.content == TEXT
    assert completion.choices[0].finish_reason == "stop"
    assert (completion.model, completion.service_tier) == ("gpt-5-2025-08-07", "flex")
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (1000, 50, 1050)
    assert usage.prompt_tokens_details.cached_tokens == 800
    assert usage.prompt_tokens_details.cache_write_tokens == 30
    assert usage.completion_tokens_details.reasoning_tokens == 20


def test_a_response_carries_all_parts_of_usage(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer(TEXT, usage=FULL))
    response = ask_response(client, service_tier="flex")
    assert (response.output_text, response.status, response.service_tier) == (TEXT, "completed", "flex")
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (1000, 50, 1050)
    assert usage.input_tokens_details.cached_tokens == 800
    assert usage.input_tokens_details.cache_write_tokens == 30
    assert usage.output_tokens_details.reasoning_tokens == 20


def test_a_chat_stream_has_no_usage_unless_asked(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer(TEXT))
    chunks = list(ask_chat(client, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert server.ledger.total() == Usage(input=100, output=20)


def test_a_chat_stream_gives_usage_in_one_extra_chunk_without_choices(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    server.script(Answer(TEXT, usage=FULL))
    *chunks, last = list(ask_chat(client, stream=True, stream_options=WITH_USAGE))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage.prompt_tokens == 1000


def test_a_response_stream_is_the_typed_sequence_of_the_service(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    server.script(Answer("two words", usage=FULL))
    with client.responses.stream(model="gpt-5", input="hello") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert (final.output_text, final.usage.total_tokens) == ("two words", 1050)


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_arrive_whole_on_both_surfaces(
    server: ScriptedServer, client: openai.OpenAI, stream: bool
) -> None:
    two = calls(ToolCall("read_file", {"path": "a.py"}, "call_a"), ToolCall("run", '{"broken'))
    server.script(two, two)
    if stream:
        with client.chat.completions.stream(model="gpt-5", messages=MESSAGES) as chat:
            choice: Any = chat.get_final_completion().choices[0]
        with client.responses.stream(model="gpt-5", input="hello") as events:
            output: Any = events.get_final_response().output
    else:
        choice, output = ask_chat(client).choices[0], ask_response(client).output
    assert choice.finish_reason == "tool_calls"
    functions = [call.function for call in choice.message.tool_calls]
    assert [(f.name, f.arguments) for f in functions] == [
        ("read_file", '{"path": "a.py"}'),
        ("run", '{"broken'),
    ]
    assert [(item.name, item.arguments) for item in output] == [(f.name, f.arguments) for f in functions]
    assert output[0].call_id == "call_a"
    assert [call.name for call in server.ledger.tool_calls] == ["read_file", "run"] * 2


@pytest.mark.parametrize(("ended", "finish", "reason"), [
    ("length", "length", "max_output_tokens"),
    ("content_filter", "content_filter", "content_filter"),
])  # fmt: skip
def test_an_answer_can_be_cut_by_the_service(
    server: ScriptedServer, client: openai.OpenAI, ended: Any, finish: str, reason: str
) -> None:
    server.script(Answer("cut", ended=ended), Answer("cut", ended=ended))
    assert ask_chat(client).choices[0].finish_reason == finish
    response = ask_response(client)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", reason)
    assert response.usage.input_tokens == 100


def test_a_refusal_is_a_refusal_on_both_surfaces(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer(refusal="I cannot."), Answer(refusal="I cannot."))
    assert ask_chat(client).choices[0].message.refusal == "I cannot."
    assert ask_response(client).output[0].content[0].refusal == "I cannot."


def test_a_failed_response_is_http_200_with_an_error_inside(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    failed = Answer("x", ended="failed", error_code="rate_limit_exceeded", usage=None)
    server.script(failed, failed)
    response = ask_response(client)
    assert (response.status, response.error.code, response.usage) == ("failed", "rate_limit_exceeded", None)
    assert list(ask_response(client, stream=True))[-1].type == "response.failed"
    assert server.ledger.billed == ()


def test_an_error_event_ends_a_response_stream(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer("x", error_after=3, error_code="server_error"))
    last = list(ask_response(client, stream=True))[-1]
    assert (last.type, last.code, last.sequence_number) == ("error", "server_error", 3)


def test_an_error_payload_ends_a_chat_stream(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer("a b c", error_after=2))
    stream = ask_chat(client, stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "a"]
    with pytest.raises(openai.APIError) as raised:
        next(stream)
    assert raised.value.code == "server_error"
    assert server.ledger.total().output == 20


def test_a_background_response_is_polled_often_and_billed_once(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    server.script(Answer("late", polls=2, usage=FULL))
    created = ask_response(client, background=True)
    polled = [client.responses.retrieve(created.id) for _ in range(4)]
    statuses = [response.status for response in [created, *polled]]
    assert statuses == ["queued", "in_progress", "in_progress", "completed", "completed"]
    assert [response.usage is None for response in polled] == [True, True, False, False]
    assert server.ledger.total() == FULL


def test_the_other_surfaces(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer(usage=Usage(input=8)))
    embedded = client.embeddings.create(model="text-embedding-3-small", input=["a", "b"])
    assert [item.embedding for item in embedded.data] == [[0.5, -0.25, 0.125]] * 2
    assert embedded.usage.total_tokens == 8
    assert client.moderations.create(input="x").results[0].flagged is False
    assert "gpt-5" in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-5").id == "gpt-5"
    assert [(entry.path, entry.usage) for entry in server.ledger.billed] == [("/embeddings", Usage(input=8))]


def test_what_the_server_does_not_have_is_404(server: ScriptedServer, client: openai.OpenAI) -> None:
    for ask in (
        lambda: client.models.retrieve("gpt-99"),
        lambda: client.responses.retrieve("resp_none"),
        lambda: client.get("/nothing", cast_to=object),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert [request.status for request in server.ledger.requests] == [404] * 3


# --- odd but legal --------------------------------------------------------------------------------

ODD = {
    "gzip": Answer(TEXT, delivery=Delivery(gzip=True)),
    "one byte at a time": Answer(TEXT, delivery=Delivery(split=1)),
    "split and gzip": Answer(TEXT, delivery=Delivery(split=7, gzip=True)),
    "comments": Answer(TEXT, comments=True),
    "CRLF": Answer(TEXT, newline="\r\n"),
    "CR": Answer(TEXT, newline="\r"),
    "no [DONE]": Answer(TEXT, done=False),
    "usage in every chunk": Answer(TEXT, reported="every"),
    "usage nowhere": Answer(TEXT, reported="never"),
    "slow": Answer(TEXT, delivery=Delivery(delay_s=0.001)),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_odd_but_legal_answers_are_read_whole(
    server: ScriptedServer, client: openai.OpenAI, odd: Answer
) -> None:
    server.script(odd, odd, odd, odd)
    assert ask_chat(client).choices[0].message.content == TEXT
    assert read_chat(client) == TEXT
    assert ask_response(client).output_text == TEXT
    assert read_response(client) == TEXT
    assert len(server.ledger.billed) == 4


def test_usage_in_every_chunk_grows_to_the_total(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer("a b c", reported="every"))
    told = [chunk.usage.completion_tokens for chunk in ask_chat(client, stream=True)]
    assert told == sorted(told)
    assert (told[0] < 20, told[-1]) == (True, 20)


def test_unreported_usage_is_billed_all_the_same(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer("x", reported="never"), Answer("x", reported="never"))
    assert ask_chat(client).usage is None
    assert ask_response(client).usage is None
    assert server.ledger.total() == Usage(input=200, output=40)


def test_a_reshaped_answer_has_any_shape(server: ScriptedServer, client: openai.OpenAI) -> None:
    def without_choices(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**chunk, "choices": None} for chunk in chunks]

    server.script(Answer("x", reshape=without_choices), Answer("x", reshape=without_choices))
    assert ask_chat(client).choices is None
    assert all(chunk.choices is None for chunk in ask_chat(client, stream=True))


# --- refusals -------------------------------------------------------------------------------------

REFUSALS = [
    (invalid_key(), openai.AuthenticationError, 401, "invalid_api_key"),
    (bad_request("Too long.", param="messages", code="context_length_exceeded"), openai.BadRequestError, 400,
     "context_length_exceeded"),
    (model_not_found("gpt-9"), openai.NotFoundError, 404, "model_not_found"),
    (rate_limited(), openai.RateLimitError, 429, "rate_limit_exceeded"),
    (quota_exhausted(), openai.RateLimitError, 429, "insufficient_quota"),
    (server_error(), openai.InternalServerError, 500, None),
    (overloaded(), openai.InternalServerError, 503, None),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "kind", "status", "code"), REFUSALS)
def test_a_refusal_reaches_the_client_with_all_its_fields(
    server: ScriptedServer,
    client: openai.OpenAI,
    reply: ApiError,
    kind: type[openai.APIStatusError],
    status: int,
    code: str | None,
) -> None:
    server.script(reply)
    with pytest.raises(kind) as raised:
        ask_chat(client)
    error = raised.value
    assert (error.status_code, error.code, error.type, error.param) == (status, code, reply.type, reply.param)
    assert error.response.headers["openai-processing-ms"] == "7"
    seen = server.ledger.requests[0]
    assert (seen.status, seen.request_id, seen.error_code) == (status, error.request_id, code or reply.type)
    assert server.ledger.billed == ()


def test_a_rate_limit_says_when_to_come_back(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(rate_limited(retry_after_ms=250, retry_after_s=1))
    with pytest.raises(openai.RateLimitError) as raised:
        ask_chat(client)
    headers = raised.value.response.headers
    assert (headers["retry-after-ms"], headers["retry-after"]) == ("250", "1")
    assert headers["x-ratelimit-remaining-tokens"] == "0"


def test_the_clients_own_retries_are_counted_in_the_ledger(server: ScriptedServer) -> None:
    server.script(rate_limited(), connection_reset(), server_error(), Answer("at last"))
    with openai.OpenAI(base_url=server.url, api_key="sk-test", max_retries=3) as client:
        assert ask_chat(client).choices[0].message.content == "at last"
    seen = server.ledger.requests
    assert [request.status for request in seen] == [429, None, 500, 200]
    assert [request.retry_count for request in seen] == [0, 1, 2, 3]
    assert [entry.request for entry in server.ledger.billed] == [4]


# --- faults ---------------------------------------------------------------------------------------


def test_a_reset_before_the_headers_is_a_reset(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(connection_reset())
    with pytest.raises(openai.APIConnectionError) as raised:
        ask_chat(client)
    assert "reset" in str(raised.value.__cause__)
    assert (server.ledger.requests[0].status, server.ledger.requests[0].fault) == (None, "reset")
    assert server.ledger.billed == ()


@pytest.mark.parametrize("ask", [ask_chat, ask_response])
def test_a_reset_in_the_middle_of_a_stream_is_billed(
    server: ScriptedServer, client: openai.OpenAI, ask: Callable[..., Any]
) -> None:
    server.script(Answer("a b c d e", usage=FULL, delivery=Delivery(fault="reset", after=3)))
    stream = ask(client, stream=True)
    got = []
    with pytest.raises(openai.APIConnectionError) as raised:
        got.extend(stream)
    assert "reset" in str(raised.value.__cause__)
    assert len(got) == 3 or (sys.platform != "linux" and len(got) < 3)
    assert server.ledger.total() == FULL


def test_an_early_close_is_an_incomplete_body(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer("a b c d e", delivery=Delivery(fault="close", after=3)))
    stream = ask_chat(client, stream=True)
    got = [next(stream) for _ in range(3)]
    with pytest.raises(openai.APIConnectionError) as raised:
        next(stream)
    assert len(got) == 3
    assert isinstance(raised.value.__cause__, httpx2.RemoteProtocolError)


def test_an_answer_lost_before_its_headers_is_billed(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer("lost", usage=FULL, delivery=Delivery(fault="reset")))
    with pytest.raises(openai.APIConnectionError):
        ask_response(client)
    assert server.ledger.requests[0].status is None
    assert server.ledger.total() == FULL


@pytest.mark.parametrize("after", [None, 0, 2])
def test_a_stall_runs_into_the_clients_timeout(
    server: ScriptedServer, client: openai.OpenAI, after: int | None
) -> None:
    server.script(Answer("a b c", delivery=Delivery(fault="stall", after=after)))
    with pytest.raises(openai.APITimeoutError):
        list(ask_chat(client, stream=True, timeout=0.2))
    assert server.ledger.total() == Usage(input=100, output=20)


def test_a_stalled_answer_goes_on_when_told(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer("a b", delivery=Delivery(fault="stall", after=2)))
    stream = ask_chat(client, stream=True)
    assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "a"]
    server.resume()
    assert [chunk.choices[0].delta.content for chunk in stream] == [" b", None]


BROKEN = {
    "truncated": (Answer("x", delivery=Delivery(truncate=40)), json.JSONDecodeError),
    "not JSON": (Raw(b"<html>gateway</html>"), json.JSONDecodeError),
}


@pytest.mark.parametrize(("reply", "error"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_body_breaks_in_the_clients_parser(
    server: ScriptedServer, client: openai.OpenAI, reply: Reply, error: type[Exception]
) -> None:
    server.script(reply)
    with pytest.raises((error, openai.APIResponseValidationError)):
        ask_chat(client)


def test_a_wrong_content_type_is_on_the_wire(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Raw(b"maintenance", content_type="text/html"))
    assert ask_chat(client) == "maintenance"
    server.script(Answer("x", delivery=Delivery(content_type="text/plain")))
    raw = client.chat.completions.with_raw_response.create(model="gpt-5", messages=MESSAGES)
    assert raw.headers["content-type"] == "text/plain"


def test_an_error_page_of_a_proxy_has_no_code(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Raw(b"<html>bad gateway</html>", status=502, content_type="text/html"))
    with pytest.raises(openai.InternalServerError) as raised:
        ask_chat(client)
    assert (raised.value.status_code, raised.value.code) == (502, None)


# --- tool pairing ---------------------------------------------------------------------------------

CALL: Any = {"type": "function_call", "call_id": "call_1", "name": "run", "arguments": "{}"}
OUTPUT: Any = {"type": "function_call_output", "call_id": "call_1", "output": "ok"}


def test_an_unanswered_function_call_is_refused_as_the_service_does(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    server.script(Answer("never used"))
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model="gpt-5", input=[CALL])
    assert raised.value.body == {
        "message": "No tool output found for function call call_1.",
        "type": "invalid_request_error",
        "param": "input",
        "code": None,
    }
    assert (server.left, server.ledger.billed) == (1, ())


def test_an_answered_function_call_is_accepted(server: ScriptedServer, client: openai.OpenAI) -> None:
    # The order that agents really send: the call, then the assistant's text, then the output.
    between: Any = {"type": "message", "role": "assistant", "content": "running"}
    assert client.responses.create(model="gpt-5", input=[CALL, between, OUTPUT]).output_text == "Done."
    assert [(item.call_id, item.output) for item in server.ledger.tool_outputs] == [("call_1", "ok")]


def test_an_output_without_its_call_is_refused(server: ScriptedServer, client: openai.OpenAI) -> None:
    with pytest.raises(
        openai.BadRequestError, match="No tool call found for function call output with call_id call_1"
    ):
        client.responses.create(model="gpt-5", input=[OUTPUT])


def test_the_open_calls_of_the_previous_response_count(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(calls(ToolCall("run", {}, "call_1")))
    previous = ask_response(client).id
    with pytest.raises(openai.BadRequestError, match="No tool output found for function call call_1"):
        ask_response(client, previous_response_id=previous)
    answered = client.responses.create(model="gpt-5", input=[OUTPUT], previous_response_id=previous)
    assert answered.previous_response_id == previous


def test_a_response_that_was_not_stored_cannot_be_continued(
    server: ScriptedServer, client: openai.OpenAI
) -> None:
    previous = ask_response(client, store=False).id
    with pytest.raises(openai.BadRequestError) as raised:
        ask_response(client, previous_response_id=previous)
    assert (raised.value.code, raised.value.param) == ("previous_response_not_found", "previous_response_id")


def test_an_unanswered_tool_call_of_a_chat_is_refused(server: ScriptedServer, client: openai.OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "run", "arguments": "{}"}}
    messages: Any = [*MESSAGES, {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(openai.BadRequestError, match="did not have response messages: call_1") as raised:
        client.chat.completions.create(model="gpt-5", messages=messages)
    assert raised.value.param == "messages"
    messages.append({"role": "tool", "tool_call_id": "call_1", "content": "ok"})
    assert client.chat.completions.create(model="gpt-5", messages=messages).choices
    assert [item.output for item in server.ledger.tool_outputs] == ["ok"]


# --- script and ledger ----------------------------------------------------------------------------


def test_replies_come_in_order_and_then_the_default(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer("one"), Answer("two"))
    assert server.left == 2
    assert [ask_response(client).output_text for _ in range(4)] == ["one", "two", "Done.", "Done."]


def test_some_requests_have_scripts_of_their_own() -> None:
    own = {"gpt-4o*": [Answer("small")], "GET /responses/*": [server_error()]}
    with (
        ScriptedServer(Answer("main"), on=own) as server,
        openai.OpenAI(base_url=server.url, api_key="k", max_retries=0) as client,
    ):
        small = client.responses.create(model="gpt-4o-mini", input="x")
        assert (small.output_text, ask_response(client).output_text) == ("small", "main")
        with pytest.raises(openai.InternalServerError):
            client.responses.retrieve(small.id)


def test_a_turn_may_be_made_from_the_request(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(lambda body: Answer(f"you said {body['input']}"))
    assert ask_response(client).output_text == "you said hello"


def test_the_ledger_holds_the_request_as_it_was_sent(server: ScriptedServer, client: openai.OpenAI) -> None:
    ask_chat(client, parallel_tool_calls=False, temperature=0)
    request = server.ledger.requests[0]
    assert (request.number, request.method, request.path) == (1, "POST", "/chat/completions")
    assert set(request.keys) == {"messages", "model", "parallel_tool_calls", "temperature"}
    assert request.body == json.loads(request.content)
    assert request.headers["authorization"] == "Bearer sk-test"


def test_totals_are_kept_by_the_model_that_answered(server: ScriptedServer, client: openai.OpenAI) -> None:
    server.script(Answer(usage=FULL, model="gpt-5-2025-08-07"), Answer(usage=FULL), Answer(usage=FULL))
    for _ in range(3):
        ask_response(client)
    assert server.ledger.total("gpt-5") == FULL.plus(FULL)
    assert server.ledger.total("gpt-5-2025-08-07") == FULL
    assert server.ledger.total("gpt-4o") == Usage()


LOSING: list[Delivery] = [
    Delivery(),
    Delivery(fault="reset"),
    Delivery(fault="reset", after=1),
    Delivery(fault="close", after=2),
    Delivery(truncate=30),
    Delivery(gzip=True, split=11),
]


@given(
    st.lists(
        st.tuples(st.sampled_from(LOSING), st.integers(0, 9999), st.sampled_from([ask_chat, ask_response])),
        max_size=4,
    )
)
@settings(max_examples=25)
def test_what_was_answered_is_billed_whatever_the_client_read(
    turns: list[tuple[Delivery, int, Callable[..., Any]]],
) -> None:
    with (
        ScriptedServer() as server,
        openai.OpenAI(base_url=server.url, api_key="k", max_retries=0) as client,
    ):
        for delivery, tokens, ask in turns:
            server.script(Answer("a b c", usage=Usage(tokens, 1), delivery=delivery))
            try:
                list(ask(client, stream=True))
            except (openai.APIError, ValueError):
                continue
        assert server.ledger.total() == Usage(sum(tokens for _, tokens, _ in turns), len(turns))
        assert [request.number for request in server.ledger.requests] == list(range(1, len(turns) + 1))


def test_two_servers_never_give_the_same_response_id_unless_told() -> None:
    def first_id(prefix: str | None) -> str:
        with (
            ScriptedServer(prefix=prefix, clock=lambda: 1.0) as server,
            openai.OpenAI(base_url=server.url, api_key="k") as client,
        ):
            return str(ask_response(client).id)

    assert first_id(None) != first_id(None)
    assert first_id("fixed") == first_id("fixed") == "resp_fixed0001"


def test_a_test_can_wait_for_a_request_of_another_process(server: ScriptedServer) -> None:
    program = "import openai; openai.OpenAI().responses.create(model='gpt-5', input='from elsewhere')"
    server.script(Answer(delivery=Delivery(fault="stall")))
    with subprocess.Popen([sys.executable, "-c", program], env=server.environment) as child:
        server.ledger.wait(requests=1)
        child.kill()
    assert server.ledger.requests[0].body["input"] == "from elsewhere"
    with pytest.raises(TimeoutError):
        server.ledger.wait(requests=2, timeout_s=0.01)


# --- sockets --------------------------------------------------------------------------------------


def test_a_raw_socket_sees_plain_http(server: ScriptedServer) -> None:
    server.script(Answer("x", delivery=Delivery(headers={"x-extra": "1"})))
    body = b'{"model": "gpt-5", "stream": true, "messages": []}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    host, _, port = server.origin.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(head % len(body) + body)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    headers, _, events = answer.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/event-stream; charset=utf-8" in headers
    assert b"x-request-id: req_" in headers
    assert b"x-extra: 1" in headers
    assert events.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_many_clients_at_once_are_each_answered_once(server: ScriptedServer) -> None:
    server.script(*(Answer(str(number)) for number in range(24)))

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
            answers = [client.responses.create(model="gpt-5", input="x") for _ in range(24)]
            return [response.output_text for response in await asyncio.gather(*answers)]

    assert sorted(asyncio.run(ask_all()), key=int) == [str(number) for number in range(24)]
    assert len({entry.response_id for entry in server.ledger.billed}) == 24


def test_a_client_that_is_killed_is_no_error_of_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer() as server:
        host, _, port = server.origin.removeprefix("http://").partition(":")
        for unfinished in (b"", b"POST /v1/responses HTTP/1.1\r\ncontent-length: 9\r\n\r\n{"):
            raw = socket.create_connection((host, int(port)))
            raw.sendall(b"GET /v1/models/gpt-5 HTTP/1.1\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):  # whole, so that the server waits for the next request
                answer += raw.recv(65536)
            raw.sendall(unfinished)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()
    assert capfd.readouterr() == ("", "")
    assert [request.path for request in server.ledger.requests] == ["/models/gpt-5"] * 2


def test_closing_the_server_ends_every_connection_and_thread() -> None:
    before = set(threading.enumerate())
    with ScriptedServer(Answer("a b", delivery=Delivery(fault="stall", after=1))) as server:
        client = openai.OpenAI(base_url=server.url, api_key="k", max_retries=0)
        stream = ask_chat(client, stream=True)
        next(stream)
    assert set(threading.enumerate()) == before
    with pytest.raises(openai.APIConnectionError):
        next(stream)
    client.close()


# --- fixed clock and ids --------------------------------------------------------------------------


def test_a_spool_with_fixed_clock_and_ids_writes_the_same_bytes(tmp_path: Path) -> None:
    def write(folder: Path) -> dict[str, bytes]:
        writer = spool.Spool(
            folder,
            FixedIds(100)(),
            role="agent",
            redact=str,
            clock=FixedClock(),
            monotonic=FixedClock(start=0, step=5),
            ids=FixedIds(),
        )
        writer.append(EventsLost(reasons={"ENOSPC": 1}))
        writer.seal()
        return {path.name: path.read_bytes() for path in writer.folder.iterdir()}

    first = write(tmp_path / "a")
    assert first == write(tmp_path / "b")
    assert [name.removesuffix(spool.SUFFIX) for name in first] == [FixedIds()()]


def test_fixed_ids_have_the_form_of_a_uuid7() -> None:
    ids = FixedIds()
    one, two = ids(), ids()
    assert one < two
    assert (len(one), one[12], one[16]) == (32, "7", "8")
