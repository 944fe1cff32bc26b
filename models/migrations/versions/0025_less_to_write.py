"""What a move of a message costs: guards that lock nothing by themselves, and crashed rows in sight.

A row trigger that runs before an update locks the row once more, with a record in the log; one that
runs after it refuses the same moves, in the same statement. And a claim asks which of its worker's
rows have crashed: of thousands that are under way it found them by looking at all.

The index holds the rows that crashed and are under way, none as a rule; to build it takes one look at
the table, which lets nobody write meanwhile. Where that is too long, make it beforehand by the same
words and CONCURRENTLY: it is taken as it stands.
"""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

CRASHED = """
CREATE INDEX IF NOT EXISTS message_crashed_idx ON message (owner)
    WHERE crashes > 0 AND watch_at IS NOT NULL
"""

# Made anew by the words that stand there, whatever moves they permit.
TURNED = """
DO $$ DECLARE guard record; BEGIN
    FOR guard IN
        SELECT tgname, pg_get_triggerdef(oid) AS made FROM pg_trigger
        WHERE tgrelid = 'message'::regclass
          AND tgname IN ('message_legal_move', 'message_frozen_content')
    LOOP
        EXECUTE format('DROP TRIGGER %I ON message', guard.tgname);
        EXECUTE replace(guard.made, ' {0} UPDATE ', ' {1} UPDATE ');
    END LOOP;
END $$
"""


def upgrade() -> None:
    op.execute(CRASHED)
    op.execute(TURNED.format("BEFORE", "AFTER"))


def downgrade() -> None:
    op.execute(TURNED.format("AFTER", "BEFORE"))
    op.execute("DROP INDEX message_crashed_idx")
