"""Orders of the WordPress plugin "Sell My Images", from rows of its table `wp_smi_jobs`.

The columns are those of `DatabaseManager::create_tables` in github.com/chubes4/sell-my-images; `REQUIRED` names the
ones that a file must have. Only closed orders are imported: finish or refund open paid orders first.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from urllib.parse import unquote, urlsplit

from smi_pipeline.commands import local_times
from smi_pipeline.commands.exports import NULLS, Export
from smi_pipeline.core import pricing, reasons
from smi_pipeline.core.currencies import minimum_charge, to_smallest
from smi_pipeline.core.errors import RefusedError
from smi_pipeline.core.vocabulary import DisputeState, Status
from smi_pipeline.formatting import safe_stem
from smi_pipeline.services.past_sales import PastSale
from smi_pipeline.services.refund import DISPUTE_STATES
from smi_pipeline.state.imported_jobs import HistoricDispute, HistoricJob, HistoricRefund

REQUIRED = ("job_id", "image_url", "resolution", "email", "status", "created_at")
TIMES = (
    "created_at", "paid_at", "processing_started_at", "completed_at", "failed_at", "refunded_at", "updated_at"
)  # fmt: skip
_EMPTY = NULLS | {"0000-00-00 00:00:00"}
_STATUSES = tuple(Status)  # the plugin has the same
_LARGEST = 99_999_999  # what Stripe charges at most, in the smallest unit
_LARGEST_SIDE, _MOST_CREDITS = 100_000, 1_000_000  # far more than any image: the reports add them up
_FORMATS = {".png": "PNG", ".webp": "WEBP"}
_ID = re.compile(r"[!-~]{3,255}")


@dataclass(frozen=True, kw_only=True)
class Site:
    """How a site writes: its zone and that of its database server, which sets `updated_at`; the order of day and month
    if Excel has changed them; the currency of the prices, and what a credit costs in it, if that is known."""

    timezone: tzinfo = UTC
    database_timezone: tzinfo = UTC
    dates: str | None = None
    currency: str = "usd"
    credit_cents: Decimal | None = None


def times_in(export: Export) -> list[str]:
    """Return all times of an export as they are written."""
    columns = [n for n, name in enumerate(export.names) if name in TIMES]
    return [_bare(record.cells[n]) for record in export.records if not record.problem for n in columns]


def read_order(names: list[str], cells: list[str]) -> "Order":
    """Return the order of a row. Raise RefusedError, after its id, when it cannot be one."""
    row = {name: value for name, cell in zip(names, cells, strict=True) if (value := _bare(cell)) not in _EMPTY}
    if any("\0" in value for value in row.values()):
        raise RefusedError("holds the character NUL")
    job_id = row.get("job_id", "").replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", job_id):
        raise RefusedError("job_id is not a UUID" if job_id else "job_id is empty")
    return Order(job_id=job_id, row=row)


def _bare(cell: str) -> str:
    """Return a cell without what keeps spreadsheets from calculating with it: ="17", '17."""
    value = cell.strip()
    if formula := re.fullmatch(r'="(.*)"', value, re.DOTALL):
        return formula[1]
    return value[1:] if re.match(r"'[\d=+@-]", value) else value


@dataclass(frozen=True, kw_only=True)
class Order:
    """One row of the table, without its empty columns."""

    job_id: str
    row: Mapping[str, str]
    remarks: list[str] = field(default_factory=list)

    @property
    def paid(self) -> bool:
        """Whether the plugin has noticed a payment."""
        return "paid_at" in self.row or self.row.get("payment_status") in ("paid", "refunded")

    @property
    def payment_intent_id(self) -> str | None:
        """Stripe's id of the payment. Raises RefusedError for anything else."""
        return self._id("stripe_payment_intent_id") or self._id("payment_intent_id")

    @property
    def checkout_session_id(self) -> str | None:
        """Stripe's id of the Checkout session. Raises RefusedError for anything else."""
        return self._id("stripe_checkout_session_id")

    def paid_at(self, site: Site) -> datetime | None:
        """When the plugin has noticed the payment. Raises RefusedError for what is no time."""
        return self._time("paid_at", site)

    def historic(self, site: Site, sale: PastSale | None) -> HistoricJob:
        """Return it as a closed job; `sale` is what Stripe knows of it, None if it was not asked or there is none.

        Raises RefusedError with what is wrong."""
        row, currency = self.row, site.currency
        for name in REQUIRED:
            if name not in row and name != "email":  # newer versions ask for it at Checkout only
                raise RefusedError(f"{name} is empty")
        if row["resolution"] not in ("4x", "8x"):
            raise RefusedError(f"resolution {row['resolution'][:20]!r} is neither 4x nor 8x")
        if row["status"] not in _STATUSES:
            raise RefusedError(f"status {row['status'][:20]!r} is not known")
        email = row.get("email", "")
        if email and not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
            raise RefusedError("email is not an address")
        if sale and sale.payment.currency != currency:
            raise RefusedError(
                f"Stripe has received {sale.payment.currency.upper()}, not {currency.upper()}: say --currency "
                f"{sale.payment.currency.upper()}"
            )
        path = self._path()
        created = self._time("created_at", site)
        assert created is not None
        paid_at = self._time("paid_at", site, after=created)
        if self.paid or sale:  # older versions do not store when
            paid_at = (sale and sale.payment.paid_at) or paid_at or created
        charged = self._smallest("amount_charged", currency)
        received = sale.payment.amount_received_cents if sale else charged
        price = charged or received
        if paid_at is not None and not (price and received):
            raise RefusedError("is paid, but amount_charged is empty")
        began = self._time("processing_started_at", site, after=paid_at or created)
        completed = self._time("completed_at", site, after=began or paid_at or created)
        updated = max(self._time("updated_at", site) or created, created)
        failed = self._time("failed_at", site, after=began or paid_at or created)
        ended = failed or updated
        refunds = self._refunds(site, sale, price or 0, ended) if paid_at else ()
        back = sum(refund.amount_cents for refund in refunds)
        returned = sale.returned_in_full if sale else bool(back) and back >= (received or 0)
        status = self._status(paid=paid_at is not None, refunded=returned)
        credits, scale = self._whole("credits_used", _MOST_CREDITS), int(row["resolution"][0])
        width, height = self._size(scale, credits)
        reason = {Status.REFUNDED: reasons.REFUNDED_OUTSIDE, Status.FAILED: reasons.UPSCALE_FAILED}.get(status)
        return HistoricJob(
            job_id=self.job_id,
            origin=f"wordpress:{self._whole('id') if 'id' in row else self.job_id}",
            post_id=self._whole("post_id") or None,  # 0: an upload
            attachment_id=self._whole("attachment_id") or None,
            status=status,
            created_at=created,
            source_url=row["image_url"],
            file_name=safe_stem(path.name),
            resolution=row["resolution"],
            scale=scale,
            customer_email=email,
            source_format=_FORMATS.get(path.suffix.lower(), "JPEG"),
            source_width=width,
            source_height=height,
            price_cents=price or minimum_charge(currency),
            received_cents=received or 0,
            currency=currency,
            expected_credits=credits or pricing.credits(pricing.output_megapixels(width, height, scale)),
            credit_cents=site.credit_cents,
            payment_intent_id=(sale.payment.payment_intent_id if sale else self.payment_intent_id) if paid_at else None,
            charge_id=sale.payment.charge_id if sale else None,
            fee_cents=sale.payment.fee_cents if sale else None,
            checkout_session_id=self.checkout_session_id,
            paid_at=paid_at,
            # A start without an end would count as a processing time.
            processing_at=began if completed else None,
            completed_at=(completed or updated) if status is Status.COMPLETED else None,
            failed_at=ended if status in (Status.FAILED, Status.REFUNDED) else None,
            refunds=refunds,
            disputes=_disputes(sale),
            external_id=self._external_id(),
            credits=credits,
            reason_code=reason,
            reason_text=row.get("refund_reason")
            or row.get("failure_reason")
            or (reason and reasons.FOR_CUSTOMER[reason]),
            remark="; ".join(dict.fromkeys(self.remarks)) or None,
        )

    def _status(self, *, paid: bool, refunded: bool) -> Status:
        status = self.row["status"]
        if status == Status.COMPLETED:
            return Status.COMPLETED  # and stays so: a later refund is goodwill
        if not paid:
            return Status.ABANDONED
        if refunded:
            return Status.REFUNDED
        if status in (Status.FAILED, Status.REFUNDED):
            return Status.FAILED  # paid without a full refund: `smi jobs refund` returns the rest
        raise RefusedError(
            f"is paid and still open ({status}): finish it in WordPress or refund it in the Stripe dashboard first"
        )

    def _refunds(self, site: Site, sale: PastSale | None, price: int, ended: datetime) -> tuple[HistoricRefund, ...]:
        """Return what was returned: as Stripe says, else as the plugin does, which knows of few refunds."""
        at, amount = self._time("refunded_at", site), self._smallest("refund_amount", site.currency)
        if sale:
            return tuple(
                HistoricRefund(
                    refund_id=refund.refund_id,
                    amount_cents=refund.amount_cents,
                    status=refund.status,
                    created_at=refund.created_at or at or ended,
                )
                for refund in sale.refunds
            )
        if at or amount or Status.REFUNDED in (self.row["status"], self.row.get("payment_status")):
            return (HistoricRefund(refund_id=None, amount_cents=amount or price, created_at=at or ended),)
        return ()

    def _path(self) -> PurePath:
        """Return where the image lies: in the URL's path, or on the server if a customer has uploaded it."""
        source = self.row["image_url"]
        if re.match(r"https?://[^/]", source, re.IGNORECASE):
            try:
                return PurePosixPath(unquote(urlsplit(source).path))
            except ValueError:  # brackets that are no IPv6 address
                raise RefusedError("image_url is not a URL") from None
        if re.match(r"[A-Za-z]:[\\/]|\\\\", source):
            return PureWindowsPath(source)
        if source.startswith("/"):
            return PurePosixPath(source)
        raise RefusedError("image_url is neither an http(s) URL nor the path of an uploaded file")

    def _size(self, scale: int, credits: int | None) -> tuple[int, int]:
        width, height = self._whole("image_width", _LARGEST_SIDE), self._whole("image_height", _LARGEST_SIDE)
        if width and height:
            return width, height
        cost = self._smallest("amount_cost", "usd")
        spent = credits or (round(cost / 4) if cost else 0)  # the plugin's constant: a credit costs $0.04
        if not 1 <= spent <= _MOST_CREDITS:
            raise RefusedError(
                "has neither image_width and image_height nor credits_used or amount_cost to tell the size by"
            )
        self.remarks.append("size estimated from the credits, as a square")
        side = max(1, math.isqrt(round(spent / pricing.CREDITS_PER_MEGAPIXEL * 1_000_000)) // scale)
        return side, side

    def _time(self, name: str, site: Site, *, after: datetime | None = None) -> datetime | None:
        if name not in self.row:
            return None
        where = site.database_timezone if name == "updated_at" else site.timezone
        try:
            at, exists = local_times.in_utc(local_times.parse(self.row[name], site.dates), where, after=after)
        except (ValueError, OverflowError):
            raise RefusedError(f"{name} is not a time like 2026-11-20 14:05:00") from None
        if not exists:
            self.remarks.append(f"{name} {self.row[name]} does not exist in the time zone {where}")
        return at

    def _id(self, name: str) -> str | None:
        value = self.row.get(name)
        if value and not _ID.fullmatch(value):
            raise RefusedError(f"{name} is not an id of Stripe")
        return value

    def _external_id(self) -> str | None:
        value = self.row.get("upsampler_job_id")
        if value and re.fullmatch(r"\d+(?:[.,]\d+)?E\+\d+", value):
            raise RefusedError(
                "upsampler_job_id was rounded by a spreadsheet: export it again, and do not open the file in Excel"
            )
        return value

    def _smallest(self, name: str, currency: str) -> int | None:
        if name not in self.row:
            return None
        try:
            amount = to_smallest(Decimal(self.row[name].replace(",", ".")), currency)
        except (InvalidOperation, ValueError, OverflowError):
            amount = -1
        if not 0 <= amount <= _LARGEST:
            raise RefusedError(f"{name} is not an amount of money in {currency.upper()}")
        return amount

    def _whole(self, name: str, largest: int = 2**63 - 1) -> int | None:
        if name not in self.row:
            return None
        if not re.fullmatch(r"[0-9]{1,19}", self.row[name]) or int(self.row[name]) > largest:
            raise RefusedError(f"{name} is not a whole number" + (f" up to {largest:,}" if largest < 2**63 - 1 else ""))
        return int(self.row[name])


def _disputes(sale: PastSale | None) -> tuple[HistoricDispute, ...]:
    return tuple(
        HistoricDispute(
            state=DISPUTE_STATES.get(dispute.status, DisputeState.OPEN),
            began=dispute.created_at,
            appeal=dispute.status.startswith("appeal_"),
        )
        for dispute in (sale.disputes if sale else ())
    )
