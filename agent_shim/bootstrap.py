"""Starts a Python program with the hooks in place: ``python bootstrap.py -m module …``.

This file is run by path, in the agent's own interpreter. It loads the package beside it under a private
name (the agent may have a package of ours of another version, or one called the same), attaches the hooks
and then becomes the program: ``__main__``, ``sys.argv`` and ``sys.path[0]`` are what ``python -m module``,
``python script`` or ``python -c code`` would have made them. Nothing is left in the environment for the
programs that the agent starts, beyond the names of the run.
"""

from __future__ import annotations

import os
import sys
from types import CodeType
from typing import Any

PRIVATE_NAME = "_agent_telemetry_shim"


def load() -> None:
    """Import the package in this file's folder as `PRIVATE_NAME`."""
    import importlib.util

    here = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        PRIVATE_NAME, os.path.join(here, "__init__.py"), submodule_search_locations=[here]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PRIVATE_NAME] = package
    spec.loader.exec_module(package)


def record() -> None:
    """Attach the hooks, if a wrapper asked for it. Never raises: the agent runs in any case."""
    try:
        load()
        from importlib import import_module

        import_module(f"{PRIVATE_NAME}.attached").attach(os.environ)
    except Exception as error:
        print(f"agent-telemetry: not captured: {type(error).__name__}: {error}", file=sys.stderr)


def become(arguments: list[str]) -> None:
    """Run the program that `arguments` name, as the interpreter itself would."""
    isolated = sys.flags.isolated or getattr(sys.flags, "safe_path", False)
    first = arguments[0]
    if first == "-m":
        import runpy

        sys.argv = ["-m", *arguments[2:]]
        _path(os.getcwd(), isolated)
        _clean_main()
        # What `python -m` itself calls; private, and the same in every Python since 2.5.
        runpy._run_module_as_main(arguments[1], alter_argv=True)  # type: ignore[attr-defined]
        return
    if first == "-c":
        sys.argv = ["-c", *arguments[2:]]
        _path("", isolated)
        _execute(compile(arguments[1], "<string>", "exec"), None)
        return
    sys.argv = arguments
    whole = os.path.join(os.getcwd(), first)
    if os.path.isdir(whole) or _is_zip(whole):
        import runpy

        if isolated:
            sys.path.insert(0, whole)
        else:
            sys.path[0] = whole
        _clean_main()
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        return
    _path(os.path.dirname(os.path.realpath(whole)), isolated)
    with open(whole, "rb") as file:
        code = compile(file.read(), whole, "exec")
    _execute(code, whole)


def _is_zip(path: str) -> bool:
    if path.endswith((".py", ".pyw")):
        return False
    import zipfile

    return zipfile.is_zipfile(path)


def _path(entry: str, isolated: object) -> None:
    # Python put this file's folder first, unless it was told to put nothing there.
    if not isolated:
        sys.path[0] = entry


def _clean_main() -> dict[str, Any]:
    """Empty ``__main__`` of this file's names, the functions still running included; gives its namespace."""
    main = sys.modules["__main__"].__dict__
    for name in [name for name in main if not (name.startswith("__") and name.endswith("__"))]:
        del main[name]
    main.pop("__file__", None)
    main.pop("__cached__", None)
    main.update(__doc__=None, __package__=None, __spec__=None)
    return main


def _execute(code: CodeType, file: str | None) -> None:
    main = _clean_main()
    if file is not None:
        main.update(__file__=file, __cached__=None)
    exec(code, main)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: bootstrap.py -m module … | script … | -c code …")
    record()
    become(sys.argv[1:])
