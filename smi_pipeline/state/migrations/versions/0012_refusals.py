"""What the columns of `gates` say since a 429 need not lower a limit."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Replace the comments."""
    op.execute(
        """COMMENT ON COLUMN smi.gates.per_minute IS 'Calls per minute that were allowed then, if lowered.';
           COMMENT ON COLUMN smi.gates.per_hour IS 'Calls per hour that were allowed then, if lowered.';
           COMMENT ON COLUMN smi.gates.lowered_at IS 'The last 429; lowered limits are raised from then on.'"""
    )


def downgrade() -> None:
    """Nothing depends on comments."""
