"""Translate Stripe's errors into ours, without secrets in their messages."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import stripe

from smi_pipeline.adapters.retry_after import retry_after
from smi_pipeline.core.errors import (
    AccountError,
    AmbiguousError,
    AnsweredError,
    NotFound,
    PermanentError,
    RateLimited,
    SmiError,
    UnreadableError,
)
from smi_pipeline.formatting import one_line

REFUSED = "stripe_refused"
NAMED_REFUSALS = frozenset(
    {"amount_too_large", "amount_too_small", "charge_already_refunded", "charge_disputed", "email_invalid"}
)
"""Stripe error codes that are passed on as the reason of the PermanentError; all others are `REFUSED`."""

INSUFFICIENT_BALANCE = "insufficient_balance"
"""The reason of a PermanentError that money on the account would end."""

DEFAULT_RETRY_AFTER = 5.0  # seconds, when a 429 names no time
MAX_MESSAGE = 300  # characters of Stripe's message that are kept
_NO_BALANCE = re.compile(r"insufficient[ _](funds|balance)|balance_insufficient", re.IGNORECASE)
_SECRETS = re.compile(r"\b(?:sk|rk|pk|whsec)_[\w*]+|[^\s@'\"<>]+@[^\s@'\"<>]+")


@contextmanager
def translated() -> Iterator[None]:
    """Raise Stripe's errors as ours (see `PaymentsPort`). An answer without a required field is ambiguous, too."""
    try:
        yield
    except stripe.StripeError as error:
        raise _translation(error) from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnreadableError(f"Stripe's answer is not readable ({type(error).__name__})") from error


def _translation(error: stripe.StripeError) -> SmiError:
    code, status, words = error.code, error.http_status or 0, _words(error)
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return AccountError(f"Stripe refuses the account: {words}")
    if isinstance(error, stripe.RateLimitError):
        pause = retry_after((error.headers or {}).get("Retry-After"), shortest=1, longest=60)
        return RateLimited("Stripe's rate limit is reached", retry_after=pause or DEFAULT_RETRY_AFTER)
    if isinstance(error, stripe.APIConnectionError):
        return AmbiguousError(f"Stripe gave no answer ({type(error.__cause__ or error).__name__})")
    if code == "resource_missing" or (status == 404 and error.error is not None):
        return NotFound(f"Stripe does not know it: {words}")
    # 409: another call with the same key is still running. Without Stripe's JSON the answer is not Stripe's.
    if status >= 500:
        return AnsweredError(f"Stripe failed ({status}): {words}")
    if status == 409 or status < 400 or error.error is None:
        return AmbiguousError(f"Stripe failed ({status}): {words}")
    # Stripe is not seen to give a code with it: its words and `message_code` are what clients go by.
    if _NO_BALANCE.search(f"{code} {error.json_body} {error.user_message}"):
        return PermanentError(INSUFFICIENT_BALANCE, f"Stripe refused: {words}")
    return PermanentError(code if code in NAMED_REFUSALS else REFUSED, f"Stripe refused: {words}")


def _words(error: stripe.StripeError) -> str:
    """Return Stripe's message as one line without keys and e-mail addresses."""
    if error.error is None:
        return "the answer is not Stripe's"
    text = _SECRETS.sub("***", str(error.user_message or error.code or "no reason given"))
    return one_line(text, MAX_MESSAGE)
