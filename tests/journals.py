"""Journals filled by `Journal.ingest` with events made by hand: fixed times, fixed ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent_shim.events import event_id
from telemetry.journal import Journal

NOON_NS = 1_795_435_200_000_000_000
"""2026-11-23 12:00 UTC."""
SECOND = 1_000_000_000


class Told:
    """The events of one run, told one after the other; each takes a second unless said otherwise."""

    def __init__(self, number: int, start_ns: int = NOON_NS) -> None:
        self.run = f"019ab0000000700080000000{number:08x}"
        self.wrapper = f"019ab0000000700081000000{number:08x}"
        self.agent = f"019ab0000000700082000000{number:08x}"
        self.now = start_ns
        self.bodies: list[bytes] = []
        self._seqs = {self.wrapper: 0, self.agent: 0}

    def tell(self, name: str, producer: str | None = None, /, *, ticks: float = 1, **data: Any) -> str:
        """One event; `begin` and `parent` among the data stand beside it. Gives its id."""
        producer = producer or self.agent
        self._seqs[producer] += 1
        links = {link: data.pop(link) for link in ("begin", "parent") if link in data}
        event = {
            "v": 1, "run": self.run, "producer": producer, "seq": self._seqs[producer], "name": name,
            "time": self.now, "mono": self.now, **links, "data": data,
        }  # fmt: skip
        self.bodies.append(json.dumps(event, sort_keys=True, separators=(",", ":")).encode())
        self.now += int(ticks * SECOND)
        return event_id(producer, self._seqs[producer])

    def start(
        self, *, capture: str | None = None, capture_reason: str | None = None, **identity: Any
    ) -> Told:
        """The run and its process begin; a hook takes unless `capture` says that none can."""
        self.tell("producer.started", self.wrapper, role="wrapper", pid=1, ticks=0)
        given = {"way": "run", "agent": "trae", "repository": "https://github.com/o/r", **identity}
        self.root = self.tell("run.started", self.wrapper, ticks=0, **given)
        told = {"capture": capture or "runner", "capture_reason": capture_reason}
        self.process = self.tell("process.started", self.wrapper, pid=2, parent=self.root, **told)
        if capture is None:
            self.tell("producer.started", role="agent", pid=2, python="3.12.1", hooks=["openai"], ticks=0)
            self.tell(
                "hook.attached", target="openai", version="2.3.0", points=["SyncAPIClient.request"], ticks=0
            )
        return self

    def call(self, *, model: str = "gpt-5", ended: str = "completed", **finished: Any) -> str:
        """A chat of one request that takes two seconds; `started` among the data belongs to its begin."""
        started = {
            "surface": "chat.completions", "method": "POST", "host": "api.openai.com", "provider": "openai",
            "model": model, **finished.pop("started", {}),
        }  # fmt: skip
        parent = finished.pop("parent", self.process)
        call = self.tell("llm.call.started", parent=parent, ticks=0, **started)
        status = finished.pop("http_status", 200)
        self.request(call, 1, http_status=status)
        answered = {"model": model, "tier": "default"} if status == 200 else {}
        data = {
            "ended": ended,
            "requests": 1,
            "api_ns": SECOND,
            "http_status": status,
            **answered,
            **finished,
        }
        self.tell("llm.call.finished", begin=call, **data)
        return call

    def request(self, call: str, number: int, **finished: Any) -> None:
        """One HTTP request of a call; takes a second."""
        begin = self.tell("llm.request.started", number=number, method="POST", parent=call)
        self.tell("llm.request.finished", begin=begin, ticks=0, **finished)

    def tool(self, tool: str, ended: str = "completed", **finished: Any) -> None:
        """A tool call of a second."""
        begin = self.tell("tool.call.started", tool=tool, call_id=f"call_{tool}", parent=self.process)
        self.tell("tool.call.finished", begin=begin, ended=ended, **finished)

    def finish(self, outcome: str = "exited", exit_code: int | None = 0, **process: Any) -> Told:
        """Everything ends in order and all is sealed."""
        ended = {"outcome": outcome, "exit_code": exit_code, **process}
        self.tell("process.finished", self.wrapper, begin=self.process, ticks=0, **ended)
        captured = bool(self._seqs[self.agent])
        if captured:
            self.seal(self.agent)
        names = ("outcome", "exit_code", "signal", "error_type", "error_message")
        told = {name: ended[name] for name in names if name in ended}
        producers = [self.agent] if captured else []
        self.tell("run.finished", self.wrapper, begin=self.root, producers=producers, ticks=0, **told)
        self.seal(self.wrapper)
        return self

    def seal(self, producer: str) -> None:
        """A producer says that it is done."""
        last = self._seqs[producer] + 1
        self.tell("producer.sealed", producer, producer=producer, last_seq=last, reason="closed", ticks=0)


def usage(given: int, output: int, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    """Usage as Chat Completions reports it."""
    return {
        "prompt_tokens": given,
        "completion_tokens": output,
        "total_tokens": given + output,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def filled(place: str | Path, *runs: Told) -> Journal:
    """A journal that holds these runs."""
    journal = Journal.open(place)
    for run in runs:
        journal.ingest(run.bodies, "test")
    return journal
