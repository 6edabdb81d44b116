"""Promises of the price book: exact where the rates are known, a bound or a reason where they are not."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent_shim.errors import PriceError
from telemetry.pricing import Billed, PriceBook, Priced, Unpriced

NOVEMBER_2026 = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOVEMBER_2025 = datetime(2025, 11, 20, 12, tzinfo=UTC)
BOOK = PriceBook()


def call(model: str | None, **given: Any) -> Billed:
    """A call of 1M input tokens, 200k of them cached, and 100k output tokens, unless said otherwise."""
    counts = {"input_tokens": 1_000_000, "cached_tokens": 200_000, "cache_write_tokens": 0}
    values = {"at": NOVEMBER_2026, "provider": "openai", **counts, "output_tokens": 100_000, **given}
    return Billed(model=model, **values)


def dollars(priced: Priced | Unpriced) -> Decimal:
    assert isinstance(priced, Priced), priced
    assert (priced.currency, priced.partial) == ("USD", "")
    return priced.amount


def reason(priced: Priced | Unpriced) -> str:
    assert isinstance(priced, Unpriced), priced
    return priced.reason


def book(toml: str) -> PriceBook:
    return PriceBook(tomllib.loads(toml))


# --- what a call costs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-5", "2.025"),
        ("gpt-5-2025-08-07", "2.025"),
        ("gpt-5-20250807", "2.025"),
        ("GPT-5", "2.025"),
        ("openai/gpt-5", "2.025"),
        ("gpt-5-codex", "2.025"),
        ("gpt-5-mini", "0.405"),
        ("gpt-5-nano", "0.081"),
        ("gpt-4o", "3.25"),
        ("gpt-4.1", "2.5"),
        ("o4-mini", "1.375"),
        ("o3", "2.5"),
        ("gpt-4o-2024-05-13", "6.5"),
    ],
)
def test_openai_models_cost_what_openai_lists(model: str, expected: str) -> None:
    assert dollars(BOOK.price(call(model))) == Decimal(expected)


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("azure.ai.openai", "gpt-5-2025-08-07", "2.025"),
        ("openai", "azure/gpt-5", "2.025"),
        (None, "azure/gpt-5", "2.025"),
        ("openrouter", "openai/gpt-5", "2.025"),
        ("openai", "openrouter/openai/gpt-5", "2.025"),
        ("gcp.gemini", "gemini-2.5-pro", "3.55"),
    ],
)
def test_a_route_in_front_of_a_model_is_understood(provider: str, model: str, expected: str) -> None:
    assert dollars(BOOK.price(call(model, provider=provider))) == Decimal(expected)


def test_the_model_that_answered_decides_not_the_one_that_was_asked() -> None:
    assert dollars(BOOK.price(call("gpt-5-mini", model_requested="gpt-5"))) == Decimal("0.405")
    assert dollars(BOOK.price(call(None, model_requested="gpt-5"))) == Decimal("2.025")


def test_an_answer_by_an_unknown_model_is_not_priced_as_the_requested_one() -> None:
    assert reason(BOOK.price(call("nobody-9", model_requested="gpt-5"))) == "no price for openai/nobody-9"


def test_prices_are_those_of_the_day_of_the_call() -> None:
    old = datetime(2025, 5, 1, tzinfo=UTC)
    assert dollars(BOOK.price(call("o3", at=old))) == Decimal("12.5")
    assert dollars(BOOK.price(call("o3", at=NOVEMBER_2025))) == Decimal("2.5")
    june_2024 = datetime(2024, 6, 1, tzinfo=UTC)
    assert dollars(BOOK.price(call("gpt-4o", at=june_2024, cached_tokens=0))) == Decimal("6.5")


@pytest.mark.parametrize("at", [NOVEMBER_2026, NOVEMBER_2025])
@pytest.mark.parametrize(
    ("tier", "expected"), [("flex", "1.0125"), ("priority", "4.05"), ("batch", "1.0125")]
)
def test_the_tier_in_the_response_sets_the_rate_also_before_the_library_knows_it(
    at: datetime, tier: str, expected: str
) -> None:
    assert dollars(BOOK.price(call("gpt-5", at=at, tier=tier))) == Decimal(expected)


@pytest.mark.parametrize("tier", [None, "default", "standard", "on_demand", "auto", "Default"])
def test_standard_tiers_cost_the_list_price(tier: str | None) -> None:
    assert dollars(BOOK.price(call("gpt-5", tier=tier, tier_requested="auto"))) == Decimal("2.025")


def test_rates_by_input_length_hold_for_the_whole_call() -> None:
    long = {"input_tokens": 300_000, "cached_tokens": 0}
    assert dollars(BOOK.price(call("gpt-5.4", **long, output_tokens=10_000))) == Decimal("1.725")
    sonnet = call("claude-sonnet-4-5", provider="anthropic", at=NOVEMBER_2025, **long, output_tokens=10_000)
    assert dollars(BOOK.price(sonnet)) == Decimal("2.025")
    gemini = call(
        "gemini-2.5-pro", provider="gcp.gemini", input_tokens=250_000, cached_tokens=0, output_tokens=10_000
    )
    assert dollars(BOOK.price(gemini)) == Decimal("0.775")


def test_ten_short_calls_cost_less_than_one_of_their_sum() -> None:
    short = call(
        "claude-sonnet-4-5", provider="anthropic", input_tokens=100_000, cached_tokens=0, output_tokens=0
    )
    total = dollars(BOOK.price(short._replace(input_tokens=1_000_000)))
    assert dollars(BOOK.price(short)) * 10 == Decimal("3")
    assert total == Decimal("6")


def test_cache_writes_have_their_own_rates() -> None:
    write = {"input_tokens": 60_000, "cached_tokens": 0, "cache_write_tokens": 60_000, "output_tokens": 8_000}
    sonnet = call("claude-sonnet-4-5", provider="anthropic", **write)
    assert dollars(BOOK.price(sonnet)) == Decimal("0.345")
    assert dollars(BOOK.price(sonnet._replace(cache_write_1h_tokens=60_000))) == Decimal("0.48")


# --- bugs that other tools had -------------------------------------------------------------------


def test_cached_tokens_are_not_billed_twice() -> None:
    """litellm billed 262,960 tokens of input with 257,955 cached at 4.1 times their price."""
    whole = call(
        "gemini-2.5-pro", provider="gcp.gemini", input_tokens=262_960, cached_tokens=257_955, output_tokens=0
    )
    plain = dollars(BOOK.price(whole._replace(cached_tokens=0)))
    assert dollars(BOOK.price(whole)) == Decimal("0.07700125")
    assert plain == Decimal("0.6574")


def test_a_fully_cached_call_costs_the_cached_rate() -> None:
    cached = call("gpt-5", cached_tokens=1_000_000, output_tokens=0)
    assert dollars(BOOK.price(cached)) == Decimal("0.125")


def test_an_unknown_model_is_not_free() -> None:
    assert reason(BOOK.price(call("gpt-99"))) == "no price for openai/gpt-99"
    assert reason(BOOK.price(call(None))) == "no model named"


def test_a_model_that_the_library_lists_without_rates_is_not_free() -> None:
    unlisted = call("gpt-4.1", provider="github-copilot")
    assert reason(BOOK.price(unlisted)) == "no rate for input tokens of github-copilot/gpt-4.1"


def test_a_regional_price_that_is_not_known_is_not_the_global_one() -> None:
    assert reason(BOOK.price(call("azure/eu/gpt-5-2025-08-07"))) == "no price for azure/eu/gpt-5-2025-08-07"


@pytest.mark.parametrize("tier", ["scale", "turbo"])
def test_an_unknown_tier_is_not_the_standard_one(tier: str) -> None:
    assert (
        reason(BOOK.price(call("gpt-5", tier=tier)))
        == f"no price for tier {tier!r} of openai/gpt-5 on 2026-11-20"
    )


def test_a_tier_from_before_its_rates_are_known_is_not_the_standard_one() -> None:
    early = call("gpt-5.2", at=datetime(2026, 3, 1, tzinfo=UTC), tier="flex")
    assert reason(BOOK.price(early)) == "no price for tier 'flex' of openai/gpt-5.2 on 2026-03-01"


def test_a_tier_of_a_borrowed_model_is_not_the_standard_one() -> None:
    azure = call("gpt-5", provider="azure.ai.openai", tier="priority")
    assert reason(BOOK.price(azure)) == "no price for tier 'priority' of azure/gpt-5 on 2026-11-20"


def test_a_requested_tier_that_the_response_does_not_confirm_is_not_priced() -> None:
    unconfirmed = call("gpt-5", tier=None, tier_requested="flex")
    assert reason(BOOK.price(unconfirmed)) == "tier 'flex' was requested and the response names none"


def test_audio_is_not_priced_as_text() -> None:
    audio = call("gpt-4o-audio-preview", audio_tokens=1_000_000)
    assert reason(BOOK.price(audio)) == "no rate for audio tokens of openai/gpt-4o-audio-preview"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": None, "output_tokens": None, "cached_tokens": None}, "usage unknown"),
        ({"cached_tokens": 1_000_001}, "more cached and cache-write tokens than input tokens"),
        ({"output_tokens": -1}, "a token count is negative"),
    ],
)
def test_usage_that_cannot_be_is_refused(usage: dict[str, int | None], expected: str) -> None:
    assert reason(BOOK.price(call("gpt-5", **usage))) == expected


# --- usage with holes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "amount", "partial"),
    [
        ({"output_tokens": None}, "1.025", "output tokens unknown"),
        ({"input_tokens": None, "cached_tokens": None}, "1", "input tokens unknown"),
        ({"cached_tokens": None}, "1.125", "cached tokens unknown"),
        ({"cached_tokens": None, "output_tokens": None}, "0.125", "cached tokens and output tokens unknown"),
        ({"cache_write_tokens": None}, "2.025", ""),
    ],
)
def test_a_hole_in_the_usage_gives_the_lowest_price_and_says_so(
    usage: dict[str, None], amount: str, partial: str
) -> None:
    priced = BOOK.price(call("gpt-5", **usage))
    assert priced == Priced(Decimal(amount), "USD", "genai-prices openai/gpt-5", partial)


def test_a_missing_number_of_cached_tokens_is_no_hole_where_caching_changes_no_rate() -> None:
    embedding = call("text-embedding-3-small", cached_tokens=None, output_tokens=0)
    assert dollars(BOOK.price(embedding)) == Decimal("0.02")


def test_the_same_usage_costs_between_the_extremes_that_its_cache_allows() -> None:
    """2,585,584 tokens in and 18,938 out of gpt-5: between $0.51 and $3.42, and only usage can tell."""
    usage = {"input_tokens": 2_585_584, "output_tokens": 18_938}
    amounts = [BOOK.price(call("gpt-5", **usage, cached_tokens=cached)) for cached in (0, 2_585_584)]
    assert [round(dollars(a), 2) for a in amounts] == [Decimal("3.42"), Decimal("0.51")]
    bound = BOOK.price(call("gpt-5", **usage, cached_tokens=None))
    assert isinstance(bound, Priced)
    assert (bound.amount, bound.partial) == (dollars(amounts[1]), "cached tokens unknown")


# --- overrides -----------------------------------------------------------------------------------

OWN = """
[alias]
"my-deployment" = "azure/gpt-5"
"house" = "house/model-7"

[[price]]
model = "house/model-*"
currency = "eur"
input = 1
cached = 0.1
output = 4
tiers = [{above = 500_000, input = 2, output = 8}]
variants.flex = {input = 0.5, output = 2}

[[price]]
model = "gpt-5"
provider = "openai"
valid_from = 2026-11-01
valid_to = 2026-11-20
input = 0
output = 0
"""


def test_the_users_own_price_comes_first_in_its_own_currency() -> None:
    own = book(OWN).price(call("house/model-7", input_tokens=500_000, cached_tokens=100_000))
    assert own == Priced(Decimal("0.81"), "EUR", "override number 1")


def test_the_users_rates_by_length_and_tier_hold() -> None:
    own = book(OWN)
    long = own.price(call("house/model-7"))
    flex = own.price(call("house/model-7", tier="flex"))
    assert [p.amount for p in (long, flex) if isinstance(p, Priced)] == [Decimal("2.42"), Decimal("0.7")]


def test_a_tier_that_an_override_does_not_have_is_asked_of_the_library() -> None:
    assert reason(book(OWN).price(call("house/model-7", tier="turbo"))).startswith("no price for")


def test_a_deployment_is_priced_by_its_alias() -> None:
    own = book(OWN)
    assert dollars(own.price(call(None, model_requested="My-Deployment"))) == Decimal("2.025")
    assert own.price(call("house", input_tokens=0, cached_tokens=0, output_tokens=1_000_000)) == Priced(
        Decimal("4"), "EUR", "override number 1"
    )
    assert reason(BOOK.price(call("my-deployment"))) == "no price for openai/my-deployment"


@pytest.mark.parametrize(
    ("day", "expected"),
    [("2026-10-31T23:59:59", "2.025"), ("2026-11-01T00:00:00", "0"), ("2026-11-20T00:00:00", "2.025")],
)
def test_an_override_holds_from_its_first_day_to_before_its_last(day: str, expected: str) -> None:
    at = datetime.fromisoformat(day).replace(tzinfo=UTC)
    assert dollars(book(OWN).price(call("gpt-5", at=at))) == Decimal(expected)


def test_an_override_for_one_provider_leaves_the_others_alone() -> None:
    at = datetime(2026, 11, 5, tzinfo=UTC)
    assert dollars(book(OWN).price(call("gpt-5", at=at, provider="azure.ai.openai"))) == Decimal("2.025")


def test_doubao_is_priced_in_yuan_by_input_length() -> None:
    def amount(model: str, input_tokens: int, output_tokens: int) -> Priced | Unpriced:
        counts = {"input_tokens": input_tokens, "cached_tokens": 0, "output_tokens": output_tokens}
        return BOOK.price(call(model, provider="volcengine", **counts))

    amounts = [
        amount("doubao-seed-1-6-250615", *counts)
        for counts in [(10_000, 200), (10_000, 1_000), (200_000, 200)]
    ]
    assert [(p.amount, p.currency) for p in amounts if isinstance(p, Priced)] == [
        (Decimal("0.0084"), "CNY"),
        (Decimal("0.016"), "CNY"),
        (Decimal("0.4848"), "CNY"),
    ]


def test_the_examples_of_the_page_are_prices() -> None:
    page = (Path(__file__).parent.parent / "docs" / "prices.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    mine = book(
        "\n".join(blocks) + "\n[[price]]\nmodel = 'long'\ninput = 1\noutput = 2\n" + long_inputs(page)
    )
    assert dollars(mine.price(call("lab-model-7b"))) == Decimal("0.244")
    assert dollars(mine.price(call("my-deployment"))) == dollars(mine.price(call("azure/gpt-5")))
    assert dollars(mine.price(call("long", cached_tokens=0))) == Decimal("4")
    assert dollars(mine.price(call("long", tier="flex", cached_tokens=0))) == Decimal("1.125")


def long_inputs(page: str) -> str:
    """What the table says of ``tiers`` and ``variants``, as it would stand in a file."""
    tiers = re.findall(r"`(\[\{above.*?\}\])`", page)
    variants = re.findall(r"`(variants\..*?\})`", page)
    assert len(tiers) == len(variants) == 1
    return f"tiers = {tiers[0]}\n{variants[0]}\n"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[price]\nmodel='x'", "'price' is not a list of tables"),
        ("[[price]]\ninput=1\noutput=1", "number 1: 'model' is missing"),
        ("[[price]]\nmodel='x'", "number 1 has no price"),
        ("[[price]]\nmodel='x'\ninput=1", "number 1: 'output' is missing"),
        ("[[price]]\nmodel='x'\ninput=-1\noutput=1", "'input' is not a price"),
        ("[[price]]\nmodel='x'\ninput=nan\noutput=1", "'input' is not a price"),
        ("[[price]]\nmodel='x'\ninput='1'\noutput=1", "'input' is not a number"),
        ("[[price]]\nmodel='x'\ninput=1\noutput=1\nouput=2", "unknown field 'ouput'"),
        ("[[price]]\nmodel='x'\ninput=1\noutput=1\nvalid_from='2026-01-01'", "'valid_from' is not a day"),
        ("[[price]]\nmodel='x'\ninput=1\noutput=1\ntiers=[{input=2}]", "'above' is not a number of tokens"),
        ("[alias]\na=1", r"\[alias\] is not a table of names"),
    ],
)
def test_an_override_that_cannot_be_understood_is_refused_as_a_whole(toml: str, message: str) -> None:
    with pytest.raises(PriceError, match=message):
        book(toml)


# --- the book itself -----------------------------------------------------------------------------


def test_the_name_changes_with_the_overrides_and_only_with_them() -> None:
    assert BOOK.name == PriceBook({}).name == PriceBook({"journal": "elsewhere.db"}).name
    assert book(OWN).name != BOOK.name
    assert book(OWN).name == book(OWN).name
    assert BOOK.name.startswith("genai-prices 0.")


def test_every_shipped_override_names_its_source() -> None:
    assert all(override.source for override in BOOK._shipped)


def test_genai_prices_is_not_loaded_before_it_is_asked() -> None:
    code = (
        "import sys; from telemetry.pricing import PriceBook; PriceBook().name; "
        "sys.exit('genai_prices' in sys.modules or 'sqlmodel' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
