"""What the mails brought by step, and for whom: by segment, and by the score of those who came in.

By step: everybody stays in the arm that chance gave them, and each first conversion counts at the last
mail that was due before it, whether it went or was held. So every row compares whole arms, and the rows
of steps add up to the lift. To compare those who *reached* a step would not do: the mails before it have
chosen them.

For whom: by what was true of each when they first came in, before any mail could change it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, text

from tasks.experiment.intervals import newcombe
from tasks.sequence.lifted import EXPECTED, Span, too_few, value_of

PEOPLE: Final = 50
"""People in each arm below which a part is not told."""
BANDS: Final = ("lowest", "middle", "highest")
"""Thirds of a score."""

# The last mail that was due before a conversion. A source that knows the date alone says midnight of
# the day: then word of it is what has an order.
_STEP = """
coalesce((SELECT m.step_id FROM message m
    WHERE m.enrollment_id = c.enrollment_id AND m.created_at <= CASE
        WHEN c.occurred_at = date_trunc('day', c.occurred_at, 'UTC') THEN c.at ELSE c.occurred_at END
    ORDER BY m.created_at DESC, m.id DESC LIMIT 1), '')
"""
STEPS = f"""
WITH came AS (
    SELECT e.subscriber_id, {{held_out}} AS held_out, c.value, {_STEP} AS step,
        row_number() OVER (PARTITION BY e.subscriber_id ORDER BY c.occurred_at, c.enrollment_id) AS n
    FROM enrollment e JOIN conversion c ON c.enrollment_id = e.id
    WHERE e.sequence_key = :key AND e.entered_at >= :since),
person AS (
    SELECT step, held_out, min(n) = 1 AS first, sum(value) AS value
    FROM came GROUP BY step, held_out, subscriber_id)
SELECT step, held_out, count(*) FILTER (WHERE first) AS converted,
    array_agg(value) FILTER (WHERE value IS NOT NULL) AS values
FROM person GROUP BY step, held_out
"""
MAILS = """
SELECT m.step_id AS step, count(*) AS mails FROM message m JOIN enrollment e ON e.id = m.enrollment_id
WHERE m.sequence_key = :key AND m.state IN ('sent', 'sent_assumed') AND e.entered_at >= :since
  AND NOT {held_out}
GROUP BY m.step_id
"""
# Everything of a person by windows over their entries: nothing is joined to itself.
_PERSON = """
WITH entry AS (
    SELECT e.id, e.subscriber_id, e.entered_at, {held_out} AS held_out,
        row_number() OVER (PARTITION BY e.subscriber_id ORDER BY e.entered_at, e.id) AS n,
        count(c.enrollment_id) OVER person AS conversions, sum(c.value) OVER person AS value,
        sum(s.mails) OVER person AS mails
    FROM enrollment e LEFT JOIN conversion c ON c.enrollment_id = e.id
    CROSS JOIN LATERAL (SELECT count(*) AS mails FROM message m
        WHERE m.enrollment_id = e.id AND m.state IN ('sent', 'sent_assumed')) s
    WHERE e.sequence_key = :key AND e.entered_at >= :since
    WINDOW person AS (PARTITION BY e.subscriber_id)),
person AS MATERIALIZED (SELECT * FROM entry WHERE n = 1)
"""
_COUNTED = """
SELECT part, held_out, count(*) AS people, count(*) FILTER (WHERE conversions > 0) AS converted,
    sum(mails)::bigint AS mails, array_agg(value) FILTER (WHERE value IS NOT NULL) AS values
FROM placed GROUP BY part, held_out
"""
# A named segment counts from its first edge on; who came in before it was made was in none.
SEGMENTS = f"""{_PERSON}, placed AS (
    SELECT p.*, g.key AS part FROM person p CROSS JOIN segment g
    JOIN LATERAL (SELECT x.edge FROM segment_edge x
        WHERE x.subscriber_id = p.subscriber_id AND x.segment = g.key AND x.at <= p.entered_at
        ORDER BY x.at DESC, x.id DESC LIMIT 1) j ON j.edge = 'join'
    UNION ALL
    SELECT p.*, s.segment || ': ' || m.label FROM person p
    CROSS JOIN (SELECT DISTINCT r.segment FROM segment_run r WHERE r.promoted_at IS NOT NULL) s
    JOIN LATERAL (SELECT r.id FROM segment_run r
        WHERE r.segment = s.segment AND r.promoted_at <= p.entered_at
        ORDER BY r.promoted_at DESC, r.id DESC LIMIT 1) r ON true
    JOIN segment_member m ON m.run = r.id AND m.subscriber_id = p.subscriber_id)
{_COUNTED}"""
SCORES = f"""{_PERSON}, placed AS (
    SELECT p.*, s.name || chr(9)
        || ntile(3) OVER (PARTITION BY s.name ORDER BY s.value, p.subscriber_id) AS part
    FROM person p JOIN entry_score s ON s.enrollment_id = p.id)
{_COUNTED}"""


@dataclass(frozen=True, slots=True)
class Part:
    """The lift of one step, segment or band.

    Attributes:
        by: step, segment or score.
        part: of a step its id ("" is before the first mail); else in words.
        mailed, held_out: people of each arm; ``…_converted``: how many of them did there.
        mails: that went to the mailed: of a step its own.
        conversions: more of them per thousand people (Newcombe); None where the numbers carry none.
        per_thousand_mails, value, value_per_thousand_mails: as `lift.Lift`.
        said: why there is none; None: there is one.
    """

    by: Literal["step", "segment", "score"]
    part: str
    mailed: int
    held_out: int
    mailed_converted: int
    held_out_converted: int
    mails: int
    conversions: Span | None
    per_thousand_mails: Span | None
    value: Span | None
    value_per_thousand_mails: Span | None
    said: str | None


def parts(
    connection: Connection,
    held_out: str,
    values: dict[str, Any],
    steps: tuple[str, ...],
    people: tuple[int, int],
    worth: bool,
) -> Iterator[Part]:
    """Yield the steps in their order, then segments, then bands of scores.

    Args:
        connection: inside `Database.snapshot()`.
        held_out: SQL that tells whether ``e.subscriber_id`` is held out.
        values: its parameters, and ``key`` and ``since``.
        steps: those that mail, in the order of the file; others that made a mail come after them.
        people: of the mailed, and of those held out.
        worth: whether the goal has a value.
    """
    asked = text(STEPS.format(held_out=held_out))
    found = {(row.step, row.held_out): row for row in connection.execute(asked, values)}
    asked = text(MAILS.format(held_out=held_out))
    mails = {row.step: row.mails for row in connection.execute(asked, values)}
    names = dict.fromkeys(["", *steps, *sorted({step for step, _ in found})])
    for step in names:
        if step or any((step, arm) in found for arm in (False, True)):
            rows = found.get((step, False)), found.get((step, True))
            yield _part("step", step, rows, people, mails.get(step, 0), worth)
    for by, query in (("segment", SEGMENTS), ("score", SCORES)):
        arms: dict[str, dict[bool, Any]] = {}
        for row in connection.execute(text(query.format(held_out=held_out)), values):
            arms.setdefault(row.part, {})[row.held_out] = row
        for name in sorted(arms):
            ours, theirs = (arms[name].get(arm) for arm in (False, True))
            of = ours.people if ours else 0, theirs.people if theirs else 0
            sent = int(ours.mails) if ours else 0
            kind: Literal["segment", "score"] = "segment" if by == "segment" else "score"
            yield _part(kind, _named(name), (ours, theirs), of, sent, worth)


def _named(part: str) -> str:
    name, tab, third = part.partition("\t")
    return f"{name}: {BANDS[int(third) - 1]}" if tab else part


def _part(
    by: Literal["step", "segment", "score"],
    name: str,
    rows: tuple[Any, Any],
    people: tuple[int, int],
    mails: int,
    worth: bool,
) -> Part:
    (n, m), (x, y) = people, (row.converted if row else 0 for row in rows)
    said = _too_few(n, x, m, y)
    if said is not None:
        return Part(by, name, n, m, x, y, mails, None, None, None, None, said)
    low, high = newcombe(y, m, x, n)
    conversions = Span(x / n - y / m, low, high).times(1000)
    value = value_of(rows[0], rows[1], n, m) if worth else None
    per = n / mails if mails else None
    return Part(
        by, name, n, m, x, y, mails, conversions,
        conversions.times(per) if per else None,
        value,
        value.times(per) if value and per else None,
        None,
    )  # fmt: skip


def _too_few(n: int, x: int, m: int, y: int) -> str | None:
    if min(n, m) < PEOPLE:
        return f"{n} mailed and {m} held out: {PEOPLE} of each are needed"
    fault = too_few(n, x, m, y)
    return fault if fault is None else f"{fault} ({EXPECTED:.0f} conversions expected of each arm)"
