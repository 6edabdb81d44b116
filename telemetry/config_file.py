"""The one file of the data folder that a user writes: ``config.toml``.

Promises, each a test in ``tests/test_settings.py``:

* A file that is not there is an empty one; what cannot be read or is no TOML raises `SettingsError`.
* A key that nobody knows raises too: a slip of the pen is no silent default.
* A list is what the same words with commas between them are.

`telemetry.settings` takes the settings from it, `telemetry.pricing` the tables ``price`` and ``alias``,
`telemetry.policies` the table ``policy``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from agent_shim.errors import SettingsError

NAME = "config.toml"
TABLES = ("alias", "policy", "price")
"""What the file may hold beside settings; who reads such a table checks what is in it."""


def read(path: Path) -> dict[str, Any]:
    """What the file holds, numbers with a fraction as exact decimals. Raises `SettingsError`."""
    try:
        text = path.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        if not os.access(path.parent, os.X_OK):
            return {}  # nothing can be kept in such a folder either, which is said where it matters
        raise SettingsError(f"{path} cannot be read: {error}", hint="correct or remove the file") from error
    import tomllib  # only when there is a file: the wrapper starts light
    from decimal import Decimal

    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}", hint="correct or remove the file") from error


def check_keys(found: Mapping[str, Any], known: Collection[str], path: Path) -> None:
    """Raise `SettingsError` for a key that is neither one of the dotted `known` ones nor of `TABLES`."""
    prefixes = {key.partition(".")[0] for key in known if "." in key}
    keys = {
        f"{name}.{key}" if key else name
        for name, value in found.items()
        for key in (value if isinstance(value, Mapping) and name in prefixes else [""])
    }
    odd = sorted(keys - {*known, *TABLES})
    if odd:
        hint = f"known are {', '.join(sorted({*known, *TABLES}))}"
        raise SettingsError(f"{path}: nothing is called {odd[0]}", hint=hint)


def value(found: Mapping[str, Any], key: str) -> str | None:
    """The value under a dotted key as the text that a variable would hold; ``None``: it is not there."""
    raw: Any = found
    for part in key.split("."):
        raw = raw.get(part) if isinstance(raw, Mapping) else None
    if isinstance(raw, bool):
        return "on" if raw else "off"
    if isinstance(raw, list):
        return ",".join(map(str, raw))
    return None if raw is None else str(raw)
