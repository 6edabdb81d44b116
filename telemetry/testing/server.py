"""A scripted server that speaks the OpenAI API over real sockets on the loopback interface.

Promises, each with its test in ``tests/test_testing.py``:

* Replies are given in the order of the script, each once; with an empty script the `default` is given.
* A fault is a real one: a TCP reset is a reset, a stall is silence, a cut body is cut on the wire.
* Requests with an unanswered tool call are refused as the service refuses them, without using a reply.
* What the model answered is billed in the `Ledger` exactly once, before a byte of it is sent.
* Leaving the ``with`` block ends every connection and every thread.

::

    with ScriptedServer(rate_limited(), calls(ToolCall("run", {"command": "ls"})), Answer("Done.")) as server:
        client = openai.OpenAI(base_url=server.url, api_key="sk-test")
        …
    assert server.ledger.total() == Usage(input=200, output=40)
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from http.server import ThreadingHTTPServer
from typing import Any, NamedTuple, TypeAlias

from telemetry.testing import pairing, shapes
from telemetry.testing.connection import Connection, Rendered
from telemetry.testing.ledger import Billed, Ledger, Received, Requested
from telemetry.testing.replies import Answer, ApiError, Raw, Reply, model_not_found
from telemetry.testing.shapes import Ask

Turn: TypeAlias = Reply | Callable[[dict[str, Any]], Reply]
"""One entry of a script: a reply, or a function that makes one from the body of the request."""

DONE = Answer("Done.")
"""What a server answers whose script is at its end."""

MODELS = ("gpt-5", "gpt-4o")
"""What the list of models holds; a script may name any other."""

_SURFACES = ("/chat/completions", "/responses", "/embeddings", "/moderations")


class _Stored(NamedTuple):
    answer: Answer
    ask: Ask
    polls_left: int


class ScriptedServer:
    """Answers as scripted. A context manager; `url` is the base URL for a client.

    `on` has scripts of their own for some requests, by model (``"gpt-5"``) or by method and path below
    ``/v1`` (``"POST /embeddings"``, ``"GET /responses/*"``), both as shell patterns; a script of
    its own that is used up gives the `default`. `prefix` stands in all ids that the server makes:
    fixed for reproducible ids, random without one, so that two servers never give the same response id.
    """

    def __init__(
        self,
        *script: Turn,
        on: Mapping[str, Iterable[Turn]] | None = None,
        default: Turn = DONE,
        prefix: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ledger = Ledger()
        self._script = deque(script)
        self._on = {pattern: deque(turns) for pattern, turns in (on or {}).items()}
        self._default = default
        self._prefix = prefix or os.urandom(6).hex()
        self._clock = clock
        self._lock = threading.Lock()
        self._arrived = 0
        self._stored: dict[str, _Stored] = {}
        self._resumed = threading.Event()
        self._closing = threading.Event()
        self._http = _Listener(self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), name="scripted server")

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._resumed.set()
        self._http.shutdown()
        self._http.hang_up()
        self._http.server_close()
        self._thread.join()

    @property
    def origin(self) -> str:
        """Scheme, host and port, as for ``azure_endpoint``."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"{self.origin}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that send a program with an OpenAI client here."""
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": "sk-test-scripted-server"}

    @property
    def left(self) -> int:
        """How many replies of the script, or of the scripts of their own, were not given yet."""
        with self._lock:
            return len(self._script) + sum(map(len, self._on.values()))

    def script(self, *turns: Turn) -> None:
        """Append to the script."""
        with self._lock:
            self._script.extend(turns)

    def resume(self) -> None:
        """Let every stalled reply go on, now and later."""
        self._resumed.set()

    # --- for the connections ----------------------------------------------------------------------

    def exchange(
        self, method: str, target: str, headers: Mapping[str, str], content: bytes
    ) -> tuple[Rendered, str]:
        """Choose the reply to one request, write it into the ledger, and return it with its request id."""
        path = target.partition("?")[0].removeprefix("/v1")
        body = _parsed(content)
        fields = body if isinstance(body, dict) else {}
        with self._lock:
            self._arrived += 1
            number = self._arrived
            rendered = self._render(number, method, path, fields)
        request_id = f"req_{self._prefix}{number:04d}"
        fault = rendered.reply.delivery
        received = Received(
            number=number,
            method=method,
            path=path,
            headers={name.lower(): value for name, value in headers.items()},
            content=content,
            body=body,
            request_id=request_id,
            status=None if fault.fault and fault.after is None else rendered.status,
            fault=fault.fault,
            error_code=_error_code(rendered.reply),
            response_id=rendered.ask.response_id if rendered.ask else None,
        )
        bill = _bill(rendered, number, path)
        self.ledger.enter(received, bill, _requested(rendered), pairing.outputs(fields, number))
        return rendered, request_id

    def wait_out_a_stall(self) -> bool:
        """Block until `resume`; whether the reply may go on (not when the server is being closed)."""
        self._resumed.wait()
        return not self._closing.is_set()

    # --- choosing and rendering (the lock is held) ------------------------------------------------

    def _render(self, number: int, method: str, path: str, body: dict[str, Any]) -> Rendered:
        surface = next((known for known in _SURFACES if method == "POST" and path.endswith(known)), None)
        refusal = self._refusal(surface, body)
        if refusal is not None:
            return _plain(refusal)
        turn = self._turn(method, path, body, surface)
        if turn is None:
            return self._built_in(method, path)
        reply = turn(body) if callable(turn) else turn
        if not isinstance(reply, Answer):
            return _plain(reply)
        return self._answer(number, surface, reply, body)

    def _turn(self, method: str, path: str, body: dict[str, Any], surface: str | None) -> Turn | None:
        for pattern, turns in self._on.items():
            if fnmatchcase(f"{method} {path}", pattern) or fnmatchcase(str(body.get("model")), pattern):
                return turns.popleft() if turns else self._default
        if surface is None:
            return None
        return self._script.popleft() if self._script else self._default

    def _refusal(self, surface: str | None, body: dict[str, Any]) -> ApiError | None:
        if surface == "/chat/completions":
            return pairing.chat_refusal(body)
        if surface != "/responses":
            return None
        before = body.get("previous_response_id")
        if not before:
            return pairing.response_refusal(body, ())
        stored = self._stored.get(before)
        if stored is None:
            message = f"Previous response with id '{before}' not found."
            return ApiError(400, message, code="previous_response_not_found", param="previous_response_id")
        return pairing.response_refusal(body, [str(call.call_id) for call in stored.answer.tool_calls])

    def _answer(self, number: int, surface: str | None, reply: Answer, body: dict[str, Any]) -> Rendered:
        name = {"/chat/completions": "chatcmpl-", "/responses": "resp_"}.get(surface or "", "scripted_")
        ask = Ask(body, f"{name}{self._prefix}{number:04d}", int(self._clock()))
        answer = shapes.settled(reply, ask)
        if surface == "/responses" and body.get("store") is not False:
            self._stored[ask.response_id] = _Stored(answer, ask, answer.polls)
        stream = bool(body.get("stream"))
        if surface == "/chat/completions" and stream:
            return _events(answer, ask, shapes.chat_chunks(answer, ask), typed=False)
        if surface == "/responses" and stream:
            return _events(answer, ask, shapes.response_events(answer, ask), typed=True)
        make = {
            "/chat/completions": shapes.chat_body,
            "/responses": _first_response,
            "/embeddings": shapes.embedding_body,
            "/moderations": shapes.moderation_body,
        }.get(surface or "", shapes.chat_body)
        return _whole(answer, ask, make(answer, ask))

    def _built_in(self, method: str, path: str) -> Rendered:
        """What is answered without a script: the models, and responses that were stored."""
        head, _, name = path.rpartition("/")
        if method == "GET" and path == "/models":
            return _plain(_json({"object": "list", "data": [shapes.model_body(model) for model in MODELS]}))
        if method == "GET" and head == "/models":
            return _plain(_json(shapes.model_body(name)) if name in MODELS else model_not_found(name))
        if method == "GET" and head == "/responses" and name in self._stored:
            return self._poll(name)
        message = f"Unknown request URL: {method} {path}. Please check the URL for typos."
        return _plain(ApiError(404, message, code="unknown_url"))

    def _poll(self, response_id: str) -> Rendered:
        """A stored response as it stands now. It was billed when it was made."""
        answer, ask, left = self._stored[response_id]
        waiting = bool(ask.body.get("background")) and left > 0
        self._stored[response_id] = _Stored(answer, ask, left - 1)
        return _plain(_json(shapes.response_body(answer, ask, "in_progress" if waiting else None)))


class _Listener(ThreadingHTTPServer):
    """Accepts connections and remembers them, so that closing the server ends them all."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, scripted: ScriptedServer) -> None:
        self.scripted = scripted
        self._open: dict[int, Any] = {}
        super().__init__(("127.0.0.1", 0), Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open[id(request)] = request
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.pop(id(request), None)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End every connection that is still open, whatever its thread is doing."""
        for request in list(self._open.values()):
            try:
                request.shutdown(2)
            except OSError:
                continue  # reset, or closed by its own thread in this moment


def _first_response(answer: Answer, ask: Ask) -> dict[str, Any]:
    return shapes.response_body(answer, ask, "queued" if ask.body.get("background") else None)


def _whole(answer: Answer, ask: Ask, body: dict[str, Any]) -> Rendered:
    shaped = answer.reshape([body])[0] if answer.reshape else body
    return Rendered(answer, 200, "application/json", [_encoded(shaped)], False, ask)


def _events(answer: Answer, ask: Ask, objects: list[dict[str, Any]], *, typed: bool) -> Rendered:
    shaped = answer.reshape(objects) if answer.reshape else objects
    end = answer.newline.encode()
    pieces = []
    for item in shaped:
        head = b"event: " + str(item.get("type")).encode() + end if typed else b""
        comment = b": keep-alive" + end + end if answer.comments else b""
        pieces.append(comment + head + b"data: " + _encoded(item) + end + end)
    if not typed and answer.done and answer.error_after is None:
        pieces.append(b"data: [DONE]" + end + end)
    return Rendered(answer, 200, "text/event-stream; charset=utf-8", pieces, True, ask)


def _plain(reply: ApiError | Raw) -> Rendered:
    if isinstance(reply, Raw):
        return Rendered(reply, reply.status, reply.content_type, [reply.body], False)
    return Rendered(reply, reply.status, "application/json", [_encoded(shapes.error_body(reply))], False)


def _json(value: Any) -> Raw:
    return Raw(_encoded(value))


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _error_code(reply: Reply) -> str | None:
    return (reply.code or reply.type) if isinstance(reply, ApiError) else None


def _bill(rendered: Rendered, number: int, path: str) -> Billed | None:
    answer, ask = rendered.reply, rendered.ask
    if not isinstance(answer, Answer) or ask is None or answer.usage is None or path.endswith("/moderations"):
        return None
    return Billed(ask.response_id, number, path, str(answer.model), str(answer.tier), answer.usage)


def _requested(rendered: Rendered) -> list[Requested]:
    if not isinstance(rendered.reply, Answer) or rendered.ask is None:
        return []
    response_id = rendered.ask.response_id
    calls = rendered.reply.tool_calls
    return [Requested(str(c.call_id), c.name, shapes.arguments_text(c), response_id) for c in calls]
