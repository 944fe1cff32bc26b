"""What expressions ask for, fetched for a whole batch: a query a kind, none that nobody needs."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, text

from schedules.definition import Sequence
from schedules.expression import Needs
from schedules.expression.evaluate import Known
from tasks.sequence.goals import AFTER_ENTRY

SUBSCRIBERS = text("""
SELECT s.id, s.first_name, s.locale, s.zone, s.external_id, s.created_at,
    CASE WHEN s.stopped_at IS NULL THEN 'subscribed' ELSE 'stopped' END AS status,
    s.attributes::text AS attributes
FROM subscriber s WHERE s.id = ANY(:ids)
""")

# The lower bound is always there, so that months before it are not looked at.
COUNTS = text("""
SELECT r.subscriber_id, r.name, r.seconds, (
    SELECT count(*) FROM event x
    WHERE x.subscriber_id = r.subscriber_id AND x.name = r.name
      AND x.occurred_at <= :now
      AND x.occurred_at > coalesce(:now - make_interval(secs => r.seconds), '-infinity')) AS n
FROM unnest(CAST(:ids AS bigint[]), CAST(:names AS text[]), CAST(:seconds AS float8[]))
     AS r (subscriber_id, name, seconds)
""")
LASTS = text("""
SELECT r.subscriber_id, r.name, (
    SELECT max(x.occurred_at) FROM event x
    WHERE x.subscriber_id = r.subscriber_id AND x.name = r.name AND x.occurred_at <= :now) AS at
FROM unnest(CAST(:ids AS bigint[]), CAST(:names AS text[])) AS r (subscriber_id, name)
""")
# A double as text is its shortest exact form; as numeric it would lose its last digits.
SCORES = text("""
SELECT r.subscriber_id, r.name, r.seconds, s.value::text AS value
FROM unnest(CAST(:ids AS bigint[]), CAST(:names AS text[]), CAST(:seconds AS float8[]))
     AS r (subscriber_id, name, seconds)
JOIN score s ON s.name = r.name AND s.subscriber_id = r.subscriber_id
WHERE s.scored_at > :now - make_interval(secs => r.seconds)
""")
SEGMENTS = text("""
WITH run AS MATERIALIZED (
    SELECT DISTINCT ON (g.segment) g.segment, g.id FROM segment_run g
    WHERE g.segment = ANY(:names) AND g.promoted_at IS NOT NULL
    ORDER BY g.segment, g.promoted_at DESC, g.id DESC)
SELECT m.subscriber_id, run.segment AS name, m.label
FROM run JOIN segment_member m ON m.run = run.id AND m.subscriber_id = ANY(:ids)
""")
TOPICS = text("""
SELECT c.subscriber_id, c.topic, c.opted_in FROM consent c
WHERE c.subscriber_id = ANY(:ids) AND c.topic = ANY(:topics)
""")
MEMBERSHIPS = text("""
SELECT p.subscriber_id, p.segment FROM segment_present p
WHERE p.segment = ANY(:keys) AND p.subscriber_id = ANY(:ids)
""")

# What happened before somebody entered is no conversion, also when it was imported later.
HAPPENED = text(f"""
SELECT r.enrollment_id, r.name
FROM unnest(CAST(:ids AS bigint[]), CAST(:names AS text[])) AS r (enrollment_id, name)
JOIN enrollment e ON e.id = r.enrollment_id
WHERE EXISTS (
    SELECT 1 FROM event x
    WHERE x.subscriber_id = e.subscriber_id AND x.name = r.name AND {AFTER_ENTRY})
""")


def known_of(
    connection: Connection, asked: Iterable[tuple[int, Needs]], now: dt.datetime
) -> dict[int, Known]:
    """Fetch what is known of subscribers; each need of a subscriber is answered.

    Args:
        connection: inside a transaction.
        asked: subscriber ids, each as often as something else is needed of it.
        now: up to when events count, and from when ages do.
    """
    needs: dict[int, Needs] = {}
    for subscriber, more in asked:
        needs[subscriber] = needs.get(subscriber, Needs()) | more
    gathered = _Gathered(connection, {s: need for s, need in needs.items() if need}, now)
    gathered.fetch()
    return {
        s: Known(
            now,
            gathered.subscribers.get(s, {}),
            gathered.counts.get(s, {}),
            gathered.lasts.get(s, {}),
            gathered.scores.get(s, {}),
            gathered.segments.get(s, {}),
            gathered.topics.get(s, {}),
            memberships=frozenset(gathered.memberships.get(s, ())),
        )
        for s in needs
    }


def happened(
    connection: Connection, asked: Iterable[tuple[int, Sequence]]
) -> dict[int, frozenset[str]]:
    """Return which events of their exit rules were recorded after enrollments began."""
    pairs = [
        (enrollment, rule.event)
        for enrollment, sequence in asked
        for rule in sequence.exits
        if rule.event is not None
    ]
    found: dict[int, set[str]] = {}
    if pairs:
        ids, names = zip(*pairs, strict=True)
        for row in connection.execute(HAPPENED, {"ids": list(ids), "names": list(names)}):
            found.setdefault(row.enrollment_id, set()).add(row.name)
    return {enrollment: frozenset(names) for enrollment, names in found.items()}


class _Gathered:
    """The answers of a batch, by subscriber."""

    def __init__(
        self, connection: Connection, needs: Mapping[int, Needs], now: dt.datetime
    ) -> None:
        self.subscribers: dict[int, dict[str, Any]] = {}
        self.counts: dict[int, dict[tuple[str, dt.timedelta | None], int]] = {}
        self.lasts: dict[int, dict[str, dt.datetime]] = {}
        self.scores: dict[int, dict[tuple[str, dt.timedelta], Decimal]] = {}
        self.segments: dict[int, dict[str, str]] = {}
        self.topics: dict[int, dict[str, bool]] = {}
        self.memberships: dict[int, set[str]] = {}
        self._connection, self._needs, self._now = connection, needs, now

    def fetch(self) -> None:
        """Ask the queries that somebody needs."""
        needs = self._needs
        if ids := [s for s, need in needs.items() if need.subscriber]:
            for row in self._connection.execute(SUBSCRIBERS, {"ids": ids}):
                values = row._asdict()
                stored = values.pop("attributes")
                attributes = json.loads(stored, parse_float=Decimal, parse_int=_whole)
                id_ = values.pop("id")
                self.subscribers[id_] = attributes | values
        if counts := [(s, *ask) for s, need in needs.items() for ask in need.counts]:
            for row in self._ask(COUNTS, counts):
                self.counts.setdefault(row.subscriber_id, {})[row.name, _span(row.seconds)] = row.n
        if lasts := [(s, name) for s, need in needs.items() for name in need.lasts]:
            for row in self._ask(LASTS, lasts):
                if row.at is not None:
                    self.lasts.setdefault(row.subscriber_id, {})[row.name] = row.at
        if scores := [(s, *ask) for s, need in needs.items() for ask in need.scores]:
            for row in self._ask(SCORES, scores):
                value, age = Decimal(row.value), _span(row.seconds)
                if value.is_finite() and age is not None:
                    self.scores.setdefault(row.subscriber_id, {})[row.name, age] = value
        if names := sorted(set().union(*(need.segments for need in needs.values()))):
            ids = [s for s, need in needs.items() if need.segments]
            for row in self._connection.execute(SEGMENTS, {"names": names, "ids": ids}):
                self.segments.setdefault(row.subscriber_id, {})[row.name] = row.label
        if topics := sorted(set().union(*(need.topics for need in needs.values()))):
            ids = [s for s, need in needs.items() if need.topics]
            for row in self._connection.execute(TOPICS, {"topics": topics, "ids": ids}):
                self.topics.setdefault(row.subscriber_id, {})[row.topic] = row.opted_in
        if keys := sorted(set().union(*(need.memberships for need in needs.values()))):
            ids = [s for s, need in needs.items() if need.memberships]
            for row in self._connection.execute(MEMBERSHIPS, {"keys": keys, "ids": ids}):
                self.memberships.setdefault(row.subscriber_id, set()).add(row.segment)

    def _ask(self, query: Any, asked: list[Any]) -> Any:
        values = {"ids": [each[0] for each in asked], "names": [each[1] for each in asked]}
        if query is not LASTS:
            spans = [each[2] for each in asked]
            values["seconds"] = [None if span is None else span.total_seconds() for span in spans]
        return self._connection.execute(query, values | {"now": self._now})


def _span(seconds: float | None) -> dt.timedelta | None:
    return None if seconds is None else dt.timedelta(seconds=seconds)


def _whole(digits: str) -> int | Decimal:
    # Python refuses to read whole numbers of thousands of digits as such.
    return int(digits) if len(digits) < 100 else Decimal(digits)
