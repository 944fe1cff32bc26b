"""Cron lines as rows, and fires that can be taken up again until they are done."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# next_wall is the rule's own time and next_fire_at the instant it was resolved to by this release
# of tzdata: a newer one resolves the wall time again.
SCHEDULE = """
CREATE TABLE schedule (
    key          text NOT NULL,
    cron         text NOT NULL,
    zone         text NOT NULL,
    target       jsonb NOT NULL,
    catch_up     text NOT NULL,
    max_lateness interval NOT NULL,
    paused       boolean NOT NULL DEFAULT false,
    next_wall    timestamp,
    next_fire_at timestamptz,
    tzdata       text NOT NULL,
    fault        text,
    applied_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT schedule_pkey PRIMARY KEY (key),
    CONSTRAINT schedule_catch_up_check CHECK (catch_up IN ('latest', 'all', 'skip')),
    CONSTRAINT schedule_next_agrees_check
        CHECK ((next_wall IS NULL) = (next_fire_at IS NULL) AND NOT (paused AND next_wall IS NOT NULL))
);
"""

# No foreign key to schedule: what fired stays known after its line is gone.
FIRE = """
ALTER TABLE schedule_fire
    ADD COLUMN target      jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN after_id    bigint NOT NULL DEFAULT 0,
    ADD COLUMN epoch       bigint NOT NULL DEFAULT 0,
    ADD COLUMN faults      integer NOT NULL DEFAULT 0,
    ADD COLUMN lease_until timestamptz,
    ADD COLUMN retry_at    timestamptz,
    ADD COLUMN ended_at    timestamptz;
CREATE INDEX schedule_fire_claimed_idx ON schedule_fire (fire_at) WHERE state = 'claimed';
"""


def upgrade() -> None:
    op.execute(SCHEDULE)
    op.execute(FIRE)


def downgrade() -> None:
    op.execute("DROP INDEX schedule_fire_claimed_idx")
    op.execute(
        "ALTER TABLE schedule_fire DROP COLUMN target, DROP COLUMN after_id, DROP COLUMN epoch,"
        " DROP COLUMN faults, DROP COLUMN lease_until, DROP COLUMN retry_at, DROP COLUMN ended_at"
    )
    op.execute("DROP TABLE schedule")
