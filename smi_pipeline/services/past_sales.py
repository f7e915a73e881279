"""What Stripe knows of a sale of another shop system: its payment as it is now, what was returned of it, and whether
the customer disputes it."""

from dataclasses import dataclass

from smi_pipeline.core.errors import NotFound, PermanentError, RefusedError, UnreadableError
from smi_pipeline.core.models import StripeDispute, StripePayment, StripeRefund
from smi_pipeline.core.ports import PaymentsPort
from smi_pipeline.core.vocabulary import DisputeState
from smi_pipeline.services.refund import DISPUTE_STATES


@dataclass(frozen=True, kw_only=True)
class PastSale:
    """A payment that has succeeded, with its refunds that count as returned money, and its disputes."""

    payment: StripePayment
    refunds: tuple[StripeRefund, ...] = ()
    disputes: tuple[StripeDispute, ...] = ()  # the oldest first

    @property
    def returned_in_full(self) -> bool:
        """Whether the customer has all of the money back, or will: by refunds, or by the bank after a dispute."""
        back = sum(refund.amount_cents for refund in self.refunds)
        return back >= self.payment.amount_received_cents or any(
            DISPUTE_STATES.get(dispute.status) is DisputeState.LOST for dispute in self.disputes
        )


def look_up(
    payments: PaymentsPort, *, paid: bool, payment_intent_id: str | None, checkout_session_id: str | None
) -> PastSale | None:
    """Return the sale of an order that the other system calls `paid` or not, None for an order without a payment.

    Two calls at most for most orders. Raise RefusedError when Stripe contradicts the other system, or does not know the
    payment; TransientError when it does not answer. A payment that the other system has not noticed is a sale only
    after all of it was returned: until then there is something to do."""
    subject = payment_intent_id or checkout_session_id
    try:
        if not (paid and payment_intent_id):
            payment_intent_id = _of_session(payments, checkout_session_id) or payment_intent_id
        if not payment_intent_id:
            return None
        payment = payments.payment(payment_intent_id)
        if payment.status != "succeeded":
            if not paid:
                return None
            raise RefusedError(f"is paid, but Stripe says that the payment {payment_intent_id} is {payment.status}")
        refunds = payments.refunds_of(payment_intent_id) if payment.refunded_cents else []
        disputes = payments.disputes_of(payment_intent_id) if payment.disputed else []
    except NotFound:
        if not paid:
            return None
        raise RefusedError(
            f"Stripe does not know {subject}: was it a test, or is STRIPE_API_KEY the key of another account or mode?"
        ) from None
    except (PermanentError, UnreadableError) as error:
        raise RefusedError(f"Stripe's answer about {subject} cannot be used: {error}") from error
    sale = PastSale(
        payment=payment, refunds=tuple(refund for refund in refunds if refund.alive), disputes=tuple(disputes)
    )
    if not (paid or sale.returned_in_full):
        raise RefusedError(
            f"Stripe has its payment {payment_intent_id}, which the plugin has not noticed: deliver it in WordPress or "
            "refund it in the Stripe dashboard"
        )
    return sale


def _of_session(payments: PaymentsPort, session_id: str | None) -> str | None:
    """Return the PaymentIntent of a Checkout session. Stripe may have forgotten an old one."""
    try:
        return payments.checkout(session_id).payment_intent_id if session_id else None
    except NotFound:
        return None
