"""The answers, for people and for programs.

Promises, each with its test in ``tests/test_reports.py``:

* The same answer in three forms: a table, tab-separated lines, JSON. Their fields are named alike.
* A count of something that was not seen is unknown in each of them, with the reason beside it: the calls
  of a run that was not captured, the tool calls of an agent whose tools are not hooked.
* An exit status is shown as what the process said of itself. Nothing here calls a run a success.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from typing import Any, NamedTuple, TextIO

from telemetry import display
from telemetry.display import UNKNOWN, Column, duration, moment
from telemetry.queries import CostReport, RunLine, short
from telemetry.totals import TOKENS, CostLine, Coverage, Total

FIRST_RUN = "No runs yet. Record the first one with:\n\n  agent-telemetry run -- trae-cli run …"
NO_RUN_FITS = "No run fits."


class Form(NamedTuple):
    """In which form an answer is wanted, and where."""

    out: TextIO
    kind: str
    """``table``, ``lines`` (tab-separated) or ``json``."""
    zone: tzinfo | None = None
    """Time zone of times that people read; ``None``: the machine's own."""


JSON_COLUMNS = frozenset({"command", "tags"})
"""Columns of ``run`` that hold JSON text."""
OF_CALLS = ("calls", "requests", "failed_requests")
OF_TOOLS = ("tool_calls", "failed_tool_calls", "never_executed_tool_calls")


# --- runs ----------------------------------------------------------------------------------------


def status(run: Any) -> str:
    """How a run ended, in two words."""
    if run.state != "finished":
        return str(run.state)
    if run.outcome == "exited":
        return f"exit {UNKNOWN if run.exit_code is None else run.exit_code}"
    if run.outcome == "signaled":
        return f"signal {UNKNOWN if run.signal is None else run.signal}"
    return str(run.outcome or UNKNOWN).replace("_", " ")


def claimed(run: Any) -> str:
    """What the process and the agent say of themselves."""
    return status(run) + {True: ", success", False: ", failure", None: ""}[run.claimed_success]


def verified(run: Any) -> str:
    """The latest verdict, and the policy where it is not the default one."""
    if run.verdict is None:
        return "not judged" if run.state != "running" else "not yet"
    return str(run.verdict) if run.verdict_policy == "default" else f"{run.verdict} ({run.verdict_policy})"


def record(run: Any) -> str:
    """How much of a run is in the journal."""
    if run.capture == "not captured":
        return "not captured"
    if run.state == "running":
        return "so far"
    return "complete" if run.complete else "incomplete"


def known(line: RunLine, column: str) -> int | None:
    """A count of a run; ``None`` when what it counts was not seen."""
    run = line.run
    number: int = getattr(run, column)
    tools_seen = line.tools_seen or run.tool_calls > run.never_executed_tool_calls
    if run.capture != "captured" or (column in OF_TOOLS and not tools_seen and not number):
        return None
    return number


def _of(name: str) -> Callable[[RunLine], Any]:
    return lambda line: getattr(line.run, name)


def _count(name: str) -> Callable[[RunLine], int | None]:
    return lambda line: known(line, name)


def run_columns(lines: Sequence[RunLine], zone: tzinfo | None) -> list[Column[RunLine]]:
    """The columns of a list of runs."""

    def started(line: RunLine) -> str | None:
        return moment(line.run.started_at, zone) if line.run.started_at else None

    plainly = ("state", "outcome", "exit_code", "signal", "error_type", "error_message")
    return [
        Column("run_id", _of("run_id"), "RUN", lambda line: short(line.run.run_id)),
        Column("started_at", started, *_started(lines, zone), extra=2),
        Column("claimed", lambda line: claimed(line.run), "CLAIMED"),
        Column("status", lambda line: status(line.run)),
        Column("claimed_success", _of("claimed_success")),
        Column("verdict", _of("verdict"), "VERIFIED", lambda line: verified(line.run), extra=1),
        Column("verdict_policy", _of("verdict_policy")),
        Column("verdict_reason", _of("verdict_reason")),
        *(Column(name, _of(name)) for name in plainly),
        Column("duration_s", _of("duration_s"), "TIME", lambda line: duration(line.run.duration_s), True, 6),
        Column("repository", _of("repository")),
        Column("commit", _of("commit"), "COMMIT", lambda line: (line.run.commit or UNKNOWN)[:8], extra=4),
        Column("attempt", _of("attempt")),
        Column("agent", _of("agent"), "AGENT", extra=9),
        Column("task", _of("task"), "TASK", lambda line: display.cut(line.run.task or "", 24), extra=8),
        Column("batch", _of("batch")),
        Column("models", lambda line: ",".join(line.models) or None, "MODEL", _models, extra=7),
        Column("calls", _count("calls"), "CALLS", right=True, extra=5),
        *(Column(name, _count(name)) for name in (*OF_CALLS[1:], *OF_TOOLS)),
        *_cost_columns([line.cost for line in lines], lambda line: line.cost),
        Column("capture", _of("capture"), "RECORD", lambda line: record(line.run), extra=3),
        Column("capture_reason", _of("capture_reason")),
        Column("complete", _of("complete")),
        Column("incomplete_reason", _of("incomplete_reason")),
    ]


def _started(lines: Sequence[RunLine], zone: tzinfo | None) -> tuple[str, Callable[[RunLine], str]]:
    """Title and text of the start on a terminal: an offset that all have stands in the title."""
    starts = [moment(line.run.started_at, zone) for line in lines if line.run.started_at]
    offsets = {start[19:] for start in starts}
    if len(offsets) == 1:
        return f"STARTED {offsets.pop()}", lambda line: moment(line.run.started_at, zone)[:16]
    return "STARTED", lambda line: moment(line.run.started_at, zone)


def _models(line: RunLine) -> str:
    """The first model, and how many more."""
    more = f" +{len(line.models) - 1}" if len(line.models) > 1 else ""
    return f"{line.models[0]}{more}" if line.models else UNKNOWN


def _cost_columns(costs: Sequence[Any], of: Callable[[Any], Any]) -> list[Column[Any]]:
    """A column per currency, dollars always; the first of them shows the whole cost on a terminal."""

    def amount(currency: str) -> Callable[[Any], float | None]:
        return lambda line: of(line).amounts.get(currency, None if of(line).reason else 0.0)

    currencies = ["USD", *sorted({currency for cost in costs for currency in cost.amounts} - {"USD"})]
    shown = Column("cost_usd", amount("USD"), "COST", lambda line: display.cost(of(line)), right=True)
    others = [Column(f"cost_{currency.lower()}", amount(currency)) for currency in currencies[1:]]
    return [shown, *others, Column("cost_reason", lambda line: of(line).reason)]


def runs(lines: Sequence[RunLine], form: Form, *, more: bool = False, filtered: bool = False) -> None:
    """A list of runs. `more`: there are others; `filtered`: an empty list need not be an empty journal."""
    if form.kind == "json":
        display.write_json(form.out, [run_object(line) for line in lines])
    elif form.kind == "lines":
        display.write_lines(form.out, run_columns(lines, form.zone), lines)
    elif lines:
        display.write_table(form.out, run_columns(lines, form.zone), lines)
        if more:
            display.write_text(form.out, "There are more; --limit shows them.", "dim")
    else:
        display.write_text(form.out, NO_RUN_FITS if filtered else FIRST_RUN)


def run_object(line: RunLine) -> dict[str, Any]:
    """A run as JSON: the columns of the journal, without the tails."""
    found = {name: value for name, value in line.run._asdict().items() if not name.endswith("_tail")}
    for name in JSON_COLUMNS:
        found[name] = json.loads(found[name]) if found[name] else None
    found |= {name: known(line, name) for name in (*OF_CALLS, *OF_TOOLS)}
    found["calls_reason"] = (
        None if line.run.capture == "captured" else line.run.capture_reason or "nothing seen yet"
    )
    found["tool_calls_reason"] = found["calls_reason"] or (
        "the execution of tools was not hooked" if found["tool_calls"] is None else None
    )
    said = {"claimed": claimed(line.run), "status": status(line.run), "models": list(line.models)}
    return found | said | cost_object(line.cost)


def cost_object(cost: Any) -> dict[str, Any]:
    """A cost as JSON: amounts with a reason are lower bounds."""
    amounts = [{"currency": currency, "amount": amount} for currency, amount in cost.amounts.items()]
    return {"cost": amounts if amounts or not cost.reason else None, "cost_reason": cost.reason}


# --- cost ----------------------------------------------------------------------------------------


def cost_columns(report: CostReport) -> list[Column[CostLine]]:
    """The columns of usage and cost."""
    lines = [*report.lines, report.total]
    return [
        *_key_columns(report.by),
        Column("runs", lambda line: line.runs, "" if report.by == "run" else "RUNS", right=True, extra=5),
        Column(
            "calls", lambda line: line.calls.value, "CALLS", lambda line: display.total(line.calls), True, 4
        ),
        *(_token_column(name, lines) for name in TOKENS),
        Column("tokens_reason", tokens_reason),
        *_cost_columns([line.cost for line in lines], lambda line: line.cost),
        Column("wall_s", lambda line: line.wall_s.value, *_wall(report.by), right=True, extra=6),
        Column("api_s", lambda line: line.api_s.value),
        *(_source_column(source) for source in ("reported", "agent", "estimated", "unknown")),
        Column("runs_not_captured", lambda line: line.coverage.not_captured),
        Column("runs_not_complete", lambda line: line.coverage.incomplete),
    ]


def _key_columns(by: str) -> list[Column[CostLine]]:
    def key(name: str) -> Callable[[CostLine], str | None]:
        return lambda line: line.key.get(name)

    def text(name: str, show: Callable[[str], str]) -> Callable[[CostLine], str]:
        return lambda line: show(line.key.get(name) or UNKNOWN)

    commit = Column("commit", key("commit"), "COMMIT", text("commit", lambda value: value[:8]))
    repository = Column("repository", key("repository"), "REPOSITORY", text("repository", _place), extra=9)
    return {
        "commit": [commit, repository],
        "run": [Column("run_id", key("run_id"), "RUN", text("run_id", short)), commit, repository],
        "model": [Column("provider", key("provider")), Column("model", key("model"), "MODEL")],
        "day": [Column("day", key("day"), "DAY (UTC)")],
    }[by]


def _place(repository: str) -> str:
    return "/".join(repository.rstrip("/").removesuffix(".git").split("/")[-2:])


def _token_column(name: str, lines: Sequence[CostLine]) -> Column[CostLine]:
    nowhere = name == "cache_write" and not any(line.tokens[name].value for line in lines)
    titles = {"cache_write": "WRITTEN", "reasoning": "REASONING"}
    return Column(
        f"{name}_tokens",
        lambda line: line.tokens[name].value,
        "" if nowhere else titles.get(name, name.upper()),
        lambda line: display.total(line.tokens[name]),
        right=True,
        extra={"cache_write": 8, "reasoning": 7, "cached": 3, "uncached": 2, "output": 1}[name],
    )


def tokens_reason(line: CostLine) -> str | None:
    """What the sums of tokens lack, each reason once."""
    reasons = (total.reason for total in line.tokens.values() if total.reason)
    return "; ".join(dict.fromkeys(part for reason in reasons for part in reason.split("; "))) or None


def _wall(by: str) -> tuple[str, Callable[[CostLine], str]]:
    title = "TIME" if by in ("commit", "run") else ""
    return title, lambda line: display.total(line.wall_s, duration)


def _source_column(source: str) -> Column[CostLine]:
    return Column(f"calls_{source}", lambda line: line.coverage.calls.get(source, 0))


def cost(report: CostReport, form: Form, *, filtered: bool = False) -> None:
    """Usage and cost of groups of runs."""
    if form.kind == "json":
        display.write_json(form.out, cost_report_object(report))
    elif form.kind == "lines":
        display.write_lines(form.out, cost_columns(report), report.lines)
    elif not report.lines:
        display.write_text(form.out, NO_RUN_FITS if filtered else FIRST_RUN)
    else:
        columns = cost_columns(report)
        display.write_table(form.out, columns, report.lines, _last_line(report, columns))
        for line in _footer(report):
            display.write_text(form.out, line, "dim")


def _last_line(report: CostReport, columns: Sequence[Column[CostLine]]) -> list[str]:
    keys = len(_key_columns(report.by))
    first = next(number for number, column in enumerate(columns) if column.title)
    texts = [c.text(report.total) if c.text else str(c.raw(report.total)) for c in columns[keys:]]
    return [*("total" if number == first else "" for number in range(keys)), *texts]


def _footer(report: CostReport) -> list[str]:
    """What the totals lack, and what they rest on."""
    coverage = report.total.coverage
    lines = [f"{report.left_out} more lines; see them with --limit."] if report.left_out else []
    lines += coverage_lines(coverage)
    return ["", *lines, f"Prices: {report.book}."]


def coverage_lines(coverage: Coverage) -> list[str]:
    """What is known and what is not, in sentences."""
    sources = ", ".join(f"{number} {source}" for source, number in coverage.calls.items())
    lines = [f"Usage of calls: {sources}."] if sources else []
    lines += [f"Usage unknown or in part: {why} ({_calls(n)})." for why, n in coverage.usage.items()]
    lines += [f"Price unknown or in part: {why} ({_calls(n)})." for why, n in coverage.price.items()]
    if coverage.not_captured:
        lines.append(
            f"{_of_them(coverage.not_captured, 'run')} not captured: the usage is unknown, not zero."
        )
    if coverage.incomplete:
        lines.append(
            f"{_of_them(coverage.incomplete, 'run')} not complete: what is missing is unknown, not zero."
        )
    return lines


def _calls(number: int) -> str:
    return _of_them(number, "call") if number else "an unknown number of calls"


def _of_them(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def cost_report_object(report: CostReport) -> dict[str, Any]:
    """The answer to ``cost`` as JSON."""
    return {
        "by": report.by,
        "price_book": report.book,
        "lines": [cost_line_object(line) for line in report.lines],
        "lines_left_out": report.left_out,
        "total": cost_line_object(report.total),
    }


def cost_line_object(line: CostLine) -> dict[str, Any]:
    """A line as JSON: a value with a reason is a lower bound, null with a reason is unknown."""
    found: dict[str, Any] = {**line.key, "runs": line.runs, **total_object("calls", line.calls)}
    for name, total in line.tokens.items():
        found |= total_object(f"{name}_tokens", total)
    found |= cost_object(line.cost)
    found |= total_object("wall_s", line.wall_s) | total_object("api_s", line.api_s)
    coverage: Mapping[str, Any] = line.coverage._asdict()
    names = {
        "calls": "calls_by_source",
        "usage": "usage_reasons",
        "price": "price_reasons",
        "not_captured": "runs_not_captured",
        "incomplete": "runs_not_complete",
    }
    return found | {names[name]: value for name, value in coverage.items()}


def total_object(name: str, total: Total) -> dict[str, Any]:
    """A sum as JSON: with a reason it is a lower bound, or null."""
    return {name: total.value, f"{name}_reason": total.reason}
