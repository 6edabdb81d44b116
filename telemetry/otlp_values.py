"""Values in OTLP, of both encodings: attributes, ids and integers. Pure.

OTLP/JSON is read by hand after the specification: the JSON reader of protobuf takes hexadecimal ids for
base64 and silently gives wrong bytes. Unknown fields are ignored at every level.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from agent_shim.errors import EventError


def values(items: Iterable[Any], kept: Collection[str]) -> dict[str, Any]:
    """The values of those attributes of a protobuf message; of two of one name the later one."""
    return {item.key: _value(item.value) for item in items if item.key in kept}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind in (None, "kvlist_value", "bytes_value") else getattr(value, kind)


def json_values(item: dict[str, Any], kept: Collection[str]) -> dict[str, Any]:
    """The values of those attributes of an object in OTLP/JSON."""
    found = ((one.get("key"), member(one, "value")) for one in descend(item, "attributes"))
    return {key: _json_value(value) for key, value in found if isinstance(key, str) and key in kept}


def _json_value(value: dict[str, Any]) -> Any:
    if "intValue" in value:
        return integer(value["intValue"])
    if "arrayValue" in value:
        return [_json_value(item) for item in descend(member(value, "arrayValue"), "values")]
    return value.get("stringValue", value.get("boolValue", value.get("doubleValue")))


def integer(value: Any) -> int:
    """A 64-bit integer as number or as text; 0 when it is neither."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def unhex(value: Any) -> bytes:
    """The bytes of a hexadecimal id in either case; empty when it is none."""
    try:
        return bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return b""


def descend(node: Any, *names: str) -> Iterator[dict[str, Any]]:
    """The objects in nested lists of objects, by the names of the lists.

    Raises `EventError` when something else is there.
    """
    if not isinstance(node, dict):
        raise EventError(f"not an export request in JSON: an object was expected before {names or 'its end'}")
    if not names:
        yield node
        return
    items = node.get(names[0]) or []
    if not isinstance(items, list):
        raise EventError(f"not an export request in JSON: {names[0]} is not a list")
    for item in items:
        yield from descend(item, *names[1:])


def member(item: dict[str, Any], name: str) -> dict[str, Any]:
    """The object of that name in `item`, or an empty one."""
    found = item.get(name)
    return found if isinstance(found, dict) else {}


def keys(item: dict[str, Any]) -> Iterator[str]:
    """The names of the attributes of an object in OTLP/JSON."""
    return (str(attribute.get("key")) for attribute in descend(item, "attributes"))
