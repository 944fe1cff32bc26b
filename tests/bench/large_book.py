"""A book of subscribers with a few or many events each, as years of a shop leave it.

Rows of `event` lie in the order of their time, so those of one subscriber are scattered over all
of the table: the worst for whoever reads them by subscriber, and what real books look like.
"""

from __future__ import annotations

from sqlalchemy import text

from models.session import Database

DAYS = 720

SUBSCRIBERS = text("""
INSERT INTO subscriber (id, address, address_hmac, attributes)
SELECT i, 'customer-' || i || '@example.com', sha256(('customer-' || i)::bytea),
    jsonb_build_object('country', (ARRAY['DE', 'AT', 'FR', 'PL'])[1 + i % 4], 'age', 18 + i % 60)
FROM generate_series(1, :n) i
""")
# Everybody begins with a purchase; then some do more than others.
EVENTS = text("""
INSERT INTO event (subscriber_id, name, occurred_at, properties)
SELECT CASE WHEN i <= :n THEN i ELSE 1 + floor(:n * power(random(), 1.3))::bigint END, k.name,
    clock_timestamp() - interval '1 day' * (:days * (1 - i::float8 / :m)) - interval '1 hour',
    CASE k.name WHEN 'purchase' THEN jsonb_build_object('amount', (5 + i * 7919 % 9000 / 100.0))
        ELSE '{}' END
FROM generate_series(CAST(:start AS bigint), :stop) i
CROSS JOIN LATERAL (SELECT CASE WHEN i <= :n THEN 'purchase' ELSE (ARRAY['purchase', 'email.opened', 'email.opened', 'email.clicked',
    'login', 'login', 'page.viewed', 'page.viewed'])[1 + (i * 48271 % 8)] END AS name) k
""")
INDEXES = {
    "event_subscriber_id_occurred_at_idx": "subscriber_id, occurred_at",
    "event_name_subscriber_id_occurred_at_idx": "name, subscriber_id, occurred_at",
}
BATCH = 2_000_000


def fill(database: Database, subscribers: int, events: int) -> None:
    """Make them; the indexes are built at the end, which is far quicker."""
    with database.transaction() as connection:
        connection.execute(SUBSCRIBERS, {"n": subscribers})
        for index in INDEXES:
            connection.execute(text(f"DROP INDEX {index}"))
    for start in range(1, events + 1, BATCH):
        with database.transaction() as connection:
            connection.execute(
                EVENTS,
                {
                    "n": subscribers,
                    "days": DAYS,
                    "m": events,
                    "start": start,
                    "stop": min(start + BATCH - 1, events),
                },
            )
    with database.transaction() as connection:
        connection.execute(text("SELECT set_config('maintenance_work_mem', '512MB', true)"))
        for index, columns in INDEXES.items():
            connection.execute(text(f"CREATE INDEX {index} ON event ({columns})"))
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE subscriber, event"))
