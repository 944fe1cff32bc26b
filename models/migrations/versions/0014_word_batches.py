"""Texts by the Batch API, what they saved, and the figures of texts that are no longer kept."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# A batch is a row before anybody is asked for it: its `id` goes along as the metadata by which it is
# found again. `server_id` is the server's name for it, once that is known.
BATCHES = """
CREATE TABLE word_batch (
    id          uuid NOT NULL,
    model       text NOT NULL,
    state       text NOT NULL DEFAULT 'made',
    texts       integer NOT NULL,
    file_id     text,
    server_id   text,
    status      text,
    why         text,
    ready       integer NOT NULL DEFAULT 0,
    rejected    integer NOT NULL DEFAULT 0,
    returned    integer NOT NULL DEFAULT 0,
    cost        bigint NOT NULL DEFAULT 0,
    saved       bigint NOT NULL DEFAULT 0,
    tries       integer NOT NULL DEFAULT 0,
    epoch       bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    look_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    made_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    sent_at     timestamptz,
    ended_at    timestamptz,
    CONSTRAINT word_batch_pkey PRIMARY KEY (id),
    CONSTRAINT word_batch_state_check CHECK (state IN ('made', 'sent', 'ended'))
);
CREATE INDEX word_batch_look_at_idx ON word_batch (look_at) WHERE state <> 'ended';
"""

# `batch_id` stays when a text leaves its batch: it is not put into a second one.
TEXTS = """
ALTER TABLE wording
    ADD COLUMN batch_id uuid,
    ADD COLUMN in_batch boolean NOT NULL DEFAULT false,
    ADD COLUMN batched integer NOT NULL DEFAULT 0,
    ADD COLUMN saved bigint NOT NULL DEFAULT 0,
    ADD COLUMN asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD CONSTRAINT wording_batch_id_fkey FOREIGN KEY (batch_id) REFERENCES word_batch (id);
CREATE INDEX wording_batch_id_idx ON wording (batch_id) WHERE in_batch;
CREATE INDEX wording_asked_at_idx ON wording (asked_at);
"""

# How long texts are kept is no part of what they are made from: it stands beside the hash.
KEPT = """
ALTER TABLE prompt ADD COLUMN keep_days integer;
CREATE TABLE word_past (
    sequence_key text NOT NULL,
    asks         bigint NOT NULL,
    texts        bigint NOT NULL,
    ready        bigint NOT NULL,
    failed       bigint NOT NULL,
    calls        bigint NOT NULL,
    batched      bigint NOT NULL,
    cost         bigint NOT NULL,
    saved        bigint NOT NULL,
    tokens_in    bigint NOT NULL,
    tokens_out   bigint NOT NULL,
    seconds      double precision NOT NULL,
    CONSTRAINT word_past_pkey PRIMARY KEY (sequence_key)
);
"""


def upgrade() -> None:
    op.execute(BATCHES)
    op.execute(TEXTS)
    op.execute(KEPT)


# A text that is in a batch is asked for once more; what was set aside for it stays so.
def downgrade() -> None:
    op.execute("DROP TABLE word_past")
    op.execute("ALTER TABLE prompt DROP COLUMN keep_days")
    op.execute("UPDATE wording SET retry_at = clock_timestamp(), why = NULL WHERE in_batch")
    op.execute("DROP INDEX wording_asked_at_idx, wording_batch_id_idx")
    op.execute(
        "ALTER TABLE wording DROP COLUMN batch_id, DROP COLUMN in_batch, DROP COLUMN batched,"
        " DROP COLUMN saved, DROP COLUMN asked_at"
    )
    op.execute("DROP TABLE word_batch")
