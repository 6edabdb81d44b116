"""The agent's side of the surface tests: every surface in every way that the client offers.

``python surface_side.py matrix|walk <base url>`` in the interpreter of one SDK generation. Prints what was
done as JSON: ``matrix`` calls the surfaces that are decoded as sync and async, plain, raw and streaming;
``walk`` calls every method of the whole resource tree with made-up arguments.
"""

import asyncio
import inspect
import io
import json
import re
import sys

import openai

HELLO = [{"role": "user", "content": "hello"}]

SURFACES = {
    "chat.completions": ("chat.completions.create", {"model": "gpt-5", "messages": HELLO}),
    "chat.completions, streamed": (
        "chat.completions.create",
        {"model": "gpt-5", "messages": HELLO, "stream": True},
    ),
    "responses": ("responses.create", {"model": "gpt-5", "input": "hello"}),
    "responses, streamed": ("responses.create", {"model": "gpt-5", "input": "hello", "stream": True}),
    "responses, fetched": ("responses.retrieve", {"response_id": "resp_fetched0000000001"}),
    "responses.compact": ("responses.compact", {"model": "gpt-5"}),
    "responses.input_tokens": ("responses.input_tokens.count", {"model": "gpt-5", "input": "hello"}),
    "completions": ("completions.create", {"model": "gpt-3.5-turbo-instruct", "prompt": "hello"}),
    "embeddings": ("embeddings.create", {"model": "text-embedding-3-small", "input": "hello"}),
    "moderations": ("moderations.create", {"input": "hello"}),
    "images.generations": ("images.generate", {"model": "gpt-image-1", "prompt": "hello"}),
    "audio.transcriptions": (
        "audio.transcriptions.create",
        {"model": "gpt-4o-transcribe", "file": ("a.wav", b"RIFF")},
    ),
    "audio.speech": ("audio.speech.create", {"model": "tts-1", "input": "hello", "voice": "alloy"}),
    "files": ("files.create", {"file": ("a.jsonl", b"{}"), "purpose": "batch"}),
    "files, listed": ("files.list", {}),
    "batches": (
        "batches.create",
        {"completion_window": "24h", "endpoint": "/v1/responses", "input_file_id": "file-1"},
    ),
    "models, listed": ("models.list", {}),
}


def resolve(client, path, way):
    target = client
    *owners, method = path.split(".")
    for owner in owners:
        target = getattr(target, owner)
    if way != "plain":
        target = getattr(target, {"raw": "with_raw_response", "streaming": "with_streaming_response"}[way])
    return getattr(target, method)


def call(client, path, arguments, way):
    method = resolve(client, path, way)
    if way == "streaming":
        with method(**arguments) as response:
            for _ in response.iter_bytes():
                pass
        return
    result = method(**arguments)
    if way == "raw":
        result = result.parse()
    if hasattr(result, "__iter__") and not isinstance(result, (str, bytes)):
        list(result)


async def acall(client, path, arguments, way):
    method = resolve(client, path, way)
    if way == "streaming":
        async with method(**arguments) as response:
            async for _ in response.iter_bytes():
                pass
        return
    result = method(**arguments)
    if inspect.isawaitable(result) and not hasattr(result, "__aiter__"):
        result = await result
    if way == "raw":
        result = result.parse()
        if inspect.isawaitable(result):
            result = await result
    if hasattr(result, "__aiter__"):
        async for _ in result:
            pass


def matrix(url):
    done = []
    options = {"base_url": url, "api_key": "sk-surface-0123456789", "max_retries": 0}
    for way in ("plain", "raw", "streaming"):
        for surface, (path, arguments) in SURFACES.items():
            for kind in ("sync", "async"):
                done.append([surface, way, kind, attempt(kind, options, path, arguments, way)])
    print(json.dumps(done))


def attempt(kind, options, path, arguments, way):
    headers = {"x-cell": f"{path}/{kind}/{way}"}
    try:
        if kind == "sync":
            with openai.OpenAI(default_headers=headers, **options) as client:
                call(client, path, arguments, way)
        else:

            async def one():
                async with openai.AsyncOpenAI(default_headers=headers, **options) as client:
                    await acall(client, path, arguments, way)

            asyncio.run(one())
    except AttributeError as error:
        return f"not in this SDK: {error}"
    except TypeError as error:
        if "unexpected keyword" in str(error):
            return f"not in this SDK: {error}"
        raise
    return "called"


# --- every method ----------------------------------------------------------------------------------

WRAPPERS = ("with_raw_response", "with_streaming_response")
"""Not methods: other ways to call the same ones."""

SILENT = {
    "webhooks.unwrap": "checks what came from elsewhere",
    "webhooks.verify_signature": "checks what came from elsewhere",
    "beta.agents.environments.files.prepare": "reads local files",
    "beta.agents.environments.files.prepare_directory": "reads local files",
    "beta.agents.sessions.artifacts.for_result": "looks into a result that the caller has",
}
"""Methods that send no request, and what they do instead."""

ARGUMENTS = {
    "audio.voices.create": {"name": "x1", "consent": "x1", "audio_sample": ("a.wav", b"x")},
    "beta.agents.environments.files.upload": {"path": "/workspace/a.txt", "file": b"x", "data": b"x"},
    "beta.agents.sessions.stream": {"input": "hello"},
    "files.wait_for_processing": {"max_wait_seconds": 0, "poll_interval": 0},
    "responses.stream": {"model": "gpt-5", "input": "hello"},
    "beta.responses.stream": {"model": "gpt-5", "input": "hello"},
    "uploads.upload_file_chunked": {"file": b"x", "filename": "a.txt", "bytes": 1, "mime_type": "text/plain"},
    "vector_stores.file_batches.upload_and_poll": {"files": [("a.txt", b"x")]},
    "videos.edit": {"video": ("a.mp4", b"x")},
    "videos.extend": {"video": ("a.mp4", b"x")},
}
"""Arguments that cannot be made up from a signature; those that a method does not have are left out."""


def methods(client):
    """Every public method of every resource of a client, by its path."""
    found, waiting, seen = {}, [("", client)], set()
    while waiting:
        path, owner = waiting.pop()
        if type(owner) in seen:
            continue
        seen.add(type(owner))
        for name in dir(type(owner)):
            if name.startswith("_") or name in WRAPPERS:
                continue
            value = getattr(owner, name)
            if type(value).__module__.startswith("openai.resources"):
                waiting.append((f"{path}{name}.", value))
            elif path and inspect.ismethod(value):
                found[path + name] = value
    return found


def made_up(path, method):
    """Arguments that pass: a text, a number, a list or a file, for whatever is required."""
    parameters = inspect.signature(method).parameters
    arguments = {name: value for name, value in ARGUMENTS.get(path, {}).items() if name in parameters}
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is inspect.Parameter.empty and parameter.name not in arguments:
            arguments[parameter.name] = of_kind(str(parameter.annotation))
    return arguments


def of_kind(wanted):
    if "File" in wanted and "Id" not in wanted and "Purpose" not in wanted:
        return ("a.txt", io.BytesIO(b"x"))
    if "Iterable" in wanted or "List" in wanted or "Sequence" in wanted:
        return []
    return 1 if "int" in wanted else "x1"


async def use(path, method):
    """Call a method as user code would: the stream it gives is entered, the page it gives is awaited."""
    arguments = made_up(path, method)
    try:
        result = method(**arguments)
        result = await result if hasattr(result, "__await__") else result
    except TypeError as error:
        # Which of several combinations is required is not in the signature: the SDK says it.
        asked = re.search(r"Expected either \((.*?)\)", str(error))
        if not asked:
            raise
        missing = [name for name in re.findall(r"'(\w+)'", asked[1]) if name not in arguments]
        result = method(**arguments, **dict.fromkeys(missing, "x1"))
        result = await result if hasattr(result, "__await__") else result
    if path.endswith("connect"):
        return  # entering it would open the WebSocket
    if hasattr(result, "__aenter__"):
        async with result:
            pass
    elif hasattr(result, "__enter__"):
        with result:
            pass


async def each(client, outcomes):
    for path, method in sorted(methods(client).items()):
        name = f"{type(client).__name__}.{path}"
        client._custom_headers = {"x-method": name}
        try:
            await use(path, method)
            outcomes[name] = "returned"
        except Exception as error:  # noqa: BLE001 - made-up answers may raise anything
            outcomes[name] = f"{type(error).__name__}: {error}"[:200]


def walk(url):
    options = {"base_url": url, "api_key": "sk-walk-0123456789", "max_retries": 0, "timeout": 10}
    if "admin_api_key" in inspect.signature(openai.OpenAI).parameters:
        options["admin_api_key"] = "sk-admin-0123456789"
    outcomes = {}

    async def both():
        with openai.OpenAI(**options) as client:
            await each(client, outcomes)
        async with openai.AsyncOpenAI(**options) as client:
            await each(client, outcomes)

    asyncio.run(both())
    print(json.dumps(outcomes))


if __name__ == "__main__":
    {"matrix": matrix, "walk": walk}[sys.argv[1]](sys.argv[2])
