"""A sequence may take nobody new, with when that began and why."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
    ALTER TABLE sequence ADD COLUMN draining_since timestamptz, ADD COLUMN drain_reason text,
        ADD CONSTRAINT sequence_drain_has_reason_check
        CHECK ((draining_since IS NULL) = (drain_reason IS NULL))
    """)


def downgrade() -> None:
    op.execute("ALTER TABLE sequence DROP COLUMN draining_since, DROP COLUMN drain_reason")
