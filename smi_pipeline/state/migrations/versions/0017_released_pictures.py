"""Which other picture a person was asked about, and which one was released: a third one needs another question."""

from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the two columns."""
    op.execute(
        """ALTER TABLE smi.ordered_pictures ADD COLUMN seen bytea, ADD COLUMN released bytea;
           COMMENT ON COLUMN smi.ordered_pictures.seen IS
               'Another picture that a person was asked about, until the job is released or ends.';
           COMMENT ON COLUMN smi.ordered_pictures.released IS
               'Another picture that a person has released: it is delivered, too.'"""
    )


def downgrade() -> None:
    """Remove them."""
    op.execute("ALTER TABLE smi.ordered_pictures DROP COLUMN seen, DROP COLUMN released")
