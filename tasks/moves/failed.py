"""The mails that failed, for an operator to look at: why, and whether each may be tried again."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, text

from tasks.moves.operate import retry
from tasks.moves.settings import DeliverySettings

# Backwards over the primary key: what failed lately is what an operator looks for.
FAILED = text("""
SELECT m.id, m.sequence_key, m.step_id, s.address, m.reason, m.crashes, m.attempts, m.last_stage,
    m.last_code, m.terminal_at AS failed_at
FROM message m JOIN subscriber s ON s.id = m.subscriber_id
WHERE m.state = 'failed'
  AND (CAST(:sequence AS text) IS NULL OR m.sequence_key = :sequence)
  AND (CAST(:step AS text) IS NULL OR m.step_id = :step)
  AND (CAST(:reason AS text) IS NULL OR m.reason = :reason)
  AND (CAST(:since AS float8) IS NULL
       OR m.terminal_at >= clock_timestamp() - make_interval(secs => :since))
ORDER BY m.id DESC LIMIT :most
""")


@dataclass(frozen=True, slots=True)
class FailedMail:
    """A mail that failed. `refusal`: in a word why `retry` would leave it alone; None: it would not."""

    id: int
    sequence_key: str | None
    step_id: str | None
    address: str
    reason: str | None
    crashes: int
    attempts: int
    last_stage: str | None
    last_code: int | None
    failed_at: dt.datetime
    refusal: str | None


def failed_mails(
    connection: Connection,
    settings: DeliverySettings,
    *,
    sequence: str | None = None,
    step: str | None = None,
    reason: str | None = None,
    since: dt.timedelta | None = None,
    late: bool = False,
    most: int = 500,
) -> list[FailedMail]:
    """The mails that failed, the newest first; at most `most`, each judged as `retry` would."""
    values = {
        "sequence": sequence,
        "step": step,
        "reason": reason,
        "since": None if since is None else since.total_seconds(),
        "most": most,
    }
    rows = connection.execute(FAILED, values).all()
    judged = retry(connection, [row.id for row in rows], settings, late=late, dry_run=True)
    refusals = {each.id: each.reason for each in judged.refused}
    return [FailedMail(**row._mapping, refusal=refusals.get(row.id)) for row in rows]
