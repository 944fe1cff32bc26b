"""The rows of segment runs: asked for, taken under a lease, moved on stage by stage, promoted.

::

    coreset → cut → assign → judge → done
        └────────┴───────┴───────┴──→ refused     (with its sentence)

A run is worked on by whoever holds its lease under its epoch; a stale epoch writes nothing. What a
stage has computed is a row of segment_step, so that a kill costs the step that was in hand. Who is
in which segment is in `members`.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from tasks.errors import Permanent
from tasks.quantum.request import Request
from tasks.quantum.settings import QuantumSettings

FAULTS: Final = 3
TAKES: Final = 40
"""Epochs (a take and a move count one each) after which a run brings its worker down each time."""
PAUSE: Final = dt.timedelta(seconds=20)
LOCK_SPACE: Final = 7_106

# One run a segment at a time: a second request finds the first.
INSERT = text("""
INSERT INTO segment_run (segment, artifact, stage, request, noisy)
SELECT :segment, :artifact, 'coreset', CAST(:request AS jsonb), :noisy
WHERE NOT EXISTS (
    SELECT FROM segment_run r WHERE r.segment = :segment AND r.stage NOT IN ('done', 'refused'))
RETURNING id
""")
UNDER_WAY = text("""
SELECT r.id FROM segment_run r WHERE r.segment = :segment AND r.stage NOT IN ('done', 'refused')
ORDER BY r.id LIMIT 1
""")
LOCK = text("SELECT pg_advisory_xact_lock(:space, 0)")

# Noisy runs one at a time in the whole fleet: each fills a core for minutes.
TAKE = text("""
WITH next AS MATERIALIZED (
    SELECT r.id FROM segment_run r
    WHERE r.stage = ANY(:stages) AND (r.noisy = :noisy OR r.stage = 'coreset')
      AND (r.lease_until IS NULL OR r.lease_until <= clock_timestamp())
      AND (r.retry_at IS NULL OR r.retry_at <= clock_timestamp())
      AND NOT (:noisy AND r.stage <> 'coreset' AND EXISTS (
          SELECT FROM segment_run o WHERE o.noisy AND o.id <> r.id
             AND o.stage NOT IN ('coreset', 'done', 'refused') AND o.lease_until > clock_timestamp()))
    ORDER BY r.id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
UPDATE segment_run r SET epoch = r.epoch + 1, retry_at = NULL, lease_until = clock_timestamp() + :lease
FROM next WHERE r.id = next.id
RETURNING r.id, r.segment, r.stage, r.epoch, r.faults, r.after_id, r.request
""")
TAKE_ONE = text("""
UPDATE segment_run r SET epoch = r.epoch + 1, retry_at = NULL, lease_until = clock_timestamp() + :lease
WHERE r.id = :run AND r.stage NOT IN ('done', 'refused')
  AND (r.lease_until IS NULL OR r.lease_until <= clock_timestamp())
RETURNING r.id, r.segment, r.stage, r.epoch, r.faults, r.after_id, r.request
""")
HELD = text("""
UPDATE segment_run r SET lease_until = clock_timestamp() + :lease
WHERE r.id = :run AND r.epoch = :epoch AND r.stage NOT IN ('done', 'refused')
RETURNING r.after_id
""")
# Another epoch, so that whoever still keeps the lease of the stage that is over keeps nothing.
MOVE = text("""
UPDATE segment_run r SET stage = :stage, epoch = r.epoch + 1, after_id = 0, faults = 0, lease_until = NULL, retry_at = NULL,
    report = CASE WHEN CAST(:report AS jsonb) IS NULL THEN r.report ELSE CAST(:report AS jsonb) END,
    why = coalesce(:why, r.why),
    ended_at = CASE WHEN :stage IN ('done', 'refused') THEN clock_timestamp() END
WHERE r.id = :run AND r.epoch = :epoch AND r.stage NOT IN ('done', 'refused')
RETURNING r.id
""")
LET_GO = text("""
UPDATE segment_run r SET lease_until = NULL, retry_at = clock_timestamp() + :pause,
    faults = r.faults + :faults, why = :why
WHERE r.id = :run AND r.epoch = :epoch AND r.stage NOT IN ('done', 'refused')
""")
STEPS = text("SELECT s.step, s.value FROM segment_step s WHERE s.run = :run")
PUT_STEP = text("""
INSERT INTO segment_step (run, step, value) VALUES (:run, :step, CAST(:value AS jsonb))
ON CONFLICT (run, step) DO NOTHING
""")
CORESET = text("SELECT c.value FROM segment_coreset c WHERE c.digest = :digest")
PUT_CORESET = text("""
INSERT INTO segment_coreset (digest, value) VALUES (:digest, CAST(:value AS jsonb))
ON CONFLICT (digest) DO NOTHING
""")
# A coreset is as old as its events: a month later nobody asks for the same one again.
OLD_CORESETS = text("""
DELETE FROM segment_coreset c WHERE c.created_at < clock_timestamp() - interval '30 days'
""")

ONE = text("""
SELECT r.id, r.segment, r.artifact, r.stage, r.created_at, r.ended_at, r.promoted_at, r.request,
    r.report, r.why, r.faults
FROM segment_run r
WHERE CASE WHEN CAST(:run AS bigint) IS NULL THEN r.segment = :segment ELSE r.id = :run END
ORDER BY r.id DESC LIMIT 1
""")
LIST = text("""
SELECT r.id AS run, r.segment, r.stage, r.artifact, r.report ->> 'verdict' AS verdict, r.why,
    r.created_at, r.ended_at, r.promoted_at,
    CAST(r.report #>> '{subscribers}' AS bigint) AS subscribers
FROM segment_run r WHERE CAST(:segment AS text) IS NULL OR r.segment = :segment
ORDER BY r.segment, r.id DESC LIMIT 200
""")
PROMOTE = text("UPDATE segment_run SET promoted_at = clock_timestamp() WHERE id = :run")
# What is run again by the clock: each segment as it was asked for last, if that came to an end.
LATEST = text("""
SELECT DISTINCT ON (r.segment) r.segment, r.request FROM segment_run r
WHERE r.stage = 'done' AND r.request <> '{}' ORDER BY r.segment, r.id DESC
""")
CLOCK = text("SELECT clock_timestamp()")


# One that nobody holds is rung for every second; within a tenth of an hour somebody takes it.
STANDING = text("""
SELECT r.id, r.segment, r.stage, r.noisy, r.faults, r.why,
    extract(epoch FROM clock_timestamp() - greatest(r.created_at, r.lease_until, r.retry_at))::float8 AS ago
FROM segment_run r
WHERE r.stage NOT IN ('done', 'refused')
  AND greatest(r.created_at, r.lease_until, r.retry_at) < clock_timestamp() - CAST(:still AS interval)
ORDER BY r.id LIMIT 20
""")
# The newest run of a segment, if it came to nothing lately.
REFUSED = text("""
SELECT r.id, r.segment, r.why FROM (
    SELECT DISTINCT ON (r.segment) r.id, r.segment, r.stage, r.why, r.ended_at
    FROM segment_run r ORDER BY r.segment, r.id DESC) r
WHERE r.stage = 'refused' AND r.ended_at > clock_timestamp() - interval '7 days'
ORDER BY r.segment LIMIT 20
""")


@dataclass(frozen=True)
class Taken:
    """A run that is ours under its epoch."""

    id: int
    stage: str
    epoch: int
    faults: int
    after_id: int
    request: Request


def _lease() -> dt.timedelta:
    return dt.timedelta(seconds=QuantumSettings().quantum_lease)


def now(connection: Connection) -> dt.datetime:
    """The server's clock."""
    at: dt.datetime = connection.execute(CLOCK).scalar_one()
    return at


def ask(connection: Connection, request: Request) -> tuple[int, bool]:
    """Ask for a run; its id, and whether it is new (else one of this segment is under way)."""
    connection.execute(LOCK, {"space": LOCK_SPACE})
    row = connection.execute(
        INSERT,
        {
            "segment": request.segment,
            "artifact": request.artifact,
            "request": json.dumps(request.as_json()),
            "noisy": request.noisy,
        },
    ).one_or_none()
    if row is not None:
        return int(row.id), True
    return int(connection.execute(UNDER_WAY, {"segment": request.segment}).scalar_one()), False


def ask_again(connection: Connection, as_of: dt.datetime) -> list[int]:
    """Ask for every segment anew, as it was asked for last; the runs that are new."""
    made = []
    for row in connection.execute(LATEST).all():
        again = Request.from_json({**row.request, "as_of": as_of.isoformat()})
        run, new = ask(connection, again)
        if new:
            made.append(run)
    return made


def take(connection: Connection, stages: Sequence[str], *, noisy: bool) -> Taken | None:
    """The oldest run that waits in one of these stages, now ours; None: there is none."""
    if noisy:
        connection.execute(LOCK, {"space": LOCK_SPACE})
    row = connection.execute(
        TAKE, {"stages": list(stages), "noisy": noisy, "lease": _lease()}
    ).one_or_none()
    if row is None:
        return None
    return Taken(
        row.id, row.stage, row.epoch, row.faults, row.after_id, Request.from_json(row.request)
    )


def take_one(connection: Connection, run: int) -> Taken | None:
    """That run, now ours; None: it is over, or somebody else works on it."""
    row = connection.execute(TAKE_ONE, {"run": run, "lease": _lease()}).one_or_none()
    if row is None:
        return None
    return Taken(
        row.id, row.stage, row.epoch, row.faults, row.after_id, Request.from_json(row.request)
    )


def keep(connection: Connection, run: Taken) -> bool:
    """Extend the lease; False: the run is somebody else's by now, or over."""
    held = connection.execute(HELD, {"run": run.id, "epoch": run.epoch, "lease": _lease()})
    return held.one_or_none() is not None


def steps(connection: Connection, run: int) -> dict[str, Any]:
    """What was computed so far, by step."""
    return {row.step: row.value for row in connection.execute(STEPS, {"run": run})}


def put_step(connection: Connection, run: Taken, step: str, value: Mapping[str, Any]) -> bool:
    """Write a step down; False: the run is not ours any more, and nothing was written."""
    if not keep(connection, run):
        return False
    connection.execute(PUT_STEP, {"run": run.id, "step": step, "value": json.dumps(value)})
    return True


def move(
    connection: Connection, run: Taken, stage: str, *, report: Any = None, why: str | None = None
) -> bool:
    """Bring the run to its next stage and let go of it; False: it was not ours."""
    values = {
        "run": run.id,
        "epoch": run.epoch,
        "stage": stage,
        "report": None if report is None else json.dumps(report),
        "why": why,
    }
    return connection.execute(MOVE, values).one_or_none() is not None


def let_go(connection: Connection, run: Taken, why: str, *, fault: bool = True) -> None:
    """Put it off: 20, 40, 80 s after a fault."""
    pause = PAUSE * 2**run.faults if fault else dt.timedelta(0)
    connection.execute(
        LET_GO,
        {"run": run.id, "epoch": run.epoch, "pause": pause, "faults": int(fault), "why": why},
    )


def turn_away(connection: Connection, stages: Sequence[str], *, noisy: bool, why: str) -> None:
    """Put off the oldest run that waits, since nobody here can work on it; at last refuse it."""
    run = take(connection, stages, noisy=noisy)
    if run is not None and run.faults + 1 >= FAULTS:
        move(connection, run, "refused", why=why)
    elif run is not None:
        let_go(connection, run, why)


def cached(connection: Connection, digest: bytes) -> dict[str, Any] | None:
    """A coreset that was computed before."""
    found: dict[str, Any] | None = connection.execute(CORESET, {"digest": digest}).scalar()
    return found


def cache(connection: Connection, digest: bytes, value: Mapping[str, Any]) -> None:
    """Keep a coreset for whoever asks for the same one."""
    connection.execute(PUT_CORESET, {"digest": digest, "value": json.dumps(value)})
    connection.execute(OLD_CORESETS)


def listed(connection: Connection, segment: str | None = None) -> list[dict[str, Any]]:
    """Runs, the newest of each segment first."""
    return [dict(row._mapping) for row in connection.execute(LIST, {"segment": segment})]


def found(connection: Connection, segment: str | None, run: int | None = None) -> Any:
    """The run of that id, or the newest of that segment.

    Raises:
        Permanent: there is none.
    """
    row = connection.execute(ONE, {"segment": segment, "run": run}).one_or_none()
    if row is None:
        what = f"run {run}" if run is not None else f"run of segment {segment!r}"
        raise Permanent(f"there is no {what}: see `dripfleet quantum segment list`")
    return row


def promote(connection: Connection, run: int) -> None:
    """Make it what `segment(NAME, promoted=true)` sees from now on."""
    connection.execute(PROMOTE, {"run": run})


def standing(connection: Connection, still: float) -> list[Any]:
    """Runs that nobody has worked on for `still` seconds: id, segment, stage, noisy, faults, why, ago."""
    return list(connection.execute(STANDING, {"still": dt.timedelta(seconds=still)}).all())


def refused(connection: Connection) -> list[Any]:
    """The newest runs of their segments that were refused within a week: id, segment, why."""
    return list(connection.execute(REFUSED).all())
