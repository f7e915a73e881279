"""Histories of a shop, written straight into the state, and remembered as plain values for the oracle.

Rows are inserted as they are at their end: the lifecycle is tested elsewhere.
"""

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from smi_pipeline.state.database import Database, Transaction

DAY = date(2025, 11, 10)
CREDIT_PRICES = (None, Decimal("3.7"), Decimal("0.0123456789012345"), Decimal(600))


@dataclass(kw_only=True)
class Order:
    """An upscale job with all that belongs to it. Times of mails are (kind, accepted_at)."""

    paid_at: datetime | None  # None: a gift
    job_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: str = "completed"
    scale: int = 4
    width: int = 500
    height: int = 400
    price_cents: int = 50
    currency: str = "usd"
    expected_credits: int = 1
    credit_cents: Decimal | None = None
    submitted_at: datetime | None = None
    result_ready_at: datetime | None = None
    completed_at: datetime | None = None
    reason_code: str | None = None
    payments: list[dict[str, Any]] = field(default_factory=list)
    refunds: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    mails: list[tuple[str, datetime | None]] = field(default_factory=list)
    rating: int | None = None
    imported: bool = False
    bookings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def payment_intent_id(self) -> str:
        return f"pi_{self.job_id}"

    @property
    def paid_currency(self) -> str:
        return self.payments[0]["currency"] if self.payments else self.currency


@dataclass(kw_only=True)
class Loose:
    """A payment without a job."""

    payment: dict[str, Any]
    refunds: list[dict[str, Any]] = field(default_factory=list)
    bookings: list[dict[str, Any]] = field(default_factory=list)


def insert(tx: Transaction, table: str, **values: Any) -> None:
    names = ", ".join(values)
    schema = "reports" if table == "stripe_bookings" else "smi"
    tx.run(f"INSERT INTO {schema}.{table} ({names}) VALUES ({', '.join(f':{name}' for name in values)})", **values)


def write(database: Database, orders: Sequence[Order | Loose]) -> None:
    with database.transaction() as tx:
        for order in orders:
            if isinstance(order, Order):
                _write(tx, order)
            else:
                insert(tx, "payments", role="orphan", learned_from="test", **order.payment)
                _write_refunds(tx, order.refunds, kind="unmatched", **_of(order.payment))
                _write_bookings(tx, order.bookings, **_of(order.payment))


def _of(payment: dict[str, Any]) -> dict[str, Any]:
    return {name: payment[name] for name in ("payment_intent_id", "currency")}


def _write_refunds(tx: Transaction, refunds: list[dict[str, Any]], **values: Any) -> None:
    for refund in refunds:
        insert(tx, "refunds", n=1, reason_code="upscale_failed", actor="test", **values | refund)


def _write_bookings(tx: Transaction, bookings: list[dict[str, Any]], **values: Any) -> None:
    for booking in bookings:
        of_charge = {"source_id": "x", "created_at": moment(DAY, 0)}
        insert(tx, "stripe_bookings", booking_id=uuid.uuid4().hex, **of_charge | values | booking)


def _write(tx: Transaction, order: Order) -> None:
    insert(
        tx,
        "upscale_jobs",
        job_id=order.job_id,
        status=order.status,
        source_url="http://shop.example/a.png",
        file_name="a.png",
        resolution=f"{order.scale}x",
        scale=order.scale,
        customer_email="someone@example.org",
        source_format="PNG",
        source_width=order.width,
        source_height=order.height,
        source_bytes=1000,
        source_sha256="0" * 64,
        price_cents=order.price_cents,
        currency=order.currency,
        expected_credits=order.expected_credits,
        credit_cents=order.credit_cents,
        payment_intent_id=order.payment_intent_id,
        paid_at=order.paid_at,
        learned_at=order.paid_at,
        start_by=order.paid_at and order.paid_at + timedelta(hours=1),
        admin_override=order.paid_at is None,
        submitted_at=order.submitted_at,
        result_ready_at=order.result_ready_at,
        completed_at=order.completed_at,
        failed_at=None if order.status != "failed" else order.paid_at,
        reason_code=order.reason_code,
        imported_from="wordpress" if order.imported else None,
    )
    for payment in order.payments:
        insert(tx, "payments", job_id=order.job_id, learned_from="test", **payment)
    of_order = {"payment_intent_id": order.payment_intent_id, "currency": order.paid_currency}
    _write_refunds(tx, order.refunds, job_id=order.job_id, **of_order)
    _write_bookings(tx, order.bookings, **of_order)
    for call in order.calls:
        insert(tx, "submissions", job_id=order.job_id, round=1, **{"created_at": order.paid_at} | call)
    for number, outcome in enumerate(order.outcomes, 1):
        insert(tx, "outcomes", job_id=order.job_id, round=number, actor="test", **outcome)
    for serial, (kind, accepted_at) in enumerate(order.mails, 1):
        insert(
            tx,
            "emails",
            job_id=order.job_id,
            kind=kind,
            serial=serial,
            message_id=uuid.uuid4().hex,
            state="accepted" if accepted_at else "claimed",
            accepted_at=accepted_at,
        )
    if order.rating:
        insert(tx, "feedback", job_id=order.job_id, score=order.rating)


def moment(day: date, seconds: float) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=round(seconds, 6))


def delivered(day: date = DAY, **changes: Any) -> Order:
    """A plain good order: paid at 10:00, submitted after 1 s, ready after 10 s, delivered and mailed 1 s later each."""
    paid = moment(day, 36_000)
    order = Order(
        paid_at=paid,
        submitted_at=paid + timedelta(seconds=1),
        result_ready_at=paid + timedelta(seconds=11),
        completed_at=paid + timedelta(seconds=12),
        calls=[{"state": "completed", "credits": 1}],
        outcomes=[{"outcome": "deliver"}],
        mails=[("completion", paid + timedelta(seconds=13))],
    )
    for name, value in changes.items():
        setattr(order, name, value)
    if not order.payments:
        order.payments = [_payment(order, "order", fee_cents=31)]
    return order


def failed(day: date = DAY, *, refund: str = "succeeded", reason: str = "upscale_failed") -> Order:
    """An order that was refunded, or is to be."""
    paid = moment(day, 40_000)
    order = Order(
        paid_at=paid,
        status="refunded" if refund == "succeeded" else "failed",
        submitted_at=paid + timedelta(seconds=2),
        reason_code=reason,
        calls=[{"state": "failed", "credits": 0}],
        outcomes=[{"outcome": "refund", "reason": reason}],
        mails=[("refund", paid + timedelta(seconds=30))],
        refunds=[{"kind": "failure", "state": refund, "amount_cents": None if refund == "owed" else 50}],
    )
    order.payments = [_payment(order, "order", fee_cents=31)]
    return order


def _payment(order: Order, role: str, **more: Any) -> dict[str, Any]:
    return {
        "payment_intent_id": order.payment_intent_id if role == "order" else f"pi_{uuid.uuid4().hex}",
        "role": role,
        "received_cents": order.price_cents,
        "currency": order.currency,
        "fee_cents": None,
    } | more


def random_orders(seed: int, *, days: int = 4, count: int = 150, first: date = DAY) -> list[Order]:
    """Orders of every kind the state knows, on `days` days of which the last has none."""
    chance = random.Random(seed)
    return [_random_order(chance, first + timedelta(days=chance.randrange(days - 1))) for _ in range(count)]


def random_rest(seed: int, *, days: int = 4, count: int = 12, first: date = DAY) -> list[Order | Loose]:
    """What belongs to no paid job: gifts, and payments without a job."""
    chance = random.Random(seed)
    kinds: list[Callable[[random.Random, date], Order | Loose]] = [_gift, _loose]
    return [chance.choice(kinds)(chance, first + timedelta(days=chance.randrange(days - 1))) for _ in range(count)]


def _gift(chance: random.Random, day: date) -> Order:
    order = Order(paid_at=None, currency=chance.choice(["usd", "eur"]), expected_credits=chance.randint(1, 9))
    order.credit_cents = chance.choice(CREDIT_PRICES)
    order.calls = [
        {"state": state, "credits": chance.choice([None, 3]), "created_at": moment(day, chance.randrange(200_000))}
        for state in chance.choices(["completed", "failed", "lost"], k=2)
    ]
    return order


def _loose(chance: random.Random, day: date) -> Loose:
    payment = {
        "payment_intent_id": f"pi_{uuid.uuid4().hex}",
        "received_cents": chance.randint(50, 900),
        "currency": chance.choice(["usd", "eur", "gbp"]),
        "fee_cents": chance.choice([None, 31]),
        "paid_at": moment(day, chance.uniform(0, 86_399)),
    }
    refund = {"state": chance.choice(["owed", "succeeded"]), "amount_cents": payment["received_cents"]}
    return Loose(payment=payment, refunds=chance.choice([[], [refund]]), bookings=_bookings(chance, payment))


def _bookings(chance: random.Random, payment: dict[str, Any]) -> list[dict[str, Any]]:
    """What Stripe may have booked: the charge (as the payment says, or later than it), a dispute, its end."""
    amount, found = payment["received_cents"], []
    if chance.random() < 0.5:
        fee = payment["fee_cents"] if payment["fee_cents"] is not None else chance.randint(31, 60)
        found.append({"kind": "charge", "amount_cents": amount, "fee_cents": fee})
    if chance.random() < 0.15:
        found.append({"kind": "dispute", "amount_cents": -amount, "fee_cents": 1500})
        if chance.random() < 0.5:
            found.append({"kind": "dispute", "amount_cents": amount, "fee_cents": 0})
    if chance.random() < 0.1:
        found.append({"kind": "refund", "amount_cents": -1, "fee_cents": chance.choice([0, 7])})
    return found


def _second_payment(chance: random.Random, order: Order) -> None:
    """On the same day; in another currency, it is not the job's."""
    assert order.paid_at
    second = _payment(
        order,
        "duplicate",
        received_cents=chance.randint(1, 900),
        currency=chance.choice([order.paid_currency, order.paid_currency, "chf"]),
        fee_cents=chance.choice([None, 31]),
        dispute=chance.choice([None] * 3 + ["lost", "won"]),
        paid_at=moment(order.paid_at.date(), chance.randrange(86_400)),
    )
    order.payments.append(second)
    order.bookings += [booking | _of(second) for booking in _bookings(chance, second)]
    refund = {
        "kind": "duplicate_payment",
        "state": chance.choice(["owed", "pending", "succeeded", "failed"]),
        "amount_cents": second["received_cents"],
    }
    order.refunds.append(refund | _of(second))


def _random_order(chance: random.Random, day: date) -> Order:
    paid = moment(day, chance.choice([0, 86_399.999999, chance.uniform(0, 86_399)]))
    order = Order(
        paid_at=paid,
        scale=chance.choice([4, 4, 8]),
        width=chance.randint(1, 2500),
        height=chance.randint(1, 2500),
        price_cents=chance.randint(50, 900),
        currency=chance.choice(["usd", "usd", "eur"]),
        expected_credits=chance.randint(1, 40),
        credit_cents=chance.choice(CREDIT_PRICES),
        rating=chance.choice([None, None, 1, 3, 5]),
    )
    fee = chance.choice([None, chance.randint(0, 90)])
    order.payments = [_payment(order, "order", fee_cents=fee, dispute=chance.choice([None] * 9 + ["lost", "won"]))]
    if chance.random() < 0.1:  # a wrong amount
        order.payments[0] |= {"role": "mismatch", "received_cents": chance.randint(1, 900)}
        order.payments[0] |= {"currency": chance.choice([order.currency, "gbp"])}
    order.bookings = _bookings(chance, order.payments[0])
    for _ in range(chance.choice([0] * 8 + [1, 2])):
        _second_payment(chance, order)
    at = paid
    if chance.random() < 0.9:
        at = order.submitted_at = at + timedelta(seconds=round(chance.expovariate(1), 6))
        for state in chance.choices(["completed", "failed", "lost", "rejected", "timed_out"], k=chance.randint(1, 3)):
            order.calls.append({"state": state, "credits": chance.choice([None, chance.randint(1, 40)])})
    if chance.random() < 0.8:
        at = order.result_ready_at = at + timedelta(seconds=round(chance.uniform(-5, 500), 6))
    _CASES[chance.choice(list(_CASES))](chance, order, at)
    return order


def _delivered(chance: random.Random, order: Order, at: datetime) -> None:
    order.completed_at = at + timedelta(seconds=round(chance.uniform(0, 9), 6))
    order.outcomes = [{"outcome": "deliver"}]
    if chance.random() < 0.9:
        order.mails = [("completion", order.completed_at + timedelta(seconds=chance.randint(0, 60)))]
    if chance.random() < 0.2:
        part = chance.randint(1, order.price_cents)
        order.refunds.append(
            {"kind": "goodwill", "state": chance.choice(["pending", "succeeded"]), "amount_cents": part}
        )
        order.mails.append(("goodwill", order.completed_at + timedelta(days=2)))


def _redelivered(chance: random.Random, order: Order, at: datetime) -> None:
    """Delivered, and delivered again in a second round a day later: the first mail is older than the delivery."""
    _delivered(chance, order, at)
    first = order.completed_at
    assert first
    order.completed_at = first + timedelta(days=1)
    order.mails = [("completion", first + timedelta(seconds=1)), ("completion", first + timedelta(days=1, seconds=3))]
    order.outcomes.append({"outcome": "deliver"})


def _refunded(chance: random.Random, order: Order, at: datetime) -> None:
    order.status = "refunded"
    reason = order.reason_code = chance.choice(["timed_out", "result_rejected", "upscale_failed"])
    order.outcomes = [{"outcome": "refund", "reason": reason}]
    order.refunds.append(
        {
            "kind": "failure",
            "state": chance.choice(["succeeded", "not_needed"]),
            "amount_cents": chance.randint(1, order.price_cents),
        }
    )
    if order.refunds[-1]["state"] == "not_needed":
        order.refunds[-1]["amount_cents"] = None
    order.mails = [("refund", at + timedelta(seconds=chance.randint(1, 4000)))]


def _failed(chance: random.Random, order: Order, at: datetime) -> None:
    _refunded(chance, order, at)
    order.status = "failed"
    state = chance.choice(["owed", "pending", "failed", "canceled"])
    order.refunds[-1] |= {"state": state, "amount_cents": None if state == "owed" else order.price_cents}
    order.mails = []


def _refunded_then_retried(chance: random.Random, order: Order, at: datetime) -> None:
    """Refunded in round 1, now under way, failed or delivered in round 2."""
    _refunded(chance, order, at)
    order.refunds[-1] |= {"state": "succeeded", "amount_cents": order.price_cents}
    order.status = chance.choice(["pending", "failed", "completed"])
    order.reason_code = None
    if order.status == "failed":
        order.reason_code = "source_unreachable"
        order.outcomes.append({"outcome": "none", "reason": "source_unreachable"})
    elif order.status == "completed":
        order.completed_at = at + timedelta(hours=1)
        order.outcomes.append({"outcome": "deliver"})
        order.mails.append(("completion", at + timedelta(hours=1, seconds=1)))


def _outside(chance: random.Random, order: Order, at: datetime) -> None:
    """Returned by hand in Stripe's dashboard: a part while the job goes on, or all of it, which ends the job."""
    whole = chance.random() < 0.5
    order.status = "refunded" if whole else "processing"
    order.refunds.append({"kind": "outside", "state": "succeeded", "amount_cents": order.price_cents if whole else 1})
    if whole:
        order.reason_code = "refunded_outside"
        order.outcomes = [{"outcome": "refund", "reason": "refunded_outside"}]


def _open(chance: random.Random, order: Order, at: datetime) -> None:
    order.status = chance.choice(["pending", "processing"])


def _imported(chance: random.Random, order: Order, at: datetime) -> None:
    order.imported = True
    order.payments = chance.choice([[], [_payment(order, "order")]])
    order.refunds, order.calls, order.bookings = [], [], []
    order.status = chance.choice(["completed", "refunded"])


_CASES = {
    case.__name__: case
    for case in (_delivered, _redelivered, _refunded, _failed, _refunded_then_retried, _outside, _open, _imported)
}
