"""What the services need of the state, as Protocols: each method is one short transaction.

`adapters.postgres` implements them; every method raises TransientError when the database does not answer."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from smi_pipeline.core.models import (
    Email,
    ImageFacts,
    NewJob,
    PaymentFacts,
    PersonTask,
    Queue,
    Refund,
    RefundFacts,
    Submission,
    UpscaleJob,
    UpscaleReply,
    Verdict,
)
from smi_pipeline.core.policy import Policy


class Leases(Protocol):
    """Who may work on which row, until when, and when a row is due again."""

    def lease(self, queue: Queue, limit: int, *, max_leases: int | None = None) -> tuple[str, list[str]] | None:
        """Leases up to `limit` due rows: (lease_id, work keys), or None when nothing is due or `max_leases` leases of
        this queue are live. A row whose last lease ran out without a recorded error is leased alone."""

    def lease_one(self, queue: Queue, work_key: str) -> str | None:
        """Leases and takes up one row, due or not, that nobody has. Returns the lease_id or None."""

    def due(self, queue: Queue) -> int:
        """Rows that are due and leased by nobody."""

    def take_up(self, queue: Queue, lease_id: str) -> list[str]:
        """A run begins to work on its lease: the work keys in order of their due time. Each row's `attempts` is raised
        and committed before any work; a lease whose run never starts is no attempt."""

    def renew(self, lease_id: str) -> int:
        """Prolongs a live lease; returns the number of rows. A lease that ran out is not revived."""

    def give_back(self, lease_id: str) -> int:
        """Ends a lease whose run could not be started: the rows are due again."""

    def reschedule(
        self, queue: Queue, work_key: str, lease_id: str, *, seconds: float, error: str, counts: bool
    ) -> bool:
        """Ends the lease of one row, due again in `seconds`. False when the lease was lost."""


class Intake(Protocol):
    """Orders and payments."""

    def register(self, job: NewJob, *, actor: str) -> None:
        """Inserts an unpaid job."""

    def checkout_created(self, job_id: str, session_id: str, expires_at: datetime) -> None:
        """Notes where the customer pays."""

    def seen_events(self, event_ids: list[str]) -> set[str]:
        """Which of these Stripe events have had their effect."""

    def note_event(self, event_id: str, type_: str, effect: str) -> bool:
        """Records an event without further effect; False when it was known."""

    def record_payment(
        self,
        facts: PaymentFacts,
        job_id: str,
        *,
        event: tuple[str, str] | None,
        source: str,
        policy: Policy,
        adopt: bool = False,
    ) -> str:
        """Records a succeeded payment with the event that told of it, in one transaction. Returns its role: order
        (the job starts), duplicate or mismatch (a refund is owed), orphan (no such job, or one that was imported);
        or known / repeated (no change). `adopt` takes an unsettled orphan up again, as the payment of this job."""

    def abandoned_candidates(self, limit: int) -> list[tuple[str, str | None]]:
        """(job_id, session_id) of unpaid jobs past their Checkout's life, without those put off."""

    def not_abandoned(self, job_id: str, *, seconds: float) -> None:
        """Puts an unpaid job off that could not be closed."""

    def abandon(self, job_id: str, *, actor: str, event: tuple[str, str] | None = None) -> bool:
        """Closes an unpaid job; False when it is not unpaid any more."""

    def cursor(self, name: str) -> str | None:
        """How far an outside list was read."""

    def set_cursor(self, name: str, value: str) -> None:
        """Notes how far an outside list was read."""


class Submissions(Protocol):
    """From a paid job to a known result."""

    def prepared(
        self, job_id: str, lease_id: str, *, source: ImageFacts, source_key: str, expected_seconds: float, actor: str
    ) -> None:
        """Sets the job `processing` with its kept source. Raises LeaseLost."""

    def of_job(self, job_id: str) -> list[Submission]:
        """All calls of a job, oldest first."""

    def get(self, submission_id: int) -> Submission | None:
        """One call."""

    def begin(self, job_id: str, lease_id: str, *, actor: str) -> tuple[int, str] | None:
        """Commits the intent of a call: (submission_id, callback token), or None while another is open.
        Raises LeaseLost."""

    def accepted(self, submission_id: int, reply: UpscaleReply, *, policy: Policy, actor: str) -> None:
        """The API accepted: the job leaves the queue, its deadline starts. Needs no lease: it is a fact."""

    def not_accepted(self, submission_id: int, error: str) -> None:
        """The API certainly did not accept: the call is closed."""

    def lost(self, submission_id: int, *, actor: str) -> bool:
        """Closes an unanswered call after the grace time."""

    def hint(self, hash_: str, reply: UpscaleReply, *, policy: Policy) -> bool:
        """A webhook came for the call with this token hash: its status call is due now. False for an unknown hash."""

    def due_polls(self, limit: int) -> list[Submission]:
        """Takes what is due for a status call, close to its deadline first, then hinted ones."""

    def not_polled(self, submission_id: int, *, seconds: float) -> None:
        """Puts a taken one back."""

    def poll_answered(self, submission_id: int, reply: UpscaleReply, *, policy: Policy, actor: str) -> str:
        """Applies a status answer: ready (the job goes to fulfilment), waiting, settled (no effect on the job)
        or known."""

    def poll_failed(self, submission_id: int, *, seconds: float, policy: Policy, actor: str, counts: bool) -> str:
        """No answer: later, or ready when the patience after the deadline is over."""

    def expire_unstarted(self, *, policy: Policy) -> int:
        """Hands jobs past `start_by` without an open call to fulfilment, which fails them. Returns how many. Closes
        unanswered calls whose jobs nobody works on any more."""

    def in_flight(self) -> int:
        """Open calls, and leased jobs that are about to make one."""

    def recent_seconds(self, megapixels: float) -> list[float]:
        """Durations of recent deliveries of about this output size."""

    def now(self) -> datetime:
        """The state's clock."""


class Deliveries(Protocol):
    """The outcome, the delivered file and its links, and what admins change."""

    def verified(self, job_id: str, lease_id: str, verdict: Verdict, *, result_key: str, actor: str) -> None:
        """Notes the checked and stored result. Raises LeaseLost."""

    def deliver(self, job_id: str, lease_id: str, *, ttl: timedelta, actor: str) -> bool:
        """Decides for delivery, completes the job, makes its token, owes its mail. False when it was decided before.
        Raises LeaseLost."""

    def fail(self, job_id: str, lease_id: str, *, reason: str, words: str, actor: str) -> bool:
        """Decides against delivery, with the refund owed in the same transaction. False when it was decided before.
        Raises LeaseLost."""

    def cancel(self, job_id: str, *, reason: str, words: str, actor: str) -> bool:
        """As `fail`, by an admin, whoever has the lease."""

    def new_token(self, job_id: str, *, ttl: timedelta, revoke: bool, actor: str) -> int:
        """Makes a further download link; returns its serial."""

    def current_token(self, job_id: str) -> dict[str, Any] | None:
        """The newest link that was not revoked: round, serial, token, expires_at, expired."""

    def find_download(self, token: str) -> dict[str, Any] | None:
        """What a token leads to, or None."""

    def downloaded(self, token: str) -> None:
        """Counts a download."""

    def expired_files(self, limit: int) -> list[str]:
        """Jobs whose files nobody can ask for any more: every link expired a day ago, and nothing is going on."""

    def give_up_files(self, job_id: str) -> list[str]:
        """Takes the files from such a job; returns their keys, none if it is not such a job any more."""

    def rate(self, job_id: str, score: int, comment: str | None) -> None:
        """Stores a customer's stars (1 to 5); a later rating replaces the earlier."""

    def retry(self, job_id: str, *, new_round: bool, admin_override: bool, max_wait: timedelta, actor: str) -> int:
        """Puts a job back into the queue, in a new round when asked. Returns the round."""

    def hold(self, job_id: str, reason: str | None, *, actor: str) -> bool:
        """Holds (reason) or releases (None) an open job."""

    def extend(self, job_id: str, by: timedelta, *, actor: str) -> bool:
        """Moves the deadlines of an open job."""

    def check_now(self, job_id: str, *, actor: str) -> int:
        """Makes whatever a job waits for due now; returns how much."""


class Refunds(Protocol):
    """Money owed and given back."""

    def get(self, refund_row: int) -> Refund | None:
        """One refund."""

    def of_job(self, job_id: str) -> list[Refund]:
        """All refunds of a job, oldest first."""

    def owe(
        self, *, job_id: str | None, payment_intent_id: str, kind: str, currency: str, reason: str, actor: str
    ) -> bool:
        """Commits the intent to return the rest of a payment. False when one is under way, or when an `unmatched` one
        is settled."""

    def intend(self, refund_row: int, lease_id: str, amount_cents: int, *, renew_key: bool) -> Refund | None:
        """Commits amount and key right before Stripe is called; None when the lease was lost."""

    def settle(self, refund_row: int, facts: RefundFacts, *, actor: str) -> str:
        """Applies Stripe's answer about one of our refunds; owes the mail. Returns the recorded state."""

    def settle_by_facts(self, facts: RefundFacts, *, event: tuple[str, str] | None, actor: str) -> str:
        """Applies a refund learned from an event: one of ours by id or key, else one made outside."""

    def not_needed(self, refund_row: int, lease_id: str, *, why: str, actor: str) -> bool:
        """Closes an owed refund whose money is back already."""

    def give_up(self, refund_row: int, lease_id: str, *, why: str, actor: str) -> None:
        """Makes a refund a person's task."""

    def note_dispute(
        self, payment_intent_id: str, state: str, began: datetime | None, *, event: tuple[str, str], actor: str
    ) -> bool:
        """Notes a dispute's state (open, won, lost) once per event. The newest dispute counts, a loss always."""


class Emails(Protocol):
    """Mails owed to customers."""

    def get(self, work_key: str) -> Email | None:
        """One mail by its work key `job_id/kind/serial`."""

    def of_job(self, job_id: str) -> list[Email]:
        """All mails of a job."""

    def hand_over(self, email: Email, lease_id: str, content: bytes) -> bool:
        """Commits the bytes before the server gets them. False when the lease was lost."""

    def accepted(self, email: Email, *, actor: str) -> None:
        """The server took the mail. Needs no lease: it is a fact."""

    def refused(self, email: Email, lease_id: str, *, seconds: float, error: str, counts: bool) -> None:
        """The server certainly did not take it: due again in `seconds`. An outage does not count as an attempt."""

    def give_up(self, email: Email, lease_id: str, *, why: str, actor: str) -> None:
        """Makes a mail a person's task."""

    def resend(self, job_id: str, kind: str, *, context: Mapping[str, Any], actor: str) -> int:
        """Owes the mail once more under a new serial, which is returned."""


class Tasks(Protocol):
    """What only a person can settle."""

    def open(self, *, kind: str, subject: str, job_id: str | None, message: str, next_step: str) -> None:
        """Opens a task unless the same one is open."""

    def open_once(self, *, kind: str, subject: str, message: str, next_step: str) -> None:
        """As `open`, but never again once it was closed."""

    def opened(self) -> list[PersonTask]:
        """All open tasks."""

    def unalerted(self, limit: int) -> list[PersonTask]:
        """Open tasks that no alert named yet."""

    def alerted(self, task_ids: list[int]) -> None:
        """Notes that an alert named them."""

    def close(self, kind: str, subject: str, *, actor: str) -> bool:
        """Closes a task."""

    def acknowledge(self, task_id: int, *, actor: str) -> bool:
        """A person has taken an open task on. False when there is none."""

    def close_by_id(self, task_id: int, *, actor: str) -> bool:
        """A person has settled an open task. False when there is none."""


class Views(Protocol):
    """Reading only."""

    def job(self, job_id: str) -> UpscaleJob | None:
        """One job."""

    def jobs(self, *, status: str | None = None, limit: int = 50) -> list[UpscaleJob]:
        """The newest jobs."""

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """The audit trail of a job."""

    def payment(self, payment_intent_id: str) -> dict[str, Any] | None:
        """A recorded payment."""

    def counts(self) -> dict[str, int]:
        """Jobs per status."""

    def queue(self) -> dict[str, Any]:
        """The queue in numbers."""

    def alarms(self, policy: Policy) -> list[dict[str, Any]]:
        """The alarm query (section 6 rule 11); always empty."""

    def late_refunds(self, policy: Policy) -> list[dict[str, Any]]:
        """Refunds of every kind that are owed for longer than `refund_patience`, and that no open dispute blocks:
        payment_intent_id, job_id, last_error."""

    def forecast_wait_seconds(self, requests_per_minute: int) -> float:
        """How long a job paid now would wait for its submission."""

    def credits_this_month(self) -> int:
        """Credits booked since the first of the month, UTC."""


class Operations(Protocol):
    """Figures for the operations page, and whether anything can be written at all."""

    def can_write(self) -> None:
        """Raises TransientError, with the cause in words, when the database has no room on its disk or is read-only."""

    def outcomes(self) -> dict[str, int]:
        """How the jobs decided in the last 24 hours ended: `delivered`, or a reason code of `core.reasons`."""

    def durations(self) -> dict[str, dict[str, float | None]]:
        """Median and 95th percentile in seconds of each part of the way, of the last 24 hours' deliveries."""

    def money_today(self, currency: str) -> dict[str, Any]:
        """Since midnight UTC: `credits`, `refunded_cents`, and `payments` as (received_cents,
        fee_cents or None, how many)."""

    def gate(self) -> dict[str, Any] | None:
        """Why no calls are made to Upsampler now (opened_at, blocked_until, reason), or None."""

    def downloads(self, job_id: str) -> list[dict[str, Any]]:
        """The download links of a job without their tokens, oldest first."""

    def payments(self, job_id: str) -> list[dict[str, Any]]:
        """The payments of a job, oldest first."""

    def rating(self, job_id: str) -> dict[str, Any] | None:
        """The customer's stars: score, comment, at."""


class Reconciliation(Protocol):
    """What is compared with the outside; reading only."""

    def payments(self, payment_intent_ids: list[str]) -> dict[str, dict[str, Any]]:
        """Recorded payments by id, each with its `refunds` (state, amount_cents, stripe_refund_id) and its job's
        `status` and `imported_from`."""

    def paid_between(self, since: datetime, until: datetime) -> list[str]:
        """Ids of the recorded payments of jobs paid then, and of orphans; without imported ones."""

    def unnamed_orphans(self, patience: timedelta, limit: int) -> list[str]:
        """Payments without a job, known for longer than `patience`, that nobody has settled and no task names."""

    def jobs_with_files(self, shard: str, changed_within: timedelta) -> list[dict[str, Any]]:
        """Jobs whose id begins with `shard` (hexadecimal), changed lately, whose row names a file. `link`: a download
        link is valid."""

    def claims(self, job_ids: list[str]) -> dict[str, dict[str, Any]]:
        """What jobs name of the storage: status, round, source_key, result_key; `at_rest`: nobody works on it, and it
        has not changed for a day."""

    def standing(self) -> dict[str, dict[str, Any]]:
        """Per comparison (events, payments, files): `age_seconds` since the last whole one (None: never) and the
        open person's tasks of its `differences` by kind."""


class State(Protocol):
    """The one truth."""

    @property
    def leases(self) -> Leases: ...
    @property
    def intake(self) -> Intake: ...
    @property
    def submissions(self) -> Submissions: ...
    @property
    def deliveries(self) -> Deliveries: ...
    @property
    def refunds(self) -> Refunds: ...
    @property
    def emails(self) -> Emails: ...
    @property
    def tasks(self) -> Tasks: ...
    @property
    def views(self) -> Views: ...
    @property
    def operations(self) -> Operations: ...
    @property
    def reconciliation(self) -> Reconciliation: ...
