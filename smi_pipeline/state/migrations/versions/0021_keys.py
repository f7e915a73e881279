"""Links that can be revoked, and mails that know by which secret key their links are signed."""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Add the columns."""
    op.execute(
        """ALTER TABLE smi.upscale_jobs ADD COLUMN links_revoked integer NOT NULL DEFAULT 0;
           ALTER TABLE smi.emails ADD COLUMN signed_by text;
           COMMENT ON COLUMN smi.upscale_jobs.links_revoked IS
               'How often the links to page, rating and end of waiting were revoked; each time they become others.';
           COMMENT ON COLUMN smi.emails.signed_by IS
               'Id of the secret key by which the links in `content` are signed.'"""
    )


def downgrade() -> None:
    """Remove them."""
    op.execute(
        """ALTER TABLE smi.upscale_jobs DROP COLUMN links_revoked;
           ALTER TABLE smi.emails DROP COLUMN signed_by"""
    )
