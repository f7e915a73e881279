"""When the service was alive, so that its outages do not count against the promise to start in time."""

from alembic import op

revision = "0002"
down_revision = "0001"

SIGNS_OF_LIFE = """
CREATE TABLE smi.heartbeat (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    at       timestamptz NOT NULL,
    up_since timestamptz NOT NULL
);
COMMENT ON TABLE smi.heartbeat IS 'The last sign of life of the service, and since when it has given them.';
ALTER TABLE smi.upscale_jobs
    ADD COLUMN waits_since timestamptz,
    ADD COLUMN outage interval NOT NULL DEFAULT '0';
COMMENT ON COLUMN smi.upscale_jobs.waits_since IS 'When the wait for the submission began.';
COMMENT ON COLUMN smi.upscale_jobs.outage IS 'Time of outages that start_by was moved by.';
UPDATE smi.upscale_jobs SET waits_since = learned_at WHERE queue = 'submit';
"""


def upgrade() -> None:
    """Add the heartbeat and the columns of waiting jobs."""
    op.execute(SIGNS_OF_LIFE)


def downgrade() -> None:
    """Remove them."""
    op.execute("DROP TABLE smi.heartbeat")
    op.execute("ALTER TABLE smi.upscale_jobs DROP COLUMN waits_since, DROP COLUMN outage")
