"""Amounts in units and in Stripe's smallest unit."""

from decimal import Decimal

import pytest

from smi_pipeline.core.currencies import stripe_decimals, to_smallest, to_units
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
