"""Records what other instrumentations of the openai client say, beside what our own hooks say.

Run by hand in an environment that has one of them, once per instrumentation; what it writes is kept in the
repository, and the tests read that:

    python agent_shim/bootstrap.py tests/foreign/record.py genai-openai tests/foreign

with ``opentelemetry-instrumentation-genai-openai`` 1.3b0, ``opentelemetry-instrumentation-openai`` 0.62.4
(OpenLLMetry) or ``openinference-instrumentation-openai`` 0.1.66, openai 3.54.0, ``opentelemetry-sdk`` and
``opentelemetry-exporter-otlp-proto-common`` installed. The calls go to a scripted server on the loopback;
``<name>.spans.pb`` and ``<name>.logs.pb`` are OTLP export requests, ``<name>.events.jsonl`` the events of our
own hooks in the same process. The logs come with ``OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT=true`` and
``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=EVENT_ONLY``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import openai
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator

sys.path.insert(0, str(Path(__file__).parents[2]))
from telemetry.testing import Answer, ScriptedServer, ToolCall, Usage, calls, rate_limited

INSTRUMENTORS = {
    "genai-openai": "opentelemetry.instrumentation.genai.openai",
    "openllmetry": "opentelemetry.instrumentation.openai",
    "openinference": "openinference.instrumentation.openai",
}
USAGE = Usage(input=1000, output=50, cached=800, reasoning=30)
TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {"type": "object"}}}]


class Ids(IdGenerator):
    """The trace has the id of the run, as in an agent that goes on with the ``TRACEPARENT`` it is given."""

    def __init__(self) -> None:
        self._spans = count(0xABC0000000000001)

    def generate_trace_id(self) -> int:
        return int(os.environ["AGENT_TELEMETRY_RUN"], 16)

    def generate_span_id(self) -> int:
        return next(self._spans)


def instrument(name: str) -> tuple[InMemorySpanExporter, InMemoryLogRecordExporter]:
    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
    resource = Resource({"service.name": "agent"})
    tracing = TracerProvider(resource=resource, id_generator=Ids())
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(tracing)
    logging = LoggerProvider(resource=resource)
    logging.add_log_record_processor(SimpleLogRecordProcessor(logs))
    module = import_module(INSTRUMENTORS[name])
    module.OpenAIInstrumentor().instrument(tracer_provider=tracing, logger_provider=logging)
    return spans, logs


def work(server: ScriptedServer) -> None:
    """What an agent does: plain and streamed calls of both surfaces, a tool call, an embedding, a refusal."""
    client = openai.OpenAI(max_retries=1)
    ask: dict[str, Any] = {"model": "gpt-5", "messages": [{"role": "user", "content": "a private question"}]}
    client.chat.completions.create(**ask)
    stream = client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    for _ in stream:
        continue
    client.chat.completions.create(**ask, tools=TOOLS)
    client.responses.create(model="gpt-5", input="another private question")
    client.embeddings.create(model="text-embedding-3-small", input="words")
    with contextlib.suppress(openai.RateLimitError):
        client.chat.completions.create(**ask)


def main(name: str, folder: Path) -> None:
    answers = [Answer("hi", usage=USAGE, model="gpt-5-2025-08-07")] * 2
    tool = calls(ToolCall("bash", {"command": "ls"}), usage=Usage(200, 20))
    others = [Answer("ho", usage=Usage(300, 30)), Answer(usage=Usage(8)), rate_limited(), rate_limited()]
    spans, logs = instrument(name)
    with ScriptedServer(*answers, tool, *others, prefix=name.replace("-", "")) as server:
        os.environ.update(server.environment)
        work(server)
        assert server.left == 0
    write(folder / f"{name}.spans.pb", encode_spans(spans.get_finished_spans()).SerializeToString())
    records = logs.get_finished_logs()
    if records:  # only when variables of their own ask for them
        write(folder / f"{name}.logs.pb", encode_logs(records).SerializeToString())


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
