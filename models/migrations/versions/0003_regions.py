"""A stream may name a region, and a canary carries how far its worker's clock is off."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# No default and no rewrite: both are catalog changes, done as soon as the lock is had.
STREAM = """
ALTER TABLE stream ADD COLUMN region text,
    ADD CONSTRAINT stream_region_check CHECK (region ~ '^[a-z0-9][a-z0-9-]{0,30}$')
"""
CANARY = "ALTER TABLE canary ADD COLUMN clock_ahead double precision"

# Without regions every send worker would take their mails, at whichever site it stands.
PAUSE_REGIONAL = """
UPDATE stream SET paused_at = clock_timestamp(),
    pause_reason = 'it was sent from region ' || region || ', which the older schema does not know'
WHERE region IS NOT NULL AND paused_at IS NULL
"""
# Lines that the older version cannot read; what they had begun stops.
STOP_SEGMENTS = """
UPDATE schedule_fire SET state = 'missed', lease_until = NULL, retry_at = NULL,
    ended_at = clock_timestamp(), detail = detail || '{"reason": "removed"}'
WHERE state = 'claimed' AND jsonb_exists(target, 'segment')
"""
DROP_SEGMENTS = "DELETE FROM schedule WHERE jsonb_exists(target, 'segment')"


def upgrade() -> None:
    op.execute(STREAM)
    op.execute(CANARY)


def downgrade() -> None:
    for statement in (PAUSE_REGIONAL, STOP_SEGMENTS, DROP_SEGMENTS):
        op.execute(statement)
    op.execute("DELETE FROM canary WHERE pool LIKE '%@%'")
    op.execute("ALTER TABLE canary DROP COLUMN clock_ahead")
    op.execute("ALTER TABLE stream DROP COLUMN region")
