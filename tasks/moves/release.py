"""What a worker does with a row that it will not bring to its dot: give back, refuse, fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from tasks.moves.settings import DeliverySettings
from tasks.moves.statement import HELD, SAME, move


@dataclass(frozen=True, slots=True)
class Returned:
    """A row that goes back to its queue: provably, nothing was delivered at this epoch.

    `delay` in seconds; None: back-off by how often the relay has put it off. `crashed`: its render child died.
    """

    id: int
    epoch: int
    reason: str
    delay: float | None = 0.0
    stage: str | None = None
    code: int | None = None
    crashed: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A row that ends before its dot; `reason` in a word, the rest as the relay said it."""

    id: int
    epoch: int
    reason: str
    stage: str
    code: int | None = None


ROWS = """
    SELECT r.*, m.enrollment_id
    FROM unnest(CAST(:ids AS bigint[]), CAST(:epochs AS integer[]), CAST(:reasons AS text[]),
                CAST(:stages AS text[]), CAST(:codes AS smallint[]), CAST(:delays AS float8[]),
                CAST(:crashed AS boolean[]))
         AS r (id, epoch, reason, stage, code, delay, crashed)
    JOIN message m ON m.id = r.id"""

# Working *or* armed: a lost answer to COMMIT leaves open which, and the row lock waits for the
# commit. A zombie's word on a row that was put in doubt or assumed sent in the meantime counts too.
GIVE_BACK = text(
    move(
        ROWS,
        f"{HELD} AND m.state IN ('working', 'armed', 'in_doubt', 'sent_assumed')",
        """
        state = CASE WHEN lm.was = 'sent_assumed' OR (m.crashes + 1 >= :max_crashes AND t.crashed
                          AND lm.was = 'working')
                     THEN 'failed' ELSE 'scheduled' END::message_state,
        owner = NULL, watch_at = NULL,
        terminal_at = CASE WHEN lm.was = 'sent_assumed' THEN m.terminal_at
                           WHEN m.crashes + 1 >= :max_crashes AND t.crashed AND lm.was = 'working'
                           THEN clock_timestamp() END,
        run_at = CASE WHEN lm.was <> 'sent_assumed'
                       AND NOT (m.crashes + 1 >= :max_crashes AND t.crashed AND lm.was = 'working')
                 THEN least(coalesce(next_allowed(m.allowed, clock_timestamp()
                     + make_interval(secs => coalesce(t.delay,
                         least(CAST(:backoff_max AS float8),
                               CAST(:backoff_first AS float8) * 2 ^ least(m.deferrals, 20))
                         * (0.8 + 0.4 * random())))), m.expires_at, clock_timestamp()),
                     m.expires_at) END,
        crashes = m.crashes + CAST(t.crashed AS integer),
        deferrals = m.deferrals + CAST(t.delay IS NULL AS integer),
        reason = CASE WHEN m.crashes + 1 >= :max_crashes AND t.crashed AND lm.was = 'working'
                      THEN 'poison' ELSE t.reason END,
        last_stage = coalesce(t.stage, m.last_stage), last_code = coalesce(t.code, m.last_code)""",
        source=SAME,
        returning=", m.epoch, m.armed_at, m.content_sha256, t.stage, t.code",
        extra=""",
tried AS (
    INSERT INTO attempt AS a (message_id, epoch, owner, armed_at, content_sha256, outcome, stage,
                              code, ended_at)
    SELECT v.id, v.epoch, :owner, v.armed_at, v.content_sha256, 'not_sent',
           coalesce(v.stage, 'arm'), v.code, clock_timestamp()
    FROM moved v WHERE v.was <> 'working'
    ON CONFLICT (message_id, epoch) DO UPDATE SET outcome = 'not_sent', stage = excluded.stage,
        code = excluded.code, ended_at = excluded.ended_at)""",
    )
)

FAIL = text(
    move(
        ROWS,
        f"m.state = 'working' AND {HELD}",
        """
        state = 'failed', owner = NULL, watch_at = NULL, terminal_at = clock_timestamp(),
        reason = t.reason, last_stage = t.stage, last_code = t.code""",
        source=SAME,
    )
)

# Why ARM would not have it. An earlier copy that turned out to be accepted comes first; the order is the order of the sentence in DELIVERY.md.
REFUSE = text(
    move(
        """
    SELECT r.id, r.epoch, r.address, r.busy, m.enrollment_id
    FROM unnest(CAST(:ids AS bigint[]), CAST(:epochs AS integer[]), CAST(:addresses AS text[]),
                CAST(:busy AS boolean[])) AS r (id, epoch, address, busy)
    JOIN message m ON m.id = r.id""",
        f"m.state = 'working' AND {HELD}",
        """
        state = w.becomes, owner = NULL, watch_at = NULL, reason = w.reason,
        terminal_at = CASE WHEN w.becomes <> 'scheduled' THEN clock_timestamp() END,
        run_at = CASE WHEN w.becomes = 'scheduled' THEN w.again END""",
        source="""JOIN (
        SELECT x.id, x.epoch, x.again,
            CASE WHEN x.accepted THEN 'sent'
                 WHEN x.stop IS NOT NULL THEN 'suppressed'
                 WHEN x.ended THEN 'cancelled'
                 WHEN x.expired OR x.again IS NULL THEN 'expired'
                 ELSE 'scheduled' END::message_state AS becomes,
            CASE WHEN x.accepted THEN 'evidence'
                 WHEN x.stop IS NOT NULL THEN x.stop
                 WHEN x.ended THEN 'enrollment_ended'
                 WHEN x.expired THEN 'expired'
                 WHEN x.again IS NULL THEN 'no_window_left'
                 WHEN x.outside THEN 'outside_window'
                 WHEN x.paused THEN 'paused'
                 WHEN x.moved_away THEN 'address_changed'
                 WHEN x.busy THEN 'subscriber_busy'
                 ELSE 'not_armed' END AS reason
        FROM (
            SELECT t.id, t.epoch, t.busy,
                m.maybe_delivered AND EXISTS (
                    SELECT 1 FROM attempt a
                    WHERE a.message_id = m.id AND a.outcome = 'accepted') AS accepted,
                coalesce(s.stopped_reason, (
                    SELECT p.reason FROM suppression p WHERE p.address_hmac = s.address_hmac
                      AND p.scope IN ('all', st.class) LIMIT 1), (
                    SELECT 'opted_out' FROM sequence q, consent c
                    WHERE st.class = 'marketing' AND q.key = m.sequence_key
                      AND c.subscriber_id = s.id AND c.topic = q.topic
                      AND NOT c.opted_in)) AS stop,
                EXISTS (SELECT 1 FROM enrollment e
                        WHERE e.id = m.enrollment_id AND NOT e.active) AS ended,
                coalesce(m.expires_at <= clock_timestamp(), false) AS expired,
                NOT m.allowed @> clock_timestamp() AS outside,
                st.paused_at IS NOT NULL OR EXISTS (
                    SELECT 1 FROM sequence q
                    WHERE q.key = m.sequence_key AND q.paused_at IS NOT NULL) AS paused,
                s.address <> t.address AS moved_away,
                next_allowed(m.allowed, clock_timestamp()
                    + CASE WHEN m.allowed @> clock_timestamp()
                           THEN make_interval(secs => :retry) ELSE interval '0' END) AS again
            FROM target t JOIN message m ON m.id = t.id
            JOIN subscriber s ON s.id = m.subscriber_id
            JOIN stream st ON st.key = m.stream) x) w ON w.id = lm.id AND w.epoch = lm.epoch""",
        returning=", m.reason",
        result="SELECT id, now, reason FROM moved",
    )
)

# The same event as of a bounce that comes back later (`tasks.track.feedback`), once a message.
SUPPRESS = text("""
WITH said AS (
    INSERT INTO suppression (address_hmac, scope, reason)
    SELECT s.address_hmac, 'all', :reason FROM subscriber s
    JOIN message m ON m.subscriber_id = s.id WHERE m.id = :id AND s.address = :address
    ON CONFLICT (address_hmac, scope) DO NOTHING),
fresh AS (
    INSERT INTO event_source (source, source_id) VALUES ('relay', 'bounced:' || :id)
    ON CONFLICT DO NOTHING RETURNING 1)
INSERT INTO event (subscriber_id, name, occurred_at, properties)
SELECT m.subscriber_id, 'email.bounced', clock_timestamp(), jsonb_strip_nulls(jsonb_build_object(
    'message', m.id, 'sequence', m.sequence_key, 'step', m.step_id, 'class', 'hard', 'source', 'relay'))
FROM message m WHERE m.id = :id AND EXISTS (SELECT 1 FROM fresh)
""")


def _rows(rows: Sequence[Returned] | Sequence[Failed]) -> dict[str, object]:
    return {
        "ids": [r.id for r in rows],
        "epochs": [r.epoch for r in rows],
        "reasons": [r.reason for r in rows],
        "stages": [r.stage for r in rows],
        "codes": [r.code for r in rows],
        "delays": [getattr(r, "delay", None) for r in rows],
        "crashed": [getattr(r, "crashed", False) for r in rows],
    }


def give_back(
    connection: Connection, rows: Sequence[Returned], owner: str, settings: DeliverySettings
) -> int:
    """Put rows of this epoch back into their queue, armed ones as attempts `not_sent`.

    A row whose render child died for the last of `max_crashes` times ends failed instead: poison.
    """
    parameters = _rows(rows) | {
        "owner": owner,
        "backoff_first": settings.backoff_first,
        "backoff_max": settings.backoff_max,
        "max_crashes": settings.max_crashes,
    }
    return int(connection.execute(GIVE_BACK, parameters).scalar_one())


def fail(connection: Connection, rows: Sequence[Failed]) -> int:
    """Move working → failed: a 5yz before the dot, or a mail that cannot be rendered."""
    return int(connection.execute(FAIL, _rows(rows)).scalar_one())


def refuse(
    connection: Connection,
    rows: Sequence[tuple[int, int, str, bool]],
    settings: DeliverySettings,
) -> list[tuple[int, str, str]]:
    """Send each row where it belongs that ARM, or the look at the claim, would not have.

    Args:
        connection: inside a transaction.
        rows: (id, epoch, address as claimed, whether its subscriber's lock was taken).
        settings: how long a row that was put off stays away.

    Returns:
        (id, state, reason) of each row that was still ours.
    """
    result = connection.execute(
        REFUSE,
        {
            "ids": [r[0] for r in rows],
            "epochs": [r[1] for r in rows],
            "addresses": [r[2] for r in rows],
            "busy": [r[3] for r in rows],
            "retry": settings.refused_retry,
        },
    )
    return [(row.id, str(row.now), row.reason) for row in result]


def suppress_recipient(connection: Connection, message_id: int, address: str, reason: str) -> None:
    """Suppress the address that a message went to, if its subscriber still has it.

    Takes the subscriber's lock, so it comes first in its transaction, and never rides in a cycle.
    """
    connection.execute(SUPPRESS, {"id": message_id, "address": address, "reason": reason})
