"""How mails and pages write money, sizes, times and the words of strangers. Pure functions only."""

import re
from datetime import UTC, datetime
from decimal import Decimal

from smi_pipeline.core.errors import RefusedError

RATINGS = {1: "Poor", 2: "Fair", 3: "Good", 4: "Very good", 5: "Excellent"}

# Stripe's "smallest unit" is the whole unit for these: https://docs.stripe.com/currencies#zero-decimal
_ZERO_DECIMAL = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"}
)
# Without decimals in ISO 4217, yet Stripe counts them in hundredths for compatibility.
_ZERO_DECIMAL_IN_HUNDREDTHS = frozenset({"isk", "ugx"})
_THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
_SYMBOLS = {
    "aud": "A$", "brl": "R$", "cad": "CA$", "cny": "CN¥", "eur": "€", "gbp": "£", "hkd": "HK$", "ils": "₪",
    "inr": "₹", "jpy": "¥", "krw": "₩", "mxn": "MX$", "nzd": "NZ$", "php": "₱", "twd": "NT$", "usd": "$",
    "vnd": "₫",
}  # fmt: skip
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def money(amount_cents: int, currency: str) -> str:
    """An amount in Stripe's smallest unit as a customer writes it: `€1.20`, `¥120`, `CHF 1.20`."""
    code = currency.strip().lower()
    if not re.fullmatch(r"[a-z]{3}", code):
        raise RefusedError(f"{currency!r} is not an ISO 4217 currency code")
    decimals = 0 if code in _ZERO_DECIMAL else 3 if code in _THREE_DECIMAL else 2
    amount = Decimal(abs(amount_cents)).scaleb(-decimals)
    if code in _ZERO_DECIMAL_IN_HUNDREDTHS and amount == amount.to_integral():
        decimals = 0
    symbol = _SYMBOLS.get(code, f"{code.upper()}\N{NO-BREAK SPACE}")
    return f"{'-' if amount_cents < 0 else ''}{symbol}{amount:,.{decimals}f}"


def file_size(size: int) -> str:
    """Bytes in decimal units, as file managers and shops show them: `812 bytes`, `850 KB`, `4.2 MB`."""
    if size < 1_000:
        return f"{size} byte" if size == 1 else f"{size} bytes"
    if size < 999_500:  # from here on it would read 1,000 KB
        return f"{size / 1_000:.0f} KB"
    if size < 999_500_000:
        return f"{size / 1_000_000:.{1 if size < 99_950_000 else 0}f} MB"
    return f"{size / 1_000_000_000:,.1f} GB"


def dimensions(width: int, height: int) -> str:
    """`2,048 × 1,536 pixels`."""
    return f"{width:,} × {height:,} pixels"


def moment(at: datetime) -> str:
    """`Saturday 21 November 2026, 14:05 UTC`, whatever the locale of the process."""
    at = in_utc(at, "the time")
    return f"{_WEEKDAYS[at.weekday()]} {at.day} {_MONTHS[at.month - 1]} {at.year}, {at:%H:%M} UTC"


def time_left(until: datetime, now: datetime) -> str:
    """The rounded time from `now` to `until`: `24 hours`, `45 minutes`, `3 days`; empty when it is over."""
    minutes = round((in_utc(until, "the expiry") - in_utc(now, "the date")).total_seconds() / 60)
    if minutes <= 0:
        return ""
    if minutes < 60:
        return f"{minutes} minute{'' if minutes == 1 else 's'}"
    hours = round(minutes / 60)
    if hours <= 48:
        return f"{hours} hour{'' if hours == 1 else 's'}"
    return f"{round(hours / 24)} days"


def in_utc(at: datetime, what: str) -> datetime:
    """`at` in UTC. Raises RefusedError for a time without a zone, which could mean any hour."""
    if at.tzinfo is None:
        raise RefusedError(f"{what} needs a time zone")
    return at.astimezone(UTC)


def one_line(value: str, limit: int = 80) -> str:
    """Text of a stranger (a name, a file name) made fit for a line of a mail: no line breaks, bounded."""
    printable = "".join(c if c.isprintable() else " " for c in value)
    words = " ".join(printable.split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
