"""Why a mail went, or did not: what happened to a subscriber, in order, and what happens next."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from schedules.localtime import is_zone, local
from tasks.errors import Permanent
from tasks.sequence import drain, entries
from tasks.sequence.decisions import sentence
from tasks.sequence.of_step import about_step
from tasks.sequence.outlook import Outlook, next_line, stamp

PERSON = text("""
SELECT s.stopped_at, s.stopped_reason, s.created_at, s.zone, clock_timestamp() AS now,
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
    coalesce((SELECT max(v.version) FROM sequence_version v
              WHERE v.sequence_key = e.sequence_key AND v.created_at <= e.entered_at),
             e.sequence_version) AS entered_version,
    (SELECT v.created_at FROM sequence_version v
     WHERE v.sequence_key = e.sequence_key AND v.version = e.sequence_version) AS version_at,
    q.paused_at, q.pause_reason, t.key AS stream, t.class AS stream_class,
    coalesce(t.paused_at, r.paused_at) AS stream_paused_at,
    coalesce(t.pause_reason, 'its relay is: ' || r.pause_reason) AS stream_pause_reason
FROM enrollment e
JOIN sequence q ON q.key = e.sequence_key
JOIN stream t ON t.key = q.stream
LEFT JOIN relay r ON r.key = t.relay
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
    step: str | None = None

    def __str__(self) -> str:
        return f"{stamp(self.at)}  {self.sequence or '(all)'}  {self.text}"


_UTC = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", re.ASCII)


def in_zone(told: str, zone: str | None) -> str:
    """Return a line with its instants as clocks in ``zone`` show them, each with its offset."""
    if zone is None:
        return told

    def here(found: re.Match[str]) -> str:
        at = dt.datetime.fromisoformat(found[1]).replace(tzinfo=dt.UTC)
        try:
            wall = local(at, zone)
        except OverflowError:
            return found[0]
        offset = int((wall - at.replace(tzinfo=None)).total_seconds()) // 60
        hours, minutes = divmod(abs(offset), 60)
        return f"{wall:%Y-%m-%d %H:%M:%S}{'-' if offset < 0 else '+'}{hours:02}:{minutes:02}"

    return _UTC.sub(here, told)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happened, oldest first, and for each sequence one sentence on what happens next.

    Attributes:
        zone: of the subscriber; None where they have none, or one that does not exist.
        step: what became of the step that was asked for, and why.
    """

    subscriber_id: int
    lines: list[Line]
    next: list[str]
    zone: str | None = None
    step: str | None = None


def explain(
    connection: Connection, subscriber_id: int, key: str | None = None, step_id: str | None = None
) -> Explanation:
    """Tell the story of a subscriber; use it in `Database.snapshot()`.

    Args:
        connection: inside a transaction.
        subscriber_id: whose.
        key: of one sequence; None tells of all.
        step_id: of one step of it; its lines alone are told then.

    Raises:
        Permanent: there is no such subscriber, sequence or step.
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
        what = f"enrolled, in version {row.entered_version}{again}"
        lines.append(Line(row.entered_at, row.sequence_key, what))
        if row.sequence_version > row.entered_version:
            taken = f"goes by version {row.sequence_version} from here on: the sequence was edited"
            lines.append(Line(row.version_at, row.sequence_key, taken))
    decisions = connection.execute(DECISIONS, values).all()
    for row in decisions:
        kind = "exited" if row.kind == "exit" else row.kind
        said = sentence(kind, row.step_id, row.reason, row.detail)
        lines.append(Line(row.at, row.sequence_key, said, row.step_id))
    lines_of_entry = (entries.refused_lines, entries.converted_lines)
    for at, sequence, said in (
        each for tell in lines_of_entry for each in tell(connection, values)
    ):
        lines.append(Line(at, sequence, said))
    lines.sort(key=lambda line: line.at)
    told = list(_next(person, suppressions, enrollments, messages, key))
    told += [f"{k}: {said}" for k, said in entries.asking_lines(connection, values)]
    told += [f"{key}: {found}" for found in (drain.draining(connection, key) if key else ())]
    zone = person.zone if is_zone(person.zone) else None
    if key is None or step_id is None:
        return Explanation(subscriber_id, lines, told, zone)
    about = about_step(
        connection,
        key,
        step_id,
        enrollments[-1] if enrollments else None,
        [row for row in decisions if row.step_id == step_id],
        [row for row in messages if row.step_id == step_id],
    )
    here = [line for line in lines if line.step == step_id]
    return Explanation(subscriber_id, here, told, zone, about)


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
        yield Line(row.ended_at, message.sequence_key, said, message.step_id)
    for row in messages:
        if row.terminal_at is None:
            continue
        why = f", because of {row.reason}" if row.reason and row.state != "sent" else ""
        said = f"message {row.id} ({row.template}) ended: {row.state}{why}"
        yield Line(row.terminal_at, row.sequence_key, said, row.step_id)


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
