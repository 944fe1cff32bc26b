"""Clicks and opens that wait to be judged: written by the edge, asked for by whoever rings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, text

SETTLED: Final = 15.0
"""Seconds from a message's first hit to its judgement: what a scanner does is then all there."""

NOT_COUNTED: Final = "x-not-counted"
"""Header of a click that leads on though Postgres is away, so that nobody takes it for counted."""

# One statement a group, as text for whoever speaks the protocol itself.
WRITE: Final = """
INSERT INTO hit (message_id, link_id, agent)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[])
"""
# By the first row of an index.
WAITING = text("""
SELECT EXISTS (SELECT FROM hit h
    WHERE h.at <= (SELECT clock_timestamp()) - make_interval(secs => :settled))
""")
OLDEST = text("""
SELECT coalesce(extract(epoch FROM clock_timestamp() - (SELECT min(at) FROM hit)), 0)
""")
TRACK = text("UPDATE stream SET tracking = :what WHERE key = :key")
URLS = text("SELECT id, url FROM link WHERE id = ANY(CAST(:ids AS bigint[]))")


def to_judge(connection: Connection) -> bool:
    """Whether a hit is old enough to be judged."""
    return bool(connection.execute(WAITING, {"settled": SETTLED}).scalar_one())


def oldest(connection: Connection) -> float:
    """Seconds that the oldest hit has waited; 0: none waits."""
    return float(connection.execute(OLDEST).scalar_one())


def track(connection: Connection, stream: str, what: str) -> None:
    """Say what the mails of a stream tell: none, clicks, opens or all."""
    connection.execute(TRACK, {"key": stream, "what": what})


def urls(connection: Connection, ids: Sequence[int]) -> dict[int, str]:
    """Where links lead, by their row ids; one that is no row leads nowhere."""
    return {row.id: row.url for row in connection.execute(URLS, {"ids": list(ids)})}
