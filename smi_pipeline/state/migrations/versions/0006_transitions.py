"""Let the trigger know every real transition of an upscale job.

A free retry that fails completes the job again; an abandoned order paid with a wrong amount fails. Nothing goes from
processing back to pending. Earlier releases make none of the removed changes, so they run on while this is applied.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

BEFORE = """
        ('awaiting_payment', 'pending'), ('awaiting_payment', 'abandoned'), ('awaiting_payment', 'failed'),
        ('abandoned', 'pending'),
        ('pending', 'processing'), ('pending', 'failed'),
        ('processing', 'completed'), ('processing', 'failed'), ('processing', 'pending'),
        ('completed', 'pending'),
        ('failed', 'refunded'), ('failed', 'pending'),
        ('refunded', 'pending')"""

NOW = """
        ('awaiting_payment', 'pending'), ('awaiting_payment', 'abandoned'), ('awaiting_payment', 'failed'),
        ('abandoned', 'pending'), ('abandoned', 'failed'),
        ('pending', 'processing'), ('pending', 'completed'), ('pending', 'failed'),
        ('processing', 'completed'), ('processing', 'failed'),
        ('completed', 'pending'),
        ('failed', 'refunded'), ('failed', 'pending'),
        ('refunded', 'pending')"""


def _allow(transitions: str) -> None:
    op.execute(
        f"""CREATE OR REPLACE FUNCTION smi.check_step() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (OLD.status, NEW.status) NOT IN ({transitions})
            THEN
                RAISE EXCEPTION 'upscale job % cannot go from % to %', OLD.job_id, OLD.status, NEW.status;
            END IF;
            RETURN NEW;
        END $$"""
    )


def upgrade() -> None:
    """Allow the transitions of this release."""
    _allow(NOW)


def downgrade() -> None:
    """Allow those of 0001 again."""
    _allow(BEFORE)
