"""What the picture of an order showed when it was ordered. Orders from before have none, and are compared by size."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the table."""
    op.execute(
        """CREATE TABLE smi.ordered_pictures (
               job_id      text PRIMARY KEY REFERENCES smi.upscale_jobs ON DELETE CASCADE,
               fingerprint bytea NOT NULL
           );
           COMMENT ON TABLE smi.ordered_pictures IS
               'What the picture showed when it was ordered, until its files are removed, or a week if it has none.';
           COMMENT ON COLUMN smi.ordered_pictures.fingerprint IS
               '32 x 32 cells of colour, as core.likeness compares them.'"""
    )


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP TABLE smi.ordered_pictures")
