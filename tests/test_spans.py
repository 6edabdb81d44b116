"""Spans are a function of the events of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_shim import attributes as attr
from agent_shim import events
from agent_shim.errors import EventError
from telemetry.span_attributes import MAX_ATTRIBUTES, MAX_TEXT
from telemetry.spans import Span, SpanFold
from tests.journals import Told
from tests.recordings import RUN, START_NS, STEP_NS, Recording, chat, example_run


def fold(recorded: list[dict[str, Any]]) -> list[Span]:
    folding = SpanFold()
    return [span for event in recorded for span in folding.add(event)]


def by_name(spans: list[Span]) -> dict[str, Span]:
    named = {span.name: span for span in spans}
    assert len(named) == len(spans), "a span was given twice, or two have one name"
    return named


@pytest.fixture
def example(tmp_path: Path) -> dict[str, Span]:
    return by_name(fold(example_run(tmp_path).events()))


def test_every_begin_event_of_an_operation_becomes_one_span(example: dict[str, Span]) -> None:
    assert set(example) == {
        "invoke_agent trae",
        "python3",
        "turn trae",
        "chat gpt-5",
        "execute_tool bash",
        "embeddings text-embedding-3-small",
    }


def test_spans_hang_together_as_the_events_did(example: dict[str, Span]) -> None:
    parents = {name: span.parent_span_id for name, span in example.items()}
    assert parents == {
        "invoke_agent trae": None,
        "python3": example["invoke_agent trae"].span_id,
        "turn trae": example["python3"].span_id,
        "chat gpt-5": example["turn trae"].span_id,
        "execute_tool bash": example["python3"].span_id,
        "embeddings text-embedding-3-small": example["python3"].span_id,
    }
    assert {span.trace_id for span in example.values()} == {RUN}


def test_a_call_speaks_the_conventions_language(example: dict[str, Span]) -> None:
    chat_span = example["chat gpt-5"]
    assert chat_span.kind == "client"
    assert chat_span.error is None
    assert chat_span.attributes == {
        attr.RUN: RUN,
        attr.OPERATION_NAME: "chat",
        attr.PROVIDER_NAME: "openai",
        attr.REQUEST_MODEL: "gpt-5",
        attr.RESPONSE_MODEL: "gpt-5-2025-08-07",
        attr.RESPONSE_ID: "resp_1",
        attr.USAGE_INPUT_TOKENS: 1000,
        attr.USAGE_OUTPUT_TOKENS: 50,
        attr.USAGE_CACHE_READ_INPUT_TOKENS: 800,
        attr.USAGE_REASONING_OUTPUT_TOKENS: 30,
        attr.USAGE_SOURCE: "reported",
        attr.ENDED: "completed",
        attr.HTTP_RESPONSE_STATUS_CODE: 200,
        attr.HTTP_RESPONSE_REQUEST_ID: ["req_2"],
        attr.HTTP_REQUEST_RESEND_COUNT: 1,
        attr.RESPONSE_FINISH_REASONS: ["stop"],
        attr.REQUEST_MAX_TOKENS: 99,
        attr.REQUEST_TEMPERATURE: 1.0,
        attr.OPENAI_API_TYPE: "chat_completions",
        attr.SERVER_ADDRESS: "api.openai.com",
        attr.SERVER_PORT: 443,
        attr.SURFACE: "chat.completions",
    }


def test_a_request_that_was_tried_again_is_an_event_of_a_span_that_did_not_fail(
    example: dict[str, Span],
) -> None:
    chat_span = example["chat gpt-5"]
    (failed,) = chat_span.events
    assert failed.name == "llm.request.finished"
    assert chat_span.start_ns < failed.time_ns < chat_span.end_ns
    assert failed.attributes == {
        attr.ERROR_TYPE: "rate_limit_exceeded",
        attr.HTTP_RESPONSE_STATUS_CODE: 429,
        attr.HTTP_REQUEST_RESEND_COUNT: 0,
        attr.HTTP_RESPONSE_REQUEST_ID: ["req_1"],
        attr.RETRY_AFTER_MS: 20,
        attr.ERROR_CODE: "rate_limit_exceeded",
    }


def test_a_call_names_the_tool_calls_that_its_request_leaves_unanswered(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    agent = recording.process()
    root = agent.append(events.RunStarted(way="context"))
    chat(agent, root, statuses=(200,))
    chat(agent, root, statuses=(400,), unanswered=["call_1", "call_2"])
    first, second = fold(recording.events())
    assert attr.UNANSWERED not in first.attributes
    assert second.attributes[attr.UNANSWERED] == ["call_1", "call_2"]


def test_a_failed_tool_call_is_an_error_with_its_type_and_message(example: dict[str, Span]) -> None:
    tool = example["execute_tool bash"]
    assert tool.error == "no"
    assert tool.attributes[attr.ERROR_TYPE] == "ToolError"
    assert tool.attributes[attr.TOOL_CALL_ID] == "call_1"


def test_the_root_comes_last_with_the_totals_of_the_run(tmp_path: Path) -> None:
    spans = fold(example_run(tmp_path).events())
    root = spans[-1]
    assert root.name == "invoke_agent trae"
    told = {name: root.attributes.get(name) for name in ROOT_TOTALS}
    assert told == ROOT_TOTALS
    assert attr.ERROR_TYPE not in root.attributes


def ended_by(folder: Path, exit_code: int, **call: Any) -> Span:
    """The root of a run whose last call ended like that."""
    recording = Recording(folder)
    wrapper, agent = recording.process("wrapper"), recording.process("agent")
    root = wrapper.append(events.RunStarted(way="run", agent="trae"))
    chat(agent, root, statuses=(200,))
    refused = agent.append(events.CallStarted(surface="responses", model="gpt-5"), parent=root)
    agent.append(events.CallFinished(**call), begin=refused)
    agent.seal()
    told: dict[str, Any] = {"error_type": "NonZeroExit", "error_message": "bye"} if exit_code else {}
    wrapper.append(
        events.RunFinished(outcome="exited", exit_code=exit_code, producers=[agent.producer], **told),
        begin=root,
    )
    wrapper.seal()
    return fold(recording.events())[-1]


REFUSED = {
    "ended": "failed", "http_status": 401, "error_type": "AuthenticationError",
    "error_code": "invalid_api_key", "error_message": "Incorrect API key provided",
}  # fmt: skip


def test_the_name_of_a_root_that_failed_says_how(tmp_path: Path) -> None:
    root = ended_by(tmp_path, 1, **REFUSED)
    assert root.name == "invoke_agent trae: exit 1, last call failed with 401 invalid_api_key"
    assert root.error == "bye (the last call failed: 401 invalid_api_key)"
    assert root.attributes[attr.ERROR_TYPE] == "NonZeroExit"


def test_a_run_that_exits_with_0_after_a_call_that_failed_has_failed_by_that(tmp_path: Path) -> None:
    """As trae-cli does when its agent died of an error of the API."""
    root = ended_by(tmp_path, 0, **REFUSED)
    assert root.name == "invoke_agent trae: last call failed with 401 invalid_api_key"
    assert root.error == "the last call failed: Incorrect API key provided"
    assert root.attributes[attr.ERROR_TYPE] == "401 invalid_api_key"


def test_a_run_whose_last_call_has_an_answer_bears_the_name_of_its_agent_alone(tmp_path: Path) -> None:
    assert ended_by(tmp_path / "0", 0, ended="completed").name == "invoke_agent trae"
    broken = ended_by(tmp_path / "1", 3, ended="abandoned")
    assert (broken.name, broken.error) == ("invoke_agent trae: exit 3", "bye")


ROOT_TOTALS = {
    attr.OPERATION_NAME: "invoke_agent",
    attr.AGENT_NAME: "trae",
    attr.VCS_REF_HEAD_REVISION: "8a3f2c91" * 5,
    attr.VCS_REPOSITORY_URL_FULL: "https://github.com/o/r",
    attr.USAGE_INPUT_TOKENS: 1008,
    attr.USAGE_OUTPUT_TOKENS: 50,
    attr.USAGE_CACHE_READ_INPUT_TOKENS: 800,
    attr.TOTAL_CALLS: 2,
    attr.TOTAL_CALLS_OF_UNKNOWN_USAGE: 0,
    attr.TOTAL_REQUESTS: 2,
    attr.TOTAL_FAILED_REQUESTS: 1,
    attr.TOTAL_TOOL_CALLS: 1,
    attr.TOTAL_FAILED_TOOL_CALLS: 1,
    attr.COMPLETE: True,
    attr.OUTCOME: "exited",
    attr.PROCESS_EXIT_CODE: 0,
    attr.ATTEMPT: 2,
}


def test_what_was_not_seen_of_a_run_has_no_number_on_its_root(tmp_path: Path) -> None:
    """Neither the calls of an agent without a hook, nor the tools of one whose tools are not hooked."""
    wrapper = (recording := Recording(tmp_path / "none")).process("wrapper")
    root = wrapper.append(events.RunStarted(way="run", agent="codex"))
    wrapper.append(events.RunFinished(outcome="exited", exit_code=0, producers=[]), begin=root)
    wrapper.seal()
    told = fold(recording.events())[-1].attributes
    assert not any(name.startswith("agent_telemetry.total.") for name in told)
    assert told[attr.USAGE_REASON] == "not captured: no hook got into the agent's process"
    told = ended_by(tmp_path / "calls", 0, ended="completed").attributes
    assert (told[attr.TOTAL_CALLS], told.get(attr.TOTAL_TOOL_CALLS)) == (2, None)


@pytest.mark.parametrize(
    ("captured", "expected"),
    [
        (
            {"bytes": 245, "file_count": 1, "added": 3, "removed": 2},
            {attr.PATCH_BYTES: 245, attr.PATCH_FILES: 1, attr.PATCH_ADDED: 3, attr.PATCH_REMOVED: 2},
        ),
        ({"reason": "git is not installed"}, {attr.PATCH_REASON: "git is not installed"}),
    ],
)
def test_the_root_says_what_the_run_changed(captured: dict[str, Any], expected: dict[str, Any]) -> None:
    told = Told(1).start()
    told.tell("patch.captured", told.wrapper, **captured)
    root = fold([json.loads(body) for body in told.finish().bodies])[-1]
    names = (attr.PATCH_BYTES, attr.PATCH_FILES, attr.PATCH_ADDED, attr.PATCH_REMOVED, attr.PATCH_REASON)
    assert {name: root.attributes[name] for name in names if name in root.attributes} == expected


def test_a_duration_is_a_difference_of_the_monotonic_clock(tmp_path: Path) -> None:
    """A wall clock that is set back during a call changes nothing."""
    recorded = example_run(tmp_path).events()
    expected = {span.span_id: (span.start_ns, span.end_ns) for span in fold(recorded)}
    for event in recorded:
        if event["name"] in events.BEGIN_OF:
            event["time"] -= 3600 * 10**9
    assert {span.span_id: (span.start_ns, span.end_ns) for span in fold(recorded)} == expected


@settings(max_examples=60)
@given(data=st.data())
def test_the_order_of_events_and_how_often_they_come_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    recorded = example_run(tmp_path_factory.mktemp("spool")).events()
    expected = fold(recorded)
    again = data.draw(st.lists(st.sampled_from(recorded), max_size=10))
    shuffled = data.draw(st.permutations(recorded + again))
    assert sorted(fold(shuffled)) == sorted(expected)


def test_events_of_a_producer_that_died_become_interrupted_spans(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    wrapper, agent, deliverer = (recording.process(role) for role in ("wrapper", "agent", "deliverer"))
    root = wrapper.append(events.RunStarted(way="run", agent="trae"))
    call = agent.append(events.CallStarted(surface="responses", model="gpt-5"), parent=root)
    request = agent.append(events.RequestStarted(number=1), parent=call)
    agent.append(events.RequestFinished(http_status=503, error_type="503"), begin=request)
    assert fold(recording.events()) == []
    for dead, last in ((agent, 4), (wrapper, 2)):
        deliverer.append(events.ProducerSealed(dead.producer, last_seq=last, reason="process gone"))
    spans = by_name(fold(recording.events()))
    assert {span.attributes[attr.ERROR_TYPE] for span in spans.values()} == {"interrupted"}
    assert {name: len(span.events) for name, span in spans.items()} == {
        "chat gpt-5": 1,
        "invoke_agent trae: interrupted": 0,
    }
    assert spans["chat gpt-5"].end_ns - spans["chat gpt-5"].start_ns == 2 * STEP_NS
    assert attr.USAGE_INPUT_TOKENS not in spans["chat gpt-5"].attributes


def test_a_span_waits_for_what_came_before_its_end(tmp_path: Path) -> None:
    """Otherwise a failed request could be missing from it, depending on the order of arrival."""
    recorded = example_run(tmp_path).events()
    (late,) = [
        event
        for event in recorded
        if event["name"] == "llm.request.finished" and event["data"]["http_status"] == 429
    ]
    folding = SpanFold()
    early = [span for event in recorded if event is not late for span in folding.add(event)]
    assert {span.name for span in early} == {"python3"}
    then = by_name(folding.add(late))
    assert len(then["chat gpt-5"].events) == 1
    assert "invoke_agent trae" in then


def test_rest_gives_what_an_event_that_never_came_held_back(tmp_path: Path) -> None:
    recorded = example_run(tmp_path).events()
    folding = SpanFold()
    given_before = [
        span for event in recorded if event["name"] != "agent.turn.started" for span in folding.add(event)
    ]
    rest = by_name(folding.rest())
    assert "turn trae" not in rest
    assert set(rest) | {span.name for span in given_before} >= {
        "chat gpt-5",
        "execute_tool bash",
        "invoke_agent trae",
    }
    assert rest["invoke_agent trae"].attributes[attr.COMPLETE] is False
    assert folding.rest() == []


def test_nothing_is_given_before_the_trace_is_known(tmp_path: Path) -> None:
    """The agent's file may be read before the wrapper's, which says which trace the run joined."""
    joined = f"00-{'a' * 32}-{'b' * 16}-01"
    recorded = example_run(tmp_path, trace_parent=joined).events()
    start = next(event for event in recorded if event["name"] == "run.started")
    folding = SpanFold()
    assert [span for event in recorded if event is not start for span in folding.add(event)] == []
    spans = by_name(folding.add(start))
    assert {span.trace_id for span in spans.values()} == {"a" * 32}
    assert spans["invoke_agent trae"].parent_span_id == "b" * 16
    assert folding.trace_id == "a" * 32


@pytest.mark.parametrize(
    ("called_from", "is_parent"),
    [(f"00-{RUN}-{'c' * 16}-01", True), (f"00-{'d' * 32}-{'c' * 16}-01", False), ("nonsense", False)],
)
def test_a_call_hangs_on_the_callers_own_span_in_the_same_trace(
    tmp_path: Path, called_from: str, is_parent: bool
) -> None:
    recording = Recording(tmp_path)
    process = recording.process()
    root = process.append(events.RunStarted(way="context"))
    chat(process, root, (200,), trace_parent=called_from)
    (span,) = fold(recording.events())
    assert (span.parent_span_id == "c" * 16) is is_parent
    assert span.trace_id == RUN


def test_a_turn_stands_for_its_calls_only_where_none_was_seen_on_the_wire(tmp_path: Path) -> None:
    """Else its tokens would be counted twice."""
    recording = Recording(tmp_path)
    process = recording.process()
    root = process.append(events.RunStarted(way="context"))
    for model in ("claude", "gpt-5"):
        turn = process.append(events.TurnStarted(agent="trae", provider="x", model=model), parent=root)
        if model == "gpt-5":
            chat(process, turn, (200,))
        process.append(
            events.TurnFinished(ended="completed", usage={"input_tokens": 5, "output_tokens": 3}), begin=turn
        )
    spans = by_name(fold(recording.events()))
    tokens = {name: span.attributes.get(attr.USAGE_INPUT_TOKENS) for name, span in spans.items()}
    assert tokens == {"chat claude": 5, "turn trae": None, "chat gpt-5": 1000}
    assert spans["chat claude"].attributes[attr.USAGE_SOURCE] == "agent"


def test_usage_that_is_unknown_is_absent_with_its_reason(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    process = recording.process()
    root = process.append(events.RunStarted(way="context"))
    call = process.append(events.CallStarted(surface="chat.completions", model="m"), parent=root)
    process.append(events.CallFinished(ended="abandoned", usage_missing="the stream was left"), begin=call)
    (span,) = fold(recording.events())
    assert not [name for name in span.attributes if name.endswith("_tokens")]
    assert span.attributes[attr.USAGE_SOURCE] == "unknown"
    assert span.attributes[attr.USAGE_REASON] == "the stream was left"
    assert span.error is None


def test_fetching_a_response_spends_no_tokens(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    process = recording.process()
    root = process.append(events.RunStarted(way="context"))
    call = process.append(events.CallStarted(surface="responses", method="GET", model="m"), parent=root)
    process.append(
        events.CallFinished(ended="completed", usage={"input_tokens": 9, "output_tokens": 9}), begin=call
    )
    (span,) = fold(recording.events())
    assert span.name == "fetch_response m"
    assert not [name for name in span.attributes if "usage" in name]


@pytest.mark.parametrize(
    ("finished", "error_type"),
    [
        (events.RunFinished("exited", exit_code=0), None),
        (events.RunFinished("returned"), None),
        (events.RunFinished("exited", exit_code=3), "3"),
        (events.RunFinished("exited", exit_code=1, error_type="AgentFailed"), "AgentFailed"),
        (events.RunFinished("timeout", signal=9), "timeout"),
        (events.RunFinished("raised", error_type="ValueError"), "ValueError"),
    ],
)
def test_the_root_fails_unless_the_run_ended_well(
    tmp_path: Path, finished: events.RunFinished, error_type: str | None
) -> None:
    recording = Recording(tmp_path)
    process = recording.process()
    root = process.append(events.RunStarted(way="context"))
    process.append(finished, begin=root)
    process.seal()
    (span,) = fold(recording.events())
    assert span.attributes.get(attr.ERROR_TYPE) == error_type
    assert (span.error is None) is (error_type is None)


def test_ids_and_tokens_stay_when_a_call_has_more_than_fits(tmp_path: Path) -> None:
    recording = Recording(tmp_path)
    process = recording.process()
    root = process.append(events.RunStarted(way="context"))
    everything: dict[str, Any] = {
        "parallel_tool_calls": True, "reasoning_effort": "high", "max_tokens": 1, "temperature": 0.5,
        "top_p": 0.5, "top_k": 3, "seed": 7, "service_tier": "flex", "previous_response_id": "r", "n": 2,
        "conversation": "c", "frequency_penalty": 0.1, "presence_penalty": 0.1, "stop": ["x"],
        "response_format": {"type": "text"}, "encoding_format": "float", "dimensions": 8,
    }  # fmt: skip
    call = process.append(
        events.CallStarted(
            "chat.completions", host="h", port=1, provider="openai", stream=True, model="m",
            parameters=everything, unanswered=["call_9"],
        ),
        parent=root,
    )  # fmt: skip
    process.append(
        events.CallFinished(
            "failed", "E", "text " * 5000, "code", "param", 400, "req", 3, 1, 1, 1, 1, "resp", "failed", "m2",
            "default", "fp", ["stop"], usage={
                "input_tokens": 9, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 1},
                "cache_creation_input_tokens": 1, "output_tokens_details": {"reasoning_tokens": 1},
            }, usage_missing="maybe",
        ),
        begin=call,
    )  # fmt: skip
    (span,) = fold(recording.events())
    assert len(span.attributes) == MAX_ATTRIBUTES
    kept = {name.rpartition(".")[2] for name in span.attributes}
    assert {"id", "x-request-id", "input_tokens", "output_tokens", "type", "run"} <= kept
    assert sum("_tokens" in name and "usage" in name for name in span.attributes) == 5


@pytest.mark.parametrize(
    "damage", [{"run": "f" * 32}, {"seq": "1"}, {"seq": 0}, {"time": None}, {"data": []}, {"name": 5}]
)
def test_what_is_no_event_of_the_run_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    folding = SpanFold()
    first, second, *_ = example_run(tmp_path).events()
    folding.add(first)
    with pytest.raises(EventError):
        folding.add({**second, **damage})
    del second["mono"]
    with pytest.raises(EventError):
        folding.add(second)


def test_a_begin_event_of_a_newer_version_changes_nothing(tmp_path: Path) -> None:
    recorded = example_run(tmp_path).events()
    expected = fold(recorded)
    newer = next(event for event in recorded if event["name"] == "producer.started")
    newer["name"] = "something.new"
    assert fold(recorded)[:-1] == expected[:-1]


def test_times_are_those_of_the_events(example: dict[str, Span]) -> None:
    assert all(START_NS < span.start_ns < span.end_ns for span in example.values())


def test_no_text_and_no_time_can_destroy_the_batch_that_a_span_is_sent_in(tmp_path: Path) -> None:
    """The official exporters lose all spans of a request for one lone surrogate or one negative time."""
    recording = Recording(tmp_path)
    process = recording.process()
    root = process.append(events.RunStarted(way="context"))
    tool = process.append(events.ToolCallStarted("t", call_id="c"), parent=root)
    process.append(events.ToolCallFinished("raised", "E", "m"), begin=tool)
    recorded = recording.events()
    for event in recorded:
        event["time"] -= 2 * START_NS
        for key in {"tool", "call_id", "error_type", "error_message"} & set(event["data"]):
            event["data"][key] = "\ud800" * 5000
    (span,) = fold(recorded)
    assert span.start_ns == 0
    assert span.end_ns == STEP_NS
    for text in (span.name, span.error or "", *map(str, span.attributes.values())):
        assert text.encode().decode() == text
        assert len(text) <= MAX_TEXT


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://git.example.org/team/tool.git", "https://git.example.org/team/tool"),
        ("https://git.example.org:8443/tool/", "https://git.example.org:8443/tool"),
        ("git@git.example.org:team/tool.git", "https://git.example.org/team/tool"),
        ("ssh://git@git.example.org:2222/team/tool.git", "https://git.example.org/team/tool"),
        ("file:///srv/tool.git", "file:///srv/tool"),
    ],
)
def test_the_root_has_the_repositorys_page_so_that_viewers_can_link_its_commit(
    tmp_path: Path, remote: str, page: str
) -> None:
    recording = Recording(tmp_path)
    wrapper = recording.process("wrapper")
    wrapper.append(events.RunStarted(way="run", repository=remote))
    wrapper.seal()
    (root,) = fold(recording.events())
    assert root.attributes[attr.VCS_REPOSITORY_URL_FULL] == page
