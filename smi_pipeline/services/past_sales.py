"""What Stripe knows of a sale of another shop system: its payment as it is now, and what was returned of it."""

from dataclasses import dataclass

from smi_pipeline.core.errors import NotFound, PermanentError, RefusedError, UnreadableError
from smi_pipeline.core.models import StripePayment, StripeRefund
from smi_pipeline.core.ports import PaymentsPort


@dataclass(frozen=True, kw_only=True)
class PastSale:
    """A payment that has succeeded, with its refunds that count as returned money."""

    payment: StripePayment
    refunds: tuple[StripeRefund, ...] = ()

    @property
    def returned_cents(self) -> int:
        """What the customer got back, or will."""
        return sum(refund.amount_cents for refund in self.refunds)


def look_up(
    payments: PaymentsPort, *, paid: bool, payment_intent_id: str | None, checkout_session_id: str | None
) -> PastSale | None:
    """Return the sale of an order that the other system calls `paid` or not, None for an order without a payment.

    Two calls at most for most orders. Raise RefusedError when Stripe contradicts the other system, or does not know the
    payment; TransientError when it does not answer."""
    subject = payment_intent_id or checkout_session_id
    try:
        if not payment_intent_id or not paid:
            intent, complete = _of_session(payments, checkout_session_id)
            if not paid and complete:
                raise RefusedError(
                    f"Stripe has its payment {intent}, which the plugin has not noticed: deliver it in WordPress or "
                    "refund it in the Stripe dashboard"
                )
            payment_intent_id = intent if paid else None
        if not payment_intent_id:
            return None
        payment = payments.payment(payment_intent_id)
        if payment.status != "succeeded":
            raise RefusedError(f"is paid, but Stripe says that the payment {payment_intent_id} is {payment.status}")
        refunds = payments.refunds_of(payment_intent_id) if payment.refunded_cents else []
    except NotFound:
        raise RefusedError(
            f"Stripe does not know {subject}: was it a test, or is STRIPE_API_KEY the key of another account or mode?"
        ) from None
    except (PermanentError, UnreadableError) as error:
        raise RefusedError(f"Stripe's answer about {subject} cannot be used: {error}") from error
    return PastSale(payment=payment, refunds=tuple(refund for refund in refunds if refund.alive))


def _of_session(payments: PaymentsPort, session_id: str | None) -> tuple[str | None, bool]:
    """Return the PaymentIntent of a Checkout session, and whether it is paid. Stripe may have forgotten an old one."""
    if not session_id:
        return None, False
    try:
        session = payments.checkout(session_id)
    except NotFound:
        return None, False
    return session.payment_intent_id, session.payment_status == "paid"
