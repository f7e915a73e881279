"""Read Stripe's bookings in other currencies again: from now on they are kept in the currency of their payment.

An earlier release that is still running reads them as before; such a booking is compared with nothing.
"""

from alembic import op

revision = "0013"
down_revision = "0012"

READ_AGAIN = """
UPDATE smi.cursors SET value = least(CAST(value AS timestamptz), first.at)::text
FROM (SELECT min(b.created_at) AS at FROM reports.stripe_bookings b JOIN smi.payments p USING (payment_intent_id)
      WHERE b.currency <> p.currency) AS first
WHERE name = 'stripe_bookings' AND first.at IS NOT NULL;
DELETE FROM reports.stripe_bookings b USING smi.payments p
WHERE p.payment_intent_id = b.payment_intent_id AND b.currency <> p.currency;
COMMENT ON COLUMN reports.stripe_bookings.currency IS
    'Currency of the payment; that of the settlement where Stripe names no amount in it.';
"""


def upgrade() -> None:
    """Remove the bookings in other currencies, and read on from the first of them."""
    op.execute(READ_AGAIN)


def downgrade() -> None:
    """Keep them: the earlier release reads them, too."""
