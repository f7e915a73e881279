"""Which of our errors each of Stripe's stands for, and what of its words may be kept.

Only the translation: calls are in `adapters.stripe_payments`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import stripe

from smi_pipeline.core.errors import AccountError, AmbiguousError, NotFound, PermanentError, RateLimited, SmiError
from smi_pipeline.core.formatting import one_line

REFUSED = "stripe_refused"
NAMED_REFUSALS = frozenset({"charge_already_refunded", "charge_disputed"})
"""Stripe error codes that are passed on as the reason of the PermanentError; all others are `REFUSED`."""

DEFAULT_RETRY_AFTER = 5.0  # seconds, when a 429 names no time
MAX_MESSAGE = 300  # characters of Stripe's words that are kept
_SECRETS = re.compile(r"\b(?:sk|rk|pk|whsec)_[\w*]+|[^\s@'\"<>]+@[^\s@'\"<>]+")


@contextmanager
def translated() -> Iterator[None]:
    """Stripe's errors as ours (`PaymentsPort`). An answer that lacks what every such object has is ambiguous too."""
    try:
        yield
    except stripe.StripeError as error:
        raise _translation(error) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise AmbiguousError(f"Stripe's answer is not readable ({type(error).__name__})") from error


def _translation(error: stripe.StripeError) -> SmiError:
    code, status, words = error.code, error.http_status or 0, _words(error)
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return AccountError(f"Stripe refuses the account: {words}")
    if isinstance(error, stripe.RateLimitError):
        return RateLimited("Stripe's rate limit is reached", retry_after=_retry_after(error))
    if isinstance(error, stripe.APIConnectionError):
        return AmbiguousError(f"Stripe gave no answer ({type(error.__cause__ or error).__name__})")
    if code == "resource_missing" or (status == 404 and error.error is not None):
        return NotFound(f"Stripe does not know it: {words}")
    # 409: another call with the same key is still being carried out. Without Stripe's JSON it was not Stripe who spoke.
    if status == 409 or not 400 <= status < 500 or error.error is None:
        return AmbiguousError(f"Stripe failed ({status}): {words}")
    return PermanentError(code if code in NAMED_REFUSALS else REFUSED, f"Stripe refused: {words}")


def _words(error: stripe.StripeError) -> str:
    """Stripe's message as one line without keys and e-mail addresses."""
    if error.error is None:
        return "the answer is not Stripe's"
    text = _SECRETS.sub("***", str(error.user_message or error.code or "no reason given"))
    return one_line(text, MAX_MESSAGE)


def _retry_after(error: stripe.StripeError) -> float:
    try:
        return min(60.0, max(1.0, float((error.headers or {}).get("Retry-After", DEFAULT_RETRY_AFTER))))
    except ValueError:
        return DEFAULT_RETRY_AFTER
