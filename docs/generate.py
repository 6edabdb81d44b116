"""Writes the pages that are made from the code: ``make docs``.

A page made here is never edited by hand; ``tests/test_docs.py`` fails when one is out of date.
"""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click

from agent_shim import attributes, events
from telemetry import cli, settings, tables

FOLDER = Path(__file__).resolve().parent

EVENTS = """\
What is recorded, and the form in which it is kept. An event is a JSON object on one line:

| key | meaning |
|---|---|
| `v` | version of this form |
| `run` | the run, a UUIDv7 in 32 hexadecimal digits |
| `producer`, `seq` | the process that wrote it, its number there (dense from 1); id: `producer:seq` |
| `name` | the name below |
| `time`, `mono` | wall clock and monotonic clock in nanoseconds |
| `begin` | in an end event: the id of the event that it ends |
| `parent` | the id of the begin event inside which it happened |
| `altered` | what had to be changed to fit the form, by path |
| `data` | the fields below |

A field marked * is always there. Any other is left out when it was not seen: *absent* reads as *unknown*,
never as zero. The end of a name is its unit: `_ns`, `_ms`, `_s`, `_bytes`."""

SETTINGS = """\
An option of a command goes over the variable, the variable over `config.toml` in the data folder, and that
over the default. An empty variable counts as not set. A run in one's own code (`with agent_shim.run()`) reads
the variables alone. `agent-telemetry doctor` shows the data folder and the
journal that are used.

What is secret comes from the environment alone and is written nowhere: passwords, the headers in
`OTEL_EXPORTER_OTLP_HEADERS`, and `AGENT_TELEMETRY_SINK_TOKEN`, the token that `agent-telemetry sink` asks of
those who send to it; without a token it listens on the loopback interface alone.

Of OpenTelemetry's other variables the sender honours `OTEL_EXPORTER_OTLP_HEADERS`, `…_COMPRESSION`,
`…_CERTIFICATE`, `…_CLIENT_CERTIFICATE` and `…_CLIENT_KEY`, also those for one signal
(`OTEL_EXPORTER_OTLP_LOGS_HEADERS`), for gRPC `…_INSECURE`, which goes over the scheme, and
`OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`. It reads the environment of the run that found no
deliverer at work, and of `send`. What switches an SDK off or thins out what it sends does nothing here:
`OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER=none`, `OTEL_LOGS_EXPORTER=none`, samplers and limits; with no
endpoint set nothing is sent. Nor are `OTEL_EXPORTER_OTLP_TIMEOUT` and `OTEL_BSP_…` read. The agent gets all
of them as they are, with its run among the resource attributes. What an endpoint did not take is told in
`deliverer.log` in the data folder, and tried again."""

MODULES = """\
A module may import those of its own layer and of the layers below it, with a lower number. The list is the
contract in `pyproject.toml`, and `make contracts` holds it."""

JOURNAL = """\
The journal is a SQLite file or a PostgreSQL database that any SQL tool opens; `agent-telemetry doctor` says
where it is. Where `--json` gives a row of a table, its fields are the columns.

```console
$ sqlite3 -readonly journal.db "SELECT model, count(*), sum(input_tokens) FROM llm_call GROUP BY model"
```

Totals are not made by adding up columns: a `NULL` is a hole that SQL's `sum` passes over in silence.
`agent-telemetry cost` says what its totals lack. A column marked * is part of the table's key."""

COMMANDS = """\
Each command as it explains itself with `-h`."""

SECTION = re.compile(r"^# --- (.+?) -*$")


class Section(NamedTuple):
    """A part of a module between two lines of the form ``# --- title ---``, with its statements."""

    title: str
    statements: list[ast.stmt]


class Member(NamedTuple):
    """An assignment in a class or module, with the text under it."""

    name: str
    annotation: str
    value: ast.expr | None
    meaning: str


def events_page() -> str:
    """The vocabulary, in the order and under the headings of the module."""
    lines = _head("Events", "agent_shim/events.py", EVENTS)
    for section in _sections(events):
        kinds = [node for node in section.statements if isinstance(node, ast.ClassDef)]
        if kinds:
            lines += ["", f"## {_heading(section.title)}"]
        for kind in kinds:
            lines += ["", *_event(kind)]
    return _page(lines)


def attributes_page() -> str:
    """The names on the wire."""
    lines = _head("Attributes", "agent_shim/attributes.py", _prose(inspect.getdoc(attributes) or ""))
    for section in _sections(attributes):
        named = [member for member in _members(section.statements) if _text(member)]
        if section.title and named:
            lines += ["", f"## {_heading(section.title)}", "", "| attribute | remark |", "|---|---|"]
            lines += [f"| `{_text(member)}` | {_cell(member.meaning)} |" for member in named]
    return _page(lines)


def settings_page() -> str:
    """Every setting."""
    lines = _head("Settings", "telemetry/settings.py", SETTINGS)
    lines += [
        "",
        "| setting | variable | key in `config.toml` | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for setting in settings.SETTINGS:
        key = f"`{setting.key}`" if setting.key else "–"
        default = {None: "–", True: "on", False: "off"}.get(setting.default, setting.default)
        default = ", ".join(default) if isinstance(default, tuple) else default
        lines.append(f"| {setting.name} | `{setting.variable}` | {key} | {default} | {_cell(setting.help)} |")
    return _page(lines)


def modules_page() -> str:
    """The layers of ``pyproject.toml``, from top to bottom, with the first words of each module."""
    contracts = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    lines = [
        *_head("Modules", "pyproject.toml and the modules", MODULES),
        "",
        "| layer | module | what it is |",
    ]
    lines.append("|---|---|---|")
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    for depth, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        for module in layer.split(" : "):
            lines.append(f"| {depth} | `{module}` | {_cell(_first_paragraph(module))} |")
    return _page(lines)


def journal_page() -> str:
    """The tables, in the order of the module."""
    lines = [*_head("The journal", "telemetry/tables.py", JOURNAL), ""]
    lines += [_prose(inspect.getdoc(tables) or "").partition("\n\n")[2]]
    for node in ast.parse(inspect.getsource(tables)).body:
        if isinstance(node, ast.ClassDef):
            lines += ["", *_table(node)]
    return _page(lines)


def commands_page() -> str:
    """Every command with its own help."""
    lines = _head("Commands", "telemetry/cli.py", COMMANDS)
    return _page([*lines, *_command(cli.main, "agent-telemetry", None)])


PAGES: dict[str, Callable[[], str]] = {
    "events.md": events_page,
    "attributes.md": attributes_page,
    "settings.md": settings_page,
    "journal.md": journal_page,
    "commands.md": commands_page,
    "modules.md": modules_page,
}
"""File below ``docs/`` → what makes it."""


# --- parts of pages -------------------------------------------------------------------------------


def _head(title: str, source: str, introduction: str) -> list[str]:
    return [
        f"# {title}",
        "",
        f"<!-- made by docs/generate.py from {source}: do not edit -->",
        "",
        introduction,
    ]


def _event(kind: ast.ClassDef) -> list[str]:
    name = events.name_of(getattr(events, kind.name))
    begin = events.BEGIN_OF.get(name)
    lines = [f"### `{name}`", "", _prose(ast.get_docstring(kind) or "")]
    if begin and f"``{begin}``" not in (ast.get_docstring(kind) or ""):
        lines += [f"Ends `{begin}`."]
    lines += ["", "| field | type | meaning |", "|---|---|---|"]
    for member in _members(kind.body):
        always = "*" if member.value is None else ""
        kind_of = member.annotation.removesuffix(" | None").replace("|", "\\|")
        lines.append(f"| `{member.name}`{always} | `{kind_of}` | {_cell(member.meaning)} |")
    return lines


def _table(kind: ast.ClassDef) -> list[str]:
    row = getattr(tables, kind.name)
    meanings = {member.name: member.meaning for member in _members(kind.body)}
    lines = [f"## `{row.__tablename__}`", "", _named_by_table(_cell(ast.get_docstring(kind) or ""))]
    lines += ["", "| column | type | meaning |", "|---|---|---|"]
    for column in row.__table__.columns:
        key = "*" if column.primary_key else ""
        meaning = _named_by_table(_cell(meanings.get(column.name, "")))
        lines.append(f"| `{column.name}`{key} | {column.type} | {meaning} |")
    return lines


def _named_by_table(text: str) -> str:
    """A text in which classes of the module are called what their tables are called."""
    return re.sub(r"`(\w+Row)`", lambda match: f"`{getattr(tables, match[1]).__tablename__}`", text)


def _command(command: click.Command, name: str, above: click.Context | None) -> Iterator[str]:
    width = {"terminal_width": 88, "max_content_width": 88}
    context = click.Context(command, info_name=name, parent=above, **{**command.context_settings, **width})
    yield from ("", f"## `{context.command_path}`", "", "```text", command.get_help(context), "```")
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                yield from _command(found, child, context)


def _first_paragraph(module: str) -> str:
    """The first paragraph of a module's docstring."""
    path = FOLDER.parent.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(source.read_text())) or "").partition("\n\n")[0]


# --- reading a module -----------------------------------------------------------------------------


def _sections(module: ModuleType) -> Iterator[Section]:
    """The statements of a module by the section comments above them; the first section has no title."""
    source = inspect.getsource(module)
    marks = [
        (number, match.group(1))
        for number, line in enumerate(source.splitlines(), 1)
        if (match := SECTION.match(line))
    ]
    bounds = [(0, ""), *marks, (source.count("\n") + 2, "")]
    body = ast.parse(source).body
    for (start, title), (end, _) in pairwise(bounds):
        yield Section(title, [node for node in body if start <= node.lineno < end])


def _members(body: list[ast.stmt]) -> Iterator[Member]:
    """The assignments of a body; a string that follows one is its meaning."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        meaning = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            meaning = inspect.cleandoc(str(after.value.value))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield Member(node.target.id, ast.unparse(node.annotation), node.value, meaning)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield Member(node.targets[0].id, "", node.value, meaning)


def _text(member: Member) -> str:
    """The text that a member is assigned; empty when it is none."""
    value = member.value
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _heading(text: str) -> str:
    return text[:1].upper() + text[1:]


def _prose(text: str) -> str:
    """A docstring as Markdown."""
    return re.sub(r"`{2}([^`]+)`{2}", r"`\1`", text)


def _cell(text: str) -> str:
    """Text for one cell of a table; what looks like a tag outside of code is no tag."""
    words = " ".join(_prose(text).split()).replace("|", "\\|")
    return re.sub(r"`[^`]*`|<", lambda match: "&lt;" if match[0] == "<" else match[0], words)


def _page(lines: list[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make())


if __name__ == "__main__":
    main()
