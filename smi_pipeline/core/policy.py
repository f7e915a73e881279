"""Promises and limits of the services, as plain values. Settings build them; tests vary them."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from smi_pipeline.core.allowance import Allowance

SUBMISSIONS = Allowance(per_minute=60, per_hour=1800)
STATUS_CALLS = Allowance(per_minute=180)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Limits; `.env.example` documents those that are settings."""

    public_url: str = "http://127.0.0.1:8080"
    currency: str = "usd"
    payment_methods: tuple[str, ...] = ("card",)  # that Checkout offers; empty: those of the Stripe dashboard
    mail_domain: str = "localhost"  # right side of Message-IDs
    max_processing: timedelta = timedelta(seconds=900)
    max_wait: timedelta = timedelta(seconds=3600)
    poll_every: timedelta = timedelta(seconds=30)
    ambiguous_grace: timedelta = timedelta(seconds=120)
    download_ttl: timedelta = timedelta(hours=24)
    max_hold: timedelta = timedelta(hours=24)
    max_outage: timedelta = timedelta(hours=12)
    max_in_flight: int = 15
    max_source_bytes: int = 50_000_000
    max_output_megapixels: float = 50
    unsold_days: float = 30
    source_changed: Literal["refund", "ask"] = "refund"  # when it shows another picture than at the order
    submissions: Allowance = SUBMISSIONS
    status_calls: Allowance = STATUS_CALLS
    monthly_credit_budget: int | None = None
    budget_hold: bool = False

    max_resubmissions: int = 2

    # Not settings: nobody has a reason to change them.
    max_attempts: int = 5  # a job started this often without success is set aside and refunded
    last_poll_patience: timedelta = timedelta(minutes=2)  # time for the last status call after a deadline
    address_patience: timedelta = timedelta(minutes=5)  # for the address of a result after its success
    checkout_ttl: timedelta = timedelta(hours=23, minutes=30)  # Stripe allows up to 24 h by its own clock
    unmatched_patience: timedelta = timedelta(minutes=10)  # until an unmatched payment becomes a manual task
    refund_key_life: timedelta = timedelta(hours=23)  # Stripe forgets idempotency keys after 24 h
    alarm_patience: timedelta = timedelta(minutes=5)  # until an overdue job raises the alarm
    max_submissions: int = 4  # per job and round, those without an answer included
    result_life: timedelta = timedelta(hours=3)  # how long the address of a result is good
    order_download: timedelta = timedelta(
        seconds=60
    )  # for the image of an order, while its customer waits, and for a lost one
    longest_download: timedelta = timedelta(minutes=10)  # for any other image, whatever arrives
    refund_patience: timedelta = timedelta(hours=1)  # until an owed refund becomes a manual task
