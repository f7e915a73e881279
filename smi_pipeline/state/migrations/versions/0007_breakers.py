"""Circuit breakers of the parts of the shop.

Earlier releases read the one breaker from `gates`; while one of them runs beside this, each sees its own.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

BREAKERS = """
CREATE TABLE smi.breakers (
    name          text PRIMARY KEY,
    failed        text[] NOT NULL DEFAULT '{}',
    failing_since timestamptz,
    message       text NOT NULL DEFAULT '',
    next_step     text NOT NULL DEFAULT '',
    opened_at     timestamptz,
    by_hand       boolean NOT NULL DEFAULT false,
    probe         text,
    probe_until   timestamptz,
    next_probe_at timestamptz,
    failed_probes integer NOT NULL DEFAULT 0,
    last_fault_from  timestamptz,
    last_fault_until timestamptz
);
COMMENT ON TABLE smi.breakers IS 'Parts of the shop that may fail for all orders, and whether orders wait for them.';
COMMENT ON COLUMN smi.breakers.failed IS 'Work keys that failed in a row, without a success between them.';
COMMENT ON COLUMN smi.breakers.probe IS 'The one row that may try while the breaker is open.';
INSERT INTO smi.breakers (name, message, opened_at, failing_since, next_probe_at)
    SELECT 'submissions', coalesce(reason, ''), opened_at, opened_at, smi.now() FROM smi.gates
    WHERE opened_at IS NOT NULL;
UPDATE smi.person_tasks SET kind = 'breaker', subject = 'submissions'
    WHERE kind = 'account' AND subject = 'upsampler' AND closed_at IS NULL;
"""


def upgrade() -> None:
    """Add the table, with the breaker that is open."""
    op.execute(BREAKERS)


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP TABLE smi.breakers")
