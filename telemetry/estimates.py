"""Estimates: how many input tokens a request had, counted by us because nobody else did.

Made in our process, long after the call, from request content that was kept (``content = on``), and always
labelled an estimate. Promises, each with its test:

* Input only. The output of a model is never estimated: of a reasoning model's, nine tenths cannot be seen.
* Nothing is downloaded. tiktoken fetches a missing or damaged vocabulary without a timeout, so its file is
  looked for and checked before tiktoken is asked; without it there is no estimate, with a reason.
* What cannot be counted from text (images, files, earlier responses, built-in tools, response formats,
  content that was cut) is no estimate either, with a reason. Never a part presented as the whole.
* A model that tiktoken does not know is counted with ``o200k_base`` and says so (`Estimate.assumed`).

How good it is, against usage that the API reported: plain chats within a token or two, tools within 5 to
14 % of short prompts. The constants below are those of OpenAI's cookbook on counting tokens; the end of a
reasoning model's prompt is one token shorter than it says.

Pure apart from reading the vocabulary; tiktoken is imported at the first estimate.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

PIECE = 250_000
"""Characters encoded at once: o200k_base refuses a million spaces in one piece. The cut costs 3 tokens in
167,142."""

FALLBACK = "o200k_base"
VOCABULARIES = {
    # encoding: (name of its file in tiktoken's cache: SHA-1 of its URL; SHA-256 of the file, from tiktoken)
    "o200k_base": (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    "cl100k_base": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
}
SAME_FILE = {"o200k_harmony": "o200k_base"}

PER_MESSAGE = 3
PER_NAME = 1
PER_END = 3
PER_END_REASONING = 2
REASONING = ("gpt-5", "o1", "o3", "o4")
PER_FUNCTION = 7
PER_PROPERTIES = 3
PER_PROPERTY = 3
PER_ENUM = -3
PER_ENUM_ITEM = 3
PER_FUNCTIONS_END = 12

UNCOUNTABLE = {
    "previous_response_id": "an earlier response is part of the input",
    "conversation": "a stored conversation is part of the input",
    "prompt": "a stored prompt is part of the input",
    "response_format": "a response format is part of the input",
    "functions": "the deprecated functions parameter is part of the input",
}

Count = Callable[[str], int]


class Estimate(NamedTuple):
    """A number of input tokens, counted by us."""

    tokens: int
    encoding: str
    assumed: bool
    """The model's own encoding is not known; this one was taken instead."""


class NotEstimated(NamedTuple):
    """No estimate, and why."""

    reason: str


class _Uncountable(Exception):
    """Part of the input that no tokenizer can count."""


def vocabulary(encoding: str, environ: Mapping[str, str]) -> Path | None:
    """The vocabulary file of an encoding, whole and unchanged; ``None`` when tiktoken would download it."""
    name, sha256 = VOCABULARIES[SAME_FILE.get(encoding, encoding)]
    folder = _cache_folder(environ)
    if not folder:
        return None
    path = Path(folder) / name
    try:
        same = hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return None
    return path if same else None


def _cache_folder(environ: Mapping[str, str]) -> str:
    """Where tiktoken looks; empty when its cache is switched off."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in environ:
            return environ[variable]
    return str(Path(tempfile.gettempdir(), "data-gym-cache"))


def encoding_of(model: str | None) -> tuple[str, bool]:
    """The encoding of a model, and whether it was assumed."""
    from tiktoken.model import encoding_name_for_model

    try:
        name = encoding_name_for_model((model or "").rpartition("/")[2].lower())
    except KeyError:
        return FALLBACK, True
    return (name, False) if SAME_FILE.get(name, name) in VOCABULARIES else (FALLBACK, True)


def estimate_input(
    surface: str | None,
    model: str | None,
    body: Mapping[str, Any] | None,
    altered: Mapping[str, str] | None = None,
) -> Estimate | NotEstimated:
    """The input tokens of a request of which `body` was kept.

    `altered` is what recording changed in the event (path → what happened): cut content is not counted.
    """
    if not body:
        return NotEstimated("the request's content was not kept")
    if any(path.startswith("input") for path in altered or ()):
        return NotEstimated("the request's content was not kept whole")
    encoding, assumed = encoding_of(model)
    if vocabulary(encoding, os.environ) is None:  # where tiktoken itself will look
        return NotEstimated(f"tiktoken's vocabulary for {encoding} is not on this machine")
    try:
        tokens = count_input(surface, model, body, _counter(encoding))
    except _Uncountable as error:
        return NotEstimated(str(error))
    return Estimate(tokens, encoding, assumed)


@cache
def _counter(encoding: str) -> Count:
    import tiktoken

    return partial(_count, tiktoken.get_encoding(encoding).encode)


def _count(encode: Callable[..., Sequence[int]], text: str) -> int:
    """Tokens of a text; special tokens in it are text, as they are for the API."""
    pieces = (text[at : at + PIECE] for at in range(0, len(text), PIECE))
    return sum(len(encode(piece, disallowed_special=())) for piece in pieces)


# --- requests ------------------------------------------------------------------------------------


def count_input(surface: str | None, model: str | None, body: Mapping[str, Any], count: Count) -> int:
    """The input tokens of a request body, with `count` as the tokenizer."""
    for name, reason in UNCOUNTABLE.items():
        if body.get(name) is not None:
            raise _Uncountable(reason)
    if surface == "chat.completions":
        return sum(_messages(body.get("messages"), count)) + _end(model) + _tools(body.get("tools"), count)
    if surface == "responses":
        return _response(body, count) + _end(model) + _tools(body.get("tools"), count)
    if surface == "embeddings":
        return _embedding(body.get("input"), count)
    raise _Uncountable(f"the input of {surface or 'this surface'} is not counted")


def _end(model: str | None) -> int:
    name = (model or "").rpartition("/")[2].lower()
    return PER_END_REASONING if name.startswith(REASONING) else PER_END


def _messages(messages: Any, count: Count) -> Iterator[int]:
    for message in _list(messages):
        yield PER_MESSAGE + count(str(message.get("role", ""))) + _content(message.get("content"), count)
        if message.get("name"):
            yield PER_NAME + count(str(message["name"]))
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            yield count(str(function.get("name", ""))) + count(str(function.get("arguments", "")))


def _response(body: Mapping[str, Any], count: Count) -> int:
    text = body.get("text")
    if isinstance(text, Mapping) and (text.get("format") or {}).get("type", "text") != "text":
        raise _Uncountable("a response format is part of the input")
    instructions = body.get("instructions")
    system = PER_MESSAGE + count("system") + _content(instructions, count) if instructions else 0
    given = body.get("input")
    if isinstance(given, str):
        return system + PER_MESSAGE + count("user") + count(given)
    return system + sum(_item(item, count) for item in _list(given))


def _item(item: Mapping[str, Any], count: Count) -> int:
    kind = item.get("type", "message")
    if kind == "message":
        return PER_MESSAGE + count(str(item.get("role", ""))) + _content(item.get("content"), count)
    if kind == "function_call":
        return PER_MESSAGE + count(str(item.get("name", ""))) + count(str(item.get("arguments", "")))
    if kind == "function_call_output":
        return PER_MESSAGE + _content(item.get("output"), count)
    raise _Uncountable(f"an item of type {kind!r} is part of the input")


def _content(content: Any, count: Count) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return count(content)
    return sum(_part(part, count) for part in _list(content))


def _part(part: Mapping[str, Any], count: Count) -> int:
    text = part.get("text", part.get("refusal"))
    if not isinstance(text, str):
        raise _Uncountable(f"a part of type {part.get('type')!r} is part of the input")
    return count(text)


def _embedding(given: Any, count: Count) -> int:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _Uncountable("the input is not text")
    return sum(count(text) for text in texts)


def _list(values: Any) -> list[Mapping[str, Any]]:
    if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
        raise _Uncountable("the content is not in a form that is known")
    return values


# --- tools ---------------------------------------------------------------------------------------


def _tools(tools: Any, count: Count) -> int:
    if not tools:
        return 0
    return sum(_function(tool, count) for tool in _list(tools)) + PER_FUNCTIONS_END


def _function(tool: Mapping[str, Any], count: Count) -> int:
    if tool.get("type", "function") != "function":
        raise _Uncountable(f"a built-in tool ({tool.get('type')}) is part of the input")
    function = tool.get("function", tool)
    total = PER_FUNCTION + count(f"{function.get('name', '')}:{_line(function.get('description'))}")
    properties = (function.get("parameters") or {}).get("properties") or {}
    if properties:
        total += PER_PROPERTIES + sum(_property(name, schema, count) for name, schema in properties.items())
    return total


def _property(name: str, schema: Any, count: Count) -> int:
    schema = schema if isinstance(schema, Mapping) else {}
    total = PER_PROPERTY + count(f"{name}:{schema.get('type', '')}:{_line(schema.get('description'))}")
    if schema.get("enum"):
        total += PER_ENUM + sum(PER_ENUM_ITEM + count(str(item)) for item in schema["enum"])
    return total


def _line(description: Any) -> str:
    return str(description or "").removesuffix(".")
