"""One logical call of the OpenAI client: what is known of it, from its begin to its one end.

A `Call` is opened when the client's ``request`` is entered and closed exactly once: when a read response
is returned, when an exception leaves, or when the body of an unread response comes to an end in one of
the ways that `ended` names. It holds no reference to the response, so that an abandoned one is collected
as it would be without us.
"""

from __future__ import annotations

import os
import time
from typing import Any

from . import openai_request, recorder
from .canonical import digest
from .events import CallFinished, CallStarted, RequestFinished, RequestStarted
from .openai_response import Findings
from .recorder import Recorder, error_type, is_cancellation, message_of

requested = openai_request.Requested()
"""Tool calls requested by the responses of this process."""

_RATE_LIMIT = "x-ratelimit-"


class Call:
    """An open call. Methods are called by one thread at a time, as the client is used."""

    __slots__ = (
        "__weakref__",
        "api_ns",
        "backoff_ns",
        "begin",
        "body",
        "content_encoding",
        "content_type",
        "first_chunk_ns",
        "first_ns",
        "http_request_id",
        "http_status",
        "last_end_ns",
        "open",
        "options",
        "pid",
        "recorder",
        "requests",
        "started_ns",
        "stream",
        "surface",
        "usage_added",
        "watched",
    )  # fmt: skip

    def __init__(self, to: Recorder, started: CallStarted, options: Any) -> None:
        self.recorder = to
        self.surface = started.surface
        self.stream = bool(started.stream)
        self.usage_added = bool(started.include_usage_added)
        self.options = options
        """Identity of the options object, to tell a nested entry into the same call."""
        self.pid = os.getpid()
        self.started_ns = time.monotonic_ns()
        self.requests = 0
        self.api_ns = 0
        self.backoff_ns = 0
        self.last_end_ns = 0
        self.first_chunk_ns: int | None = None
        self.http_status: int | None = None
        self.http_request_id: str | None = None
        self.body: bytes | None = None
        self.content_type = ""
        self.content_encoding: str | None = None
        self.watched = False
        """Whether the response is unread and ends the call when its body ends."""
        self.open = True
        self.begin = to.record(started, parent=recorder.parent(to))

    # --- requests ----------------------------------------------------------------------------------

    def request_started(self, request: Any) -> tuple[str, int]:
        """An HTTP request is about to be sent; gives its begin event and its start."""
        now = time.monotonic_ns()
        if self.requests:
            self.backoff_ns += now - self.last_end_ns
        self.requests += 1
        body = in_memory(request)
        url = request.url
        started = RequestStarted(
            number=self.requests,
            method=request.method,
            host=url.host,
            path=url.path,
            body_bytes=None if body is None else len(body),
            body_sha256=digest(body) if body else None,
        )
        return self.recorder.record(started, parent=self.begin), time.monotonic_ns()

    def request_failed(self, begin: str, start: int, error: BaseException) -> None:
        """The request got no answer."""
        self.request_over(start)
        self.http_status = self.http_request_id = None
        event = RequestFinished(error_type=error_type(error), error_message=message_of(error))
        self.recorder.record(event, begin=begin)

    def request_answered(self, begin: str, response: Any, body: bytes | None) -> None:
        """Headers came, and `body` too unless it is still unread."""
        headers = _headers(response)
        self.http_status = response.status_code
        self.http_request_id = headers.get("x-request-id")
        self.body = body
        self.content_type = headers.get("content-type", "")
        self.content_encoding = headers.get("content-encoding")
        findings = Findings()
        if response.status_code >= 400:
            self._read_error(findings, body)
        limits = {
            name[len(_RATE_LIMIT) :]: value for name, value in headers.items() if name.startswith(_RATE_LIMIT)
        }
        event = RequestFinished(
            http_status=response.status_code,
            http_request_id=self.http_request_id,
            retry_after_ms=_retry_after_ms(headers),
            rate_limit=limits or None,
            processing_ms=_whole(headers.get("openai-processing-ms")),
            error_type=findings.error_type,
            error_code=findings.error_code,
            error_param=findings.error_param,
            error_message=findings.error_message,
        )
        self.recorder.record(event, begin=begin)

    def read_body(self, findings: Findings, body: bytes) -> None:
        """Read a whole body as the HTTP client unpacked it, or did not."""
        findings.read_body(body, self.content_type, self.surface)
        if findings.not_decoded and self.content_encoding:
            findings.not_decoded += f" (content encoding {self.content_encoding[:40]})"

    def _read_error(self, findings: Findings, body: bytes | None) -> None:
        if body:
            findings.read_body(body, self.content_type, "")
            if findings.error_type is None:
                findings.error_message = body[: recorder.MAX_MESSAGE].decode("utf-8", "replace")
        findings.error_type = findings.error_type or str(self.http_status)

    def request_over(self, start: int) -> None:
        """The HTTP client gave an answer or an exception: the request's time ends here."""
        self.last_end_ns = time.monotonic_ns()
        self.api_ns += self.last_end_ns - start

    # --- the end -----------------------------------------------------------------------------------

    def returned(self) -> None:
        """The client returned. Ends the call unless its response is still unread."""
        if self.watched:
            return
        findings = Findings(self.recorder.content)
        if self.body is not None:
            self.read_body(findings, self.body)
        elif not self.requests:
            findings.not_decoded = "no request was seen"
        self.finish("completed", findings)

    def raised(self, error: BaseException) -> None:
        """An exception leaves the client. A response that was read before still counts."""
        findings = Findings(self.recorder.content)
        ok = self.http_status is not None and self.http_status < 400
        if self.body is not None and ok:
            self.read_body(findings, self.body)
        self.finish("cancelled" if is_cancellation(error) else "failed", findings, error)

    def finish(
        self,
        ended: str,
        findings: Findings,
        error: BaseException | None = None,
        *,
        chunks: int | None = None,
        later: bool = False,
    ) -> None:
        """Write the one end event; a second end is ignored, and so is one in a forked child."""
        if not self.open or self.pid != os.getpid():
            return
        self.open = False
        if not self.begin:
            return  # its begin could not be written; the loss was counted
        if ended == "completed" and (findings.error_type or findings.status in ("failed", "cancelled")):
            ended = "cancelled" if findings.status == "cancelled" else "failed"
        findings.remember(requested)
        event = self._end_event(ended, findings, error, chunks)
        if later:
            self.recorder.record_later(event, begin=self.begin)
        else:
            self.recorder.record(event, begin=self.begin)

    def _end_event(
        self, ended: str, findings: Findings, error: BaseException | None, chunks: int | None
    ) -> CallFinished:
        type_, message, code, param = _describe(findings, error)
        if ended == "failed" and type_ is None:
            type_ = findings.status or "failed"
            message = f"the response has status {findings.status}"
        return CallFinished(
            ended=ended,
            error_type=type_,
            error_message=message,
            error_code=code,
            error_param=param,
            http_status=self.http_status,
            http_request_id=self.http_request_id,
            requests=self.requests,
            api_ns=self.api_ns,
            backoff_ns=self.backoff_ns,
            first_chunk_ns=self.first_chunk_ns,
            chunks=chunks,
            response_id=findings.id,
            response_status=findings.status,
            model=findings.model,
            tier=findings.tier,
            system_fingerprint=findings.system_fingerprint,
            finish_reasons=findings.reasons(),
            tool_calls=findings.tool_calls(),
            usage=findings.usage,
            usage_missing=self._why_no_usage(ended, findings),
            output="".join(findings.content) if findings.keep and findings.content else None,
        )

    def _why_no_usage(self, ended: str, findings: Findings) -> str | None:
        if findings.usage is not None:
            return None
        if findings.not_decoded:
            return findings.not_decoded
        if not self.requests:
            return "no request was sent"
        if self.http_status is None:
            return "no response"
        if self.http_status >= 400:
            return f"the request failed with status {self.http_status}"
        if self.watched and ended != "completed":
            return f"the stream ended before its usage ({ended.replace('_', ' ')})"
        if self.stream and self.surface == "chat.completions" and not self.usage_added:
            return "the stream was not asked for usage"
        if findings.status in ("queued", "in_progress"):
            return f"the response is {findings.status.replace('_', ' ')}"
        return "the response has no usage"


def in_memory(message: Any) -> bytes | None:
    """The content of an HTTP request or response, ``None`` while it is a stream that nobody has read."""
    try:
        content = message.content
    except Exception:  # RequestNotRead, ResponseNotRead of whichever HTTP library
        return None
    return content if isinstance(content, bytes) else None


def _headers(response: Any) -> dict[str, str]:
    """The headers by their names in lower case; of several with one name the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}


def _describe(
    findings: Findings, error: BaseException | None
) -> tuple[str | None, str | None, str | None, str | None]:
    """Type, message, code and parameter of what went wrong: the exception's, else the response's own."""
    if error is None:
        return findings.error_type, findings.error_message, findings.error_code, findings.error_param
    code, param = getattr(error, "code", None), getattr(error, "param", None)
    return (
        error_type(error),
        message_of(error),
        code if isinstance(code, str) else findings.error_code,
        param if isinstance(param, str) else findings.error_param,
    )


def _whole(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def _retry_after_ms(headers: dict[str, str]) -> int | None:
    """``retry-after-ms``, else ``retry-after`` in seconds (RFC 9110, section 10.2.3), its date form too."""
    exact = _whole(headers.get("retry-after-ms"))
    if exact is not None:
        return exact
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return int(float(value) * 1000)
    except (ValueError, OverflowError):
        return _until(value)


def _until(date: str) -> int | None:
    from email.utils import parsedate_to_datetime

    try:
        return int((parsedate_to_datetime(date).timestamp() - time.time()) * 1000)
    except (TypeError, ValueError):
        return None
