"""What the agent's process finds in its environment of the run that it is part of, and of a run around it.

Promises, each a test in ``tests/test_agent_environment.py``: nothing that the user set is lost; a trace
that is current goes on in the agent; what an outer run put in to reach its own agent does not reach ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent_shim import attributes
from agent_shim.events import span_id
from telemetry.settings import Settings

_TRACE_PARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""Version 00 of W3C Trace Context, section 3.2; ids of zeros are invalid there."""


def outside(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a run around us put in to reach its own agent."""
    clean = dict(environ)
    if clean.pop("AGENT_TELEMETRY_INJECT", None) is not None:
        old = clean.pop("AGENT_TELEMETRY_PYTHONPATH", None)
        clean.pop("PYTHONPATH", None)
        if old is not None:
            clean["PYTHONPATH"] = old
    return clean


def trace_parent(environ: Mapping[str, str]) -> str | None:
    """The span that is current outside; ``None`` when there is none, or none that is valid."""
    given = environ.get("TRACEPARENT", "").strip().lower()
    return given if _TRACE_PARENT.fullmatch(given) else None


def variables(
    settings: Settings, environ: Mapping[str, str], run: str, process: str, parent: str | None
) -> dict[str, str]:
    """What the agent's process must know to be part of `run`; `process` is the event it began with."""
    trace = parent.split("-")[1] if parent else run
    resource = environ.get("OTEL_RESOURCE_ATTRIBUTES")
    return {
        "AGENT_TELEMETRY_HOME": str(settings.home),
        "AGENT_TELEMETRY_RUN": run,
        "AGENT_TELEMETRY_PARENT": process,
        "AGENT_TELEMETRY_CONTENT": "on" if settings.content else "off",
        "AGENT_TELEMETRY_INCLUDE_USAGE": settings.include_usage,
        "TRACEPARENT": f"00-{trace}-{span_id(process)}-01",
        "OTEL_RESOURCE_ATTRIBUTES": ",".join(filter(None, (resource, f"{attributes.RUN}={run}"))),
    }
