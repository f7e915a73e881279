"""What a credit cost when an order was made: the figures of past days do not change with the setting."""

from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Add the column."""
    op.execute(
        """ALTER TABLE smi.upscale_jobs ADD COLUMN credit_cents numeric;
           COMMENT ON COLUMN smi.upscale_jobs.credit_cents IS
               'Price of a credit when the job was made, in the smallest unit of currency, exact. NULL: unknown.'"""
    )


def downgrade() -> None:
    """Remove it."""
    op.execute("ALTER TABLE smi.upscale_jobs DROP COLUMN credit_cents")
