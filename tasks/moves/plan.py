"""What the planner writes: messages at hand-off, where enrollments rest, and the decision log."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from tasks.moves.statement import TERMINAL_SQL


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be made: scheduled, or a non-send that is terminal at once.

    `allowed` are half-open spans (start, end); empty means always. `words` are those of a model,
    frozen with it; None leaves the template its own.
    """

    effect_key: bytes
    rfc_message_id: str
    enrollment_id: int
    step_id: str
    template: str
    state: str = "scheduled"
    reason: str | None = None
    expires_at: dt.datetime | None = None
    allowed: tuple[tuple[dt.datetime, dt.datetime], ...] = ()
    words: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Resting:
    """Where an enrollment stands now.

    `due_at` None: a message of it is live, or it has ended; `parked_from`: it is held, and was due
    then; `end_reason`: it ends.
    """

    enrollment_id: int
    step_id: str | None
    started: bool
    due_at: dt.datetime | None = None
    parked_from: dt.datetime | None = None
    wait_rule: Mapping[str, Any] | None = None
    end_reason: str | None = None
    decisions: tuple[tuple[str, str | None, str, Mapping[str, Any]], ...] = field(default=())


# Where a version pins its mails their hash is written here; else the first claim freezes the newest.
# Under a quarantine, what was due before it began may have been sent by the fleet that the restored
# database does not know; what the far end is known to have was. An effect key that stands already is an effect that was had: the row is left alone, and the
# enrollment goes on from its outcome.
INSERT = text(f"""
WITH new AS (
    INSERT INTO message (effect_key, rfc_message_id, stream, sequence_key, sequence_version,
        step_id, entry_no, enrollment_id, subscriber_id, template, template_version, state, reason,
        run_at, watch_at, maybe_delivered, expires_at, allowed, words, event, terminal_at)
    SELECT r.effect_key, r.rfc_message_id, q.stream, e.sequence_key, e.sequence_version,
        r.step_id, e.entry_no, e.id, e.subscriber_id, r.template,
        decode(coalesce(k.templates ->> r.template, v.templates ->> r.template), 'hex'),
        CAST(CASE WHEN h.held THEN 'in_doubt' ELSE r.state END AS message_state),
        CASE WHEN h.held THEN 'quarantine' ELSE r.reason END,
        CASE WHEN r.state = 'scheduled' AND NOT h.held THEN clock_timestamp() END,
        CASE WHEN h.held THEN CAST('infinity' AS timestamptz) END, h.held,
        r.expires_at, CAST(r.allowed AS tstzmultirange), CAST(r.words AS jsonb), e.event,
        CASE WHEN r.state <> 'scheduled' THEN clock_timestamp() END
    FROM unnest(CAST(:effect_keys AS bytea[]), CAST(:rfc_message_ids AS text[]),
                CAST(:enrollment_ids AS bigint[]), CAST(:step_ids AS text[]),
                CAST(:templates AS text[]), CAST(:states AS text[]), CAST(:reasons AS text[]),
                CAST(:expires AS timestamptz[]), CAST(:allowed AS text[]),
                CAST(:words AS text[]))
         AS r (effect_key, rfc_message_id, enrollment_id, step_id, template, state, reason,
               expires_at, allowed, words)
    JOIN enrollment e ON e.id = r.enrollment_id
    JOIN sequence q ON q.key = e.sequence_key
    JOIN sequence_version v ON v.sequence_key = e.sequence_key AND v.version = e.sequence_version
    LEFT JOIN sequence_version k
        ON k.sequence_key = e.sequence_key AND k.version = e.content_version,
    LATERAL (SELECT r.state = 'scheduled' AND (
        EXISTS (SELECT 1 FROM quarantine u WHERE u.lifted_at IS NULL AND e.due_at < u.begun_at)
        OR EXISTS (SELECT 1 FROM quarantine_evidence v
                   WHERE v.rfc_message_id = r.rfc_message_id)) AS held) h
    ON CONFLICT (effect_key) DO NOTHING
    RETURNING id, sequence_key, step_id, enrollment_id, subscriber_id, state),
held AS (
    INSERT INTO decision (subscriber_id, sequence_key, enrollment_id, step_id, kind, reason, detail)
    SELECT subscriber_id, sequence_key, enrollment_id, step_id, 'quarantined', 'restored',
           jsonb_build_object('message', id, 'was', 'due')
    FROM new WHERE state = 'in_doubt'),
counted AS (
    INSERT INTO counter AS c (sequence_key, step_id, shard, outcome, n)
    SELECT sequence_key, step_id, pg_backend_pid(), state, count(*) FROM new
    WHERE state IN ({TERMINAL_SQL})
    GROUP BY 1, 2, 4 ORDER BY 1, 2, 4
    ON CONFLICT (sequence_key, step_id, shard, outcome) DO UPDATE SET n = c.n + excluded.n)
SELECT enrollment_id, step_id FROM new
""")

REST = text("""
UPDATE enrollment e SET
    step_id = coalesce(r.step_id, e.step_id),
    step_started_at = CASE WHEN r.started THEN clock_timestamp() END,
    due_at = CASE WHEN r.parked_from IS NOT NULL THEN 'infinity' ELSE r.due_at END,
    parked_from = r.parked_from,
    wait_rule = CAST(r.wait_rule AS jsonb),
    active = r.end_reason IS NULL,
    ended_at = CASE WHEN r.end_reason IS NOT NULL THEN clock_timestamp() END,
    end_reason = r.end_reason
FROM unnest(CAST(:ids AS bigint[]), CAST(:step_ids AS text[]), CAST(:started AS boolean[]),
            CAST(:due AS timestamptz[]), CAST(:parked AS timestamptz[]), CAST(:rules AS text[]),
            CAST(:end_reasons AS text[]))
     AS r (id, step_id, started, due_at, parked_from, wait_rule, end_reason)
WHERE e.id = r.id
""")

# The message was there before: its outcome is read at once, unless it is live.
HAD = text(f"""
UPDATE enrollment e SET due_at = clock_timestamp()
FROM unnest(CAST(:ids AS bigint[]), CAST(:step_ids AS text[])) AS r (id, step_id)
WHERE e.id = r.id AND e.active AND e.due_at IS NULL
  AND EXISTS (SELECT 1 FROM message m WHERE m.enrollment_id = r.id AND m.step_id = r.step_id
              AND m.state IN ({TERMINAL_SQL}))
""")

LOG = text("""
INSERT INTO decision (enrollment_id, subscriber_id, sequence_key, step_id, kind, reason, detail)
SELECT e.id, e.subscriber_id, e.sequence_key, r.step_id, r.kind, r.reason, CAST(r.detail AS jsonb)
FROM unnest(CAST(:ids AS bigint[]), CAST(:step_ids AS text[]), CAST(:kinds AS text[]),
            CAST(:reasons AS text[]), CAST(:details AS text[])) WITH ORDINALITY
     AS r (id, step_id, kind, reason, detail, n)
JOIN enrollment e ON e.id = r.id
ORDER BY r.n
""")


def write(
    connection: Connection, messages: Sequence[NewMessage], resting: Sequence[Resting]
) -> int:
    """Write what was planned, in the transaction that holds the enrollments' locks.

    Returns:
        How many messages were made; those whose effect stood already are not among them.
    """
    made: set[tuple[int, str]] = set()
    if messages:
        rows = connection.execute(
            INSERT,
            {
                "effect_keys": [m.effect_key for m in messages],
                "rfc_message_ids": [m.rfc_message_id for m in messages],
                "enrollment_ids": [m.enrollment_id for m in messages],
                "step_ids": [m.step_id for m in messages],
                "templates": [m.template for m in messages],
                "states": [m.state for m in messages],
                "reasons": [m.reason for m in messages],
                "expires": [m.expires_at for m in messages],
                "allowed": [_multirange(m.allowed) for m in messages],
                "words": [None if m.words is None else json.dumps(m.words) for m in messages],
            },
        )
        made = {(row.enrollment_id, row.step_id) for row in rows}
    connection.execute(
        REST,
        {
            "ids": [r.enrollment_id for r in resting],
            "step_ids": [r.step_id for r in resting],
            "started": [r.started for r in resting],
            "due": [r.due_at for r in resting],
            "parked": [r.parked_from for r in resting],
            "rules": [None if r.wait_rule is None else json.dumps(r.wait_rule) for r in resting],
            "end_reasons": [r.end_reason for r in resting],
        },
    )
    had = [m for m in messages if (m.enrollment_id, m.step_id) not in made]
    if had:
        connection.execute(
            HAD, {"ids": [m.enrollment_id for m in had], "step_ids": [m.step_id for m in had]}
        )
    decisions = [(r.enrollment_id, *decision) for r in resting for decision in r.decisions]
    if decisions:
        connection.execute(
            LOG,
            {
                "ids": [d[0] for d in decisions],
                "step_ids": [d[2] for d in decisions],
                "kinds": [d[1] for d in decisions],
                "reasons": [d[3] for d in decisions],
                "details": [json.dumps(d[4]) for d in decisions],
            },
        )
    return len(made)


def _multirange(spans: Sequence[tuple[dt.datetime, dt.datetime]]) -> str:
    if not spans:
        return "{(,)}"
    return "{" + ",".join(f"[{start.isoformat()},{end.isoformat()})" for start, end in spans) + "}"
