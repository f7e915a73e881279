"""The reports once more: slow, plain, and from the definitions alone. Shares no code with the SQL."""

import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from smi_pipeline.core.pricing import Prices, margin_percent
from smi_pipeline_tests.orchestration.reporting.history import Order

PRICES = Prices()
GIVEN_BACK = ("pending", "succeeded")


def fact(order: Order) -> dict[str, Any]:
    outcome, reason = _outcome(order)
    received = sum(payment["received_cents"] for payment in order.payments)
    refunded = sum(refund["amount_cents"] for refund in order.refunds if refund["state"] in GIVEN_BACK)
    fees = [payment["fee_cents"] for payment in order.payments]
    fee = sum(
        PRICES.stripe_fee_cents(payment["received_cents"]) if payment["fee_cents"] is None else payment["fee_cents"]
        for payment in order.payments
    )
    credits = sum(call["credits"] or 0 for call in order.calls)
    assumed = sum(order.expected_credits for call in order.calls if call == {"state": "lost", "credits": None})
    if order.imported:
        received, fee, fees = order.price_cents, PRICES.stripe_fee_cents(order.price_cents), [None]
        refunded = order.price_cents if order.status == "refunded" else 0
        credits = order.expected_credits if order.status == "completed" else 0
    disputed = 0
    for payment in order.payments:
        if payment.get("dispute") == "lost":
            back = sum(
                refund["amount_cents"]
                for refund in order.refunds
                if refund["state"] in GIVEN_BACK
                and refund.get("payment_intent_id", order.payment_intent_id) == payment["payment_intent_id"]
            )
            disputed += max(0, payment["received_cents"] - back)
    cost = PRICES.cost_cents(credits + assumed)
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
        "api_cost_cents": cost,
        "currency": order.currency,
        "price_cents": order.price_cents,
        "received_cents": received,
        "stripe_fee_cents": fee,
        "stripe_fee_known": None not in fees,
        "refunded_cents": refunded,
        "disputed_cents": disputed,
        "net_margin_cents": PRICES.margin_cents(
            received_cents=received, cost_cents=cost, fee_cents=fee, refunded_cents=refunded + disputed
        ),
        "rating": order.rating,
    }


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


def _groups(facts: Iterable[dict[str, Any]], *keys: str) -> dict[tuple, list[dict[str, Any]]]:
    groups = defaultdict(list)
    for one in facts:
        for resolution in ("all", one["resolution"]):
            groups[(*(one[key] for key in keys), resolution)].append(one)
    return groups


def completion_rate(facts: Iterable[dict[str, Any]]) -> dict[tuple[date, str], dict[str, Any]]:
    report = {}
    for key, jobs in _groups(facts, "day").items():
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


def _wilson(successes: int, n: int) -> tuple[float | None, float | None]:
    """The two rates π at which the observed one is just 1.96 standard errors away: (p − π)² = z² π(1 − π)/n."""
    if not n:
        return None, None
    z, p = 1.959963984540054, successes / n
    a, b, c = 1 + z**2 / n, -(2 * p + z**2 / n), p**2
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def processing_times(facts: Iterable[dict[str, Any]]) -> dict[tuple[date, str, str], dict[str, Any]]:
    stages = ("paid_to_submitted", "submitted_to_ready", "ready_to_delivered", "delivered_to_mailed", "paid_to_mailed")
    report = {}
    for (day, resolution), jobs in _groups(facts, "day").items():
        for stage in stages:
            seconds = sorted(job[stage] for job in jobs if job[stage] is not None)
            if seconds:
                report[day, resolution, stage] = {
                    "jobs": len(seconds),
                    "mean_seconds": math.fsum(seconds) / len(seconds),
                    **{f"p{p}_seconds": _percentile(seconds, p / 100) for p in (50, 90, 95, 99)},
                    "max_seconds": seconds[-1],
                }
    return report


def _percentile(values: list[float], share: float) -> float:
    place = share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


def profit_margin(facts: Iterable[dict[str, Any]]) -> dict[tuple[date, str, str], dict[str, Any]]:
    report = {}
    for key, jobs in _groups(facts, "day", "currency").items():
        revenue = sum(job["received_cents"] for job in jobs)
        net = sum(job["net_margin_cents"] for job in jobs)
        report[key] = {
            "paid_jobs": len(jobs),
            "revenue_cents": revenue,
            "refunds_cents": sum(job["refunded_cents"] + job["disputed_cents"] for job in jobs),
            "stripe_fees_cents": sum(job["stripe_fee_cents"] for job in jobs),
            "api_cost_cents": sum(job["api_cost_cents"] for job in jobs),
            "net_margin_cents": net,
            "margin_percent": _rounded(margin_percent(net, revenue)),
            "credits": sum(job["credits"] + job["credits_assumed"] for job in jobs),
            "jobs_at_a_loss": sum(job["net_margin_cents"] < 0 for job in jobs),
        }
    return report


def _rounded(value: Decimal | None) -> Decimal | None:
    return None if value is None else value.quantize(Decimal("0.1"), ROUND_HALF_UP)
