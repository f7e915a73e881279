"""What customers and operators are told of circuit breakers, and properties of images that failed.

The check on the kinds of mails is not validated: the old one allowed a part of them.
"""

from alembic import op

revision = "0010"
down_revision = "0009"

SCREENS = """
ALTER TABLE smi.person_tasks ADD COLUMN end_told_at timestamptz;
COMMENT ON COLUMN smi.person_tasks.end_told_at IS
    'When those who got the alert were told that what it named has ended by itself.';
UPDATE smi.person_tasks SET end_told_at = closed_at WHERE closed_at IS NOT NULL;

ALTER TABLE smi.emails DROP CONSTRAINT emails_kind_check, ADD CONSTRAINT emails_kind_check
    CHECK (kind IN ('completion', 'refund', 'duplicate_payment', 'goodwill', 'refund_action', 'payment_started',
                    'delay')) NOT VALID;

ALTER TABLE smi.upscale_jobs ADD COLUMN source_alpha boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN smi.upscale_jobs.source_alpha IS 'Whether the source has an alpha channel.';

CREATE TABLE smi.failed_properties (
    property  text NOT NULL,
    job_id    text NOT NULL REFERENCES smi.upscale_jobs,
    failed_at timestamptz NOT NULL DEFAULT smi.now(),
    message   text NOT NULL,
    PRIMARY KEY (property, job_id)
);
COMMENT ON TABLE smi.failed_properties IS
    'Upscale jobs that failed because of a property of their image, since that property last succeeded.';
COMMENT ON COLUMN smi.failed_properties.property IS 'As core.properties names it.';
"""


def upgrade() -> None:
    """Add the columns, the kind of mail and the table."""
    op.execute(SCREENS)


def downgrade() -> None:
    """Remove them, and the mails of the kind."""
    op.execute(
        """DROP TABLE smi.failed_properties;
           ALTER TABLE smi.upscale_jobs DROP COLUMN source_alpha;
           ALTER TABLE smi.person_tasks DROP COLUMN end_told_at;
           DELETE FROM smi.emails WHERE kind = 'delay';
           ALTER TABLE smi.emails DROP CONSTRAINT emails_kind_check, ADD CONSTRAINT emails_kind_check
               CHECK (kind IN ('completion', 'refund', 'duplicate_payment', 'goodwill', 'refund_action',
                               'payment_started')) NOT VALID"""
    )
