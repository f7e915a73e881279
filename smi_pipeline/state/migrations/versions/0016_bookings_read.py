"""Keep the bookmark of Stripe's bookings under another name, which no tick of an earlier release moves.

A tick of it that was reading during the upgrade would else move on what 0013 has moved back, and the bookings that were
removed there would never be read again. What it stores meanwhile is read again and replaced.
"""

from alembic import op

revision = "0016"
down_revision = "0015"

BOOKMARK = """
INSERT INTO smi.cursors (name, value) SELECT 'stripe_bookings_read', value FROM smi.cursors
    WHERE name = 'stripe_bookings' ON CONFLICT DO NOTHING;
CREATE OR REPLACE TRIGGER noted AFTER INSERT OR UPDATE ON reports.stripe_bookings
    FOR EACH ROW EXECUTE FUNCTION reports.note_booking();
"""

BACK = """
DELETE FROM smi.cursors WHERE name = 'stripe_bookings_read';
CREATE OR REPLACE TRIGGER noted AFTER INSERT ON reports.stripe_bookings
    FOR EACH ROW EXECUTE FUNCTION reports.note_booking();
"""


def upgrade() -> None:
    """Copy the bookmark, and have a replaced booking rebuild its day."""
    op.execute(BOOKMARK)


def downgrade() -> None:
    """Forget the copy: the earlier release reads on from its own."""
    op.execute(BACK)
