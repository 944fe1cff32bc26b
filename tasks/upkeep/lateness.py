"""How late a pool is: the age by which it grows and shrinks, here and by KEDA in the chart.

A test holds the chart's queries to these.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text

from tasks import names
from tasks.errors import Misconfigured

# Seconds that the oldest due mail of a stream waits, the worst stream's of this region.
SEND = text("""
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - due.run_at)), 0)::float8
FROM stream s
CROSS JOIN LATERAL (
    SELECT m.run_at FROM message m
    WHERE m.stream = s.key AND m.run_at <= (SELECT clock_timestamp())
    ORDER BY m.run_at LIMIT 1) due
WHERE s.paused_at IS NULL AND s.region IS NOT DISTINCT FROM CAST(:region AS text)
""")
# Seconds that the oldest due enrollment waits.
SEQUENCE = text("""
SELECT coalesce(extract(epoch FROM clock_timestamp() - (
    SELECT e.due_at FROM enrollment e
    WHERE e.due_at <= (SELECT clock_timestamp())
    ORDER BY e.due_at LIMIT 1)), 0)::float8
""")
POOLS: Final[tuple[names.PoolName, ...]] = ("send", "sequence")
"""Those whose work is rows with a due time: of the others no age says whether more are needed."""


def oldest_due(connection: Connection, queue: str) -> float:
    """Seconds that the oldest due row of a queue's workers waits; 0.0: none is due.

    Raises:
        Misconfigured: no age tells how late that pool is.
    """
    pool, region = names.place_of(queue)
    if pool not in POOLS:
        raise Misconfigured(f"No age tells how late pool {pool} is: expected {' or '.join(POOLS)}.")
    statement = SEND if pool == "send" else SEQUENCE
    values = {"region": region} if pool == "send" else {}
    return float(connection.execute(statement, values).scalar_one())
