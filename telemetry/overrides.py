"""Price overrides: rates that a user, or this project, states where the library is wrong or silent.

An override is one ``[[price]]`` table of TOML, in ``config.toml`` or in the shipped ``prices.toml``::

    [[price]]
    model = ["gpt-5", "gpt-5-2025-*"]   # exact, or a glob; case does not matter
    provider = "openai"                 # optional; without it any provider
    currency = "USD"                    # USD when left out
    valid_from = 2025-08-07             # optional, first UTC day
    valid_to = 2026-10-12               # optional, first UTC day on which it no longer holds
    input = 1.25                        # per million tokens
    cached = 0.125                      # left out: cached tokens cost what input costs
    cache_write = 1.25                  # left out: the same
    output = 10
    tiers = [{above = 272000, input = 2.5, output = 15}]   # by input length, whole call
    [price.variants.flex]               # by the service tier that the response names
    input = 0.625
    output = 5

Promises: a table that cannot be understood is refused as a whole (`PriceError` naming the entry and the
field), never half used. A table without ``input`` and ``output`` of its own prices its variants only.
The rates of a length tier that are left out are those below it. Pure: nothing is read, nothing is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from agent_shim.errors import PriceError

MILLION = Decimal(1_000_000)

# Names of the GenAI conventions, of routers and of agents → ids of genai-prices.
PROVIDERS = {
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "azure_ai": "azure",
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "gcp.gen_ai": "google",
    "gemini": "google",
    "vertex_ai": "google",
    "aws.bedrock": "aws",
    "bedrock": "aws",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai",
    "x_ai": "x-ai",
    "xai": "x-ai",
    "together_ai": "together",
    "fireworks_ai": "fireworks",
}

RATES = ("input", "cached", "cache_write", "output")
TIER_KEYS = {*RATES, "above", "output_above"}
VARIANT_KEYS = {*RATES, "tiers"}
PRICE_KEYS = {*VARIANT_KEYS, "model", "provider", "currency", "valid_from", "valid_to", "variants", "source"}


def provider_id(name: str | None) -> str | None:
    """One id for the many names of a provider; a name that is not known stays as it is."""
    lowered = (name or "").lower()
    return PROVIDERS.get(lowered, lowered or None)


class Tokens(NamedTuple):
    """The token counts of one call, without holes."""

    input: int
    """All of the input, the cached and the cache-write tokens included."""
    cached: int
    cache_write: int
    """All cache writes, those with a lifetime of an hour included."""
    cache_write_1h: int
    output: int


class Rates(NamedTuple):
    """Prices per million tokens, from one input length (exclusive) on."""

    input: Decimal
    cached: Decimal
    cache_write: Decimal
    output: Decimal
    above: int = -1
    """Holds for calls with more input tokens than this."""
    output_above: int = -1
    """And with more output tokens than this."""

    def amount(self, tokens: Tokens) -> Decimal:
        """The price of a call."""
        plain = tokens.input - tokens.cached - tokens.cache_write
        cache = tokens.cached * self.cached + tokens.cache_write * self.cache_write
        return (plain * self.input + cache + tokens.output * self.output) / MILLION


class Override(NamedTuple):
    """One ``[[price]]`` table."""

    models: tuple[str, ...]
    provider: str | None
    currency: str
    valid_from: date | None
    valid_to: date | None
    rates: tuple[Rates, ...]
    """By input length, ascending; empty when only variants are priced."""
    variants: Mapping[str, tuple[Rates, ...]]
    source: str | None

    def covers(self, provider: str | None, models: Sequence[str], at: datetime) -> bool:
        """Whether this table speaks of one of these names of a model at this time."""
        if self.provider is not None and self.provider != provider:
            return False
        day = at.astimezone(UTC).date()
        if (self.valid_from and day < self.valid_from) or (self.valid_to and day >= self.valid_to):
            return False
        return any(fnmatchcase(name, pattern) for name in models for pattern in self.models)

    def steps(self, tier: str | None) -> tuple[Rates, ...]:
        """The rates for a service tier (``None``: the standard one); empty when it has none."""
        return self.rates if tier is None else self.variants.get(tier, ())


def select(steps: Sequence[Rates], tokens: Tokens) -> Rates:
    """The rates that a call of this length pays, for all of its tokens."""
    fitting = [step for step in steps if tokens.input > step.above and tokens.output > step.output_above]
    return fitting[-1]


def parse(config: Mapping[str, Any], origin: str) -> tuple[Override, ...]:
    """The ``[[price]]`` tables of a configuration, in their order. Raises `PriceError`."""
    entries = config.get("price", [])
    if not isinstance(entries, list):
        raise PriceError(
            f"{origin}: 'price' is not a list of tables", hint="Write [[price]], with two brackets."
        )
    return tuple(_override(entry, f"{origin}: [[price]] number {n}") for n, entry in enumerate(entries, 1))


def aliases(config: Mapping[str, Any], origin: str) -> dict[str, str]:
    """The ``[alias]`` table: a deployment's own name → ``provider/model`` or a model. Raises `PriceError`."""
    table = config.get("alias", {})
    if not isinstance(table, dict) or not all(isinstance(value, str) and value for value in table.values()):
        raise PriceError(
            f"{origin}: [alias] is not a table of names", hint='Write my-deployment = "azure/gpt-5".'
        )
    return {name.lower(): target.lower() for name, target in table.items()}


def _override(entry: Any, where: str) -> Override:
    _check_keys(entry, PRICE_KEYS, where)
    variants = entry.get("variants", {})
    if not isinstance(variants, dict):
        raise PriceError(f"{where}: 'variants' is not a table", hint="Write [price.variants.flex].")
    override = Override(
        models=_models(entry.get("model"), where),
        provider=provider_id(_text(entry, "provider", where)),
        currency=(_text(entry, "currency", where) or "USD").upper(),
        valid_from=_day(entry, "valid_from", where),
        valid_to=_day(entry, "valid_to", where),
        rates=_steps(entry, where) if "input" in entry or "output" in entry else (),
        variants={name: _variant(table, f"{where}, variant {name!r}") for name, table in variants.items()},
        source=_text(entry, "source", where),
    )
    if not override.rates and not override.variants:
        raise PriceError(f"{where} has no price", hint="Give 'input' and 'output', per million tokens.")
    return override


def _variant(table: Any, where: str) -> tuple[Rates, ...]:
    _check_keys(table, VARIANT_KEYS, where)
    return _steps(table, where)


def _check_keys(table: Any, known: set[str], where: str) -> None:
    if not isinstance(table, dict):
        raise PriceError(f"{where} is not a table")
    unknown = sorted(set(table) - known)
    if unknown:
        raise PriceError(f"{where}: unknown field {unknown[0]!r}", hint=f"Known: {', '.join(sorted(known))}.")


def _steps(table: Mapping[str, Any], where: str) -> tuple[Rates, ...]:
    for name in ("input", "output"):
        if name not in table:
            raise PriceError(f"{where}: '{name}' is missing", hint="Write 0 only for what is really free.")
    plain = _rate(table, "input", where)
    base = Rates(
        input=plain,
        cached=_rate(table, "cached", where, plain),
        cache_write=_rate(table, "cache_write", where, plain),
        output=_rate(table, "output", where),
    )
    steps = [base]
    for tier in table.get("tiers", []):
        _check_keys(tier, TIER_KEYS, f"{where}, tiers")
        steps.append(_tier(tier, steps[-1], f"{where}, tiers"))
    return tuple(steps)


def _tier(tier: Mapping[str, Any], below: Rates, where: str) -> Rates:
    above = tier.get("above")
    output_above = tier.get("output_above", -1)
    if not isinstance(above, int) or above < below.above or not isinstance(output_above, int):
        raise PriceError(f"{where}: 'above' is not a number of tokens, ascending")
    rates = {name: _rate(tier, name, where, getattr(below, name)) for name in RATES}
    return Rates(**rates, above=above, output_above=output_above)


def _rate(table: Mapping[str, Any], name: str, where: str, default: Decimal | None = None) -> Decimal:
    value = table.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise PriceError(f"{where}: '{name}' is not a number")
    rate = Decimal(str(value))
    if not rate.is_finite() or rate < 0:
        raise PriceError(f"{where}: '{name}' is not a price")
    return rate


def _models(value: Any, where: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise PriceError(f"{where}: 'model' is missing", hint='Write model = "name", or a list of names.')
    return tuple(name.lower() for name in names)


def _text(table: Mapping[str, Any], name: str, where: str) -> str | None:
    value = table.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise PriceError(f"{where}: '{name}' is not a text")
    return value


def _day(table: Mapping[str, Any], name: str, where: str) -> date | None:
    value = table.get(name)
    if value is not None and type(value) is not date:
        raise PriceError(
            f"{where}: '{name}' is not a day", hint=f"Write {name} = 2026-01-31, without quotes."
        )
    return value
