"""The canonical form: any value becomes JSON text that SQLite, PostgreSQL and OTLP accept."""

from __future__ import annotations

import enum
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_shim.canonical import MAX_DEPTH, MAX_NODES, MAX_TEXT, canonical, digest, encode, text_of

any_text = st.text(st.characters(exclude_categories=()), max_size=50)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text | st.integers(), inner, max_size=4),
    max_leaves=30,
)


@given(values)
def test_any_value_becomes_ascii_json_without_nul_or_surrogate(value: Any) -> None:
    clean, _ = canonical(value)
    text = encode(clean)
    assert text.isascii()
    assert json.loads(text) == clean
    assert "\\u0000" not in text
    json.dumps(clean, ensure_ascii=False).encode()  # a lone surrogate would raise


@given(values)
def test_the_form_of_the_form_is_the_same(value: Any) -> None:
    clean, _ = canonical(value)
    again, altered = canonical(clean)
    assert (again, altered) == (clean, None)


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=6))
def test_the_same_mapping_gives_the_same_bytes_in_any_order(value: dict[str, int]) -> None:
    backwards = dict(reversed(value.items()))
    assert encode(canonical(value)[0]) == encode(canonical(backwards)[0])


def the_long_way(value: dict[str, Any]) -> tuple[str, dict[str, str] | None]:
    clean, altered = canonical(value, str)
    return encode(clean), altered


@given(st.dictionaries(any_text, values, max_size=8))
def test_the_short_way_to_the_text_gives_the_same(value: dict[str, Any]) -> None:
    assert text_of(value, str) == the_long_way(value)


class Colour(str, enum.Enum):  # noqa: UP042 - the older kind, whose str() is not its value
    RED = "red"


class Trap(dict):  # type: ignore[type-arg]
    """A mapping whose own methods raise: none of them may be called."""

    def items(self) -> Any:
        raise AssertionError

    def __len__(self) -> int:
        raise AssertionError

    def __repr__(self) -> str:
        raise AssertionError


class Opaque:
    def __repr__(self) -> str:
        raise AssertionError

    __str__ = __repr__


@pytest.mark.parametrize(
    ("value", "clean", "what"),
    [
        ("a\0b", "a\u2400b", "NUL"),
        ("\ud800x", "?x", "lone surrogates"),
        (2**63 - 1, 2**63 - 1, None),
        (2**63, "int:0x8000000000000000", "beyond 64 bits"),
        (-(2**63), -(2**63), None),
        (-(2**63) - 1, "int:-0x8000000000000001", "beyond 64 bits"),
        (math.nan, "float:nan", "not finite"),
        (-math.inf, "float:-inf", "not finite"),
        (1.5, 1.5, None),
        (True, True, None),
        (b"ab\xff", "ab\ufffd", "bytes"),
        ((1, 2), [1, 2], None),
        ({3, 1, 2}, [1, 2, 3], None),
        (Colour.RED, "red", None),
        (Trap(a=1), {"a": 1}, None),
        (Opaque(), "object:Opaque", "not a value"),
        (len, "object:builtin_function_or_method", "not a value"),
    ],
)
def test_a_hostile_value_is_changed_in_a_named_way(value: Any, clean: Any, what: str | None) -> None:
    assert canonical({"it": value}) == ({"it": clean}, {"it": what} if what else None)


def test_keys_that_are_no_text_become_text() -> None:
    clean, altered = canonical({1: "a", None: "b", (1, 2): "c"})
    assert clean == {"1": "a", "None": "b", "object:tuple": "c"}
    assert altered == {"": "keys that are no text; keys that are no text; keys that are no text"}


def test_a_cycle_ends_at_the_depth_limit() -> None:
    cyclic: dict[str, Any] = {}
    cyclic["self"] = cyclic
    clean, altered = canonical(cyclic)
    depth = 0
    while isinstance(clean, dict):
        clean, depth = clean["self"], depth + 1
    assert (clean, depth) == ("object:dict", MAX_DEPTH)
    assert altered and list(altered.values()) == ["too deep"]


def test_a_wide_cycle_ends_at_the_limit_of_parts() -> None:
    wide: list[Any] = []
    wide.extend([wide] * 50)
    clean, altered = canonical(wide)
    assert encode(clean).count("object:list") < MAX_NODES
    assert altered


def test_sixty_levels_of_nesting_are_cut_at_twenty() -> None:
    nested: list[Any] = []
    for _ in range(60):
        nested = [nested]
    assert encode(canonical(nested)[0]).count("[") == MAX_DEPTH


def test_a_huge_text_is_cut_and_told_by_length_and_hash() -> None:
    text = "ä" * (MAX_TEXT + 10)
    clean, altered = canonical({"text": text})
    whole = text.encode()
    assert clean["text"] == "ä" * MAX_TEXT
    assert altered == {"text": f"cut, {len(whole)} bytes, sha256 {digest(whole)}"}


def test_a_secret_at_the_cut_is_removed_before_the_cut() -> None:
    text = "x" * (MAX_TEXT - 4) + "secretvalue"
    clean, _ = canonical(text, lambda whole: whole.replace("secretvalue", "[gone]"))
    assert "secr" not in clean


def test_a_huge_integer_costs_no_quadratic_time_and_no_refusal() -> None:
    clean, altered = canonical(1 << 100_000)
    assert clean.startswith("int:0x1000")
    assert altered == {"": "beyond 64 bits"}


@pytest.mark.parametrize(
    "value",
    [
        {"a": [[]] * (MAX_NODES // 2)},
        {"a": [1] * MAX_NODES},
        {"a": "x" * MAX_TEXT + "y"},
        {"a": {1: 2, "1": 3}},
        {"a": Trap(b=1)},
        {"a": [Colour.RED]},
        {"a": (1, {"b": (2,)})},
        {"a": 2**63, "b": -(2**63) - 1, "c": -(2**63)},
    ],
    ids=["many lists", "many numbers", "long", "keys", "trap", "enumeration", "tuples", "integers"],
)
def test_the_short_way_is_not_taken_past_a_limit(value: dict[str, Any]) -> None:
    assert text_of(value, str) == the_long_way(value)


def test_the_short_way_ends_at_the_same_depth() -> None:
    for depth in range(MAX_DEPTH - 2, MAX_DEPTH + 2):
        value: dict[str, Any] = {}
        for _ in range(depth):
            value = {"a": value}
        assert text_of(value, str) == the_long_way(value)
