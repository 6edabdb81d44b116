"""The hook on ``multiprocessing``: processes that it starts afresh belong to the run.

A forked process inherits the hooks. One of the methods ``spawn`` and ``forkserver`` is a new interpreter that
runs ``python -c "from multiprocessing.… import …"``: it gets the hooks by a line in front of that. What the
agent starts in any other way (``subprocess``) is a program of its own, and is left alone; so is the server of
``forkserver`` in one's own code, because it outlives the run in which it was started.
"""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any, Callable, Sequence

from . import hooks, recorder

SPAWN, SERVER = "from multiprocessing.spawn import ", "from multiprocessing.forkserver import "
"""What the code of such a process begins with, in Python 3.10 to 3.14."""

FIRST = """exec('''
try:
    import importlib.util as _util
    _spec = _util.spec_from_file_location("_agent_telemetry_bootstrap", {path!r})
    _bootstrap = _util.module_from_spec(_spec)
    _spec.loader.exec_module(_bootstrap)
    _bootstrap.record()
except Exception:
    pass
''', {{}});"""
"""One line of code for the child. Should this package be gone by then, the child runs unrecorded."""

_undo: list[tuple[Any, str, Any, bool]] = []


def attach(module: ModuleType) -> hooks.Attached:
    """Wrap the one function through which both methods start an interpreter."""
    return hooks.Attached([hooks.wrap(module, "spawnv_passfds", _wrap, _undo)], [])


def detach() -> None:
    """Put everything back."""
    hooks.unwrap(_undo)


def _wrap(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def spawnv_passfds(path: Any, args: Sequence[Any], passfds: Any) -> Any:
        return original(path, _with_hooks(args), passfds)

    return spawnv_passfds


def _with_hooks(args: Sequence[Any]) -> Sequence[Any]:
    try:
        code = args.index("-c") + 1 if "-c" in args else len(args)
        wrapped = __name__.startswith(recorder.PRIVATE_NAME)
        starts = (SPAWN, SERVER) if wrapped else (SPAWN,)
        if "AGENT_TELEMETRY_RUN" not in os.environ or not "".join(args[code : code + 1]).startswith(starts):
            return args
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap.py")
        return [*args[:code], FIRST.format(path=path) + args[code], *args[code + 1 :]]
    except Exception as error:
        for active in recorder.active():
            active.failed("processes.spawnv_passfds", error)
        return args
