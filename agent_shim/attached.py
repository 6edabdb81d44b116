"""Capture in a process that a wrapper started."""

from __future__ import annotations

from typing import Mapping

from . import instrumentation, recorder


def attach(environ: Mapping[str, str]) -> bool:
    """Hook this process for the run that the environment names; whether there is one."""
    to = recorder.from_environment(environ, instrumentation.TARGETS)
    if to is None:
        return False
    recorder.activate(to)
    to.spool.open()
    instrumentation.instrument()
    return True
