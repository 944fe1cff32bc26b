"""A sequence may take nobody new; refusals at the door are counted, and edges found by their time."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

DRAINING = """
ALTER TABLE sequence ADD COLUMN draining_since timestamptz, ADD COLUMN drain_reason text,
    ADD CONSTRAINT sequence_drain_has_reason_check
    CHECK ((draining_since IS NULL) = (drain_reason IS NULL))
"""

# What metrics ask for every few seconds: one row a sequence, reason and backend, not one a person.
REFUSED = """
CREATE TABLE refusal_count (
    sequence_key text NOT NULL,
    reason       text NOT NULL,
    shard        integer NOT NULL,
    n            bigint NOT NULL,
    CONSTRAINT refusal_count_pkey PRIMARY KEY (sequence_key, reason, shard)
);
INSERT INTO refusal_count (sequence_key, reason, shard, n)
SELECT sequence_key, reason, 0, sum(n) FROM entry_refusal GROUP BY 1, 2;
"""

# Edges are written in the order of time and kept for good: of the last hour few pages are read.
EDGES = "CREATE INDEX segment_edge_at_idx ON segment_edge USING brin (at) WITH (autosummarize = on)"


def upgrade() -> None:
    for statements in (DRAINING, REFUSED, EDGES):
        op.execute(statements)


def downgrade() -> None:
    op.execute("DROP INDEX segment_edge_at_idx")
    op.execute("DROP TABLE refusal_count")
    # A release of before would let people in: held they can be let go on, mailed they are.
    op.execute("""
    UPDATE sequence SET paused_at = clock_timestamp(),
        pause_reason = 'took nobody new by a later schema: ' || drain_reason
    WHERE draining_since IS NOT NULL AND paused_at IS NULL
    """)
    op.execute("ALTER TABLE sequence DROP COLUMN draining_since, DROP COLUMN drain_reason")
