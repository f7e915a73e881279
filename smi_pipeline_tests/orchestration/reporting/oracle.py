"""The reports once more: slow, plain, and from the definitions alone. Shares no code with the SQL."""

import math
from calendar import monthrange
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

from smi_pipeline.core.pricing import Prices, margin_percent
from smi_pipeline_tests.orchestration.reporting.history import Loose, Order

PRICES = Prices()
GIVEN_BACK = ("pending", "succeeded")


def fact(order: Order) -> dict[str, Any]:
    assert order.paid_at
    outcome, reason = _outcome(order)
    money = _money(_own(order), order.refunds, order.bookings, order.payment_intent_id)
    credits = sum(call["credits"] or 0 for call in order.calls)
    lost = [call for call in order.calls if call["state"] == "lost" and call["credits"] is None]
    assumed = order.expected_credits * len(lost)
    useful = sum(call["credits"] or 0 for call in order.calls if call["state"] == "completed")
    if order.imported:
        if not order.payments:
            money |= {
                "received_cents": order.price_cents,
                "stripe_fee_cents": PRICES.stripe_fee_cents(order.price_cents),
                "stripe_fee_known": False,
                "refunded_cents": order.price_cents if order.status == "refunded" else 0,
            }
        credits = useful = order.expected_credits if order.status == "completed" else 0
    cost = _cost(order, credits + assumed)
    return {
        "day": order.paid_at.astimezone(UTC).date(),
        "job_id": order.job_id,
        "resolution": f"{order.scale}x",
        "megapixels": Decimal(order.width * order.height * order.scale**2) / 1_000_000,
        "outcome": outcome,
        "reason": reason,
        **_seconds(order, outcome),
        "submissions": len(order.calls),
        "credits": credits,
        "credits_assumed": assumed,
        "credits_wasted": credits + assumed - (useful if outcome in ("delivered", "open") else 0),
        "api_cost_cents": cost,
        "currency": order.paid_currency,
        "price_cents": order.price_cents,
        **money,
        "net_margin_cents": _net(money) - cost,
        "rating": order.rating,
    }


def _cost(order: Order, credits: int) -> int:
    """At the price of a credit when the order was made; today's where that was not kept."""
    return math.ceil(Fraction(PRICES.credit_cents if order.credit_cents is None else order.credit_cents) * credits)


def _own(order: Order) -> list[dict[str, Any]]:
    """The payments that are counted with the job."""
    return [payment for payment in order.payments if payment["currency"] == order.paid_currency]


def other(entry: Order | Loose) -> list[dict[str, Any]]:
    """What belongs to no paid job: a payment, or the calls of a gift by day."""
    if isinstance(entry, Loose):
        return [_apart(entry.payment, entry, entry.payment["payment_intent_id"])]
    if entry.paid_at:
        apart = [payment for payment in entry.payments if payment not in _own(entry)]
        return [_apart(payment, entry, entry.payment_intent_id) for payment in apart]
    rows = []
    for day in sorted({call["created_at"].date() for call in entry.calls}):
        calls = [call for call in entry.calls if call["created_at"].date() == day]
        credits = sum(call["credits"] or 0 for call in calls)
        assumed = entry.expected_credits * sum(c["state"] == "lost" and c["credits"] is None for c in calls)
        cost = _cost(entry, credits + assumed)
        rows.append(
            {
                "day": day,
                "subject": entry.job_id,
                "kind": "gift",
                "currency": entry.currency,
                "submissions": len(calls),
                "credits": credits,
                "credits_assumed": assumed,
                "api_cost_cents": cost,
                **_money([], [], [], ""),
                "net_margin_cents": -cost,
            }
        )
    return rows


def _apart(payment: dict[str, Any], entry: Order | Loose, main: str) -> dict[str, Any]:
    money = _money([payment], entry.refunds, entry.bookings, main)
    return {
        "day": payment["paid_at"].date(),
        "subject": payment["payment_intent_id"],
        "kind": "payment",
        "currency": payment["currency"],
        **dict.fromkeys(("submissions", "credits", "credits_assumed", "api_cost_cents"), 0),
        **money,
        "net_margin_cents": _net(money),
    }


def _money(
    payments: list[dict[str, Any]], refunds: list[dict[str, Any]], bookings: list[dict[str, Any]], main: str
) -> dict[str, Any]:
    """Of payments in one currency; refunds and bookings are of the payment `main` unless they say otherwise."""
    money = dict.fromkeys(("received_cents", "stripe_fee_cents", "refunded_cents"), 0)
    money |= dict.fromkeys(("disputed_cents", "dispute_fee_cents"), 0)
    known = True
    for payment in payments:
        intent = payment["payment_intent_id"]
        back = sum(
            refund["amount_cents"]
            for refund in refunds
            if refund["state"] in GIVEN_BACK and refund.get("payment_intent_id", main) == intent
        )
        booked = [booking for booking in bookings if booking.get("payment_intent_id", main) == intent]
        fees = [b["fee_cents"] for b in booked if b["kind"] == "charge"]
        fee = payment["fee_cents"] if payment["fee_cents"] is not None else next(iter(fees), None)
        known = known and fee is not None
        disputes = [b for b in booked if b["kind"] == "dispute"]
        if disputes:
            money["disputed_cents"] -= sum(b["amount_cents"] for b in disputes)
            money["dispute_fee_cents"] += sum(b["fee_cents"] for b in disputes)
        elif payment.get("dispute") == "lost":
            money["disputed_cents"] += max(0, payment["received_cents"] - back)
        money["received_cents"] += payment["received_cents"]
        money["refunded_cents"] += back
        money["stripe_fee_cents"] += PRICES.stripe_fee_cents(payment["received_cents"]) if fee is None else fee
        money["stripe_fee_cents"] += sum(b["fee_cents"] for b in booked if b["kind"] == "refund")
    return money | {"stripe_fee_known": known}


def _net(money: dict[str, Any]) -> int:
    gone = ("stripe_fee_cents", "refunded_cents", "disputed_cents", "dispute_fee_cents")
    return money["received_cents"] - sum(money[name] for name in gone)


def _outcome(order: Order) -> tuple[str, str | None]:
    decided = [outcome["outcome"] for outcome in order.outcomes]
    reason = next((o["reason"] for o in order.outcomes if o.get("reason")), order.reason_code)
    if "deliver" in decided or order.status == "completed":
        return "delivered", None
    money_back = any(
        refund["kind"] in ("failure", "wrong_amount") and refund["state"] in ("succeeded", "not_needed")
        for refund in order.refunds
    )
    if order.status == "refunded" or ("refund" in decided and money_back):
        return "refunded", reason
    if order.status == "failed" or "refund" in decided:
        return "failed", reason
    return "open", None


def _seconds(order: Order, outcome: str) -> dict[str, float | None]:
    def between(start, end) -> float | None:
        return (end - start).total_seconds() if start and end and end >= start else None

    def first(kind: str, after=None):
        return min((at for k, at in order.mails if k == kind and at and (after is None or at >= after)), default=None)

    closing = {"delivered": first("completion"), "open": None}.get(outcome, first("refund"))
    return {
        "paid_to_submitted": between(order.paid_at, order.submitted_at),
        "submitted_to_ready": between(order.submitted_at, order.result_ready_at),
        "ready_to_delivered": between(order.result_ready_at, order.completed_at),
        "delivered_to_mailed": between(
            order.completed_at, first("completion", order.completed_at) if order.completed_at else None
        ),
        "paid_to_mailed": between(order.paid_at, closing),
    }


def begin(day: date, period: str) -> date:
    return {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}[period]


def _groups(facts: Iterable[dict[str, Any]], period: str, *keys: str) -> dict[tuple, list[dict[str, Any]]]:
    groups = defaultdict(list)
    for one in facts:
        for resolution in ("all", one.get("resolution", "none")):
            groups[(begin(one["day"], period), *(one[key] for key in keys), resolution)].append(one)
    return groups


def completion_rate(history: "History", period: str) -> dict[tuple, dict[str, Any]]:
    report = {}
    for key, jobs in _groups(history.facts, period).items():
        count = {name: sum(job["outcome"] == name for job in jobs) for name in ("delivered", "refunded", "failed")}
        n = sum(count.values())
        low, high = _wilson(count["delivered"], n)
        report[key] = {
            "paid_jobs": len(jobs),
            **count,
            "open_jobs": len(jobs) - n,
            "completion_rate": count["delivered"] / n if n else None,
            "rate_low": low,
            "rate_high": high,
        }
    return report


def error_rate(history: "History", period: str) -> dict[tuple, dict[str, Any]]:
    report = {}
    for (start, resolution), jobs in _groups(history.facts, period).items():
        decided = [job for job in jobs if job["outcome"] != "open"]
        wrong = [job["reason"] or "unknown" for job in decided if job["outcome"] != "delivered"]
        for reason in {"all", *wrong} if resolution == "all" and wrong else ():
            n = len(wrong) if reason == "all" else wrong.count(reason)
            low, high = _wilson(n, len(decided))
            report[start, reason] = {
                "jobs": n,
                "decided_jobs": len(decided),
                "error_rate": n / len(decided),
                "rate_low": low,
                "rate_high": high,
            }
    return report


def _wilson(successes: int, n: int) -> tuple[float | None, float | None]:
    """The two rates π at which the observed one is just 1.96 standard errors away: (p − π)² = z² π(1 − π)/n."""
    if not n:
        return None, None
    z, p = 1.959963984540054, successes / n
    a, b, c = 1 + z**2 / n, -(2 * p + z**2 / n), p**2
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def processing_times(history: "History", period: str) -> dict[tuple, dict[str, Any]]:
    stages = ("paid_to_submitted", "submitted_to_ready", "ready_to_delivered", "delivered_to_mailed", "paid_to_mailed")
    report = {}
    for (start, resolution), jobs in _groups(history.facts, period).items():
        for stage in stages:
            seconds = sorted(job[stage] for job in jobs if job[stage] is not None)
            if seconds:
                report[start, resolution, stage] = {
                    "jobs": len(seconds),
                    "mean_seconds": math.fsum(seconds) / len(seconds),
                    **{f"p{p}_seconds": _percentile(seconds, p / 100) for p in (50, 90, 95, 99)},
                    "max_seconds": seconds[-1],
                    "within_15_minutes": sum(one <= 900 for one in seconds) / len(seconds),
                }
    return report


def _percentile(values: list[float], share: float) -> float:
    place = share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


def profit_margin(history: "History", period: str) -> dict[tuple, dict[str, Any]]:
    report = {}
    for key, rows in _groups([*history.facts, *history.others], period, "currency").items():
        revenue = sum(row["received_cents"] for row in rows)
        net = sum(row["net_margin_cents"] for row in rows)
        report[key] = {
            "paid_jobs": sum("job_id" in row for row in rows),
            "revenue_cents": revenue,
            "refunds_cents": sum(row["refunded_cents"] for row in rows),
            "disputes_cents": sum(row["disputed_cents"] for row in rows),
            "stripe_fees_cents": sum(row["stripe_fee_cents"] + row["dispute_fee_cents"] for row in rows),
            "api_cost_cents": sum(row["api_cost_cents"] for row in rows),
            "net_margin_cents": net,
            "margin_percent": _rounded(margin_percent(net, revenue)),
            "jobs_at_a_loss": sum("job_id" in row and row["net_margin_cents"] < 0 for row in rows),
        }
    return report


def _rounded(value: Decimal | None) -> Decimal | None:
    return None if value is None else value.quantize(Decimal("0.1"), ROUND_HALF_UP)


def credit_usage(history: "History", period: str) -> dict[tuple, dict[str, Any]]:
    report = {}
    gifts = [row for row in history.others if row["kind"] == "gift"]
    for key, rows in _groups([*history.facts, *gifts], period).items():
        report[key] = {
            "jobs": len(rows),
            "credits": sum(row["credits"] for row in rows),
            "credits_assumed": sum(row["credits_assumed"] for row in rows),
            "credits_wasted": sum(row.get("credits_wasted", 0) for row in rows),
            "api_cost_cents": sum(row["api_cost_cents"] for row in rows),
            **dict.fromkeys(("budget_credits", "budget_used", "forecast_credits", "runs_out_on")),
        }
        if period == "month" and key[-1] == "all":
            report[key] |= _budget(key[0], rows, history)
    return report


def _budget(month: date, rows: list[dict[str, Any]], history: "History") -> dict[str, Any]:
    length = monthrange(month.year, month.month)[1]
    used: dict[date, int] = defaultdict(int)
    for row in rows:
        used[row["day"]] += row["credits"] + row["credits_assumed"]
    total = sum(used.values())
    elapsed = max(1, min((history.today - month).days + 1, length))
    figures = {"forecast_credits": int(_half_up(Decimal(total) * length / elapsed))}
    if history.budget is None:
        return figures
    day, so_far, runs_out = month, 0, None
    while runs_out is None and day.month == month.month:  # day by day: what was used, and then the mean
        so_far += used[day]
        after = max(0, (day - month).days + 1 - elapsed)
        if so_far + Decimal(total) / elapsed * after >= history.budget:
            runs_out = day
        day += timedelta(days=1)
    return figures | {
        "budget_credits": history.budget,
        "budget_used": total / history.budget,
        "runs_out_on": runs_out,
    }


def _half_up(value: Decimal) -> Decimal:
    return value.quantize(Decimal(1), ROUND_HALF_UP)


def customer_satisfaction(history: "History", period: str) -> dict[tuple, dict[str, Any]]:
    report = {}
    for key, jobs in _groups([f for f in history.facts if f["outcome"] == "delivered"], period).items():
        stars = [job["rating"] for job in jobs if job["rating"] is not None]
        report[key] = {
            "delivered": len(jobs),
            "ratings": len(stars),
            "response_rate": len(stars) / len(jobs),
            "mean_stars": sum(stars) / len(stars) if stars else None,
            **{f"stars_{n}": stars.count(n) for n in range(1, 6)},
        }
    return report


@dataclass(frozen=True, kw_only=True)
class History:
    """What the reports are made of, and what they are held against."""

    facts: list[dict[str, Any]]
    others: list[dict[str, Any]]
    budget: int | None
    today: date
