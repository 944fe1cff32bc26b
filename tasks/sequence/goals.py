"""Conversions: the first event of a goal within its window, counted for both arms alike.

What happened before the entry is none (R12). Whoever was let in by an event counts from when that
happened; everybody else from the entry, and an event that was recorded before it is none either.
Sources that know the date alone say midnight: of these a day is taken off.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Connection, text

from schedules import definition
from schedules.expression.evaluate import LARGEST, Known, evaluate

AFTER_ENTRY: Final = """
    x.occurred_at > coalesce(e.triggered_at, e.entered_at - interval '1 day')
    AND (e.triggered_at IS NOT NULL OR (x.recorded_at > e.entered_at AND (
        x.occurred_at > e.entered_at
        OR x.occurred_at = date_trunc('day', x.occurred_at, 'UTC'))))"""
"""SQL: the event ``x`` happened after the entry ``e``; its first line bounds the months looked at."""

OF_NEWS: Final = """
unnest(CAST(:ids AS bigint[]), CAST(:occurred AS timestamptz[])) AS n (id, at)
CROSS JOIN LATERAL (
    SELECT y.* FROM event y WHERE y.id = n.id AND y.occurred_at = n.at OFFSET 0) x
CROSS JOIN LATERAL (
    SELECT y.* FROM enrollment y WHERE y.subscriber_id = x.subscriber_id OFFSET 0) e"""
"""SQL: events by id, and whoever's enrollments; in this order, whatever the statistics say."""

_REACHED = """
SELECT e.id, e.sequence_key, e.sequence_version, e.subscriber_id, x.id AS event_id, x.occurred_at,
    coalesce(e.triggered_at, e.entered_at) AS since, x.properties::text AS properties,
    clock_timestamp() AS now
FROM {chosen}
JOIN sequence_watch w ON w.kind = 'goal' AND w.sequence_key = e.sequence_key
    AND w.version = e.sequence_version AND w.name = x.name
WHERE {after}
"""
# By events that came in just now, of whoever is in a sequence or was.
BY_EVENT = text(
    _REACHED.format(
        chosen=OF_NEWS,
        after=AFTER_ENTRY,
    )
)
# By people who came in just now by an event: what they did since then may be here before them.
BY_ENTRY = text(
    _REACHED.format(
        chosen="""unnest(CAST(:ids AS bigint[])) AS n (id)
CROSS JOIN LATERAL (
    SELECT y.* FROM enrollment y WHERE y.id = n.id AND y.triggered_at IS NOT NULL OFFSET 0) e
CROSS JOIN LATERAL (
    SELECT y.* FROM event y
    WHERE y.subscriber_id = e.subscriber_id AND y.occurred_at > e.triggered_at OFFSET 0) x""",
        after=AFTER_ENTRY,
    )
)

# The earliest counts, in whichever order they come.
CONVERT = text("""
WITH first AS (
    SELECT DISTINCT ON (r.enrollment_id) r.*
    FROM unnest(CAST(:enrollments AS bigint[]), CAST(:keys AS text[]),
                CAST(:subscribers AS bigint[]), CAST(:events AS bigint[]),
                CAST(:occurred AS timestamptz[]), CAST(:worth AS numeric[]))
         AS r (enrollment_id, sequence_key, subscriber_id, event_id, occurred_at, value)
    ORDER BY r.enrollment_id, r.occurred_at, r.event_id),
written AS (
    INSERT INTO conversion AS c
        (enrollment_id, sequence_key, subscriber_id, event_id, occurred_at, value)
    SELECT enrollment_id, sequence_key, subscriber_id, event_id, occurred_at, value FROM first
    ON CONFLICT (enrollment_id) DO UPDATE SET event_id = excluded.event_id,
        occurred_at = excluded.occurred_at, value = excluded.value
    WHERE excluded.occurred_at < c.occurred_at
    RETURNING xmax = 0 AS new)
SELECT count(*) FILTER (WHERE new) FROM written
""")

Definitions = Callable[[str, int], definition.Sequence | None]


def by_events(connection: Connection, news: Sequence[Any], definitions: Definitions) -> int:
    """Record what events convert; returns how many enrollments have converted now.

    Args:
        connection: inside a transaction.
        news: rows with event_id and occurred_at.
        definitions: the version of a sequence.
    """
    values = {"ids": [n.event_id for n in news], "occurred": [n.occurred_at for n in news]}
    return _record(connection, connection.execute(BY_EVENT, values), definitions)


def by_entries(connection: Connection, ids: Sequence[int], definitions: Definitions) -> int:
    """Record what enrollments had converted by before they were written; as `by_events`."""
    return _record(connection, connection.execute(BY_ENTRY, {"ids": list(ids)}), definitions)


def _record(connection: Connection, rows: Iterable[Any], definitions: Definitions) -> int:
    found = []
    for row in rows:
        sequence = definitions(row.sequence_key, row.sequence_version)
        goal = sequence.goal if sequence else None
        if goal is None or row.occurred_at > row.since + goal.window:
            continue
        worth = None
        if goal.value is not None:
            event = json.loads(row.properties, parse_float=Decimal)
            worth = _number(evaluate(goal.value.root, Known(row.now, event=event)))
        found.append((row, worth))
    if not found:
        return 0
    values = {
        "enrollments": [row.id for row, _ in found],
        "keys": [row.sequence_key for row, _ in found],
        "subscribers": [row.subscriber_id for row, _ in found],
        "events": [row.event_id for row, _ in found],
        "occurred": [row.occurred_at for row, _ in found],
        "worth": [worth for _, worth in found],
    }
    return int(connection.execute(CONVERT, values).scalar_one())


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    return Decimal(value) if -LARGEST < value < LARGEST else None
