"""The rates of random faults, by service, and which faults excuse what. A seed fixes which orders they hit."""

from typing import Any

from smi_pipeline.sandbox.upsampler.corruption import CORRUPTIONS

Fault = dict[str, Any]


def _random(rates: dict[str, float], params: dict[str, Any] | None = None, **match: Any) -> Fault:
    return {"kind": "random", "rates": rates, "params": params or {}, "match": match}


FAULTS: dict[str, list[Fault]] = {
    "upsampler": [
        _random({"latency": 0.02, "drop": 0.01, "accept_then_drop": 0.015, "garbage": 0.01, "cut_transfer": 0.005}),
        _random({"latency": 0.01}, {"latency": {"seconds": 0.5, "after_work": True}}),
        _random({"status": 0.01}),
        _random({"status": 0.005}, {"status": {"code": 503, "retry_after": 2}}),
        _random({"status": 0.003}, {"status": {"code": 429, "retry_after": 1}}),
        _random({"status": 0.01}, {"status": {"code": 500, "after_work": True}}, endpoint="submit"),
        _random({"lose_webhook": 0.05, "repeat_webhook": 0.1, "delay_webhook": 0.05}),
        _random({"fail": 0.01, "never_finishes": 0.005, "slow": 0.02, "no_image_url": 0.003}, {"slow": {"seconds": 4}}),
        _random({"fail": 0.003}, {"fail": {"at_once": True}}),
        _random({"reject": 0.005, **dict.fromkeys(CORRUPTIONS, 0.004)}),
        _random({"drop": 0.01, "cut_transfer": 0.02, "status": 0.01, "garbage": 0.003}, endpoint="cdn"),
        _random({"result_404": 0.003}),
    ],
    "stripe": [
        _random({"latency": 0.01, "drop": 0.01, "accept_then_drop": 0.02, "garbage": 0.005, "cut_transfer": 0.005}),
        _random({"status": 0.01}),
        _random({"status": 0.003}, {"status": {"code": 429, "retry_after": 1}}),
        _random({"status": 0.02}, {"status": {"code": 500, "after_work": True}}, endpoint="refunds"),
        _random({"lose_webhook": 0.05, "repeat_webhook": 0.1, "delay_webhook": 0.05, "shuffle": 0.3}),
        _random({"refund_pending": 0.1}, {"refund_pending": {"seconds": 3, "then": "succeeded"}}),
        _random({"refund_pending": 0.1}, {"refund_pending": {"seconds": 3, "then": "failed"}}),
        _random({"refund_pending": 0.03}, {"refund_pending": {"seconds": 2, "then": "canceled"}}),
        _random({"refund_fails": 0.05}),
        _random({"refund_fails": 0.05}, {"refund_fails": {"seconds": 4}}),
        _random({"dispute": 0.004}, {"dispute": {"outcome": "won", "outcome_seconds": 6}}),
        _random({"dispute": 0.004}, {"dispute": {"outcome": "lost", "outcome_seconds": 6, "seconds": 1}}),
        _random({"dispute": 0.002}, {"dispute": {"inquiry": True, "outcome": "won", "outcome_seconds": 4}}),
    ],
    "mail": [
        _random({"code": 0.02}),
        _random({"code": 0.01}, {"code": {"code": 451, "at": "DATA"}}),
        _random({"code": 0.005}, {"code": {"code": 421, "at": "MAIL"}}),
        _random({"code": 0.005}, {"code": {"code": 550, "at": "RCPT"}}),
        _random({"code": 0.003}, {"code": {"code": 554, "at": "DATA"}}),
        _random({"drop": 0.01, "latency": 0.01}),
        _random({"drop": 0.01}, {"drop": {"at": "CONNECT"}}),
        _random({"drop": 0.01}, {"drop": {"at": "DATA"}}),
        _random({"drop_after_data": 0.02}),
        _random({"drop_after_data": 0.01}, {"drop_after_data": {"accepted": False}}),
    ],
    "origin": [
        _random({"latency": 0.01, "drop": 0.01, "status": 0.01, "cut_transfer": 0.01}, {"latency": {"seconds": 0.5}}),
        _random({"zero_bytes": 0.002, "truncated": 0.003, "redirect": 0.002}),
        _random({"swap": 0.003}),
        _random({"swap": 0.002}, {"swap": {"content": "other_photo"}}),
    ],
}
"""Rates are per opportunity; a job has about four of most."""

AMBIGUOUS = frozenset({"drop", "accept_then_drop", "garbage", "cut_transfer", "status"})
"""Kinds after which the result of a submission is unknown to the caller, so that it may be repeated once."""

MAY_REFUND = frozenset({"fail", "never_finishes", "no_image_url", "result_404", "reject", *CORRUPTIONS})
"""Kinds of Upsampler after which a refund is correct, as it is whenever its ledger says failed."""

CORRUPTS_SOURCE = frozenset({"zero_bytes", "truncated", "redirect", "swap"})
"""Kinds of the image origin after which a refund is correct."""

MAIL_FAILS = frozenset({"code", "drop_after_data"})
"""Kinds of the mail server after which a manual task for the mail is correct."""


def label(injection: dict[str, Any]) -> str:
    """Return the name of a fault in the report: its kind and the parameters that distinguish it."""
    params = injection["params"]
    more = [str(params[name]) for name in ("code", "at", "then", "content", "outcome") if params.get(name)]
    more += [name for name in ("retry_after", "after_work", "at_once", "inquiry") if params.get(name)]
    if params.get("accepted") is False:
        more.append("not accepted")
    return " ".join([injection["kind"], *more])
