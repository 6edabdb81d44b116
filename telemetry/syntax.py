"""A program: which Python files parse, and which differ in comments and layout alone.

It runs in a process of its own (``python -I syntax.py``), because a parser can be made to crash by what
it is given. On stdin a JSON list of ``{"before": base64 or null, "after": base64 or null}``; on stdout as
many of ``{"parses", "parse_error", "same"}``. Standard library only.
"""

from __future__ import annotations

import ast
import base64
import json
import sys
import warnings
from typing import Any

_FAILURES = (SyntaxError, ValueError, RecursionError, MemoryError)


def judged(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is to be said of each file."""
    return [_judged(_decoded(file.get("before")), _decoded(file.get("after"))) for file in files]


def _judged(before: bytes | None, after: bytes | None) -> dict[str, Any]:
    if after is None:
        return {}
    try:
        now = ast.dump(ast.parse(after))
    except _FAILURES as error:
        told = f"{error.msg}, line {error.lineno}" if isinstance(error, SyntaxError) else str(error)[:200]
        return {"parses": False, "parse_error": f"{type(error).__name__}: {told}"}
    return {"parses": True, "same": before is not None and _dumped(before) == now}


def _dumped(content: bytes) -> str | None:
    try:
        return ast.dump(ast.parse(content))
    except _FAILURES:
        return None


def _decoded(content: str | None) -> bytes | None:
    return None if content is None else base64.b64decode(content)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    json.dump(judged(json.load(sys.stdin)), sys.stdout)
