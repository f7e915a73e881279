"""When the processes that the gateway cannot see have last shown that they work."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add the table."""
    op.execute(
        """CREATE TABLE smi.process_heartbeats (
               part text PRIMARY KEY,
               at   timestamptz NOT NULL
           );
           COMMENT ON TABLE smi.process_heartbeats IS
               'When each part of the service that the gateway watches has last shown that it works.';
           COMMENT ON COLUMN smi.process_heartbeats.part IS
               'daemon: Dagster has run the sensor alerts; workers-QUEUE: a worker of that queue is there.'"""
    )


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP TABLE smi.process_heartbeats")
