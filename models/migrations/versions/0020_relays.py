"""Relays: paused by hand, limited by group of domains, warmed up; slots of throttled sequences."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

RELAYS = """
CREATE TABLE relay (
    key          text NOT NULL,
    paused_at    timestamptz,
    pause_reason text,
    CONSTRAINT relay_pkey PRIMARY KEY (key),
    CONSTRAINT relay_pause_has_reason_check CHECK ((paused_at IS NULL) = (pause_reason IS NULL))
);
CREATE TABLE relay_limit (
    relay       text NOT NULL,
    domains     text NOT NULL,
    per_minute  double precision,
    connections integer,
    warm_from   integer,
    warm_every  interval,
    warm_until  integer,
    warm_since  date,
    set_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT relay_limit_pkey PRIMARY KEY (relay, domains),
    CONSTRAINT relay_limit_per_minute_check CHECK (per_minute > 0),
    CONSTRAINT relay_limit_connections_check CHECK (connections BETWEEN 1 AND 2000),
    CONSTRAINT relay_limit_warm_up_check CHECK (
        num_nulls(warm_from, warm_every, warm_until, warm_since) IN (0, 4)
        AND warm_from > 0 AND warm_every > interval '0' AND warm_until >= warm_from)
);
CREATE TABLE relay_day (
    relay   text NOT NULL,
    domains text NOT NULL,
    day     date NOT NULL,
    taken   integer NOT NULL DEFAULT 0,
    CONSTRAINT relay_day_pkey PRIMARY KEY (relay, domains, day),
    CONSTRAINT relay_day_taken_check CHECK (taken >= 0)
);
CREATE TABLE sequence_slot (
    sequence_key text NOT NULL,
    next_at      timestamptz,
    CONSTRAINT sequence_slot_pkey PRIMARY KEY (sequence_key),
    CONSTRAINT sequence_slot_sequence_key_fkey FOREIGN KEY (sequence_key) REFERENCES sequence (key)
);
"""


def upgrade() -> None:
    op.execute(RELAYS)


def downgrade() -> None:
    # Of several relays the first: before, a stream had one.
    op.execute(
        "UPDATE stream SET relay = split_part(split_part(relay, ',', 1), '=', 1)"
        " WHERE relay ~ '[=,]'"
    )
    op.execute("DROP TABLE sequence_slot, relay_day, relay_limit, relay")
