"""Promises of the estimates: input only, from text only, without a download, and labelled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from telemetry import estimates
from telemetry.estimates import Estimate, NotEstimated, count_input, encoding_of, estimate_input, vocabulary

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}

WITHOUT_VOCABULARY = pytest.mark.skipif(
    vocabulary("o200k_base", os.environ) is None,
    reason="needs tiktoken's vocabulary o200k_base in TIKTOKEN_CACHE_DIR",
)


def by_character(surface: str, model: str | None, body: dict[str, Any]) -> int:
    """The count with a tokenizer that takes every character for a token."""
    return count_input(surface, model, body, len)


# --- what is counted -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "end"), [("gpt-4o", 3), ("gpt-5", 2), ("openai/gpt-5-mini", 2), ("o3", 2), (None, 3)]
)
def test_a_chat_costs_three_tokens_per_message_and_an_end_that_depends_on_the_model(
    model: str | None, end: int
) -> None:
    assert by_character("chat.completions", model, HELLO) == 3 + len("user") + len("hello") + end


def test_names_parts_and_tool_calls_of_a_chat_are_counted() -> None:
    parts = [{"type": "text", "text": "abc"}, {"type": "text", "text": "de"}]
    call = {"id": "c1", "function": {"name": "bash", "arguments": "{}"}}
    messages = [
        {"role": "user", "name": "ann", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
    ]
    expected = (3 + 4 + 5 + 1 + 3) + (3 + 9 + 4 + 2) + (3 + 4 + 2) + 3
    assert by_character("chat.completions", "gpt-4o", {"messages": messages}) == expected


def test_instructions_items_and_outputs_of_a_response_are_counted() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "abc"}]},
        {"type": "function_call", "name": "bash", "arguments": "{}"},
        {"type": "function_call_output", "output": "done"},
    ]
    expected = (3 + 6 + 2) + (3 + 4 + 3) + (3 + 4 + 2) + (3 + 4) + 3
    assert by_character("responses", "gpt-4o", {"instructions": "be", "input": items}) == expected
    assert by_character("responses", "gpt-4o", {"input": "abc"}) == 3 + 4 + 3 + 3


def test_tools_are_counted_with_their_properties_and_enumerations() -> None:
    schema = {"type": "string", "description": "how.", "enum": ["a", "bc"]}
    function = {"name": "run", "description": "Runs it.", "parameters": {"properties": {"mode": schema}}}
    tools = [{"type": "function", "function": function}]
    one = 7 + len("run:Runs it") + 3 + 3 + len("mode:string:how") - 3 + (3 + 1) + (3 + 2)
    assert by_character("chat.completions", "gpt-4o", {**HELLO, "tools": tools}) == 15 + one + 12
    assert (
        by_character("responses", "gpt-4o", {"input": "", "tools": [{"type": "function", **function}]})
        == 10 + one + 12
    )


def test_an_embedding_is_its_text_alone() -> None:
    assert by_character("embeddings", "text-embedding-3-small", {"input": ["abc", "de"]}) == 5


# --- what is not ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("surface", "body", "reason"),
    [
        (
            "responses",
            {"input": "x", "previous_response_id": "r1"},
            "an earlier response is part of the input",
        ),
        ("responses", {"input": "x", "conversation": "c1"}, "a stored conversation is part of the input"),
        ("responses", {"input": "x", "tools": [{"type": "web_search"}]}, r"a built-in tool \(web_search\)"),
        ("responses", {"input": "x", "text": {"format": {"type": "json_schema"}}}, "a response format"),
        ("responses", {"input": [{"type": "reasoning"}]}, "an item of type 'reasoning'"),
        ("chat.completions", {**HELLO, "response_format": {"type": "json_object"}}, "a response format"),
        (
            "chat.completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "a part of type 'image_url'",
        ),
        ("chat.completions", {"messages": "hello"}, "not in a form that is known"),
        ("embeddings", {"input": [[1, 2]]}, "the input is not text"),
        ("audio.speech", {"input": "x"}, "the input of audio.speech is not counted"),
    ],
)
def test_input_that_is_not_all_text_is_not_estimated(surface: str, body: dict[str, Any], reason: str) -> None:
    with pytest.raises(estimates._Uncountable, match=reason):
        by_character(surface, "gpt-5", body)


def test_content_that_was_not_kept_whole_is_not_estimated() -> None:
    cut = {"input.messages[0].content": "cut, 70000 bytes, sha256 ab"}
    assert estimate_input("chat.completions", "gpt-5", None) == NotEstimated(
        "the request's content was not kept"
    )
    assert estimate_input("chat.completions", "gpt-5", HELLO, cut) == NotEstimated(
        "the request's content was not kept whole"
    )


def test_without_the_vocabulary_there_is_no_estimate_and_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    missing = NotEstimated("tiktoken's vocabulary for o200k_base is not on this machine")
    assert estimate_input("chat.completions", "gpt-5", HELLO) == missing
    damaged = tmp_path / estimates.VOCABULARIES["o200k_base"][0]
    damaged.write_bytes(b"not a vocabulary")
    assert estimate_input("chat.completions", "gpt-5", HELLO) == missing
    assert damaged.read_bytes() == b"not a vocabulary", "tiktoken would have deleted it and asked the network"


def test_a_cache_that_is_switched_off_is_no_cache() -> None:
    assert vocabulary("o200k_base", {"TIKTOKEN_CACHE_DIR": ""}) is None


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-5-2025-08-07", ("o200k_base", False)),
        ("azure/gpt-5", ("o200k_base", False)),
        ("gpt-4", ("cl100k_base", False)),
        ("gpt-oss-20b", ("o200k_harmony", False)),
        ("gpt-6-sol", ("o200k_base", True)),
        ("doubao-seed-1-6-250615", ("o200k_base", True)),
        ("text-davinci-003", ("o200k_base", True)),
        (None, ("o200k_base", True)),
    ],
)
def test_an_encoding_that_is_not_known_is_assumed_and_says_so(
    model: str | None, expected: tuple[str, bool]
) -> None:
    assert encoding_of(model) == expected


def test_tiktoken_is_not_loaded_before_the_first_estimate() -> None:
    code = "import sys, telemetry.estimates; sys.exit('tiktoken' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- with the real vocabulary --------------------------------------------------------------------


@WITHOUT_VOCABULARY
def test_a_known_prompt_has_the_count_that_the_api_reports() -> None:
    """`Hello` to a reasoning model: the API reports 7 prompt tokens."""
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    assert estimate_input("chat.completions", "gpt-5", body) == Estimate(7, "o200k_base", False)


@WITHOUT_VOCABULARY
def test_special_tokens_in_a_text_are_text() -> None:
    body = {"messages": [{"role": "user", "content": "<|endoftext|>"}]}
    assert estimate_input("chat.completions", "gpt-5", body) == Estimate(13, "o200k_base", False)


@WITHOUT_VOCABULARY
def test_a_million_spaces_do_not_break_the_tokenizer() -> None:
    body = {"messages": [{"role": "user", "content": " " * 1_100_000}]}
    assert isinstance(estimate_input("chat.completions", "gpt-5", body), Estimate)
