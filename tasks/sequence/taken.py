"""How many slots of a frequency cap a subscriber's mails have taken, counted under their lock.

The message itself is the reservation: it is there from the hand-off on, in the transaction that counted
under the subscriber's lock, and it counts while it may still go or has gone. One that ends failed,
suppressed, cancelled or expired gives its slot back by that very move, and there is no second book
that could say otherwise. In doubt and assumed sent hold theirs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, text

from schedules.definition import Sequence
from tasks.moves.statement import LIVE_SQL
from tasks.sequence.planned import Taken

_ASKED = """
FROM unnest(CAST(:ids AS bigint[]), CAST(:subscribers AS bigint[]), CAST(:keys AS text[]),
            CAST(:scopes AS text[]), CAST(:seconds AS float8[]), CAST(:priorities AS integer[]),
            CAST(:due AS timestamptz[]))
     AS r (id, subscriber_id, sequence_key, scope, seconds, priority, due_at)"""


def _within(other: str) -> str:
    return f"""CASE r.scope WHEN 'all' THEN true
        WHEN 'sequence' THEN {other}.sequence_key = r.sequence_key
        ELSE EXISTS (SELECT 1 FROM sequence a JOIN sequence b ON b.topic = a.topic
                     WHERE a.key = r.sequence_key AND b.key = {other}.sequence_key) END"""


# A mail counts from when its dot was permitted; until then it counts however long ago it was made.
TAKEN = text(f"""
SELECT r.id, coalesce(array_agg(w.at) FILTER (WHERE NOT w.live), '{{}}') AS went,
    count(*) FILTER (WHERE w.live) AS under_way
{_ASKED}
CROSS JOIN LATERAL (
    SELECT m.state IN ({LIVE_SQL}) AS live, coalesce(m.armed_at, m.terminal_at) AS at
    FROM message m JOIN stream t ON t.key = m.stream
    WHERE m.subscriber_id = r.subscriber_id AND t.class = 'marketing'
      AND (m.state IN ({LIVE_SQL})
           OR (m.state IN ('sent', 'sent_assumed') AND coalesce(m.armed_at, m.terminal_at)
                   > clock_timestamp() - make_interval(secs => r.seconds)))
      AND {_within("m")}) w
GROUP BY r.id
""")

# Who is due as well and comes first: by priority, then by due time, then by key.
RIVALS = text(f"""
SELECT r.id, count(*) AS n
{_ASKED}
JOIN enrollment e ON e.subscriber_id = r.subscriber_id AND e.id <> r.id
                 AND e.active AND e.due_at <= clock_timestamp()
JOIN sequence q ON q.key = e.sequence_key AND q.paused_at IS NULL
JOIN stream t ON t.key = q.stream AND t.class = 'marketing'
JOIN sequence_version v ON v.sequence_key = e.sequence_key AND v.version = e.sequence_version
WHERE {_within("e")}
  AND (- CAST(v.definition ->> 'priority' AS integer), e.due_at, e.sequence_key, e.id)
    < (- r.priority, r.due_at, r.sequence_key, r.id)
GROUP BY r.id
""")


def capped(sequence: Sequence) -> bool:
    """Tell whether mails of a sequence are counted before they go."""
    return sequence.limits.cap is not None and sequence.class_ == "marketing"


def counts_for(sequence: Sequence, other: Sequence) -> bool:
    """Tell whether mails of another sequence count for a cap: the rule of the statements above.

    A simulation asks here; a test holds both to the same answers.
    """
    cap = sequence.limits.cap
    if cap is None or other.class_ != "marketing":
        return False
    same = other.key == sequence.key
    if cap.scope == "topic":
        return other.topic is not None and other.topic == sequence.topic
    return cap.scope == "all" or same


def turn(sequence: Sequence, due_at: dt.datetime, id_: int) -> tuple[int, dt.datetime, str, int]:
    """Return the place of a due enrollment among those that want the last free slot; the least is first."""
    return -sequence.priority, due_at, sequence.key, id_


def in_turn(due: Iterable[tuple[Any, Sequence]]) -> list[tuple[Any, Sequence]]:
    """Return due enrollments with those of capped sequences first, as they get the last free slot.

    That is by priority, then due time, then key; the others keep their order.
    """

    def rank(each: tuple[Any, Sequence]) -> tuple[int, dt.datetime, str, int]:
        row, sequence = each
        return turn(sequence, row.due_at, row.id)

    due = list(due)
    counted = sorted((each for each in due if capped(each[1])), key=rank)
    return counted + [each for each in due if not capped(each[1])]


def taken(connection: Connection, asked: Iterable[tuple[Any, Sequence]]) -> dict[int, Taken]:
    """Return what is taken, by enrollment; those whose sequence has no cap are left out.

    Args:
        connection: of the transaction that holds the rows of these subscribers.
        asked: due enrollments (`id`, `subscriber_id`, `sequence_key`, `due_at`) and their sequences.
    """
    rows = [(row, of, of.limits.cap) for row, of in asked if capped(of)]
    if not rows:
        return {}
    values = {
        "ids": [row.id for row, _, _ in rows],
        "subscribers": [row.subscriber_id for row, _, _ in rows],
        "keys": [row.sequence_key for row, _, _ in rows],
        "scopes": [cap.scope for _, _, cap in rows if cap],
        "seconds": [cap.per.total_seconds() for _, _, cap in rows if cap],
        "priorities": [of.priority for _, of, _ in rows],
        "due": [row.due_at for row, _, _ in rows],
    }
    rivals = {row.id: row.n for row in connection.execute(RIVALS, values)}
    found = {row.id: row for row in connection.execute(TAKEN, values)}
    return {
        row.id: Taken(
            tuple(found[row.id].went) if row.id in found else (),
            found[row.id].under_way if row.id in found else 0,
            rivals.get(row.id, 0),
        )
        for row, _, _ in rows
    }
