"""What reports do: written down once, told to the doubts, and to whoever must not be written to.

==================  ======================================================================
a report says       what it does
==================  ======================================================================
`delivered`         settles a doubt as arrived; takes `unreachable` back
`delayed`           is written down; they go on trying
`bounced`           settles a doubt as bounced, is the event `email.bounced`; besides
... `hard`          the address gets nothing any more, enrollments end, queued mails too
... `soft`          three of the last five: no marketing until a mail arrives
... others          nothing: the mail, or the relay, is to be looked at
`complained`        no marketing any more, at once, also what is queued; `email.complained`
`left`              the same, because they said so; `email.unsubscribed`
==================  ======================================================================

A mail that was accepted stays `sent`, whatever comes back. A report of a mail to an address that its
subscriber has no more is written down and stops nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from tasks.moves import evidence, unreachable, withdraw
from tasks.return_path import tag
from tasks.track.report import Report

COMPLAINT: Final = "complaint"
UNSUBSCRIBE: Final = "unsubscribe"
MOST: Final = 300
"""Reports of one transaction: each holds entries of the lock table in it."""
EVENTS: Final = {
    "bounced": "email.bounced",
    "complained": "email.complained",
    "left": "email.unsubscribed",
}
_SOURCES: Final = {"dsn": "a delivery status notification", "arf": "a feedback loop"}

FIND = text("""
SELECT r.n, m.id, m.subscriber_id, m.sequence_key, m.step_id, m.state::text AS state,
    s.address, s.erased_at, EXISTS (
        SELECT FROM feedback f WHERE f.subscriber_id = s.id AND f.class = 'soft') AS was_soft
FROM unnest(CAST(:ids AS bigint[]), CAST(:message_ids AS text[])) WITH ORDINALITY
     AS r (id, message_id, n)
JOIN message m ON m.id = r.id OR (r.id IS NULL AND m.rfc_message_id = r.message_id)
JOIN subscriber s ON s.id = m.subscriber_id
""")
RECORD = text("""
INSERT INTO feedback
    (source, evidence_id, message_id, subscriber_id, epoch, kind, class, code, diagnostic)
VALUES (:source, :evidence_id, :message, :subscriber, :epoch, :kind, :class, :code, :diagnostic)
ON CONFLICT (source, evidence_id) DO NOTHING
RETURNING id
""")
# What was said of a try while its reply was still waited for: it is a doubt now, and this is about it.
WAITING = text("""
SELECT m.id, f.kind, f.epoch, f.source, f.diagnostic FROM message m
JOIN feedback f ON f.message_id = m.id
WHERE m.watch_at IS NOT NULL AND m.state = 'in_doubt' AND f.kind IN ('delivered', 'bounced')
  AND (f.kind = 'delivered' OR f.at >= m.armed_at)
ORDER BY m.id, f.id LIMIT :n
""")
EVENT = text("""
INSERT INTO event (subscriber_id, name, occurred_at, properties)
VALUES (:subscriber, :name, clock_timestamp(), CAST(:properties AS jsonb))
""")


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of reports: `new` ones acted, `known` ones had come before, `unknown` name no mail."""

    new: int = 0
    known: int = 0
    unknown: int = 0

    def plus(self, other: Taken) -> Taken:
        """Both together."""
        return Taken(self.new + other.new, self.known + other.known, self.unknown + other.unknown)


def take(connection: Connection, reports: Sequence[Report]) -> Taken:
    """Write reports down and do what they ask for; each acts once, however often it comes.

    Args:
        connection: inside a transaction, which holds nothing yet.
        reports: at most `MOST`.
    """
    rows = _find(connection, reports)
    known = sorted(rows, key=lambda n: (rows[n].subscriber_id, n))
    acting = [n for n in known if not _idle(reports[n], rows[n])]
    if acting:
        people = [rows[n].subscriber_id for n in acting]
        unreachable.hold(connection, people, [rows[n].id for n in acting])
    new = 0
    for n in acting:
        if _record(connection, reports[n], rows[n]):
            new += 1
            _act(connection, reports[n], rows[n])
    return Taken(new, len(rows) - new, len(reports) - len(rows))


def settle_waiting(connection: Connection) -> int:
    """Settle doubts of mails that a report had come for before they were doubts; returns how many."""
    rows = connection.execute(WAITING, {"n": MOST}).all()
    told = [
        _evidence(row.id, row.kind, row.source, row.epoch, row.diagnostic or "") for row in rows
    ]
    return len(evidence.take_evidence(connection, told).done) if told else 0


def _find(connection: Connection, reports: Sequence[Report]) -> dict[int, Row[Any]]:
    """Place in `reports` → the mail that it is about."""
    found = connection.execute(
        FIND,
        {
            "ids": [each.message for each in reports],
            "message_ids": [each.rfc_message_id for each in reports],
        },
    )
    return {int(row.n) - 1: row for row in found}


def _idle(report: Report, row: Row[Any]) -> bool:
    """Whether it says what is known: a delivery of a mail that is sent, to somebody whom mail reaches."""
    return report.kind == "delivered" and row.state in ("sent", "failed") and not row.was_soft


def _record(connection: Connection, report: Report, row: Row[Any]) -> bool:
    values = {
        "source": report.source,
        "evidence_id": report.evidence_id,
        "message": row.id,
        "subscriber": row.subscriber_id,
        "epoch": report.epoch,
        "kind": report.kind,
        "class": report.class_,
        "code": report.code,
        "diagnostic": (report.diagnostic or None) if row.erased_at is None else None,
    }
    return connection.execute(RECORD, values).one_or_none() is not None


def _act(connection: Connection, report: Report, row: Row[Any]) -> None:
    if report.kind in ("delivered", "bounced"):
        _testify(connection, report, row)
    if (name := EVENTS.get(report.kind)) is not None:
        _tell(connection, name, report, row)
    moved_away = report.tag is not None and report.tag != tag(row.address)
    how = _SOURCES.get(report.source, report.source)
    because = f"{how}, of message {row.id}"
    if report.kind == "bounced":
        said = " ".join(filter(None, (report.code, report.diagnostic)))[:200]
        what = f"{report.class_}, {said}" if said else str(report.class_)
        if moved_away:
            what += "; they have another address since"
        withdraw.note(connection, row.id, "bounced", str(report.class_), how=how, what=what)
        if not moved_away:
            _bounced(connection, report, row, because)
    elif report.kind == "complained":
        withdraw.note(connection, row.id, "complained", COMPLAINT, how=how, what="")
        withdraw.leave_marketing(connection, row.subscriber_id, COMPLAINT, because)
    elif report.kind == "left":
        how = "a mail that they wrote" if report.source == "mail" else how
        withdraw.note(
            connection, row.id, "left", UNSUBSCRIBE, how=how, what="all marketing mail"
        )  # fmt: skip
        withdraw.leave_marketing(connection, row.subscriber_id, UNSUBSCRIBE, because)
    elif (
        report.kind == "delivered"
        and not moved_away
        and unreachable.reached(connection, [row.subscriber_id])
    ):
        withdraw.note(connection, row.id, "reachable", "delivered", how=how, what="")


def _bounced(connection: Connection, report: Report, row: Row[Any], because: str) -> None:
    if report.class_ == "hard":
        unreachable.bury(connection, row.subscriber_id)
    elif report.class_ == "soft":
        most, of = unreachable.SOFT_OF
        soft = unreachable.soft_bounces(connection, row.subscriber_id)
        if soft >= most:
            because = f"{soft} of the last {of} mails came back"
            withdraw.leave_marketing(
                connection, row.subscriber_id, unreachable.UNREACHABLE, because
            )


def _testify(connection: Connection, report: Report, row: Row[Any]) -> None:
    """Tell the doubt, if there is one; a mail that is not in doubt is left as it is."""
    note = report.diagnostic if row.erased_at is None else ""
    said = _evidence(row.id, report.kind, report.source, report.epoch, note)
    evidence.take_evidence(connection, [said])


def _evidence(
    message: int, kind: str, source: str, epoch: int | None, note: str
) -> evidence.Evidence:
    word: evidence.Word = "arrived" if kind == "delivered" else "bounced"
    by: evidence.Source = "dsn" if source == "dsn" else "provider"
    return evidence.Evidence(message, word, by, epoch, note[:200])


def _tell(connection: Connection, name: str, report: Report, row: Row[Any]) -> None:
    told = {
        "message": row.id,
        "sequence": row.sequence_key,
        "step": row.step_id,
        "class": report.class_,
        "code": report.code,
        "source": report.source,
    }
    properties = json.dumps({key: value for key, value in told.items() if value is not None})
    values = {"subscriber": row.subscriber_id, "name": name, "properties": properties}
    connection.execute(EVENT, values)
