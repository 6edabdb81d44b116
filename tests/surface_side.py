"""The agent's side of the surface tests: every surface in every way that the client offers.

``python surface_side.py matrix|walk <base url>`` in the interpreter of one SDK generation. Prints what was
done as JSON: ``matrix`` calls the surfaces that are decoded as sync and async, plain, raw and streaming;
``walk`` calls every method of the whole resource tree with made-up arguments.
"""

import asyncio
import inspect
import io
import json
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

SKIPPED = ("poll", "wait", "connect", "stream", "upload_file_chunked", "with_")
"""In names of methods that send nothing, loop until something is done, or open a WebSocket."""


def methods(client):
    """Every public method of every resource of a client, by its path."""
    found, waiting, seen = {}, [("", client)], set()
    while waiting:
        path, owner = waiting.pop()
        if type(owner) in seen:
            continue
        seen.add(type(owner))
        for name in dir(type(owner)):
            if name.startswith("_") or any(part in name for part in SKIPPED):
                continue
            try:
                value = getattr(owner, name)
            except Exception:  # noqa: BLE001 - whatever a property of some SDK raises
                continue
            module = type(value).__module__
            if module.startswith("openai.resources"):
                waiting.append((f"{path}{name}.", value))
            elif callable(value) and path and inspect.ismethod(value):
                found[path + name] = value
    return found


def made_up(method):
    """Arguments that pass: a text, or a file, for whatever is required."""
    arguments = {}
    for parameter in inspect.signature(method).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is inspect.Parameter.empty:
            wanted = str(parameter.annotation)
            if "File" in wanted and "Id" not in wanted:
                arguments[parameter.name] = ("a.txt", io.BytesIO(b"x"))
            elif "Iterable" in wanted or "List" in wanted or "Sequence" in wanted:
                arguments[parameter.name] = []
            elif "int" in wanted:
                arguments[parameter.name] = 1
            else:
                arguments[parameter.name] = "x1"
    return arguments


def walk(url):
    outcomes = {}
    with openai.OpenAI(base_url=url, api_key="sk-walk-0123456789", max_retries=0, timeout=10) as client:
        for path, method in sorted(methods(client).items()):
            try:
                result = method(**made_up(method))
                if hasattr(result, "close"):
                    result.close()
                outcomes[path] = "returned"
            except Exception as error:  # noqa: BLE001 - made-up arguments may raise anything
                outcomes[path] = f"{type(error).__name__}: {error}"[:200]
    print(json.dumps(outcomes))


if __name__ == "__main__":
    {"matrix": matrix, "walk": walk}[sys.argv[1]](sys.argv[2])
