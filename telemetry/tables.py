"""The tables of the journal, made to be read with any SQL tool.

``event`` is the truth and only ever grows; every other table is folded from it in the same
transaction by `telemetry.projections`, and can be dropped and made again. Conventions:

* Times are text, UTC, ISO 8601 with microseconds and ``Z``: they sort, and every database can cast them.
* Durations are seconds (``_s``), sizes bytes (``_bytes``), lists and objects JSON text.
* ``NULL`` is *unknown*; a count or token number is never 0 unless 0 was seen.
* An id of a call, request or tool call is the id of its begin event, ``producer:seq``.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Text, UniqueConstraint
from sqlmodel import Field, SQLModel


class IdentifierRow(SQLModel, table=True):
    """The id of a run or a producer, written once: events name it by its number."""

    __tablename__ = "identifier"
    __table_args__ = (UniqueConstraint("id", name="identifier_id"),)

    number: int | None = Field(default=None, primary_key=True)
    id: str


class StoredEventRow(SQLModel, table=True):
    """Every event as it is kept; to be read as `EventRow`."""

    __tablename__ = "stored_event"
    __table_args__ = (Index("stored_event_run", "run"),)

    producer: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    run: int
    name: str
    time_ns: int = Field(sa_column=Column(BigInteger, nullable=False))
    sha256: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    rest: str = Field(sa_column=Column(Text, nullable=False))
    """What follows in the body behind ``{"v":1,"run":…,"producer":…,"seq":…,"name":…,"time":…``. A body that
    does not begin so, character for character, stands here whole, with its ``{``."""


class EventRow(SQLModel, table=True):
    """Every event, verbatim: ``body`` is the canonical JSON that stood in the spool. A SQL view of
    `StoredEventRow`."""

    __tablename__ = "event"
    __table_args__ = {"info": {"is_view": True}}

    producer: str = Field(primary_key=True)
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    run_id: str
    name: str
    time_ns: int = Field(sa_column=Column(BigInteger, nullable=False))
    sha256: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """Hash of ``body``: the same in spool, on the wire and here."""
    body: str = Field(sa_column=Column(Text, nullable=False))


class QuarantineRow(SQLModel, table=True):
    """What could not be taken as an event: kept as it came, with the reason, and never dropped."""

    __tablename__ = "quarantine"

    sha256: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    reason: str = Field(primary_key=True)
    received_at: str
    source: str
    """Where it came from: a spool file, or a peer of the sink."""
    content: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class AttemptRow(SQLModel, table=True):
    """A number that a run reserved (`telemetry.attempts`). No view: a rebuild leaves it alone."""

    __tablename__ = "attempt"
    __table_args__ = (
        UniqueConstraint("repository", "commit", "agent", "model", "number", name="attempt_number"),
    )

    run_id: str = Field(primary_key=True)
    repository: str
    commit: str
    agent: str
    model: str
    """As declared. Empty where one of the four is not known."""
    number: int


class ProducerRow(SQLModel, table=True):
    """One process that wrote events for a run, and whether all of them are here."""

    __tablename__ = "producer"

    run_id: str = Field(primary_key=True)
    producer: str = Field(primary_key=True)
    role: str | None = None
    pid: int | None = None
    python: str | None = None
    started_at: str | None = None
    hooks_armed: str | None = None
    hooks_attached: str | None = None
    """JSON: target → version and wrapped functions."""
    hooks_failed: str | None = None
    """JSON: target → list of what did not take, and why."""
    events: int = Field(default=0, sa_type=BigInteger)
    highest_seq: int = Field(default=0, sa_type=BigInteger)
    sealed_seq: int | None = Field(default=None, sa_type=BigInteger)
    """Last sequence number, once the producer is known to be done."""
    sealed_reason: str | None = None
    torn_bytes: int | None = Field(default=None, sa_type=BigInteger)
    corrupt_lines: int | None = Field(default=None, sa_type=BigInteger)
    lost_events: int | None = Field(default=None, sa_type=BigInteger)
    """Events that the producer could not write, as it said itself."""
    lossy: bool | None = None
    """Events were lost and the producer died before it could say how many."""
    complete: bool = False
    """Sealed, dense, nothing lost, nothing corrupt."""


class RunRow(SQLModel, table=True):
    """One execution of an agent."""

    __tablename__ = "run"
    __table_args__ = (
        Index("run_commit", "repository", "commit"),
        Index("run_commit_given", "repository", "commit_given"),
        Index("run_started", "started_at"),
    )

    run_id: str = Field(primary_key=True)
    started_at: str | None = None
    finished_at: str | None = None
    duration_s: float | None = None
    state: str = "running"
    """``running``, ``finished``, or ``interrupted``: its recorder died before it could say how it ended."""
    outcome: str | None = None
    """As in ``run.finished``; ``abandoned`` when the run is interrupted."""
    exit_code: int | None = None
    signal: int | None = None
    error_type: str | None = None
    error_message: str | None = None
    way: str | None = None
    agent: str | None = None
    command: str | None = None
    cwd: str | None = None
    repository: str | None = None
    repository_source: str | None = None
    commit: str | None = None
    """The full id where any run of the same repository knows it."""
    commit_given: str | None = None
    commit_source: str | None = None
    worktree: str | None = None
    branch: str | None = None
    base_commit: str | None = None
    task: str | None = None
    batch: str | None = None
    tags: str | None = None
    model_declared: str | None = None
    attempt: int | None = None
    trace_id: str | None = None
    parent_run: str | None = None
    host: str | None = None
    platform: str | None = None
    version: str | None = None
    capture: str = "unknown"
    """``captured``; ``not captured``: no hook ever took; ``unknown`` while nothing is known yet."""
    capture_reason: str | None = None
    complete: bool = False
    """Every listed producer is sealed and dense."""
    incomplete_reason: str | None = None
    calls: int = 0
    requests: int = 0
    failed_requests: int = 0
    tool_calls: int = 0
    failed_tool_calls: int = 0
    never_executed_tool_calls: int = 0
    pid: int | None = None
    stdout_bytes: int | None = Field(default=None, sa_type=BigInteger)
    stderr_bytes: int | None = Field(default=None, sa_type=BigInteger)
    stdout_tail: str | None = None
    stderr_tail: str | None = None
    user_s: float | None = None
    system_s: float | None = None
    max_rss_bytes: int | None = Field(default=None, sa_type=BigInteger)
    events: int = Field(default=0, sa_type=BigInteger)
    claimed_success: bool | None = None
    """What the agent wrote of itself; NULL: nothing that was seen."""
    attempt_provisional: bool | None = None
    """The number of the attempt was given without a journal: others may have the same."""
    verdict: str | None = None
    """``pass``, ``fail`` or ``unknown``, by the latest judgement under any policy; NULL: not judged."""
    verdict_policy: str | None = None
    verdict_reason: str | None = None


class VerdictRow(SQLModel, table=True):
    """The latest judgement of a run under each policy."""

    __tablename__ = "verdict"

    run_id: str = Field(primary_key=True)
    policy: str = Field(primary_key=True)
    policy_sha256: str | None = None
    verdict: str | None = None
    reason: str | None = None
    empty_cause: str | None = None
    """Why the patch is empty, where it is."""
    events_seen: int | None = Field(default=None, sa_type=BigInteger)
    judged_at: str | None = None
    event_id: str | None = None


class CheckRow(SQLModel, table=True):
    """A named check of the latest judgement under each policy."""

    __tablename__ = "check"

    run_id: str = Field(primary_key=True)
    policy: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    state: str | None = None
    """``pass``, ``fail`` or ``unknown``."""
    need: str | None = None
    """``pass``, ``not fail`` or ``none``: what the policy asks of it."""
    reason: str | None = None
    events: str | None = None
    """JSON list: the events that it rests on."""


class ClaimRow(SQLModel, table=True):
    """An assertion about a run, and what became of it."""

    __tablename__ = "claim"

    run_id: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    value: str | None = None
    source: str | None = None
    place: str | None = None
    made_at: str | None = None
    verdict: str | None = None
    """``confirmed``, ``refuted`` or ``no evidence``; NULL: not checked yet."""
    reason: str | None = None
    transmitted: str | None = None
    observed: str | None = None
    events: str | None = None
    checked_at: str | None = None


class ResultRow(SQLModel, table=True):
    """A measured result of a run, the latest of each name and source."""

    __tablename__ = "result"

    run_id: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    source: str = Field(primary_key=True)
    value: float | None = None
    unit: str | None = None
    attached_at: str | None = None
    event_id: str | None = None


class CallRow(SQLModel, table=True):
    """One logical LLM call."""

    __tablename__ = "llm_call"

    run_id: str = Field(primary_key=True)
    call_id: str = Field(primary_key=True)
    started_at: str | None = None
    finished_at: str | None = None
    duration_s: float | None = None
    source: str = "wire"
    """``wire``: seen as HTTP; ``agent``: known only from the agent's own model layer; else the name of
    another instrumentation, whose span the sink received."""
    surface: str | None = None
    path: str | None = None
    host: str | None = None
    provider: str | None = None
    model_requested: str | None = None
    model: str | None = None
    """The model that answered."""
    tier_requested: str | None = None
    tier: str | None = None
    mode: str | None = None
    asynchronous: bool | None = None
    stream: bool | None = None
    ended: str | None = None
    """As in the event; ``interrupted`` when its process is gone and no end came; NULL while open."""
    error_type: str | None = None
    error_message: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    http_status: int | None = None
    http_request_id: str | None = None
    requests: int | None = None
    api_s: float | None = None
    backoff_s: float | None = None
    first_chunk_s: float | None = None
    response_id: str | None = None
    response_status: str | None = None
    finish_reasons: str | None = None
    parameters: str | None = None
    absent: str | None = None
    tool_calls: str | None = None
    tool_outputs: str | None = None
    unanswered: str | None = None
    turn_id: str | None = None
    usage_source: str | None = None
    """``reported`` (in the response), ``agent`` (kept by the agent), ``estimated``, ``unknown``,
    ``repeated`` (the response was already counted under another call: polling), or ``none``: a call that
    can use no tokens. The last two are in no total."""
    usage_reason: str | None = None
    """Why the usage is unknown, may not be all of it, or is in no total."""
    usage: str | None = None
    """Usage exactly as reported."""
    input_tokens: int | None = Field(default=None, sa_type=BigInteger)
    """All input tokens, the cached ones and the cache writes included."""
    cached_tokens: int | None = Field(default=None, sa_type=BigInteger)
    cache_write_tokens: int | None = Field(default=None, sa_type=BigInteger)
    output_tokens: int | None = Field(default=None, sa_type=BigInteger)
    """All output tokens, the reasoning ones included."""
    reasoning_tokens: int | None = Field(default=None, sa_type=BigInteger)


class RequestRow(SQLModel, table=True):
    """One HTTP request of a call."""

    __tablename__ = "llm_request"

    run_id: str = Field(primary_key=True)
    request_id: str = Field(primary_key=True)
    call_id: str | None = None
    number: int | None = None
    body_bytes: int | None = Field(default=None, sa_type=BigInteger)
    body_sha256: str | None = None
    """The same for the same request: how a futile repetition is told."""
    started_at: str | None = None
    duration_s: float | None = None
    ended: str | None = None
    """``answered``, ``failed``, or ``interrupted``; NULL while open."""
    http_status: int | None = None
    http_request_id: str | None = None
    retry_after_ms: int | None = Field(default=None, sa_type=BigInteger)
    rate_limit: str | None = None
    processing_ms: int | None = Field(default=None, sa_type=BigInteger)
    error_type: str | None = None
    error_code: str | None = None
    error_param: str | None = None
    error_message: str | None = None


class ToolCallRow(SQLModel, table=True):
    """One tool call that a model requested, executed or not."""

    __tablename__ = "tool_call"

    run_id: str = Field(primary_key=True)
    tool_call_id: str = Field(primary_key=True)
    """Id of the begin event; for a call that was never executed ``<llm call>#<call id>``."""
    tool: str | None = None
    call_id: str | None = None
    """The model's own id of the call."""
    requested_by: str | None = None
    """The LLM call whose response requested it."""
    executor: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    duration_s: float | None = None
    ended: str | None = None
    """As in the event, or ``interrupted``, or ``never executed``; NULL while open."""
    error_type: str | None = None
    error_message: str | None = None
    arguments: str | None = None
    arguments_bytes: int | None = Field(default=None, sa_type=BigInteger)
    result_bytes: int | None = Field(default=None, sa_type=BigInteger)
    overlaps: int | None = None
    """How many other tool calls of the run were executing at the same time."""


class PatchRow(SQLModel, table=True):
    """What a run changed: the difference between the trees of its start and its end, commits included."""

    __tablename__ = "patch"

    run_id: str = Field(primary_key=True)
    worktree: str | None = None
    base_commit: str | None = None
    """HEAD at the start."""
    base_branch: str | None = None
    base_tree: str | None = None
    """Id of the tree of all files at the start, uncommitted and untracked ones included."""
    end_commit: str | None = None
    end_branch: str | None = None
    end_tree: str | None = None
    modified_at_start: int | None = Field(default=None, sa_type=BigInteger)
    deleted_at_start: int | None = Field(default=None, sa_type=BigInteger)
    untracked_at_start: int | None = Field(default=None, sa_type=BigInteger)
    reason: str | None = None
    """Why the patch is unknown; NULL: it is known."""
    bytes: int | None = Field(default=None, sa_type=BigInteger)
    """0: the run changed nothing that counts."""
    sha256: str | None = None
    file_count: int | None = Field(default=None, sa_type=BigInteger)
    added: int | None = Field(default=None, sa_type=BigInteger)
    removed: int | None = Field(default=None, sa_type=BigInteger)
    files: str | None = None
    """JSON, as in the event ``patch.captured``; so are the other lists."""
    parsed_with: str | None = None
    applies: bool | None = None
    applies_reason: str | None = None
    applies_to_commit: bool | None = None
    """Also without what was uncommitted at the start."""
    excess: str | None = None
    excess_count: int | None = Field(default=None, sa_type=BigInteger)
    left_out: str | None = None
    left_out_count: int | None = Field(default=None, sa_type=BigInteger)
    commits: str | None = None
    commit_count: int | None = Field(default=None, sa_type=BigInteger)
    plain_diff_bytes: int | None = Field(default=None, sa_type=BigInteger)
    """What a plain ``git diff`` would have shown at the end: uncommitted changes only."""
    agent_patches: str | None = None
    text: str | None = None
    """The patch, secrets removed, where it is kept."""
    text_exact: bool | None = None
    text_reason: str | None = None
    rewritten: str | None = None
    """Files that were written during the run and are as before at its end."""


class TrajectoryRow(SQLModel, table=True):
    """What the agent itself wrote about the run: its claims, beside which the other tables stand."""

    __tablename__ = "trajectory"

    run_id: str = Field(primary_key=True)
    path: str | None = None
    reason: str | None = None
    """Why there was nothing to be read."""
    bytes: int | None = Field(default=None, sa_type=BigInteger)
    sha256: str | None = None
    written: bool | None = None
    """Whether it changed during the run."""
    valid_json: bool | None = None
    success: bool | None = None
    final_result: str | None = None
    error: str | None = None
    """Of the last step."""
    errors: int | None = Field(default=None, sa_type=BigInteger)
    steps: int | None = Field(default=None, sa_type=BigInteger)
    max_steps: int | None = Field(default=None, sa_type=BigInteger)
    interactions: int | None = Field(default=None, sa_type=BigInteger)
    input_tokens: int | None = Field(default=None, sa_type=BigInteger)
    output_tokens: int | None = Field(default=None, sa_type=BigInteger)
    cached_tokens: int | None = Field(default=None, sa_type=BigInteger)
    reasoning_tokens: int | None = Field(default=None, sa_type=BigInteger)
    provider: str | None = None
    model: str | None = None
    start_time: str | None = None
    end_time: str | None = None


class UsageRow(SQLModel, table=True):
    """Rollup of usage: what questions read, so that their time does not depend on the number of calls.

    A column is NULL when any call of the row does not have that number. Repeated calls are in no row.
    A provider, model or tier that was not seen is the word ``unknown``.
    """

    __tablename__ = "usage"

    run_id: str = Field(primary_key=True)
    day: str = Field(primary_key=True)
    """UTC day on which the calls began."""
    provider: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    """The model that answered, else the requested one, else ``unknown``."""
    tier: str = Field(primary_key=True)
    source: str = Field(primary_key=True)
    """``reported``, ``agent``, ``estimated`` or ``unknown``."""
    reason: str = Field(primary_key=True)
    """Why it is unknown or incomplete; empty otherwise."""
    calls: int = 0
    """0 in the row of a run that was not captured: it stands for an unknown number of calls."""
    input_tokens: int | None = Field(default=None, sa_type=BigInteger)
    cached_tokens: int | None = Field(default=None, sa_type=BigInteger)
    cache_write_tokens: int | None = Field(default=None, sa_type=BigInteger)
    output_tokens: int | None = Field(default=None, sa_type=BigInteger)
    reasoning_tokens: int | None = Field(default=None, sa_type=BigInteger)
    api_s: float | None = None


class CostRow(SQLModel, table=True):
    """Cost by the same key as `UsageRow`, derived per call with one price book; made again at will."""

    __tablename__ = "cost"

    run_id: str = Field(primary_key=True)
    day: str = Field(primary_key=True)
    provider: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    tier: str = Field(primary_key=True)
    source: str = Field(primary_key=True)
    reason: str = Field(primary_key=True)
    book: str = Field(primary_key=True)
    """Name, version and hash of the price book."""
    currency: str = Field(primary_key=True)
    """Empty for calls that have no price."""
    unpriced_reason: str = Field(primary_key=True)
    """Why those calls have no price; empty for priced ones."""
    calls: int = 0
    amount: float | None = None
    run_events: int = Field(default=0, sa_type=BigInteger)
    """``run.events`` when the price was made: a row with another number is out of date."""
