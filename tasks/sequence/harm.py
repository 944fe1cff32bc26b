"""Arms of experiments that do harm are stopped by the fleet itself, every `DRIPFLEET_HARM_EVERY`.

What counts is that somebody complained, or unsubscribed, within thirty days of their first mail of
the arm; how often, against the mails that the arm sent them, is judged by
`tasks.experiment.guardrail`, which may be asked as often as one likes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, text

from models.session import Database
from schedules.definition import ExperimentStep, Sequence
from tasks.experiment.guardrail import evidence, harmful
from tasks.sequence.trials import key_of, rule, rulings

GUARDED = text("""
SELECT v.definition FROM sequence q
JOIN sequence_version v ON v.sequence_key = q.key AND v.version = q.version
WHERE v.definition @> '{"steps": [{"experiment": {"stop": {"guardrail": {}}}}]}'
ORDER BY q.key
""")

# The mails of an entry count from its assignment on; a stop counts for whoever got one of them before.
HARM = text("""
SELECT a.arm, count(*) AS people, coalesce(sum(m.n), 0)::bigint AS mails,
    count(*) FILTER (WHERE m.n > 0 AND (
        (s.stopped_reason = 'complaint' AND s.stopped_at BETWEEN m.at AND m.at + interval '30 days')
        OR EXISTS (SELECT FROM suppression p WHERE p.address_hmac = s.address_hmac
                   AND p.reason = 'complaint' AND p.at BETWEEN m.at AND m.at + interval '30 days')
        OR EXISTS (SELECT FROM feedback f JOIN message y ON y.id = f.message_id
                   WHERE y.enrollment_id = a.enrollment_id AND f.kind = 'complained'
                   AND f.at BETWEEN m.at AND m.at + interval '30 days')
    )) AS complaint_rate,
    count(*) FILTER (WHERE m.n > 0 AND (
        (s.stopped_reason = 'unsubscribe' AND s.stopped_at BETWEEN m.at AND m.at + interval '30 days')
        OR EXISTS (SELECT FROM suppression p WHERE p.address_hmac = s.address_hmac
                   AND p.reason = 'unsubscribe' AND p.at BETWEEN m.at AND m.at + interval '30 days')
        OR EXISTS (SELECT FROM consent c JOIN sequence q ON q.topic = c.topic AND q.key = :sequence
                   WHERE c.subscriber_id = s.id AND NOT c.opted_in
                   AND c.at BETWEEN m.at AND m.at + interval '30 days')
    )) AS unsubscribe_rate
FROM experiment_assignment a
JOIN subscriber s ON s.id = a.subscriber_id
CROSS JOIN LATERAL (
    SELECT count(*) AS n, min(x.created_at) AS at FROM message x
    WHERE x.enrollment_id = a.enrollment_id AND x.created_at >= a.at - interval '1 minute'
      AND x.state IN ('sent', 'sent_assumed')) m
WHERE a.experiment_key = :key
GROUP BY a.arm
""")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Harm:
    """What an arm did: mails that went, and people of them who complained, or left.

    ``events`` is by the names that a guardrail has.
    """

    arm: str
    people: int
    mails: int
    events: dict[str, int]


def harm(connection: Connection, sequence_key: str, step_id: str) -> dict[str, Harm]:
    """Return by arm what an experiment did to its people."""
    values = {"key": key_of(sequence_key, step_id), "sequence": sequence_key}
    return {
        row.arm: Harm(
            row.arm,
            row.people,
            row.mails,
            {"complaint_rate": row.complaint_rate, "unsubscribe_rate": row.unsubscribe_rate},
        )
        for row in connection.execute(HARM, values)
    }


def look(database: Database) -> int:
    """Stop the arms that do harm; returns how many. Twice is as once."""
    stopped = 0
    with database.transaction() as connection:
        for sequence, step in _guarded(connection):
            key = key_of(sequence.key, step.id)
            known = rulings(connection, [key]).get(key)
            if known is not None and known.chosen is not None:
                continue
            for found in harm(connection, sequence.key, step.id).values():
                if known is not None and found.arm in known.stopped:
                    continue
                stopped += _judge(connection, key, step, found)
    return stopped


def _judge(connection: Connection, key: str, step: ExperimentStep, found: Harm) -> int:
    for name, limit in step.stop.guardrail:
        events = found.events[name]
        if not harmful(events, found.mails, limit):
            continue
        detail = {"events": events, "mails": found.mails, "limit": limit}
        detail["evidence"] = min(round(evidence(events, found.mails, limit), 1), 1e12)
        if rule(connection, key, found.arm, "stopped", "guardrail", name, detail):
            log.warning("experiment_arm_stopped", experiment=key, arm=found.arm, why=name, **detail)
            return 1
    return 0


def _guarded(connection: Connection) -> Iterator[tuple[Sequence, ExperimentStep]]:
    for stored in connection.execute(GUARDED).scalars().all():
        try:
            sequence = Sequence.from_json(stored)
        except ValueError:
            continue  # of another release, which looks after it
        for step in sequence.steps:
            if isinstance(step, ExperimentStep) and step.stop.guardrail:
                yield sequence, step
