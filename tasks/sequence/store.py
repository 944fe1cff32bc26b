"""The planner's rows: read what is due under lock, write what the engine decided."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, text

from models.session import Database
from schedules.definition import Sequence
from tasks import names, trace
from tasks.crashpoint import reached
from tasks.moves import plan as moves
from tasks.moves import update
from tasks.moves.by_key import by_key
from tasks.moves.effect import rfc_message_id, sequence_effect_key
from tasks.moves.settings import IdentitySettings
from tasks.sequence import meanwhile, outbox, trials, words_at_hand
from tasks.sequence.batch import Batch, put_off
from tasks.sequence.engine import (
    Exit,
    Facts,
    HandOff,
    Park,
    Plan,
    Position,
    Postpone,
    Update,
    Wait,
    plan,
)
from tasks.sequence.planned import NOTHING_TAKEN

BATCH = 500
BUSY_PAUSE = dt.timedelta(seconds=1)
"""Somebody else holds the subscriber: long enough that others get their turn."""

DUE = text("""
WITH held AS MATERIALIZED (
    SELECT e.* FROM enrollment e
    WHERE e.due_at <= (SELECT clock_timestamp())
    ORDER BY e.due_at LIMIT :n FOR NO KEY UPDATE SKIP LOCKED)
SELECT e.id, e.sequence_key, e.sequence_version, e.subscriber_id, e.entry_no, e.step_id,
    e.step_started_at, e.due_at, e.wait_rule, e.entered_at, e.passed, s.zone,
    q.paused_at IS NOT NULL AS paused,
    c.opted_in, coalesce(s.stopped_reason, p.reason) AS stopped,
    (SELECT z.until FROM snooze z WHERE z.subscriber_id = e.subscriber_id) AS snoozed_until,
    m.state, m.reason, coalesce(m.reason = 'hard_bounce' OR p.reason = 'hard_bounce', false) AS bounced,
    clock_timestamp() AS now
FROM held e
JOIN subscriber s ON s.id = e.subscriber_id
JOIN sequence q ON q.key = e.sequence_key
JOIN stream t ON t.key = q.stream
LEFT JOIN consent c ON c.subscriber_id = e.subscriber_id AND c.topic = q.topic
LEFT JOIN LATERAL (
    SELECT x.reason FROM suppression x
    WHERE x.address_hmac = s.address_hmac AND x.scope IN ('all', t.class) LIMIT 1) p ON true
LEFT JOIN LATERAL (
    SELECT x.state, x.reason FROM message x
    WHERE x.enrollment_id = e.id AND x.step_id = e.step_id
    ORDER BY x.id DESC LIMIT 1) m ON e.step_started_at IS NOT NULL
ORDER BY e.due_at
""")

DEFINITION = text(
    "SELECT definition FROM sequence_version WHERE sequence_key = :key AND version = :version"
)


class Due(NamedTuple):
    """A row of `DUE`, column by column: what is read of it a dozen times is read fast."""

    id: int
    sequence_key: str
    sequence_version: int
    subscriber_id: int
    entry_no: int
    step_id: str | None
    step_started_at: dt.datetime | None
    due_at: dt.datetime
    wait_rule: dict[str, Any] | None
    entered_at: dt.datetime
    passed: list[str] | None
    zone: str | None
    paused: bool
    opted_in: bool | None
    stopped: str | None
    snoozed_until: dt.datetime | None
    state: str | None
    reason: str | None
    bounced: bool
    now: dt.datetime


TERMINAL_STATES = frozenset(
    {"sent", "sent_assumed", "failed", "suppressed", "capped", "held_out", "late", "expired",
     "cancelled"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scanned:
    """What one scan did: enrollments looked at, messages handed off (non-sends among them)."""

    enrollments: int
    messages: int


class Planner:
    """Plans due enrollments; one a process."""

    def __init__(
        self, database: Database, identity: IdentitySettings, lifetime: dt.timedelta
    ) -> None:
        self._database = database
        self._secret = identity.secret_message_id.get_secret_value().encode()
        self._domain = identity.domain
        self._lifetime = lifetime
        # Versions are immutable, so a cache needs no end but its size.
        self._definition = lru_cache(maxsize=256)(self._load)

    def scan(self, n: int = BATCH) -> Scanned:
        """Plan up to `n` due enrollments, in one transaction that holds their locks."""
        drawn = trace.spans.now()
        with self._database.transaction() as connection:
            by_key(connection)
            rows = [Due._make(row) for row in connection.execute(DUE, {"n": n})]
            if not rows:
                return Scanned(0, 0)
            batch = Batch(connection, self._definitions(rows), rows)
            for row in rows:
                sequence = batch.sequences.get(row.id)
                if sequence is None:
                    continue
                if row.id in batch.busy:
                    batch.resting.append(put_off(row, BUSY_PAUSE))
                    continue
                try:
                    planned = self._plan(sequence, row, batch)
                except ValueError as fault:
                    batch.fault(row, fault)
                    continue
                batch.messages += self._messages(row, planned)
                batch.calls += outbox.calls(row, planned.calls)
                batch.assigned += [(row, each) for each in planned.assigned]
                batch.resting.append(resting_of(row.id, planned))
                if isinstance(planned.rest, HandOff) and planned.rest.words is not None:
                    batch.worded.append(
                        (row.id, row.sequence_key, planned.rest.step_id, planned.rest.words)
                    )
                if planned.update is not None:
                    batch.updates.append(_update(row, planned.update))
            update.write_updates(connection, batch.updates)
            outbox.write(connection, batch.calls)
            trials.write(connection, batch.assigned)
            batch.slots.write()
            done = Scanned(len(rows), moves.write(connection, batch.messages, batch.resting))
            words_at_hand.used(connection, batch.worded)
            reached("plan.written")
        reached("plan.committed")
        trace.spans.handed_off(batch.messages, drawn)
        return done

    def meanwhile(self) -> int:
        """Look at what happened to those who wait: events, and other zones; returns how many it moved."""
        return meanwhile.look(self._database, self._definition)

    def _definitions(self, rows: Seq[Any]) -> dict[int, Sequence | ValueError]:
        found: dict[int, Sequence | ValueError] = {}
        for row in rows:
            try:
                found[row.id] = self._definition(row.sequence_key, row.sequence_version)
            except ValueError as fault:
                found[row.id] = fault
        return found

    def _plan(self, sequence: Sequence, row: Any, batch: Batch) -> Plan:
        state = None if row.state is None else str(row.state)
        position = Position(
            enrollment_id=row.id,
            subscriber_id=row.subscriber_id,
            entry_no=row.entry_no,
            step_id=row.step_id,
            started_at=row.step_started_at,
            due_at=row.due_at,
            rule=row.wait_rule,
            outcome=state if state in TERMINAL_STATES else None,  # type: ignore[arg-type]
            outcome_reason=row.reason,
            hard_bounce=row.bounced,
            zone=row.zone,
            entered_at=row.entered_at,
            passed=frozenset(row.passed or ()),
        )
        facts = Facts(
            row.now,
            row.paused,
            row.stopped,
            row.opted_in,
            batch.happened.get(row.id, frozenset()),
            batch.known.get(row.subscriber_id) if sequence.needs else None,
            batch.words.get(row.id, {}),
            batch.taken.get(row.id, NOTHING_TAKEN),
            batch.pauses.get(row.sequence_key, ()),
            batch.awaited.get(row.id, frozenset()),
            batch.trials.get(row.id, {}),
            row.snoozed_until,
            batch.slots.of(row.sequence_key),
        )
        planned = plan(sequence, position, facts, message_lifetime=self._lifetime)
        batch.slots.take(sequence, position, planned, row.now)
        return planned

    def _messages(self, row: Any, planned: Plan) -> list[moves.NewMessage]:
        made = [
            self._message(row, each.step_id, each.template, state=each.state, reason=each.reason)
            for each in planned.non_sends
        ]
        rest = planned.rest
        if isinstance(rest, HandOff):
            made.append(
                self._message(
                    row,
                    rest.step_id,
                    rest.template,
                    expires_at=rest.expires_at,
                    allowed=rest.allowed,
                    words=rest.words.slots if rest.words is not None else None,
                )
            )
        return made

    def _message(self, row: Any, step_id: str, template: str, **rest: Any) -> moves.NewMessage:
        key = sequence_effect_key(row.sequence_key, row.subscriber_id, row.entry_no, step_id)
        message_id = rfc_message_id(self._secret, key, self._domain)
        return moves.NewMessage(key, message_id, row.id, step_id, template, **rest)

    def _load(self, key: str, version: int) -> Sequence:
        with self._database.transaction() as connection:
            stored = connection.execute(DEFINITION, {"key": key, "version": version}).scalar_one()
        return Sequence.from_json(stored)


def _update(row: Any, made: Update) -> update.SubscriberUpdate:
    return update.SubscriberUpdate(
        row.subscriber_id, row.sequence_key, made.attributes, made.topics
    )


def resting_of(enrollment_id: int, planned: Plan) -> moves.Resting:
    """Where a plan leaves an enrollment; a simulation asks here too."""
    decisions = tuple((d.kind, d.step_id, d.reason, d.detail) for d in planned.decisions)
    rest = planned.rest
    return moves.Resting(
        enrollment_id,
        rest.step_id,
        # A send that is put off or held has not begun: the gates are asked again.
        started=not isinstance(rest, Postpone | Park)
        or (isinstance(rest, Park) and bool(rest.rule)),
        due_at=rest.until if isinstance(rest, Wait | Postpone) else None,
        wait_rule=rest.rule if isinstance(rest, Wait | Postpone | Park) else None,
        parked_from=rest.due_at if isinstance(rest, Park) else None,
        end_reason=rest.reason if isinstance(rest, Exit) else None,
        decisions=decisions,
    )


DUE_OF_STREAMS = text("""
SELECT t.key, t.region, (
    SELECT count(*) FROM (
        SELECT 1 FROM message m
        WHERE m.stream = t.key AND m.run_at <= (SELECT clock_timestamp())
        LIMIT :most) x) AS due
FROM stream t WHERE t.paused_at IS NULL
""")

SILENT_POOLS = text("""
SELECT p.pool, greatest(1, (
    SELECT count(*) FROM canary c
    WHERE c.pool = p.pool AND c.seen_at > clock_timestamp() - interval '5 minutes')) AS workers
FROM unnest(CAST(:pools AS text[])) AS p (pool)
WHERE NOT EXISTS (
    SELECT 1 FROM canary c WHERE c.pool = p.pool
      AND c.seen_at > clock_timestamp() - make_interval(secs => :every))
""")


# Doorbells of segment runs that nobody works on; a table of runs is short, and its index shorter.
SEGMENT_RUNS = text("""
SELECT DISTINCT r.stage = 'coreset' AS coreset, r.noisy FROM segment_run r
WHERE r.stage NOT IN ('done', 'refused')
  AND (r.lease_until IS NULL OR r.lease_until <= (SELECT clock_timestamp()))
  AND (r.retry_at IS NULL OR r.retry_at <= (SELECT clock_timestamp()))
""")


def waiting_segments(connection: Connection) -> set[str]:
    """The tasks that segment runs wait for."""
    return {
        names.CORESET if row.coreset else names.CUT_NOISY if row.noisy else names.CUT
        for row in connection.execute(SEGMENT_RUNS)
    }


def due_of_streams(connection: Connection, most: int) -> list[Row[tuple[str, str | None, int]]]:
    """Rows (key, region, due) of the streams that are not paused; due is counted up to `most`."""
    return list(connection.execute(DUE_OF_STREAMS, {"most": most}))


# Work that its doorbell or its worker was lost with: nobody holds a lease on any of it. Whoever does
# rings for the rest by itself.
LEFT_BY_CHURN = text("""
SELECT 'churn.range' AS name WHERE EXISTS (
    SELECT FROM score_range g JOIN score_run r ON r.id = g.run AND r.state = 'open' WHERE NOT g.done)
  AND NOT EXISTS (
    SELECT FROM score_range g JOIN score_run r ON r.id = g.run AND r.state = 'open'
    WHERE NOT g.done AND g.lease_until > clock_timestamp())
UNION ALL
SELECT 'churn.fit' WHERE EXISTS (
    SELECT FROM score_training t
    WHERE t.state = 'open' AND (t.lease_until IS NULL OR t.lease_until <= clock_timestamp()))
UNION ALL
SELECT 'churn.one' WHERE EXISTS (
    SELECT FROM score_request q
    WHERE q.said IS NULL AND q.asked_at < clock_timestamp() - interval '2 seconds')
""")


def left_by_churn(connection: Connection) -> list[str]:
    """Names of the churn pool's tasks that have work which nobody does."""
    return list(connection.execute(LEFT_BY_CHURN).scalars())


def silent_pools(connection: Connection, pools: list[str], every: float) -> dict[str, int]:
    """The queues of which no worker has answered a canary for `every` seconds → workers of late."""
    rows = connection.execute(SILENT_POOLS, {"pools": pools, "every": every})
    return {row.pool: row.workers for row in rows}
