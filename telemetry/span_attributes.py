"""What the spans of a run say: from the data of a begin and an end event to name and attributes. Pure.

Attributes are listed by importance, ids and tokens first: what does not fit `MAX_ATTRIBUTES` is at the
end. Values of a wrong type are left out; texts are cut, since the event holds the whole.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from agent_shim import attributes as attr
from telemetry.rows import flag, items, mapping, number, seconds, small, text
from telemetry.usage import Usage, kept_by_agent, reported

Data = dict[str, Any]
Value = str | bool | int | float | list[str]
Pairs = Iterable[tuple[str, Value | None]]

MAX_ATTRIBUTES = 40
"""The default limit of SDKs is 128, and beyond it the *first* attributes are lost; viewers show about 40."""
MAX_TEXT = 4096
"""Characters of a text attribute or of a status message."""

INTERRUPTED = "interrupted"

_SSH_REMOTE = re.compile(r"(?:ssh://)?[^@/]+@(?P<host>[^:/]+)(?::\d+/|[:/])(?P<path>.+)")

# Surface → operation of the conventions; any other surface is an operation of that name.
_OPERATIONS = {"chat.completions": "chat", "responses": "chat", "completions": "text_completion"}
_API_TYPES = {"chat.completions": "chat_completions", "responses": "responses"}
_OUTPUT_TYPES = {"json_object": "json", "json_schema": "json", "text": "text"}


class Failure(NamedTuple):
    """How something failed."""

    type: str
    message: str


class SpanEvent(NamedTuple):
    """Something that happened during a span."""

    name: str
    time_ns: int
    attributes: dict[str, Value]


class Face(NamedTuple):
    """What a viewer shows of a span."""

    name: str
    kind: str
    """``client`` or ``internal``."""
    pairs: Pairs


def bounded(pairs: Pairs) -> dict[str, Value]:
    """The known attributes of `pairs`, the first `MAX_ATTRIBUTES` of them."""
    known = ((name, _clean(value)) for name, value in pairs if value is not None and value != [])
    return dict(list(known)[:MAX_ATTRIBUTES])


def _clean(value: Value) -> Value:
    if isinstance(value, str):
        return shown(value)
    return [shown(item) for item in value] if isinstance(value, list) else value


def shown(value: str) -> str:
    """`value` as a span can carry it: cut, and without the surrogates that destroy a whole batch."""
    if not value.isascii():
        value = value.encode(errors="replace").decode()
    return value if len(value) <= MAX_TEXT else value[: MAX_TEXT - 1] + "…"


def failure(end: Data | None, fine: Iterable[str]) -> Failure | None:
    """How it failed, by its end event; one without an end was interrupted.

    `fine` are the ways to end that are no failure when no error is named and no exit code is.
    """
    if end is None:
        return Failure(INTERRUPTED, "its process was gone before it ended")
    ended = text(end.get("ended")) or text(end.get("outcome")) or "failed"
    kind, code = text(end.get("error_type")), small(end.get("exit_code"))
    if kind is None and ended in fine:
        if not code:
            return None
        kind, ended = str(code), f"exited with {code}"
    return Failure(kind or ended, text(end.get("error_message")) or ended)


# --- calls --------------------------------------------------------------------------------------

CALL_FINE = ("completed", "closed_early", "abandoned")


def call(begin: Data, end: Data | None) -> Face:
    """A call of a model client."""
    operation = _operation(begin)
    model = text(begin.get("model"))
    name = f"{operation} {model}" if model else operation
    return Face(name, "client", _call(begin, end or {}, operation))


def _operation(begin: Data) -> str:
    surface = text(begin.get("surface")) or "chat"
    if surface == "responses" and begin.get("method") == "GET":
        return "fetch_response"
    return _OPERATIONS.get(surface, surface)


def _call(begin: Data, end: Data, operation: str) -> Iterator[tuple[str, Value | None]]:
    yield attr.OPERATION_NAME, operation
    yield attr.PROVIDER_NAME, text(begin.get("provider"))
    yield attr.REQUEST_MODEL, text(begin.get("model"))
    yield attr.RESPONSE_MODEL, text(end.get("model"))
    yield attr.RESPONSE_ID, text(end.get("response_id"))
    if operation != "fetch_response":  # by the conventions: its tokens were spent by another call
        yield from _usage(reported(mapping(end.get("usage")), text(begin.get("provider"))), "reported", end)
    yield from _failed(end)
    request_id = text(end.get("http_request_id"))
    yield attr.HTTP_RESPONSE_REQUEST_ID, [request_id] if request_id else None
    yield attr.UNANSWERED, _texts(begin.get("unanswered"))
    requests = small(end.get("requests"))
    yield attr.HTTP_REQUEST_RESEND_COUNT, requests - 1 if requests else None
    yield attr.RESPONSE_FINISH_REASONS, _texts(end.get("finish_reasons"))
    yield attr.RESPONSE_TIME_TO_FIRST_CHUNK, seconds(end.get("first_chunk_ns"))
    yield from _parameters(begin, mapping(begin.get("parameters")))
    yield attr.OPENAI_API_TYPE, _API_TYPES.get(text(begin.get("surface")) or "")
    yield attr.OPENAI_RESPONSE_SERVICE_TIER, text(end.get("tier"))
    yield attr.SERVER_ADDRESS, text(begin.get("host"))
    yield attr.SERVER_PORT, small(begin.get("port"))
    yield attr.API_SECONDS, seconds(end.get("api_ns"))
    yield attr.BACKOFF_SECONDS, seconds(end.get("backoff_ns"))
    yield attr.OPENAI_RESPONSE_SYSTEM_FINGERPRINT, text(end.get("system_fingerprint"))
    yield attr.SURFACE, text(begin.get("surface"))


def _usage(usage: Usage, source: str, end: Data) -> Iterator[tuple[str, Value | None]]:
    yield attr.USAGE_INPUT_TOKENS, usage.input
    yield attr.USAGE_OUTPUT_TOKENS, usage.output
    yield attr.USAGE_CACHE_READ_INPUT_TOKENS, usage.cached
    yield attr.USAGE_CACHE_WRITE_INPUT_TOKENS, usage.cache_write
    yield attr.USAGE_REASONING_OUTPUT_TOKENS, usage.reasoning
    yield attr.USAGE_SOURCE, source if usage.known else "unknown"
    yield attr.USAGE_REASON, text(end.get("usage_missing")) or usage.reason


def _failed(end: Data) -> Iterator[tuple[str, Value | None]]:
    yield attr.ENDED, text(end.get("ended"))
    yield attr.HTTP_RESPONSE_STATUS_CODE, small(end.get("http_status"))
    yield attr.ERROR_CODE, text(end.get("error_code"))
    yield attr.ERROR_PARAM, text(end.get("error_param"))


def _parameters(begin: Data, sent: Data) -> Iterator[tuple[str, Value | None]]:
    yield attr.PARALLEL_TOOL_CALLS, flag(sent.get("parallel_tool_calls"))
    yield attr.REQUEST_REASONING_LEVEL, text(sent.get("reasoning_effort")) or _of(sent, "reasoning", "effort")
    limits = (small(sent.get(name)) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
    yield attr.REQUEST_MAX_TOKENS, next((limit for limit in limits if limit is not None), None)
    yield attr.REQUEST_TEMPERATURE, _float(sent.get("temperature"))
    yield attr.REQUEST_TOP_P, _float(sent.get("top_p"))
    yield attr.REQUEST_TOP_K, small(sent.get("top_k"))
    yield attr.REQUEST_SEED, number(sent.get("seed"))
    yield attr.REQUEST_STREAM, flag(begin.get("stream")) or None
    tier = text(sent.get("service_tier"))
    yield attr.OPENAI_REQUEST_SERVICE_TIER, tier if tier != "auto" else None
    yield attr.REQUEST_PREVIOUS_RESPONSE_ID, text(sent.get("previous_response_id"))
    yield attr.CONVERSATION_ID, text(sent.get("conversation")) or _of(sent, "conversation", "id")
    choices = small(sent.get("n"))
    yield attr.REQUEST_CHOICE_COUNT, choices if choices != 1 else None
    yield attr.REQUEST_FREQUENCY_PENALTY, _float(sent.get("frequency_penalty"))
    yield attr.REQUEST_PRESENCE_PENALTY, _float(sent.get("presence_penalty"))
    stop = sent.get("stop")
    yield attr.REQUEST_STOP_SEQUENCES, [stop] if isinstance(stop, str) else _texts(stop)
    form = _of(sent, "response_format", "type") or _of(mapping(sent.get("text")), "format", "type")
    yield attr.OUTPUT_TYPE, _OUTPUT_TYPES.get(form or "")
    encoding = text(sent.get("encoding_format"))
    yield attr.REQUEST_ENCODING_FORMATS, [encoding] if encoding else None
    yield attr.EMBEDDINGS_DIMENSION_COUNT, small(sent.get("dimensions"))


def failed_request(number_: int | None, end: Data) -> dict[str, Value] | None:
    """Attributes of a request that failed; ``None`` when it did not."""
    status, kind = small(end.get("http_status")), text(end.get("error_type"))
    if kind is None and status is not None and status < 400:
        return None
    request_id = text(end.get("http_request_id"))
    return bounded(
        [
            (attr.ERROR_TYPE, kind or (str(status) if status is not None else "_OTHER")),
            (attr.HTTP_RESPONSE_STATUS_CODE, status),
            (attr.HTTP_REQUEST_RESEND_COUNT, number_ - 1 if number_ else None),
            (attr.HTTP_RESPONSE_REQUEST_ID, [request_id] if request_id else None),
            (attr.RETRY_AFTER_MS, number(end.get("retry_after_ms"))),
            (attr.ERROR_CODE, text(end.get("error_code"))),
            (attr.ERROR_PARAM, text(end.get("error_param"))),
            (attr.EXCEPTION_MESSAGE, text(end.get("error_message"))),
        ]
    )


# --- turns and tools ----------------------------------------------------------------------------

TURN_FINE = TOOL_FINE = ("completed",)


def turn(begin: Data, end: Data | None, seen_on_the_wire: bool) -> Face:
    """An answer that the agent asked its model layer for.

    Where its calls were not seen on the wire it stands for them, as a call, with the agent's own usage.
    """
    agent, model = text(begin.get("agent")), text(begin.get("model"))
    operation = None if seen_on_the_wire else "chat"
    pairs = _turn(begin, end or {}, operation)
    if operation:
        return Face(f"{operation} {model}" if model else operation, "client", pairs)
    return Face(f"turn {agent}" if agent else "turn", "internal", pairs)


def _turn(begin: Data, end: Data, operation: str | None) -> Iterator[tuple[str, Value | None]]:
    yield attr.OPERATION_NAME, operation
    yield attr.PROVIDER_NAME, text(begin.get("provider"))
    yield attr.REQUEST_MODEL, text(begin.get("model"))
    yield attr.RESPONSE_MODEL, text(end.get("model"))
    yield attr.AGENT_NAME, text(begin.get("agent"))
    if operation:
        raw = mapping(end.get("usage"))
        yield from _usage(kept_by_agent(raw, text(begin.get("provider"))), "agent", end)
    yield from _failed(end)
    reason = text(end.get("finish_reason"))
    yield attr.RESPONSE_FINISH_REASONS, [reason] if reason else None


def tool(begin: Data, end: Data | None) -> Face:
    """A tool call that was executed."""
    name = text(begin.get("tool"))
    return Face(f"execute_tool {name}" if name else "execute_tool", "internal", _tool(begin, end or {}))


def _tool(begin: Data, end: Data) -> Iterator[tuple[str, Value | None]]:
    yield attr.OPERATION_NAME, "execute_tool"
    yield attr.TOOL_NAME, text(begin.get("tool"))
    yield attr.TOOL_CALL_ID, text(begin.get("call_id"))
    yield attr.TOOL_TYPE, "function"
    yield attr.ENDED, text(end.get("ended"))
    yield attr.TOOL_CALL_ARGUMENTS, text(begin.get("arguments"))
    yield attr.TOOL_CALL_RESULT, text(end.get("result"))


# --- the process and the run --------------------------------------------------------------------

PROCESS_FINE = ("exited",)
RUN_FINE = ("exited", "returned")


def process(begin: Data, end: Data | None) -> Face:
    """The agent's process, as its caller saw it."""
    path = text(begin.get("executable"))
    return Face(posixpath.basename(path or "") or "process", "client", _process(begin, end or {}))


def _process(begin: Data, end: Data) -> Iterator[tuple[str, Value | None]]:
    path = text(begin.get("executable"))
    yield attr.PROCESS_EXECUTABLE_NAME, posixpath.basename(path) if path else None
    yield attr.PROCESS_PID, small(begin.get("pid"))
    yield attr.PROCESS_EXIT_CODE, small(end.get("exit_code"))
    yield attr.SIGNAL, small(end.get("signal"))
    yield attr.OUTCOME, text(end.get("outcome"))
    yield attr.CAPTURE, text(begin.get("capture"))
    yield attr.PROCESS_EXECUTABLE_PATH, path
    yield attr.PROCESS_COMMAND_ARGS, _texts(begin.get("arguments"))


def last_call(calls: Iterable[Data]) -> Failure | None:
    """How the last call of a run failed; ``None`` when it did not, or there was none."""
    ended = [row for row in calls if row["finished_at"]]
    last = max(ended, key=lambda row: (row["finished_at"], row["call_id"]), default=None)
    if last is None or last["ended"] != "failed":
        return None
    status = last["http_status"] if (last["http_status"] or 0) >= 400 else None
    kind = last["error_code"] or last["error_type"]
    words = dict.fromkeys(str(word) for word in (status, kind) if word is not None)
    return Failure(" ".join(words), last["error_message"] or "failed")


def run_failure(end: Data | None, call: Failure | None) -> Failure | None:
    """How a run failed. One that ended well although its last `call` failed has failed by that."""
    told = failure(end, RUN_FINE)
    if call is None:
        return told
    if told is None:
        return Failure(call.type, f"the last call failed: {call.message}")
    return Failure(told.type, f"{told.message} (the last call failed: {call.type})")


def run(begin: Data, end: Data | None, totals: Data, usage: list[Data], call: Failure | None) -> Face:
    """The whole run, with its row and its rollup of usage as the journal has them.

    The name of one that failed says how: it is what a viewer shows first, and large.
    """
    agent = text(begin.get("agent"))
    name = f"invoke_agent {agent}" if agent else "invoke_agent"
    why = ", ".join(_why(end, call))
    return Face(f"{name}: {why}" if why else name, "internal", _run(begin, end or {}, totals, usage))


def _why(end: Data | None, call: Failure | None) -> Iterator[str]:
    """In words of which there are few, as names of spans must be."""
    if end is None:
        yield INTERRUPTED
    elif small(end.get("exit_code")):
        yield f"exit {end['exit_code']}"
    elif failure(end, RUN_FINE):
        yield text(end.get("outcome")) or "failed"
    if call is not None:
        yield f"last call failed with {call.type}"


def _run(begin: Data, end: Data, totals: Data, usage: list[Data]) -> Iterator[tuple[str, Value | None]]:
    yield attr.OPERATION_NAME, "invoke_agent"
    yield attr.AGENT_NAME, text(begin.get("agent"))
    yield from _repository(text(begin.get("repository")))
    yield attr.VCS_REF_HEAD_REVISION, text(begin.get("commit"))
    yield attr.USAGE_INPUT_TOKENS, _sum(usage, "input_tokens")
    yield attr.USAGE_OUTPUT_TOKENS, _sum(usage, "output_tokens")
    yield attr.USAGE_CACHE_READ_INPUT_TOKENS, _sum(usage, "cached_tokens")
    yield attr.USAGE_CACHE_WRITE_INPUT_TOKENS, _sum(usage, "cache_write_tokens")
    yield attr.USAGE_REASONING_OUTPUT_TOKENS, _sum(usage, "reasoning_tokens")
    yield from _counts(totals, usage)
    yield from _patch(mapping(totals.get("patch")))
    yield attr.COMPLETE, flag(totals.get("complete"))
    yield attr.OUTCOME, text(end.get("outcome"))
    yield attr.PROCESS_EXIT_CODE, small(end.get("exit_code"))
    yield attr.SIGNAL, small(end.get("signal"))
    yield attr.ATTEMPT, small(begin.get("attempt"))
    yield attr.TASK, text(begin.get("task"))
    yield attr.BATCH, text(begin.get("batch"))
    yield attr.REQUEST_MODEL, text(begin.get("model_declared"))
    yield attr.VCS_REF_HEAD_NAME, text(begin.get("branch"))
    yield attr.VCS_REF_BASE_REVISION, text(begin.get("base_commit"))
    yield attr.PROCESS_WORKING_DIRECTORY, text(begin.get("cwd"))
    yield attr.HOST_NAME, text(begin.get("host"))


def _counts(totals: Data, usage: list[Data]) -> Iterator[tuple[str, Value | None]]:
    """How many there were; what was not seen has no number."""
    if totals.get("capture") != "captured":
        told = (text(totals.get("capture")), text(totals.get("capture_reason")))
        yield attr.USAGE_REASON, ": ".join(filter(None, told)) or None
        return
    yield attr.TOTAL_CALLS, small(totals.get("calls"))
    yield attr.TOTAL_CALLS_OF_UNKNOWN_USAGE, sum(row["calls"] for row in usage if row["source"] == "unknown")
    yield attr.TOTAL_REQUESTS, small(totals.get("requests"))
    yield attr.TOTAL_FAILED_REQUESTS, small(totals.get("failed_requests"))
    tools, failed = small(totals.get("tool_calls")), small(totals.get("failed_tool_calls"))
    seen = totals.get("tools_hooked") or (tools or 0) > (small(totals.get("never_executed_tool_calls")) or 0)
    yield attr.TOTAL_TOOL_CALLS, tools if seen else tools or None
    yield attr.TOTAL_FAILED_TOOL_CALLS, failed if seen else failed or None


def _patch(row: Data) -> Iterator[tuple[str, Value | None]]:
    yield attr.PATCH_BYTES, number(row.get("bytes"))
    yield attr.PATCH_FILES, number(row.get("file_count"))
    yield attr.PATCH_ADDED, number(row.get("added"))
    yield attr.PATCH_REMOVED, number(row.get("removed"))
    yield attr.PATCH_REASON, text(row.get("reason"))


def _repository(repository: str | None) -> Iterator[tuple[str, Value | None]]:
    if repository and ("://" in repository or "@" in repository):
        yield attr.VCS_REPOSITORY_URL_FULL, web_address(repository)
    elif repository:
        yield attr.VCS_REPOSITORY_NAME, posixpath.basename(repository.rstrip("/"))


def web_address(remote: str) -> str:
    """The page of a remote, as the conventions want its URL: over HTTP, without ``.git``."""
    address = remote.rstrip("/").removesuffix(".git")
    over_ssh = _SSH_REMOTE.fullmatch(address)
    return f"https://{over_ssh['host']}/{over_ssh['path']}" if over_ssh else address


def _sum(usage: list[Data], column: str) -> int | None:
    """The sum of what is known; unknown when nothing is."""
    known = [row[column] for row in usage if row[column] is not None]
    return sum(known) if known else None


# --- values -------------------------------------------------------------------------------------


def _texts(value: object) -> list[str] | None:
    return [item for item in items(value) if isinstance(item, str)] or None


def _float(value: object) -> float | None:
    return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]


def _of(holder: Data, name: str, part: str) -> str | None:
    return text(mapping(holder.get(name)).get(part))
