"""A scoring of the whole book as rows: opened once, claimed range by range, resumed after a kill.

::

    open_run     score_run (one open a score) and its score_range rows, of ids that exist now
    claim        a range whose lease is free: ours until it ends, under a new epoch
    hold         in each transaction that writes scores; a stale epoch writes nothing
    finish       when all of them are written

A doorbell that is lost, a worker that is killed and a range that is done twice change nothing: what
is left is rung for again, and a score is overwritten by one of the same instant or a later one.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from tasks.audience import rfm
from tasks.errors import Permanent

FAULTS: Final = 3  # of one range; then the run has failed
STALE: Final = dt.timedelta(hours=12)  # an open run older than this is begun anew

OPEN = text("""
INSERT INTO score_run (name, artifact, cutoff) VALUES (:name, :artifact, clock_timestamp())
ON CONFLICT (name) WHERE state = 'open' DO NOTHING RETURNING id
""")
IS_OPEN = text("SELECT r.id FROM score_run r WHERE r.name = :name AND r.state = 'open'")
# A run goes on only while its artifact is the champion's: half a book of each would be none.
SUPERSEDE = text("""
UPDATE score_run SET state = 'superseded', reason = :why, ended_at = clock_timestamp()
WHERE name = :name AND state = 'open'
  AND (artifact <> :artifact OR cutoff < clock_timestamp() - CAST(:stale AS interval))
""")
CUT = text("INSERT INTO score_range (run, first_id, end_id) VALUES (:run, :first, :end)")
CLAIM = text("""
WITH next AS MATERIALIZED (
    SELECT g.run, g.first_id FROM score_range g JOIN score_run r ON r.id = g.run AND r.state = 'open'
    WHERE NOT g.done AND (g.lease_until IS NULL OR g.lease_until <= clock_timestamp())
    ORDER BY g.run, g.first_id LIMIT 1 FOR UPDATE OF g SKIP LOCKED)
UPDATE score_range g SET epoch = g.epoch + 1, lease_until = clock_timestamp() + CAST(:lease AS interval)
FROM next, score_run r
WHERE g.run = next.run AND g.first_id = next.first_id AND r.id = g.run
RETURNING g.run, g.first_id, g.end_id, g.epoch, g.faults, r.name, r.artifact, r.cutoff
""")
FINISH = text("""
UPDATE score_range SET done = true, lease_until = NULL, rows = :rows, fault = NULL
WHERE run = :run AND first_id = :first AND epoch = :epoch AND NOT done
""")
END = text("""
UPDATE score_run r SET state = 'done', ended_at = clock_timestamp()
WHERE r.id = :run AND r.state = 'open'
  AND NOT EXISTS (SELECT FROM score_range g WHERE g.run = r.id AND NOT g.done)
""")
# An uplift may have been withdrawn between the look at the champions and the opening of its run.
HOLD = text("""
SELECT FROM score_range g JOIN score_run r ON r.id = g.run AND r.state = 'open'
WHERE g.run = :run AND g.first_id = :first AND g.epoch = :epoch AND NOT g.done
  AND (NOT starts_with(r.name, 'uplift:') OR EXISTS (
      SELECT FROM score_champion c WHERE c.name = r.name AND c.artifact = r.artifact))
FOR SHARE OF g, r
""")
FAULT = text("""
UPDATE score_range SET faults = faults + 1, fault = :fault, lease_until = NULL
WHERE run = :run AND first_id = :first AND epoch = :epoch AND NOT done
RETURNING faults
""")
FAIL = text("""
UPDATE score_run SET state = 'failed', reason = :why, ended_at = clock_timestamp()
WHERE id = :run AND state = 'open'
""")
PROGRESS = text("""
SELECT r.id, r.name, r.artifact, r.cutoff, r.state, r.reason, r.created_at, r.ended_at,
    count(g.run) AS ranges, count(g.run) FILTER (WHERE g.done) AS done,
    coalesce(sum(g.rows), 0)::bigint AS rows
FROM score_run r LEFT JOIN score_range g ON g.run = r.id
WHERE r.id = :run GROUP BY r.id
""")
WAITING = text("""
SELECT count(*) FROM score_range g JOIN score_run r ON r.id = g.run AND r.state = 'open'
WHERE NOT g.done AND (g.lease_until IS NULL OR g.lease_until <= clock_timestamp())
""")
NEWEST = text(
    "SELECT max(r.id) FROM score_run r WHERE CAST(:name AS text) IS NULL OR r.name = :name"
)


@dataclass(frozen=True, slots=True)
class Range:
    """Subscribers of a run that are ours to score: `first` inside, `end` outside."""

    run: int
    first: int
    end: int
    epoch: int
    name: str
    artifact: str
    cutoff: dt.datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; `rows`: scores written."""

    id: int
    name: str
    artifact: str
    cutoff: dt.datetime
    state: str
    reason: str | None
    created_at: dt.datetime
    ended_at: dt.datetime | None
    ranges: int
    done: int
    rows: int


def open_run(connection: Connection, name: str, artifact: str, size: int) -> tuple[int, bool]:
    """The open run of a score; its id, and whether it is new.

    Args:
        connection: in a transaction.
        name: of the score.
        artifact: its champion; a run of another one is superseded.
        size: subscribers a range.
    """
    connection.execute(
        SUPERSEDE,
        {"name": name, "artifact": artifact, "stale": STALE, "why": "begun anew"},
    )
    made = connection.execute(OPEN, {"name": name, "artifact": artifact}).scalar_one_or_none()
    if made is None:
        return int(connection.execute(IS_OPEN, {"name": name}).scalar_one()), False
    ranges = [
        {"run": made, "first": first, "end": end} for first, end in rfm.id_ranges(connection, size)
    ]
    if ranges:
        connection.execute(CUT, ranges)
    else:
        connection.execute(END, {"run": made})
    return int(made), True


def claim(connection: Connection, lease: float = 300.0) -> Range | None:
    """Take the next range of an open run for `lease` seconds; None: none is free."""
    held = {"lease": dt.timedelta(seconds=lease)}
    row = connection.execute(CLAIM, held).one_or_none()
    if row is None:
        return None
    return Range(row.run, row.first_id, row.end_id, row.epoch, row.name, row.artifact, row.cutoff)


def hold(connection: Connection, mine: Range) -> bool:
    """Whether a range is still ours, of a run that goes on; it stays so until the transaction ends."""
    values = {"run": mine.run, "first": mine.first, "epoch": mine.epoch}
    return connection.execute(HOLD, values).one_or_none() is not None


def finish(connection: Connection, mine: Range, rows: int) -> bool:
    """Mark a range done; False: it is somebody else's by now, and nothing may be written.

    The run itself is ended by `end_if_done`, after the commit: of two last ranges that finish at
    once neither sees the other.
    """
    values = {"run": mine.run, "first": mine.first, "epoch": mine.epoch, "rows": rows}
    return connection.execute(FINISH, values).rowcount == 1


def end_if_done(connection: Connection, run: int) -> None:
    """End a run whose every range is done."""
    connection.execute(END, {"run": run})


def fault(connection: Connection, mine: Range, why: str) -> None:
    """Give a range back after a fault; the third one fails the run."""
    values = {"run": mine.run, "first": mine.first, "epoch": mine.epoch, "fault": why[:500]}
    faults = connection.execute(FAULT, values).scalar_one_or_none() or 0
    if faults >= FAULTS:
        fail(connection, mine.run, f"range from {mine.first}, {FAULTS} times: {why}"[:500])


def fail(connection: Connection, run: int, why: str) -> None:
    """End a run that cannot be done."""
    connection.execute(FAIL, {"run": run, "why": why})


def progress(connection: Connection, run: int) -> Progress:
    """How far a run is.

    Raises:
        Permanent: there is no such run.
    """
    row = connection.execute(PROGRESS, {"run": run}).one_or_none()
    if row is None:
        raise Permanent(f"there is no scoring run {run}")
    return Progress(**row._mapping)


def waiting(connection: Connection) -> int:
    """Ranges that nobody holds."""
    return int(connection.execute(WAITING).scalar_one())


def newest(connection: Connection, name: str | None = None) -> int | None:
    """The last run, of one score or of all."""
    found: int | None = connection.execute(NEWEST, {"name": name}).scalar_one()
    return found
