"""Judging: the checks of a run, the verdict of a policy, and both as events in the journal.

Promises, each with its test in ``tests/test_judging.py``:

* A judgement is an event, written into a stream of its own and delivered like every other; judging again
  adds one and takes nothing away. Nothing of the run is done again.
* What had not ended when it was judged, or was not all here, is judged again by ``--all``; what was judged
  under the same policy on the same events is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, select

from agent_shim.errors import JournalUnreachable
from agent_shim.events import ClaimChecked, Event, ResultAttached, RunJudged
from agent_shim.redaction import Redactor, live_secrets
from agent_shim.spool import Spool
from telemetry import claims, evidence, places
from telemetry.checks import FAIL, VERIFICATION, Check, empty_cause, examine
from telemetry.database import reachable
from telemetry.deliverer import deliver
from telemetry.filters import NEWEST_FIRST, RUN, Filters
from telemetry.policies import Policy, Verdict, verdict
from telemetry.queries import short
from telemetry.reading import Reading
from telemetry.settings import VERSION, Settings
from telemetry.verification import verify

ROLE = "judge"
"""Of the producer that writes judgements."""
VERIFY_LIMIT_S = 3600.0


class Judged(NamedTuple):
    """A run and what came of judging it."""

    run: Row[Any]
    verdict: Verdict
    checks: Sequence[Check]
    event: RunJudged
    claims: Sequence[ClaimChecked]


def judge(
    reading: Reading, settings: Settings, environ: Mapping[str, str], runs: Sequence[Row[Any]], rule: Policy
) -> list[Judged]:
    """Judge `runs`; when this returns the judgements are in the journal. Raises `JournalUnreachable`."""
    with reachable(reading.engine), reading.engine.connect() as connection:
        seen = evidence.seen(connection, [run.run_id for run in runs])
        judged = [assess(connection, run, rule, seen.get(run.run_id, 0)) for run in runs]
    write(settings, environ, {one.run.run_id: [*one.claims, one.event] for one in judged})
    return judged


def assess(connection: Connection, run: Row[Any], rule: Policy, seen: int) -> Judged:
    """The judgement of one run, not written yet."""
    found = evidence.gather(connection, run)
    threshold = (rule.result.name, rule.result.at_least) if rule.result else None
    found = found._replace(allowed=rule.allowed_files, threshold=threshold)
    checks = examine(found)
    said = verdict(rule, checks)
    empty = next(check for check in checks if check.name == "patch-not-empty").state == FAIL
    event = RunJudged(
        policy=rule.name,
        policy_sha256=rule.sha256,
        verdict=said.verdict,
        reason=said.reason,
        checks=[_stored(check, rule) for check in checks],
        empty_cause=empty_cause(found) if empty else None,
        events_seen=seen,
    )
    return Judged(run, said, checks, event, list(_claims(connection, run, found)))


def _stored(check: Check, rule: Policy) -> dict[str, Any]:
    return {**check._asdict(), "events": list(check.events), "need": rule.need(check.name)}


def _claims(connection: Connection, run: Row[Any], found: Any) -> Iterator[ClaimChecked]:
    made = evidence.rows(connection, evidence.CLAIM, run, "name")
    without = evidence.without_tools(connection, run.run_id) if made else frozenset()
    for claim in made:
        finding = claims.check(claim.name, claim.value or "", found.calls, found.tools, without)
        told = finding._asdict() | {"events": list(finding.events)}
        yield ClaimChecked(name=claim.name, value=claim.value or "", **told)


def pending(engine: Engine, filters: Filters, rule: Policy) -> list[Row[Any]]:
    """The runs that fit, are over, and are not judged by this policy on all that is known; oldest first."""
    table = evidence.VERDICT
    over = [*filters.tests(), RUN.c.state != "running", RUN.c.outcome.is_distinct_from("refused")]
    with reachable(engine), engine.connect() as connection:
        found = list(connection.execute(select(RUN).where(*over).order_by(*NEWEST_FIRST)).all())
        ids = [run.run_id for run in found]
        seen = evidence.seen(connection, ids)
        chosen = select(table).where(table.c.policy == rule.name, table.c.policy_sha256 == rule.sha256)
        judged = {row.run_id: row.events_seen for row in connection.execute(chosen)}
    return [run for run in reversed(found) if judged.get(run.run_id) != seen.get(run.run_id)]


def all_pass(engine: Engine, filters: Filters, rule: Policy) -> bool:
    """Whether every judgement of the runs that fit is a pass under this policy, whenever it was made."""
    table = evidence.VERDICT
    ours = table.c.policy == rule.name, table.c.policy_sha256 == rule.sha256, table.c.verdict != "pass"
    of_run = table.c.run_id == RUN.c.run_id
    with reachable(engine), engine.connect() as connection:
        return connection.execute(select(RUN.c.run_id).where(of_run, *ours, *filters.tests())).first() is None


def verification(reading: Reading, run: Row[Any], command: str, environ: Mapping[str, str]) -> ResultAttached:
    """The result of a verification command on a run's patch. Raises `Unverified`."""
    with reachable(reading.engine), reading.engine.connect() as connection:
        patch = evidence.gather(connection, run).patch
    code = verify(command, patch, run.worktree, environ, VERIFY_LIMIT_S)
    return ResultAttached(name=VERIFICATION, value=float(code), source=command, unit="exit code")


# --- writing ---------------------------------------------------------------------------------------


def write(settings: Settings, environ: Mapping[str, str], told: Mapping[str, Sequence[Event]]) -> None:
    """Bring events about runs to the journal. Raises `JournalUnreachable` when they are only in the spool."""
    home, redact = settings.home, Redactor(live_secrets(environ))
    try:
        places.make(home)
        for run_id, events in told.items():
            _spool(settings, run_id, events, redact)
    except OSError as error:
        raise JournalUnreachable(f"nothing can be written to {home}: {error}") from error
    waiting = deliver(settings, environ).waiting
    late = {run: why for run, why in waiting.items() if run in told}
    for run, why in late.items():
        hint = "they are in the spool, and the next command brings them"
        raise JournalUnreachable(
            f"the events about {short(run)} are not in the journal yet: {why}", hint=hint
        )


def _spool(settings: Settings, run_id: str, events: Sequence[Event], redact: Redactor) -> None:
    folder = places.run_folder(settings.home, run_id)
    if places.read_destination(folder) is None:
        places.write_destination(settings.home, run_id, places.destination_of(settings))
    spool = Spool(folder.parent, run_id, role=ROLE, redact=redact, version=VERSION)
    for event in events:
        if not spool.append(event):
            raise OSError(f"an event could not be written: {dict(spool.lost)}")
    spool.seal()
