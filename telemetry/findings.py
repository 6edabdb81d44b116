"""What was claimed, configured, measured and judged of one run, in lines.

Promises, each with its test in ``tests/test_findings.py``:

* Configured and transmitted are held against each other by what they mean: a limit of tokens is sent under
  several names. What was not sent has the API's own default, which is said where it is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from telemetry import display, faults
from telemetry.claims import DEFAULTS, names
from telemetry.display import Column
from telemetry.queries import Timeline
from telemetry.reports import Form

_NEVER_SENT = ("max_retries", "provider", "base_url", "api_version", "model_provider", "model")
"""What an agent is configured with and no request is meant to carry."""


class Difference(NamedTuple):
    """A parameter that was sent otherwise than it was configured."""

    name: str
    configured: str
    """As JSON."""
    transmitted: str
    """In words."""


def differences(timeline: Timeline, sent: Mapping[str, Mapping[str, int]]) -> list[Difference]:
    """Where the agent's configuration is not what was sent. `sent`: parameter → value as JSON → requests."""
    found = []
    for name, values in timeline.configured.items():
        if name in _NEVER_SENT or not sent:
            continue
        same = [alias for alias in names(name) if set(sent.get(alias, ())) - {"absent"}]
        carried = {value: n for alias in same for value, n in sent[alias].items() if value != "absent"}
        for value in values:
            if value != "null" and {_plain(one) for one in carried} != {_plain(value)}:
                found.append(Difference(name, value, _words(name, carried)))
    return found


def _plain(value: str) -> Any:
    found = json.loads(value)
    return found if not isinstance(found, list | dict) else value


def _words(name: str, carried: Mapping[str, int]) -> str:
    if carried:
        return ", ".join(f"sent {value} in {n} requests" for value, n in carried.items())
    default = f"; the API's own default is {json.dumps(DEFAULTS[name])}" if name in DEFAULTS else ""
    return f"never sent{default}"


def sections(
    timeline: Timeline, sent: Mapping[str, Mapping[str, int]]
) -> Iterator[tuple[str, Sequence[str]]]:
    """Titles, and the lines below them."""
    yield "Verdicts", [f"{v.policy}: {v.verdict}, {v.reason}" for v in timeline.verdicts]
    last = max(timeline.verdicts, key=lambda verdict: verdict.judged_at or "", default=None)
    checks = [check for check in timeline.checks if last and check.policy == last.policy]
    yield (
        f"Checks, under policy {last.policy}" if last else "Checks",
        [f"{check.state:<8}{check.name}: {check.reason}" for check in checks],
    )
    yield "Claims", claims(timeline)
    yield (
        "Configured and transmitted differ",
        [
            f"{one.name}: configured {one.configured}, {one.transmitted}"
            for one in differences(timeline, sent)
        ],
    )
    yield "Configured by, the first over the next", list(_sources(timeline.sources or {}))
    yield "Faults of the protocol", [fault.reason for fault in protocol(timeline)]
    yield (
        "Results",
        [
            f"{one.name} = {one.value:g}{f' {one.unit}' if one.unit else ''} ({one.source})"
            for one in timeline.results
        ],
    )


def _sources(read: Mapping[str, Any]) -> Iterator[str]:
    for option, value in (read.get("options") or {}).items():
        yield f"command line: {option} {value}"
    for name, value in (read.get("environment") or {}).items():
        yield f"environment: {name}={value}"
    if read.get("file"):
        known = f"sha256 {str(read.get('file_sha256'))[:16]}" if read.get("file_sha256") else "not read"
        yield f"file: {read['file']} ({read.get('file_reason') or known})"


def claims(timeline: Timeline) -> list[str]:
    """Each claim, with what became of it."""
    return [
        f"{claim.name}={claim.value} ({claim.source}): {claim.verdict or 'not checked yet'}"
        + "".join(f"; {what}: {said}" for what, said in _sides(claim) if said)
        for claim in timeline.claims
    ]


def _sides(claim: Any) -> tuple[tuple[str, str | None], ...]:
    return ("transmitted", claim.transmitted), ("observed", claim.observed)


class Said(NamedTuple):
    """A claim, or a parameter of the agent's configuration, and what became of it."""

    source: str
    """``option`` or ``file`` for a claim, ``configuration`` for what the agent had configured."""
    name: str
    value: str | None
    verdict: str | None
    """``None``: not checked yet. A configured value that was not sent is ``refuted``."""
    transmitted: str | None
    observed: str | None


def said(timeline: Timeline, sent: Mapping[str, Mapping[str, int]]) -> list[Said]:
    """All claims, and what was configured and not sent so."""
    made = [
        Said(c.source or "", c.name, c.value, c.verdict, c.transmitted, c.observed) for c in timeline.claims
    ]
    return made + [
        Said("configuration", one.name, one.configured, "refuted", one.transmitted, None)
        for one in differences(timeline, sent)
    ]


def show_claims(timeline: Timeline, sent: Mapping[str, Mapping[str, int]], form: Form) -> None:
    """The claims of one run in the wanted form."""
    found = said(timeline, sent)
    columns: list[Column[Said]] = [
        Column("source", lambda one: one.source, "BY"),
        Column("name", lambda one: one.name, "CLAIM", lambda one: f"{one.name}={one.value}"),
        Column("value", lambda one: one.value),
        Column("verdict", lambda one: one.verdict, "VERDICT", lambda one: one.verdict or "not checked yet"),
        Column("observed", lambda one: one.observed, "OBSERVED", lambda one: one.observed or "", extra=1),
        Column("transmitted", lambda one: one.transmitted, "TRANSMITTED", rest=True),
    ]
    if form.kind == "json":
        display.write_json(form.out, [one._asdict() for one in found])
    elif form.kind == "lines":
        display.write_lines(form.out, columns, found)
    elif found:
        display.write_table(form.out, columns, found)
    else:
        display.write_text(form.out, "Nothing was claimed, and what was sent is what was configured.")


def protocol(timeline: Timeline) -> list[faults.Fault]:
    """Faults between agent and API."""
    calls = [view.call for view in timeline.calls]
    requests = [request for view in timeline.calls for request in view.requests]
    return [
        *faults.unanswered(calls),
        *faults.never_executed(timeline.tools),
        *faults.futile_retries(requests),
        *faults.nested_retries(calls, requests),
    ]


def objects(timeline: Timeline, sent: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "verdicts": [row._asdict() for row in timeline.verdicts],
        "checks": [_parsed(row) for row in timeline.checks],
        "claims": [_parsed(row) for row in timeline.claims],
        "results": [row._asdict() for row in timeline.results],
        "configuration_sources": timeline.sources,
        "differences": [one._asdict() for one in differences(timeline, sent)],
        "faults": [fault._asdict() for fault in protocol(timeline)],
    }


def _parsed(row: Any) -> dict[str, Any]:
    return {**row._asdict(), "events": json.loads(row.events or "[]")}
