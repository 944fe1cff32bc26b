"""Who is in which segment: the labels that runs gave, counted, compared, and forgotten in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, text

from tasks.quantum import store
from tasks.quantum.store import Taken

KEPT: Final = 5
"""Runs of a segment whose members are kept."""

MEMBERS = text("""
INSERT INTO segment_member (segment, run, subscriber_id, label)
SELECT :segment, :run, x.id, x.label
FROM unnest(CAST(:ids AS bigint[]), CAST(:labels AS text[])) AS x(id, label)
JOIN subscriber s ON s.id = x.id
ON CONFLICT (run, subscriber_id) DO NOTHING
""")
THE_REST = text("""
INSERT INTO segment_member (segment, run, subscriber_id, label)
SELECT :segment, :run, s.id, :label FROM subscriber s
WHERE s.id >= :first AND s.id < :end
ON CONFLICT (run, subscriber_id) DO NOTHING
""")
AFTER = text("UPDATE segment_run r SET after_id = :after WHERE r.id = :run AND r.epoch = :epoch")
SIZES = text("SELECT m.label, count(*) AS n FROM segment_member m WHERE m.run = :run GROUP BY 1")
CROSS = text("""
SELECT a.label AS first, b.label AS second, count(*) AS n
FROM segment_member a JOIN segment_member b ON b.run = :second AND b.subscriber_id = a.subscriber_id
WHERE a.run = :first GROUP BY 1, 2 ORDER BY 1, 2
""")
# The promoted run that counts is the latest of them; reports are kept for ever.
PRUNE = text("""
DELETE FROM segment_member m USING segment_run r
WHERE r.id = m.run AND r.segment = :segment
  AND r.id NOT IN (SELECT x.id FROM segment_run x WHERE x.segment = :segment ORDER BY x.id DESC LIMIT :kept)
  AND r.id IS DISTINCT FROM (SELECT x.id FROM segment_run x WHERE x.segment = :segment
      AND x.promoted_at IS NOT NULL ORDER BY x.promoted_at DESC, x.id DESC LIMIT 1)
""")


def assign(
    connection: Connection,
    run: Taken,
    ids: Sequence[int],
    labels: Sequence[str],
    bounds: tuple[int, int],
    rest: str,
) -> bool:
    """Label a range of subscribers, everybody else in it with `rest`; False: not ours any more."""
    if not store.keep(connection, run):
        return False
    who = {"segment": run.request.segment, "run": run.id}
    connection.execute(MEMBERS, who | {"ids": list(ids), "labels": list(labels)})
    connection.execute(THE_REST, who | {"label": rest, "first": bounds[0], "end": bounds[1]})
    connection.execute(AFTER, {"run": run.id, "epoch": run.epoch, "after": bounds[1]})
    return True


def sizes(connection: Connection, run: int) -> dict[str, int]:
    """Subscribers by label."""
    return {row.label: row.n for row in connection.execute(SIZES, {"run": run})}


def cross(connection: Connection, first: int, second: int) -> list[tuple[str, str, int]]:
    """Subscribers by their labels in two runs: (label in first, in second, how many)."""
    rows = connection.execute(CROSS, {"first": first, "second": second})
    return [(row.first, row.second, row.n) for row in rows]


def prune(connection: Connection, segment: str) -> None:
    """Forget the members of old runs: kept are the newest ones, and the one that sequences see."""
    connection.execute(PRUNE, {"segment": segment, "kept": KEPT})
