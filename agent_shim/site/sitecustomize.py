"""Attaches the hooks in agents that are started through a launcher which cannot be looked through.

Python imports ``sitecustomize`` at every start, so this one does nothing but ask: is this the agent's own
process? The words of the wrapped command are in ``AGENT_TELEMETRY_INJECT``; the script or the ``-m`` module
of this process must be one of them. When it is, the hooks are attached and the environment is put back, so
that the programs which the agent's tools start neither load nor inherit any of it. A ``sitecustomize``
that was there before is run in any case.
"""

import os
import sys


def _is_the_agent(words: "list[str]") -> bool:
    arguments = list(getattr(sys, "orig_argv", ()))[1:]
    for at, argument in enumerate(arguments):
        if argument == "-m":
            return at + 1 < len(arguments) and arguments[at + 1] in words
        if argument == "-c" or argument == "-":
            return False
        if not argument.startswith("-") and (at == 0 or arguments[at - 1] not in ("-W", "-X")):
            return argument in words or os.path.basename(argument) in {os.path.basename(w) for w in words}
    return False


def _put_back() -> None:
    before = os.environ.pop("AGENT_TELEMETRY_PYTHONPATH", None)
    os.environ.pop("AGENT_TELEMETRY_INJECT", None)
    if before is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = before


def _attach() -> None:
    asked = os.environ.get("AGENT_TELEMETRY_INJECT")
    if not asked:
        return
    import json

    if not _is_the_agent(json.loads(asked)):
        return
    import importlib.util

    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bootstrap.py")
    spec = importlib.util.spec_from_file_location("_agent_telemetry_bootstrap", path)
    assert spec is not None and spec.loader is not None
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    _put_back()
    bootstrap.record()


def _run_the_other() -> None:
    """The ``sitecustomize`` that would have been found without this folder."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]
    own = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        if own is not None:
            sys.modules["sitecustomize"] = own


try:
    _attach()
except Exception as failure:
    print(f"agent-telemetry: not captured: {type(failure).__name__}: {failure}", file=sys.stderr)
_run_the_other()
