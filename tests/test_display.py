"""Promises about how values are shown."""

from __future__ import annotations

import io
import json

import pytest

from telemetry import display
from telemetry.display import Column, count, cut, duration, moment, money, plain, size
from telemetry.totals import Cost, Total

HOSTILE = "\x1b]0;title\x07 \x1b[2J \x9b31m \u202egnp\u2066 \u200b \x00 \x7f \ufeff \r"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain text, größer, 日本", "plain text, größer, 日本"),
        ("\x1b[2J", "␛[2J"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b2J", "\\u009b2J"),
        ("a\u202eb", "a\\u202eb"),
        ("a\tb\nc\r", "a␉b␊c␍"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(given: str, shown: str) -> None:
    assert plain(given) == shown


def test_line_ends_and_tabs_stay_where_lines_are_wanted() -> None:
    assert plain("a\r\n\tb\r", lines=True) == "a\n\tb␍"


@pytest.mark.parametrize("lines", [False, True])
def test_nothing_unprintable_is_left_of_a_hostile_text(lines: bool) -> None:
    assert plain(HOSTILE, lines=lines).isprintable()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "unknown"),
        (0.02, "20 ms"),
        (1.25, "1.2 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7_500, "2 h 5 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (999, "999"), (999.6, "1k"), (12_345, "12.3k"), (2_585_584, "2.59M")]
)
def test_a_count_has_three_digits(number: float, shown: str) -> None:
    assert count(number) == shown


@pytest.mark.parametrize(
    ("currency", "amount", "shown"),
    [
        ("USD", 0, "$0.00"),
        ("USD", 1234.5, "$1,234.50"),
        ("USD", 0.25, "$0.25"),
        ("USD", 0.001525, "$0.0015"),
        ("USD", 0.00000123, "$0.0000012"),
        ("CNY", 3, "CN¥3.00"),
        ("CHF", 3, "CHF 3.00"),
    ],
)
def test_a_small_amount_is_never_rounded_to_nothing(currency: str, amount: float, shown: str) -> None:
    assert money(currency, amount) == shown


def test_sizes_and_cuts() -> None:
    assert [size(812), size(3_614_000)] == ["812 B", "3.61 MB"]
    assert [cut("short", 8), cut("one\ntwo", 8), cut("much too long", 8)] == ["short", "one…", "much to…"]


def test_a_bound_is_marked_and_an_unknown_is_the_word() -> None:
    assert [display.total(total) for total in (Total(5), Total(5, "why"), Total(None, "why"))] == [
        "5",
        "≥ 5",
        "unknown",
    ]
    costs = [Cost({"CNY": 1, "USD": 2}), Cost({"USD": 2}, "why"), Cost({}, "why"), Cost({})]
    assert [display.cost(cost) for cost in costs] == ["CN¥1.00 + $2.00", "≥ $2.00", "unknown", "0"]


def test_a_time_has_its_offset() -> None:
    from zoneinfo import ZoneInfo

    stored = "2026-07-01T12:00:00.000000Z"
    assert moment(stored, ZoneInfo("Europe/Berlin")) == "2026-07-01 14:00:00+02:00"
    assert moment(None, None) == "unknown"


# --- tables --------------------------------------------------------------------------------------

COLUMNS: list[Column[dict[str, object]]] = [
    Column("name", lambda record: record["name"], "NAME"),
    Column("calls", lambda record: record["calls"], "CALLS", right=True, extra=1),
    Column("note", lambda record: record["note"], "NOTE", rest=True),
    Column("silent", lambda record: bool(record)),
]
RECORDS: list[dict[str, object]] = [
    {"name": "one", "calls": 1.5e-06, "note": "a\tb\nc"},
    {"name": HOSTILE, "calls": None, "note": "x" * 300},
]


def test_a_record_is_one_line_of_as_many_fields_as_there_are_names() -> None:
    out = io.StringIO()
    display.write_lines(out, COLUMNS, RECORDS)
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["name\tcalls\tnote\tsilent", "one\t0.0000015\ta␉b␊c\tyes"]
    assert [line.count("\t") for line in lines] == [3, 3, 3]
    assert lines[2].split("\t")[1] == ""


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_table_is_never_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = io.StringIO()
    short = [{**record, "name": "one"} for record in RECORDS]
    display.write_table(out, COLUMNS, short, ["total", "3", "", ""])
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert lines[2].startswith("one")
    assert lines[2].endswith("…")
    assert lines[2].split()[1] == "unknown"
    assert lines[3].split() == ["total", "3"]


def test_columns_that_do_not_fit_are_left_out_by_their_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out = io.StringIO()
    display.write_table(out, COLUMNS, RECORDS[:1])
    assert out.getvalue().split()[:2] == ["NAME", "NOTE"]


def test_markup_in_a_text_is_text() -> None:
    out = io.StringIO()
    display.write_text(out, "[bold]not bold[/bold] [link=file:///etc/passwd]x[/link]")
    assert out.getvalue() == "[bold]not bold[/bold] [link=file:///etc/passwd]x[/link]\n"


def test_long_lines_are_indented_from_the_second_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    out = io.StringIO()
    display.write_text(out, "name  one two three four five", indent=6)
    assert out.getvalue() == "name  one two three\n      four five\n"


def test_json_is_ascii() -> None:
    out = io.StringIO()
    display.write_json(out, {"text": HOSTILE})
    assert out.getvalue().isascii()
    assert "\x1b" not in out.getvalue()
    assert json.loads(out.getvalue()) == {"text": HOSTILE}
