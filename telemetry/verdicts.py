"""Judgements, attempts, errors and plans, for people and for programs.

Claimed and verified stand side by side: what the process and the agent said, and what the policy says. The
same answer in three forms, as in `telemetry.reports`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TextIO

from telemetry import display, outcomes, reports
from telemetry.display import UNKNOWN, Column, cut, duration
from telemetry.fingerprints import Group
from telemetry.judging import Judged
from telemetry.outcomes import Attempt, Line, Measured, Rate
from telemetry.plans import State
from telemetry.policies import Policy
from telemetry.queries import short
from telemetry.reports import Form
from telemetry.totals import Cost, Total


def _write(
    form: Form, columns: Sequence[Column[Any]], records: Sequence[Any], objects: Any, nothing: str
) -> None:
    if form.kind == "json":
        display.write_json(form.out, objects)
    elif form.kind == "lines":
        display.write_lines(form.out, columns, records)
    elif records:
        display.write_table(form.out, columns, records)
    else:
        display.write_text(form.out, nothing)


# --- judgements ------------------------------------------------------------------------------------


def judged(found: Sequence[Judged], policy: Policy, form: Form, *, whole: bool) -> None:
    """Judgements that were just made; `whole`: of one run, with its checks."""
    columns: list[Column[Judged]] = [
        Column("run_id", lambda one: one.run.run_id, "RUN", lambda one: short(one.run.run_id)),
        Column("claimed", lambda one: reports.claimed(one.run), "CLAIMED"),
        Column("status", lambda one: reports.status(one.run)),
        Column("claimed_success", lambda one: one.run.claimed_success),
        Column("verdict", lambda one: one.verdict.verdict, "VERIFIED"),
        Column("policy", lambda one: one.event.policy),
        Column("empty_cause", lambda one: one.event.empty_cause),
        Column("reason", lambda one: one.verdict.reason, "BECAUSE", rest=True),
    ]
    _write(form, columns, found, [_judged_object(one) for one in found], "Nothing to judge.")
    if whole and form.kind == "table" and found:
        display.write_text(form.out)
        display.write_table(form.out, _check_columns(policy), list(found[0].checks))
        display.write_text(form.out)
        display.write_text(form.out, f"{found[0].verdict.verdict}: {found[0].verdict.reason}")


def _check_columns(policy: Policy) -> list[Column[Any]]:
    return [
        Column("check", lambda check: check.name, "CHECK"),
        Column("state", lambda check: check.state, "STATE"),
        Column("need", lambda check: policy.need(check.name), "NEEDED"),
        Column("reason", lambda check: check.reason, "BECAUSE", rest=True),
    ]


def _judged_object(one: Judged) -> dict[str, Any]:
    return {
        "run_id": one.run.run_id,
        "claimed": reports.claimed(one.run),
        "status": reports.status(one.run),
        "exit_code": one.run.exit_code,
        "claimed_success": one.run.claimed_success,
        **one.event._asdict(),
        "claims": [claim._asdict() for claim in one.claims],
    }


# --- attempts --------------------------------------------------------------------------------------


def retries(
    found: Sequence[Line],
    rates: Sequence[Rate],
    policy: Policy,
    form: Form,
    measured: Measured | None = None,
) -> None:
    """The attempts at commits, what bought nothing, and what was measured of each."""
    columns: list[Column[Line]] = [
        Column("commit", lambda line: line.commit, "COMMIT", lambda line: (line.commit or UNKNOWN)[:8]),
        Column("repository", lambda line: line.repository),
        Column("agent", lambda line: line.agent, "AGENT", extra=2),
        Column("model", lambda line: line.model, "MODEL", extra=1),
        Column("attempts", lambda line: len(line.attempts), "ATTEMPTS", right=True),
        Column("pattern", lambda line: line.pattern, "OUTCOMES"),
        Column("claimed", lambda line: _claims(line.attempts), "CLAIMED",
               lambda line: cut(_claims(line.attempts), 40)),
        Column("verdict", lambda line: line.verdict, "VERIFIED"),
        *_results(measured),
        *_spent("", ("COST", "TIME"), lambda line: line.attempts),
        *_spent("futile_", ("BOUGHT NOTHING", ""), lambda line: line.futile),
        Column("futile_attempts", lambda line: len(line.futile)),
    ]  # fmt: skip
    objects = {
        "policy": policy.name,
        "rates": [one._asdict() for one in rates],
        "commits": [_line_object(line, measured) for line in found],
    }
    _write(form, columns, found, objects, "No attempts at commits yet.")
    if form.kind == "table" and found:
        for text in _summary(found, rates, policy):
            display.write_text(form.out, text, "dim")


def _claims(attempts: Sequence[Attempt]) -> str:
    """What the attempts said of themselves, the earliest first; those in a row that said the same, once."""
    rows = [(said, len(list(those))) for said, those in groupby(reports.claimed(one.run) for one in attempts)]
    return " · ".join(said if number == 1 else f"{number}× {said}" for said, number in rows)


def _spent(name: str, titles: tuple[str, str], of: Callable[[Line], Sequence[Attempt]]) -> list[Column[Line]]:
    """What attempts cost, in money and in time."""

    def cost(line: Line) -> Cost:
        return outcomes.summed(attempt.cost for attempt in of(line))

    def time(line: Line) -> Total:
        return outcomes.time_of(of(line))

    def dollars(line: Line) -> float | None:
        total = cost(line)
        return total.amounts.get("USD", None if total.reason else 0.0)

    return [
        Column(f"{name}cost_usd", dollars, titles[0], lambda line: display.cost(cost(line)), right=True),
        Column(f"{name}cost_reason", lambda line: cost(line).reason),
        Column(f"{name}duration_s", lambda line: time(line).value, titles[1],
               lambda line: display.total(time(line), duration), True, 3),
        Column(f"{name}duration_s_reason", lambda line: time(line).reason),
    ]  # fmt: skip


def _results(measured: Measured | None) -> list[Column[Line]]:
    """A value per attempt, the earliest first."""
    if measured is None:
        return []
    return [
        Column("result", lambda line: " · ".join(_result(one, measured) for one in line.attempts), "RESULT")
    ]


def _result(attempt: Attempt, measured: Measured) -> str:
    row = measured.results.get(attempt.run.run_id)
    return UNKNOWN if row is None else f"{row.value:g}{f' {row.unit}' if row.unit else ''}"


def _result_object(attempt: Attempt, measured: Measured | None) -> dict[str, Any]:
    if measured is None:
        return {}
    row = measured.results.get(attempt.run.run_id)
    if row is None:
        reason = f"no result {measured.name} is attached"
        return {"result": {"name": measured.name, "value": None, "reason": reason}}
    names = ("name", "value", "unit", "source", "attached_at")
    return {"result": {name: getattr(row, name) for name in names} | {"reason": None}}


def _line_object(line: Line, measured: Measured | None) -> dict[str, Any]:
    return {
        "repository": line.repository,
        "commit": line.commit,
        "agent": line.agent,
        "model": line.model,
        "claimed": _claims(line.attempts),
        "verdict": line.verdict,
        "attempts": [
            {
                "run_id": one.run.run_id,
                "claimed": reports.claimed(one.run),
                "claimed_success": one.run.claimed_success,
                "verdict": one.verdict,
                "reason": one.reason,
                "duration_s": one.run.duration_s,
                **reports.cost_object(one.cost),
                **_result_object(one, measured),
            }
            for one in line.attempts
        ],
        "total": _sum_object(line.attempts),
        "futile": _sum_object(line.futile),
    }


def _sum_object(attempts: Sequence[Attempt]) -> dict[str, Any]:
    total = outcomes.summed(attempt.cost for attempt in attempts)
    time = reports.total_object("duration_s", outcomes.time_of(attempts))
    return {"attempts": len(attempts), **time, **reports.cost_object(total)}


def _summary(found: Sequence[Line], rates: Sequence[Rate], policy: Policy) -> list[str]:
    attempts = [one for line in found for one in line.attempts]
    futile = [one for line in found for one in line.futile]
    spent, lost = map(_told, (attempts, futile))
    open_ = sum(one.verdict is None for one in attempts)
    told = [
        "",
        f"{len(attempts)} attempts at {_commits(found)} cost {spent};"
        f" {len(futile)} of them bought nothing: {lost}.",
        *(_rate(one) for one in rates),
        f"✓ pass, ✗ fail, ? unknown, · not judged, under policy {policy.name}.",
    ]
    return [*told, f"{open_} not judged: agent-telemetry judge --all."] if open_ else told


def _told(attempts: Sequence[Attempt]) -> str:
    """What they cost, in money and in time."""
    time = display.total(outcomes.time_of(attempts), duration)
    return f"{display.cost(outcomes.summed(one.cost for one in attempts))} and {time}"


def _rate(one: Rate) -> str:
    if one.value is None:
        return f"pass@{one.k}: {UNKNOWN}, no commit has {one.k} judged attempts."
    return f"pass@{one.k}: {one.value:.1%} (n = {one.commits} commits with at least {one.k} judged attempts)."


def passing(found: Sequence[Line], rates: Sequence[Rate], policy: Policy, form: Form, err: TextIO) -> None:
    """What the attempts came to: below a table of runs, and on `err` beside lines, which are of runs alone.

    No rate stands without the number of commits that it is of, nor without the attempts that are in none.
    """
    if not found or form.kind == "json":
        return
    told = f"{_decided(found, policy)}; {', '.join(map(_short, rates))}.{_in_no_rate(found)}"
    if form.kind == "table":
        display.write_text(form.out, told, "dim")
    else:
        err.write(f"agent-telemetry: {display.plain(told)}\n")


def _decided(found: Sequence[Line], policy: Policy) -> str:
    attempts = sum(len(line.attempts) for line in found)
    solved, failed = (sum(line.verdict == state for line in found) for state in ("pass", "fail"))
    return (
        f"{_commits(found)}, {_number(attempts, 'attempt')},"
        f" policy {policy.name} ({policy.attempt} attempt decides):"
        f" {solved} solved, {failed} failed, {len(found) - solved - failed} open"
    )


def _in_no_rate(found: Sequence[Line]) -> str:
    states = [attempt.verdict for line in found for attempt in line.attempts]
    told = {"not judged (agent-telemetry judge --all)": None, "of unknown verdict": "unknown"}
    left = [f"{states.count(state)} {what}" for what, state in told.items() if state in states]
    return f" In no rate: {', '.join(left)}." if left else ""


def _commits(found: Sequence[Line]) -> str:
    """How many; where several agents or models tried one, the rates count it once for each, which is said."""
    commits = len({(line.repository, line.commit) for line in found})
    told = _number(commits, "commit")
    return told if commits == len(found) else f"{told} (counted {len(found)} times: per agent and model)"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _short(one: Rate) -> str:
    return f"pass@{one.k} {UNKNOWN if one.value is None else f'{one.value:.1%}'} (n = {one.commits})"


# --- errors ----------------------------------------------------------------------------------------


def errors(found: Sequence[Group], examples: int, form: Form) -> None:
    """Errors by kind."""

    def named(group: Group) -> list[str]:
        return list(dict.fromkeys(one.run_id for one in group.occurrences))[:examples]

    columns: list[Column[Group]] = [
        Column("fingerprint", lambda group: group.fingerprint),
        Column("count", lambda group: len(group.occurrences), "TIMES", right=True),
        Column("runs", lambda group: group.runs, "RUNS", right=True),
        Column("phase", lambda group: group.phase, "IN"),
        Column("error_type", lambda group: group.kind, "TYPE", lambda group: cut(group.kind or "", 28)),
        Column("http_status", lambda group: group.http_status, "STATUS",
               lambda group: str(group.http_status or ""), extra=2),
        Column("examples", lambda group: " ".join(named(group)), "FOR EXAMPLE" if examples else "",
               lambda group: " ".join(map(short, named(group)))),
        Column("text", lambda group: group.text, "TEXT", rest=True),
    ]  # fmt: skip
    objects = [
        {
            "fingerprint": group.fingerprint, "phase": group.phase, "error_type": group.kind,
            "http_status": group.http_status, "text": group.text, "count": len(group.occurrences),
            "runs": group.runs, "examples": [one._asdict() for one in group.occurrences[:examples]],
        }
        for group in found
    ]  # fmt: skip
    _write(form, columns, found, objects, "No errors.")


# --- plans -----------------------------------------------------------------------------------------


def plan(found: Sequence[State], form: Form) -> None:
    """The states of a plan's items; what is claimed and verified is of the attempt that tells the state."""
    columns: list[Column[State]] = [
        Column("item_id", lambda one: one.item.item_id, "ITEM"),
        Column("commit", lambda one: one.item.commit, "COMMIT", lambda one: one.item.commit[:8]),
        Column("state", lambda one: one.state, "STATE"),
        Column("attempts", lambda one: one.attempts, "ATTEMPTS", right=True),
        Column("claimed", _claim, "CLAIMED", lambda one: _claim(one) or ""),
        Column("verdict", _verdict, "VERIFIED", _verified),
        Column("reason", lambda one: one.reason, "BECAUSE", rest=True),
    ]
    objects = [
        {
            **one.item.raw,
            "state": one.state,
            "reason": one.reason,
            "attempts": one.attempts,
            "runs": list(one.runs),
            "claimed": _claim(one),
            "verdict": _verdict(one),
        }
        for one in found
    ]
    _write(form, columns, found, objects, "The plan has no items.")


def _claim(one: State) -> str | None:
    return None if one.decisive is None else reports.claimed(one.decisive.run)


def _verdict(one: State) -> str | None:
    return None if one.decisive is None else one.decisive.verdict


def _verified(one: State) -> str:
    """Empty where there is no attempt that could be judged."""
    if one.decisive is None:
        return ""
    return one.decisive.verdict or ("not yet" if one.decisive.run.state == "running" else "not judged")
