"""Why a mail went, or did not: what happened to a subscriber, in order, and what happens next."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from tasks.errors import Permanent
from tasks.sequence import entries
from tasks.sequence.decisions import sentence
from tasks.sequence.outlook import Outlook, next_line, stamp

PERSON = text("""
SELECT s.stopped_at, s.stopped_reason, s.created_at, clock_timestamp() AS now,
    (SELECT max(t.seen_at) FROM tick t WHERE t.name = 'sequence.scan') AS scanned_at,
    (SELECT max(c.seen_at) FROM canary c WHERE c.pool = 'send') AS send_seen_at
FROM subscriber s WHERE s.id = :id
""")
SUPPRESSIONS = text("""
SELECT p.scope, p.reason, p.at FROM suppression p
JOIN subscriber s ON s.address_hmac = p.address_hmac WHERE s.id = :id
""")
KNOWN = text("SELECT EXISTS (SELECT 1 FROM sequence WHERE key = :key)")

# A due time of 'infinity' is a held one; psycopg has no such instant.
ENROLLMENTS = text("""
SELECT e.id, e.sequence_key, e.sequence_version, e.entry_no, e.step_id, e.active, e.entered_at,
    e.ended_at, e.end_reason, NULLIF(e.due_at, 'infinity') AS due_at, e.parked_from,
    q.paused_at, q.pause_reason, t.key AS stream, t.class AS stream_class,
    t.paused_at AS stream_paused_at, t.pause_reason AS stream_pause_reason
FROM enrollment e
JOIN sequence q ON q.key = e.sequence_key
JOIN stream t ON t.key = q.stream
WHERE e.subscriber_id = :id AND (CAST(:key AS text) IS NULL OR e.sequence_key = :key)
ORDER BY e.id
""")
DECISIONS = text("""
SELECT at, sequence_key, step_id, kind, reason, detail FROM decision
WHERE subscriber_id = :id AND (CAST(:key AS text) IS NULL OR sequence_key = :key)
ORDER BY at, id
""")
MESSAGES = text("""
SELECT m.id, m.sequence_key, m.step_id, m.enrollment_id, m.template, m.state::text AS state, m.reason,
    m.created_at, m.terminal_at, m.armed_at, m.attempts, m.last_code, m.last_stage,
    m.maybe_delivered, m.parked_from, NULLIF(m.run_at, 'infinity') AS run_at,
    NULLIF(m.watch_at, 'infinity') AS watch_at, t.doubt_policy
FROM message m JOIN stream t ON t.key = m.stream
WHERE m.subscriber_id = :id AND (CAST(:key AS text) IS NULL OR m.sequence_key = :key)
ORDER BY m.id
""")
ATTEMPTS = text("""
SELECT a.message_id, a.epoch, a.outcome::text AS outcome, a.stage, a.code, a.enhanced_code,
    a.reply, a.armed_at, a.ended_at, a.evidence
FROM attempt a WHERE a.message_id = ANY(:ids) ORDER BY a.message_id, a.epoch
""")

_OUTCOMES = {
    "accepted": "the relay took it",
    "refused": "the relay refused it for good",
    "deferred": "the relay put it off",
    "not_sent": "it was not sent",
    "in_doubt": "no reply came after the mail was written, so a copy may be out",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened; `sequence` None where it concerns them all."""

    at: dt.datetime
    sequence: str | None
    text: str

    def __str__(self) -> str:
        return f"{stamp(self.at)}  {self.sequence or '(all)'}  {self.text}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happened, oldest first, and for each sequence one sentence on what happens next."""

    subscriber_id: int
    lines: list[Line]
    next: list[str]


def explain(connection: Connection, subscriber_id: int, key: str | None = None) -> Explanation:
    """Tell the story of a subscriber; use it in `Database.snapshot()`.

    Args:
        connection: inside a transaction.
        subscriber_id: whose.
        key: of one sequence; None tells of all.

    Raises:
        Permanent: there is no such subscriber or sequence.
    """
    values = {"id": subscriber_id, "key": key}
    person = connection.execute(PERSON, {"id": subscriber_id}).one_or_none()
    if person is None:
        raise Permanent(f"there is no subscriber {subscriber_id}; check the id")
    if key is not None and not connection.execute(KNOWN, {"key": key}).scalar_one():
        raise Permanent(
            f"no sequence {key!r} is published; `dripfleet sequence list` names those there are"
        )
    suppressions = connection.execute(SUPPRESSIONS, {"id": subscriber_id}).all()
    enrollments = connection.execute(ENROLLMENTS, values).all()
    messages = connection.execute(MESSAGES, values).all()
    attempts = connection.execute(ATTEMPTS, {"ids": [m.id for m in messages]}).all()

    lines = [*_stops(person, suppressions), *_messages(messages, attempts)]
    for row in enrollments:
        again = f", for the {row.entry_no}. time" if row.entry_no > 1 else ""
        what = f"enrolled, in version {row.sequence_version}{again}"
        lines.append(Line(row.entered_at, row.sequence_key, what))
    for row in connection.execute(DECISIONS, values):
        kind = "exited" if row.kind == "exit" else row.kind
        said = sentence(kind, row.step_id, row.reason, row.detail)
        lines.append(Line(row.at, row.sequence_key, said))
    lines_of_entry = (entries.refused_lines, entries.converted_lines)
    for at, sequence, said in (
        each for tell in lines_of_entry for each in tell(connection, values)
    ):
        lines.append(Line(at, sequence, said))
    lines.sort(key=lambda line: line.at)
    next_ = list(_next(person, suppressions, enrollments, messages, key))
    next_ += [f"{k}: {said}" for k, said in entries.asking_lines(connection, values)]
    return Explanation(subscriber_id, lines, next_)


def _stops(person: Any, suppressions: Any) -> Iterator[Line]:
    if person.stopped_at is not None:
        yield Line(person.stopped_at, None, f"stopped: {person.stopped_reason}")
    for row in suppressions:
        what = "every mail" if row.scope == "all" else f"{row.scope} mail"
        yield Line(row.at, None, f"the address was suppressed for {what}: {row.reason}")


def _messages(messages: Any, attempts: Any) -> Iterator[Line]:
    by_id = {row.id: row for row in messages}
    number: dict[int, int] = {}
    for row in attempts:
        message = by_id[row.message_id]
        number[row.message_id] = number.get(row.message_id, 0) + 1
        said = f"message {message.id}, attempt {number[row.message_id]}: {_OUTCOMES[row.outcome]}"
        told = " ".join(str(part) for part in (row.code, row.enhanced_code, row.reply) if part)
        said += f" ({told})" if told else ""
        said += f"; evidence: {row.evidence}" if row.evidence else ""
        yield Line(row.ended_at, message.sequence_key, said)
    for row in messages:
        if row.terminal_at is None:
            continue
        why = f", because of {row.reason}" if row.reason and row.state != "sent" else ""
        said = f"message {row.id} ({row.template}) ended: {row.state}{why}"
        yield Line(row.terminal_at, row.sequence_key, said)


def _next(
    person: Any, suppressions: Any, enrollments: Any, messages: Any, key: str | None
) -> Iterator[str]:
    latest = {row.sequence_key: row for row in enrollments}
    if not latest:
        where = f"{key}: " if key else ""
        what = "this sequence" if key else "any sequence"
        yield f"{where}was never in {what}; `dripfleet enqueue SEQUENCE --emails FILE` enrolls"
    for sequence, row in latest.items():
        live = [m for m in messages if m.enrollment_id == row.id and m.terminal_at is None]
        stopped = person.stopped_reason or next(
            (s.reason for s in suppressions if s.scope in ("all", row.stream_class)), None
        )
        outlook = Outlook(
            now=person.now,
            active=row.active,
            step_id=row.step_id,
            end_reason=row.end_reason,
            due_at=row.due_at,
            held_from=row.parked_from,
            stopped=stopped,
            paused_at=row.paused_at,
            pause_reason=row.pause_reason,
            stream=row.stream,
            stream_paused_at=row.stream_paused_at,
            stream_pause_reason=row.stream_pause_reason,
            scanned_at=person.scanned_at,
            send_seen_at=person.send_seen_at,
            message=live[-1] if live else None,
        )
        yield f"{sequence}: {next_line(outlook)}"
