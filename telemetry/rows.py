"""Rows of the journal's views, filled from the data of begin and end events.

A row is a dict with every column of its table in the table's order, so that ``tuple(row.values())`` is
what a database takes. Events come from other processes: a value of the wrong type is unknown, and never
makes a row that a database would refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

Row = dict[str, Any]


def _columns(names: str) -> Row:
    return dict.fromkeys(names.split())


PRODUCER = _columns(
    "run_id producer role pid python started_at hooks_armed hooks_attached hooks_failed events highest_seq"
    " sealed_seq sealed_reason torn_bytes corrupt_lines lost_events lossy complete"
)
RUN = _columns(
    "run_id started_at finished_at duration_s state outcome exit_code signal error_type error_message way"
    " agent command cwd repository repository_source commit commit_given commit_source worktree branch"
    " base_commit task batch tags model_declared attempt trace_id parent_run host platform version capture"
    " capture_reason complete incomplete_reason calls requests failed_requests tool_calls failed_tool_calls"
    " never_executed_tool_calls pid stdout_bytes stderr_bytes stdout_tail stderr_tail user_s system_s"
    " max_rss_bytes events claimed_success attempt_provisional verdict verdict_policy verdict_reason"
)
VERDICT = _columns("run_id policy policy_sha256 verdict reason empty_cause events_seen judged_at event_id")
CHECK = _columns("run_id policy name state need reason events")
CLAIM = _columns(
    "run_id name value source place made_at verdict reason transmitted observed events checked_at"
)
RESULT = _columns("run_id name source value unit attached_at event_id")
CALL = _columns(
    "run_id call_id started_at finished_at duration_s source surface path host provider model_requested"
    " model tier_requested tier mode asynchronous stream ended error_type error_message error_code"
    " error_param http_status http_request_id requests api_s backoff_s first_chunk_s response_id"
    " response_status finish_reasons parameters absent tool_calls tool_outputs unanswered turn_id"
    " usage_source usage_reason usage input_tokens cached_tokens cache_write_tokens output_tokens"
    " reasoning_tokens"
)
REQUEST = _columns(
    "run_id request_id call_id number body_bytes body_sha256 started_at duration_s ended http_status"
    " http_request_id retry_after_ms rate_limit processing_ms error_type error_code error_param error_message"
)
TOOL_CALL = _columns(
    "run_id tool_call_id tool call_id requested_by executor started_at finished_at duration_s ended"
    " error_type error_message arguments arguments_bytes result_bytes overlaps"
)
USAGE = _columns(
    "run_id day provider model tier source reason calls input_tokens cached_tokens cache_write_tokens"
    " output_tokens reasoning_tokens api_s"
)
PATCH = _columns(
    "run_id worktree base_commit base_branch base_tree end_commit end_branch end_tree modified_at_start"
    " deleted_at_start untracked_at_start reason bytes sha256 file_count added removed files parsed_with"
    " applies applies_reason applies_to_commit excess excess_count left_out left_out_count commits"
    " commit_count plain_diff_bytes agent_patches text text_exact text_reason rewritten"
)
TRAJECTORY = _columns(
    "run_id path reason bytes sha256 written valid_json success final_result error errors steps max_steps"
    " interactions input_tokens output_tokens cached_tokens reasoning_tokens provider model start_time"
    " end_time"
)

COLUMNS: dict[str, tuple[str, ...]] = {
    "producer": tuple(PRODUCER),
    "run": tuple(RUN),
    "verdict": tuple(VERDICT),
    "check": tuple(CHECK),
    "claim": tuple(CLAIM),
    "result": tuple(RESULT),
    "llm_call": tuple(CALL),
    "llm_request": tuple(REQUEST),
    "tool_call": tuple(TOOL_CALL),
    "usage": tuple(USAGE),
    "patch": tuple(PATCH),
    "trajectory": tuple(TRAJECTORY),
}
"""The columns of each view, in the order of `telemetry.tables`; a test holds them equal."""

NOT_RECORDED = "no error was recorded"
"""Message of a failure whose event brought none; its type is then `UNKNOWN_ERROR`."""
UNKNOWN_ERROR = "UnknownError"


# --- values ---------------------------------------------------------------------------------------


def text(value: object) -> str | None:
    """`value` when it is text."""
    return value if type(value) is str else None


def flag(value: object) -> bool | None:
    """`value` when it is true or false."""
    return value if type(value) is bool else None


def number(value: object) -> int | None:
    """`value` when it is an integer of 64 bits."""
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def small(value: object) -> int | None:
    """`value` when it is an integer of 32 bits, as columns of statuses, codes and process ids are."""
    return value if type(value) is int and -(2**31) <= value < 2**31 else None


def seconds(nanoseconds: object) -> float | None:
    """A duration in seconds; unknown when it is no number or below zero."""
    if type(nanoseconds) is int and 0 <= nanoseconds < 2**63:
        return nanoseconds / 1e9
    return None


def as_json(value: object) -> str | None:
    """`value` as JSON text; ``None`` stays unknown."""
    return None if value is None else to_json(value, inf_nan_mode="strings").decode()


def mapping(value: object) -> dict[str, Any]:
    """`value` when it is an object, else an empty one."""
    return value if type(value) is dict else {}


def items(value: object) -> list[Any]:
    """`value` when it is a list, else an empty one."""
    return value if type(value) is list else []


def at(time_ns: int) -> str:
    """UTC, ISO 8601 with microseconds and ``Z``."""
    second, rest = divmod(time_ns, 1_000_000_000)
    return f"{_second(second)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=1024)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# --- fields of events → columns -------------------------------------------------------------------

_Fields = dict[str, tuple[str, type | None, Callable[[object], Any]]]
"""Field → its column, the type of value that is taken as it is, and how any other is read."""

_AS_IT_IS: dict[Callable[[object], Any], type] = {text: str, flag: bool}


def _as(column: str, read: Callable[[object], Any]) -> tuple[str, type | None, Callable[[object], Any]]:
    return column, _AS_IT_IS.get(read), read


def _same(read: Callable[[object], Any], names: str) -> _Fields:
    """Fields whose columns have their names."""
    return {name: _as(name, read) for name in names.split()}


def _requested(value: object) -> str | None:
    """Tool calls as JSON text; where the arguments stand in full, without their hash."""
    if type(value) is not list:
        return as_json(value)
    return as_json([_without_hash(item) if type(item) is dict else item for item in value])


def _without_hash(asked: dict[str, Any]) -> dict[str, Any]:
    if asked.get("arguments") is None:
        return asked
    kept = asked.copy()
    kept.pop("arguments_sha256", None)
    return kept


_CALL_STARTED: _Fields = {
    **_same(text, "surface path host provider mode"),
    **_same(flag, "asynchronous stream"),
    **_same(as_json, "parameters absent tool_outputs unanswered"),
    "model": _as("model_requested", text),
}
_CALL_FINISHED: _Fields = {
    **_same(text, "ended error_type error_message error_code error_param http_request_id response_id"),
    **_same(text, "response_status model tier"),
    **_same(small, "http_status requests"),
    **_same(as_json, "finish_reasons usage"),
    "tool_calls": _as("tool_calls", _requested),
    "api_ns": _as("api_s", seconds),
    "backoff_ns": _as("backoff_s", seconds),
    "first_chunk_ns": _as("first_chunk_s", seconds),
}
_TURN_STARTED: _Fields = {
    "provider": _as("provider", text),
    "model": _as("model_requested", text),
    "configured": _as("parameters", as_json),
}
_TURN_FINISHED: _Fields = {
    **_same(text, "ended error_type error_message model"),
    **_same(as_json, "usage"),
    "tool_calls": _as("tool_calls", _requested),
    "finish_reason": _as("finish_reasons", lambda reason: as_json([reason])),
}
_REQUEST_STARTED: _Fields = {
    **_same(text, "body_sha256"),
    **_same(small, "number"),
    **_same(number, "body_bytes"),
}
_REQUEST_FINISHED: _Fields = {
    **_same(text, "http_request_id error_type error_code error_param error_message"),
    **_same(small, "http_status"),
    **_same(number, "retry_after_ms processing_ms"),
    **_same(as_json, "rate_limit"),
}
_TOOL_CALL_STARTED: _Fields = {
    **_same(text, "tool call_id executor arguments"),
    **_same(number, "arguments_bytes"),
}
_TOOL_CALL_FINISHED: _Fields = {
    **_same(text, "ended error_type error_message"),
    **_same(number, "result_bytes"),
}


def _fill(row: Row, fields: _Fields, data: dict[str, Any]) -> None:
    for name, value in data.items():
        field = fields.get(name)
        if field is not None:
            column, kind, read = field
            row[column] = value if type(value) is kind else read(value)


def _end(row: Row, fields: _Fields, data: dict[str, Any]) -> None:
    """Fill in the end. An end that was there before, or was made up, leaves nothing behind."""
    if row["ended"] is not None:
        row.update((column, None) for column, _, _ in fields.values())
    _fill(row, fields, data)
    if row["ended"] is None:
        row["ended"] = "failed"


def call_started(row: Row, data: dict[str, Any]) -> None:
    """What ``llm.call.started`` says."""
    _fill(row, _CALL_STARTED, data)
    row["tier_requested"] = text(mapping(data.get("parameters")).get("service_tier"))


def call_finished(row: Row, data: dict[str, Any]) -> None:
    """What ``llm.call.finished`` says."""
    _end(row, _CALL_FINISHED, data)
    if row["ended"] == "failed":
        explain(row)


def turn_started(row: Row, data: dict[str, Any]) -> None:
    """What ``agent.turn.started`` says, as a call that is known from the agent only."""
    _fill(row, _TURN_STARTED, data)


def turn_finished(row: Row, data: dict[str, Any]) -> None:
    """What ``agent.turn.finished`` says."""
    _end(row, _TURN_FINISHED, data)
    if row["ended"] == "failed":
        explain(row)


def request_started(row: Row, data: dict[str, Any]) -> None:
    """What ``llm.request.started`` says."""
    _fill(row, _REQUEST_STARTED, data)


def request_finished(row: Row, data: dict[str, Any]) -> None:
    """What ``llm.request.finished`` says. An answer is any that has a status, refusals included."""
    _end(row, _REQUEST_FINISHED, data)
    status = row["http_status"]
    row["ended"] = "failed" if status is None else "answered"
    if request_failed(row):
        explain(row, str(status) if status is not None else UNKNOWN_ERROR)


def request_failed(row: Row) -> bool:
    """Whether a finished request got no answer, or a refusal."""
    return row["ended"] == "failed" or (row["http_status"] or 0) >= 400


def tool_call_started(row: Row, data: dict[str, Any]) -> None:
    """What ``tool.call.started`` says."""
    _fill(row, _TOOL_CALL_STARTED, data)


def tool_call_finished(row: Row, data: dict[str, Any]) -> None:
    """What ``tool.call.finished`` says."""
    _end(row, _TOOL_CALL_FINISHED, data)
    if row["ended"] in ("failed", "raised"):
        explain(row)


def interrupted(row: Row) -> None:
    """No end came, and its process is gone."""
    row["ended"] = "interrupted"
    row["error_type"] = "Interrupted"
    row["error_message"] = "its process ended before it did"


def explain(row: Row, kind: str = UNKNOWN_ERROR) -> None:
    """A failure never stays without type and message."""
    row["error_type"] = row["error_type"] or kind
    row["error_message"] = row["error_message"] or NOT_RECORDED
