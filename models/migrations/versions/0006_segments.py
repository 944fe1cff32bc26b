"""Segment runs that are computed in stages, and taken up again after a kill."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A run is worked on under a lease and an epoch, stage by stage; what a stage has computed stands in
# segment_step, how far the assignment is in after_id.
RUN = """
ALTER TABLE segment_run
    ADD COLUMN stage       text NOT NULL DEFAULT 'done',
    ADD COLUMN request     jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN noisy       boolean NOT NULL DEFAULT false,
    ADD COLUMN after_id    bigint NOT NULL DEFAULT 0,
    ADD COLUMN epoch       bigint NOT NULL DEFAULT 0,
    ADD COLUMN faults      integer NOT NULL DEFAULT 0,
    ADD COLUMN lease_until timestamptz,
    ADD COLUMN retry_at    timestamptz,
    ADD COLUMN why         text,
    ADD COLUMN ended_at    timestamptz,
    ADD CONSTRAINT segment_run_stage_check
        CHECK (stage IN ('coreset', 'cut', 'assign', 'judge', 'done', 'refused'));
CREATE INDEX segment_run_due_idx ON segment_run (id) WHERE stage NOT IN ('done', 'refused');
"""

STEP = """
CREATE TABLE segment_step (
    run   bigint NOT NULL,
    step  text NOT NULL,
    value jsonb NOT NULL,
    at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT segment_step_pkey PRIMARY KEY (run, step),
    CONSTRAINT segment_step_run_fkey FOREIGN KEY (run) REFERENCES segment_run (id)
);
CREATE TABLE segment_coreset (
    digest     bytea NOT NULL,
    value      jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT segment_coreset_pkey PRIMARY KEY (digest)
);
"""


def upgrade() -> None:
    op.execute(RUN)
    op.execute(STEP)


def downgrade() -> None:
    op.execute("DROP TABLE segment_step, segment_coreset")
    op.execute("DROP INDEX segment_run_due_idx")
    op.execute(
        "ALTER TABLE segment_run DROP CONSTRAINT segment_run_stage_check, DROP COLUMN stage,"
        " DROP COLUMN request, DROP COLUMN noisy, DROP COLUMN after_id, DROP COLUMN epoch,"
        " DROP COLUMN faults, DROP COLUMN lease_until, DROP COLUMN retry_at, DROP COLUMN why,"
        " DROP COLUMN ended_at"
    )
