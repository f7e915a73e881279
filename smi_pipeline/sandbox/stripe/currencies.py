"""Currencies in the Stripe sandbox: their decimals, what is too little, and what the account is paid out in.

The figures are those of https://docs.stripe.com/currencies. The rates of exchange are fixed.
"""

from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from babel.numbers import format_currency

from smi_pipeline.sandbox.stripe.forms import StripeError

_DECIMALS = dict.fromkeys(("clp", "jpy", "krw", "vnd", "xaf", "xof"), 0) | dict.fromkeys(("bhd", "kwd", "omr"), 3)
_STEPS = {"isk": 100, "ugx": 100, "bhd": 10, "kwd": 10, "omr": 10}
_MINIMUM = {
    "usd": 50, "eur": 50, "gbp": 30, "chf": 50, "jpy": 50, "sek": 300, "nok": 300, "dkk": 250, "hkd": 400, "mxn": 1000,
    "czk": 1500, "pln": 200, "cad": 50, "aud": 50,
}  # fmt: skip
_DOLLARS = {  # that one unit is worth
    "usd": "1", "eur": "1.234", "gbp": "1.31", "chf": "1.25", "jpy": "0.0067", "sek": "0.105", "nok": "0.1",
    "dkk": "0.165", "hkd": "0.128", "mxn": "0.054", "czk": "0.049", "pln": "0.27", "cad": "0.72", "aud": "0.65",
    "krw": "0.00072", "vnd": "0.00004", "clp": "0.0011", "xaf": "0.0018", "xof": "0.0018", "isk": "0.008",
    "ugx": "0.00027", "huf": "0.003", "kwd": "3.25", "bhd": "2.65", "omr": "2.6",
}  # fmt: skip


def decimals(currency: str) -> int:
    """Return the digits behind the point of an amount in the currency."""
    return _DECIMALS.get(currency, 2)


def formatted(amount: int, currency: str) -> str:
    """Return an amount in the smallest unit as a page shows it, `$5.00` or `¥500`."""
    return format_currency(Decimal(amount).scaleb(-decimals(currency)), currency.upper(), locale="en_US")


def rate(currency: str, into: str) -> Fraction:
    """Return by what an amount in one currency is multiplied, in smallest units, to be one in the other: Stripe's
    `exchange_rate`."""
    units = Fraction(_DOLLARS[currency]) / Fraction(_DOLLARS[into])
    return units * Fraction(10) ** (decimals(into) - decimals(currency))


def converted(amount: int, factor: Fraction) -> int:
    """Return the amount in the other currency, rounded half up."""
    exact = Decimal((amount * factor).numerator) / Decimal((amount * factor).denominator)
    return int(exact.quantize(Decimal(1), ROUND_HALF_UP))


def check_charge(amount: int, currency: str, settlement: str) -> None:
    """Raise StripeError for a charge that Stripe refuses: too small once it is converted to the currency of
    `settlement`, not a multiple of what the currency allows, or in a currency that is not known."""
    if currency not in _DOLLARS:
        message = f"Invalid currency: {currency}. Stripe currently supports these currencies: {', '.join(_DOLLARS)}"
        raise StripeError(message, param="line_items[0][price_data][currency]")
    step = _STEPS.get(currency, 1)
    if amount % step:
        raise StripeError(f"Invalid amount: {amount}. It must be a multiple of {step} in {currency}.", param="amount")
    least = _MINIMUM.get(settlement, 1)
    if converted(amount, rate(currency, settlement)) < least:
        shown = formatted(least, settlement)
        message = f"The Checkout Session's total amount due must add up to at least {shown} {settlement}"
        raise StripeError(message, code="amount_too_small")
