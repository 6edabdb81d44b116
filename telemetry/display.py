"""How values are shown: on a terminal, tab-separated, as JSON.

Promises, each with its test in ``tests/test_display.py``:

* Text that an agent, a model or a server wrote cannot steer the terminal: control characters, escape
  sequences and invisible or direction-changing characters are shown, not obeyed (`plain`).
* Unknown is the word ``unknown`` on a terminal, an empty field in tab-separated lines and null in JSON. A
  value that is only a lower bound carries ``≥`` on a terminal, and its reason beside it elsewhere.
* One line of tab-separated output is one record, under one line of names, whatever a field holds.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, tzinfo
from decimal import Decimal
from functools import partial
from typing import Any, Generic, NamedTuple, TextIO, TypeVar

from telemetry.totals import Cost, Total

UNKNOWN = "unknown"
SIGNS = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "CNY": "CN¥", "INR": "₹", "KRW": "₩"}
"""Currency → sign, as CLDR's English locale writes them."""
GAP = 2
"""Spaces between the columns of a table."""
LEAST = 20
"""Characters that a column which has the rest of the terminal is given at least."""

Record = TypeVar("Record")

_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")


# --- text ----------------------------------------------------------------------------------------


def plain(text: object, *, lines: bool = False) -> str:
    """`text` without anything that a terminal would obey; with `lines`, line ends and tabs stay."""
    given = _COLOUR.sub("", str(text)).replace("\r\n", "\n")
    kept = "\n\t" if lines else ""
    return "".join(char if char.isprintable() or char in kept else _visible(char) for char in given)


def _visible(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)  # its picture: ␛ for ESC
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def cut(text: str, width: int) -> str:
    """The first line of a text, in at most `width` characters."""
    first, more, _ = text.strip().partition("\n")
    return first if len(first) <= width and not more else first[: width - 1] + "…"


# --- numbers -------------------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
    """A duration in at most two units: ``20 ms``, ``1.2 s``, ``3 min 20 s``."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, small, size in (("d", "h", 86_400), ("h", "min", 3_600), ("min", "s", 60)):
        if whole >= size:
            rest = whole % size // {"h": 3_600, "min": 60, "s": 1}[small]
            return f"{whole // size} {large} {rest} {small}"
    return f"{whole} s"


def count(number: float) -> str:
    """A number of tokens in three digits: ``999``, ``12.3k``, ``2.59M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * 0.9995:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def money(currency: str, amount: float) -> str:
    """An amount with the sign of its currency; small ones with two digits that are not 0."""
    sign = SIGNS.get(currency, f"{currency} ")
    if amount >= 1 or amount == 0:
        return f"{sign}{amount:,.2f}"
    digits = max(2, 1 - int(f"{amount:e}".partition("e")[2]))
    return f"{sign}{amount:.{digits}f}"


def size(count_bytes: float) -> str:
    """A size in bytes: ``812 B``, ``3.6 MB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count_bytes >= factor:
            return f"{count_bytes / factor:.3g} {unit}"
    return f"{count_bytes:.0f} B"


def total(value: Total, show: Callable[[float], str] = count) -> str:
    """A total on a terminal."""
    if value.value is None:
        return UNKNOWN
    return f"{'≥ ' if value.reason else ''}{show(value.value)}"


def cost(value: Cost) -> str:
    """A cost on a terminal: currencies side by side, never summed."""
    if not value.amounts:
        return UNKNOWN if value.reason else "0"
    amounts = " + ".join(money(currency, amount) for currency, amount in value.amounts.items())
    return f"{'≥ ' if value.reason else ''}{amounts}"


# --- times ---------------------------------------------------------------------------------------


def moment(stored: str | None, zone: tzinfo | None) -> str:
    """A stored time in a time zone (``None``: the machine's own), with its offset."""
    if stored is None:
        return UNKNOWN
    return datetime.fromisoformat(stored).astimezone(zone).isoformat(" ", "seconds")


# --- tables --------------------------------------------------------------------------------------


class Column(NamedTuple, Generic[Record]):
    """One column of a table."""

    name: str
    """In the first line of tab-separated output."""
    raw: Callable[[Record], Any]
    """The value, ``None`` for unknown; exact, for programs."""
    title: str = ""
    """On a terminal; a column without a title is not shown there."""
    text: Callable[[Record], str] | None = None
    """The value for people; by default the raw one."""
    right: bool = False
    extra: int = 0
    """Left out where the terminal is too narrow for all columns: the highest first, 0 never."""
    rest: bool = False
    """Has what the other columns leave of the terminal, and is cut there."""


def write_lines(out: TextIO, columns: Sequence[Column[Any]], records: Iterable[Any]) -> None:
    """Tab-separated output: a line of names, then a line per record."""
    out.write("\t".join(column.name for column in columns) + "\n")
    append_lines(out, columns, records)


def append_lines(out: TextIO, columns: Sequence[Column[Any]], records: Iterable[Any]) -> None:
    """More of the same, without the line of names."""
    for record in records:
        out.write("\t".join(_field(column.raw(record)) for column in columns) + "\n")


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"  # never with an exponent
    return plain(value)


def write_json(out: TextIO, value: Any) -> None:
    """JSON, one value over several lines; ASCII, so that no terminal obeys it."""
    json.dump(value, out, indent=2, default=str)
    out.write("\n")


def write_table(
    out: TextIO, columns: Sequence[Column[Any]], records: Sequence[Any], last: Sequence[str] | None = None
) -> None:
    """A table for people; columns that are too many for the terminal are left out by their `extra`.

    `last` is a line of its own below the others, with a text for each column.
    """
    console = console_on(out)
    console.print(table_of(console.width, columns, records, last))


def table_of(
    width: int, columns: Sequence[Column[Any]], records: Sequence[Any], last: Sequence[str] | None = None
) -> Any:
    """The table of `write_table` on a terminal of that width, to be printed by ``rich``."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    texts = {
        number: [
            column.title,
            *(_cell(column, record) for record in records),
            *([last[number]] if last else []),
        ]
        for number, column in enumerate(columns)
        if column.title
    }
    widths = {
        number: GAP + (LEAST if columns[number].rest else max(map(cell_len, cells)))
        for number, cells in texts.items()
    }
    for number in sorted(texts, key=lambda number: columns[number].extra, reverse=True):
        if sum(widths.values()) - GAP > width and columns[number].extra:
            del texts[number], widths[number]
    left = width - sum(widths.values()) + GAP + LEAST
    for number, cells in texts.items():
        if columns[number].rest:
            cells[:] = [cut(cell, left) for cell in cells]
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", show_edge=False)
    for number, (title, *_) in texts.items():
        table.add_column(title, justify="right" if columns[number].right else "left", no_wrap=True)
    lines = list(zip(*(cells[1:] for cells in texts.values()), strict=True))
    for place, line in enumerate(lines, 1):
        style = "bold" if last and place == len(lines) else ""
        table.add_row(*(Text(cell, style) for cell in line))
    return table


def _cell(column: Column[Any], record: Any) -> str:
    if column.text is not None:
        return plain(column.text(record))
    value = column.raw(record)
    return UNKNOWN if value is None else plain(value)


def write_text(out: TextIO, text: str = "", style: str = "", *, indent: int = 0) -> None:
    """Lines for people, wrapped at words and indented from their second line on; no markup is obeyed."""
    from rich.text import Text

    console = console_on(out)
    space = " " * indent
    lines = plain(text, lines=True).split("\n")
    wrap = partial(textwrap.wrap, width=console.width, subsequent_indent=space, break_on_hyphens=False)
    wrapped = (wrap(line) or [""] for line in lines)
    console.print(Text("\n".join(part for parts in wrapped for part in parts), style), soft_wrap=True)


def console_on(out: TextIO) -> Any:
    """``rich``'s console on a stream."""
    from rich.console import Console

    return Console(file=out, highlight=False, soft_wrap=False)


def is_terminal(out: TextIO) -> bool:
    """Whether a person reads this."""
    return out.isatty()
