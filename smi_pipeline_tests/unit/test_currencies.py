"""Amounts in units and in Stripe's smallest unit."""

from decimal import Decimal

import pytest

from smi_pipeline.core.currencies import (
    CURRENCIES,
    chargeable,
    charged_currency,
    minimum_charge,
    stripe_decimals,
    to_smallest,
    to_units,
)
from smi_pipeline.core.errors import RefusedError


@pytest.mark.parametrize(
    ("units", "currency", "smallest"),
    [
        ("12.34", "usd", 1234),
        ("120", "JPY", 120),
        ("5000", "ugx", 500_000),
        ("50", "isk", 5_000),
        ("12.345", "kwd", 12_345),
    ],
)
def test_an_amount_is_converted_both_ways(units: str, currency: str, smallest: int) -> None:
    assert to_smallest(Decimal(units), currency) == smallest
    assert to_units(smallest, currency) == Decimal(units)


@pytest.mark.parametrize(("units", "currency"), [("1.5", "jpy"), ("0.001", "usd"), ("0.0001", "kwd")])
def test_an_amount_below_the_smallest_unit_is_an_error(units: str, currency: str) -> None:
    with pytest.raises(ValueError, match="smallest unit"):
        to_smallest(Decimal(units), currency)


@pytest.mark.parametrize("code", ["euro", "", "u$d", "éur", "us\n"])
def test_what_is_no_currency_code_is_refused(code: str) -> None:
    with pytest.raises(RefusedError, match="ISO 4217"):
        stripe_decimals(code)


@pytest.mark.parametrize(
    ("currency", "least"),
    [("usd", "0.50"), ("eur", "0.50"), ("gbp", "0.30"), ("jpy", "50"), ("sek", "3.00"), ("hkd", "4.00"), ("mxn", "10"),
     ("czk", "15.00"), ("huf", "175.00"), ("dkk", "2.50"), ("thb", "10")],
)  # fmt: skip
def test_the_smallest_charge_is_that_of_the_currency(currency: str, least: str) -> None:
    assert to_units(minimum_charge(currency), currency) == Decimal(least)


@pytest.mark.parametrize(
    ("exact", "currency", "charged"),
    [("49.01", "usd", 50), ("49.01", "jpy", 50), ("5121", "kwd", 5130), ("1201", "isk", 1300), ("1200", "ugx", 1200)],
)
def test_an_amount_is_rounded_up_to_one_that_stripe_charges(exact: str, currency: str, charged: int) -> None:
    assert chargeable(Decimal(exact), currency) == charged


def test_every_currency_has_a_smallest_charge_that_can_be_charged() -> None:
    for currency in CURRENCIES:
        least = minimum_charge(currency)
        assert least == chargeable(Decimal(least), currency) > 0


def test_a_currency_that_stripe_does_not_charge_in_is_refused() -> None:
    assert charged_currency(" EUR ") == "eur"
    for code in ("dem", "xau", "euro", ""):
        with pytest.raises(ValueError, match=r"not a currency that Stripe charges in"):
            charged_currency(code)
