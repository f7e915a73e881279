"""What a refund waits for (a new key, the shop's balance, the customer), and a payment that is on its way.

Earlier releases read none of the new columns and write none of the new values, so they run on while this is applied.
"""

from alembic import op

revision = "0009"
down_revision = "0008"

NEW = """
ALTER TABLE smi.refunds
    ADD COLUMN key_spent boolean NOT NULL DEFAULT false,
    ADD COLUMN waits_for_balance boolean NOT NULL DEFAULT false,
    ADD COLUMN stripe_status text;
COMMENT ON COLUMN smi.refunds.key_spent IS
    'Stripe has answered this key with an error, which it repeats for a day: the next call needs another key.';
COMMENT ON COLUMN smi.refunds.waits_for_balance IS 'Stripe refuses it while the balance of the account is too small.';
COMMENT ON COLUMN smi.refunds.stripe_status IS 'The word of Stripe for its state, also one that is not known here.';
ALTER TABLE smi.emails DROP CONSTRAINT emails_kind_check;
ALTER TABLE smi.emails ADD CONSTRAINT emails_kind_check
    CHECK (kind IN ('completion', 'refund', 'duplicate_payment', 'goodwill', 'refund_action', 'payment_started'))
    NOT VALID;
ALTER TABLE smi.upscale_jobs ADD COLUMN paying_intent text;
COMMENT ON COLUMN smi.upscale_jobs.paying_intent IS
    'The PaymentIntent of a payment that the customer has made and the bank has not decided yet.';
"""

OLD = """
DELETE FROM smi.emails WHERE kind IN ('refund_action', 'payment_started');
ALTER TABLE smi.emails DROP CONSTRAINT emails_kind_check;
ALTER TABLE smi.emails ADD CONSTRAINT emails_kind_check
    CHECK (kind IN ('completion', 'refund', 'duplicate_payment', 'goodwill'));
ALTER TABLE smi.upscale_jobs DROP COLUMN paying_intent;
ALTER TABLE smi.refunds DROP COLUMN key_spent, DROP COLUMN waits_for_balance, DROP COLUMN stripe_status;
"""


def upgrade() -> None:
    """Add the columns and the kind of mail."""
    op.execute(NEW)


def downgrade() -> None:
    """Remove them."""
    op.execute(OLD)
