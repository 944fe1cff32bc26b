"""Edits of a live sequence: what a person has passed stays passed, and pinned mails stay theirs."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# `passed`: steps behind them that an edit has put ahead of them. `content_version`: the version whose
# mails they get, where that is not the one whose steps they go by. `templates`: name → hash, of
# versions whose mails are pinned.
COLUMNS = """
ALTER TABLE enrollment ADD COLUMN passed text[], ADD COLUMN content_version integer;
ALTER TABLE sequence_version ADD COLUMN templates jsonb;
"""


def upgrade() -> None:
    op.execute(COLUMNS)


def downgrade() -> None:
    op.execute("ALTER TABLE sequence_version DROP COLUMN templates")
    op.execute("ALTER TABLE enrollment DROP COLUMN passed, DROP COLUMN content_version")
