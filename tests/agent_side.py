"""The agent's side of the capture tests: a program that uses the openai client in one way per scenario.

Run in the interpreter of one SDK generation, with nothing of ours but the hooks, or without them:
``python agent_side.py <scenario>=<base url> …``. Prints one JSON line per scenario: what user code sees.
"""

import asyncio
import gc
import json
import sys

import openai

TOOL = {
    "type": "function",
    "function": {"name": "run", "description": "Runs a command", "parameters": {"type": "object"}},
}
HELLO = [{"role": "user", "content": "hello"}]


def client(url, **options):
    return openai.OpenAI(base_url=url, api_key="sk-scenario-key-0123456789", **options)


def aclient(url, **options):
    return openai.AsyncOpenAI(base_url=url, api_key="sk-scenario-key-0123456789", **options)


def seen(value):
    return {"type": type(value).__name__, "value": value.to_dict()}


def failed(error):
    return {
        "error": type(error).__name__,
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None),
    }


def chat(url):
    with client(url) as openai_client:
        return seen(
            openai_client.chat.completions.create(model="gpt-5", messages=HELLO, temperature=0.5, seed=7)
        )


def chat_tools(url):
    with client(url) as openai_client:
        first = openai_client.chat.completions.create(
            model="gpt-5", messages=HELLO, tools=[TOOL], parallel_tool_calls=False
        )
        calls = first.choices[0].message.tool_calls
        history = [*HELLO, first.choices[0].message.to_dict()]
        history += [{"role": "tool", "tool_call_id": call.id, "content": "ok"} for call in calls]
        second = openai_client.chat.completions.create(model="gpt-5", messages=history, tools=[TOOL])
        return [seen(first), seen(second)]


def chat_unanswered(url):
    with client(url) as openai_client:
        first = openai_client.chat.completions.create(model="gpt-5", messages=HELLO, tools=[TOOL])
        history = [*HELLO, first.choices[0].message.to_dict(), *HELLO]
        try:
            openai_client.chat.completions.create(model="gpt-5", messages=history, tools=[TOOL])
        except openai.BadRequestError as error:
            return failed(error)


def retries(url):
    with client(url, max_retries=3) as openai_client:
        return seen(openai_client.chat.completions.create(model="gpt-5", messages=HELLO))


def refused(url):
    with client(url) as openai_client:
        try:
            openai_client.chat.completions.create(model="gpt-5", messages=HELLO)
        except openai.AuthenticationError as error:
            return failed(error)


def broken_connection(url):
    with client(url, max_retries=1) as openai_client:
        try:
            openai_client.chat.completions.create(model="gpt-5", messages=HELLO)
        except openai.APIConnectionError as error:
            return failed(error)


def chat_stream(url):
    with client(url) as openai_client:
        stream = openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True)
        return [type(stream).__name__, *[seen(chunk) for chunk in stream]]


def chat_stream_own_usage(url):
    with client(url) as openai_client:
        options = {"include_usage": True}
        stream = openai_client.chat.completions.create(
            model="gpt-5", messages=HELLO, stream=True, stream_options=options
        )
        return [*[seen(chunk) for chunk in stream], options]


def chat_stream_retried(url):
    with client(url) as openai_client:
        stream = openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True)
        return [seen(chunk) for chunk in stream]


def chat_stream_refused(url):
    with client(url) as openai_client:
        try:
            openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True)
        except openai.BadRequestError as error:
            return failed(error)


def chat_stream_tools(url):
    with client(url) as openai_client:
        stream = openai_client.chat.completions.create(
            model="gpt-5", messages=HELLO, tools=[TOOL], stream=True
        )
        return [seen(chunk) for chunk in stream]


def stream_left(url):
    with client(url) as openai_client:
        for chunk in openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True):
            return seen(chunk)
    return None


def stream_closed(url):
    with client(url) as openai_client:
        with openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True) as stream:
            chunk = next(stream)
        return [seen(chunk), stream.response.is_closed]


def stream_never_read(url):
    openai_client = client(url)
    stream = openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True)
    del stream
    gc.collect()
    openai_client.close()
    return


def stream_broken(url):
    with client(url) as openai_client:
        chunks = []
        try:
            for chunk in openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True):
                chunks.append(seen(chunk))
        except Exception as error:
            return [*chunks, type(error).__name__]


def consumer_raises(url):
    with client(url) as openai_client:
        try:
            with openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True) as stream:
                for _ in stream:
                    raise KeyError("the consumer's own")
        except KeyError as error:
            return repr(error)


def responses(url):
    with client(url) as openai_client:
        return seen(openai_client.responses.create(model="gpt-5", input="hello", reasoning={"effort": "low"}))


def responses_stream(url):
    with client(url) as openai_client:
        return [
            seen(event) for event in openai_client.responses.create(model="gpt-5", input="hello", stream=True)
        ]


def responses_helper(url):
    with client(url) as openai_client:
        with openai_client.responses.stream(model="gpt-5", input="hello") as stream:
            kinds = [event.type for event in stream]
            return [kinds, seen(stream.get_final_response())]


def responses_failed(url):
    with client(url) as openai_client:
        return [
            event.type for event in openai_client.responses.create(model="gpt-5", input="hello", stream=True)
        ]


def responses_incomplete(url):
    with client(url) as openai_client:
        return seen(openai_client.responses.create(model="gpt-5", input="hello", max_output_tokens=16))


def responses_background(url):
    with client(url) as openai_client:
        response = openai_client.responses.create(model="gpt-5", input="hello", background=True)
        polls = 0
        while polls < 4:  # two of them after it is done
            response = openai_client.responses.retrieve(response.id)
            polls += 1
        return seen(response)


def raw(url):
    with client(url) as openai_client:
        response = openai_client.chat.completions.with_raw_response.create(model="gpt-5", messages=HELLO)
        return [type(response).__name__, response.headers["x-request-id"], seen(response.parse())]


def raw_stream(url):
    with client(url) as openai_client:
        response = openai_client.chat.completions.with_raw_response.create(
            model="gpt-5", messages=HELLO, stream=True
        )
        return [type(response).__name__, [seen(chunk) for chunk in response.parse()]]


def streaming_response(url):
    with client(url) as openai_client:
        with openai_client.chat.completions.with_streaming_response.create(
            model="gpt-5", messages=HELLO
        ) as response:
            early = response.http_response.is_stream_consumed
            return [early, type(response).__name__, seen(response.parse())]


def streaming_lines(url):
    with client(url) as openai_client:
        with openai_client.chat.completions.with_streaming_response.create(
            model="gpt-5", messages=HELLO, stream=True
        ) as response:
            return list(response.iter_lines())


def parse(url):
    import pydantic

    class Greeting(pydantic.BaseModel):
        text: str

    with client(url) as openai_client:
        parsed = openai_client.beta.chat.completions.parse(
            model="gpt-5", messages=HELLO, response_format=Greeting
        )
        return parsed.choices[0].message.parsed.text


def parse_cut_off(url):
    import pydantic

    class Greeting(pydantic.BaseModel):
        text: str

    with client(url) as openai_client:
        try:
            openai_client.beta.chat.completions.parse(model="gpt-5", messages=HELLO, response_format=Greeting)
        except openai.LengthFinishReasonError as error:
            return type(error).__name__


def chat_helper(url):
    with client(url) as openai_client:
        with openai_client.beta.chat.completions.stream(model="gpt-5", messages=HELLO) as stream:
            kinds = [event.type for event in stream]
            return [kinds, stream.get_final_completion().choices[0].message.content]


def embeddings(url):
    with client(url) as openai_client:
        return seen(openai_client.embeddings.create(model="text-embedding-3-small", input="hello"))


def invalid_body(url):
    with client(url, max_retries=0) as openai_client:
        try:
            return repr(openai_client.chat.completions.create(model="gpt-5", messages=HELLO))
        except Exception as error:
            return type(error).__name__


def usage_absent(url):
    with client(url) as openai_client:
        return seen(openai_client.chat.completions.create(model="gpt-5", messages=HELLO))


def azure(url):
    with openai.AzureOpenAI(
        azure_endpoint=url.removesuffix("/v1"),
        api_key="azure-key-0123456789",
        api_version="2025-04-01-preview",
    ) as openai_client:
        try:
            return seen(openai_client.chat.completions.create(model="my-deployment", messages=HELLO))
        except openai.NotFoundError as error:
            return failed(error)


def generic_post(url):
    with client(url) as openai_client:
        body = {"model": "gpt-5", "messages": HELLO}
        return openai_client.post("/chat/completions", cast_to=object, body=body)["choices"][0]["message"][
            "content"
        ]


def models(url):
    with client(url) as openai_client:
        return [model.id for model in openai_client.models.list()]


def async_chat(url):
    async def main():
        async with aclient(url) as openai_client:
            return seen(await openai_client.chat.completions.create(model="gpt-5", messages=HELLO))

    return asyncio.run(main())


def async_stream(url):
    async def main():
        async with aclient(url) as openai_client:
            stream = await openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True)
            return [type(stream).__name__, *[seen(chunk) async for chunk in stream]]

    return asyncio.run(main())


def async_many(url):
    async def main():
        async with aclient(url) as openai_client:
            make = openai_client.responses.create
            answers = await asyncio.gather(*[make(model="gpt-5", input=f"hello {n}") for n in range(8)])
            return sorted(answer.output_text for answer in answers)

    return asyncio.run(main())


def async_cancelled(url):
    async def main():
        async with aclient(url) as openai_client:
            waiting = openai_client.chat.completions.create(model="gpt-5", messages=HELLO)
            try:
                await asyncio.wait_for(waiting, 0.3)
            except asyncio.TimeoutError:
                return "TimeoutError"

    return asyncio.run(main())


def async_stream_cancelled(url):
    async def main():
        async with aclient(url) as openai_client:
            stream = await openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True)

            async def read():
                return [chunk async for chunk in stream]

            try:
                await asyncio.wait_for(read(), 0.3)
            except asyncio.TimeoutError:
                return "TimeoutError"

    return asyncio.run(main())


def generator_input(url):
    with client(url) as openai_client:
        messages = ({"role": "user", "content": text} for text in ("a", "b"))
        first = seen(openai_client.chat.completions.create(model="gpt-5", messages=messages))
        made = [
            seen(chunk)
            for chunk in openai_client.chat.completions.create(
                model="gpt-5", messages=iter(HELLO), stream=True
            )
        ]
        return [first, made, list(messages)]


def options_and_copies(url):
    with client(url, max_retries=0) as first:
        second = first.with_options(max_retries=3, timeout=7)
        third = second.copy(default_headers={"x-mine": "1"})
        return [seen(c.responses.create(model="gpt-5", input="hello")) for c in (first, second, third)]


def own_http_client(url):
    http = openai.DefaultHttpxClient(headers={"x-own": "1"})
    with client(url, http_client=http) as openai_client:
        return seen(openai_client.responses.create(model="gpt-5", input="hello"))


def bound_before(url):
    with client(url) as openai_client:
        create = openai_client.responses.create
        return [seen(create(model="gpt-5", input="hello")), create.__self__ is openai_client.responses]


def interrupted(url):
    import os
    import signal
    import threading

    with client(url) as openai_client:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            openai_client.chat.completions.create(model="gpt-5", messages=HELLO)
        except KeyboardInterrupt:
            return "KeyboardInterrupt"


def forked(url):
    import os

    with client(url) as openai_client:
        openai_client.responses.create(model="gpt-5", input="parent")
        stream = openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True)
        pid = os.fork()
        if pid == 0:
            with client(url) as own:
                own.responses.create(model="gpt-5", input="child")
            os._exit(0)
        os.waitpid(pid, 0)
        return [seen(chunk) for chunk in stream]


def threads(url):
    from concurrent.futures import ThreadPoolExecutor

    with client(url) as openai_client, ThreadPoolExecutor(8) as pool:
        one = lambda n: openai_client.responses.create(model="gpt-5", input=str(n)).output_text  # noqa: E731
        return sorted(pool.map(one, range(16)))


def collected_in_the_middle(url):
    """Streams left open in cycles while the collector runs all the time, whatever else goes on."""
    from concurrent.futures import ThreadPoolExecutor

    def leave(_):
        stream = openai_client.chat.completions.create(model="gpt-5", messages=HELLO, stream=True)
        holder = [stream]
        holder.append(holder)
        return seen(next(iter(stream)))

    usual = gc.get_threshold()
    try:
        with client(url) as openai_client, ThreadPoolExecutor(4) as pool:
            gc.set_threshold(1, 20, 1000)
            found = sorted(pool.map(leave, range(24)), key=str)
            gc.collect()
            return len(found)
    finally:
        gc.set_threshold(*usual)


def main():
    for argument in sys.argv[1:]:
        scenario, _, url = argument.partition("=")
        way = globals()[scenario.partition("__")[0]]  # chat_stream__crlf: the same program, another server
        try:
            found = way(url)
        except Exception as error:
            found = {"raised": type(error).__name__}
        print(json.dumps({"scenario": scenario, "seen": found}), flush=True)


if __name__ == "__main__":
    main()
