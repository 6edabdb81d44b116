"""One run, told from its beginning to its end, for people and for programs.

Promises, each with its test in ``tests/test_reports.py``:

* Calls, their HTTP requests and tool calls stand in the order of time, each at its offset from the start.
* Configuration is shown three times where it differs: what the agent has configured, what was sent, what
  was watched for and not sent.
* What a call used and cost is shown with its source; what is not known, with the reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, tzinfo
from itertools import chain
from typing import Any, NamedTuple

from telemetry import changes, display, findings, reports
from telemetry.costs import Assessed
from telemetry.display import UNKNOWN, Column, cut, duration, moment, money, plain
from telemetry.pricing import Priced, Unpriced
from telemetry.queries import CallView, RunLine, Timeline, short
from telemetry.reports import Form

ABSENT = "absent"
TAIL_LINES = 20
"""Lines of each tail that a terminal shows; JSON has all of them."""
JSON_COLUMNS = frozenset(
    (
        *("parameters", "absent", "tool_calls", "tool_outputs", "unanswered", "usage", "finish_reasons"),
        *("rate_limit", "hooks_armed", "hooks_attached", "hooks_failed"),
    )
)


ARGUMENTS = 60
"""Characters of a tool's arguments that the timeline shows."""


class Entry(NamedTuple):
    """One line of the story."""

    at: str | None
    kind: str
    """``call``, ``request`` or ``tool``."""
    name: str | None
    ended: str | None
    duration_s: float | None
    detail: str
    id: str
    row: Any
    view: CallView | None = None


def show(timeline: Timeline, form: Form, jaeger: str | None = None) -> None:
    """One run in the wanted form; `jaeger` is the address of the page that has its trace, if any does."""
    link = f"{jaeger.rstrip('/')}/trace/{timeline.run.trace_id}" if jaeger and timeline.run.trace_id else None
    if form.kind == "json":
        display.write_json(form.out, timeline_object(timeline) | {"trace_url": link})
    elif form.kind == "lines":
        display.write_lines(form.out, _columns(timeline), list(entries(timeline)))
    else:
        _story(timeline, form, link)


# --- the order of time ---------------------------------------------------------------------------


def entries(timeline: Timeline) -> Iterator[Entry]:
    """Calls and tool calls by their begin, requests behind their call."""
    told = [(view.call.started_at or "", _of_call(view)) for view in timeline.calls]
    told += [(tool.started_at or "~", [_of_tool(tool)]) for tool in timeline.tools]  # never begun: at the end
    for _, together in sorted(told, key=lambda pair: pair[0]):
        yield from together


def _of_call(view: CallView) -> list[Entry]:
    call = view.call
    detail = " · ".join(filter(None, (_usage(view), _problem(call))))
    name = call.model or call.model_requested
    first = Entry(
        call.started_at, "call", name, call.ended, call.duration_s, detail, call.call_id, call, view
    )
    return [first, *(_of_request(request) for request in view.requests)]


def _of_request(request: Any) -> Entry:
    status = None if request.http_status is None else str(request.http_status)
    again = f"retry {request.number - 1}" if (request.number or 1) > 1 else ""
    wait = f"told to wait {duration(request.retry_after_ms / 1000)}" if request.retry_after_ms else ""
    detail = " · ".join(filter(None, (again, _problem(request), wait)))
    ended = status or request.ended
    return Entry(
        request.started_at, "request", None, ended, request.duration_s, detail, request.request_id, request
    )


def _of_tool(tool: Any) -> Entry:
    overlaps = f"{tool.overlaps} others at the same time" if tool.overlaps else ""
    detail = " · ".join(filter(None, (_arguments(tool), _problem(tool), overlaps)))
    return Entry(
        tool.started_at, "tool", tool.tool, tool.ended, tool.duration_s, detail, tool.tool_call_id, tool
    )


def _arguments(tool: Any) -> str:
    """What the tool was called with: its beginning, or its size where it was too long to keep."""
    if tool.arguments is None:
        return "" if tool.arguments_bytes is None else f"{tool.arguments_bytes} bytes of arguments"
    text: str = tool.arguments
    return text if len(text) <= ARGUMENTS else f"{text[: ARGUMENTS - 1]}…"


def _problem(row: Any) -> str:
    return ": ".join(filter(None, (row.error_type, row.error_message)))


def _usage(view: CallView) -> str:
    call, assessed = view.call, view.assessed
    if assessed is None:
        return str(call.usage_reason or "counted under another call")
    if assessed.estimate is not None:
        about = f"about {display.count(assessed.estimate.tokens)} in, estimated; out {UNKNOWN}"
        return f"{about} · {_price(assessed)}"
    if call.input_tokens is None and call.output_tokens is None:
        return f"usage {UNKNOWN}: {call.usage_reason}"
    cached = f" ({display.count(call.cached_tokens)} cached)" if call.cached_tokens else ""
    reasoning = f" ({display.count(call.reasoning_tokens)} reasoning)" if call.reasoning_tokens else ""
    tokens = f"{_tokens(call.input_tokens)} in{cached}, {_tokens(call.output_tokens)} out{reasoning}"
    source = ", as the agent has it" if assessed.source == "agent" else ""
    return f"{tokens}{source} · {_price(assessed)}"


def _tokens(number: int | None) -> str:
    return UNKNOWN if number is None else display.count(number)


def _priced(view: CallView) -> dict[str, Any]:
    """What a call cost and from where its usage is known, for programs."""
    assessed = view.assessed
    if assessed is None:
        unpriced = {"cost": None, "cost_currency": None, "cost_reason": view.call.usage_reason}
        return {"usage_source": view.call.usage_source} | unpriced
    price = assessed.price
    told: dict[str, Any]
    if isinstance(price, Unpriced):
        told = {"cost": None, "cost_currency": None, "cost_reason": price.reason}
    else:
        amount = float(price.amount)
        told = {"cost": amount, "cost_currency": price.currency, "cost_reason": assessed.hole or None}
    return {"usage_source": assessed.source} | told


def _price(assessed: Assessed) -> str:
    price = assessed.price
    if isinstance(price, Unpriced):
        return f"cost {UNKNOWN}: {price.reason}"
    return f"{'≥ ' if assessed.hole else ''}{money(price.currency, float(price.amount))}"


# --- for people ----------------------------------------------------------------------------------


def _columns(timeline: Timeline) -> list[Column[Entry]]:
    start = timeline.run.started_at

    def offset(entry: Entry) -> float | None:
        if entry.at is None or start is None:
            return None
        return (datetime.fromisoformat(entry.at) - datetime.fromisoformat(start)).total_seconds()

    def offset_text(entry: Entry) -> str:
        seconds = offset(entry)
        return "" if seconds is None else f"+{seconds:.1f} s"

    def of(name: str) -> Any:
        return lambda entry: getattr(entry.row, name, None)

    def of_call(name: str) -> Any:
        return lambda entry: None if entry.view is None else _priced(entry.view)[name]

    def what(entry: Entry) -> str:
        return "  request" if entry.kind == "request" else cut(f"{entry.kind} {entry.name or UNKNOWN}", 26)

    return [
        Column("offset_s", offset, "AT", offset_text, right=True),
        Column("kind", lambda entry: entry.kind, "WHAT", what),
        Column("name", lambda entry: entry.name),
        Column("ended", lambda entry: entry.ended, "ENDED", lambda entry: entry.ended or "open"),
        Column("duration_s", lambda e: e.duration_s, "TIME", lambda e: duration(e.duration_s), right=True),
        Column("http_status", of("http_status")),
        Column("input_tokens", of("input_tokens")),
        Column("cached_tokens", of("cached_tokens")),
        Column("cache_write_tokens", of("cache_write_tokens")),
        Column("output_tokens", of("output_tokens")),
        Column("reasoning_tokens", of("reasoning_tokens")),
        Column("usage_source", of_call("usage_source")),
        *(Column(name, of_call(name)) for name in ("cost", "cost_currency", "cost_reason")),
        Column("error_type", of("error_type")),
        Column("error_message", of("error_message")),
        Column("id", lambda entry: entry.id),
        Column("detail", lambda entry: entry.detail, "DETAIL", rest=True),
    ]


def _story(timeline: Timeline, form: Form, link: str | None) -> None:
    out = form.out
    for name, text in chain(header(timeline, form.zone), [("trace", link)] if link else []):
        display.write_text(out, f"{name:<9} {text}", indent=10)
    told = list(entries(timeline))
    if told:
        display.write_text(out)
        display.write_table(out, _columns(timeline), told)
    _sections(timeline, out)


def _sections(timeline: Timeline, out: Any) -> None:
    run = timeline.run
    for title, lines in (
        *findings.sections(timeline, parameters(timeline)),
        *changes.sections(timeline),
        ("Configuration", list(configuration(timeline))),
        ("Errors", list(errors(timeline))),
        ("stdout, the end of it", _tail(run.stdout_tail)),
        ("stderr, the end of it", _tail(run.stderr_tail)),
    ):
        if lines:
            display.write_text(out)
            display.write_text(out, title, "bold")
        for line in lines:
            display.write_text(out, f"  {line}", indent=4)


def header(timeline: Timeline, zone: tzinfo | None) -> Iterator[tuple[str, str]]:
    """What the run is, how it ended, and how much of it is known."""
    run, line = timeline.run, timeline.cost
    yield "run", f"{short(run.run_id)} · {run.run_id}"
    yield "agent", " · ".join(filter(None, (run.agent or UNKNOWN, run.model_declared, _work(run))))
    if run.command:
        yield "command", cut(" ".join(map(plain, json.loads(run.command))), 400)
    yield "started", f"{moment(run.started_at, zone)}, took {duration(run.duration_s)}"
    yield "ended", _ending(run)
    yield "captured", _captured(timeline)
    yield "record", _recorded(run)
    reason = f" ({line.cost.reason})" if line.cost.reason else ""
    yield "cost", f"{display.cost(line.cost)}{reason}"
    known = {name.replace("_", " "): total for name, total in line.tokens.items() if total.value is not None}
    yield "tokens", ", ".join(f"{display.total(total)} {name}" for name, total in known.items()) or UNKNOWN
    if line.coverage.usage or line.coverage.price:
        yield (
            "",
            " ".join(reports.coverage_lines(line.coverage._replace(calls={}, not_captured=0, incomplete=0))),
        )


def _work(run: Any) -> str:
    commit = f"commit {(run.commit or UNKNOWN)[:12]}"
    source = f" ({run.commit_source})" if run.commit_source else ""
    attempt = f", attempt {run.attempt}" if run.attempt else ""
    place = f" of {run.repository}" if run.repository else ""
    task = "".join(f", {name} {getattr(run, name)}" for name in ("task", "batch") if getattr(run, name))
    return f"{commit}{source}{place}{attempt}{task}"


def _ending(run: Any) -> str:
    problem = _problem(run)
    said = {"running": "still running", "interrupted": "its recorder died before it could say how"}
    own_word = run.claimed_success is not None or run.outcome in ("exited", "returned", "raised")
    by_whom = ", as it says of itself" if own_word else ""  # a signal or a time limit is no claim
    text = said.get(run.state) or f"{reports.claimed(run)}{by_whom} · verified: {reports.verified(run)}"
    return f"{text} · {problem}" if problem else text


def _captured(timeline: Timeline) -> str:
    run = timeline.run
    attached = [
        f"{target} {hook.get('version') or ''}".strip()
        for producer in timeline.producers
        for target, hook in _last(producer.hooks_attached).items()
    ]
    failed = [
        f"{target} failed: {hook.get('error_message') or hook.get('error_type') or 'unknown why'}"
        for producer in timeline.producers
        for target, hook in _last(producer.hooks_failed).items()
    ]
    reason = f": {run.capture_reason}" if run.capture_reason else ""
    hooks = "; ".join(dict.fromkeys([*attached, *failed]))
    return f"{run.capture}{reason}" + (f" · hooks: {hooks}" if hooks else "")


def _last(hooks: str | None) -> Mapping[str, Mapping[str, Any]]:
    """Target → what was last said of its hook."""
    found = json.loads(hooks) if hooks else {}
    return {target: told[-1] if isinstance(told, list) else told for target, told in found.items()}


def _recorded(run: Any) -> str:
    if run.complete:
        return f"complete, {run.events} events"
    return f"not complete: {run.incomplete_reason or UNKNOWN}"


def configuration(timeline: Timeline) -> Iterator[str]:
    """Parameter by parameter: what the agent has configured, and what was sent in how many calls."""
    sent = parameters(timeline)
    absent = [name for name, values in sent.items() if list(values) == [ABSENT]]
    silent = [name for name in absent if name not in timeline.configured]
    for name in sorted((sent.keys() | timeline.configured.keys()) - set(silent)):
        told = [f"configured {value}" for value in timeline.configured.get(name, {})]
        for value, calls in sent.get(name, {}).items():
            what = ABSENT if value == ABSENT else f"sent {value}"
            told.append(f"{what} in {calls} call{'' if calls == 1 else 's'}")
        yield f"{name}: {', '.join(told)}"
    if silent:
        yield f"{ABSENT} in every call: {', '.join(silent)}"


def parameters(timeline: Timeline) -> dict[str, dict[str, int]]:
    """Parameter → value as sent (JSON), or ``absent`` → calls."""
    found: dict[str, Counter[str]] = {}
    for view in timeline.calls:
        if view.call.source != "wire":
            continue
        for name, value in json.loads(view.call.parameters or "{}").items():
            found.setdefault(name, Counter())[json.dumps(value)] += 1
        for name in json.loads(view.call.absent or "[]"):
            found.setdefault(name, Counter())[ABSENT] += 1
    return {name: dict(values.most_common()) for name, values in sorted(found.items())}


def errors(timeline: Timeline) -> Iterator[str]:
    """What went wrong, each kind once with how often."""
    rows = [entry.row for entry in entries(timeline) if _problem(entry.row)]
    for problem, number in Counter(_problem(row) for row in rows).most_common():
        yield f"{number} × {cut(problem, 400)}"


def _tail(text: str | None) -> list[str]:
    lines = plain(text or "", lines=True).rstrip().splitlines()
    left_out = len(lines) - TAIL_LINES
    return [f"… {left_out} lines before (--json has them)", *lines[-TAIL_LINES:]] if left_out > 0 else lines


# --- for programs --------------------------------------------------------------------------------


def timeline_object(timeline: Timeline) -> dict[str, Any]:
    """One run as JSON."""
    run = timeline.run
    tools_seen = any("tools" in (producer.hooks_attached or "") for producer in timeline.producers)
    line = RunLine(run, [], timeline.cost.cost, tools_seen)
    return {
        "run": reports.run_object(line) | {"stdout_tail": run.stdout_tail, "stderr_tail": run.stderr_tail},
        "usage": reports.cost_line_object(timeline.cost),
        "price_book": timeline.book,
        "producers": [_object(producer) for producer in timeline.producers],
        "calls": [_call_object(view) for view in timeline.calls],
        "tool_calls": [_object(tool) for tool in timeline.tools],
        "parameters_sent": parameters(timeline),
        "parameters_configured": timeline.configured,
        **findings.objects(timeline, parameters(timeline)),
        **changes.objects(timeline),
    }


def _call_object(view: CallView) -> dict[str, Any]:
    found = _object(view.call) | {"requests": [_object(request) for request in view.requests]}
    assessed = view.assessed
    found["requests_made"] = view.call.requests
    if assessed is None:
        return found | {"cost": None, "cost_reason": view.call.usage_reason}
    price, estimate = assessed.price, assessed.estimate
    found["usage_source"] = assessed.source
    found["input_tokens_estimated"] = estimate._asdict() if estimate else None
    charged = (found["usage"] or {}).get("cost") if isinstance(found["usage"], dict) else None
    found["charged"] = charged  # what a router itself says it took
    if isinstance(price, Priced):
        amount = {"currency": price.currency, "amount": float(price.amount), "matched": price.matched}
        return found | {"cost": amount, "cost_reason": assessed.hole or None}
    return found | {"cost": None, "cost_reason": price.reason}


def _object(row: Any) -> dict[str, Any]:
    return {
        name: json.loads(value) if value and name in JSON_COLUMNS else value
        for name, value in row._asdict().items()
    }
