"""Attempts at commits: what came of each, what they cost, and how much of it bought nothing.

Promises, each with its test in ``tests/test_outcomes.py``:

* An attempt that was not judged is none that failed: it is shown as such and is in no rate.
* What bought nothing is the cost and the time of attempts that did not pass, and of those after the first
  that did. A cost or a time that is not known makes the sum a lower bound, never smaller in silence.
* pass@k is the unbiased estimate of section 2.1 of Chen et al., 2021 (arXiv:2107.03374), over the commits
  that have at least k judged attempts; their number is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import comb
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, select

from telemetry import totals
from telemetry.checks import PASS
from telemetry.database import reachable
from telemetry.evidence import RESULT, VERDICT
from telemetry.filters import RUN, Filters
from telemetry.policies import Policy, decides
from telemetry.totals import Cost, Total

SIGNS = {"pass": "✓", "fail": "✗", "unknown": "?", None: "·"}
"""Verdict of an attempt → its sign in a pattern."""


class Attempt(NamedTuple):
    """One try at a commit."""

    run: Row[Any]
    verdict: str | None
    """``None``: not judged under this policy."""
    reason: str | None
    cost: Cost


class Line(NamedTuple):
    """The attempts at one commit, by one agent with one declared model, the earliest first."""

    repository: str | None
    commit: str | None
    agent: str | None
    model: str | None
    attempts: Sequence[Attempt]
    verdict: str | None
    """On the commit, as the policy decides."""

    @property
    def pattern(self) -> str:
        """A sign per attempt."""
        return "".join(SIGNS.get(attempt.verdict, "?") for attempt in self.attempts)

    @property
    def futile(self) -> Sequence[Attempt]:
        """The attempts that bought nothing: those that did not pass, and those after the first that did.

        Attempts whose verdict is open are not among them.
        """
        solved = next((n for n, one in enumerate(self.attempts) if one.verdict == PASS), len(self.attempts))
        return [one for n, one in enumerate(self.attempts) if n > solved or one.verdict == "fail"]


_Key = tuple[str | None, str | None, str | None, str | None]
"""Repository, commit, agent and declared model."""


class Rate(NamedTuple):
    """pass@k, and over how many commits."""

    k: int
    value: float | None
    commits: int


def lines(engine: Engine, policy: Policy, filters: Filters | None = None) -> list[Line]:
    """The attempts at every commit, those with the most attempts first."""
    tests = [*(filters or Filters()).tests(), RUN.c.commit.is_not(None)]
    tests.append(RUN.c.outcome.is_distinct_from("refused"))
    with reachable(engine), engine.connect() as connection:
        runs = connection.execute(select(RUN).where(*tests).order_by(RUN.c.started_at, RUN.c.run_id)).all()
        verdicts = _verdicts(connection, policy)
        costs = {key[0]: group.cost() for key, group in totals.group(connection, "run", tests).items()}
    grouped: dict[_Key, list[Attempt]] = {}
    for run in runs:
        verdict = verdicts.get(run.run_id, (None, None))
        key = (run.repository, run.commit, run.agent, run.model_declared)
        grouped.setdefault(key, []).append(Attempt(run, *verdict, costs[run.run_id]))
    found = [Line(*key, those, _decision(policy, those)) for key, those in grouped.items()]
    return sorted(found, key=lambda line: (-len(line.attempts), line.repository or "", line.commit or ""))


def _decision(policy: Policy, attempts: Iterable[Attempt]) -> str | None:
    return decides(policy, [attempt.verdict for attempt in attempts])


def _verdicts(connection: Connection, policy: Policy) -> Mapping[str, tuple[str | None, str | None]]:
    query = select(VERDICT.c.run_id, VERDICT.c.verdict, VERDICT.c.reason)
    chosen = query.where(VERDICT.c.policy == policy.name, VERDICT.c.policy_sha256 == policy.sha256)
    return {run_id: (verdict, reason) for run_id, verdict, reason in connection.execute(chosen)}


class Measured(NamedTuple):
    """What was measured afterwards, of every run that has it."""

    name: str
    results: Mapping[str, Row[Any]]
    """By run, the latest one, as a policy takes it."""


def measured(engine: Engine, name: str) -> Measured:
    """The results of a name (``result RUN NAME=VALUE``). Raises `JournalUnreachable`."""
    wanted = (RESULT.c.name == name, RESULT.c.value.is_not(None))
    query = select(RESULT).where(*wanted).order_by(RESULT.c.attached_at)
    with reachable(engine), engine.connect() as connection:
        return Measured(name, {row.run_id: row for row in connection.execute(query)})


def rate(found: Iterable[Line], k: int) -> Rate:
    """pass@k over the commits with at least k judged attempts."""
    values = []
    for line in found:
        judged = [attempt for attempt in line.attempts if attempt.verdict in ("pass", "fail")]
        passed = sum(attempt.verdict == PASS for attempt in judged)
        if len(judged) >= k:
            values.append(1 - comb(len(judged) - passed, k) / comb(len(judged), k))
    return Rate(k, sum(values) / len(values) if values else None, len(values))


def time_of(attempts: Sequence[Attempt]) -> Total:
    """Seconds from start to end, summed, a lower bound where one has no known end."""
    known = [one.run.duration_s for one in attempts if one.run.duration_s is not None]
    missing = len(attempts) - len(known)
    reason = f"{missing} of {len(attempts)} attempts without a known end" if missing else None
    return Total(sum(known) if known or not missing else None, reason)


def summed(costs: Iterable[Cost]) -> Cost:
    """The sum of costs, a lower bound where one is not known."""
    amounts: dict[str, float] = {}
    reasons: Counter[str] = Counter()
    summands = list(costs)
    for cost in summands:
        for currency, amount in cost.amounts.items():
            amounts[currency] = amounts.get(currency, 0) + amount
        if cost.reason:
            reasons[cost.reason] += 1
    runs = f"{len(summands)} run{'' if len(summands) == 1 else 's'}"
    told = "; ".join(f"{reason} in {count} of {runs}" for reason, count in reasons.items())
    return Cost(totals.rounded(amounts), told or None)
