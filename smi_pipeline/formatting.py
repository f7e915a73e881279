"""Format amounts, numbers, times, sizes and untrusted text for mails, pages, reports and the command line."""

import unicodedata
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import PurePosixPath

import idna
from babel import Locale
from babel.dates import format_date, format_datetime
from babel.numbers import format_currency, format_decimal, format_percent, get_currency_symbol
from babel.units import format_unit

from smi_pipeline.core.currencies import to_units
from smi_pipeline.core.errors import RefusedError

LOCALE = "en"
RATINGS = {1: "Poor", 2: "Fair", 3: "Good", 4: "Very good", 5: "Excellent"}
NONE = "–"
"""Stands for a value that does not exist."""
_DAY = "EEEE d MMMM y"
_STEM_BYTES = 240
_JOINERS = "\u200c\u200d"
_NEAR = 16
"""Characters beside a joiner that are looked at."""


def money(smallest: int, currency: str, *, symbol: bool = True, locale: str = LOCALE) -> str:
    """Return an amount in Stripe's smallest unit as `€1.20`, `¥120`, `CHF 1.20`; without `symbol` as `1.20`.

    Raises RefusedError when `currency` is not a currency code."""
    units, code = to_units(smallest, currency), currency.upper()
    pattern = Locale.parse(locale).currency_formats["standard"].pattern
    if not symbol:
        pattern = pattern.replace("¤", "").strip()
    elif get_currency_symbol(code, locale)[-1].isalpha():  # CLDR's currency spacing, which babel does not apply
        pattern = pattern.replace("¤#", "¤\N{NO-BREAK SPACE}#")
    # Without quantization no digit is lost where Stripe counts hundredths of a currency that has none.
    return format_currency(units, code, pattern, locale=locale, decimal_quantization=False)


def told_money(smallest: int, currency: str) -> str:
    """Return an amount that another service has told like `money`, or in its own words if they name no currency."""
    try:
        return money(smallest, currency)
    except RefusedError:
        return f"{smallest} {currency!r}"


def number(value: float, *, locale: str = LOCALE) -> str:
    """Return a number with three significant digits, or with all digits before the point: `0.07`, `44.1`, `12,345`."""
    digits = Decimal(f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}")
    return format_decimal(digits, "#,##0", locale=locale, decimal_quantization=False)


def counted(count: int, noun: str, *, locale: str = LOCALE) -> str:
    """Return a number of things: `1 credit`, `1,200 credits`."""
    return f"{format_decimal(count, '#,##0', locale=locale)} {noun}{'' if count == 1 else 's'}"


def percent(share: float | None, *, decimals: int = 1, locale: str = LOCALE) -> str:
    """Return a share as `95.8%`, a dash for None."""
    return NONE if share is None else format_percent(share, f"0.{'0' * decimals}%", locale=locale)


def duration(seconds: float | None, *, locale: str = LOCALE) -> str:
    """Return seconds as `0.25 s`, `4.2 s`, `3 min 5 s`, `2 h 10 min`, a dash for None."""
    if seconds is None:
        return NONE
    if seconds < 9.95:
        return f"{format_decimal(max(0, seconds), '0.00' if seconds < 0.995 else '0.0', locale=locale)} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    unit, name, part = (60, "min", "s") if whole < 3600 else (3600, "h", "min")
    rest = whole % unit * 60 // unit
    return f"{number(whole // unit, locale=locale)} {name}" + (f" {rest} {part}" if rest else "")


def file_size(size: int, *, locale: str = LOCALE) -> str:
    """Return bytes in decimal units: `812 bytes`, `850 KB`, `4.2 MB`."""
    if size < 1_000:
        return format_unit(size, "digital-byte", locale=locale)
    for limit, divisor, pattern, unit in (
        (999_500, 1_000, "0", "KB"),
        (99_950_000, 1_000_000, "0.0", "MB"),
        (999_500_000, 1_000_000, "0", "MB"),
    ):
        if size < limit:
            return f"{format_decimal(size / divisor, pattern, locale=locale)} {unit}"
    return f"{format_decimal(size / 1_000_000_000, '#,##0.0', locale=locale)} GB"


def dimensions(width: int, height: int, *, locale: str = LOCALE) -> str:
    """Return the size of an image as `2,048 × 1,536 pixels`."""
    return f"{number(width, locale=locale)} × {number(height, locale=locale)} pixels"


def day(value: date, pattern: str = _DAY, *, locale: str = LOCALE) -> str:
    """Return a date as `Saturday 21 November 2026`, or by another CLDR pattern."""
    return format_date(value, pattern, locale=locale)


def moment(at: datetime, *, locale: str = LOCALE) -> str:
    """Return a time as `Saturday 21 November 2026, 14:05 UTC`."""
    return format_datetime(in_utc(at, "the time"), f"{_DAY}, HH:mm 'UTC'", tzinfo=UTC, locale=locale)


def time_left(until: datetime, now: datetime, *, locale: str = LOCALE) -> str:
    """Return the rounded time from `now` to `until`: `24 hours`, `45 minutes`, `3 days`; empty when it is over."""
    minutes = round((in_utc(until, "the expiry") - in_utc(now, "the date")).total_seconds() / 60)
    if minutes <= 0:
        return ""
    if minutes < 60:
        return format_unit(minutes, "duration-minute", locale=locale)
    hours = round(minutes / 60)
    return (
        format_unit(hours, "duration-hour", locale=locale)
        if hours <= 48
        else format_unit(round(hours / 24), "duration-day", locale=locale)
    )


def in_utc(at: datetime, what: str) -> datetime:
    """Return `at` in UTC. Raises RefusedError for a time without a zone."""
    if at.tzinfo is None:
        raise RefusedError(f"{what} needs a time zone")
    return at.astimezone(UTC)


def safe_stem(name: str) -> str:
    """Return the name of a file without its extension, safe to save on any system: letters, marks and digits of every
    script, composed (NFC), with `-`, `_`, `.` and spaces; `-` for anything else. Joiners stay where words need them.
    `image` if nothing is left."""
    kept = ""
    whole = unicodedata.normalize("NFC", PurePosixPath(name).stem)
    for at, character in enumerate(whole):
        category = unicodedata.category(character)[0]
        if character in _JOINERS:
            kept += character if _joins(whole, at) else ""
        elif category in "LN" or character in "-_. " or (category == "M" and kept and _carries_marks(kept[-1])):
            kept += character
        elif category != "M":  # a mark of what was not kept goes with it
            kept += "-"
    # So many bytes, and the rest of the name, are as much as file systems take.
    stem = kept.strip(" .-")[:80].encode()[:_STEM_BYTES].decode(errors="ignore")
    return stem.strip(f" .-{_JOINERS}") or "image"


def _joins(name: str, at: int) -> bool:
    """Return whether a joiner stands within a word where identifiers may have it (RFC 5892, appendix A): Persian and
    Indic scripts are spelt with it. Elsewhere it is invisible."""
    if unicodedata.category(name[at + 1 : at + 2] or " ")[0] not in "LM":
        return False
    try:
        return idna.core.valid_contextj(name[max(0, at - _NEAR) : at + _NEAR], min(at, _NEAR))
    except ValueError:  # beside a character that Unicode does not know
        return False


def _carries_marks(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN"


def one_line(value: str, limit: int = 80) -> str:
    """Return untrusted text (a name, a file name) on one line of at most `limit` printable characters."""
    printable = "".join(c if c.isprintable() else " " for c in value)
    words = " ".join(printable.split())
    return words if len(words) <= limit else words[: limit - 1] + "…"
