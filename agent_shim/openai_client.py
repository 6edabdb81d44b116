"""The hook on the ``openai`` package: two functions, through which all of its methods pass.

* ``SyncAPIClient.request`` and ``AsyncAPIClient.request`` open a call and see it end.
* ``send`` of the HTTP client inside, shadowed on the instance at its first use, sees every HTTP request,
  the client's own retries among them. It is public and the same in httpx and httpx2, with which openai
  2.x and 3.x work, so neither is imported here.

Nothing the caller passes or gets is changed, except that a streamed chat to a known host is asked for its
usage when the caller did not say anything about it, in a copy of the request's options.
"""

from __future__ import annotations

import functools
import sys
import weakref
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Callable, Mapping

from . import hooks, openai_request, recorder, streams
from .events import CallStarted
from .openai_call import Call, in_memory, requested
from .recorder import Recorder

_call: ContextVar[Call | None] = ContextVar("agent_telemetry_call", default=None)
_undo: list[tuple[Any, str, Any, bool]] = []
_senders: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""HTTP clients whose ``send`` is shadowed, with the shadow that somebody else had put there before."""


def attach(module: ModuleType) -> hooks.Attached:
    """Wrap the base clients of ``openai._base_client``."""
    points: list[str] = []
    failed: list[tuple[str, BaseException]] = []
    for owner, make in (("SyncAPIClient", _wrap_request), ("AsyncAPIClient", _wrap_async_request)):
        try:
            base = getattr(module, owner)
            points.append(hooks.wrap(base, "request", make, _undo))
            # Another instrumentation may have put the function of before on a client class of its own.
            for kind in _below(base):
                if "request" in vars(kind):
                    points.append(hooks.wrap(kind, "request", make, _undo))
        except AttributeError as error:
            failed.append((f"{owner}.request", error))
    return hooks.Attached(points, failed)


def _below(kind: type) -> list[type]:
    found: list[type] = kind.__subclasses__()
    return found + [lower for upper in found for lower in _below(upper)]


def detach() -> None:
    """Put everything back, on the HTTP clients that were seen too."""
    hooks.unwrap(_undo)
    for client, earlier in list(_senders.items()):
        vars(client).pop("send", None)
        if earlier is not None:
            vars(client)["send"] = earlier
    _senders.clear()


# --- calls ---------------------------------------------------------------------------------------


def _wrap_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        call, options = _open(self, options)
        if call is None:
            return original(self, cast_to, options, *args, **kwargs)
        token = _call.set(call)
        try:
            result = original(self, cast_to, options, *args, **kwargs)
        except BaseException as error:
            _raised(call, error)
            raise
        finally:
            _call.reset(token)
        _returned(call)
        return result

    return request


def _wrap_async_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        call, options = _open(self, options)
        if call is None:
            return await original(self, cast_to, options, *args, **kwargs)
        token = _call.set(call)
        try:
            result = await original(self, cast_to, options, *args, **kwargs)
        except BaseException as error:
            _raised(call, error)
            raise
        finally:
            _call.reset(token)
        _returned(call)
        return result

    return request


def _open(client: Any, options: Any) -> tuple[Call | None, Any]:
    """Open a call, and give the options to go on with. Never raises."""
    outer = _call.get()
    if outer is not None and outer.options is options:
        return None, options  # another wrapper around the same entry
    to = recorder.current()
    if to is None:
        return None, options
    try:
        _shadow_send(client._client)
        key = getattr(client, "api_key", None)
        if isinstance(key, str):
            to.redactor.add(key)
        body = _body(options)
        host = client.base_url.host
        of_surface = openai_request.surface(options.url)
        options, added = _ask_for_usage(to, of_surface, host, body, options)
        started = _started(to, client, options, of_surface, host, body, added)
        return Call(to, started, options), options
    except Exception as error:
        to.failed("openai_client.open", error)
        return None, options


def _body(options: Any) -> Mapping[str, Any]:
    """The body that will be serialized: ``json_data``, with ``extra_body`` over it."""
    given = options.json_data
    body = given if type(given) is dict or isinstance(given, Mapping) else {}
    extra = getattr(options, "extra_json", None)
    return {**body, **extra} if extra else body


def _ask_for_usage(
    to: Recorder, of_surface: str, host: str, body: Mapping[str, Any], options: Any
) -> tuple[Any, bool]:
    if (
        of_surface != "chat.completions"
        or body.get("stream") is not True
        or to.usage_hosts is None
        or not openai_request.reports_usage_when_asked(host, to.usage_hosts)
    ):
        return options, False
    asked = body.get("stream_options")
    if not openai_request.is_set(asked) or asked is None:
        asked = {}
    if (
        not isinstance(asked, dict)
        or "include_usage" in asked
        or "stream_options" in (options.extra_json or ())
    ):
        return options, False
    copied = sys.modules["openai._compat"].model_copy(options)
    copied.json_data = {**options.json_data, "stream_options": {**asked, "include_usage": True}}
    return copied, True


def _started(
    to: Recorder,
    client: Any,
    options: Any,
    of_surface: str,
    host: str,
    body: Mapping[str, Any],
    added: bool,
) -> CallStarted:
    pairing = openai_request.pairing(of_surface, body, requested)
    name = type(client).__name__
    model = body.get("model")
    return CallStarted(
        surface=of_surface,
        method=options.method.upper(),
        path=options.url,
        host=host,
        port=client.base_url.port,
        provider=openai_request.provider(host, name),
        client=name,
        mode=_mode(options),
        asynchronous=name.startswith("Async"),
        stream=True if body.get("stream") is True else None,
        model=model if isinstance(model, str) else None,
        parameters=openai_request.parameters(body) or None,
        absent=openai_request.absent(of_surface, body),
        include_usage_added=True if added else None,
        max_retries=options.get_max_retries(client.max_retries),
        timeout_s=_seconds(options.timeout, client.timeout),
        message_count=pairing.messages if pairing else None,
        tool_names=openai_request.tool_names(body),
        tool_outputs=pairing.outputs or None if pairing else None,
        unanswered=pairing.unanswered or None if pairing else None,
        trace_parent=current_trace_parent(),
        input=dict(body) if to.content and body else None,
    )


def _mode(options: Any) -> str:
    # not isinstance(…, Mapping): asking an abstract class costs more than the rest of a call's fields
    get = getattr(options.headers, "get", None)
    value = get("X-Stainless-Raw-Response") if get else None
    return "raw" if value == "true" else "streaming" if value == "stream" else "plain"


def _seconds(*timeouts: Any) -> float | None:
    for timeout in timeouts:
        value = getattr(timeout, "read", timeout)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


def current_trace_parent() -> str | None:
    """W3C ``traceparent`` of the OpenTelemetry span that is current in the caller's code, if any."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags) & 1:02x}"


def _returned(call: Call) -> None:
    try:
        call.returned()
    except Exception as error:
        call.recorder.failed("openai_client.returned", error)


def _raised(call: Call, error: BaseException) -> None:
    try:
        call.raised(error)
    except Exception as failure:
        call.recorder.failed("openai_client.raised", failure)


# --- requests --------------------------------------------------------------------------------------


def _shadow_send(http_client: Any) -> None:
    """Shadow ``send`` on this HTTP client; clients that share it share the shadow."""
    if http_client in _senders:
        return
    kind = type(http_client)
    own = weakref.ref(http_client)
    make = _async_send if hasattr(kind, "aclose") else _send
    earlier = vars(http_client).get("send")
    _senders[http_client] = earlier
    vars(http_client)["send"] = make(earlier, kind, own)


def _send(earlier: Any, kind: Any, own: Any) -> Callable[..., Any]:
    def send(request: Any, *args: Any, **kwargs: Any) -> Any:
        original = earlier or functools.partial(kind.send, own())
        call = _call.get()
        if call is None:
            return original(request, *args, **kwargs)
        begin, start = _request_started(call, request)
        try:
            response = original(request, *args, **kwargs)
        except BaseException as error:
            _request_failed(call, begin, start, error)
            raise
        _request_answered(call, begin, start, response)
        return response

    return send


def _async_send(earlier: Any, kind: Any, own: Any) -> Callable[..., Any]:
    async def send(request: Any, *args: Any, **kwargs: Any) -> Any:
        original = earlier or functools.partial(kind.send, own())
        call = _call.get()
        if call is None:
            return await original(request, *args, **kwargs)
        begin, start = _request_started(call, request)
        try:
            response = await original(request, *args, **kwargs)
        except BaseException as error:
            _request_failed(call, begin, start, error)
            raise
        _request_answered(call, begin, start, response)
        return response

    return send


def _request_started(call: Call, request: Any) -> tuple[str, int]:
    try:
        return call.request_started(request)
    except Exception as error:
        call.recorder.failed("openai_client.request_started", error)
        return "", 0


def _request_failed(call: Call, begin: str, start: int, error: BaseException) -> None:
    try:
        call.request_failed(begin, start, error)
    except Exception as failure:
        call.recorder.failed("openai_client.request_failed", failure)


def _request_answered(call: Call, begin: str, start: int, response: Any) -> None:
    try:
        body = in_memory(response)
        if body is None and response.status_code >= 400:
            call.request_over(start)
            streams.watch_error(call, begin, response)
            return
        call.request_over(start)
        call.request_answered(begin, response, body)
        if body is None:
            streams.watch(call, response)
    except Exception as error:
        call.recorder.failed("openai_client.request_answered", error)
