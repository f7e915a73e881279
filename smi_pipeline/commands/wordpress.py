"""Read a CSV export of the table `wp_smi_jobs` of the WordPress plugin "Sell My Images".

The columns are those of `DatabaseManager::create_tables` in github.com/chubes4/sell-my-images; `REQUIRED` names the
ones that a file must have. Only closed orders are imported: finish or refund open paid orders in WordPress first.
"""

import csv
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from smi_pipeline.core import pricing, reasons
from smi_pipeline.core.currencies import minimum_charge, to_smallest
from smi_pipeline.core.errors import RefusedError
from smi_pipeline.core.vocabulary import Status
from smi_pipeline.formatting import safe_stem
from smi_pipeline.state.imported_jobs import HistoricJob

REQUIRED = ("job_id", "image_url", "resolution", "email", "status", "created_at")
_EMPTY = frozenset({"", "NULL", "\\N", "0000-00-00 00:00:00"})  # empty values of phpMyAdmin, mysql and MySQL
_STATUSES = tuple(Status)  # the plugin has the same
_LARGEST = 99_999_999  # what Stripe charges at most, in the smallest unit
_FORMATS = {".png": "PNG", ".webp": "WEBP"}


@dataclass
class Parsed:
    """The result of reading an export: `jobs` by line number, `problems` as (line, what is wrong)."""

    jobs: dict[int, HistoricJob] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)


class _Bad(ValueError):
    """Raised with what is wrong in a row."""


def parse(lines: Iterable[str], *, timezone: tzinfo = UTC, currency: str = "usd") -> Parsed:
    """Return the rows of an export. WordPress writes times without a zone: `timezone` is the site's.

    Raises RefusedError when it is not an export of this table."""
    rows = iter(lines)
    header = next(rows, "")
    delimiter = max(",;\t", key=header.count)
    names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise RefusedError(f"line 1 must name the columns of wp_smi_jobs; missing: {', '.join(missing)}")
    parsed, seen = Parsed(), dict[str, int]()
    reader = csv.reader(rows, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 2  # where the next row begins; an address may hold line breaks
        try:
            cells = next(reader)
        except StopIteration:
            return parsed
        except csv.Error as error:
            parsed.problems.append((line, f"cannot be read as CSV: {error}"))
            return parsed
        if not cells:
            continue
        try:
            if len(cells) != len(names):
                raise _Bad(f"has {len(cells)} columns, line 1 has {len(names)}")
            row = {n: c.strip() for n, c in zip(names, cells, strict=True) if c.strip() not in _EMPTY}
            job = _job(row, timezone, currency)
            if job.job_id in seen:
                raise _Bad(f"has the same job_id as line {seen[job.job_id]}")
            seen[job.job_id] = line
            parsed.jobs[line] = job
        except _Bad as error:
            parsed.problems.append((line, str(error)))


def _job(row: Mapping[str, str], timezone: tzinfo, currency: str) -> HistoricJob:
    for name in REQUIRED:
        if name not in row and name != "email":  # newer versions ask for it at Checkout only
            raise _Bad(f"{name} is empty")
    created = _time(row, "created_at", timezone)
    assert created is not None
    job_id = row["job_id"].replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", job_id):
        raise _Bad("job_id is not a UUID")
    if row["resolution"] not in ("4x", "8x"):
        raise _Bad(f"resolution {row['resolution'][:20]!r} is neither 4x nor 8x")
    if row["status"] not in _STATUSES:
        raise _Bad(f"status {row['status'][:20]!r} is not known")
    url = urlsplit(row["image_url"])
    if url.scheme not in ("http", "https") or not url.hostname:
        raise _Bad("image_url is not an http(s) URL")
    email = row.get("email", "")
    if email and not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
        raise _Bad("email is not an address")
    scale = int(row["resolution"][0])
    charged, refunded = _smallest(row, "amount_charged", currency), _smallest(row, "refund_amount", currency)
    paid_at = _time(row, "paid_at", timezone)
    if paid_at is None and row.get("payment_status") in ("paid", "refunded"):
        paid_at = created  # older versions do not store it
    refunded_at = _time(row, "refunded_at", timezone)
    status = _status(row, paid=paid_at is not None, refunded=bool(refunded_at or refunded))
    if paid_at is not None and not charged:
        raise _Bad("is paid, but amount_charged is empty")
    credits = _whole(row, "credits_used")
    width, height, remark = _size(row, scale, credits)
    completed = _time(row, "completed_at", timezone)
    updated = _time(row, "updated_at", timezone) or created
    back = status is Status.REFUNDED
    reason = reasons.REFUNDED_OUTSIDE if back else reasons.UPSCALE_FAILED if status is Status.FAILED else None
    return HistoricJob(
        job_id=job_id,
        origin=f"wordpress:{row.get('id', job_id)}",
        status=status,
        created_at=created,
        source_url=row["image_url"],
        file_name=safe_stem(unquote(url.path)),
        resolution=row["resolution"],
        scale=scale,
        customer_email=email,
        source_format=_FORMATS.get(PurePosixPath(url.path).suffix.lower(), "JPEG"),
        source_width=width,
        source_height=height,
        price_cents=charged or minimum_charge(currency),
        currency=currency,
        expected_credits=credits or pricing.credits(pricing.output_megapixels(width, height, scale)),
        payment_intent_id=row.get("stripe_payment_intent_id") or row.get("payment_intent_id") if paid_at else None,
        checkout_session_id=row.get("stripe_checkout_session_id"),
        paid_at=paid_at,
        # A start without an end would count as a processing time.
        processing_at=_time(row, "processing_started_at", timezone) if completed else None,
        completed_at=(completed or updated) if status is Status.COMPLETED else None,
        failed_at=(_time(row, "failed_at", timezone) or updated)
        if status in (Status.FAILED, Status.REFUNDED)
        else None,
        refunded_at=(refunded_at or updated) if back else None,
        refund_cents=(refunded or charged) if back else None,
        external_id=row.get("upsampler_job_id"),
        credits=credits,
        reason_code=reason,
        reason_text=row.get("refund_reason") or row.get("failure_reason") or (reason and reasons.FOR_CUSTOMER[reason]),
        remark=remark,
    )


def _status(row: Mapping[str, str], *, paid: bool, refunded: bool) -> Status:
    status = row["status"]
    if status == Status.COMPLETED:
        return Status.COMPLETED
    if not paid:
        return Status.ABANDONED
    if refunded or Status.REFUNDED in (status, row.get("payment_status")):
        return Status.REFUNDED
    if status == Status.FAILED:
        return Status.FAILED  # paid without a recorded refund: `smi jobs refund` checks Stripe
    raise _Bad(f"is paid and still open ({status}): finish or refund it in WordPress first")


def _size(row: Mapping[str, str], scale: int, credits: int | None) -> tuple[int, int, str | None]:
    width, height = _whole(row, "image_width"), _whole(row, "image_height")
    if width and height:
        return width, height, None
    cost = _smallest(row, "amount_cost", "usd")
    spent = credits or (round(cost / 4) if cost else 0)  # the plugin's constant: a credit costs $0.04
    if spent < 1:
        raise _Bad("has neither image_width and image_height nor credits_used or amount_cost to tell the size by")
    side = max(1, math.isqrt(round(spent / pricing.CREDITS_PER_MEGAPIXEL * 1_000_000)) // scale)
    return side, side, "size estimated from the credits, as a square"


def _time(row: Mapping[str, str], name: str, timezone: tzinfo) -> datetime | None:
    if name not in row:
        return None
    try:
        at = datetime.fromisoformat(row[name])
        return (at if at.tzinfo else at.replace(tzinfo=timezone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _Bad(f"{name} is not a time like 2026-11-20 14:05:00") from None


def _smallest(row: Mapping[str, str], name: str, currency: str) -> int | None:
    if name not in row:
        return None
    try:
        amount = to_smallest(Decimal(row[name]), currency)
    except (InvalidOperation, ValueError, OverflowError):
        amount = -1
    if not 0 <= amount <= _LARGEST:
        raise _Bad(f"{name} is not an amount of money in {currency.upper()}")
    return amount


def _whole(row: Mapping[str, str], name: str) -> int | None:
    if name not in row:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", row[name]):
        raise _Bad(f"{name} is not a whole number")
    return int(row[name])
