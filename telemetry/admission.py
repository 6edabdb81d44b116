"""Whether a run may start: its attempt is reserved in the journal, or refused.

Promises, each with its test in ``tests/test_admission.py``:

* Of wrappers that ask at the same time no more are let through than the limit says.
* A refused run takes no number away. A journal that cannot be reached refuses: the limit could not hold.
* What ran before is judged before it is said whether the commit is solved.
* A sink that is asked answers the same, by its own policies (`decide`). It judges for the answer alone, and
  writes no judgement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import delete
from sqlmodel import SQLModel

from agent_shim.errors import AgentTelemetryError, SettingsError
from agent_shim.events import AttemptRefused, AttemptReserved
from telemetry import evidence
from telemetry.attempts import held, reserve, reserve_asked
from telemetry.checks import PASS
from telemetry.database import reachable, writing
from telemetry.filters import Filters
from telemetry.identity import Identity
from telemetry.journal import Journal
from telemetry.judging import assess, judge, pending
from telemetry.outcomes import Line, lines
from telemetry.policies import Policy, decides, named
from telemetry.queries import short
from telemetry.reading import reading
from telemetry.remote import RemoteJournal
from telemetry.settings import Settings, is_remote


class Wanted(NamedTuple):
    """What an attempt is wanted at."""

    repository: str | None
    commit: str | None
    agent: str | None
    model: str | None


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
    wanted = Wanted(known.repository, known.commit, known.agent, known.model_declared)
    try:
        if is_remote(settings.journal):
            return _asked(settings.journal, environ, run_id, wanted, limit, rule)
        chosen = named(settings.home, rule or "default")
        before = _before(settings, environ, wanted, chosen)
        return _refused(wanted, before, limit, chosen if rule else None) or _reserved(
            settings.journal, run_id, wanted, limit
        )
    except AgentTelemetryError as error:
        message = f"{error}; without the journal attempts cannot be counted"
        return AttemptRefused(reason="journal unreachable", message=message, limit=limit)


def _asked(
    url: str, environ: Mapping[str, str], run_id: str, wanted: Wanted, limit: int, rule: str | None
) -> AttemptReserved | AttemptRefused:
    """What the sink says."""
    if rule and rule.endswith(".toml"):
        raise SettingsError(
            f"{rule} is a file, and the journal is behind a sink", hint="name a policy of its own"
        )
    with RemoteJournal(url, environ) as remote:
        answer = remote.admit(run_id, wanted._asdict(), limit, rule)
    refused = answer.get("refused")
    if isinstance(refused, dict):
        told: dict[str, Any] = {name: refused.get(name) for name in AttemptRefused._fields}
        return AttemptRefused(**told)
    number = int(answer["attempt"])
    beyond = _exhausted(wanted, min(number - 1, limit), limit)  # an older sink counts and does not refuse
    return beyond or AttemptReserved(number=number, limit=limit)


def decide(journal: Journal, home: Path, asked: Mapping[str, object]) -> Mapping[str, object]:
    """What a sink answers to a run that asks for an attempt: ``attempt``, or ``refused`` with the reason.

    A run that has a number keeps it. Raises `SettingsError` for what cannot be asked.
    """
    limit, rule, run_id = asked.get("limit"), asked.get("policy"), str(asked.get("run"))
    if limit is None or held(journal, run_id) is not None:
        return {"attempt": reserve_asked(journal, asked)}
    if type(limit) is not int or limit < 1 or not (rule is None or type(rule) is str):
        raise SettingsError("A limit is a number from 1, and a policy is named.")
    if rule and rule.endswith(".toml"):
        raise SettingsError("A policy is named; no file is read for others.")
    names = (asked.get(name) for name in Wanted._fields)
    wanted = Wanted(*(name if type(name) is str else None for name in names))
    chosen = named(home, rule or "default")
    refused = _refused(wanted, _assessed(journal, wanted, chosen), limit, chosen if rule else None)
    if refused is None:
        number = reserve_asked(journal, asked)
        refused = _exhausted(wanted, min(number - 1, limit), limit)
        if refused is None:
            return {"attempt": number}
        _give_back(journal, run_id)
    return {"refused": {name: value for name, value in refused._asdict().items() if value is not None}}


def _before(settings: Settings, environ: Mapping[str, str], wanted: Wanted, rule: Policy) -> Line | None:
    """The attempts at the commit so far, by this agent with this declared model, all of them judged."""
    if not wanted.commit:
        return None
    with reading(settings, environ) as read:
        of_commit = Filters(commit=wanted.commit)
        late = pending(read.engine, of_commit, rule)
        if late:
            judge(read, settings, environ, late, rule)
        return _of(wanted, lines(read.engine, rule, of_commit))


def _assessed(journal: Journal, wanted: Wanted, rule: Policy) -> Line | None:
    """The same, where what is not judged yet is only assessed."""
    if not wanted.commit:
        return None
    of_commit = Filters(commit=wanted.commit)
    late = pending(journal.engine, of_commit, rule)
    found = _of(wanted, lines(journal.engine, rule, of_commit))
    if found is None or not late:
        return found
    with reachable(journal.engine), journal.engine.connect() as connection:
        seen = evidence.seen(connection, [run.run_id for run in late])
        said = {run.run_id: assess(connection, run, rule, seen.get(run.run_id, 0)).verdict for run in late}
    attempts = [
        one._replace(verdict=said[one.run.run_id].verdict) if one.run.run_id in said else one
        for one in found.attempts
    ]
    return found._replace(attempts=attempts, verdict=decides(rule, [one.verdict for one in attempts]))


def _of(wanted: Wanted, found: Iterable[Line]) -> Line | None:
    names = (wanted.repository, wanted.agent, wanted.model)
    return next((line for line in found if (line.repository, line.agent, line.model) == names), None)


def _refused(wanted: Wanted, before: Line | None, limit: int, rule: Policy | None) -> AttemptRefused | None:
    if before is None:
        return None
    if rule is not None and before.verdict == PASS:
        return _solved(wanted, before, rule)
    return _exhausted(wanted, len(before.attempts), limit)


def _solved(wanted: Wanted, before: Line, rule: Policy) -> AttemptRefused:
    run_id = next(one.run.run_id for one in before.attempts if one.verdict == PASS)
    told = f"commit {_short(wanted)} is solved by run {short(run_id)} (policy {rule.name}); --again tries it"
    return AttemptRefused(
        reason="solved", message=told, used=len(before.attempts), solved_by=run_id, policy=rule.name
    )


def _exhausted(wanted: Wanted, used: int, limit: int) -> AttemptRefused | None:
    if used < limit:
        return None
    times = "attempt" if limit == 1 else f"{limit} attempts"
    told = f"commit {_short(wanted)} has had its {times}"
    return AttemptRefused(reason="exhausted", message=told, limit=limit, used=used)


def _short(wanted: Wanted) -> str:
    return (wanted.commit or "unknown")[:12]


def _reserved(place: str, run_id: str, wanted: Wanted, limit: int) -> AttemptReserved | AttemptRefused:
    with Journal.open(place) as journal:
        number = reserve(journal, run_id, *wanted)
        refused = _exhausted(
            wanted, min(number - 1, limit), limit
        )  # others that are refused have numbers too
        if refused is None:
            return AttemptReserved(number=number, limit=limit)
        _give_back(journal, run_id)
    return refused


def _give_back(journal: Journal, run_id: str) -> None:
    table = SQLModel.metadata.tables["attempt"]
    with reachable(journal.engine), writing(journal.engine) as connection:
        connection.execute(delete(table).where(table.c.run_id == run_id))
