"""Rows of the journal's views, filled from the data of begin and end events.

A row is a dict with every column of its table in the table's order, so that ``tuple(row.values())`` is
what a database takes. Events come from other processes: a value of the wrong type is unknown, and never
makes a row that a database would refuse.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from agent_shim.canonical import encode

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
    " commit_count plain_diff_bytes agent_patches text text_exact text_reason"
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
    return None if value is None else encode(value)


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


# --- calls ----------------------------------------------------------------------------------------


def call_started(row: Row, data: dict[str, Any]) -> None:
    """What ``llm.call.started`` says."""
    parameters = data.get("parameters")
    row["surface"] = text(data.get("surface"))
    row["path"] = text(data.get("path"))
    row["host"] = text(data.get("host"))
    row["provider"] = text(data.get("provider"))
    row["model_requested"] = text(data.get("model"))
    row["tier_requested"] = text(mapping(parameters).get("service_tier"))
    row["mode"] = text(data.get("mode"))
    row["asynchronous"] = flag(data.get("asynchronous"))
    row["stream"] = flag(data.get("stream"))
    row["parameters"] = as_json(parameters)
    row["absent"] = as_json(data.get("absent"))
    row["tool_outputs"] = as_json(data.get("tool_outputs"))
    row["unanswered"] = as_json(data.get("unanswered"))


def call_finished(row: Row, data: dict[str, Any]) -> None:
    """What ``llm.call.finished`` says."""
    row["ended"] = text(data.get("ended")) or "failed"
    row["error_type"] = text(data.get("error_type"))
    row["error_message"] = text(data.get("error_message"))
    row["error_code"] = text(data.get("error_code"))
    row["error_param"] = text(data.get("error_param"))
    row["http_status"] = small(data.get("http_status"))
    row["http_request_id"] = text(data.get("http_request_id"))
    row["requests"] = small(data.get("requests"))
    row["api_s"] = seconds(data.get("api_ns"))
    row["backoff_s"] = seconds(data.get("backoff_ns"))
    row["first_chunk_s"] = seconds(data.get("first_chunk_ns"))
    row["response_id"] = text(data.get("response_id"))
    row["response_status"] = text(data.get("response_status"))
    row["model"] = text(data.get("model"))
    row["tier"] = text(data.get("tier"))
    row["finish_reasons"] = as_json(data.get("finish_reasons"))
    row["tool_calls"] = as_json(data.get("tool_calls"))
    row["usage"] = as_json(data.get("usage"))
    if row["ended"] == "failed":
        explain(row)


def turn_started(row: Row, data: dict[str, Any]) -> None:
    """What ``agent.turn.started`` says, as a call that is known from the agent only."""
    row["source"] = "agent"
    row["provider"] = text(data.get("provider"))
    row["model_requested"] = text(data.get("model"))
    row["parameters"] = as_json(data.get("configured"))


def turn_finished(row: Row, data: dict[str, Any]) -> None:
    """What ``agent.turn.finished`` says."""
    row["source"] = "agent"
    row["ended"] = text(data.get("ended")) or "failed"
    row["error_type"] = text(data.get("error_type"))
    row["error_message"] = text(data.get("error_message"))
    row["model"] = text(data.get("model"))
    reason = data.get("finish_reason")
    row["finish_reasons"] = None if reason is None else encode([reason])
    row["tool_calls"] = as_json(data.get("tool_calls"))
    row["usage"] = as_json(data.get("usage"))
    if row["ended"] == "failed":
        explain(row)


def request_started(row: Row, data: dict[str, Any]) -> None:
    """What ``llm.request.started`` says."""
    row["number"] = small(data.get("number"))
    row["body_bytes"] = number(data.get("body_bytes"))
    row["body_sha256"] = text(data.get("body_sha256"))


def request_finished(row: Row, data: dict[str, Any]) -> None:
    """What ``llm.request.finished`` says. An answer is any that has a status, refusals included."""
    status = small(data.get("http_status"))
    row["ended"] = "failed" if status is None else "answered"
    row["http_status"] = status
    row["http_request_id"] = text(data.get("http_request_id"))
    row["retry_after_ms"] = number(data.get("retry_after_ms"))
    row["rate_limit"] = as_json(data.get("rate_limit"))
    row["processing_ms"] = number(data.get("processing_ms"))
    row["error_type"] = text(data.get("error_type"))
    row["error_code"] = text(data.get("error_code"))
    row["error_param"] = text(data.get("error_param"))
    row["error_message"] = text(data.get("error_message"))
    if request_failed(row):
        explain(row, str(status) if status is not None else UNKNOWN_ERROR)


def request_failed(row: Row) -> bool:
    """Whether a finished request got no answer, or a refusal."""
    return row["ended"] == "failed" or (row["http_status"] or 0) >= 400


def tool_call_started(row: Row, data: dict[str, Any]) -> None:
    """What ``tool.call.started`` says."""
    row["tool"] = text(data.get("tool"))
    row["call_id"] = text(data.get("call_id"))
    row["executor"] = text(data.get("executor"))
    row["arguments"] = text(data.get("arguments"))
    row["arguments_bytes"] = number(data.get("arguments_bytes"))


def tool_call_finished(row: Row, data: dict[str, Any]) -> None:
    """What ``tool.call.finished`` says."""
    row["ended"] = text(data.get("ended")) or "failed"
    row["error_type"] = text(data.get("error_type"))
    row["error_message"] = text(data.get("error_message"))
    row["result_bytes"] = number(data.get("result_bytes"))
    if row["ended"] in ("failed", "raised"):
        explain(row)


def explain(row: Row, kind: str = UNKNOWN_ERROR) -> None:
    """A failure never stays without type and message."""
    row["error_type"] = row["error_type"] or kind
    row["error_message"] = row["error_message"] or NOT_RECORDED


def interrupted(row: Row) -> None:
    """No end came, and its process is gone."""
    row["ended"] = "interrupted"
    row["error_type"] = "Interrupted"
    row["error_message"] = "its process ended before it did"
