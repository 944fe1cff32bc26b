"""in_doubt → sent, scheduled or failed by an operator, who knows what the relay did with a mail.

Their word is evidence: it stands on the doubted attempts and in the decision log, so that the audit
(`tasks.upkeep.invariants`) tells a lawful second sending from a fault.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Connection, text

from tasks.moves.operate import (
    ACCEPTED,
    AGAIN,
    JUDGED,
    LOGGED,
    PAST,
    UNREACHABLE,
    Operated,
    Refusal,
    lock,
)
from tasks.moves.settings import DeliverySettings
from tasks.moves.statement import move

Verdict = Literal["sent", "resend", "drop"]

# What a policy has assumed may still be known better; it cannot be sent again, its way has gone on.
JUDGE = text(f"""
SELECT r.id, m.state::text AS state,
    CASE WHEN m.id IS NULL THEN 'unknown'
        WHEN m.state <> 'in_doubt' AND (m.state <> 'sent_assumed' OR :verdict = 'resend')
        THEN 'not_in_doubt'
        WHEN :verdict <> 'sent' AND {ACCEPTED} THEN 'accepted'
        WHEN :verdict <> 'resend' THEN NULL{UNREACHABLE}
        WHEN NOT e.active THEN 'ended'
        WHEN NOT CAST(:late AS boolean) AND {PAST} THEN 'late' END AS refusal
{JUDGED}""")

# Sent: the latest of the doubted copies arrived. Else none of them did.
EVIDENCE = """
evident AS (
    UPDATE attempt a SET evidence = CAST(:evidence AS text) FROM moved v
    WHERE a.message_id = v.id AND a.outcome = 'in_doubt' AND a.evidence IS NULL
      AND (:word <> 'sent' OR a.epoch = (
          SELECT max(x.epoch) FROM attempt x
          WHERE x.message_id = v.id AND x.outcome = 'in_doubt')))"""

_END = """
        state = '{0}', watch_at = NULL, reason = 'operator',
        terminal_at = coalesce(m.terminal_at, clock_timestamp())"""
# Quarantined before it was ever armed: if no copy arrived none is out, and there are no bytes that
# another one would have to equal.
_UNARMED = """,
        maybe_delivered = m.maybe_delivered AND m.content_sha256 IS NOT NULL"""
_ASSIGN: Final = {
    "sent": _END.format("sent"),
    "drop": _END.format("failed") + _UNARMED,
    "resend": f"""
        state = 'scheduled', watch_at = NULL, reason = 'operator_resend', {AGAIN}{_UNARMED}""",
}
SETTLE: Final = {
    verdict: text(
        move(
            "SELECT m.id, m.enrollment_id FROM message m WHERE m.id = ANY(:ids)",
            "m.state IN ('in_doubt', 'sent_assumed')",
            assign,
            returning=", m.subscriber_id",
            extra=f",{EVIDENCE},{LOGGED}",
            result="SELECT id FROM moved ORDER BY id",
        )
    )
    for verdict, assign in _ASSIGN.items()
}

HELD = text("""
SELECT m.id, m.stream, t.doubt_policy, m.sequence_key, m.step_id, s.address, m.rfc_message_id,
    m.reason, m.attempts, m.armed_at, a.ended_at AS doubted_at,
    NULLIF(m.watch_at, 'infinity') AS held_until, coalesce(a.evidence, '') AS evidence
FROM message m JOIN stream t ON t.key = m.stream JOIN subscriber s ON s.id = m.subscriber_id
LEFT JOIN LATERAL (
    SELECT max(x.ended_at) FILTER (WHERE x.outcome = 'in_doubt') AS ended_at,
        string_agg(format('epoch %s: %s%s%s', x.epoch, replace(x.outcome::text, '_', ' '),
                          ', ' || x.reply, '; ' || x.evidence), ' · ' ORDER BY x.epoch) AS evidence
    FROM attempt x WHERE x.message_id = m.id) a ON true
WHERE m.watch_at IS NOT NULL AND m.state = 'in_doubt'
  AND (CAST(:stream AS text) IS NULL OR m.stream = :stream)
ORDER BY m.watch_at DESC, m.id LIMIT :most
""")

IN_DOUBT_OF = text("""
SELECT m.id FROM message m
WHERE m.watch_at IS NOT NULL AND m.state = 'in_doubt' AND m.id > :after
  AND (CAST(:stream AS text) IS NULL OR m.stream = :stream)
ORDER BY m.id LIMIT :n
""")


@dataclass(frozen=True, slots=True)
class Held:
    """A message in doubt.

    Attributes:
        reason: timeout, closed, worker_died, content_changed, … : why nobody knows.
        doubted_at: None where it was put in doubt by hand.
        held_until: when the stream's policy settles it; None: only an operator does.
        evidence: what is known of each try, oldest first; '' where none is on record.
    """

    id: int
    stream: str
    doubt_policy: str
    sequence_key: str | None
    step_id: str | None
    address: str
    rfc_message_id: str
    reason: str | None
    attempts: int
    armed_at: dt.datetime | None
    doubted_at: dt.datetime | None
    held_until: dt.datetime | None
    evidence: str


def doubts(connection: Connection, stream: str | None = None, most: int = 1000) -> list[Held]:
    """The messages in doubt, those that wait for an operator first; at most `most`."""
    rows = connection.execute(HELD, {"stream": stream, "most": most})
    return [Held(**row._mapping) for row in rows]


def in_doubt_of(connection: Connection, stream: str | None, after: int, n: int) -> list[int]:
    """Ids of messages in doubt, of a stream or of all, more than `after`, in order."""
    values = {"stream": stream, "after": after, "n": n}
    return list(connection.execute(IN_DOUBT_OF, values).scalars())


def settle(
    connection: Connection,
    ids: Sequence[int],
    verdict: Verdict,
    settings: DeliverySettings,
    *,
    reason: str = "",
    late: bool = False,
    dry_run: bool = False,
) -> Operated:
    """Settle doubts by hand, in favour of `verdict`; a second time finds them settled.

    Args:
        connection: inside a transaction; its locks last until it ends.
        ids: at most a few hundred.
        verdict: `sent`: it arrived; `drop`: it did not, and shall not; `resend`: it did not, and the
            same bytes go out again. Also what a policy has assumed sent can be `sent` or `drop`.
        settings: `message_lifetime` of a resend that is late.
        reason: how one knows; kept with the attempt, and shown by `explain`.
        late: resend also what is past its time.
        dry_run: judge, and move nothing.
    """
    wanted = sorted(set(ids))
    if not dry_run:
        lock(connection, wanted)
    judged = connection.execute(JUDGE, {"ids": wanted, "verdict": verdict, "late": late}).all()
    told = Operated(
        [row.id for row in judged if row.refusal is None],
        [Refusal(row.id, row.state, row.refusal) for row in judged if row.refusal is not None],
    )
    if dry_run or not told.done:
        return told
    said = f"operator: {'arrived' if verdict == 'sent' else 'did not arrive'}"
    parameters: dict[str, object] = {
        "ids": told.done,
        "kind": "settled",
        "word": verdict,
        "note": reason or None,
    }
    parameters["evidence"] = f"{said}; {reason}" if reason else said
    if verdict == "resend":
        parameters["lifetime"] = settings.message_lifetime
    moved = connection.execute(SETTLE[verdict], parameters).scalars().all()
    return Operated(list(moved), told.refused)
