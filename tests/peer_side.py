"""The agent's side of the tests with other instrumentations of the same client in the same process.

``python peer_side.py <peer> before|after <base url>``: *before* means that the peer was there before us.
Prints as JSON what the peer saw, and what user code saw.
"""

import json
import os
import sys

HELLO = [{"role": "user", "content": "hello"}]


def spans():
    """A tracer provider that keeps spans, and how many there are."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, lambda: len(exporter.get_finished_spans())


def genai_openai():
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    provider, count = spans()
    OpenAIInstrumentor().instrument(tracer_provider=provider)
    return count


def openllmetry():
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    provider, count = spans()
    OpenAIInstrumentor().instrument(tracer_provider=provider)
    return count


def openinference():
    from openinference.instrumentation.openai import OpenAIInstrumentor

    provider, count = spans()
    OpenAIInstrumentor().instrument(tracer_provider=provider)
    return count


def logfire():
    import logfire
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    options = logfire.AdvancedOptions() if hasattr(logfire, "AdvancedOptions") else None
    logfire.configure(
        send_to_logfire=False,
        console=False,
        additional_span_processors=[SimpleSpanProcessor(exporter)],
        **({"advanced": options} if options else {}),
    )
    logfire.instrument_openai()
    return lambda: len(exporter.get_finished_spans())


def langfuse():
    import langfuse.openai  # noqa: F401 - importing it is how it is switched on
    from openai.resources.chat.completions import Completions

    return lambda: int(hasattr(Completions.create, "__wrapped__"))


def respx():
    import httpx2  # noqa: F401 - respx works on httpx: with 3.x it is there and sees nothing
    import respx

    respx.mock(assert_all_called=False).start()
    respx.route().pass_through()
    return lambda: 1


def vcr():
    import vcr

    cassette = vcr.use_cassette(
        "/dev/null", record_mode="none", allow_playback_repeats=True, ignore_localhost=True
    )
    cassette.__enter__()
    return lambda: 1


def use(url):
    import openai

    with openai.OpenAI(base_url=url, api_key="sk-peer-0123456789") as client:
        plain = client.chat.completions.create(model="gpt-5", messages=HELLO)
        stream = client.chat.completions.create(
            model="gpt-5", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        response = client.responses.create(model="gpt-5", input="hello")
        events = [event.type for event in client.responses.create(model="gpt-5", input="hello", stream=True)]
        try:
            client.chat.completions.create(model="gpt-5", messages=HELLO)
        except openai.BadRequestError as error:
            failure = type(error).__name__
    return [plain.usage.total_tokens, len(chunks), response.output_text, events[-1], failure]


def main(peer, order, url):
    if order == "before":
        import openai  # noqa: F401 - loaded, and instrumented by the other, before we come
    count = globals()[peer]()
    if order == "before":
        sys.path.insert(0, os.environ["OURS"])
        import agent_shim

        agent_shim.instrument()
    seen = use(url)
    print(json.dumps({"seen": seen, "spans": count()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
