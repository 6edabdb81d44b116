"""The agent's environment: a user's own variables stay, an outer run's do not, and a trace goes on."""

from __future__ import annotations

import pytest

from agent_shim.events import span_id
from telemetry.agent_environment import outside, trace_parent, variables
from telemetry.settings import Settings

RUN, PROCESS = "0" * 31 + "1", "01a208a1e7627cdea14d4d9a304a55e5-2"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def given(environ: dict[str, str]) -> dict[str, str]:
    settings = Settings.load({"AGENT_TELEMETRY_HOME": "/data"})
    return variables(settings, environ, RUN, PROCESS, trace_parent(environ))


@pytest.mark.parametrize("before", [None, "/mine", ""])
def test_what_an_outer_run_put_in_is_taken_out_and_the_users_path_is_back(before: str | None) -> None:
    handed = {"PATH": "/bin", "PYTHONPATH": "/site:/mine", "AGENT_TELEMETRY_INJECT": "[]"}
    if before is not None:
        handed["AGENT_TELEMETRY_PYTHONPATH"] = before
    left = {"PATH": "/bin"} if before is None else {"PATH": "/bin", "PYTHONPATH": before}
    assert outside(handed) == left


def test_without_an_outer_run_the_environment_is_as_it_was() -> None:
    mine = {"PYTHONPATH": "/mine", "AGENT_TELEMETRY_PYTHONPATH": "/other"}
    assert outside(mine) == mine


def test_a_trace_that_is_current_goes_on_in_the_agent() -> None:
    handed = given({"TRACEPARENT": f" {PARENT.upper()}\n"})
    assert handed["TRACEPARENT"] == f"00-{PARENT.split('-')[1]}-{span_id(PROCESS)}-01"


@pytest.mark.parametrize(
    "current",
    [
        "",
        "nonsense",
        PARENT.replace("b7ad6b7169203331", "0" * 16),
        PARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        PARENT.replace("00-", "ff-", 1),
    ],
)
def test_without_a_valid_one_the_run_is_the_trace(current: str) -> None:
    assert given({"TRACEPARENT": current})["TRACEPARENT"].split("-")[1] == RUN


def test_resource_attributes_of_the_user_stay_beside_ours() -> None:
    handed = given({"OTEL_RESOURCE_ATTRIBUTES": "team=search"})
    assert handed["OTEL_RESOURCE_ATTRIBUTES"].split(",") == ["team=search", f"agent_telemetry.run={RUN}"]
    assert given({})["OTEL_RESOURCE_ATTRIBUTES"] == f"agent_telemetry.run={RUN}"
