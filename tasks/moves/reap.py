"""working → scheduled: the lease ran out, so its worker is gone, and nothing left the building."""

from __future__ import annotations

from sqlalchemy import Connection, text

from tasks.moves.settings import DeliverySettings
from tasks.moves.statement import move

CRASHED = """
    state = CASE WHEN m.crashes + 1 >= :max_crashes THEN 'failed' ELSE 'scheduled' END::message_state,
    owner = NULL, watch_at = NULL, crashes = m.crashes + 1,
    terminal_at = CASE WHEN m.crashes + 1 >= :max_crashes THEN clock_timestamp() END,
    run_at = CASE WHEN m.crashes + 1 < :max_crashes THEN least(
        coalesce(next_allowed(m.allowed, clock_timestamp()), m.expires_at, clock_timestamp()),
        m.expires_at) END,
    reason = CASE WHEN m.crashes + 1 >= :max_crashes THEN 'poison' ELSE :reason END"""

REAP_WORKING = text(
    move(
        """
    SELECT m.id, m.enrollment_id FROM message m
    WHERE m.watch_at <= (SELECT clock_timestamp()) - make_interval(secs => :grace)
      AND m.state = 'working'
    ORDER BY m.watch_at LIMIT :n""",
        "m.state = 'working' AND m.watch_at <= clock_timestamp() - make_interval(secs => :grace)",
        CRASHED,
        wait=False,
    )
)

# Of an owner known to be dead (its journal's lock was taken): what it was working on.
RELEASE_OWNER = text(
    move(
        """
    SELECT m.id, m.enrollment_id FROM message m
    WHERE m.watch_at IS NOT NULL AND m.owner = :owner AND m.state = 'working'""",
        "m.state = 'working' AND m.owner = :owner",
        CRASHED,
    )
)

HELD_BY_OWNER = text("""
SELECT m.id, m.epoch, 'armed', m.enrollment_id, m.armed_at::text, m.content_sha256 FROM message m
WHERE m.watch_at IS NOT NULL AND m.owner = :owner AND m.state = 'armed'
UNION ALL
SELECT m.id, a.epoch, 'in_doubt', m.enrollment_id, a.armed_at::text, a.content_sha256
FROM attempt a JOIN message m ON m.id = a.message_id
WHERE a.owner = :owner AND a.outcome = 'in_doubt'
""")


def reap_working(connection: Connection, settings: DeliverySettings, n: int = 500) -> int:
    """Put rows back whose working lease ran out (with its grace); the last of `max_crashes` is poison."""
    return int(
        connection.execute(
            REAP_WORKING,
            {
                "grace": settings.reaper_grace,
                "max_crashes": settings.max_crashes,
                "reason": "lease_expired",
                "n": n,
            },
        ).scalar_one()
    )


def release_owner(connection: Connection, owner: str, settings: DeliverySettings) -> int:
    """Put back at once what a dead owner was working on; returns how many rows."""
    return int(
        connection.execute(
            RELEASE_OWNER,
            {"owner": owner, "max_crashes": settings.max_crashes, "reason": "worker_died"},
        ).scalar_one()
    )


def held_by(
    connection: Connection, owner: str
) -> list[tuple[int, int, str, int | None, str, bytes]]:
    """What an owner has armed, and which attempts of it others have put in doubt since.

    Returns:
        (id, epoch, 'armed' or 'in_doubt', enrollment id, armed_at as text, content hash) an attempt;
        a message that it tried twice stands there twice.
    """
    return [
        (row[0], row[1], str(row[2]), row[3], row[4], row[5])
        for row in connection.execute(HELD_BY_OWNER, {"owner": owner})
    ]
