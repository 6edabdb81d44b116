"""Runs made up event by event: by hand for one promise, or by hypothesis for all of them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from agent_shim import events
from agent_shim.events import event_id

RUN = "018f3a5c7d2e70008000000000000000"
START_NS = 1_763_769_600_000_000_000
"""2025-11-22, midnight UTC."""
STEP_NS = 1_000_000

Event = dict[str, Any]


class Made:
    """The events of one run; the wall clock goes on by a millisecond at every event."""

    def __init__(self, run: str = RUN) -> None:
        self.run = run
        self.events: list[Event] = []
        self.now = START_NS
        self._producers = 0

    def process(self, role: str = "agent", **started: Any) -> Process:
        """A producer that has said ``producer.started``."""
        self._producers += 1
        process = Process(self, f"{int(self.run[-8:], 16):08x}{self._producers:024x}")
        process.say(events.ProducerStarted(role=role, pid=100 + self._producers, **started))
        return process

    def bodies(self) -> list[bytes]:
        """The events as they would stand in a spool."""
        return [body(event) for event in self.events]


def body(event: Event) -> bytes:
    return json.dumps(event, sort_keys=True, separators=(",", ":")).encode()


class Process:
    """One producer of a made run."""

    def __init__(self, made: Made, producer: str) -> None:
        self.made = made
        self.producer = producer
        self.seq = 0
        self.mono = 10**9

    def say(self, event: Any, *, begin: str | None = None, parent: str | None = None, later: int = 1) -> str:
        """Record an event `later` milliseconds after the one before; its id."""
        self.seq += 1
        self.made.now += later * STEP_NS
        self.mono += later * STEP_NS
        data = {name: value for name, value in event._asdict().items() if value is not None}
        self.tell(event.event, data, begin=begin, parent=parent)
        return event_id(self.producer, self.seq)

    def tell(self, name: str, data: Any, **links: str | None) -> None:
        """Record raw data under the number that is due."""
        event = {
            "v": 1,
            "run": self.made.run,
            "producer": self.producer,
            "seq": self.seq,
            "name": name,
            "time": self.made.now,
            "mono": self.mono,
            "data": data,
        }
        self.made.events.append(event | {key: value for key, value in links.items() if value})

    def seal(self) -> None:
        """It ends in order."""
        self.say(events.ProducerSealed(producer=self.producer, last_seq=self.seq + 1, reason="closed"))

    def found_gone(self, other: Process, **more: Any) -> None:
        """This one, a deliverer, says that the process of `other` is gone."""
        self.say(
            events.ProducerSealed(producer=other.producer, last_seq=other.seq, reason="process gone", **more)
        )

    def call(self, parent: str | None = None, **finished: Any) -> str:
        """A call of one request that went well; `finished` adds to its end."""
        call = self.say(events.CallStarted(**CALL), parent=parent)
        request = self.say(events.RequestStarted(number=1), parent=call)
        self.say(events.RequestFinished(http_status=200), begin=request)
        self.say(events.CallFinished(**{"ended": "completed", **finished}), begin=call)
        return call


CALL: dict[str, Any] = {
    "surface": "responses",
    "method": "POST",
    "path": "/responses",
    "host": "api.openai.com",
    "provider": "openai",
    "model": "gpt-5",
    "parameters": {"service_tier": "flex"},
}

USAGE = {
    "input_tokens": 100,
    "output_tokens": 40,
    "total_tokens": 140,
    "input_tokens_details": {"cached_tokens": 60},
    "output_tokens_details": {"reasoning_tokens": 30},
}


# --- made by hypothesis ---------------------------------------------------------------------------

_usages = st.sampled_from(
    [
        None,
        USAGE,
        {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        {"prompt_tokens": 8, "total_tokens": 8},
        {"input_tokens": 1, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 9}},
        {"input_tokens": -1, "output_tokens": "many"},
    ]
)
_ids = st.sampled_from(["a", "b", "c"])
_maybe = st.booleans()


@st.composite
def runs(draw: st.DrawFn, run: str = RUN) -> list[Event]:
    """The events of a run with what goes wrong in life: missing ends, lost events, clocks that jump."""
    made = Made(run)
    wrapper = made.process("wrapper")
    root = wrapper.say(
        events.RunStarted(
            way="run", agent="trae", repository="r", commit=draw(st.sampled_from(["ab12", "ab12" + "0" * 36]))
        )
    )
    process = wrapper.say(events.ProcessStarted(pid=7, capture="runner"), parent=root)
    agents = [made.process("agent") for _ in range(draw(st.integers(1, 2)))]
    for _ in range(draw(st.integers(0, 8))):
        _act(draw, draw(st.sampled_from(agents)), process)
    deliverer = made.process("deliverer")
    for agent in agents:
        if draw(_maybe):
            agent.seal()
        if draw(_maybe):
            deliverer.found_gone(agent, corrupt_lines=draw(st.sampled_from([None, 1])))
    if draw(_maybe):
        wrapper.say(events.ProcessFinished(outcome="exited", exit_code=1), begin=process)
        wrapper.say(
            events.RunFinished(outcome="exited", exit_code=1, producers=[a.producer for a in agents]),
            begin=root,
        )
    if draw(_maybe):
        wrapper.seal()
    kept = draw(st.lists(st.booleans(), min_size=len(made.events), max_size=len(made.events)))
    dropping = draw(_maybe)
    return [event for event, keep in zip(made.events, kept, strict=True) if keep or not dropping]


def _act(draw: st.DrawFn, agent: Process, process: str) -> None:
    agent.made.now += draw(st.sampled_from([0, -5 * STEP_NS, 86_400_000_000_000]))
    act = draw(st.sampled_from(["call", "turn", "tool", "hook", "lost", "judge", "unknown"]))
    if act == "call":
        _call(draw, agent, process)
    elif act == "turn":
        turn = agent.say(events.TurnStarted(agent="trae", provider="anthropic", model="m"), parent=process)
        if draw(_maybe):
            _call(draw, agent, turn)
        if draw(_maybe):
            agent.say(
                events.TurnFinished(
                    ended=draw(st.sampled_from(["completed", "failed"])),
                    usage=draw(_usages),
                    tool_calls=[{"id": draw(_ids), "name": "bash"}],
                ),
                begin=turn,
            )
    elif act == "tool":
        tool = agent.say(events.ToolCallStarted(tool="bash", call_id=draw(_ids)), parent=process)
        for _ in range(draw(st.integers(0, 2))):  # a second end counts for nothing
            agent.say(
                events.ToolCallFinished(ended=draw(st.sampled_from(["completed", "raised"]))), begin=tool
            )
    elif act == "hook":
        target = draw(st.sampled_from(["openai", "trae.tools"]))
        agent.say(events.HookAttached(target=target, version="1"))
        agent.say(events.HookFailed(target=target, point="x", error_type="E"))
    elif act == "lost":
        agent.say(events.EventsLost(reasons={"ENOSPC": 2}))
    elif act == "judge":
        _judge(draw, agent)
    else:
        agent.seq += 1
        agent.tell("weather.changed", {"to": [1]})


def _judge(draw: st.DrawFn, agent: Process) -> None:
    value, name = draw(st.sampled_from(["true", "false"])), draw(st.sampled_from(["success", "n"]))
    agent.say(events.AttemptReserved(number=draw(st.integers(1, 3))))
    agent.say(events.ClaimMade(name=name, value=value, source="option"))
    agent.say(events.ClaimChecked(name=name, value=value, verdict="refuted", reason="it is not so"))
    agent.say(events.ResultAttached(name=name, value=draw(st.floats(0, 2)), source="bench"))
    names = draw(st.lists(st.sampled_from(["exit", "applies", "empty"]), unique=True))
    agent.say(
        events.RunJudged(
            policy=draw(st.sampled_from(["default", "strict"])),
            policy_sha256="0",
            verdict=draw(st.sampled_from(["pass", "unknown"])),
            reason="because",
            checks=[{"name": check, "state": draw(st.sampled_from(["pass", "odd"]))} for check in names],
        )
    )


def _call(draw: st.DrawFn, agent: Process, parent: str) -> None:
    method = draw(st.sampled_from(["POST", "GET"]))
    call = agent.say(events.CallStarted(**CALL | {"method": method}), parent=parent)
    for number in range(draw(st.integers(0, 2))):
        request = agent.say(events.RequestStarted(number=number + 1), parent=call)
        if draw(_maybe):
            agent.say(
                events.RequestFinished(http_status=draw(st.sampled_from([None, 200, 429]))), begin=request
            )
    for _ in range(draw(st.integers(0, 2))):
        agent.say(
            events.CallFinished(
                ended=draw(st.sampled_from(["completed", "failed", "abandoned"])),
                response_id=draw(st.sampled_from([None, "resp_1", "resp_2"])),
                model=draw(st.sampled_from([None, "gpt-5-x"])),
                tool_calls=draw(st.sampled_from([None, [{"id": "a", "name": "bash"}, {"id": "b"}]])),
                usage=draw(_usages),
                api_ns=draw(st.sampled_from([None, 5])),
            ),
            begin=call,
        )
