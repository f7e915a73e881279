"""An allowance each for submissions and status calls, and since when a job is leased.

Earlier releases go on with the row `upsampler` of `gates` and count all calls together; they leave the new columns
empty. A pause that they know of holds for both allowances.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

ALLOWANCES = """
ALTER TABLE smi.gates
    ADD COLUMN per_minute integer,
    ADD COLUMN per_hour   integer,
    ADD COLUMN lowered_at timestamptz;
COMMENT ON TABLE smi.gates IS 'What the 429s of Upsampler have taught about each of its allowances.';
COMMENT ON COLUMN smi.gates.blocked_until IS 'No call before this.';
COMMENT ON COLUMN smi.gates.per_minute IS 'Calls per minute that were allowed at lowered_at.';
COMMENT ON COLUMN smi.gates.per_hour IS 'Calls per hour that were allowed at lowered_at.';
COMMENT ON COLUMN smi.gates.lowered_at IS 'When the limits were lowered last; they are raised again slowly.';
INSERT INTO smi.gates (name, blocked_until, reason)
    SELECT kind, blocked_until, reason FROM smi.gates, unnest(ARRAY['submissions', 'status_calls']) AS kind
    WHERE name = 'upsampler' AND blocked_until > smi.now();
CREATE INDEX api_calls_submissions ON smi.api_calls (at) WHERE purpose = 'submit';
CREATE INDEX api_calls_status_calls ON smi.api_calls (at) WHERE purpose <> 'submit';
ALTER TABLE smi.upscale_jobs ADD COLUMN leased_at timestamptz;
COMMENT ON COLUMN smi.upscale_jobs.leased_at IS 'When the job was leased last.';
"""


def upgrade() -> None:
    """Add the columns and indexes, and take a pause over."""
    op.execute(ALLOWANCES)


def downgrade() -> None:
    """Remove them."""
    op.execute("ALTER TABLE smi.upscale_jobs DROP COLUMN leased_at")
    op.execute("DROP INDEX smi.api_calls_submissions, smi.api_calls_status_calls")
    op.execute("DELETE FROM smi.gates WHERE name IN ('submissions', 'status_calls')")
    op.execute("ALTER TABLE smi.gates DROP COLUMN per_minute, DROP COLUMN per_hour, DROP COLUMN lowered_at")
