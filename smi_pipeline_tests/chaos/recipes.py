"""What the customers of the chaos order, and which order makes which process pass which failpoint.

Belongs here: data. Does not belong here: how orders are placed and processes killed.
"""

from smi_pipeline.demo.scenario import Case, Fault, Outcome

GATEWAY, SENSORS, WORKER, PRIORITY = "gateway", "code-fulfilment", "worker-fulfilment", "worker-priority"
"""Children of the stack that pass failpoints. Sensors tick in the code server; the daemon only asks it to."""


def _case(name: str, description: str, *faults: Fault, expected: Outcome = "delivered", submissions: int = 1) -> Case:
    return Case(
        name=name,
        resolution="4x",
        photo="coffee-200.jpg",
        expected=expected,
        description=description,
        faults=faults,
        submissions=submissions,
    )


def _upscaler(kind: str, times: int | None = 1, endpoint: str = "", **params: object) -> Fault:
    match = {"endpoint": endpoint} if endpoint else {}
    return Fault(service="upsampler", kind=kind, match_by="image_url", match=match, params={"times": times, **params})


def _stripe(kind: str, times: int | None = 1, endpoint: str = "", **params: object) -> Fault:
    match = {"endpoint": endpoint} if endpoint else {}
    return Fault(service="stripe", kind=kind, match_by="job_id", match=match, params={"times": times, **params})


_FAILS = Fault(service="origin", kind="truncated", match_by="image_url", params={"times": None, "keep": 0.4})
"""A damaged source: our own check convicts it, so that many of them in a row are no fault of the shop."""
_SILENT = _stripe("lose_webhook", times=None)

RECIPES = {
    case.name: case
    for case in (
        _case("good", "all goes well"),
        _case("fails", "the source is damaged", _FAILS, expected="refunded"),
        _case(
            "fails-at-once",
            "the reply says failed",
            _upscaler("fail", times=None, at_once=True),
            expected="refunded",
            submissions=4,  # three in a row are taken for a fault of the shop, and submitted again
        ),
        _case("throttled", "Upsampler first answers 429", _upscaler("status", 1, "submit", code=429, retry_after=1)),
        _case(
            "reply-lost",
            "the reply to the submission and its webhook are lost",
            _upscaler("accept_then_drop", 1, "submit"),
            _upscaler("lose_webhook"),
        ),
        _case(
            "mail-451",
            "the mail server first answers 451",
            Fault(service="mail", kind="code", match_by="to", params={"code": 451, "at": "RCPT"}),
        ),
        _case(
            "mail-451-twice",
            "the mail server twice answers 451",
            Fault(service="mail", kind="code", match_by="to", params={"code": 451, "at": "RCPT", "times": 2}),
        ),
        _case(
            "refund-500",
            "the source is damaged, then Stripe's refunds are down for a moment",
            _FAILS,
            _stripe("status", 3, "refunds", code=500),  # the official client tries three times
            expected="refunded",
        ),
        _case(
            "refund-500-long",
            "the source is damaged, then Stripe's refunds are down for two moments",
            _FAILS,
            _stripe("status", 6, "refunds", code=500),
            expected="refunded",
        ),
        _case(
            "refund-pending",
            "the source is damaged, the refund is pending for a while",
            _FAILS,
            _stripe("refund_pending", 1, seconds=40.0, then="succeeded"),
            expected="refunded",
        ),
        _case("stripe-silent", "no webhook of Stripe's arrives", _SILENT),
        _case(
            "fails-stripe-silent",
            "the source is damaged, and no webhook of Stripe's arrives",
            _FAILS,
            _SILENT,
            expected="refunded",
        ),
        _case("upscaler-silent", "the result's webhook is lost", _upscaler("lose_webhook", times=None)),
        _case("status-500", "the first status call fails", _upscaler("status", 1, "status", code=500)),
        _case(
            "status-500-silent",
            "the webhook is lost and the first status call fails",
            _upscaler("lose_webhook", times=None),
            _upscaler("status", 1, "status", code=500),
        ),
        _case("dispute", "the bank asks about the payment", _stripe("dispute", inquiry=True, outcome="won")),
        _case(
            "dispute-stripe-silent",
            "the bank asks about the payment, and no webhook of Stripe's arrives",
            _stripe("dispute", inquiry=True, outcome="won"),
            _SILENT,
        ),
        _case("checkout-refused", "Stripe opens no Checkout at first"),
        _case("never-paid", "the customer leaves Checkout for good", expected="refunded"),
        _case("paid-before-clean-up", "only the comparison of payments tells of the payment", _SILENT),
        _case(
            "pending-before-clean-up",
            "only the comparison of payments tells that the pending refund was made",
            _FAILS,
            _SILENT,
            _stripe("refund_pending", 1, seconds=3.0, then="succeeded"),
            expected="refunded",
        ),
    )
}
"""All kinds of orders, by name."""

AHEAD: dict[str, tuple[str, str, dict[str, object], dict[str, object]]] = {
    "checkout-refused": (
        "stripe",
        "status",
        {"endpoint": "checkout/sessions", "method": "POST"},
        {"code": 500, "times": 3},  # the official client tries three times
    ),
    "dispute-stripe-silent": ("stripe", "lose_webhook", {"event_type": "charge.dispute.created"}, {"times": 1}),
}
"""Faults planted for a customer before the order is placed: service, kind, match, parameters."""

PASSED_BY: dict[str, dict[str, str]] = {
    "jobs.register": {GATEWAY: "good"},
    "jobs.checkout_created": {GATEWAY: "good"},
    "payments.record_payment": {GATEWAY: "good", SENSORS: "stripe-silent", PRIORITY: "paid-before-clean-up"},
    "webhook_inbox.note": {GATEWAY: "fails", SENSORS: "stripe-silent"},
    "reconciliation.set_cursor": {SENSORS: "stripe-silent", PRIORITY: "paid-before-clean-up"},
    "jobs.abandon": {GATEWAY: "checkout-refused", PRIORITY: "never-paid"},
    "leases.lease": {GATEWAY: "good", SENSORS: "stripe-silent"},
    "leases.lease_one": {WORKER: "good", PRIORITY: "refund-500"},
    "leases.start": {WORKER: "good", PRIORITY: "mail-451"},
    "leases.reschedule": {WORKER: "throttled", PRIORITY: "refund-500-long"},
    "submissions.prepared": {WORKER: "good"},
    "submissions.begin": {WORKER: "good"},
    "submissions.accepted": {WORKER: "good"},
    "submissions.mark_rejected": {WORKER: "throttled"},
    "submissions.mark_lost": {WORKER: "reply-lost"},
    "submissions.mark_for_poll": {GATEWAY: "good"},
    "submissions.claim_due_polls": {GATEWAY: "good", SENSORS: "good"},
    "submissions.poll_answered": {WORKER: "fails-at-once", GATEWAY: "good", SENSORS: "upscaler-silent"},
    "submissions.poll_failed": {GATEWAY: "status-500", SENSORS: "status-500-silent"},
    "deliveries.verified": {WORKER: "good"},
    "deliveries.deliver": {WORKER: "good"},
    "deliveries.fail": {WORKER: "fails"},
    "refunds.intend": {WORKER: "fails", PRIORITY: "refund-500"},
    "refunds.settle": {WORKER: "fails", PRIORITY: "refund-500"},
    "refunds.settle_by_facts": {
        GATEWAY: "fails",
        SENSORS: "fails-stripe-silent",
        PRIORITY: "pending-before-clean-up",
    },
    "payments.note_dispute": {GATEWAY: "dispute", SENSORS: "dispute-stripe-silent"},
    "emails.hand_over": {WORKER: "good", PRIORITY: "mail-451"},
    "emails.accepted": {WORKER: "good", PRIORITY: "mail-451"},
    "emails.refused": {WORKER: "mail-451", PRIORITY: "mail-451-twice"},
    "limiter.acquire": {WORKER: "good", GATEWAY: "good", SENSORS: "upscaler-silent"},
    "payments.create_checkout": {GATEWAY: "good"},
    "payments.expire_checkout": {PRIORITY: "never-paid"},
    "payments.payment": {WORKER: "fails", GATEWAY: "good", SENSORS: "stripe-silent", PRIORITY: "refund-500"},
    "payments.events_since": {SENSORS: "good"},
    "payments.refunds_of": {WORKER: "fails", GATEWAY: "fails", SENSORS: "fails-stripe-silent", PRIORITY: "refund-500"},
    "payments.create_refund": {WORKER: "fails", PRIORITY: "refund-500"},
    "payments.refund": {GATEWAY: "fails", SENSORS: "fails-stripe-silent", PRIORITY: "refund-pending"},
    "upscaler.submit": {WORKER: "good"},
    "upscaler.status": {GATEWAY: "good", SENSORS: "upscaler-silent"},
    "fetcher.fetch": {WORKER: "good", GATEWAY: "good"},
    "storage.put": {WORKER: "good"},
    "mailer.send": {WORKER: "good", PRIORITY: "mail-451"},
    "runs.launch": {GATEWAY: "good"},
}

FINAL = ("never-paid", "paid-before-clean-up", "pending-before-clean-up")
"""Recipes that need a day to pass, or the clean-up to run just now: they come last, in a wave of their own."""

NOT_KILLED = {
    ("mailer.send", SENSORS): "an alert to the shop's own people, at most once by design",
    ("mailer.send", GATEWAY): "the alert that the daemon is silent, likewise",
}
"""What passes without being killed there, and why."""

NEAR_MONEY = (
    "submissions.begin",
    "upscaler.submit",
    "submissions.accepted",
    "deliveries.verified",
    "deliveries.deliver",
    "deliveries.fail",
    "refunds.intend",
    "payments.create_refund",
    "refunds.settle",
    "emails.hand_over",
    "mailer.send",
    "emails.accepted",
)
"""Calls whose points are killed at repeatedly."""

UNANSWERED = (
    "submissions.begin.after",
    "upscaler.submit.before",
    "upscaler.submit.after",
    "submissions.accepted.before",
)
"""Points between which a submission is ambiguous: who dies there leaves an order that may be submitted once more."""
