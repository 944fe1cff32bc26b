"""What those who wait must know: pauses in which their time stood still, events that came."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from sqlalchemy import Connection, text

from schedules.definition import Sequence, WaitStep

PAUSES = text("""
SELECT sequence_key, paused_at, resumed_at FROM sequence_pause
WHERE sequence_key = ANY(:keys) ORDER BY sequence_key, paused_at
""")

# An event of a mail names its sequence and step, and is a machine's if it says so. It counts from the
# entry on; any other from when the wait began. A day is left for sources that know the date alone.
AWAITED = text("""
SELECT r.enrollment_id, r.step_id
FROM unnest(CAST(:ids AS bigint[]), CAST(:steps AS text[]), CAST(:names AS text[]),
            CAST(:of AS text[]), CAST(:people AS boolean[]))
     AS r (enrollment_id, step_id, name, of, people)
JOIN enrollment e ON e.id = r.enrollment_id,
LATERAL (SELECT CASE
    WHEN r.of IS NOT NULL THEN e.entered_at
    WHEN e.step_id = r.step_id AND e.step_started_at IS NOT NULL
    THEN coalesce(CAST(e.wait_rule ->> 'began' AS timestamptz), e.step_started_at) END AS at) since
WHERE EXISTS (
    SELECT 1 FROM event x
    WHERE x.subscriber_id = e.subscriber_id AND x.name = r.name
      AND x.recorded_at > since.at AND x.occurred_at > since.at - interval '1 day'
      AND (r.of IS NULL
           OR (x.properties ->> 'step' = r.of AND x.properties ->> 'sequence' = e.sequence_key))
      AND NOT (r.people AND lower(coalesce(x.properties ->> 'machine', '')) IN ('true', '1', 'yes')))
""")


def pauses(
    connection: Connection, sequences: Iterable[Sequence]
) -> dict[str, tuple[tuple[dt.datetime, dt.datetime], ...]]:
    """Return the pauses that are over of those sequences whose time they stop, in order."""
    keys = sorted({each.key for each in sequences if each.pause == "freeze"})
    found: dict[str, tuple[tuple[dt.datetime, dt.datetime], ...]] = {}
    if keys:
        for row in connection.execute(PAUSES, {"keys": keys}):
            found[row.sequence_key] = (
                *found.get(row.sequence_key, ()),
                (row.paused_at, row.resumed_at),
            )
    return found


def awaited(
    connection: Connection, asked: Iterable[tuple[int, Sequence]]
) -> dict[int, frozenset[str]]:
    """Return which waits of enrollments, by step, have their event."""
    waits = [
        (enrollment, step.id, step.until_event)
        for enrollment, sequence in asked
        for step in sequence.steps
        if isinstance(step, WaitStep) and step.until_event is not None
    ]
    found: dict[int, set[str]] = {}
    if waits:
        values = {
            "ids": [enrollment for enrollment, _, _ in waits],
            "steps": [step for _, step, _ in waits],
            "names": [event.event for _, _, event in waits],
            "of": [event.of for _, _, event in waits],
            "people": [event.ignore_bots for _, _, event in waits],
        }
        for row in connection.execute(AWAITED, values):
            found.setdefault(row.enrollment_id, set()).add(row.step_id)
    return {enrollment: frozenset(steps) for enrollment, steps in found.items()}
