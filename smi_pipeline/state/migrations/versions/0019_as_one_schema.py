"""Bring databases that early forms of 0001 and 0015 have made to the schema that these make now."""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Drop a column that was never read, and write a comment anew."""
    op.execute(
        """ALTER TABLE smi.refunds DROP COLUMN IF EXISTS must_look_up;
           COMMENT ON TABLE smi.ordered_pictures IS
               'What the picture showed when it was ordered, until its files are removed, or a week if it has none.'"""
    )


def downgrade() -> None:
    """Change nothing: the earlier revision has the same schema."""
