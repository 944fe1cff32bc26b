"""What a sequence did for those it mailed, beside those who were held out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Connection, text

from schedules.definition import SendStep, Sequence
from schedules.durations import format_duration
from schedules.goal import Holdout
from tasks.errors import Permanent
from tasks.sequence.conversion_days import Day, days
from tasks.sequence.lift import Lift, lift
from tasks.sequence.unseen import uplift_in_words

CURRENT = text("""
SELECT v.definition FROM sequence q
JOIN sequence_version v ON v.sequence_key = q.key AND v.version = q.version WHERE q.key = :key
""")

HELD_OUT: Final = """
    ('x' || substr(encode(sha256(CAST(:outer AS bytea) || sha256(CAST(:inner AS bytea)
        || convert_to(CAST(e.subscriber_id AS text), 'UTF8'))), 'hex'), 1, 8))::bit(32)::bigint
    & 4294967295 < :threshold"""
"""SQL: `schedules.goal.Holdout.holds`, of `e.subscriber_id`: HMAC-SHA256 by its definition."""

DIVIDED: Final = f"CASE WHEN :threshold = 0 THEN false ELSE {HELD_OUT} END"
EVER: Final = dt.datetime.min.replace(tzinfo=dt.UTC)
ARMS = text(f"""
SELECT {DIVIDED} AS held_out,
    count(*) AS entries, count(DISTINCT e.subscriber_id) AS people,
    count(*) FILTER (WHERE e.active) AS active, count(c.enrollment_id) AS converted,
    count(DISTINCT c.subscriber_id) AS people_converted, sum(c.value) AS value
FROM enrollment e LEFT JOIN conversion c ON c.enrollment_id = e.id
WHERE e.sequence_key = :key GROUP BY 1 ORDER BY 1
""")
MAILS = text(f"""
SELECT {DIVIDED} AS held_out,
    count(*) FILTER (WHERE e.state IN ('sent', 'sent_assumed')) AS sent,
    count(*) FILTER (WHERE e.state = 'held_out') AS held
FROM message e WHERE e.sequence_key = :key GROUP BY 1
""")
STEPS = text("""
SELECT e.step_id, count(*) AS came,
    count(*) FILTER (WHERE e.state IN ('sent', 'sent_assumed')) AS sent,
    count(*) FILTER (WHERE e.state = 'held_out') AS held
FROM message e WHERE e.sequence_key = :key GROUP BY 1
""")
ENDS = text(f"""
SELECT {DIVIDED} AS held_out,
    e.end_reason AS reason, count(*) AS n
FROM enrollment e WHERE e.sequence_key = :key AND NOT e.active GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2
""")


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm of a sequence.

    Attributes:
        arm: mailed or held_out.
        people: subscribers who entered, `entries` times together; `active` entries go on.
        sent: mails that went out; `held` those that did not, because of the holdout.
        converted: entries that reached the goal, `people_converted` the subscribers.
        rate: of the people, how many converted; None where there are none.
        value: of the conversions together; None where none has one.
        ends: why entries ended → how many.
    """

    arm: str
    people: int
    entries: int
    active: int
    sent: int
    held: int
    converted: int
    people_converted: int
    rate: float | None
    value: Decimal | None
    ends: dict[str, int]


@dataclass(frozen=True, slots=True)
class MailStep:
    """A step that mails: messages that it made, those that went, those that a holdout kept."""

    step: str
    came: int
    sent: int
    held: int


@dataclass(frozen=True, slots=True)
class Report:
    """Both arms, and what the current version counts as its goal, in words.

    `steps` are those that mail, as the current version has them; `lift` is what the mails brought,
    None without a holdout or a goal; `days` are those after people came in, none without a goal;
    `uplift` is whether choosing whom to mail is shown to gain, None where that was never learned.
    """

    key: str
    goal: str | None
    holdout: str | None
    arms: tuple[Arm, ...]
    steps: tuple[MailStep, ...] = ()
    lift: Lift | None = None
    days: tuple[Day, ...] = ()
    uplift: str | None = None


def report(connection: Connection, key: str) -> Report:
    """Count both arms; use it in `Database.snapshot()`.

    The arm is that of the current version's holdout: of subscribers, whenever they entered.

    Raises:
        Permanent: there is no such sequence, or its stored definition is not readable.
    """
    stored = connection.execute(CURRENT, {"key": key}).scalar_one_or_none()
    if stored is None:
        raise Permanent(
            f"no sequence {key!r} is published; `dripfleet sequence list` names those there are"
        )
    try:
        sequence = Sequence.from_json(stored)
    except ValueError as error:
        raise Permanent(str(error)) from error
    values = parameters(sequence.holdout) | {"key": key}
    mails = {row.held_out: row for row in connection.execute(MAILS, values)}
    ends: dict[bool, dict[str, int]] = {}
    for row in connection.execute(ENDS, values):
        ends.setdefault(row.held_out, {})[row.reason] = row.n
    found = {row.held_out: row for row in connection.execute(ARMS, values)}
    arms = (False, True) if sequence.holdout or True in found else (False,)
    goal, holdout = sequence.goal, sequence.holdout
    brought = lift(connection, sequence, HELD_OUT, parameters(holdout))
    asked = values | {"since": brought.since if brought else EVER}
    course = days(connection, DIVIDED, asked, goal.window.days) if goal else ()
    return Report(
        key,
        f"{goal.event} within {format_duration(goal.window)}" if goal else None,
        f"{holdout.percent:f} % by salt {holdout.salt}" if holdout else None,
        tuple(_arm(arm, found.get(arm), mails.get(arm), ends.get(arm, {})) for arm in arms),
        tuple(_steps(connection, sequence)),
        brought,
        tuple(course),
        uplift_in_words(connection, key),
    )


def _steps(connection: Connection, sequence: Sequence) -> Iterator[MailStep]:
    found = {row.step_id: row for row in connection.execute(STEPS, {"key": sequence.key})}
    for step in sequence.steps:
        if isinstance(step, SendStep):
            row = found.get(step.id)
            yield (
                MailStep(step.id, row.came, row.sent, row.held)
                if row
                else MailStep(step.id, 0, 0, 0)
            )


def parameters(holdout: Holdout | None) -> dict[str, Any]:
    """The parameters of `HELD_OUT`; without a holdout nobody is in it."""
    if holdout is None:
        return {"inner": b"", "outer": b"", "threshold": 0}
    inner, outer = holdout.pads
    return {"inner": inner, "outer": outer, "threshold": holdout.threshold}


def _arm(held_out: bool, row: Any, mails: Any, ends: dict[str, int]) -> Arm:
    people = row.people if row else 0
    return Arm(
        "held_out" if held_out else "mailed",
        people,
        row.entries if row else 0,
        row.active if row else 0,
        mails.sent if mails else 0,
        mails.held if mails else 0,
        row.converted if row else 0,
        row.people_converted if row else 0,
        row.people_converted / people if row and people else None,
        row.value if row else None,
        ends,
    )
