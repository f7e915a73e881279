"""Where an imported image was sold: the post and the attachment of the WordPress site."""

from alembic import op

revision = "0018"
down_revision = "0017"

_NEW = {
    "post_id": "Post of the WordPress site on which an imported order was made; empty: none, or an upload.",
    "attachment_id": "Attachment of the WordPress site that an imported order was for; empty: none, or an upload.",
}


def upgrade() -> None:
    """Add the columns, to the view for analysts as well."""
    for column, comment in _NEW.items():
        op.execute(f"ALTER TABLE smi.upscale_jobs ADD COLUMN {column} bigint")
        op.execute(f"COMMENT ON COLUMN smi.upscale_jobs.{column} IS '{comment}'")
    op.execute(
        """CREATE OR REPLACE VIEW analytics.jobs AS
           SELECT f.*, j.post_id, j.attachment_id
           FROM reports.job_facts f LEFT JOIN smi.upscale_jobs j USING (job_id)"""
    )
    for column, comment in _NEW.items():
        op.execute(f"COMMENT ON COLUMN analytics.jobs.{column} IS '{comment}'")


def downgrade() -> None:
    """Remove them."""
    op.execute("DROP VIEW analytics.jobs")
    op.execute("CREATE VIEW analytics.jobs AS SELECT * FROM reports.job_facts")
    op.execute("ALTER TABLE smi.upscale_jobs DROP COLUMN post_id, DROP COLUMN attachment_id")
