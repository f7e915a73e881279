"""Keep for each limit when it was lowered: a 429 of one delayed the raising of the other."""

from alembic import op

revision = "0014"
down_revision = "0013"

COLUMNS = """
ALTER TABLE smi.gates ADD COLUMN minute_since timestamptz, ADD COLUMN hour_since timestamptz;
UPDATE smi.gates SET minute_since = CASE WHEN per_minute IS NOT NULL THEN lowered_at END,
                     hour_since = CASE WHEN per_hour IS NOT NULL THEN lowered_at END;
COMMENT ON COLUMN smi.gates.per_minute IS 'Calls per minute that were allowed at minute_since.';
COMMENT ON COLUMN smi.gates.per_hour IS 'Calls per hour that were allowed at hour_since.';
COMMENT ON COLUMN smi.gates.minute_since IS 'When the limit of the minute was lowered; it is raised from then on.';
COMMENT ON COLUMN smi.gates.hour_since IS 'When the limit of the hour was lowered; it is raised from then on.';
COMMENT ON COLUMN smi.gates.lowered_at IS 'The last 429.';
"""


def upgrade() -> None:
    """Add the two columns, filled from the last 429."""
    op.execute(COLUMNS)


def downgrade() -> None:
    """Remove them."""
    op.execute("ALTER TABLE smi.gates DROP COLUMN minute_since, DROP COLUMN hour_since")
