"""Mails can say what happened: the properties of the event that let somebody in go with each of them."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# By value, since events may be pruned while their people are under way, and what a mail was made of
# is kept with it. NULL for everybody who came in by another door.
COLUMNS = """
ALTER TABLE enrollment ADD COLUMN event jsonb;
ALTER TABLE message ADD COLUMN event jsonb;
"""


def upgrade() -> None:
    op.execute(COLUMNS)


def downgrade() -> None:
    op.execute("ALTER TABLE message DROP COLUMN event")
    op.execute("ALTER TABLE enrollment DROP COLUMN event")
