"""Orders that failed while others succeeded: they are weaker evidence for a fault of the shop."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column."""
    op.execute(
        """ALTER TABLE smi.breakers ADD COLUMN failed_before text[] NOT NULL DEFAULT '{}';
           COMMENT ON COLUMN smi.breakers.failed_before IS
               'Work keys that had failed when others succeeded, the latest first.'"""
    )


def downgrade() -> None:
    """Remove it."""
    op.execute("ALTER TABLE smi.breakers DROP COLUMN failed_before")
