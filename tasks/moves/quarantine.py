"""What a restored database does not know: held in doubt until evidence, policy or an operator settles it.

A dump that is older than the last mail calls scheduled what has been sent since, and plans again what
was planned. So everything that was due by now goes into doubt, and while the quarantine stands the
planner hands off in doubt whatever was due before it began (`tasks.moves.plan`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from models.session import Database
from tasks.errors import Permanent
from tasks.moves.doubt import HOLD, TRIED
from tasks.moves.evidence import Evidence, take_evidence
from tasks.moves.settings import DeliverySettings
from tasks.moves.statement import move

BATCH = 500
REASON = "quarantine"

OPEN = text("SELECT id, since, begun_at, reason FROM quarantine WHERE lifted_at IS NULL")
BEGIN = text("""
INSERT INTO quarantine (since, reason) VALUES (:since, :reason)
RETURNING id, since, begun_at, reason
""")
LIFT = text("UPDATE quarantine SET lifted_at = clock_timestamp() WHERE lifted_at IS NULL")
LAST_SEEN = text("""
SELECT max(at) FROM (
    SELECT max(seen_at) AS at FROM tick UNION ALL
    SELECT max(seen_at) FROM canary UNION ALL
    SELECT max(created_at) FROM (SELECT created_at FROM message ORDER BY id DESC LIMIT 100) m
    UNION ALL
    SELECT max(entered_at) FROM (SELECT entered_at FROM enrollment ORDER BY id DESC LIMIT 100) e
) x
""")

# Of a fleet that is dead, in this database: nobody works on these rows.
RETURN_WORKING = text(
    move(
        """
    SELECT m.id, m.enrollment_id FROM message m
    WHERE m.watch_at IS NOT NULL AND m.state = 'working'
    ORDER BY m.id LIMIT :n""",
        "m.state = 'working'",
        """
        state = 'scheduled', owner = NULL, watch_at = NULL, run_at = :begun_at,
        reason = 'quarantine'""",
    )
)

LOGGED = """
logged AS (
    INSERT INTO decision (subscriber_id, sequence_key, enrollment_id, step_id, kind, reason, detail)
    SELECT v.subscriber_id, v.sequence_key, v.enrollment_id, v.step_id, 'quarantined', 'restored',
           jsonb_build_object('message', v.id, 'was', v.was)
    FROM moved v)"""

HOLD_DUE = text(
    move(
        """
    SELECT m.id, m.enrollment_id FROM message m
    WHERE m.run_at IS NOT NULL AND m.state = 'scheduled'
      AND (m.run_at <= :begun_at OR m.run_at = 'infinity')
    ORDER BY m.id LIMIT :n""",
        "m.state = 'scheduled'",
        """
        state = 'in_doubt', run_at = NULL, parked_from = NULL, watch_at = 'infinity',
        maybe_delivered = true, reason = 'quarantine'""",
        returning=", m.subscriber_id",
        extra=f",{LOGGED}",
    )
)
HOLD_ARMED = text(
    move(
        """
    SELECT m.id, m.enrollment_id, m.owner AS held_by FROM message m
    WHERE m.watch_at IS NOT NULL AND m.state = 'armed' ORDER BY m.id LIMIT :n""",
        "m.state = 'armed'",
        """
        state = 'in_doubt', owner = NULL, maybe_delivered = true, watch_at = 'infinity',
        last_stage = 'dot', reason = 'quarantine'""",
        source="JOIN target t ON t.id = lm.id",
        returning=", m.epoch, m.armed_at, m.content_sha256, m.reason, t.held_by, m.subscriber_id",
        extra=f"{TRIED},{LOGGED}",
    )
)
# Its policy may have been carried out in the lost future.
HOLD_DOUBTED = text("""
UPDATE message m SET watch_at = 'infinity', reason = 'quarantine'
WHERE m.id = ANY(ARRAY(
    SELECT x.id FROM message x
    WHERE x.watch_at IS NOT NULL AND x.watch_at < 'infinity' AND x.state = 'in_doubt'
    ORDER BY x.id LIMIT :n FOR UPDATE SKIP LOCKED)) AND m.state = 'in_doubt'
""")

# From here the policy of each stream counts, after its hold.
FREE = text(f"""
UPDATE message m SET watch_at = (SELECT {HOLD} FROM stream st WHERE st.key = m.stream)
WHERE m.id = ANY(ARRAY(
    SELECT x.id FROM message x JOIN stream t ON t.key = x.stream
    WHERE x.watch_at = 'infinity' AND x.state = 'in_doubt' AND x.reason = 'quarantine'
      AND t.doubt_policy <> 'hold'
    ORDER BY x.id LIMIT :n FOR UPDATE OF x SKIP LOCKED)) AND m.state = 'in_doubt'
""")

ADD_EVIDENCE = text("""
INSERT INTO quarantine_evidence (rfc_message_id)
SELECT DISTINCT r FROM unnest(CAST(:message_ids AS text[])) AS r ORDER BY r
ON CONFLICT (rfc_message_id) DO NOTHING
""")
EVIDENT = text("""
SELECT m.id FROM message m JOIN quarantine_evidence v ON v.rfc_message_id = m.rfc_message_id
WHERE m.watch_at IS NOT NULL AND m.state = 'in_doubt' AND m.id > :after
ORDER BY m.id LIMIT :n
""")
ANY_EVIDENCE = text("SELECT EXISTS (SELECT 1 FROM quarantine_evidence)")


@dataclass(frozen=True, slots=True)
class Quarantine:
    """One that stands: what was due before `begun_at` may have been sent after `since`."""

    id: int
    since: dt.datetime
    begun_at: dt.datetime
    reason: str


@dataclass(slots=True)
class Held:
    """What beginning a quarantine put in doubt, by the state it was found in."""

    quarantine: Quarantine
    counts: dict[str, int] = field(default_factory=dict)


def standing(connection: Connection) -> Quarantine | None:
    """The quarantine that stands, if one does."""
    row = connection.execute(OPEN).one_or_none()
    return None if row is None else Quarantine(*row)


def last_seen(connection: Connection) -> dt.datetime | None:
    """The latest moment that this database knows of its fleet: about when a dump was made."""
    seen: dt.datetime | None = connection.execute(LAST_SEEN).scalar_one()
    return seen


def begin(database: Database, since: dt.datetime, reason: str) -> Held:
    """Put everything in doubt that was due by now; once more goes on with one that stands.

    Args:
        database: restored; its send workers refuse to start until this was done.
        since: when the dump was made; what was sent after it is not in this database.
        reason: shown wherever somebody wonders.

    Raises:
        Permanent: `since` is in the future.
    """
    with database.transaction() as connection:
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        if since > now:
            raise Permanent(f"--since {since.isoformat()} is in the future; give the dump's time")
        found = standing(connection)
        if found is None:
            row = connection.execute(BEGIN, {"since": since, "reason": reason}).one()
            found = Quarantine(*row)
    held = Held(found)
    for name, statement in (
        ("working", RETURN_WORKING),
        ("armed", HOLD_ARMED),
        ("in_doubt", HOLD_DOUBTED),
        ("scheduled", HOLD_DUE),
    ):
        held.counts[name] = _drained(database, statement, found)
    # What was being worked on is due, and was counted among the due.
    held.counts["scheduled"] -= held.counts["working"]
    return held


def lift(database: Database, settings: DeliverySettings) -> int | None:
    """End it: what is still held is settled by its stream's policy after the hold.

    Returns:
        How many messages that concerns; None: no quarantine stands.
    """
    with database.transaction() as connection:
        if not connection.execute(LIFT).rowcount:
            return None
    freed = 0
    while True:
        with database.transaction() as connection:
            count = connection.execute(
                FREE, {"n": BATCH, "doubt_hold": settings.doubt_hold}
            ).rowcount
        freed += count
        if count < BATCH:
            return freed


def add_evidence(connection: Connection, message_ids: Sequence[str]) -> int:
    """Remember Message-IDs that the far end has; returns how many were new."""
    return connection.execute(ADD_EVIDENCE, {"message_ids": list(message_ids)}).rowcount


def settle_evident(database: Database) -> int:
    """in_doubt → sent for what the far end is known to have; returns how many."""
    with database.transaction() as connection:
        if not connection.execute(ANY_EVIDENCE).scalar_one():
            return 0
    total = after = 0
    while True:
        with database.transaction() as connection:
            ids = connection.execute(EVIDENT, {"after": after, "n": BATCH}).scalars().all()
            told = [Evidence(id_, "arrived", "sink") for id_ in ids]
            total += len(take_evidence(connection, told).done)
        if len(ids) < BATCH:
            return total
        after = ids[-1]


def _drained(database: Database, statement: object, found: Quarantine) -> int:
    total = 0
    while True:
        with database.transaction() as connection:
            done = connection.execute(statement, {"n": BATCH, "begun_at": found.begun_at})  # type: ignore[call-overload]
            count = int(done.rowcount if statement is HOLD_DOUBTED else done.scalar_one())
        total += count
        if count < BATCH:
            return total
