"""Every attribute name that goes on the wire, on one page.

The names are those of the OpenTelemetry conventions wherever they have one:

* ``gen_ai.*`` and ``openai.*`` follow ``open-telemetry/semantic-conventions-genai`` at revision
  ``e07f4ebacb08f56db8c4c882d117720333fbca04`` (2026-10-02). That repository has no release; all of its
  names are in development, so the revision is pinned here and nowhere else.
* ``error.*``, ``exception.*``, ``host.*``, ``http.*``, ``process.*``, ``server.*``, ``service.*`` and
  ``vcs.*`` follow the semantic conventions 1.44.0.

Where neither has a name, it is ours and begins with ``agent_telemetry.``. Event names are those of
`agent_shim.events`. Token attributes hold only what a provider reported.
"""

from __future__ import annotations

SCHEMA_URL = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"
"""Schema that the pinned revision declares for itself."""

SCOPE = "agent-telemetry"
"""Name of the instrumentation scope, and of the service unless the environment names it."""

# --- the operation ------------------------------------------------------------------------------

OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
AGENT_NAME = "gen_ai.agent.name"
CONVERSATION_ID = "gen_ai.conversation.id"
OUTPUT_TYPE = "gen_ai.output.type"

# --- what was asked -----------------------------------------------------------------------------

REQUEST_MODEL = "gen_ai.request.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_TOP_K = "gen_ai.request.top_k"
REQUEST_FREQUENCY_PENALTY = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY = "gen_ai.request.presence_penalty"
REQUEST_STOP_SEQUENCES = "gen_ai.request.stop_sequences"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_CHOICE_COUNT = "gen_ai.request.choice.count"
REQUEST_STREAM = "gen_ai.request.stream"
REQUEST_REASONING_LEVEL = "gen_ai.request.reasoning.level"
REQUEST_PREVIOUS_RESPONSE_ID = "gen_ai.request.previous_response.id"
REQUEST_ENCODING_FORMATS = "gen_ai.request.encoding_formats"
EMBEDDINGS_DIMENSION_COUNT = "gen_ai.embeddings.dimension.count"
OPENAI_API_TYPE = "openai.api.type"
OPENAI_REQUEST_SERVICE_TIER = "openai.request.service_tier"

# --- what was answered --------------------------------------------------------------------------

RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
"""Seconds."""
OPENAI_RESPONSE_SERVICE_TIER = "openai.response.service_tier"
OPENAI_RESPONSE_SYSTEM_FINGERPRINT = "openai.response.system_fingerprint"

USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
"""All input tokens, the cached ones and the cache writes included."""
USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
"""All output tokens, the reasoning ones included."""
USAGE_CACHE_READ_INPUT_TOKENS = "gen_ai.usage.cache_read.input_tokens"
USAGE_CACHE_WRITE_INPUT_TOKENS = "gen_ai.usage.cache_write.input_tokens"
USAGE_REASONING_OUTPUT_TOKENS = "gen_ai.usage.reasoning.output_tokens"

# --- tools --------------------------------------------------------------------------------------

TOOL_NAME = "gen_ai.tool.name"
TOOL_TYPE = "gen_ai.tool.type"
TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_CALL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_CALL_RESULT = "gen_ai.tool.call.result"

# --- failures and HTTP --------------------------------------------------------------------------

ERROR_TYPE = "error.type"
EXCEPTION_MESSAGE = "exception.message"
HTTP_REQUEST_RESEND_COUNT = "http.request.resend_count"
HTTP_RESPONSE_STATUS_CODE = "http.response.status_code"
HTTP_RESPONSE_REQUEST_ID = "http.response.header.x-request-id"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

# --- the process and what it worked on ----------------------------------------------------------

HOST_NAME = "host.name"
PROCESS_PID = "process.pid"
PROCESS_EXECUTABLE_NAME = "process.executable.name"
PROCESS_EXECUTABLE_PATH = "process.executable.path"
PROCESS_COMMAND_ARGS = "process.command_args"
PROCESS_EXIT_CODE = "process.exit.code"
PROCESS_WORKING_DIRECTORY = "process.working_directory"
SERVICE_NAME = "service.name"
VCS_REPOSITORY_URL_FULL = "vcs.repository.url.full"
VCS_REPOSITORY_NAME = "vcs.repository.name"
VCS_REF_HEAD_NAME = "vcs.ref.head.name"
VCS_REF_HEAD_REVISION = "vcs.ref.head.revision"
VCS_REF_BASE_REVISION = "vcs.ref.base.revision"

# --- ours: identity of an event -----------------------------------------------------------------

RUN = "agent_telemetry.run"
PRODUCER = "agent_telemetry.producer"
SEQ = "agent_telemetry.seq"
VERSION = "agent_telemetry.version"
"""Version of the event's stored form."""

# --- ours: what the conventions have no name for ------------------------------------------------

ATTEMPT = "agent_telemetry.attempt"
TASK = "agent_telemetry.task"
BATCH = "agent_telemetry.batch"
COMPLETE = "agent_telemetry.complete"
"""Whether every event of every producer of the run was there when the root span was made."""
OUTCOME = "agent_telemetry.outcome"
"""How a run or a process ended."""
ENDED = "agent_telemetry.ended"
"""How a call, a turn or a tool call ended."""
SIGNAL = "agent_telemetry.signal"
CAPTURE = "agent_telemetry.capture"
SURFACE = "agent_telemetry.surface"
PARALLEL_TOOL_CALLS = "agent_telemetry.parallel_tool_calls"
UNANSWERED = "agent_telemetry.unanswered"
"""Ids of tool calls that the request holds no output for."""
RETRY_AFTER_MS = "agent_telemetry.retry_after_ms"
API_SECONDS = "agent_telemetry.api_seconds"
BACKOFF_SECONDS = "agent_telemetry.backoff_seconds"
ERROR_CODE = "agent_telemetry.error.code"
ERROR_PARAM = "agent_telemetry.error.param"
USAGE_SOURCE = "agent_telemetry.usage.source"
USAGE_REASON = "agent_telemetry.usage.reason"
"""Why the usage is unknown, or may not be all of it."""
TOTAL_CALLS = "agent_telemetry.total.calls"
TOTAL_CALLS_OF_UNKNOWN_USAGE = "agent_telemetry.total.calls_of_unknown_usage"
TOTAL_REQUESTS = "agent_telemetry.total.requests"
TOTAL_FAILED_REQUESTS = "agent_telemetry.total.failed_requests"
TOTAL_TOOL_CALLS = "agent_telemetry.total.tool_calls"
TOTAL_FAILED_TOOL_CALLS = "agent_telemetry.total.failed_tool_calls"
PATCH_BYTES = "agent_telemetry.patch.bytes"
"""Length of the patch that the run made; 0: it changed nothing. Absent: unknown."""
PATCH_FILES = "agent_telemetry.patch.files"
PATCH_ADDED = "agent_telemetry.patch.added_lines"
PATCH_REMOVED = "agent_telemetry.patch.removed_lines"
PATCH_REASON = "agent_telemetry.patch.unknown_reason"
