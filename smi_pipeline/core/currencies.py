"""Conversion between units of a currency and Stripe's smallest unit (https://docs.stripe.com/currencies)."""

import re
from decimal import Decimal

from smi_pipeline.core.errors import RefusedError

_ZERO_DECIMAL = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
)
"""Without ISK and UGX: they have no decimals either, but Stripe counts them in hundredths for compatibility."""
_THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})


def stripe_decimals(currency: str) -> int:
    """Return the power of ten between a unit of the currency and Stripe's smallest unit.

    Raises RefusedError for anything but three letters."""
    if not re.fullmatch(r"[A-Za-z]{3}", currency):
        raise RefusedError(f"{currency!r} is not an ISO 4217 currency code")
    code = currency.lower()
    return 0 if code in _ZERO_DECIMAL else 3 if code in _THREE_DECIMAL else 2


def to_units(smallest: int, currency: str) -> Decimal:
    """Return Stripe's integer amount in units: 1234 usd is 12.34, 120 jpy is 120."""
    return Decimal(smallest).scaleb(-stripe_decimals(currency))


def to_smallest(units: Decimal, currency: str) -> int:
    """Return an amount in units as Stripe's integer: 12.34 usd is 1234, 120 jpy is 120.

    Raises ValueError when the currency has no coin that small."""
    smallest = units.scaleb(stripe_decimals(currency))
    if smallest != smallest.to_integral_value():
        raise ValueError(f"{units} {currency} is not a whole number of the smallest unit")
    return int(smallest)
