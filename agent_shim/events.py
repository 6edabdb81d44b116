"""The vocabulary: every event this project records, on one page.

An event is an immutable value named noun + past participle. It says what was seen, never what it
means: success, cost and completeness are computed from events elsewhere. A begin event gets exactly
one end event, which names it by its sequence number. ``docs/events.md`` is generated from this page.

A field that is ``None`` was not seen; it is left out of the stored form, so *absent* always reads as
*unknown* and never as zero. Times and durations are integers in nanoseconds (``_ns``), sizes are in
bytes (``_bytes``). Identifiers: a run and a producer are UUIDv7 in 32 hexadecimal digits; an event is
``producer:seq``; a span id is derived from the id of its begin event (`span_id`).

Standard library only, and no ``dataclasses``: this page is loaded into other people's interpreters,
where named tuples cost a third of the import time.
"""

from __future__ import annotations

import hashlib
from typing import Any, Callable, NamedTuple, TypeVar, Union, get_args

FORMAT_VERSION = 1
"""Version of the stored form of an event; written as ``v`` into each."""


_Kind = TypeVar("_Kind", bound=type)


def _named(name: str) -> Callable[[_Kind], _Kind]:
    """Gives an event type its name, as the attribute ``event``: a body of a named tuple takes only fields."""

    def give(kind: _Kind) -> _Kind:
        kind.event = name  # type: ignore[attr-defined]
        return kind

    return give


def name_of(event: Any) -> str:
    """The name of an event, or of an event type."""
    name: str = event.event
    return name


# --- the run and its processes ------------------------------------------------------------------


@_named("run.started")
class RunStarted(NamedTuple):
    """A run began: one execution of an agent, with the identity it was given."""

    way: str
    """How the run is recorded: ``run``, ``stand-in`` or ``context`` (``with agent_shim.run()``)."""
    agent: str | None = None
    """Name of the agent, from its command: ``trae``, ``codex``, …"""
    command: list[str] | None = None
    """The command as given, secrets removed."""
    cwd: str | None = None
    task: str | None = None
    batch: str | None = None
    tags: dict[str, str] | None = None
    repository: str | None = None
    repository_source: str | None = None
    """``option``, ``environment``, ``remote`` or ``path``."""
    commit: str | None = None
    commit_source: str | None = None
    """``option``, ``environment``, ``prompt.json``, ``branch`` or ``head``."""
    worktree: str | None = None
    branch: str | None = None
    base_commit: str | None = None
    """HEAD of the worktree at the start."""
    model_declared: str | None = None
    attempt: int | None = None
    trace_parent: str | None = None
    """W3C ``traceparent`` of the trace this run joined; without it the run starts its own trace."""
    parent_run: str | None = None
    """The run in whose environment this one was started."""
    host: str | None = None
    platform: str | None = None
    version: str | None = None
    """Version of this package."""
    content: bool | None = None
    """Whether prompt and tool content was asked to be kept."""


@_named("run.finished")
class RunFinished(NamedTuple):
    """The run ended and its recorder could still say how. Ends ``run.started``."""

    outcome: str
    """``exited``, ``signaled``, ``timeout``, ``cancelled``, ``oom_killed``, ``spawn_failed``; ``refused``
    when no attempt was left; for a run in one's own code ``returned`` or ``raised``."""
    exit_code: int | None = None
    signal: int | None = None
    error_type: str | None = None
    """Never absent unless the outcome is ``returned``, or ``exited`` with code 0."""
    error_message: str | None = None
    producers: list[str] | None = None
    """The other producers of this run that the recorder knows of; all must be sealed and dense for
    the run to be complete."""


@_named("process.started")
class ProcessStarted(NamedTuple):
    """The agent's process was started by the wrapper."""

    pid: int | None = None
    executable: str | None = None
    arguments: list[str] | None = None
    """What was really started, secrets removed; differs from the command when a runner is put in."""
    capture: str | None = None
    """``runner``, ``sitecustomize`` or ``none``."""
    capture_reason: str | None = None
    """Why nothing can be captured inside the process, when ``capture`` is ``none``."""
    terminal: bool | None = None


@_named("process.finished")
class ProcessFinished(NamedTuple):
    """The agent's process is gone. Ends ``process.started``."""

    outcome: str
    """``exited``, ``signaled``, ``timeout``, ``cancelled``, ``oom_killed`` or ``spawn_failed``."""
    exit_code: int | None = None
    signal: int | None = None
    core_dumped: bool | None = None
    error_type: str | None = None
    error_message: str | None = None
    error_phase: str | None = None
    """``config``, ``spawn``, ``run`` or ``collect``."""
    grace_expired: bool | None = None
    """Whether SIGKILL had to follow SIGTERM."""
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    stdout_tail: str | None = None
    stderr_tail: str | None = None
    user_ns: int | None = None
    system_ns: int | None = None
    max_rss_bytes: int | None = None
    signals_forwarded: list[int] | None = None
    leftover: list[dict[str, Any]] | None = None
    """Descendants that outlived the process and were ended: pid and command."""
    oom_kills: int | None = None
    """Processes of the wrapper's control group that the system killed for memory meanwhile. Absent where it
    does not count them: then a SIGKILL may have been one of these."""


@_named("producer.started")
class ProducerStarted(NamedTuple):
    """A process began to write events. Always the first event of its producer."""

    role: str
    """``agent``, ``wrapper``, ``deliverer`` or ``judge``."""
    pid: int
    started: str | None = None
    """Start time of the process as the system counts it, to tell a reused pid apart."""
    parent_pid: int | None = None
    executable: str | None = None
    python: str | None = None
    platform: str | None = None
    version: str | None = None
    hooks: list[str] | None = None
    """What will be hooked when it is imported; each then says so in an event of its own."""
    forked_from: str | None = None
    """The producer of the process that this one was forked from."""


@_named("producer.sealed")
class ProducerSealed(NamedTuple):
    """A producer will write no more. Written by itself on an orderly end, else by the deliverer."""

    producer: str
    last_seq: int
    reason: str
    """``closed`` (by itself) or ``process gone`` (its lock on the spool file was released)."""
    torn_bytes: int | None = None
    """Length of an unfinished last line, cut by the death of the process; it was never an event."""
    corrupt_lines: int | None = None
    """Lines in the middle whose checksum was wrong."""
    lossy: bool | None = None
    """Events could not be written and the process died before it could say how many."""


# --- calls to models ----------------------------------------------------------------------------


PARAMETERS = (
    "background", "conversation", "dimensions", "encoding_format", "frequency_penalty", "include",
    "logprobs", "max_completion_tokens", "max_output_tokens", "max_tokens", "max_tool_calls", "modalities",
    "n", "parallel_tool_calls", "presence_penalty", "previous_response_id", "reasoning",
    "reasoning_effort", "response_format", "seed", "service_tier", "stop", "store", "stream",
    "stream_options", "temperature", "text", "tool_choice", "top_k", "top_logprobs", "top_p", "truncation",
    "verbosity",
)  # fmt: skip
"""Parameters that are recorded as sent. None of them holds prompt content."""


@_named("llm.call.started")
class CallStarted(NamedTuple):
    """One logical call of a model client began; the client's own retries are requests inside it."""

    surface: str
    """``chat.completions``, ``responses``, ``embeddings``, … or the path when it is not decoded."""
    method: str | None = None
    path: str | None = None
    host: str | None = None
    port: int | None = None
    provider: str | None = None
    """``gen_ai.provider.name`` by host and client class."""
    client: str | None = None
    """Class of the client object."""
    mode: str | None = None
    """What the caller asked for: ``plain``, ``raw`` or ``streaming`` response."""
    asynchronous: bool | None = None
    stream: bool | None = None
    model: str | None = None
    parameters: dict[str, Any] | None = None
    """Request parameters as sent: scalars, and small objects, by the names in `PARAMETERS`."""
    absent: list[str] | None = None
    """Watched parameters that the request did not carry (the API's default applies)."""
    include_usage_added: bool | None = None
    """Whether ``stream_options.include_usage`` was added to the body."""
    max_retries: int | None = None
    timeout_s: float | None = None
    message_count: int | None = None
    tool_names: list[str] | None = None
    tool_outputs: list[str] | None = None
    """Ids of the tool calls whose outputs this request sends back."""
    unanswered: list[str] | None = None
    """Ids of tool calls in the request that have no output in it: the API will refuse them."""
    trace_parent: str | None = None
    """W3C ``traceparent`` of the caller's own span, where one is current."""
    input: Any = None
    """The request's content; only when content is kept."""


@_named("llm.call.finished")
class CallFinished(NamedTuple):
    """The call ended, one way or another. Ends ``llm.call.started``."""

    ended: str
    """``completed``, ``failed``, ``closed_early``, ``abandoned``, ``cancelled``, ``interrupted``, or
    ``not_followed``: a WebSocket was asked for, whose end is not seen."""
    error_type: str | None = None
    """Class of the exception, or the API's error code for a failure inside a response."""
    error_message: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    http_status: int | None = None
    http_request_id: str | None = None
    """``x-request-id`` of the last response."""
    requests: int | None = None
    """How many HTTP requests the call took."""
    api_ns: int | None = None
    """Time spent in HTTP requests and in reading the body."""
    backoff_ns: int | None = None
    """Time the client slept between requests."""
    first_chunk_ns: int | None = None
    chunks: int | None = None
    response_id: str | None = None
    response_status: str | None = None
    model: str | None = None
    """The model that answered."""
    tier: str | None = None
    """``service_tier`` of the response."""
    system_fingerprint: str | None = None
    finish_reasons: list[str] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    """Tool calls requested: ``id``, ``name``, ``arguments_bytes``, ``arguments_sha256`` and, when
    short or when content is kept, ``arguments``."""
    usage: dict[str, Any] | None = None
    """Usage exactly as the response reported it."""
    usage_missing: str | None = None
    """Why there is no usage, or why it may not be all of it."""
    output: Any = None
    """The response's content; only when content is kept."""


@_named("llm.request.started")
class RequestStarted(NamedTuple):
    """One HTTP request of a call was sent."""

    number: int
    """1 for the first request of the call, 2 for the client's first retry, …"""
    method: str | None = None
    host: str | None = None
    path: str | None = None
    body_bytes: int | None = None
    body_sha256: str | None = None
    """The same for the same request: how a futile repetition is told."""


@_named("llm.request.finished")
class RequestFinished(NamedTuple):
    """The HTTP request was answered (headers received) or failed. Ends ``llm.request.started``."""

    http_status: int | None = None
    http_request_id: str | None = None
    retry_after_ms: int | None = None
    rate_limit: dict[str, str] | None = None
    """``x-ratelimit-*`` headers, without the prefix."""
    processing_ms: int | None = None
    """``openai-processing-ms`` header."""
    error_type: str | None = None
    """Class of the exception, or the API's error type or code, or the status."""
    error_code: str | None = None
    error_param: str | None = None
    error_message: str | None = None


# --- the agent ----------------------------------------------------------------------------------


@_named("agent.turn.started")
class TurnStarted(NamedTuple):
    """The agent asked its model layer for an answer, whichever provider is behind it."""

    agent: str | None = None
    provider: str | None = None
    model: str | None = None
    configured: dict[str, Any] | None = None
    """Parameters as the agent has them configured; what is sent is in ``llm.call.started``."""
    message_count: int | None = None
    tool_count: int | None = None


@_named("agent.turn.finished")
class TurnFinished(NamedTuple):
    """The agent's model layer answered or raised. Ends ``agent.turn.started``."""

    ended: str
    """``completed``, ``failed`` or ``cancelled``."""
    error_type: str | None = None
    error_message: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    usage: dict[str, Any] | None = None
    """Usage as the agent keeps it; counted only where no request was seen on the wire."""


@_named("tool.call.started")
class ToolCallStarted(NamedTuple):
    """A tool call requested by a model began to execute."""

    tool: str
    call_id: str | None = None
    executor: str | None = None
    """The hooked function that executes it."""
    arguments: str | None = None
    arguments_bytes: int | None = None
    arguments_sha256: str | None = None


@_named("tool.call.finished")
class ToolCallFinished(NamedTuple):
    """The tool call returned or raised. Ends ``tool.call.started``."""

    ended: str
    """``completed``, ``failed`` (the tool said so), ``raised`` or ``cancelled``."""
    error_type: str | None = None
    error_message: str | None = None
    result: str | None = None
    result_bytes: int | None = None
    result_sha256: str | None = None


# --- what the run left behind --------------------------------------------------------------------


@_named("tree.captured")
class TreeCaptured(NamedTuple):
    """The files of the worktree as they were, byte for byte: tracked, changed and untracked ones."""

    moment: str
    """``start`` or ``end``."""
    worktree: str | None = None
    """The top folder."""
    commit: str | None = None
    """HEAD."""
    branch: str | None = None
    """Unknown also when HEAD is detached."""
    tree: str | None = None
    """Id that git gives a tree of these files; what the ignore rules of the start name is not in it."""
    files: int | None = None
    modified: int | None = None
    """Files that differ from HEAD; a file that git converts at checkout counts as well."""
    deleted: int | None = None
    untracked: int | None = None
    """Files that are not in HEAD."""
    unread: list[dict[str, Any]] | None = None
    """Files too big to be read: ``path`` and ``bytes``. At most 100."""
    reason: str | None = None
    """Why the tree is unknown."""
    elapsed_ns: int | None = None


@_named("patch.captured")
class PatchCaptured(NamedTuple):
    """What the run changed: the difference between the trees of its start and its end, commits included."""

    reason: str | None = None
    """Why the patch is unknown; then all that follows is what could still be told."""
    base_commit: str | None = None
    """HEAD at the start."""
    base_tree: str | None = None
    end_commit: str | None = None
    end_tree: str | None = None
    bytes: int | None = None
    """0: the run changed nothing that counts."""
    sha256: str | None = None
    file_count: int | None = None
    added: int | None = None
    """Lines; binary files have none."""
    removed: int | None = None
    files: list[dict[str, Any]] | None = None
    """At most 500 of the files: ``path``, ``status`` (``A``, ``M``, ``D``, ``T``), ``added``, ``removed``,
    ``binary``, ``mode`` before and after where it changed; ``only`` (``whitespace`` or ``comments``) where
    nothing else changed; ``parses`` (and ``parse_error``) for Python files."""
    parsed_with: str | None = None
    """Version of the Python whose parser was asked."""
    applies: bool | None = None
    """Whether ``git apply`` takes the patch on the files of the start."""
    applies_reason: str | None = None
    applies_to_commit: bool | None = None
    """Whether it also applies to the commit of the start, without what was uncommitted then."""
    excess: list[dict[str, Any]] | None = None
    """Changed files beyond the size limits: ``path``, ``bytes``. At most 100; the patch is then unknown."""
    excess_count: int | None = None
    left_out: list[dict[str, Any]] | None = None
    """Changed files that are no part of the patch: ``path`` and ``why`` (``scratch``, ``ignored``,
    ``ignores itself``, ``patch file``, ``repository of its own``, ``name``). At most 100."""
    left_out_count: int | None = None
    commits: list[dict[str, Any]] | None = None
    """Commits made during the run, newest first: ``id``, ``subject``. At most 100."""
    commit_count: int | None = None
    plain_diff_bytes: int | None = None
    """Length of what a plain ``git diff`` in the worktree shows at the end: uncommitted changes only."""
    agent_patches: list[dict[str, Any]] | None = None
    """Patch files of the agent's own: ``path``, ``source`` (``option``: named by ``--patch-path``;
    ``worktree``: written there), ``bytes``, ``sha256``, ``written`` (during the run), ``same`` (has the
    effect of ours on the files of the start), ``reason`` where it could not be read."""
    text: list[str] | None = None
    """The patch in pieces, secrets removed."""
    text_exact: bool | None = None
    """Whether the pieces together are the patch, byte for byte."""
    text_reason: str | None = None
    """Why there is no text: ``off``, or its length."""
    elapsed_ns: int | None = None
    rewritten: list[str] | None = None
    """Files that were written during the run and are at its end as they were at its start. At most 100."""


@_named("trajectory.read")
class TrajectoryRead(NamedTuple):
    """What the agent itself wrote about the run, read after its end. Claims of the agent, nothing more."""

    path: str
    reason: str | None = None
    """Why there is nothing to be read."""
    bytes: int | None = None
    sha256: str | None = None
    written: bool | None = None
    """Whether it changed during the run; one that did not is of an earlier run."""
    valid_json: bool | None = None
    success: bool | None = None
    final_result: str | None = None
    error: str | None = None
    """Of the last step."""
    errors: int | None = None
    """Steps that have an error."""
    steps: int | None = None
    max_steps: int | None = None
    interactions: int | None = None
    """Calls of the model that it lists."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    provider: str | None = None
    model: str | None = None
    start_time: str | None = None
    end_time: str | None = None


# --- the recorder itself ------------------------------------------------------------------------


@_named("hook.attached")
class HookAttached(NamedTuple):
    """A hook took: from here on the named target is captured in this process."""

    target: str
    """``openai``, ``openai.websockets``, ``trae.tools``, ``trae.docker_tools``, ``trae.llm`` or
    ``multiprocessing``."""
    version: str | None = None
    points: list[str] | None = None
    """The functions that were wrapped."""


@_named("hook.failed")
class HookFailed(NamedTuple):
    """A hook did not take: what it names is not captured in this process."""

    target: str
    version: str | None = None
    point: str | None = None
    error_type: str | None = None
    error_message: str | None = None


@_named("capture.failed")
class CaptureFailed(NamedTuple):
    """Our own code failed while looking at something; the agent's call was not touched."""

    where: str
    error_type: str
    error_message: str | None = None
    times: int = 1
    """How often since the last event of this kind."""


@_named("events.lost")
class EventsLost(NamedTuple):
    """Events could not be written to the spool; by reason, since the last event of this kind."""

    reasons: dict[str, int]
    """Number of events by reason: ``ENOSPC``, ``EROFS``, ``encoding``, …"""


# --- attempts, claims and judgements -------------------------------------------------------------


@_named("attempt.reserved")
class AttemptReserved(NamedTuple):
    """The run is the n-th try at its commit, by this agent with this declared model."""

    number: int
    limit: int | None = None
    """The most attempts that were asked for, if a limit was."""
    provisional: bool | None = None
    """The journal could not be reached: others may have the same number."""


@_named("attempt.refused")
class AttemptRefused(NamedTuple):
    """Nothing was started: the commit has had its attempts, or is solved."""

    reason: str
    """``exhausted``, ``solved`` or ``journal unreachable``."""
    message: str | None = None
    limit: int | None = None
    used: int | None = None
    """Attempts at the commit before this one."""
    solved_by: str | None = None
    """The run that solved the commit, under `policy`."""
    policy: str | None = None


@_named("configuration.read")
class ConfigurationRead(NamedTuple):
    """Where the agent takes its configuration from: command line over environment over file.

    What it makes of the file is in ``agent.turn.started``, what it sends in ``llm.call.started``.
    """

    agent: str
    options: dict[str, str] | None = None
    """On the command line, secrets left out."""
    environment: dict[str, str] | None = None
    """Variables that the agent reads; of a key only that it is ``set``."""
    file: str | None = None
    file_bytes: int | None = None
    file_sha256: str | None = None
    file_reason: str | None = None
    """Why the file could not be read."""


@_named("claim.made")
class ClaimMade(NamedTuple):
    """Somebody asserts something of the run, which is to be checked."""

    name: str
    """A parameter of the request, such as ``parallel_tool_calls``, or ``model``."""
    value: str
    """As given; a number, true or false as JSON has it."""
    source: str
    """``option`` or ``file``."""
    place: str | None = None
    """The file in which it stands."""


@_named("claim.checked")
class ClaimChecked(NamedTuple):
    """A claim was held against what was transmitted and what was observed."""

    name: str
    value: str
    verdict: str
    """``confirmed``, ``refuted`` or ``no evidence``."""
    reason: str
    transmitted: str | None = None
    """What the requests carried, in words."""
    observed: str | None = None
    """What happened, in words."""
    events: list[str] | None = None
    """The events that it rests on."""


@_named("result.attached")
class ResultAttached(NamedTuple):
    """A measured result was attached to the run afterwards: a speed-up, a number of passed tests."""

    name: str
    value: float
    source: str
    """Who measured it, or how."""
    unit: str | None = None


@_named("run.judged")
class RunJudged(NamedTuple):
    """The run was judged under a policy. The latest judgement under each policy counts."""

    policy: str
    policy_sha256: str
    """Of the policy's content: the same name may stand for another content at another time."""
    verdict: str
    """``pass``, ``fail`` or ``unknown``."""
    reason: str
    checks: list[dict[str, Any]]
    """Each with ``name``, ``state`` (``pass``, ``fail`` or ``unknown``), ``need`` (``pass``, ``not fail`` or
    ``none``, as the policy has it), ``reason`` and ``events``, the events that it rests on."""
    empty_cause: str | None = None
    """Why the patch is empty, where it is."""
    events_seen: int | None = None
    """How many events of the run the judgement rests on; later ones may change it."""


# --- other instrumentations ----------------------------------------------------------------------


@_named("span.received")
class SpanReceived(NamedTuple):
    """The sink received a span of another instrumentation, about a GenAI operation."""

    instrumentation: str
    """Name of its scope: what stands as source of the call in the journal."""
    span: str
    trace_id: str
    span_id: str
    failed: bool
    attributes: dict[str, Any]
    """Under the names it gave them; those that hold prompts and answers are left out."""
    instrumentation_version: str | None = None
    parent_span_id: str | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    message: str | None = None
    """Of its status, secrets removed."""


@_named("log.received")
class LogReceived(NamedTuple):
    """The sink received a log record of another instrumentation, about a call of a model or of a tool."""

    instrumentation: str
    """Name of its scope: what stands as source of the call in the journal."""
    log: str
    """Its event name, such as ``codex.sse_event``."""
    attributes: dict[str, Any]
    """Under the names it gave them; those that hold prompts and answers are left out."""
    instrumentation_version: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


Event = Union[
    RunStarted,
    RunFinished,
    ProcessStarted,
    ProcessFinished,
    ProducerStarted,
    ProducerSealed,
    CallStarted,
    CallFinished,
    RequestStarted,
    RequestFinished,
    TurnStarted,
    TurnFinished,
    ToolCallStarted,
    ToolCallFinished,
    TreeCaptured,
    PatchCaptured,
    TrajectoryRead,
    HookAttached,
    HookFailed,
    CaptureFailed,
    EventsLost,
    AttemptReserved,
    AttemptRefused,
    ConfigurationRead,
    ClaimMade,
    ClaimChecked,
    ResultAttached,
    RunJudged,
    SpanReceived,
    LogReceived,
]

VOCABULARY: dict[str, Any] = {name_of(kind): kind for kind in get_args(Event)}
"""Every event type by its name."""

BEGIN_OF: dict[str, str] = {
    name_of(RunFinished): name_of(RunStarted),
    name_of(ProcessFinished): name_of(ProcessStarted),
    name_of(CallFinished): name_of(CallStarted),
    name_of(RequestFinished): name_of(RequestStarted),
    name_of(TurnFinished): name_of(TurnStarted),
    name_of(ToolCallFinished): name_of(ToolCallStarted),
}
"""End event → its begin event."""

BEGINS = frozenset(BEGIN_OF.values())


def event_id(producer: str, seq: int) -> str:
    """The id of an event, the same at every sending: ``producer:seq``."""
    return f"{producer}:{seq}"


def span_id(begin: str) -> str:
    """The span id, 16 hexadecimal digits, of the span that the event with id `begin` begins."""
    return hashlib.sha256(begin.encode()).hexdigest()[:16]
