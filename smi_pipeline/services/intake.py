"""Orders: registration with price and Checkout, and what Stripe's events mean for them."""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from smi_pipeline.core import faults, properties
from smi_pipeline.core.errors import (
    AccountError,
    LocalError,
    NotFound,
    PermanentError,
    RefusedError,
    TransientError,
    Unavailable,
    UnreadableError,
)
from smi_pipeline.core.faults import Failure
from smi_pipeline.core.image_rules import check_output_size
from smi_pipeline.core.models import (
    CheckoutRequest,
    CheckoutSession,
    ImageInfo,
    NewJob,
    StripeEvent,
    StripePayment,
    UpscaleJob,
)
from smi_pipeline.core.vocabulary import FetchKind, ManualTaskKind
from smi_pipeline.formatting import money, one_line, safe_stem
from smi_pipeline.services import notify, one_object, refund, stripe_answers
from smi_pipeline.services.context import ServiceContext, log

SCALES = {"4x": 4, "8x": 8}
SOURCE = "sell-my-images"
"""`metadata.source` of our Stripe objects; others of the same account belong to another shop."""

REFUSED_FIELDS = {
    "amount_too_large": "resolution: the price cannot be paid",
    "amount_too_small": "resolution: the price cannot be paid",
    "email_invalid": "email: the payment service does not take this address",
}
"""What Stripe may refuse of an order, by its reason, in words for the shop."""

_MAX_FAILED = 5
"""After this many sessions that cannot be closed in one call, an outage is assumed."""

_ID = re.compile(r"[!-~]{0,255}")
PAID_EVENTS = ("checkout.session.completed", "checkout.session.async_payment_succeeded", "payment_intent.succeeded")
CLOSING_EVENTS = ("checkout.session.expired", "checkout.session.async_payment_failed")
REFUND_EVENTS = ("charge.refunded", "charge.refund.updated", "refund.created", "refund.updated", "refund.failed")
DISPUTE_EVENTS = ("charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed")
WARNING_EVENTS = ("radar.early_fraud_warning.created",)
UNIMPORTANT_EVENTS = frozenset(
    {
        "charge.captured",
        "charge.dispute.funds_reinstated",
        "charge.dispute.funds_withdrawn",
        "charge.expired",
        "charge.failed",
        "charge.pending",
        "charge.succeeded",
        "charge.updated",
        "payment_intent.amount_capturable_updated",
        "payment_intent.canceled",
        "payment_intent.created",
        "payment_intent.partially_funded",
        "payment_intent.processing",
        "payment_intent.requires_action",
    }
)
"""Types of events about payments that change nothing here, or that others tell better."""

UNPAID_STATES = (
    "canceled",
    "processing",
    "requires_action",
    "requires_capture",
    "requires_confirmation",
    "requires_payment_method",
)
"""States of a PaymentIntent without its money."""

HANDLED_EVENTS = (
    *PAID_EVENTS,
    *CLOSING_EVENTS,
    *REFUND_EVENTS,
    *DISPUTE_EVENTS,
    *WARNING_EVENTS,
    "payment_intent.payment_failed",
)


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """An order of the storefront."""

    image_url: str
    resolution: str
    email: str | None = None  # None: Checkout asks for it
    customer_name: str | None = None
    return_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class RegisteredJob:
    """A registered order: its price and where the customer pays."""

    job_id: str
    price_cents: int
    currency: str
    output_width: int
    output_height: int
    checkout_url: str
    status_url: str


def register_job(ctx: ServiceContext, request: JobRequest) -> RegisteredJob:
    """Check and price an order, and open its Checkout session.

    Raise RefusedError (422) for what the shop should correct, Unavailable (503) while no orders are taken.
    """
    _refuse_while_overloaded(ctx)
    if request.resolution not in SCALES:
        raise RefusedError(f"resolution must be one of {', '.join(SCALES)}", status=422)
    scale = SCALES[request.resolution]
    email = reachable_email(ctx, request.email) if request.email is not None else ""
    try:
        with ctx.fetcher.fetch(
            request.image_url,
            kind=FetchKind.SOURCE,
            max_bytes=ctx.policy.max_source_bytes,
            seconds=ctx.policy.order_download.total_seconds(),
        ) as fetched:
            facts = ctx.images.check_source(fetched.path)
            check_output_size(facts, scale, ctx.policy.max_output_megapixels)
            fingerprint = ctx.images.fingerprint(fetched.path)
    except PermanentError as error:
        _refuse_behind(ctx, [faults.source(request.image_url)] if request.image_url.count("/") > 1 else [])
        raise RefusedError(f"image_url: {error}", status=422) from error
    except LocalError:  # which is not the image's
        raise
    except TransientError as error:
        _refuse_behind(ctx, [faults.source(request.image_url)])
        raise RefusedError(f"image_url: the image could not be fetched now: {error}", status=422) from error
    host = faults.source(request.image_url)
    ctx.state.breakers.note_success(host, ctx.policy)
    _refuse_behind(ctx, [host])  # an operator may have opened it
    width, height = facts.display_size
    _refuse_unsold(ctx, facts, scale)
    quote = ctx.prices.quote(width, height, scale)
    job_id = uuid.uuid4().hex
    job = NewJob(
        job_id=job_id,
        source_url=request.image_url,
        file_name=safe_stem(unquote(urlsplit(request.image_url).path)),
        resolution=request.resolution,
        scale=scale,
        customer_email=email,
        customer_name=one_line(request.customer_name or "", 100) or None,
        source=facts,
        price_cents=quote.price_cents,
        currency=ctx.policy.currency,
        expected_credits=quote.credits,
        credit_cents=ctx.prices.credit_cents,
        fingerprint=fingerprint,
    )
    ctx.state.jobs.register(job, actor=ctx.actor)
    status_url = notify.status_url(ctx, job_id)
    expires_at = ctx.state.submissions.now() + ctx.policy.checkout_ttl
    checkout = CheckoutRequest(
        job_id=job_id,
        resolution=request.resolution,
        amount_cents=job.price_cents,
        currency=job.currency,
        customer_email=_for_the_wire(email) if email else "",
        description=f"{request.resolution} upscale of {job.file_name}, {width * scale} x {height * scale} pixels",
        success_url=status_url,
        cancel_url=request.return_url or status_url,
        expires_at=expires_at,
        payment_methods=ctx.policy.payment_methods,
        idempotency_key=f"checkout:{job_id}",
    )
    try:
        session = ctx.payments.create_checkout(checkout)
    except (TransientError, PermanentError, NotFound) as error:
        # Nobody can have paid: the address of the session was never given out.
        ctx.state.jobs.abandon(job_id, actor=ctx.actor)
        reason = error.reason if isinstance(error, PermanentError) else None
        if reason == "amount_too_small":
            _name_price_setting(ctx, job.price_cents, error)
        if reason in REFUSED_FIELDS:
            raise RefusedError(f"{REFUSED_FIELDS[reason]}: {error}", status=422) from error
        if isinstance(error, AccountError):
            # Not Stripe's: what else works with this key would close it, and refunds are not to wait for it.
            failure = Failure(breaker=faults.CHECKOUT, work_key=job_id, message=str(error), scope=faults.Scope.SHOP)
            ctx.state.breakers.note(failure)
        raise Unavailable(f"the payment service does not answer properly now: {error}") from error
    ctx.state.breakers.note_success(faults.CHECKOUT, ctx.policy)
    stripe_answers.note_success(ctx)
    ctx.state.jobs.checkout_created(job_id, session.session_id, expires_at)
    return RegisteredJob(
        job_id=job_id,
        price_cents=job.price_cents,
        currency=job.currency,
        output_width=width * scale,
        output_height=height * scale,
        checkout_url=session.url or "",
        status_url=status_url,
    )


def _name_price_setting(ctx: ServiceContext, price_cents: int, error: Exception) -> None:
    """Open a manual task: Stripe judges the smallest amount in the currency of the payout, which only it knows."""
    price, currency = money(price_cents, ctx.policy.currency), ctx.policy.currency.upper()
    ctx.state.manual_tasks.open(
        kind=ManualTaskKind.PRICE_REFUSED,
        subject=ctx.policy.currency,
        message=f"Stripe refuses the price of {price} as too small, and these orders are refused: {error}.",
        next_step=f"Raise SMI_MINIMUM_PRICE_CENTS above {price_cents} (smallest units of {currency}) and restart.",
    )


def handle_stripe_event(ctx: ServiceContext, event: StripeEvent, *, source: str) -> str:
    """Apply one Stripe event at most once, in any order of events. Return its effect.

    The objects are read again from Stripe before anything changes: events are unordered and may be old. A repeated
    event costs no call: Stripe sends many twice, and waits for the answer.
    Raise TransientError when Stripe or the database does not answer: the sender (or reconciliation) repeats it.
    Raise RefusedError for an object of ours with malformed ids; objects of others are ignored.
    """
    if event.account is not None:
        return "not ours"  # of an account that is connected to ours
    body = event.object
    payment_intent = _payment_intent_id(body)
    if event.type not in HANDLED_EVENTS:
        return _unknown_event(ctx, event, payment_intent)
    if not body:
        return "not handled"  # a thin event: the comparison of payments finds what it is about
    name = (event.event_id, event.type)
    if event.type in (*REFUND_EVENTS, *DISPUTE_EVENTS, *WARNING_EVENTS):
        if payment_intent is None or not _are_ids(event.event_id, payment_intent, body.get("id")):
            return "not ours"
        if event.type in REFUND_EVENTS:
            return refund.handle_refund_event(ctx, event, payment_intent, source=source)
        if event.type in DISPUTE_EVENTS:
            return refund.handle_dispute_event(ctx, event, payment_intent, source=source)
        return refund.handle_fraud_warning(ctx, event, payment_intent)
    if not _is_ours(body):
        return "not ours"
    job_id = body["metadata"].get("job_id", "")
    if not _are_ids(event.event_id, payment_intent, body.get("id"), job_id):
        raise RefusedError(f"the object of the event {event.event_id[:64]!r} is malformed")
    if event.type in PAID_EVENTS:
        if payment_intent is None:
            return "not paid yet"
        if body.get("object") == "checkout.session" and body.get("payment_status") != "paid":
            # Of a method whose bank decides days later, or in words that are not known: the intent tells.
            address = address_of(ctx, job_id, payment_intent, told=_address_in(body))
            noted = ctx.state.jobs.payment_on_its_way(job_id, payment_intent, actor=source, event=name, address=address)
            return "on its way" if noted else "not paid yet"
        if ctx.state.webhook_inbox.seen([event.event_id]):
            return "repeated"
        told = _address_in(body)
        return learn_of_payment(ctx, payment_intent, job_id, event=name, source=source, told=told)
    if event.type in CLOSING_EVENTS:
        return "abandoned" if ctx.state.jobs.abandon(job_id, actor=source, event=name) else "known"
    ctx.state.webhook_inbox.note(*name, "payment failed")
    return "noted"


def learn_of_payment(
    ctx: ServiceContext,
    payment_intent_id: str,
    job_id: str,
    *,
    event: tuple[str, str] | None,
    source: str,
    told: str = "",
    wait_for_address: bool = True,
) -> str:
    """Read the PaymentIntent and record it when it has succeeded, with its refunds whose events came before: they were
    ignored then. Return its role, or why there is none. `told`, `wait_for_address`: see `address_of`."""
    job_id = _plain(job_id)
    facts: StripePayment = ctx.payments.payment(payment_intent_id)
    if facts.status != "succeeded":
        if facts.status not in UNPAID_STATES:
            _name_unknown_word(ctx, f"payment {facts.status or 'without a status'}", payment_intent_id)
        return "not paid yet"
    # Refunds first: without an answer the payment event is repeated too, and no refunded work starts.
    refunds = refund.refunds_made(ctx, facts)
    address = address_of(ctx, job_id, payment_intent_id, told=told, wait=wait_for_address)
    role = ctx.state.payments.record_payment(
        facts, job_id, event=event, source=source, policy=ctx.policy, address=address
    )
    for made in refunds:
        ctx.state.refunds.settle_by_facts(made, event=None, actor=source)
    return str(role)


def address_of(ctx: ServiceContext, job_id: str, payment_intent_id: str, *, told: str = "", wait: bool = True) -> str:
    """Return the e-mail address that the customer has entered at Checkout, empty if there is none. An order that has
    one, or whose event or session has `told` it, costs no call. What is wrong with the session keeps no payment from
    being recorded; a Stripe that does not answer does so only while `wait`: then raise TransientError."""
    job = ctx.state.queries.job(job_id) if re.fullmatch(r"[0-9a-f]{32}", job_id) else None
    if job is None or job.customer_email:
        return ""
    try:
        if not told:
            session = ctx.payments.checkout_of(payment_intent_id)
            told = session.customer_email if session else ""
        return checked_email(told) if told else ""
    except (TransientError, PermanentError, RefusedError) as error:
        if wait and isinstance(error, TransientError) and not isinstance(error, AccountError | UnreadableError):
            raise
        log.warning("no e-mail address was found for job %s (%s)", job_id, type(error).__name__)
        return ""


def _address_in(body: Mapping[str, Any]) -> str:
    """Return the e-mail address in the Checkout session of an event, empty if there is none."""
    details = body.get("customer_details") if body.get("object") == "checkout.session" else None
    address = details.get("email") if isinstance(details, Mapping) else None
    return address if isinstance(address, str) else ""


def _unknown_event(ctx: ServiceContext, event: StripeEvent, payment_intent: str | None) -> str:
    """Return the effect of a type of event that is not handled: none. One about a payment of ours whose type is not
    known here opens a task."""
    family = event.type.startswith(("charge.", "refund.", "payment_intent.", "checkout.session."))
    if not family or event.type in UNIMPORTANT_EVENTS or not _are_ids(payment_intent):
        return "not handled"
    if payment_intent and ctx.state.queries.payment(payment_intent):
        _name_unknown_word(ctx, f"event {event.type}", payment_intent)
    return "not handled"


def _name_unknown_word(ctx: ServiceContext, word: str, payment_intent: str) -> None:
    ctx.state.manual_tasks.open(
        kind=ManualTaskKind.UNKNOWN_WORD,
        subject=word[:100],
        message=f"Stripe has told something about the payment {payment_intent} that is not known here: {word[:100]}. "
        "Nothing was done because of it.",
        next_step="See in the Stripe dashboard what it means for the order, and close this task.",
    )


def close_abandoned(ctx: ServiceContext, limit: int = 100) -> int:
    """Close orders that were not paid within a day, their Checkout sessions first, so that none can be paid. Return the
    number. An order whose session cannot be closed is postponed by an hour, so that it blocks no newer one."""
    closed = failed = 0
    for job_id, session_id in ctx.state.jobs.abandoned_candidates(limit):
        try:
            session = _closed_session(ctx, session_id) if session_id else None
            if not (session and session.payment_intent_id and _lives(ctx, session, job_id)):
                closed += ctx.state.jobs.abandon(job_id, actor=ctx.actor)
                continue
        except (TransientError, PermanentError, NotFound) as error:
            log.warning("the Checkout session of job %s was not closed: %s", job_id, error)
            failed += 1
        except Exception as error:
            one_object.tell(ctx, f"the closing of the Checkout session of job {job_id}", error, job_id=job_id)
            failed += 1
        ctx.state.jobs.postpone_abandonment(job_id, seconds=3600)
        if failed >= _MAX_FAILED:
            break
    return closed


def _lives(ctx: ServiceContext, session: CheckoutSession, job_id: str) -> bool:
    """Return whether the payment of a closed session was made or may still be: nothing is abandoned then. Record one
    that was made."""
    intent = session.payment_intent_id or ""
    if session.payment_status == "paid":
        learn_of_payment(ctx, intent, job_id, event=None, source=ctx.actor, told=session.customer_email)
        return True
    if session.status != "complete":
        return False
    status = ctx.payments.payment(intent).status
    if status == "succeeded":
        learn_of_payment(ctx, intent, job_id, event=None, source=ctx.actor, told=session.customer_email)
    elif status in ("canceled", "requires_payment_method"):
        return False
    else:
        address = address_of(ctx, job_id, intent, told=session.customer_email)
        ctx.state.jobs.payment_on_its_way(job_id, intent, actor=ctx.actor, event=None, address=address)
    return True


def _closed_session(ctx: ServiceContext, session_id: str) -> CheckoutSession | None:
    """Close a session and return it; None when Stripe does not know it: then nobody can pay it either."""
    try:
        ctx.payments.expire_checkout(session_id)
        return ctx.payments.checkout(session_id)
    except NotFound:
        return None


def _refuse_behind(ctx: ServiceContext, names: Sequence[str]) -> None:
    """Raise Unavailable while a breaker is open that a new order would be hit by."""
    breaker = ctx.state.breakers.refusal(names)
    if breaker:
        raise Unavailable(f"no orders are taken at the moment: {faults.to_customers(breaker.name)}", retry_after=300)


def _refuse_while_overloaded(ctx: ServiceContext) -> None:
    # The breaker of the image's host is not among them: fetching the image tells whether it works.
    _refuse_behind(ctx, [faults.SUBMISSIONS, faults.STATUS, faults.RESULTS, faults.STRIPE, faults.CHECKOUT])
    if ctx.policy.budget_hold and ctx.policy.monthly_credit_budget is not None:
        used = ctx.state.queries.credits_this_month()
        if used >= ctx.policy.monthly_credit_budget:
            raise Unavailable("no orders are taken until next month: the budget is used", retry_after=86_400)
    wait = ctx.state.queries.forecast_wait_seconds(ctx.policy)
    if wait > ctx.policy.max_wait.total_seconds():
        raise Unavailable("no orders are taken at the moment: too many are waiting", retry_after=int(wait))


def _refuse_unsold(ctx: ServiceContext, facts: ImageInfo, scale: int) -> None:
    width, height = facts.display_size
    order = properties.Ordered(format=facts.format, width=width, height=height, scale=scale, has_alpha=facts.has_alpha)
    unsold = {found.property for found in ctx.state.unsold.all(ctx.policy.unsold_days)}
    for found in properties.of(order):
        if found in unsold:
            what, instead = properties.in_words(found), properties.instead(found, order)
            raise RefusedError(f"image_url: {what} cannot be upscaled at the moment; {instead}", status=422)


def _are_ids(*values: object) -> bool:
    return all(value is None or (isinstance(value, str) and _ID.fullmatch(value)) for value in values)


def _is_ours(body: Mapping[str, Any]) -> bool:
    metadata = body.get("metadata")
    return isinstance(metadata, Mapping) and metadata.get("source") == SOURCE


def _payment_intent_id(body: Mapping[str, Any]) -> str | None:
    if body.get("object") == "payment_intent":
        return body.get("id")
    intent = body.get("payment_intent")
    return intent.get("id") if isinstance(intent, Mapping) else intent


def checked_email(address: str) -> str:
    """Return an e-mail address as it is written to. Raises RefusedError (422)."""
    from email_validator import EmailNotValidError, validate_email

    try:
        return validate_email(address, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise RefusedError(f"email: {error}", status=422) from error


def reachable_email(ctx: ServiceContext, address: str) -> str:
    """Return `checked_email`. Raises RefusedError (422) also for an address to which our mail server is known to send
    nothing: the customer would pay and get no mail."""
    email = checked_email(address)
    if ctx.mailer.reaches(email) is False:
        why = "our mail server cannot send to addresses with letters beyond a to z before the @; use another address"
        raise RefusedError(f"email: {why}", status=422)
    return email


def _for_the_wire(address: str) -> str:
    """Return an address with its domain in ASCII (xn--…): Stripe takes no other."""
    from email_validator import validate_email

    checked = validate_email(address, check_deliverability=False)
    return f"{checked.local_part}@{checked.ascii_domain}"


def _plain(job_id: str) -> str:
    """Return an id without hyphens, with which the WordPress plugin writes it."""
    return job_id.replace("-", "").lower()


def require_known(ctx: ServiceContext, job_id: str) -> UpscaleJob:
    """Return the job of an id with or without hyphens. Raise NotFound."""
    plain = _plain(job_id)
    job = ctx.state.queries.job(plain) if re.fullmatch(r"[0-9a-f]{32}", plain) else None
    if job is None:
        raise NotFound(f"there is no upscale job {job_id[:64]!r}")
    return job
