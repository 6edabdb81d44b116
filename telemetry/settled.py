"""Asking what the journal makes of a run that is over, in a process of its own (`telemetry.settling`)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from telemetry.settings import Settings

LIMIT_S = 60.0
"""Judging takes about a second; a journal that others write to takes longer."""
_POLL_S = 0.1


def ask(
    settings: Settings, environ: Mapping[str, str], run_id: str, rule: str, is_over: Callable[[], bool]
) -> tuple[dict[str, Any], str | None]:
    """What is known of the run; nothing, and why, when it could not be judged, or before `is_over`."""
    places = {"AGENT_TELEMETRY_HOME": str(settings.home), "AGENT_TELEMETRY_JOURNAL": settings.journal}
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "telemetry.settling", run_id, rule],
            env={**environ, **places},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = _answer(process, is_over)
        told = json.loads(out or b"{}")
    except (OSError, ValueError) as error:
        return {}, f"the run could not be judged: {type(error).__name__}: {error}"
    said = err.decode("utf-8", "replace").strip().rpartition("\n")[2]
    return told, None if told else said or f"judging it ended with {process.returncode}"


def _answer(process: subprocess.Popen[bytes], is_over: Callable[[], bool]) -> tuple[bytes, bytes]:
    until = time.monotonic() + LIMIT_S
    while True:
        try:
            return process.communicate(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            if is_over() or time.monotonic() > until:
                process.kill()
                process.communicate()
                return b"", b"there was no time to judge the run"
