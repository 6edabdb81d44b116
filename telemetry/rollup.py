"""Usage summed per day, provider, model, tier and source, kept up to date call by call.

Sums are integers, so they are the same whatever the order of the calls, and a call can be taken out
again when more is learnt about it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .rows import seconds

RollupKey = tuple[str, str, str, str, str, str]
"""Day, provider, model, tier, source, reason."""

_NUMBERS = 6


class Share(NamedTuple):
    """What one call stands for."""

    key: RollupKey
    numbers: tuple[int | None, ...]
    """Input, cached, cache-write, output and reasoning tokens, nanoseconds in the API."""


class _Sum:
    __slots__ = ("calls", "sums", "unknown")

    def __init__(self) -> None:
        self.calls = 0
        self.sums = [0] * _NUMBERS
        self.unknown = [0] * _NUMBERS

    def add(self, share: Share, sign: int) -> None:
        self.calls += sign
        for i, number in enumerate(share.numbers):
            if number is None:
                self.unknown[i] += sign
            else:
                self.sums[i] += sign * number

    def values(self) -> list[int | None]:
        known = self.calls > 0
        return [
            total if known and not unknown else None
            for total, unknown in zip(self.sums, self.unknown, strict=True)
        ]


class Rollup:
    """The ``usage`` rows of one run."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._sums: dict[RollupKey, _Sum] = {}
        self._changed: dict[RollupKey, None] = {}
        self._shown: set[RollupKey] = set()
        self._hole: RollupKey | None = None

    def replace(self, old: Share | None, new: Share | None) -> None:
        """Take `old` out and `new` in."""
        if old == new:
            return
        for share, sign in ((old, -1), (new, 1)):
            if share is not None:
                self._sums.setdefault(share.key, _Sum()).add(share, sign)
                self._changed[share.key] = None

    def stand_for_unknown(self, key: RollupKey | None) -> None:
        """Show a row of 0 calls under `key`: for an unknown number of calls that nobody saw."""
        if key == self._hole:
            return
        self._changed.update((changed, None) for changed in (self._hole, key) if changed is not None)
        self._hole = key

    def settle(self) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Rows to write and primary keys to delete since the last time."""
        rows: list[tuple[Any, ...]] = []
        gone: list[tuple[Any, ...]] = []
        for key in self._changed:
            total = self._sums.get(key) or _Sum()
            if total.calls or key == self._hole:
                *tokens, api_ns = total.values()
                rows.append((self._run_id, *key, total.calls, *tokens, seconds(api_ns)))
                self._shown.add(key)
            else:
                self._sums.pop(key, None)
                if key in self._shown:
                    self._shown.remove(key)
                    gone.append((self._run_id, *key))
        self._changed.clear()
        return rows, gone
