"""Scores as they were when somebody came in: what a lift by band is counted by."""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE entry_score (
    enrollment_id bigint NOT NULL,
    name          text NOT NULL,
    subscriber_id bigint NOT NULL,
    value         double precision NOT NULL,
    CONSTRAINT entry_score_pkey PRIMARY KEY (enrollment_id, name),
    CONSTRAINT entry_score_enrollment_id_fkey
        FOREIGN KEY (enrollment_id) REFERENCES enrollment (id) ON DELETE CASCADE
);
CREATE INDEX entry_score_subscriber_id_idx ON entry_score (subscriber_id);
"""

# One statement for all who come in at once, whichever door they came by.
TRIGGER = """
CREATE FUNCTION remember_scores() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO entry_score (enrollment_id, name, subscriber_id, value)
    SELECT e.id, s.name, e.subscriber_id, s.value
    FROM entered e
    JOIN sequence_version v ON v.sequence_key = e.sequence_key AND v.version = e.sequence_version
        AND jsonb_typeof(v.definition -> 'holdout') = 'object'
    CROSS JOIN score_champion c
    JOIN score s ON s.name = c.name AND s.subscriber_id = e.subscriber_id
        AND s.scored_at > clock_timestamp() - interval '7 days';
    RETURN NULL;
END $$;
CREATE TRIGGER enrollment_scores AFTER INSERT ON enrollment
    REFERENCING NEW TABLE AS entered FOR EACH STATEMENT EXECUTE FUNCTION remember_scores();
"""


def upgrade() -> None:
    for statements in (TABLE, TRIGGER):
        op.execute(statements)


def downgrade() -> None:
    op.execute("DROP TRIGGER enrollment_scores ON enrollment")
    op.execute("DROP FUNCTION remember_scores")
    op.execute("DROP TABLE entry_score")
