"""What every test stands on: a clean environment, a data folder of its own, a scripted server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck

from telemetry.testing import ScriptedServer
from tests import vocabulary

if vocabulary.FOLDER.is_dir():
    # Before any test module is imported: some skip when there is no vocabulary.
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(vocabulary.FOLDER))

# How long an example takes depends on what else the machine does, and is nothing that a test is about.
# Folders and servers are made once for all examples of a test, which are not to depend on what is in there.
hypothesis.settings.register_profile(
    "shared",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("shared")

LEAKS = ("AGENT_TELEMETRY_", "OTEL_", "OPENAI_", "AZURE_OPENAI_")
"""Variables of the developer's own shell that would change what a test sees."""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting, key or endpoint of the machine reaches a test, nor a program that it starts."""
    for name in list(os.environ):
        if name.startswith(LEAKS) or name in ("TRACEPARENT", "TRACESTATE"):
            monkeypatch.delenv(name)
    # A proxy would stand between a client and the server on the loopback.
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder of this test's own, named by the environment; it does not exist yet."""
    home = tmp_path / "agent-telemetry"
    monkeypatch.setenv("AGENT_TELEMETRY_HOME", str(home))
    return home


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A scripted server without a script; `server.script(…)` gives it one."""
    with ScriptedServer() as running:
        yield running
