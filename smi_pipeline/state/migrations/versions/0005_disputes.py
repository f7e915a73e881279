"""When a payment's newest dispute began: a bank may dispute a payment again after an inquiry or a dispute has ended."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE smi.payments ADD COLUMN disputed_at timestamptz")
    op.execute("COMMENT ON COLUMN smi.payments.disputed_at IS 'When its newest dispute began, by Stripe''s clock.'")


def downgrade() -> None:
    """Drop the column."""
    op.execute("ALTER TABLE smi.payments DROP COLUMN disputed_at")
