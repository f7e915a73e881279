"""The closed vocabularies of the shop: each state, kind and role is an enum. The database stores the values.

A few stored values are older than the names used here (`orphan`, `mismatch`, `outside`): only this module knows both.
"""

from enum import StrEnum


class Status(StrEnum):
    """State of an upscale job; the allowed transitions are in `core.lifecycle`."""

    AWAITING_PAYMENT = "awaiting_payment"
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    REFUNDED = "refunded"
    ABANDONED = "abandoned"


class Stage(StrEnum):
    """Progress as shown to the customer, and as reported by Upsampler."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class Queue(StrEnum):
    """Kind of leased work; each has a sensor and a Dagster job."""

    SUBMIT = "submit"
    FULFIL = "fulfil"
    REFUND = "refund"
    MAIL = "mail"


class Outcome(StrEnum):
    """How a fulfilment round ends; decided once per job and round."""

    DELIVER = "deliver"
    REFUND = "refund"
    NONE = "none"  # a free retry that fails, or an unpaid job


class SubmissionState(StrEnum):
    """State of one call to Upsampler."""

    SENDING = "sending"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"
    LOST = "lost"
    TIMED_OUT = "timed_out"


OPEN_CALLS = (SubmissionState.SENDING, SubmissionState.ACCEPTED)
"""At most one submission of a job is in these states; the database has a unique index."""


class PollResult(StrEnum):
    """Effect of a status call, or of its failure."""

    READY = "ready"  # the job goes to fulfilment
    WAITING = "waiting"
    SETTLED = "settled"  # recorded without effect on the job
    KNOWN = "known"
    LATER = "later"


class PaymentRole(StrEnum):
    """What a payment is to its job."""

    ORDER = "order"
    DUPLICATE = "duplicate"
    WRONG_AMOUNT = "mismatch"
    UNMATCHED = "orphan"


class RefundState(StrEnum):
    """State of a refund. `owed`: Stripe has not confirmed it yet; `pending`: Stripe is carrying it out."""

    OWED = "owed"
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    NOT_NEEDED = "not_needed"


LIVE_REFUNDS = (RefundState.OWED, RefundState.PENDING, RefundState.SUCCEEDED)
"""A payment has at most one refund of ours in these states; the database has a unique index."""

UNFINISHED_REFUNDS = (RefundState.OWED, RefundState.PENDING)
RETURNED = (RefundState.PENDING, RefundState.SUCCEEDED)
"""The money counts as returned."""

UNSUCCESSFUL_REFUNDS = (RefundState.FAILED, RefundState.CANCELED)


class RefundKind(StrEnum):
    """Why a payment is returned."""

    FAILURE = "failure"
    DUPLICATE_PAYMENT = "duplicate_payment"
    WRONG_AMOUNT = "wrong_amount"
    GOODWILL = "goodwill"
    UNMATCHED = "unmatched"
    EXTERNAL = "outside"  # made in the Stripe dashboard, or by another system


REFUNDS_OF_FAILURE = (RefundKind.FAILURE, RefundKind.WRONG_AMOUNT)
"""Kinds that close a failed job."""


class DisputeState(StrEnum):
    """State of the newest dispute of a payment."""

    OPEN = "open"
    WON = "won"
    LOST = "lost"


class EmailKind(StrEnum):
    """Kind of a mail to the customer."""

    COMPLETION = "completion"
    REFUND = "refund"
    DUPLICATE_PAYMENT = "duplicate_payment"
    GOODWILL = "goodwill"
    DELAY = "delay"
    REFUND_ACTION = "refund_action"  # Stripe needs something of the customer before it can return the money

    PAYMENT_STARTED = "payment_started"  # the bank has not decided yet


class EmailState(StrEnum):
    """State of a mail."""

    CLAIMED = "claimed"
    HANDED_OVER = "handed_over"
    ACCEPTED = "accepted"
    FAILED = "failed"


UNSENT = (EmailState.CLAIMED, EmailState.HANDED_OVER)


class ManualTaskKind(StrEnum):
    """Kind of a manual task."""

    ACCOUNT = "account"  # of releases before the circuit breakers
    BALANCE = "balance"
    BREAKER = "breaker"
    BUDGET = "budget"
    DISK_FULL = "disk_full"
    DISPUTE = "dispute"
    FIDELITY = "fidelity"
    FRAUD_WARNING = "fraud_warning"
    FILE_DAMAGED = "file_damaged"
    FILE_MISSING = "file_missing"
    MAIL_DELAYED = "mail_delayed"
    MAIL_FAILED = "mail_failed"
    NO_ADDRESS = "no_address"
    OVERDUE = "overdue"
    PAYMENT_DIFFERS = "payment_differs"
    PRICE_REFUSED = "price_refused"
    PROCESS_SILENT = "process_silent"
    REFUND_FAILED = "refund_failed"
    REFUND_LATE = "refund_late"
    RUN_FAILED = "run_failed"
    SENSOR_SILENT = "sensor_silent"
    SHARED_ID = "shared_id"
    SOURCE_CHANGED = "source_changed"
    STRIPE_EVENT = "stripe_event"
    UNEXPECTED = "unexpected"
    UNKNOWN_WORD = "unknown_word"
    UNMATCHED_FILES = "orphan_files"
    UNMATCHED_PAYMENT = "orphan_payment"
    WRONG_AMOUNT = "wrong_amount"


class StepState(StrEnum):
    """Result of a step on a leased row."""

    DONE = "done"
    LATER = "later"  # rescheduled
    LOST = "lost"  # another worker has the lease
    SETTLED = "settled"  # nothing was left to do


class FetchKind(StrEnum):
    """What is downloaded; chooses the list of allowed hosts."""

    SOURCE = "source"
    RESULT = "result"


class CallPurpose(StrEnum):
    """Why Upsampler is called, in order of priority."""

    URGENT_POLL = "urgent_poll"
    SUBMIT = "submit"
    POLL = "poll"
