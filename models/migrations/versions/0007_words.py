"""Words of a model: prompts by hash, texts asked for and made, what they cost, and where they went."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

PROMPTS = """
CREATE TABLE prompt_source (
    sha256     bytea NOT NULL,
    name       text NOT NULL,
    source     jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT prompt_source_pkey PRIMARY KEY (sha256)
);
CREATE TABLE prompt (
    name         text NOT NULL,
    sha256       bytea NOT NULL,
    published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT prompt_pkey PRIMARY KEY (name),
    CONSTRAINT prompt_sha256_fkey FOREIGN KEY (sha256) REFERENCES prompt_source (sha256)
);
"""

# A text is one row, whoever it is for; `key` is the hash of all that it is made from. Who asked for
# it stands in asked until the mail is handed over, which takes the words with it.
TEXTS = """
CREATE TABLE wording (
    key           bytea NOT NULL,
    prompt_sha256 bytea NOT NULL,
    prompt        text NOT NULL,
    sequence_key  text NOT NULL,
    model         text NOT NULL,
    told          jsonb NOT NULL,
    state         text NOT NULL DEFAULT 'wanted',
    slots         jsonb,
    why           text,
    fault         text,
    needed_at     timestamptz NOT NULL,
    retry_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_until   timestamptz,
    epoch         bigint NOT NULL DEFAULT 0,
    tries         integer NOT NULL DEFAULT 0,
    asks          bigint NOT NULL DEFAULT 0,
    calls         integer NOT NULL DEFAULT 0,
    reserved      bigint NOT NULL DEFAULT 0,
    reserved_on   date,
    cost          bigint NOT NULL DEFAULT 0,
    tokens_in     bigint NOT NULL DEFAULT 0,
    tokens_out    bigint NOT NULL DEFAULT 0,
    seconds       double precision NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at      timestamptz,
    CONSTRAINT wording_pkey PRIMARY KEY (key),
    CONSTRAINT wording_prompt_sha256_fkey
        FOREIGN KEY (prompt_sha256) REFERENCES prompt_source (sha256),
    CONSTRAINT wording_state_check CHECK (state IN ('wanted', 'ready', 'failed')),
    CONSTRAINT wording_slots_check CHECK ((slots IS NOT NULL) = (state = 'ready'))
);
CREATE INDEX wording_wanted_idx ON wording (needed_at) WHERE state = 'wanted';
CREATE TABLE asked (
    enrollment_id bigint NOT NULL,
    step_id       text NOT NULL,
    key           bytea NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT asked_pkey PRIMARY KEY (enrollment_id, step_id),
    CONSTRAINT asked_enrollment_id_fkey FOREIGN KEY (enrollment_id) REFERENCES enrollment (id),
    CONSTRAINT asked_key_fkey FOREIGN KEY (key) REFERENCES wording (key)
);
CREATE INDEX asked_key_idx ON asked (key);
CREATE TABLE word_count (
    sequence_key text NOT NULL,
    step_id      text NOT NULL,
    shard        integer NOT NULL,
    outcome      text NOT NULL,
    n            bigint NOT NULL,
    CONSTRAINT word_count_pkey PRIMARY KEY (sequence_key, step_id, shard, outcome)
);
"""

# Millionths of the price table's currency. A scope is 'all' or 'sequence:KEY', a day that of UTC.
MONEY = """
CREATE TABLE model_spend (
    scope    text NOT NULL,
    day      date NOT NULL,
    reserved bigint NOT NULL DEFAULT 0,
    settled  bigint NOT NULL DEFAULT 0,
    CONSTRAINT model_spend_pkey PRIMARY KEY (scope, day)
);
CREATE TABLE model_circuit (
    model      text NOT NULL,
    open_until timestamptz NOT NULL DEFAULT '-infinity',
    faults     integer NOT NULL DEFAULT 0,
    why        text,
    CONSTRAINT model_circuit_pkey PRIMARY KEY (model)
);
"""


def upgrade() -> None:
    op.execute(PROMPTS)
    op.execute(TEXTS)
    op.execute(MONEY)
    op.execute("ALTER TABLE message ADD COLUMN words jsonb")


def downgrade() -> None:
    op.execute("ALTER TABLE message DROP COLUMN words")
    op.execute("DROP TABLE asked, word_count, wording, prompt, prompt_source")
    op.execute("DROP TABLE model_spend, model_circuit")
