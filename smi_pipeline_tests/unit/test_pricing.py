"""Costs, prices, fees and margins of `core.pricing`."""

from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smi_pipeline.core.pricing import Prices, credits, margin_percent, output_megapixels, output_pixels

SIDES = st.integers(1, 60_000)
SCALES = st.sampled_from([2, 4, 8, 16])


def test_output_has_the_source_pixels_times_the_square_of_the_scale() -> None:
    assert output_pixels(1000, 750, 4) == 12_000_000
    assert output_megapixels(1000, 750, 4) == 12


@pytest.mark.parametrize("size", [(0, 10, 4), (10, 0, 4), (10, 10, 0), (-1, 10, 4)])
def test_a_size_of_nothing_is_an_error(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="not a size"):
        output_pixels(*size)


@pytest.mark.parametrize(
    ("megapixels", "expected"),
    [("0.000016", 1), ("1", 1), ("4", 1), ("4.000001", 2), ("8", 2), ("12", 3), ("64", 16), ("256", 64)],
)
def test_credits_are_a_quarter_of_the_output_megapixels_rounded_up_and_at_least_one(
    megapixels: str, expected: int
) -> None:
    assert credits(Decimal(megapixels)) == expected


@given(SIDES, SIDES, SCALES)
def test_credits_are_exact_for_every_size(width: int, height: int, scale: int) -> None:
    exact = max(1, ceil(Fraction(width * height * scale * scale, 4_000_000)))
    assert credits(output_megapixels(width, height, scale)) == exact


@pytest.mark.parametrize(
    ("needed", "cost", "price"),
    [(1, 4, 50), (4, 16, 50), (5, 20, 60), (16, 64, 192), (64, 256, 768)],
)
def test_default_prices_are_three_times_the_cost_and_at_least_fifty_cents(needed: int, cost: int, price: int) -> None:
    prices = Prices()
    assert (prices.cost_cents(needed), prices.price_cents(needed)) == (cost, price)


def test_fractions_of_a_cent_are_rounded_up_once_and_at_the_end() -> None:
    prices = Prices(Decimal(50), Decimal("3.3"), Decimal("2.9"), 30)
    assert prices.cost_cents(11) == 37  # 36.3
    assert prices.price_cents(11) == 55  # 54.45, not 1.5 x 37 = 55.5


def test_binary_fractions_do_not_add_a_cent() -> None:
    assert Prices(markup_percent=Decimal("10")).price_cents(25) == 110  # 100 * 1.1 is 110.00000000000001 in floats


@pytest.mark.parametrize(("received", "fee"), [(0, 0), (50, 31), (192, 36), (500, 45), (1000, 59), (10_000, 320)])
def test_the_fee_estimate_is_rounded_to_the_nearest_cent_and_nothing_of_nothing(received: int, fee: int) -> None:
    assert Prices().stripe_fee_cents(received) == fee


def test_margin_uses_the_known_fee_and_estimates_an_unknown_one() -> None:
    prices = Prices()
    assert prices.margin_cents(received_cents=192, cost_cents=64, fee_cents=40) == 88
    assert prices.margin_cents(received_cents=192, cost_cents=64) == 92


def test_a_refunded_order_costs_the_fee_and_the_credits() -> None:
    assert Prices().margin_cents(received_cents=192, cost_cents=64, refunded_cents=192) == -100


def test_margin_in_percent_is_unknown_without_revenue() -> None:
    assert margin_percent(0, 0) is None
    assert margin_percent(92, 192) == Decimal("47.9")
    assert margin_percent(-100, 192) == Decimal("-52.1")


def test_a_quote_holds_every_figure_of_one_upscale() -> None:
    quote = Prices().quote(1000, 1000, 8)
    assert (quote.credits, quote.cost_cents, quote.price_cents) == (16, 64, 192)
    assert (quote.stripe_fee_cents, quote.margin_cents) == (36, 92)


@given(SIDES, SIDES, SCALES, st.decimals(0, 500, places=2), st.decimals("0.01", 50, places=2))
def test_a_price_is_never_below_cost_nor_below_the_minimum(
    width: int, height: int, scale: int, markup: Decimal, credit: Decimal
) -> None:
    quote = Prices(markup, credit, Decimal("2.9"), 30).quote(width, height, scale)
    assert quote.price_cents >= max(50, quote.cost_cents)


@pytest.mark.parametrize(
    "values",
    [
        {"markup_percent": Decimal(-1)},
        {"credit_cents": Decimal("NaN")},
        {"fee_percent": Decimal("Infinity")},
        {"fee_fixed_cents": -1},
    ],
)
def test_a_senseless_price_list_is_refused(values: dict[str, Decimal]) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        Prices(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("currency", "credit", "needed", "price"),
    [
        ("eur", "4", 1, 50),
        ("gbp", "4", 1, 30),
        ("jpy", "6", 1, 50),
        ("jpy", "6.1", 16, 293),  # 292.8 yen
        ("kwd", "12", 16, 580),  # 576 thousandths
        ("isk", "550", 1, 1700),  # 16.50 krónur
        ("sek", "40", 1, 300),
        ("krw", "55", 1, 165),  # no minimum of its own: Stripe judges it after the conversion
    ],
)
def test_a_price_is_in_the_units_of_its_currency_and_at_least_its_minimum(
    currency: str, credit: str, needed: int, price: int
) -> None:
    assert Prices(credit_cents=Decimal(credit), currency=currency).price_cents(needed) == price


def test_a_minimum_of_the_shop_goes_before_a_smaller_one_of_stripe() -> None:
    assert Prices(minimum_cents=70).price_cents(1) == 70
    assert Prices(minimum_cents=20).price_cents(1) == 50
