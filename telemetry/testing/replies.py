"""What a scripted server can be told to answer: frozen values, in the words of the API.

A script is a list of these. `Answer` is a model's answer and looks right on every surface (chat,
responses, embeddings, plain or streamed); `ApiError` is a refusal; `Raw` is anything else. Each has a
`Delivery`, which says how the bytes travel: whole, slowly, cut, compressed, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias


class Usage(NamedTuple):
    """Tokens as the service bills them. Cached and cache-write tokens are part of `input`, reasoning
    tokens part of `output`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    def plus(self, other: Usage) -> Usage:
        """The sum, part by part."""
        return Usage(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


USUAL = Usage(input=100, output=20)
"""What an answer is billed with when the test does not care."""


class ToolCall(NamedTuple):
    """A tool call that the answer requests. Arguments given as text are sent as they are, broken or not."""

    name: str
    arguments: Mapping[str, Any] | str = {}
    call_id: str | None = None
    """Without one the server gives it an id of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How a reply travels. A *piece* is one server-sent event, or `split` bytes, or the whole body."""

    fault: Literal["reset", "close", "stall"] | None = None
    """``reset`` sends a TCP reset, ``close`` ends the connection in order but too early, ``stall`` sends
    nothing more until `ScriptedServer.resume` is called or the server is closed."""
    after: int | None = None
    """Pieces sent before the fault; ``None``: not even the headers are sent. On Linux they reach a reader
    although a reset follows; elsewhere the reset may overtake them."""
    delay_s: float = 0.0
    """Pause before each piece."""
    split: int | None = None
    """Send the body in pieces of so many bytes, across characters and events."""
    gzip: bool = False
    truncate: int | None = None
    """Keep only so many bytes of the body, with a Content-Length that agrees."""
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent in addition, or in place of those of the same name."""


Reshape: TypeAlias = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer, billed once with `usage` whatever becomes of it on its way.

    On a surface that the server does not know it has the shape of a chat completion, for `reshape` to change.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = USUAL
    """What is billed; ``None``: nothing."""
    reported: Literal["last", "every", "never"] = "last"
    """Where the client is told of it: as the service does, in every chunk of a chat stream, or nowhere."""
    model: str | None = None
    """The model that answers; without one, the model that was asked."""
    tier: str | None = None
    """``service_tier`` of the answer; without one, the tier asked for, ``auto`` meaning ``default``."""
    refusal: str | None = None
    ended: Literal["completed", "length", "content_filter", "failed"] = "completed"
    error_code: str = "server_error"
    error_message: str = "The server had an error while processing your request. Sorry about that!"
    """For `ended` ``failed`` and for `error_after`."""
    error_after: int | None = None
    """In a stream: so many chunks, then an error in place of the rest."""
    polls: int = 1
    """In the background: how many retrievals still find it in progress."""
    done: bool = True
    """Whether a chat stream ends with ``[DONE]``."""
    comments: bool = False
    """Whether comment lines stand between the events of a stream."""
    newline: str = "\n"
    """Line end of the event stream; ``\\r\\n`` and ``\\r`` are as good."""
    reshape: Reshape | None = None
    """Changes the objects on the wire at will; a body that is not streamed is a list of one."""
    delivery: Delivery = Delivery()


@dataclass(frozen=True, slots=True)
class ApiError:
    """The service refuses, with a status and an error object. Nothing is billed."""

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    delivery: Delivery = Delivery()


@dataclass(frozen=True, slots=True)
class Raw:
    """Any status and bytes. Nothing is billed."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    delivery: Delivery = Delivery()


Reply: TypeAlias = Answer | ApiError | Raw


def calls(*tool_calls: ToolCall, usage: Usage | None = USUAL) -> Answer:
    """An answer that requests these tool calls and says nothing."""
    return Answer(tool_calls=tool_calls, usage=usage)


def connection_reset() -> Raw:
    """The connection is reset before a byte of the answer, and before anything was billed."""
    return Raw(delivery=Delivery(fault="reset"))


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400."""
    return ApiError(400, message, code=code, param=param)


def invalid_key() -> ApiError:
    """401, as for a key that was mistyped or revoked."""
    message = (
        "Incorrect API key provided: sk-test****1234. You can find your API key at "
        "https://platform.openai.com/account/api-keys."
    )
    return ApiError(401, message, code="invalid_api_key")


def model_not_found(model: str) -> ApiError:
    """404, as for a model that does not exist."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(404, message, code="model_not_found")


def rate_limited(*, retry_after_ms: int | None = 1, retry_after_s: int | None = None) -> ApiError:
    """429 with the headers that say when to come back; the client retries it by itself."""
    headers = {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-reset-tokens": "2s",
    }
    if retry_after_ms is not None:
        headers["retry-after-ms"] = str(retry_after_ms)
    if retry_after_s is not None:
        headers["retry-after"] = str(retry_after_s)
    message = (
        "Rate limit reached for the model in organization org-scripted on tokens per min (TPM): Limit 30000, "
        "Used 30000, Requested 1000. Please try again in 2s. Visit "
        "https://platform.openai.com/account/rate-limits to learn more."
    )
    return ApiError(429, message, "tokens", "rate_limit_exceeded", delivery=Delivery(headers=headers))


def quota_exhausted() -> ApiError:
    """429 that no retry can cure. The client retries it all the same, without a delay asked for here."""
    message = (
        "You exceeded your current quota, please check your plan and billing details. For more information "
        "on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
    )
    return ApiError(
        429,
        message,
        "insufficient_quota",
        "insufficient_quota",
        delivery=Delivery(headers={"retry-after-ms": "1"}),
    )


def server_error(status: int = 500) -> ApiError:
    """500, or another status of the server's own; the client retries it by itself after 1 ms."""
    message = "The server had an error while processing your request. Sorry about that!"
    return ApiError(status, message, "server_error", delivery=Delivery(headers={"retry-after-ms": "1"}))


def overloaded() -> ApiError:
    """503; the client retries it by itself after 1 ms."""
    message = "The engine is currently overloaded, please try again later."
    return ApiError(503, message, "server_error", delivery=Delivery(headers={"retry-after-ms": "1"}))
