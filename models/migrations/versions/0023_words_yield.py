"""Whether words stand back for mails that wait: one row, as whoever makes texts last said."""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

YIELD = """
CREATE TABLE word_yield (
    one     boolean NOT NULL DEFAULT true,
    since   timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    CONSTRAINT word_yield_pkey PRIMARY KEY (one),
    CONSTRAINT word_yield_one_check CHECK (one)
)
"""


def upgrade() -> None:
    op.execute(YIELD)


def downgrade() -> None:
    op.execute("DROP TABLE word_yield")
