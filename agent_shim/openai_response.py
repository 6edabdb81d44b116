"""What is read from a response of an OpenAI-compatible server: JSON bodies and event streams.

Usage is taken as it stands; it is interpreted later, elsewhere. What cannot be decoded is said so with a
reason, and never raises.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .canonical import digest
from .openai_request import Requested
from .recorder import INLINE_ARGUMENTS

MAX_DECODED = 16 * 1024 * 1024
"""A larger body is not decoded."""


class Findings:
    """What a response said, gathered from a body or from the events of a stream."""

    __slots__ = (
        "content", "error_code", "error_message", "error_param", "error_type", "finish_reasons", "id",
        "keep", "model", "not_decoded", "output", "status", "system_fingerprint", "terminal", "tier",
        "tools", "usage",
    )  # fmt: skip

    def __init__(self, keep: bool = False) -> None:
        self.keep = keep
        """Whether content is kept."""
        self.id: str | None = None
        self.model: str | None = None
        self.tier: str | None = None
        self.status: str | None = None
        self.system_fingerprint: str | None = None
        self.finish_reasons: dict[int, str] = {}
        self.tools: dict[Any, dict[str, str]] = {}
        """Tool calls by their place in the response: id, name, arguments."""
        self.usage: dict[str, Any] | None = None
        self.error_type: str | None = None
        self.error_code: str | None = None
        self.error_message: str | None = None
        self.error_param: str | None = None
        self.terminal = False
        """Whether the response itself said that it is over."""
        self.not_decoded: str | None = None
        self.content: list[str] = []
        self.output: Any = None

    # --- reading -----------------------------------------------------------------------------------

    def read_body(self, body: bytes, content_type: str, of_surface: str) -> None:
        """Read a whole body."""
        if len(body) > MAX_DECODED:
            self.not_decoded = f"body of {len(body)} bytes is not decoded"
        elif not body:
            self.not_decoded = "empty body"
        elif of_surface.startswith(("embeddings", "images")) and not self.keep:
            self._read_end(body)
        elif "json" not in content_type and body[:1] not in b"{[":
            self.not_decoded = f"content type {content_type.partition(';')[0] or 'unknown'} is not decoded"
        else:
            try:
                value = json.loads(body)
            except (ValueError, RecursionError) as error:
                self.not_decoded = f"invalid JSON: {error}"[:200]
            else:
                self.read(value)

    def _read_end(self, body: bytes) -> None:
        """Usage and model of a body whose bulk is numbers or images: looked for, not parsed."""
        for name in ("usage", "model"):
            at = body.rfind(b'"%s"' % name.encode())
            start = body.find(b":", at) + 1 if at >= 0 else 0
            if not start:
                continue
            try:
                text = body[start : start + 65_536].decode("utf-8", "ignore").lstrip()
                value, _ = json.JSONDecoder().raw_decode(text)
            except ValueError:
                continue
            self.read({name: value})

    def read(self, value: Any) -> None:
        """Read a decoded body, or one decoded event of a stream."""
        if not isinstance(value, dict):
            return
        response = value.get("response")
        kind = value.get("type")
        if isinstance(kind, str) and (kind.startswith("response.") or kind == "error"):
            self._read_event(kind, value, response)
            return
        self._read_common(value)
        if isinstance(value.get("choices"), list):
            self._read_choices(value["choices"])
        elif isinstance(value.get("output"), list):
            self._read_output(value["output"])

    def _read_event(self, kind: str, value: dict[str, Any], response: Any) -> None:
        if isinstance(response, dict):
            self._read_common(response)
            if isinstance(response.get("output"), list):
                self._read_output(response["output"])
        if kind in ("response.completed", "response.incomplete", "response.failed", "response.cancelled"):
            self.terminal = True
        elif kind == "error":
            self.terminal = True
            nested = value.get("error")
            self._read_error(nested if isinstance(nested, dict) else value)
        elif kind == "response.output_item.done" and isinstance(value.get("item"), dict):
            self._read_item(value.get("output_index"), value["item"])

    def _read_common(self, value: dict[str, Any]) -> None:
        self.id = _text(value.get("id")) or self.id
        self.model = _text(value.get("model")) or self.model
        self.tier = _text(value.get("service_tier")) or self.tier
        self.status = _text(value.get("status")) or self.status
        self.system_fingerprint = _text(value.get("system_fingerprint")) or self.system_fingerprint
        if isinstance(value.get("usage"), dict):
            self.usage = value["usage"]
        if value.get("error"):
            self._read_error(value["error"])
        details = value.get("incomplete_details")
        if isinstance(details, dict) and _text(details.get("reason")):
            self.finish_reasons[0] = details["reason"]

    def _read_error(self, error: Any) -> None:
        if not isinstance(error, dict):
            self.error_type, self.error_message = "error", str(error)[:4096]
            return
        self.error_code = _text(error.get("code")) or self.error_code
        kind = _text(error.get("type"))
        self.error_type = self.error_code or (kind if kind != "error" else None) or "error"
        self.error_message = (_text(error.get("message")) or self.error_type)[:4096]
        self.error_param = _text(error.get("param")) or self.error_param

    def _read_choices(self, choices: list[Any]) -> None:
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            at = choice.get("index")
            index = at if isinstance(at, int) else 0
            if isinstance(choice.get("finish_reason"), str):
                self.finish_reasons[index] = choice["finish_reason"]
            message = choice.get("message") or choice.get("delta")
            if not isinstance(message, dict):
                continue
            if self.keep and isinstance(message.get("content"), str):
                self.content.append(message["content"])
            for place, call in enumerate(_items(message.get("tool_calls"))):
                if isinstance(call, dict):
                    self._read_tool_call(index, place, call)

    def _read_tool_call(self, choice: int, place: int, call: dict[str, Any]) -> None:
        at = call.get("index")
        slot = self.tools.setdefault(
            (choice, at if isinstance(at, int) else place), {"id": "", "name": "", "arguments": ""}
        )
        slot["id"] = _text(call.get("id")) or slot["id"]
        function = call.get("function") or call.get("custom")
        if isinstance(function, dict):
            slot["name"] = _text(function.get("name")) or slot["name"]
            slot["arguments"] += _text(function.get("arguments") or function.get("input")) or ""

    def _read_output(self, output: list[Any]) -> None:
        for index, item in enumerate(output):
            if isinstance(item, dict):
                self._read_item(index, item)

    def _read_item(self, index: Any, item: dict[str, Any]) -> None:
        if item.get("type") in ("function_call", "custom_tool_call"):
            self.tools[index] = {
                "id": _text(item.get("call_id")) or "",
                "name": _text(item.get("name")) or "",
                "arguments": _text(item.get("arguments") or item.get("input")) or "",
            }
        elif self.keep and item.get("type") == "message":
            for part in _items(item.get("content")):
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    self.content.append(part["text"])

    # --- telling -----------------------------------------------------------------------------------

    def tool_calls(self) -> list[dict[str, Any]] | None:
        """The tool calls requested, arguments by length and hash where they are long."""
        calls = []
        for slot in self.tools.values():
            raw = slot["arguments"].encode("utf-8", "replace")
            call: dict[str, Any] = {
                "id": slot["id"],
                "name": slot["name"],
                "arguments_bytes": len(raw),
                "arguments_sha256": digest(raw),
            }
            if self.keep or len(slot["arguments"]) <= INLINE_ARGUMENTS:
                call["arguments"] = slot["arguments"]
            calls.append(call)
        return calls or None

    def reasons(self) -> list[str] | None:
        """Finish reasons in the order of the choices."""
        return [self.finish_reasons[index] for index in sorted(self.finish_reasons)] or None

    def remember(self, requested: Requested) -> None:
        """Keep which tool calls this response requested, for a request that refers to it by id."""
        if self.id:
            requested.remember(self.id, tuple(slot["id"] for slot in self.tools.values()))


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


_NO_USAGE = re.compile(rb',\s*"usage":\s*null')
# Inside a text the quotes are escaped, so this only matches the field itself.


class EventStream:
    """Takes the decoded bytes of an event stream in any pieces, and reads its events.

    Follows the event stream format of the HTML standard (server-sent events): ``\\n``, ``\\r\\n`` and
    ``\\r`` end lines, comments begin with a colon, an event ends at a blank line, several data lines are
    one value. Events that only carry a piece of text are not decoded unless content is kept.

    With `take_usage_out` the events are also given back as bytes, less the one that carries only the
    usage which was asked for on the caller's behalf; the ``"usage":null`` of the others goes too.
    """

    def __init__(self, findings: Findings, *, take_usage_out: bool = False) -> None:
        self.findings = findings
        self.events = 0
        self._skip_text = not findings.keep
        self._take_usage_out = take_usage_out
        self._rest: list[bytes] = []
        """Pieces of a line that has not ended; joined once, whatever its size."""
        self._data: list[bytes] = []
        self._raw: list[bytes] = []

    def feed(self, chunk: bytes) -> bytes:
        """Read one piece. Gives back what the caller is to see of it."""
        if not (self._rest or self._data or self._take_usage_out):
            if self.events and self._skip_text and _is_one_event(chunk) and _only_text(chunk):
                self.events += 1  # what nearly every piece is
                return chunk
            whole = _whole_events(chunk)
            if whole is not None:
                for data in whole:
                    self._event(data)
                return chunk
        if b"\n" not in chunk and b"\r" not in chunk and not self._ends_with_return():
            self._rest.append(chunk)
            return b"" if self._take_usage_out else chunk
        return self._lines(self._whole_lines(chunk), chunk)

    def _ends_with_return(self) -> bool:
        return bool(self._rest) and self._rest[-1].endswith(b"\r")

    def _whole_lines(self, chunk: bytes) -> list[bytes]:
        lines = b"".join((*self._rest, chunk)).splitlines(keepends=True)
        # A return at the very end may be half of a pair: wait for the next piece.
        self._rest = [lines.pop()] if lines and not lines[-1].endswith(b"\n") else []
        return lines

    def end(self) -> bytes:
        """Read what is left when the body is over, as if a blank line followed."""
        rest, self._rest = b"".join(self._rest), []
        out = self._lines([rest] if rest else [], b"")
        return out + self._dispatch()

    def _lines(self, lines: list[bytes], chunk: bytes) -> bytes:
        out: list[bytes] = []
        for line in lines:
            if self._take_usage_out:
                self._raw.append(line)
            text = line.rstrip(b"\r\n")
            if text.startswith(b"data:"):
                self._data.append(text[6:] if text[5:6] == b" " else text[5:])
            elif not text:
                out.append(self._dispatch())
        return b"".join(out) if self._take_usage_out else chunk

    def _dispatch(self) -> bytes:
        """One whole event; gives back its bytes as the caller is to see them."""
        data, self._data = b"\n".join(self._data), []
        raw, self._raw = b"".join(self._raw), []
        if data and self._event(data):
            return b""
        if self._take_usage_out and b'"usage"' in raw:
            raw = _NO_USAGE.sub(b"", raw)
        return raw

    def _event(self, data: bytes) -> bool:
        """Read one event; whether the caller is not to see it."""
        if data.startswith(b"[DONE]"):
            self.findings.terminal = True
            return False
        self.events += 1
        if self.events > 1 and self._skip_text and _only_text(data):
            return False
        value = _decode(data)
        self.findings.read(value)
        if self._take_usage_out and _only_usage(value):
            self.events -= 1
            return True
        return False


def _is_one_event(chunk: bytes) -> bool:
    return chunk.find(b"\n\n") == len(chunk) - 2 and b"\r" not in chunk


def _whole_events(chunk: bytes) -> list[bytes] | None:
    """The data of the events of a piece that has nothing but whole ones of one data line, as most have."""
    if not chunk.endswith(b"\n\n") or b"\r" in chunk:
        return None
    found = []
    for event in chunk[:-2].split(b"\n\n"):
        name, _, data = event.partition(b"data: ")
        if not data or b"\n" in data or (name and not _is_line(name, b"event: ")):
            return None  # a blank event is none
        found.append(data)
    return found


def _is_line(text: bytes, beginning: bytes) -> bool:
    return text.startswith(beginning) and text.find(b"\n") == len(text) - 1


def _only_text(data: bytes) -> bool:
    """Whether an event, or its data, can only be a piece of text, told without decoding it.

    Inside a text the quotes are escaped, so that a name in quotes is a name. Servers write JSON with a space
    after the colon or without.
    """
    if b'"finish_reason":null' in data or b'"finish_reason": null' in data:
        return b'_tokens"' not in data and b'"tool_calls"' not in data and b'"error"' not in data
    head = data[:160]
    return b'.delta"' in head and (b'{"type":"response.' in head or b'{"type": "response.' in head)


def _only_usage(value: Any) -> bool:
    return isinstance(value, dict) and value.get("choices") == [] and isinstance(value.get("usage"), dict)


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
