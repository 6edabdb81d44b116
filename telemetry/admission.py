"""Whether a run may start: its attempt is reserved in the journal, or refused.

Promises, each with its test in ``tests/test_admission.py``:

* Of wrappers that ask at the same time no more are let through than the limit says.
* A refused run takes no number away. A journal that cannot be reached refuses: the limit could not hold.
* What ran before is judged before it is said whether the commit is solved.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import delete
from sqlmodel import SQLModel

from agent_shim.errors import AgentTelemetryError
from agent_shim.events import AttemptRefused, AttemptReserved
from telemetry.attempts import reserve
from telemetry.database import reachable, writing
from telemetry.filters import Filters
from telemetry.identity import Identity
from telemetry.journal import Journal
from telemetry.judging import judge, pending, policy
from telemetry.outcomes import Line, lines
from telemetry.policies import Policy
from telemetry.queries import short
from telemetry.reading import reading
from telemetry.remote import is_remote
from telemetry.settings import Settings


def admit(
    settings: Settings,
    environ: Mapping[str, str],
    run_id: str,
    known: Identity,
    limit: int,
    rule: str | None,
) -> AttemptReserved | AttemptRefused:
    """Reserve the attempt that `run_id` is; refused beyond `limit`, or when the commit is solved by `rule`.

    Without a `rule` a solved commit is tried again.
    """
    try:
        chosen = policy(settings.home, rule or "default")
        if not is_remote(settings.journal):
            before = _before(settings, environ, known, chosen)
            refused = _exhausted(known, len(before.attempts), limit) if before else None
            if before and before.verdict == "pass" and rule is not None:
                refused = _solved(known, before, chosen)
            if refused:
                return refused
        return _reserved(settings, environ, run_id, known, limit)
    except AgentTelemetryError as error:
        message = f"{error}; without the journal attempts cannot be counted"
        return AttemptRefused(reason="journal unreachable", message=message, limit=limit)


def _before(settings: Settings, environ: Mapping[str, str], known: Identity, rule: Policy) -> Line | None:
    """The attempts at the commit so far, by this agent with this declared model, all of them judged."""
    if not known.commit:
        return None
    with reading(settings, environ) as read:
        of_commit = Filters(commit=known.commit)
        late = pending(read, of_commit, rule)
        if late:
            judge(read, settings, environ, late, rule)
        found = lines(read.engine, rule, of_commit)
    return next((line for line in found if _is_same(line, known)), None)


def _is_same(line: Line, known: Identity) -> bool:
    return (known.repository, known.agent, known.model_declared) == (line.repository, line.agent, line.model)


def _solved(known: Identity, before: Line, rule: Policy) -> AttemptRefused:
    run_id = next(one.run.run_id for one in before.attempts if one.verdict == "pass")
    told = f"commit {_short(known)} is solved by run {short(run_id)} (policy {rule.name}); --again tries it"
    return AttemptRefused(
        reason="solved", message=told, used=len(before.attempts), solved_by=run_id, policy=rule.name
    )


def _exhausted(known: Identity, used: int, limit: int) -> AttemptRefused | None:
    if used < limit:
        return None
    times = "attempt" if limit == 1 else f"{limit} attempts"
    told = f"commit {_short(known)} has had its {times}"
    return AttemptRefused(reason="exhausted", message=told, limit=limit, used=used)


def _short(known: Identity) -> str:
    return (known.commit or "unknown")[:12]


def _reserved(
    settings: Settings, environ: Mapping[str, str], run_id: str, known: Identity, limit: int
) -> AttemptReserved | AttemptRefused:
    names = (known.repository, known.commit, known.agent, known.model_declared)
    number = reserve(settings.journal, run_id, *names, environ=environ)
    refused = _exhausted(known, min(number - 1, limit), limit)  # others that are refused have numbers too
    if refused is None:
        return AttemptReserved(number=number, limit=limit)
    if not is_remote(settings.journal):
        with Journal.open(settings.journal) as journal:
            _give_back(journal, run_id)
    return refused


def _give_back(journal: Journal, run_id: str) -> None:
    table = SQLModel.metadata.tables["attempt"]
    with reachable(journal.engine), writing(journal.engine) as connection:
        connection.execute(delete(table).where(table.c.run_id == run_id))
