"""The doctor: whether recording works here, and what would be seen.

Promises, each with its test in ``tests/test_doctor.py``:

* Every check is named, ends in one of `STATES`, and when it is not ``ok`` says the way out. What cannot
  be found out is ``unknown``, never ``ok``.
* Looking changes nothing: no journal is made or migrated, nothing is delivered, no agent is started; its
  interpreter is, to make one call that stays on this machine. A file is made in the data folder and removed
  again, because nothing else proves that it can be written.
* No secret is shown: headers and passwords are said to be set.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import agent_shim
from agent_shim.errors import AgentTelemetryError, SettingsError
from telemetry import child, display, health, launch, self_test, stand_in
from telemetry.command import STAND_IN
from telemetry.costs import price_book
from telemetry.estimates import VOCABULARIES, vocabulary
from telemetry.health import Check, Place
from telemetry.reports import Form
from telemetry.settings import SETTINGS, Settings, without_password

KNOWN_AGENTS = ("trae-cli",)

HANDED_ON = {
    f"AGENT_TELEMETRY_{name}"
    for name in ("RUN", "PARENT", "INJECT", "PYTHONPATH", "SINK_TOKEN", "SINK_TOKEN_FILE", "IMAGE")
}
"""Variables that are no settings: what a wrapper hands on, the sink's token, the image of the stack."""

TCP_TIMEOUT_S = 2.0
ASK_TIMEOUT_S = 10.0
OLD_PRICES = timedelta(days=120)


def examine(
    settings: Settings, environ: Mapping[str, str], command: Sequence[str] = (), now: datetime | None = None
) -> list[Check]:
    """All checks, in the order of an event's way."""
    place = Place(settings, environ, command, now or datetime.now(UTC))
    looks: tuple[Callable[[Place], Iterator[Check]], ...] = (
        *(_variables, _switch, _agent, *health.LOOKS, _prices, _vocabulary, _opentelemetry),
    )
    return [check for look in looks for check in look(place)]


def report(checks: Sequence[Check], form: Form) -> None:
    """The checks in the wanted form."""
    columns: list[display.Column[Check]] = [
        display.Column("state", lambda c: c.state, "STATE"),
        display.Column("check", lambda c: c.name, "CHECK"),
        display.Column("text", lambda c: c.text),
        display.Column("way_out", lambda c: c.way_out),
    ]
    if form.kind == "json":
        display.write_json(form.out, [check._asdict() for check in checks])
    elif form.kind == "lines":
        display.write_lines(form.out, columns, checks)
    else:
        for check in checks:
            display.write_text(
                form.out, f"{check.state:<8} {check.name}: {check.text}", _STYLES[check.state], indent=9
            )
            if check.way_out:
                display.write_text(form.out, f"{'':<8} → {check.way_out}", indent=11)


_STYLES = {"ok": "", "warn": "yellow", "fail": "bold red", "unknown": "yellow"}


# --- capture -------------------------------------------------------------------------------------


def _variables(place: Place) -> Iterator[Check]:
    known = {setting.variable for setting in SETTINGS} | HANDED_ON
    for name in sorted(place.environ):
        if name.startswith("AGENT_TELEMETRY_") and name not in known:
            yield Check(name, "warn", "a variable that means nothing", "see docs/settings.md for its name")


def _switch(place: Place) -> Iterator[Check]:
    if place.settings.disabled:
        yield Check("recording", "warn", "switched off: agents run plainly", "unset AGENT_TELEMETRY_DISABLED")


def _agent(place: Place) -> Iterator[Check]:
    command = place.command or next(((name,) for name in KNOWN_AGENTS if shutil.which(name)), ())
    if not command:
        yield Check("agent", "unknown", "none was named", "agent-telemetry doctor -- COMMAND")
        return
    if Path(command[0]).name == STAND_IN:
        yield from _stand_in(place, command[1:])
        return
    shim = Path(str(agent_shim.__file__)).parent
    way = launch.decide(command, place.environ, str(Path.cwd()), shim)
    if way.executable is None:
        yield Check("agent", "fail", f"there is no program {command[0]!r}", "name it with its path")
    elif way.capture == "none":
        text = f"{command[0]} would run, but not be captured: {way.capture_reason}"
        yield Check(
            "agent", "warn", text, "its calls would be unknown; exit status, output and time are seen"
        )
    elif way.capture == "sitecustomize":
        text = f"{command[0]} would be captured if it leads to a Python that reads sitecustomize"
        yield Check("agent", "unknown", text, "name the agent's own program instead of a launcher")
    else:
        yield from _hooked(command[0], way.executable, place.environ)


def _stand_in(place: Place, words: Sequence[str]) -> Iterator[Check]:
    """What the interpreter stand-in would do with `words`."""
    python = stand_in.checked(place.settings.python)
    if isinstance(python, child.Failure):
        yield Check("agent", "fail", python.message, f"set {stand_in.VARIABLE}")
    elif not stand_in.is_agent(words):
        text = f"{STAND_IN} would run this unrecorded: it is not -m of {', '.join(stand_in.AGENT_MODULES)}"
        yield Check("agent", "warn", text, "record it with agent-telemetry run -- COMMAND")
    else:
        yield from _hooked(STAND_IN, python, place.environ)


def _hooked(name: str, interpreter: str, environ: Mapping[str, str]) -> Iterator[Check]:
    versions = _versions(name, interpreter, environ)
    yield versions
    if versions.state == "ok":
        yield _capture(interpreter, Path(str(agent_shim.__file__)).parent, environ)


def _versions(name: str, interpreter: str, environ: Mapping[str, str]) -> Check:
    """What the agent's interpreter has to hook; it is asked, the agent is not started."""
    code = (
        "import sys, importlib.metadata as m\nfor n in ('openai', 'trae-agent'):\n"
        " try: print(n, m.version(n))\n except m.PackageNotFoundError: pass\n"
        "print('Python', sys.version.split()[0])"
    )
    try:
        asked = subprocess.run(
            [interpreter, "-c", code],
            env=environ,
            capture_output=True,
            text=True,
            timeout=ASK_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        way_out = f"run {interpreter} yourself"
        return Check("agent", "fail", f"{interpreter} does not answer: {error}", way_out)
    found = asked.stdout.split("\n")[:-1]
    if not any(line.startswith("openai ") for line in found):
        text = f"{name} runs in {interpreter} ({', '.join(found)}), which has no openai package"
        return Check("agent", "warn", text, "calls that do not go through it are unknown")
    return Check("agent", "ok", f"{name} is hooked in {interpreter}: {', '.join(found)}")


def _capture(interpreter: str, shim: Path, environ: Mapping[str, str]) -> Check:
    """One call made for real, in the agent's interpreter."""
    way_out = "the calls of its runs would be unknown; please report this line"
    try:
        tried = self_test.try_capture(interpreter, shim, environ)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("capture", "fail", f"one call could not be tried: {error}", way_out)
    if tried.well:
        return Check(
            "capture", "ok", "one call was tried, to a server here: seen with its request and tokens"
        )
    seen = f"{tried.calls} calls, {tried.requests} requests, tokens {tried.tokens or 'unknown'}"
    text = f"one call was tried, to a server here; seen: {seen}"
    return Check("capture", "fail", "; ".join([text, *tried.failed]), way_out)


# --- prices and estimates ------------------------------------------------------------------------


def _prices(place: Place) -> Iterator[Check]:
    try:
        name = price_book(place.settings.home).name
    except AgentTelemetryError as error:
        yield Check("prices", "fail", str(error), error.hint)
        return
    newest = _newest_price(place.now.date())
    age = place.now.date() - newest
    text = f"{name}; the newest change it knows is of {newest}"
    if age > OLD_PRICES:
        yield Check("prices", "warn", text, "upgrade genai-prices, or add [[price]] to config.toml")
    else:
        yield Check("prices", "ok", text)


def _newest_price(today: date) -> date:
    """The latest start of a price that is not in the future: how current the library's data is at least."""
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import StartDateConstraint

    dated: list[Any] = []
    for provider in get_snapshot().providers:
        for model in provider.models:
            dated += [
                *(model.prices if isinstance(model.prices, list) else ()),
                *(model.price_variants or ()),
            ]
    starts = [d.constraint.start_date for d in dated if isinstance(d.constraint, StartDateConstraint)]
    return max(start for start in starts if start <= today)


def _vocabulary(place: Place) -> Iterator[Check]:
    missing = [name for name in VOCABULARIES if vocabulary(name, place.environ) is None]
    if missing:
        text = f"{', '.join(missing)} not on this machine: calls without usage are not estimated"
        yield Check(
            "tiktoken vocabulary",
            "warn",
            text,
            "put the files into TIKTOKEN_CACHE_DIR; nothing is downloaded",
        )
    else:
        yield Check("tiktoken vocabulary", "ok", ", ".join(VOCABULARIES))


# --- OpenTelemetry --------------------------------------------------------------------------------

_OF_SDKS = ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_TRACES_SAMPLER")
"""They switch an SDK off, and none sends for us."""


def _opentelemetry(place: Place) -> Iterator[Check]:
    given = {name: value for name, value in sorted(place.environ.items()) if name.startswith("OTEL_")}
    for name, value in given.items():
        shown = "(set)" if "HEADERS" in name else without_password(value)
        yield Check(name, "ok", f"{shown}: does nothing here" if name in _OF_SDKS else shown)
    ends = {end.url: signal for signal in ("logs", "traces") if (end := place.settings.otlp(signal))}
    if not ends:
        yield Check("OpenTelemetry", "ok", "no endpoint is set: events go to the journal alone")
    for url in ends:
        yield _reachable(url)
    if ends:
        yield from _usable(place.settings)


def _usable(settings: Settings) -> Iterator[Check]:
    """What the exporters do not like in the variables of this process."""
    from telemetry.exporter import Exporter

    try:
        Exporter.from_settings(settings).close()
    except SettingsError as error:
        yield Check("OpenTelemetry variables", "warn", str(error), error.hint or "")


def _reachable(url: str) -> Check:
    parts = urlsplit(url)
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    shown = without_password(url)
    try:
        with closing(socket.create_connection((parts.hostname, port), TCP_TIMEOUT_S)):
            return Check("OpenTelemetry endpoint", "ok", f"{shown} answers")
    except OSError as error:
        text = f"{shown} does not answer: {error.strerror or error}"
        return Check(
            "OpenTelemetry endpoint", "warn", text, "events wait in the spool; the journal gets them anyway"
        )
