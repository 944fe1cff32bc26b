"""Topics that ask for a confirmation, and the record of who gave it."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

OPT_IN = """
ALTER TABLE topic ADD COLUMN confirm boolean NOT NULL DEFAULT false;
CREATE TABLE opt_in (
    subscriber_id    bigint NOT NULL,
    topic            text NOT NULL,
    source           text NOT NULL,
    said_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    wanted           boolean NOT NULL DEFAULT true,
    asks             smallint NOT NULL DEFAULT 0,
    asked_at         timestamptz,
    message_id       bigint,
    template_version bytea,
    confirmed_at     timestamptz,
    page             text,
    CONSTRAINT opt_in_pkey PRIMARY KEY (subscriber_id, topic),
    CONSTRAINT opt_in_subscriber_id_fkey FOREIGN KEY (subscriber_id) REFERENCES subscriber (id),
    CONSTRAINT opt_in_topic_fkey FOREIGN KEY (topic) REFERENCES topic (key)
);
CREATE INDEX opt_in_wanted_idx ON opt_in (subscriber_id, topic) WHERE wanted;
"""


def upgrade() -> None:
    op.execute(OPT_IN)


def downgrade() -> None:
    op.execute("DROP TABLE opt_in")
    op.execute("ALTER TABLE topic DROP COLUMN confirm")
