"""Which sequences are published, and where their people stand."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from schedules.definition import (
    BranchStep,
    ExitStep,
    ExperimentStep,
    SendStep,
    Sequence,
    Step,
    UpdateStep,
    WebhookStep,
)
from schedules.durations import format_duration, format_offset
from tasks.errors import Permanent

LISTED = text("""
SELECT q.key, q.title, t.class AS class_, q.topic, q.version, q.paused_at, q.pause_reason,
    coalesce(e.active, 0) AS active, coalesce(e.ended, 0) AS ended,
    coalesce(c.sent, 0) AS sent, coalesce(c.failed, 0) AS failed, coalesce(c.not_sent, 0) AS not_sent,
    q.draining_since, q.drain_reason
FROM sequence q
JOIN stream t ON t.key = q.stream
LEFT JOIN (
    SELECT sequence_key, count(*) FILTER (WHERE active) AS active,
        count(*) FILTER (WHERE NOT active) AS ended
    FROM enrollment GROUP BY 1) e ON e.sequence_key = q.key
LEFT JOIN (
    SELECT sequence_key, sum(n) FILTER (WHERE outcome IN ('sent', 'sent_assumed'))::bigint AS sent,
        sum(n) FILTER (WHERE outcome = 'failed')::bigint AS failed,
        sum(n) FILTER (WHERE outcome NOT IN ('sent', 'sent_assumed', 'failed'))::bigint AS not_sent
    FROM counter GROUP BY 1) c ON c.sequence_key = q.key
ORDER BY q.key
""")

DEFINITION = text("""
SELECT v.definition, v.source, v.created_at, v.sha256 FROM sequence_version v
WHERE v.sequence_key = :key AND v.version = :version
""")
STANDING = text("""
SELECT step_id, count(*) AS n, count(*) FILTER (WHERE due_at IS NOT NULL) AS waiting,
    count(*) FILTER (WHERE sequence_version <> :version) AS older
FROM enrollment WHERE sequence_key = :key AND active GROUP BY 1
""")
OUTCOMES = text("""
SELECT step_id, outcome::text AS outcome, sum(n)::bigint AS n FROM counter
WHERE sequence_key = :key GROUP BY 1, 2 HAVING sum(n) <> 0 ORDER BY 1, 2
""")


IS_PAUSED = text("SELECT paused_at IS NOT NULL FROM sequence WHERE key = :key FOR NO KEY UPDATE")


@dataclass(frozen=True, slots=True)
class Listed:
    """A published sequence in one line.

    Attributes:
        version: the one that new enrollments take.
        active: enrollments under way; `ended` those that are over.
        sent: its mails that went out, those assumed sent among them.
        failed: those that could not be.
        not_sent: those that were refused with a reason: suppressed, late, expired, cancelled.
        draining_since: nobody new comes in since then, for `drain_reason`.
    """

    key: str
    title: str
    class_: str
    topic: str | None
    version: int
    paused_at: dt.datetime | None
    pause_reason: str | None
    active: int
    ended: int
    sent: int
    failed: int
    not_sent: int
    draining_since: dt.datetime | None = None
    drain_reason: str | None = None


@dataclass(frozen=True, slots=True)
class StepStanding:
    """A step, who stands there, and what became of its mails.

    Attributes:
        id: of the step.
        what: the step in words.
        next: where the way goes on; None at its end.
        waiting: people there whom the planner looks at again at a time that is known.
        in_flight: people there whose mail is under way.
        outcomes: terminal state → mails.
    """

    id: str
    what: str
    next: str | None
    waiting: int = 0
    in_flight: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shown:
    """A sequence in full; `older` people go by an earlier version, `elsewhere` at its steps."""

    sequence: Listed
    published_at: dt.datetime
    sha256: bytes
    steps: list[StepStanding]
    not_begun: int
    older: int
    elsewhere: dict[str, int]


def listed(connection: Connection) -> list[Listed]:
    """Every published sequence, by key."""
    return [Listed(*row) for row in connection.execute(LISTED)]


def shown(connection: Connection, key: str) -> Shown:
    """One sequence; use it in `Database.snapshot()`, so that its counts agree.

    Raises:
        Permanent: there is no such sequence, or its stored definition is not readable.
    """
    found = next((each for each in listed(connection) if each.key == key), None)
    if found is None:
        raise _unknown(key)
    stored = connection.execute(DEFINITION, {"key": key, "version": found.version}).one()
    try:
        sequence = Sequence.from_json(stored.definition)
    except ValueError as error:
        raise Permanent(str(error)) from error
    standing = {
        row.step_id: row
        for row in connection.execute(STANDING, {"key": key, "version": found.version})
    }
    outcomes: dict[str, dict[str, int]] = {}
    for row in connection.execute(OUTCOMES, {"key": key}):
        outcomes.setdefault(row.step_id, {})[row.outcome] = row.n
    steps = []
    for step in sequence.steps:
        here = standing.get(step.id)
        waiting = here.waiting if here else 0
        in_flight = here.n - here.waiting if here else 0
        steps.append(
            StepStanding(
                step.id, in_words(step), step.next, waiting, in_flight, outcomes.get(step.id, {})
            )
        )
    known = {step.id for step in sequence.steps}
    return Shown(
        found,
        stored.created_at,
        bytes(stored.sha256),
        steps,
        standing[None].n if None in standing else 0,
        sum(row.older for row in standing.values()),
        {step: row.n for step, row in standing.items() if step is not None and step not in known},
    )


def require(connection: Connection, key: str) -> bool:
    """Whether a sequence is paused; it is locked until the transaction ends.

    Raises:
        Permanent: there is no such sequence.
    """
    paused = connection.execute(IS_PAUSED, {"key": key}).scalar_one_or_none()
    if paused is None:
        raise _unknown(key)
    return bool(paused)


def _unknown(key: str) -> Permanent:
    return Permanent(
        f"no sequence {key!r} is published; `dripfleet sequence list` names those there are"
    )


def in_words(step: Step) -> str:
    """A step as a person would say it: ``wait 2 calendar days, then 09:30``."""
    if isinstance(step, SendStep):
        fail = "" if step.on_fail == "next" else f"; if that fails: {step.on_fail}"
        return f"send {step.template}{fail}"
    if isinstance(step, ExitStep):
        return f"exit: {step.reason}"
    if isinstance(step, BranchStep):
        cases = [f"{case.next} if {case.condition.source}" for case in step.cases]
        stale = [f"{step.on_stale} if a score is stale"] if step.on_stale else []
        return "; ".join([*cases, *stale, f"else {step.next}"])
    if isinstance(step, ExperimentStep):
        arms = [f"{arm.name} ({arm.weight}) to {arm.next}" for arm in step.arms]
        return f"experiment: {', '.join(arms)}"
    if isinstance(step, UpdateStep):
        names = [name for name, _ in step.attributes]
        topics = [f"{key} {'in' if opted_in else 'out'}" for key, opted_in in step.topics]
        return f"update {', '.join([*names, *topics])}"
    if isinstance(step, WebhookStep):
        return f"webhook to {step.to}" + (f": {', '.join(step.fields)}" if step.fields else "")
    if step.until_event is not None:
        event = step.until_event
        of = f" of {event.of}" if event.of else ""
        over = event.on_timeout or "the way ends"
        return f"wait for {event.event}{of}, {format_duration(event.timeout)}; else {over}"
    if step.until_date is not None:
        until = step.until_date
        offset = f" {format_offset(until.offset)}" if until.offset else ""
        return f"wait until {until.attribute}{offset}, {until.at:%H:%M}"
    if step.delay is not None:
        return f"wait {format_duration(step.delay)}"
    days = f"{step.calendar_days} calendar day{'' if step.calendar_days == 1 else 's'}"
    return f"wait {days}" + (f", then {step.at:%H:%M}" if step.at else "")
