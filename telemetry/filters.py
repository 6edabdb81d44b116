"""Which runs a question is about, and the tables that it is put to.

A run belongs to a question as a whole, by its own start. Statuses speak of how a process ended, never of
success. `sqlalchemy` tables are used, not the classes of `telemetry.tables`: what is read is a frozen row.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, FromClause, and_, or_, select

from telemetry.tables import (
    CallRow,
    CostRow,
    EventRow,
    ProducerRow,
    QuarantineRow,
    RequestRow,
    RunRow,
    ToolCallRow,
    UsageRow,
)

RUN, PRODUCER, EVENT, QUARANTINE, CALL, REQUEST, TOOL, USAGE, COST = (
    row.metadata.tables[str(row.__tablename__)]
    for row in (
        *(RunRow, ProducerRow, EventRow, QuarantineRow, CallRow),
        *(RequestRow, ToolCallRow, UsageRow, CostRow),
    )
)

NOT_CAPTURED = RUN.c.capture == "not captured"
NEWEST_FIRST = (RUN.c.started_at.desc().nulls_last(), RUN.c.run_id.desc())

_WELL = or_(and_(RUN.c.outcome == "exited", RUN.c.exit_code == 0), RUN.c.outcome == "returned")
_OUTCOMES = (
    *("exited", "signaled", "timeout", "cancelled", "oom_killed", "spawn_failed", "refused", "returned"),
    "raised",
)
STATUSES: Mapping[str, ColumnElement[bool]] = {
    "running": RUN.c.state == "running",
    "interrupted": RUN.c.state == "interrupted",
    "finished": RUN.c.state == "finished",
    "exit-0": _WELL,
    "failed": and_(RUN.c.state == "finished", RUN.c.outcome != "refused", ~_WELL),
    "not-captured": NOT_CAPTURED,
    "incomplete": and_(RUN.c.state != "running", ~RUN.c.complete),
    **{name.replace("_", "-"): RUN.c.outcome == name for name in _OUTCOMES},
}
"""What can be asked for by ``status``."""


class Filters(NamedTuple):
    """Which runs; a field that is left out does not choose."""

    since: datetime | None = None
    until: datetime | None = None
    """Runs that started before this."""
    commit: str | None = None
    """The beginning of a commit id."""
    model: str | None = None
    """The model that answered, with ``*`` for any text. Runs that were not captured may be of any."""
    status: tuple[str, ...] = ()
    """Any of `STATUSES`."""
    agent: str | None = None
    task: str | None = None
    batch: str | None = None

    def tests(self) -> list[ColumnElement[bool]]:
        """As conditions on ``run``."""
        found = [
            RUN.c[n] == getattr(self, n) for n in ("agent", "task", "batch") if getattr(self, n) is not None
        ]
        if self.since is not None:
            found.append(RUN.c.started_at >= stored(self.since))
        if self.until is not None:
            found.append(RUN.c.started_at < stored(self.until))
        if self.commit is not None:
            names = (RUN.c.commit, RUN.c.commit_given)
            found.append(or_(*(name.istartswith(self.commit, autoescape=True) for name in names)))
        if self.status:
            found.append(or_(*(STATUSES[name] for name in self.status)))
        if self.model is not None:
            used = USAGE.alias("used")  # its own name: the question itself may read ``usage``
            found.append(select(used.c.run_id).where(used.c.run_id == RUN.c.run_id, self.fits(used)).exists())
        return found

    def fits(self, table: FromClause) -> ColumnElement[bool]:
        """The model as a condition on ``usage`` or ``cost``. A row without calls stands for any model."""
        if self.model is None:
            return table.c.calls >= 0
        escaped = self.model.replace("!", "!!").replace("%", "!%").replace("_", "!_").replace("*", "%")
        return or_(table.c.model.like(escaped, escape="!"), table.c.calls == 0)


def stored(moment: datetime) -> str:
    """A time as it stands in the tables."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
