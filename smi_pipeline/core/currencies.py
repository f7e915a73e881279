"""Currencies as Stripe counts them: which it takes, the decimals of its amounts, its smallest charges.

All of it is from https://docs.stripe.com/currencies."""

import re
from decimal import ROUND_CEILING, Decimal

from smi_pipeline.core.errors import RefusedError

_ZERO_DECIMAL = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
)
"""Without ISK and UGX: they have no decimals either, but Stripe counts them in hundredths for compatibility."""
_THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})

_STEPS = {"isk": 100, "ugx": 100} | dict.fromkeys(_THREE_DECIMAL, 10)
"""Whole multiples in which Stripe charges, in the smallest unit; 1 for all others."""

_MINIMUM_CHARGES = {
    "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 15_00, "dkk": 250, "eur": 50, "gbp": 30,
    "hkd": 400, "huf": 175_00, "inr": 50, "jpy": 50, "mxn": 10_00, "myr": 200, "nok": 300, "nzd": 50, "pln": 200,
    "ron": 200, "sek": 300, "sgd": 50, "thb": 10_00, "usd": 50,
}  # fmt: skip
"""The smallest charge that is settled in the currency (#minimum-and-maximum-charge-amounts), in the smallest unit. Of a
charge that is settled in another one, Stripe converts the amount first and judges it there."""

CURRENCIES = frozenset(
    """aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf clp
    cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg huf idr ils inr isk
    jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn myr mzn
    nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle sos srd std
    szl thb tjs tnd top try ttd twd tzs uah ugx usd uyu uzs vnd vuv wst xaf xcd xcg xof xpf yer
    zar zmw""".split()  # noqa: SIM905 - codes read better as a text
)
"""The currencies that Stripe charges in (#presentment-currencies)."""


def charged_currency(code: str) -> str:
    """Return the code in lower case. Raises ValueError for a currency that Stripe does not charge in."""
    currency = code.strip().lower()
    if currency not in CURRENCIES:
        raise ValueError(f"{code!r} is not a currency that Stripe charges in (docs.stripe.com/currencies)")
    return currency


def stripe_decimals(currency: str) -> int:
    """Return the power of ten between a unit of the currency and Stripe's smallest unit.

    Raises RefusedError for anything but three letters."""
    if not re.fullmatch(r"[A-Za-z]{3}", currency):
        raise RefusedError(f"{currency!r} is not an ISO 4217 currency code")
    code = currency.lower()
    return 0 if code in _ZERO_DECIMAL else 3 if code in _THREE_DECIMAL else 2


def minimum_charge(currency: str) -> int:
    """Return the smallest charge in the currency, in Stripe's smallest unit; one step of it where Stripe names none."""
    return _MINIMUM_CHARGES.get(currency, _STEPS.get(currency, 1))


def chargeable(smallest: Decimal, currency: str) -> int:
    """Return an amount rounded up to one that Stripe charges: 5121 kwd is 5130, 1250 isk is 1300, 49.5 usd is 50."""
    step = _STEPS.get(currency, 1)
    return int((smallest / step).to_integral_value(ROUND_CEILING)) * step


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
