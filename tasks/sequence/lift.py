"""What a sequence brought that would not have come without it: the mailed beside those held out.

People are counted, not entries: who converted at all since the holdout is as it is. Both arms walked
the same way in the same time, and a draw alone divides them.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from schedules.definition import SendStep, Sequence
from tasks.experiment.intervals import newcombe
from tasks.sequence.lift_parts import Part, parts
from tasks.sequence.lifted import Span, too_few, value_of

# The versions that held out whom the current one does, without a gap: who came in before them was
# divided otherwise.
SINCE = text("""
SELECT min(v.created_at) FROM sequence_version v JOIN sequence q ON q.key = v.sequence_key
WHERE q.key = :key AND v.version <= q.version AND v.version > coalesce((
    SELECT max(o.version) FROM sequence_version o
    WHERE o.sequence_key = q.key AND o.version < q.version
      AND (o.definition -> 'holdout' IS DISTINCT FROM
               (SELECT c.definition -> 'holdout' FROM sequence_version c
                WHERE c.sequence_key = q.key AND c.version = q.version)
           OR o.definition -> 'goal' IS DISTINCT FROM
               (SELECT c.definition -> 'goal' FROM sequence_version c
                WHERE c.sequence_key = q.key AND c.version = q.version))), 0)
""")

PEOPLE = """
WITH person AS (
    SELECT e.subscriber_id, {held_out} AS held_out, count(c.enrollment_id) AS conversions,
        sum(c.value) AS value
    FROM enrollment e LEFT JOIN conversion c ON c.enrollment_id = e.id
    WHERE e.sequence_key = :key AND e.entered_at >= :since GROUP BY e.subscriber_id)
SELECT held_out, count(*) AS people, count(*) FILTER (WHERE conversions > 0) AS converted,
    array_agg(value) FILTER (WHERE value IS NOT NULL) AS values
FROM person GROUP BY held_out
"""
SENT = """
SELECT count(*) FROM message m JOIN enrollment e ON e.id = m.enrollment_id
WHERE m.sequence_key = :key AND m.state IN ('sent', 'sent_assumed') AND e.entered_at >= :since
  AND NOT {held_out}
"""


@dataclass(frozen=True, slots=True)
class Lift:
    """What the mails brought.

    Attributes:
        since: from when on entries count: the holdout and the goal are the same since.
        mailed, held_out: people of each arm; ``…_converted``: how many of them did.
        mails: that went to the mailed.
        conversions: more of them per thousand people who were mailed (Newcombe); None where the
            numbers carry no such statement.
        per_thousand_mails: the same for each thousand mails that went.
        value: more of the goal's value per thousand people (bootstrap of 2 000 draws, fixed seed).
        value_per_thousand_mails: likewise.
        said: all of it in a sentence, or why not.
        parts: the same by step, by segment, and by the score that people came in with.
    """

    since: dt.datetime | None
    mailed: int
    held_out: int
    mailed_converted: int
    held_out_converted: int
    mails: int
    conversions: Span | None
    per_thousand_mails: Span | None
    value: Span | None
    value_per_thousand_mails: Span | None
    said: str
    parts: tuple[Part, ...] = ()


def lift(
    connection: Connection, sequence: Sequence, held_out: str, parameters: dict[str, Any]
) -> Lift | None:
    """Compare both arms of a holdout; None where the sequence has no holdout, or no goal.

    Args:
        connection: inside `Database.snapshot()`.
        sequence: its current version.
        held_out: SQL that tells whether ``e.subscriber_id`` is held out.
        parameters: of that SQL.
    """
    if sequence.holdout is None or sequence.goal is None:
        return None
    since = connection.execute(SINCE, {"key": sequence.key}).scalar_one()
    values = parameters | {"key": sequence.key, "since": since}
    arms = {
        row.held_out: row
        for row in connection.execute(text(PEOPLE.format(held_out=held_out)), values)
    }
    mails = connection.execute(text(SENT.format(held_out=held_out)), values).scalar_one()
    ours, theirs = arms.get(False), arms.get(True)
    n, x = (ours.people, ours.converted) if ours else (0, 0)
    m, y = (theirs.people, theirs.converted) if theirs else (0, 0)

    steps = tuple(step.id for step in sequence.steps if isinstance(step, SendStep))
    worth = sequence.goal.value is not None
    told = tuple(parts(connection, held_out, values, steps, (n, m), worth)) if n and m else ()

    def made(said: str, conversions: Span | None = None, value: Span | None = None) -> Lift:
        per = n / mails if mails else None
        return Lift(
            since, n, m, x, y, mails, conversions,
            conversions.times(per) if conversions and per else None,
            value,
            value.times(per) if value and per else None,
            said,
            told,
        )  # fmt: skip

    fault = too_few(n, x, m, y)
    if fault is not None:
        return made(f"what the mails brought cannot be said: {fault}")
    low, high = newcombe(y, m, x, n)
    conversions = Span(x / n - y / m, low, high).times(1000)
    value = value_of(ours, theirs, n, m) if worth else None
    return made(_said(conversions, value), conversions, value)


def _said(conversions: Span, value: Span | None) -> str:
    def told(span: Span, what: str) -> str:
        return f"{span.value:+.1f} {what} ({span.low:+.1f} … {span.high:+.1f})"

    said = f"{told(conversions, 'conversions')} per thousand people who were mailed"
    if value is not None:
        said += f", {told(value, 'of value')}"
    if conversions.low <= 0 <= conversions.high:
        said += "; that is not told apart from nothing"
    return said
