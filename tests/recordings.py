"""Runs written through the real spool with a fixed clock and fixed ids, and read back from its files."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

from agent_shim import events
from agent_shim.spool import Spool, read

RUN = "018f3a5c7d2e7000800000000000abcd"
START_NS = 1_763_800_000_000_000_000
STEP_NS = 1_000_000
"""Both clocks go one millisecond forward at every event."""


class Recording:
    """A data folder's spool with the events of one run."""

    def __init__(self, folder: Path, run: str = RUN) -> None:
        self.folder = folder
        self.run = run
        self._ticks = count(1)
        self._ids = count(1)

    def process(self, role: str = "agent") -> Spool:
        """A producer of the run; its monotonic clock starts at its own second."""
        number = next(self._ids)
        tick = [0]

        def clock() -> int:
            tick[0] = next(self._ticks)
            return START_NS + tick[0] * STEP_NS

        return Spool(
            self.folder,
            self.run,
            role=role,
            redact=lambda text: text,
            version="test",
            clock=clock,
            monotonic=lambda: number * 10**9 + tick[0] * STEP_NS,
            ids=lambda: f"018f3a5c{number:024x}",
        )

    def bodies(self) -> list[bytes]:
        """The bodies of all events, producer after producer."""
        files = sorted((self.folder / self.run).glob("*.log"))
        return [line.body for file in files for line in read(file) if line.body is not None]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies()]


def example_run(folder: Path, **started: Any) -> Recording:
    """A wrapped run: one call with a retry, one tool call, one embedding, all orderly ended."""
    recording = Recording(folder)
    wrapper, agent = recording.process("wrapper"), recording.process("agent")
    root = wrapper.append(
        events.RunStarted(
            way="run",
            agent="trae",
            commit="8a3f2c91" * 5,
            repository="https://github.com/o/r",
            attempt=2,
            **started,
        )
    )
    process = wrapper.append(
        events.ProcessStarted(pid=7, executable="/usr/bin/python3", arguments=["python3", "-m", "trae"]),
        parent=root,
    )
    turn = agent.append(events.TurnStarted(agent="trae", provider="openai", model="gpt-5"), parent=process)
    chat(agent, turn, statuses=(429, 200))
    agent.append(
        events.TurnFinished(ended="completed", usage={"input_tokens": 1000, "output_tokens": 50}), begin=turn
    )
    tool = agent.append(
        events.ToolCallStarted(tool="bash", call_id="call_1", arguments='{"cmd":"ls"}'), parent=process
    )
    agent.append(
        events.ToolCallFinished(ended="failed", error_type="ToolError", error_message="no"), begin=tool
    )
    embedding = agent.append(
        events.CallStarted(
            surface="embeddings", method="POST", provider="openai", model="text-embedding-3-small"
        ),
        parent=process,
    )
    agent.append(
        events.CallFinished(ended="completed", requests=1, usage={"prompt_tokens": 8, "total_tokens": 8}),
        begin=embedding,
    )
    agent.seal()
    wrapper.append(events.ProcessFinished(outcome="exited", exit_code=0), begin=process)
    wrapper.append(events.RunFinished(outcome="exited", exit_code=0, producers=[agent.producer]), begin=root)
    wrapper.seal()
    return recording


def chat(
    agent: Spool,
    parent: str | None,
    statuses: tuple[int, ...],
    *,
    response_id: str = "resp_1",
    **started: Any,
) -> str:
    """A chat whose requests were answered with `statuses`; gives the id of its begin event."""
    call = agent.append(
        events.CallStarted(
            surface="chat.completions", method="POST", host="api.openai.com", port=443, provider="openai",
            model="gpt-5", parameters={"temperature": 1, "max_completion_tokens": 99}, **started,
        ),
        parent=parent,
    )  # fmt: skip
    for number, status in enumerate(statuses, 1):
        failed = {
            "error_type": "rate_limit_exceeded",
            "error_code": "rate_limit_exceeded",
            "retry_after_ms": 20,
        }
        request = agent.append(events.RequestStarted(number=number, method="POST"), parent=call)
        agent.append(
            events.RequestFinished(
                http_status=status, http_request_id=f"req_{number}", **failed if status >= 400 else {}
            ),
            begin=request,
        )
    agent.append(
        events.CallFinished(
            ended="completed", http_status=statuses[-1], http_request_id=f"req_{len(statuses)}",
            requests=len(statuses), model="gpt-5-2025-08-07", response_id=response_id,
            finish_reasons=["stop"],
            usage={
                "prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050,
                "prompt_tokens_details": {"cached_tokens": 800},
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
        ),
        begin=call,
    )  # fmt: skip
    return call
