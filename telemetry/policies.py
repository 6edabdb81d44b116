"""Policies: which checks make a verdict, and which attempt decides a commit. Data, in TOML. Pure.

Promises, each with its test in ``tests/test_policies.py``:

* A failed check that the policy needs makes the verdict *fail*, one that is unknown and must pass makes it
  *unknown*. Where telemetry must be complete and is not, the verdict is unknown whatever else was seen.
* The same content has the same hash, whatever its name and the order of its lists.
* A policy that names a check which does not exist, or a rule that cannot be meant, is refused.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from agent_shim.errors import SettingsError
from telemetry.config_file import NAME as CONFIG

from .checks import COMPLETE, FAIL, NAMES, PASS, UNKNOWN, Check

ATTEMPTS = ("any", "first", "last")
_RESULT = 'write result = { name = "speedup", at_least = 1.05 }'
_KEYS = {"must_pass", "must_not_fail", "attempt", "allowed_files", "result"}


class Threshold(NamedTuple):
    """What an external result has to reach."""

    name: str
    at_least: float


class Policy(NamedTuple):
    """A rule for verdicts."""

    name: str
    must_pass: frozenset[str]
    must_not_fail: frozenset[str] = frozenset()
    attempt: str = "any"
    """Which attempt decides a commit: ``any`` that passed, the ``first`` or the ``last``."""
    allowed_files: tuple[str, ...] = ()
    """Patterns of ``fnmatch`` for the files that a patch may change; empty: as the task says."""
    result: Threshold | None = None

    @property
    def sha256(self) -> str:
        """Hash of its content."""
        content = {
            "must_pass": sorted(self.must_pass),
            "must_not_fail": sorted(self.must_not_fail),
            "attempt": self.attempt,
            "allowed_files": sorted(self.allowed_files),
            "result": list(self.result) if self.result else None,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def need(self, check: str) -> str:
        """What is asked of a check: ``pass``, ``not fail`` or ``none``."""
        return "pass" if check in self.must_pass else "not fail" if check in self.must_not_fail else "none"


class Verdict(NamedTuple):
    """What a policy makes of checks."""

    verdict: str
    """``pass``, ``fail`` or ``unknown``."""
    reason: str


def verdict(policy: Policy, checks: Sequence[Check]) -> Verdict:
    """The verdict on a run."""
    needed = [check for check in checks if policy.need(check.name) != "none"]
    hole = next((check for check in needed if check.name == COMPLETE and check.state != PASS), None)
    if hole and COMPLETE in policy.must_pass:
        return Verdict(UNKNOWN, f"the telemetry is not complete: {hole.reason}")
    failed = [check.reason for check in needed if check.state == FAIL]
    if failed:
        return Verdict(FAIL, "; ".join(dict.fromkeys(failed)))
    open_ = [check.reason for check in needed if check.state == UNKNOWN and check.name in policy.must_pass]
    if open_:
        return Verdict(UNKNOWN, "; ".join(dict.fromkeys(open_)))
    return Verdict(PASS, "; ".join([_passed(policy, needed), *_beside(policy, checks)]))


def _passed(policy: Policy, needed: Sequence[Check]) -> str:
    """What was asked for; of a patch, what it is."""
    patch = next((check.reason for check in needed if check.name == "patch-not-empty"), None)
    number = len(policy.must_pass)
    return patch or f"{number} check{'' if number == 1 else 's'} passed"


def _beside(policy: Policy, checks: Sequence[Check]) -> list[str]:
    """What failed and is not asked for: a pass is not to hide it."""
    failed = [check.reason for check in checks if check.state == FAIL and policy.need(check.name) == "none"]
    return [f"not asked for, and failed: {'; '.join(dict.fromkeys(failed))}"] if failed else []


def decides(policy: Policy, verdicts: Sequence[str | None]) -> str | None:
    """The verdict on a commit, from those on its attempts in their order; ``None``: not judged."""
    if not verdicts:
        return None
    if policy.attempt != "any":
        return verdicts[0 if policy.attempt == "first" else -1]
    return next((state for state in (PASS, None, UNKNOWN) if state in verdicts), FAIL)


# --- reading ---------------------------------------------------------------------------------------


def shipped() -> dict[str, Policy]:
    """The policies that come with the program."""
    content = tomllib.loads(files("telemetry").joinpath("policies.toml").read_text("utf-8"))
    return read(content, "the program's own policies")


def named(home: Path, name: str) -> Policy:
    """The policy of that name, or the one in the file `name`. Raises `SettingsError`."""
    if name.endswith(".toml"):
        found = read(_toml(Path(name)), name)
        if len(found) != 1:
            raise SettingsError(f"{name} holds {len(found)} policies", hint="keep one in a file of its own")
        return next(iter(found.values()))
    config = home / CONFIG
    known = shipped() | (read(_toml(config), str(config)) if config.exists() else {})
    if name not in known:
        raise SettingsError(f"no policy is called {name!r}", hint=f"known: {', '.join(sorted(known))}")
    return known[name]


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}", hint="correct the file") from error


def read(content: Mapping[str, Any], place: str) -> dict[str, Policy]:
    """The policies in the table ``policy`` of a TOML file. Raises `SettingsError`."""
    tables = content.get("policy", {})
    if not isinstance(tables, Mapping):
        raise _wrong(place, "policy", "is no table", "write [policy.NAME]")
    return {name: _policy(name, table, place) for name, table in tables.items()}


def _policy(name: str, table: Any, place: str) -> Policy:
    if not isinstance(table, Mapping):
        raise _wrong(place, name, "is no table", f"write [policy.{name}]")
    odd = sorted(set(table) - _KEYS)
    if odd:
        raise _wrong(place, name, f"has an unknown key: {odd[0]}", f"the keys are {', '.join(sorted(_KEYS))}")
    attempt = table.get("attempt", "any")
    if attempt not in ATTEMPTS:
        raise _wrong(place, name, f"attempt is {attempt!r}", f"one of {', '.join(ATTEMPTS)}")
    must_pass, must_not_fail = (_checks(table, key, name, place) for key in ("must_pass", "must_not_fail"))
    if not must_pass | must_not_fail:
        raise _wrong(place, name, "asks for nothing", "name checks under must_pass")
    if "result" in must_pass and "result" not in table:
        raise _wrong(place, name, "asks for a result and names none", _RESULT)  # it could never pass
    return Policy(
        name, must_pass, must_not_fail - must_pass, attempt, _patterns(table, name, place),
        _threshold(table.get("result"), name, place),
    )  # fmt: skip


def _checks(table: Mapping[str, Any], key: str, name: str, place: str) -> frozenset[str]:
    found = _strings(table, key, name, place)
    odd = sorted(set(found) - set(NAMES))
    if odd:
        raise _wrong(place, name, f"no check is called {odd[0]!r}", f"the checks are {', '.join(NAMES)}")
    return frozenset(found)


def _patterns(table: Mapping[str, Any], name: str, place: str) -> tuple[str, ...]:
    return tuple(_strings(table, "allowed_files", name, place))


def _strings(table: Mapping[str, Any], key: str, name: str, place: str) -> list[str]:
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise _wrong(place, name, f"{key} is no list of names", f'write {key} = ["…"]')
    return found


def _threshold(table: Any, name: str, place: str) -> Threshold | None:
    if table is None:
        return None
    try:
        least = float(table["at_least"])
        if set(table) != set(Threshold._fields) or not isfinite(least):
            raise ValueError
        return Threshold(str(table["name"]), least)
    except (TypeError, KeyError, ValueError) as error:
        raise _wrong(place, name, "result is not just a name and a number at_least", _RESULT) from error


def _wrong(place: str, name: str, what: str, hint: str) -> SettingsError:
    return SettingsError(f"{place}: policy {name!r} {what}", hint=hint)
