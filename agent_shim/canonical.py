"""The canonical form: any value, however hostile, as JSON text that every store accepts.

Promises of `canonical` and `encode`, each a test in ``tests/test_canonical.py``:

* They never raise and never run code of the value's class.
* The text is ASCII, has no NUL and no lone surrogate, and the same value gives the same bytes.
* Integers fit 64 bits with sign and numbers are finite; what does not fit becomes a string with a
  type tag (``int:…``, ``float:nan``). SQLite, PostgreSQL and OTLP refuse or lose the raw forms.
* Depth is at most `MAX_DEPTH` (OTLP decoders stop at 50 levels), a value has at most `MAX_NODES`
  parts, and a string at most `MAX_TEXT` characters.
* Whatever was changed is named: path → what happened, with length and hash of a text that was cut.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Callable

MAX_DEPTH = 20
MAX_NODES = 10_000
MAX_TEXT = 65_536
MAX_INT = 2**63 - 1

_dumps = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":"), check_circular=False
).encode


def encode(value: Any) -> str:
    """The JSON text of a value that `canonical` returned: compact, keys sorted, ASCII only."""
    return _dumps(value)


def digest(data: bytes) -> str:
    """SHA-256 of `data` in hexadecimal: how content that is not kept is still told apart."""
    return hashlib.sha256(data).hexdigest()


def canonical(
    value: Any, redact: Callable[[str], str] | None = None
) -> tuple[Any, dict[str, str] | None]:
    """The canonical form of `value`, and what was changed to reach it (``None``: nothing).

    `redact` is applied to a text before it is cut, so that no part of a secret survives the cut.
    """
    walk = _Walk(redact)
    return walk.clean(value, "", 0), walk.altered or None


class _Walk:
    __slots__ = ("altered", "nodes", "redact")

    def __init__(self, redact: Callable[[str], str] | None) -> None:
        self.altered: dict[str, str] = {}
        self.nodes = 0
        self.redact = redact

    def clean(self, value: Any, path: str, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            if value.isascii() and len(value) <= MAX_TEXT and "\0" not in value:
                return value
            return self.text(value, path)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -MAX_INT - 1 <= value <= MAX_INT else self.number(value, path)
        if kind is dict or kind is list or kind is tuple:
            self.nodes += 1
            if depth >= MAX_DEPTH:
                return self.note(path, "too deep", f"object:{kind.__name__}")
            if self.nodes + len(value) > MAX_NODES:
                return self.note(path, "too many parts", f"object:{kind.__name__}")
            self.nodes += len(value)
            if kind is dict:
                return self.mapping(value, path, depth)
            return [self.clean(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]
        return self.other(value, path, depth)

    def mapping(self, value: dict[Any, Any], path: str, depth: int) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, item in value.items():
            name = key if type(key) is str else self.key(key, path)
            name = self.clean(name, f"{path}.<key>", depth + 1)
            if name in out:
                self.note(f"{path}.{name}", "duplicate key, the last is kept", None)
            out[name] = self.clean(item, f"{path}.{name}" if path else name, depth + 1)
        return out

    def key(self, key: Any, path: str) -> str:
        if isinstance(key, str):
            return str.__str__(key)
        self.note(path, "keys that are no text", None)
        if key is None or isinstance(key, (bool, int, float)):
            return str(self.clean(key, path, 0))
        return f"object:{type(key).__qualname__}"

    def number(self, value: int, path: str) -> str:
        # str() of a huge int is quadratic and refused above 4,300 digits; hexadecimal is neither.
        return self.note(path, "beyond 64 bits", self.text(f"int:{value:#x}", path))

    def text(self, value: str, path: str) -> str:
        if "\0" in value:
            self.note(path, "NUL", None)
            value = value.replace("\0", "\u2400")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                self.note(path, "lone surrogates", None)
                value = value.encode(errors="replace").decode()
        if len(value) > MAX_TEXT:
            if self.redact is not None:
                value = self.redact(value)
            whole = value.encode()
            self.note(path, f"cut, {len(whole)} bytes, sha256 {digest(whole)}", None)
            value = value[:MAX_TEXT]
        return value

    def other(self, value: Any, path: str, depth: int) -> Any:
        if isinstance(value, float):
            value = float.__float__(value)
            if value - value == 0.0:
                return value
            return self.note(path, "not finite", f"float:{float.__repr__(value)}")
        if isinstance(value, str):  # also string enumerations, whose str() is something else
            return self.clean(str.__str__(value), path, depth)
        if isinstance(value, int):
            return self.clean(int.__int__(value), path, depth)
        if isinstance(value, (bytes, bytearray)):
            self.note(path, "bytes", None)
            return self.text(bytes(value).decode("utf-8", "replace"), path)
        if isinstance(value, dict):
            return self.clean(dict(dict.items(value)), path, depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            ordered = list(iter(value)) if type(value) in (set, frozenset) else None
            if ordered is not None:
                items = [self.clean(item, path, depth + 1) for item in ordered[:MAX_NODES]]
                return sorted(items, key=encode)
            base = list if isinstance(value, list) else tuple
            return self.clean([base.__getitem__(value, i) for i in range(base.__len__(value))], path, depth)
        return self.note(path, "not a value", f"object:{type(value).__qualname__}")

    def note(self, path: str, what: str, value: Any) -> Any:
        if len(self.altered) < 50:
            key = path if path.isascii() and "\0" not in path else path.encode("ascii", "replace").decode()
            key = key.replace("\0", "?")[:200]
            self.altered[key] = f"{self.altered[key]}; {what}" if key in self.altered else what
        return value
