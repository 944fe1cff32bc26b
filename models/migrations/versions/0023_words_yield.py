"""Whether words stand back for mails that wait, and prompts in several languages."""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# One row, as whoever makes texts last said.
YIELD = """
CREATE TABLE word_yield (
    one     boolean NOT NULL DEFAULT true,
    since   timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    CONSTRAINT word_yield_pkey PRIMARY KEY (one),
    CONSTRAINT word_yield_one_check CHECK (one)
)
"""
LOCALES = "ALTER TABLE prompt ADD COLUMN locales text[] NOT NULL DEFAULT '{}'"


def upgrade() -> None:
    op.execute(YIELD)
    op.execute(LOCALES)


def downgrade() -> None:
    op.execute("ALTER TABLE prompt DROP COLUMN locales")
    op.execute("DROP TABLE word_yield")
