"""Runs made by hand for the checks: each wrong in one way."""

from __future__ import annotations

from typing import Any

from tests.journals import Told, usage

COMMIT = "c" * 40
REPOSITORY = "https://github.com/o/r"
CHANGED: dict[str, Any] = {
    "base_commit": "b" * 40,
    "bytes": 245,
    "file_count": 1,
    "files": [{"path": "speed.py", "status": "M", "added": 1, "removed": 1, "parses": True}],
    "parsed_with": "3.11",
    "applies": True,
}
"""``patch.captured`` of an edit that stayed."""
EMPTY: dict[str, Any] = {"base_commit": "b" * 40, "bytes": 0, "file_count": 0, "files": []}


def begun(number: int = 1, **identity: Any) -> Told:
    """A captured run of TRAE whose tools are hooked."""
    run = Told(number, **({"start_ns": identity.pop("start_ns")} if "start_ns" in identity else {}))
    run.start(**{"commit": COMMIT, **identity})
    run.tell("hook.attached", target="trae.tools", version="1", points=["execute_tool_call"], ticks=0)
    return run


def called(run: Told, *tools: str, **finished: Any) -> str:
    """A call whose answer asks for these tools; each is ``id:name``."""
    asked = [{"id": tool.partition(":")[0], "name": tool.partition(":")[2]} for tool in tools]
    return run.call(usage=usage(100, 10), tool_calls=asked or None, **finished)


def executed(run: Told, *tools: str) -> None:
    """These tool calls were executed."""
    for tool in tools:
        call_id, _, name = tool.partition(":")
        begin = run.tell("tool.call.started", tool=name, call_id=call_id, parent=run.process)
        run.tell("tool.call.finished", begin=begin, ended="completed")


def ended(run: Told, patch: dict[str, Any] | None, *, success: bool | None = None, **end: Any) -> Told:
    """The run ends, with its patch and what the agent wrote of itself."""
    if success is not None:
        run.tell("trajectory.read", run.wrapper, parent=run.root, path="t.json", success=success, ticks=0)
    if patch is not None:
        run.tell("patch.captured", run.wrapper, parent=run.root, ticks=0, **patch)
    return run.finish(**end)


def solved(number: int = 1, **identity: Any) -> Told:
    """A run that does all that can be asked of it."""
    run = begun(number, **identity)
    called(run, "a:bash")
    executed(run, "a:bash")
    called(run, "b:task_done")
    return ended(run, CHANGED, success=True)


def failed(number: int, **identity: Any) -> Told:
    """A run that ends well and changes nothing."""
    run = begun(number, **identity)
    called(run, "b:task_done")
    return ended(run, EMPTY, success=True)
