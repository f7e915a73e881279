"""Since when and how often the mail server has refused a mail for the time being: it is tried for a day."""

from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Add the columns."""
    op.execute(
        """ALTER TABLE smi.emails ADD COLUMN refusals integer NOT NULL DEFAULT 0, ADD COLUMN refused_since timestamptz;
           COMMENT ON COLUMN smi.emails.refusals IS
               'How often the mail server refused this mail for the time being (4xx), outages not counted.';
           COMMENT ON COLUMN smi.emails.refused_since IS 'When it did so first.'"""
    )


def downgrade() -> None:
    """Remove them."""
    op.execute("ALTER TABLE smi.emails DROP COLUMN refusals, DROP COLUMN refused_since")
