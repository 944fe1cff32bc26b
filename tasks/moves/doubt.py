"""Doubt: the dot was written and no reply came. Flagged, held, and settled by the stream's policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from tasks.moves.settings import DeliverySettings
from tasks.moves.statement import HELD, SAME, move


@dataclass(frozen=True, slots=True)
class Doubted:
    """An armed row without a reply. `cause` in a word: timeout, closed, garbage, killed."""

    id: int
    epoch: int
    cause: str


# The end of the hold: of the stream, else of the settings; for ever where an operator settles. At
# once where an earlier copy was accepted: nothing is left to be known.
ACCEPTED = """EXISTS (SELECT 1 FROM attempt a
                     WHERE a.message_id = m.id AND a.outcome = 'accepted')"""
HOLD = f"""
    CASE WHEN {ACCEPTED} THEN clock_timestamp()
         WHEN st.doubt_policy = 'hold' THEN 'infinity'::timestamptz
         ELSE clock_timestamp() + coalesce(st.doubt_hold, make_interval(secs => :doubt_hold)) END"""

TRIED = """,
tried AS (
    INSERT INTO attempt AS a (message_id, epoch, owner, armed_at, content_sha256, outcome, stage,
                              reply, ended_at)
    SELECT v.id, v.epoch, v.held_by, v.armed_at, v.content_sha256, 'in_doubt', 'dot', v.reason,
           clock_timestamp()
    FROM moved v
    ON CONFLICT (message_id, epoch) DO NOTHING)"""

DOUBT = text(
    move(
        """
    SELECT r.id, r.epoch, r.cause, m.enrollment_id
    FROM unnest(CAST(:ids AS bigint[]), CAST(:epochs AS integer[]), CAST(:causes AS text[]))
         AS r (id, epoch, cause)
    JOIN message m ON m.id = r.id""",
        f"m.state = 'armed' AND {HELD}",
        f"""
        state = 'in_doubt', owner = NULL, maybe_delivered = true,
        watch_at = (SELECT {HOLD} FROM stream st WHERE st.key = m.stream),
        last_stage = 'dot', reason = t.cause""",
        source=SAME,
        returning=", m.epoch, m.armed_at, m.content_sha256, m.reason, CAST(:owner AS text) AS held_by",
        extra=TRIED,
    )
)

# The reaper's way into doubt: an armed lease that ran out, with its grace.
REAP_ARMED = text(
    move(
        """
    SELECT m.id, m.enrollment_id, m.owner AS held_by FROM message m
    WHERE m.watch_at <= (SELECT clock_timestamp()) - make_interval(secs => :grace)
      AND m.state = 'armed'
      AND m.armed_at <= clock_timestamp() - make_interval(secs => :armed_lease + :grace)
    ORDER BY m.watch_at LIMIT :n""",
        "m.state = 'armed'"
        " AND m.armed_at <= clock_timestamp() - make_interval(secs => :armed_lease + :grace)",
        f"""
        state = 'in_doubt', owner = NULL, maybe_delivered = true,
        watch_at = (SELECT {HOLD} FROM stream st WHERE st.key = m.stream),
        last_stage = 'dot', reason = 'armed_lease_expired'""",
        source="JOIN target t ON t.id = lm.id",
        returning=", m.epoch, m.armed_at, m.content_sha256, m.reason, t.held_by",
        extra=TRIED,
        wait=False,
    )
)

# Once, and the same bytes (of what was quarantined unarmed there are none to equal): a second doubt of a resent mail is assumed sent. An accepted attempt
# (evidence that came while a later epoch was armed) wins over the policy.
RESOLVE = text(
    move(
        f"""
    SELECT m.id, m.enrollment_id FROM message m
    WHERE m.watch_at <= (SELECT clock_timestamp()) AND m.state = 'in_doubt'
      AND (EXISTS (SELECT 1 FROM stream t WHERE t.key = m.stream AND t.doubt_policy <> 'hold')
           OR {ACCEPTED})
    ORDER BY m.watch_at LIMIT :n""",
        "m.state = 'in_doubt' AND m.watch_at <= clock_timestamp()",
        """
        state = p.becomes, watch_at = NULL,
        maybe_delivered = p.becomes <> 'scheduled' OR m.content_sha256 IS NOT NULL,
        terminal_at = CASE WHEN p.becomes <> 'scheduled' THEN clock_timestamp() END,
        run_at = CASE WHEN p.becomes = 'scheduled' THEN least(
            coalesce(next_allowed(m.allowed, clock_timestamp()), m.expires_at, clock_timestamp()),
            m.expires_at) END,
        reason = CASE p.becomes WHEN 'sent' THEN 'evidence' WHEN 'scheduled' THEN 'resend'
                                ELSE 'doubt_policy' END""",
        source="""JOIN (
        SELECT t.id,
            CASE WHEN EXISTS (SELECT 1 FROM attempt a
                              WHERE a.message_id = t.id AND a.outcome = 'accepted') THEN 'sent'
                 WHEN st.doubt_policy = 'resend' AND 2 > (
                      SELECT count(*) FROM attempt a
                      WHERE a.message_id = t.id AND a.outcome = 'in_doubt') THEN 'scheduled'
                 ELSE 'sent_assumed' END::message_state AS becomes
        FROM target t JOIN message m ON m.id = t.id JOIN stream st ON st.key = m.stream
        ) p ON p.id = lm.id""",
        result="SELECT now, count(*) FROM moved GROUP BY now",
        wait=False,
    )
)

# Back into doubt without a claim: an operator's quarantine, or a mail that cannot be sent again
# because it would no longer be the same.
HOLD_BACK = text(
    move(
        """
    SELECT r.id, r.epoch, m.enrollment_id
    FROM unnest(CAST(:ids AS bigint[]), CAST(:epochs AS integer[])) AS r (id, epoch)
    JOIN message m ON m.id = r.id""",
        f"m.state = 'scheduled' AND {HELD}",
        """
        state = 'in_doubt', run_at = NULL, parked_from = NULL, watch_at = 'infinity',
        maybe_delivered = true, reason = :reason""",
    )
)


def doubt(
    connection: Connection, rows: Sequence[Doubted], owner: str, settings: DeliverySettings
) -> int:
    """Move armed → in_doubt, flagged for good; the hold begins now."""
    return int(
        connection.execute(
            DOUBT,
            {
                "ids": [r.id for r in rows],
                "epochs": [r.epoch for r in rows],
                "causes": [r.cause for r in rows],
                "owner": owner,
                "doubt_hold": settings.doubt_hold,
            },
        ).scalar_one()
    )


def reap_armed(connection: Connection, settings: DeliverySettings, n: int = 500) -> int:
    """Put armed rows in doubt whose owner has not been heard of for the lease and its grace."""
    return int(
        connection.execute(
            REAP_ARMED,
            {
                "armed_lease": settings.armed_lease,
                "grace": settings.reaper_grace,
                "doubt_hold": settings.doubt_hold,
                "n": n,
            },
        ).scalar_one()
    )


def resolve(connection: Connection, n: int = 500) -> dict[str, int]:
    """Settle doubts whose hold is over, by their stream's policy; returns state → count."""
    return {str(row[0]): int(row[1]) for row in connection.execute(RESOLVE, {"n": n})}


def hold_back(connection: Connection, rows: Sequence[tuple[int, int]], reason: str) -> int:
    """Move scheduled → in_doubt, held until an operator settles it; rows are (id, epoch)."""
    return int(
        connection.execute(
            HOLD_BACK,
            {"ids": [r[0] for r in rows], "epochs": [r[1] for r in rows], "reason": reason},
        ).scalar_one()
    )
