"""How many had reached the goal so many days after they came in: of the mailed, and of those held out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

MOST: Final = 40  # days that are told, spread evenly over the time for the goal
LEAST: Final = 20
"""People of an arm who have been in for so long, below which its share is not told."""

# Days that people have been in, and days that it took them: a row for each pair, however many people.
DAYS = """
WITH person AS (
    SELECT DISTINCT ON (e.subscriber_id) {held_out} AS held_out,
        floor(extract(epoch FROM clock_timestamp() - e.entered_at) / 86400) AS present,
        ceil(extract(epoch FROM c.occurred_at - e.entered_at) / 86400) AS took
    FROM enrollment e LEFT JOIN conversion c ON c.enrollment_id = e.id
    WHERE e.sequence_key = :key AND e.entered_at >= :since
    ORDER BY e.subscriber_id, e.entered_at, e.id)
SELECT held_out, CAST(present AS int) AS present, CAST(CASE WHEN took < 0 THEN 0 ELSE took END AS int) AS took,
    count(*) AS people
FROM person GROUP BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Day:
    """So many days after they came in; people have been in for that long, by their first entry.

    The shares are None of an arm that has fewer than `LEAST` such people.
    """

    day: int
    mailed: int
    mailed_share: float | None
    held_out: int
    held_out_share: float | None


def days(
    connection: Connection, held_out: str, values: dict[str, Any], window_days: int
) -> Iterator[Day]:
    """Yield the days from the entry to the end of the time for the goal, as far as anybody has come.

    Args:
        connection: inside `Database.snapshot()`.
        held_out: SQL that tells whether ``e.subscriber_id`` is held out.
        values: its parameters, and ``key`` and ``since``.
        window_days: the time for the goal.
    """
    rows = connection.execute(text(DAYS.format(held_out=held_out)), values).all()
    last = min(max((row.present for row in rows), default=0), window_days)
    for day in sorted({round(last * k / MOST) for k in range(MOST + 1)}):
        told = []
        for arm in (False, True):
            there = [row for row in rows if row.held_out is arm and row.present >= day]
            people = sum(row.people for row in there)
            done = sum(row.people for row in there if row.took is not None and row.took <= day)
            told += [people, done / people if people >= LEAST else None]
        yield Day(day, *told)
