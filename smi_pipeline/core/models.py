"""Frozen records that travel between layers: rows read from the state, and what adapters send and receive.

Money is integer cents with an ISO 4217 code in lower case; times are timezone-aware UTC; sizes are bytes and pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from smi_pipeline.core.vocabulary import (
    UNSUCCESSFUL_REFUNDS,
    DisputeState,
    EmailKind,
    EmailState,
    PaymentRole,
    RefundKind,
    RefundState,
    SubmissionState,
)
from smi_pipeline.core.vocabulary import Queue as Queue
from smi_pipeline.core.vocabulary import Stage as Stage
from smi_pipeline.core.vocabulary import Status as Status


class ApiFormat(StrEnum):
    """The JSON formats of the Upsampler API: the documented one, and the one that it is seen to use."""

    DOCUMENTED = "documented"
    LIVE = "live"


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """Facts of an image header; `width` and `height` in pixels as stored, before EXIF rotation."""

    format: str  # "PNG" | "JPEG" | "WEBP"
    width: int
    height: int
    bytes: int
    exif_orientation: int = 1
    sha256: str = ""
    has_alpha: bool = False

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height as displayed: EXIF orientations 5 to 8 swap the sides."""
        return (self.height, self.width) if self.exif_orientation >= 5 else (self.width, self.height)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Result of the image checks. With `ok` False, `reason` is a code of `core.reasons` and `message` explains it."""

    ok: bool
    facts: ImageInfo | None
    reason: str = ""
    message: str = ""
    min_ssim: float | None = None
    mean_colour_shift: float | None = None
    warnings: tuple[str, ...] = ()  # observed, delivered all the same (SMI_FIDELITY=observe)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A body streamed to a temporary file by the fetcher."""

    path: Path
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file as listed by the storage. `modified`: seconds since 1970 by the storage's clock, None if it has none."""

    key: str
    bytes: int
    modified: float | None


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """One call to Upsampler's precise-upscale."""

    job_id: str
    image_url: str
    scale: int
    webhook_url: str


@dataclass(frozen=True, kw_only=True)
class UpscaleReply:
    """What Upsampler says of one upscale, in a reply, a status answer or a webhook, of either API format."""

    external_id: str | None
    stage: Stage
    result_url: str | None = None
    credits: int | None = None
    error: str | None = None
    estimated_completion: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class StripePayment:
    """A PaymentIntent as Stripe holds it now, with its charge if there is one."""

    payment_intent_id: str
    status: str
    amount_received_cents: int
    currency: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    charge_id: str | None = None
    refunded_cents: int = 0
    disputed: bool = False
    refundable: bool = True  # False while an open dispute keeps the charge from being refunded
    fee_cents: int | None = None  # from the balance transaction, None until known
    created_at: datetime | None = None
    charged_at: datetime | None = None

    @property
    def paid_at(self) -> datetime | None:
        """When it was paid: a PaymentIntent is made at the first try and may succeed hours later."""
        return self.charged_at or self.created_at


@dataclass(frozen=True, kw_only=True)
class StripeRefund:
    """A refund as Stripe holds it now. `status`: pending, requires_action, succeeded, failed, canceled, or a word that
    is not known here; empty if Stripe says none."""

    refund_id: str
    payment_intent_id: str
    amount_cents: int
    currency: str
    status: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    failure_reason: str | None = None
    pending_reason: str | None = None
    created_at: datetime | None = None

    @property
    def alive(self) -> bool:
        """Whether it counts as returned money. What is not known does: nothing must be returned twice."""
        return self.status not in UNSUCCESSFUL_REFUNDS


@dataclass(frozen=True, kw_only=True)
class StripeDispute:
    """A dispute as Stripe holds it now. `status` is Stripe's word, empty if it says none."""

    status: str
    created_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class CheckoutRequest:
    """One Checkout session to be opened. `expires_at` must lie 30 minutes to 24 hours ahead by Stripe's clock."""

    job_id: str
    resolution: str
    amount_cents: int
    currency: str
    customer_email: str  # empty: Checkout asks for it
    description: str
    success_url: str
    cancel_url: str
    expires_at: datetime
    idempotency_key: str
    payment_methods: tuple[str, ...] = ("card",)  # empty: those of the Stripe dashboard


@dataclass(frozen=True, kw_only=True)
class CheckoutSession:
    """A Stripe Checkout session: `url` is where the customer pays."""

    session_id: str
    url: str | None
    status: str  # open | complete | expired
    payment_status: str  # unpaid | paid | no_payment_required
    payment_intent_id: str | None
    metadata: Mapping[str, str] = field(default_factory=dict)
    customer_email: str = ""  # given by the shop, or entered at Checkout


@dataclass(frozen=True, kw_only=True)
class BalanceTransaction:
    """One line of Stripe's balance, in cents of the payment's currency; a negative amount leaves the balance, the fee
    leaves in addition."""

    booking_id: str
    created_at: datetime
    source_id: str
    kind: str  # charge, refund or dispute
    payment_intent_id: str
    amount_cents: int
    fee_cents: int
    currency: str


@dataclass(frozen=True, kw_only=True)
class StripeEvent:
    """A Stripe event with a verified signature, or one listed by the API."""

    event_id: str
    type: str
    created_at: datetime
    object: Mapping[str, Any]  # empty if the event came without it
    account: str | None = None  # of a connected account, whose events are not ours


@dataclass(frozen=True, kw_only=True)
class RenderedMail:
    """A complete RFC 5322 message; `content` is exactly what is sent, on every attempt."""

    message_id: str
    sender: str
    recipients: tuple[str, ...]
    subject: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """An upscale job as the storefront registers it, checked and priced."""

    job_id: str
    source_url: str
    file_name: str
    resolution: str
    scale: int
    customer_email: str  # empty: Checkout asks for it
    customer_name: str | None
    source: ImageInfo
    price_cents: int
    currency: str
    expected_credits: int
    credit_cents: Decimal  # price of a credit now, in the smallest unit of `currency`
    fingerprint: bytes = b""  # what it shows, as `core.likeness` compares it; empty: not known


@dataclass(frozen=True, kw_only=True)
class UpscaleJob:
    """A row of `upscale_jobs`."""

    job_id: str
    created_at: datetime
    updated_at: datetime
    status: Status
    fulfilment_round: int
    queue: Queue | None
    attempts: int
    next_attempt_at: datetime | None
    lease_id: str | None
    last_error: str | None
    hold_reason: str | None
    source_url: str
    file_name: str
    resolution: str
    scale: int
    customer_email: str  # empty: not known, or not yet
    customer_name: str | None
    source_format: str
    source_width: int
    source_height: int
    source_bytes: int
    source_sha256: str
    source_key: str | None
    price_cents: int
    currency: str
    expected_credits: int
    credit_cents: Decimal | None  # what a credit cost when the job was registered; None: not kept
    checkout_session_id: str | None
    checkout_expires_at: datetime | None
    paying_intent: str | None
    payment_intent_id: str | None
    paid_at: datetime | None
    recorded_at: datetime | None
    start_by: datetime | None
    processing_at: datetime | None
    submitted_at: datetime | None
    deadline_at: datetime | None
    result_ready_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    expected_seconds: float | None
    stage: Stage | None
    estimated_completion: datetime | None
    result_key: str | None
    result_sha256: str | None
    result_bytes: int | None
    result_width: int | None
    result_height: int | None
    result_format: str | None
    min_ssim: float | None
    reason_code: str | None
    reason_text: str | None
    admin_override: bool
    links_revoked: int  # how often

    @property
    def output_size(self) -> tuple[int, int]:
        """Width and height in pixels of the ordered result."""
        return self.source_width * self.scale, self.source_height * self.scale

    @property
    def output_megapixels(self) -> float:
        """Millions of pixels of the ordered result."""
        width, height = self.output_size
        return width * height / 1e6


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A row of `submissions`: one call to Upsampler, committed before the call."""

    submission_id: int
    job_id: str
    fulfilment_round: int
    state: SubmissionState
    external_id: str | None
    created_at: datetime
    accepted_at: datetime | None
    finished_at: datetime | None  # of an open one: since when it has succeeded without telling an address
    deadline_at: datetime | None
    poll_errors: int
    result_url: str | None
    credits: int | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Refund:
    """A row of `refunds`: money owed or returned. `refund_id` is the row, `stripe_refund_id` Stripe's id."""

    refund_id: int
    job_id: str | None
    payment_intent_id: str
    kind: RefundKind
    attempt_no: int
    idempotency_key: str | None
    state: RefundState
    amount_cents: int | None
    currency: str
    stripe_refund_id: str | None
    stripe_status: str | None
    key_spent: bool
    first_called_at: datetime | None
    attempts: int
    next_attempt_at: datetime | None
    reason_code: str
    created_at: datetime
    settled_at: datetime | None
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class Email:
    """A row of `emails`: one mail, identified by job, kind and sequence."""

    job_id: str
    kind: EmailKind
    sequence: int
    message_id: str
    state: EmailState
    attempts: int
    hand_overs: int
    refusals: int
    refused_since: datetime | None
    context: Mapping[str, Any]
    content: bytes | None
    signed_by: str | None  # id of the key of its links
    created_at: datetime
    accepted_at: datetime | None
    last_error: str | None

    @property
    def work_key(self) -> str:
        """Key of this mail in its queue."""
        return f"{self.job_id}/{self.kind}/{self.sequence}"


@dataclass(frozen=True, kw_only=True)
class ManualTask:
    """A row of `person_tasks`: what only a person can settle."""

    task_id: int
    kind: str  # a ManualTaskKind, or the name of a report check
    subject: str
    job_id: str | None
    message: str
    next_step: str
    opened_at: datetime
    acknowledged_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class RecordedPayment:
    """A row of `payments`."""

    payment_intent_id: str
    job_id: str | None
    role: PaymentRole
    received_cents: int
    currency: str
    charge_id: str | None
    fee_cents: int | None
    refunded_cents: int
    dispute: DisputeState | None
    paid_at: datetime | None
    recorded_at: datetime
    recorded_from: str
    settled_by: str | None


@dataclass(frozen=True, kw_only=True)
class DownloadLink:
    """The newest download link of a job that is signed by one of the secret keys; `newest_key`: by the newest."""

    expires_at: datetime
    expired: bool
    token: str
    newest_key: bool


@dataclass(frozen=True, kw_only=True)
class Download:
    """The file behind a download token."""

    job_id: str
    expired: bool
    revoked: bool
    result_key: str | None
    result_bytes: int | None
    result_format: str | None
    result_sha256: str | None
    file_name: str
    resolution: str
    status: Status
    files_removed_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class QueueFigures:
    """The queue in numbers."""

    to_submit: int
    to_fulfil: int
    on_hold: int
    leased: int
    in_flight: int
    refunds_owed: int
    refunds_pending: int
    mails_owed: int
    person_tasks: int
    submissions_minute: int
    submissions_hour: int
    status_calls_minute: int
    silent_seconds: float | None  # since the last heartbeat


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """A paid job past its last deadline that is neither delivered nor refunded."""

    job_id: str
    status: Status
    reason_code: str | None
    start_by: datetime | None
    deadline_at: datetime | None
