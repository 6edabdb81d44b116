"""The price book: what one call cost, or why that is not known.

Asked in this order: the user's overrides, the overrides shipped in ``prices.toml``, the library
``genai-prices``; whoever speaks of the call first decides. Promises, each with its test:

* A call is priced by itself, at its own time, by the model that answered (the requested one only when
  the response named none) and the service tier in the response. Never from sums: rates depend on the
  length of each input.
* Unknown is `Unpriced` with a reason, never 0. A zero price is one that somebody stated.
* genai-prices answers an unknown tier, a tier before its dates, a model without rates and audio at text
  rates with a number and no warning; here each of these is `Unpriced`.
* Usage with holes gives the lowest price it allows, marked `Priced.partial`: a missing output counts as
  nothing, a missing number of cached tokens as the cheapest possible one.
* Cached and cache-write tokens are parts of the input, reasoning tokens part of the output.

Pure: no clock, no network, no database; genai-prices (0.6 s to import) is loaded at the first question
that the overrides leave open. Nothing is downloaded: its prices are those of the installed version.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from importlib import resources
from importlib.metadata import version
from typing import Any, NamedTuple

from telemetry import overrides
from telemetry.overrides import Override, Tokens

LIBRARY = "genai-prices"
RULES = 1
"""Version of the rules on this page; raised when they would give another price for the same call."""

STANDARD_TIERS = frozenset({"default", "standard", "on_demand", "auto"})
"""Names of the tier that the list price is for: OpenAI ``default``, Anthropic ``standard``, Groq
``on_demand``. ``auto`` is a request, echoed by responses that had no tier yet."""

ROUTED = frozenset({None, "openai", "azure"})
"""Providers whose own models have no ``/`` in their names: there, a known prefix is a route."""


class Billed(NamedTuple):
    """What of a call decides its price."""

    at: datetime
    """When it began, with a time zone."""
    model: str | None
    """The model that answered."""
    model_requested: str | None = None
    provider: str | None = None
    tier: str | None = None
    """The service tier in the response."""
    tier_requested: str | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    output_tokens: int | None = None
    audio_tokens: int | None = None
    """Of the input and the output together."""


class Priced(NamedTuple):
    """A price, exact for the rates that were found unless `partial` says otherwise."""

    amount: Decimal
    currency: str
    matched: str
    """Whose rates: ``genai-prices openai/gpt-5``, ``override number 2``."""
    partial: str = ""
    """Why the amount is only a lower bound; empty when it is not."""


class Unpriced(NamedTuple):
    """No price, and why."""

    reason: str


class Tariff(NamedTuple):
    """The rates that hold for one call."""

    matched: str
    currency: str
    amount: Callable[[Tokens], Decimal]
    has_cached: bool
    """Whether cached tokens have a rate of their own."""
    has_cache_write: bool


class Named(NamedTuple):
    """A model as a call names it."""

    provider: str | None
    model: str
    names: tuple[str, ...]
    """All spellings an override may use, with and without its route."""


class PriceBook:
    """Prices calls. `config` is the parsed ``config.toml`` (its ``[[price]]`` and ``[alias]``)."""

    def __init__(self, config: Mapping[str, Any] | None = None, origin: str = "config.toml") -> None:
        """Raises `PriceError` when an override cannot be used."""
        shipped = _shipped()
        self._own = overrides.parse(config or {}, origin)
        self._shipped = overrides.parse(shipped, "prices.toml")
        self._aliases = overrides.aliases(config or {}, origin)
        mine = {key: (config or {}).get(key) for key in ("price", "alias")}
        self._hash = _digest([mine, shipped])

    @cached_property
    def name(self) -> str:
        """Name, version and hash of the overrides: the same name gives the same prices."""
        return f"{LIBRARY} {version(LIBRARY)}, rules {RULES}, overrides {self._hash}"

    def price(self, call: Billed) -> Priced | Unpriced:
        """What the call cost, as far as its usage and this book tell."""
        problem = _contradiction(call)
        if problem:
            return Unpriced(problem)
        named = self._named(call)
        if named is None:
            return Unpriced("no model named")
        tier = _tier(call)
        if isinstance(tier, Unpriced):
            return tier
        tariff = self._tariff(call, named, tier)
        if isinstance(tariff, Unpriced):
            return tariff
        return _lowest(call, tariff)

    def _named(self, call: Billed) -> Named | None:
        name = (call.model or call.model_requested or "").lower()
        if not name:
            return None
        provider = overrides.provider_id(call.provider)
        target = self._aliases.get(name)
        if target is None:
            return _routed(provider, name, (name,))
        named = _routed(None, target, (name, target))
        return named._replace(provider=named.provider or provider)

    def _tariff(self, call: Billed, named: Named, tier: str | None) -> Tariff | Unpriced:
        for origin, table in (("override", self._own), ("shipped override", self._shipped)):
            for number, override in enumerate(table, 1):
                if override.covers(named.provider, named.names, call.at) and override.steps(tier):
                    return _of_override(call, override, tier, f"{origin} number {number}")
        return _of_library(call, named, tier)


def _routed(provider: str | None, model: str, names: tuple[str, ...]) -> Named:
    """Takes a routing prefix off: ``openrouter/openai/gpt-5`` is ``openai/gpt-5`` at OpenRouter."""
    prefix, slash, rest = model.partition("/")
    route = overrides.provider_id(prefix)
    if slash and provider in ROUTED and route in _provider_ids():
        return Named(route, rest, (*names, rest))
    return Named(provider, model, names)


def _tier(call: Billed) -> str | Unpriced | None:
    """The tier to price, ``None`` for the standard one."""
    tier, requested = ((t or "").lower() for t in (call.tier, call.tier_requested))
    if tier == "auto":
        tier = ""
    if not tier and requested and requested not in STANDARD_TIERS:
        return Unpriced(f"tier {requested!r} was requested and the response names none")
    return None if not tier or tier in STANDARD_TIERS else tier


def _contradiction(call: Billed) -> str:
    counts = (call.input_tokens, call.cached_tokens, call.cache_write_tokens, call.output_tokens)
    if call.input_tokens is None and call.output_tokens is None:
        return "usage unknown"
    if any(count is not None and count < 0 for count in counts):
        return "a token count is negative"
    parts = (call.cached_tokens or 0) + (call.cache_write_tokens or 0)
    if call.input_tokens is not None and parts > call.input_tokens:
        return "more cached and cache-write tokens than input tokens"
    return ""


# --- usage with holes ----------------------------------------------------------------------------


def _lowest(call: Billed, tariff: Tariff) -> Priced | Unpriced:
    try:
        amounts = [tariff.amount(tokens) for tokens in _fillings(call, tariff)]
    except ValueError as error:
        return Unpriced(f"usage does not fit the rates: {error}")
    unknown = []
    if call.input_tokens is None:
        unknown.append("input tokens")
    elif max(amounts) != min(amounts):
        parts = {"cached tokens": call.cached_tokens, "cache-write tokens": call.cache_write_tokens}
        unknown += [name for name, count in parts.items() if count is None]
    if call.output_tokens is None:
        unknown.append("output tokens")
    partial = f"{' and '.join(unknown)} unknown" if unknown else ""
    return Priced(min(amounts), tariff.currency, tariff.matched, partial)


def _fillings(call: Billed, tariff: Tariff) -> Iterator[Tokens]:
    """The extremes between which the true counts lie."""
    output = call.output_tokens or 0
    if call.input_tokens is None:
        yield Tokens(0, 0, 0, 0, output)
        return
    total = call.input_tokens
    for cached in _extremes(call.cached_tokens, total - (call.cache_write_tokens or 0), tariff.has_cached):
        for write in _extremes(call.cache_write_tokens, total - cached, tariff.has_cache_write):
            yield Tokens(total, cached, write, min(call.cache_write_1h_tokens or 0, write), output)


def _extremes(count: int | None, most: int, matters: bool) -> tuple[int, ...]:
    if not matters:
        return (0,)
    return (count,) if count is not None else (0, most)


# --- rates ---------------------------------------------------------------------------------------


def _of_override(call: Billed, override: Override, tier: str | None, matched: str) -> Tariff | Unpriced:
    if call.audio_tokens:
        return Unpriced("audio tokens have no rate in an override")

    steps = override.steps(tier)

    def amount(tokens: Tokens) -> Decimal:
        return overrides.select(steps, tokens).amount(tokens)

    has_cached = any(step.cached != step.input for step in steps)
    has_cache_write = any(step.cache_write != step.input for step in steps)
    return Tariff(matched, override.currency, amount, has_cached, has_cache_write)


def _of_library(call: Billed, named: Named, tier: str | None) -> Tariff | Unpriced:
    from genai_prices.data_snapshot import get_snapshot

    label = f"{named.provider}/{named.model}" if named.provider else named.model
    try:
        provider, model = get_snapshot().find_provider_model(named.model, None, named.provider, None)
    except LookupError:
        return Unpriced(f"no price for {label}")
    context = _context(tier)
    if context and not _has_variant(provider, model, context, call.at):
        return Unpriced(f"no price for tier {tier!r} of {label} on {call.at.date()}")
    rates = model.get_prices(call.at, context)
    missing = _missing_rate(call, rates)
    if missing:
        return Unpriced(f"no rate for {missing} of {label}")

    def amount(tokens: Tokens) -> Decimal:
        return rates.calc_price(_library_usage(tokens))["total_price"]

    has_cached, has_write = rates.cache_read_mtok is not None, rates.cache_write_mtok is not None
    return Tariff(f"{LIBRARY} {provider.id}/{model.id}", "USD", amount, has_cached, has_write)


def _context(tier: str | None) -> dict[str, str] | None:
    """How genai-prices names a tier."""
    if tier is None:
        return None
    return {"processing": "batch"} if tier == "batch" else {"service_tier": tier}


def _has_variant(provider: Any, model: Any, context: Mapping[str, str], at: datetime) -> bool:
    """Whether the library has rates for this tier at this time; without them it gives the standard ones.

    It never looks at the variants of a model that is borrowed from another provider (Azure's GPT-5).
    """
    if not any(model is own for own in provider.models):
        return False
    variants = (v for v in model.price_variants or () if v.when == context)
    return any(v.constraint is None or v.constraint.active(at) for v in variants)


def _missing_rate(call: Billed, rates: Any) -> str:
    if call.input_tokens and rates.input_mtok is None:
        return "input tokens"
    if call.output_tokens and rates.output_mtok is None:
        return "output tokens"
    # The counts of audio tokens are not kept apart by direction and cache, so nothing can price them.
    return "audio tokens" if call.audio_tokens else ""


def _library_usage(tokens: Tokens) -> Any:
    from genai_prices import Usage

    named = {
        "input_tokens": tokens.input,
        "cache_read_tokens": tokens.cached,
        "cache_write_tokens": tokens.cache_write,
        "cache_write_1h_tokens": tokens.cache_write_1h,
        "output_tokens": tokens.output,
    }
    return Usage(**{name: count for name, count in named.items() if count})


def _provider_ids() -> frozenset[str]:
    from genai_prices.data_snapshot import get_snapshot

    return frozenset(provider.id for provider in get_snapshot().providers)


# --- the shipped overrides -----------------------------------------------------------------------


def _shipped() -> dict[str, Any]:
    text = resources.files("telemetry").joinpath("prices.toml").read_text("utf-8")
    return tomllib.loads(text, parse_float=Decimal)


def _digest(tables: Sequence[Any]) -> str:
    text = json.dumps(tables, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
