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
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from typing import Any, Callable

MAX_DEPTH = 20
MAX_NODES = 10_000
MAX_TEXT = 65_536
MAX_INT = 2**63 - 1
MAX_NOTES = 50

PLAIN_TEXT = 12_000
"""Characters of JSON that cannot have more than `MAX_NODES` parts (two parts take three characters) nor a
string longer than `MAX_TEXT`."""

_json = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":"), check_circular=False
)
# ``JSONEncoder.encode`` makes such a thing anew for each text, which costs as much again.
_pieces = c_make_encoder and c_make_encoder(
    None, _json.default, encode_basestring_ascii, None, ":", ",", True, False, False
)


def encode(value: Any) -> str:
    """The JSON text of a value that `canonical` returned: compact, keys sorted, ASCII only."""
    return "".join(_pieces(value, 0)) if _pieces else _json.encode(value)


def text_of(value: dict[str, Any], redact: Callable[[str], str]) -> tuple[str, dict[str, str] | None]:
    """`encode` of the `canonical` form of `value`, and what was changed to reach it.

    Nearly every value is its own canonical form, which is told with a fraction of the work.
    """
    if _is_plain(value, 0):
        text = encode(value)
        # ASCII without an escape by number: no NUL, no surrogate, nothing that `canonical` changes.
        if len(text) <= PLAIN_TEXT and "\\u" not in text:
            return text, None
    clean, altered = canonical(value, redact)
    return encode(clean), altered


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a dictionary or list has nothing but exact built-in types in it, numbers within bounds."""
    if depth == MAX_DEPTH:
        return False
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    for item in value:
        kind = type(item)
        if kind is str or item is None or kind is bool:
            continue
        if kind is int:
            if not -MAX_INT - 1 <= item <= MAX_INT:
                return False
        elif kind is float:
            if item - item != 0.0:
                return False
        elif (kind is not dict and kind is not list) or not _is_plain(item, depth + 1):
            return False
    return True


def digest(data: bytes) -> str:
    """SHA-256 of `data` in hexadecimal: how content that is not kept is still told apart."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any, redact: Callable[[str], str] | None = None) -> tuple[Any, dict[str, str] | None]:
    """The canonical form of `value`, and what was changed to reach it (``None``: nothing).

    `redact` is applied to a text before it is cut, so that no part of a secret survives the cut.
    """
    walk = _Walk(redact)
    clean = walk.clean(value)
    return clean, walk.altered or None


class _Walk:
    """One walk over a value. Most values need no change and are told so with few steps."""

    __slots__ = ("altered", "nodes", "place", "redact")

    def __init__(self, redact: Callable[[str], str] | None) -> None:
        self.altered: dict[str, str] = {}
        self.nodes = 0
        self.place: list[Any] = []
        """Keys and indexes down to the present value; joined only when there is something to note."""
        self.redact = redact

    def clean(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            if value.isascii() and len(value) <= MAX_TEXT and "\0" not in value:
                return value
            return self.text(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -MAX_INT - 1 <= value <= MAX_INT else self.number(value)
        if kind is dict or kind is list or kind is tuple:
            return self.container(value, kind)
        return self.other(value)

    def container(self, value: Any, kind: Any) -> Any:
        if len(self.place) >= MAX_DEPTH:
            return self.note("too deep", f"object:{kind.__name__}")
        self.nodes += len(value) + 1
        if self.nodes > MAX_NODES:
            self.nodes -= len(value)
            return self.note("too many parts", f"object:{kind.__name__}")
        return self.mapping(value) if kind is dict else self.sequence(value)

    def mapping(self, value: dict[Any, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        place = self.place
        for key, item in value.items():
            if type(key) is not str or not key.isascii() or len(key) > MAX_TEXT or "\0" in key:
                key = self.key(key)
                if key in out:
                    place.append(key)
                    self.note("duplicate key, the last is kept", None)
                    place.pop()
            kind = type(item)
            if kind is str and item.isascii() and len(item) <= MAX_TEXT and "\0" not in item:
                out[key] = item  # what nearly every value is, without a further call
            elif item is None or kind is bool:
                out[key] = item
            else:
                place.append(key)
                out[key] = self.clean(item)
                place.pop()
        return out

    def sequence(self, value: Any) -> list[Any]:
        out = []
        place = self.place
        place.append(0)
        for place[-1], item in enumerate(value):
            out.append(self.clean(item))
        place.pop()
        return out

    def key(self, key: Any) -> str:
        if isinstance(key, str):
            return self.text(str.__str__(key))
        self.note("keys that are no text", None)
        if key is None or isinstance(key, (bool, int, float)):
            return str(self.clean(key))
        return f"object:{type(key).__qualname__}"

    def number(self, value: int) -> str:
        # str() of a huge int is quadratic and refused above 4,300 digits; hexadecimal is neither.
        text: str = self.note("beyond 64 bits", self.text(f"int:{value:#x}"))
        return text

    def text(self, value: str) -> str:
        if "\0" in value:
            self.note("NUL", None)
            value = value.replace("\0", "\u2400")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                self.note("lone surrogates", None)
                value = value.encode(errors="replace").decode()
        if len(value) > MAX_TEXT:
            if self.redact is not None:
                value = self.redact(value)
            whole = value.encode()
            self.note(f"cut, {len(whole)} bytes, sha256 {digest(whole)}", None)
            value = value[:MAX_TEXT]
        return value

    def other(self, value: Any) -> Any:
        if isinstance(value, float):
            value = float.__float__(value)
            if value - value == 0.0:
                return value
            return self.note("not finite", f"float:{float.__repr__(value)}")
        if isinstance(value, str):  # also string enumerations, whose str() is something else
            return self.clean(str.__str__(value))
        if isinstance(value, int):
            return self.clean(int.__int__(value))
        if isinstance(value, (bytes, bytearray)):
            self.note("bytes", None)
            return self.text(bytes(value).decode("utf-8", "replace"))
        if isinstance(value, dict):
            return self.clean(dict(dict.items(value)))
        if isinstance(value, (list, tuple)):
            base: Any = list if isinstance(value, list) else tuple
            return self.clean([base.__getitem__(value, i) for i in range(base.__len__(value))])
        if type(value) in (set, frozenset):
            ordered = self.clean(list(value))
            return sorted(ordered, key=encode) if isinstance(ordered, list) else ordered
        return self.note("not a value", f"object:{type(value).__qualname__}")

    def note(self, what: str, value: Any) -> Any:
        if len(self.altered) < MAX_NOTES:
            path = "".join(f"[{step}]" if type(step) is int else f".{step}" for step in self.place)
            path = path.lstrip(".").replace("\0", "?").encode("ascii", "replace").decode()[:200]
            self.altered[path] = f"{self.altered[path]}; {what}" if path in self.altered else what
        return value
