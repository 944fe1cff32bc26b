"""What a fire does, from its claim to its end: in batches, under a lease, gone on with after a crash.

What a fire does is done in batches, each of which moves `after_id` of the fire in the transaction
of its enrollments: a crash loses nothing, and counts nothing twice. Who works on a fire holds it
by a lease and an epoch; a stale epoch writes nothing. An operator who takes the line away ends the
fire in between two batches.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from typing import Any

import structlog
from sqlalchemy import Connection, text

from models.session import Database
from schedules.entry import entry_from_json
from schedules.expression import read
from tasks.segments import segment_sql
from tasks.sequence.admission import admit_asked
from tasks.sequence.enroll import (
    ALL,
    ALL_ASK,
    BATCH,
    TARGET_HELD,
    selecting,
    selecting_to_ask,
)
from tasks.sequence.versions import Versions

LEASE = dt.timedelta(minutes=1)
BLOCKED = dt.timedelta(minutes=1)  # until a fire whose sequence is paused is looked at again
FAULTS = 10  # then it has failed: after two and a half hours
LONGEST_PAUSE = dt.timedelta(minutes=30)

log = structlog.get_logger()

TAKE = text("""
WITH next AS MATERIALIZED (
    SELECT f.schedule_key, f.fire_at FROM schedule_fire f
    WHERE f.state = 'claimed'
      AND (f.lease_until IS NULL OR f.lease_until <= (SELECT clock_timestamp()))
      AND (f.retry_at IS NULL OR f.retry_at <= (SELECT clock_timestamp()))
    ORDER BY f.lease_until NULLS FIRST, f.fire_at LIMIT 1 FOR UPDATE SKIP LOCKED)
UPDATE schedule_fire f
SET epoch = f.epoch + 1, lease_until = clock_timestamp() + :lease, retry_at = NULL
FROM next LEFT JOIN schedule s ON s.key = next.schedule_key
WHERE f.schedule_key = next.schedule_key AND f.fire_at = next.fire_at
RETURNING f.schedule_key AS key, f.fire_at, f.epoch, f.target, f.faults, f.after_id = 0 AS fresh,
    s.max_lateness, clock_timestamp() - f.fire_at AS late
""")
HOLD = text("""
SELECT f.after_id, f.detail FROM schedule_fire f
WHERE f.schedule_key = :key AND f.fire_at = :fire_at AND f.epoch = :epoch AND f.state = 'claimed'
FOR NO KEY UPDATE
""")
KEEP = text("""
UPDATE schedule_fire SET after_id = coalesce(:after_id, after_id), detail = detail || CAST(:detail AS jsonb),
    lease_until = clock_timestamp() + :lease
WHERE schedule_key = :key AND fire_at = :fire_at AND epoch = :epoch AND state = 'claimed'
""")
END = text("""
UPDATE schedule_fire SET state = :state, detail = detail || CAST(:detail AS jsonb),
    lease_until = NULL, retry_at = NULL, ended_at = clock_timestamp()
WHERE schedule_key = :key AND fire_at = :fire_at AND epoch = :epoch AND state = 'claimed'
""")
LET_GO = text("""
UPDATE schedule_fire SET lease_until = NULL, retry_at = clock_timestamp() + :pause,
    detail = detail || CAST(:detail AS jsonb), faults = faults + :faults
WHERE schedule_key = :key AND fire_at = :fire_at AND epoch = :epoch AND state = 'claimed'
RETURNING faults
""")


def work(database: Database, *, budget: float, ring: Callable[[str], bool]) -> dict[str, int]:
    """Do what claimed fires ask for, one after the other, for `budget` seconds.

    Args:
        database: where they are.
        budget: what is not done then is left where it stands; the next doorbell goes on.
        ring: starts a task by name, and says whether the broker took it.

    Returns:
        Fires that ended, by state, and how many people `entered`.
    """
    until = time.monotonic() + budget
    told = {"done": 0, "missed": 0, "failed": 0, "entered": 0}
    while time.monotonic() < until:
        with database.transaction() as connection:
            fire = connection.execute(TAKE, {"lease": LEASE}).one_or_none()
        if fire is None:
            break
        work = _Work(database, fire)
        try:
            state = work.run(until, ring)
        except Exception as fault:
            work.fault(type(fault).__name__)
            raise
        told["entered"] += work.entered
        if state:
            told[state] += 1
    return told


class _Work:
    """One fire, held by a lease under its epoch."""

    def __init__(self, database: Database, fire: Any) -> None:
        self.entered = 0
        self._database = database
        self._fire = fire
        self._key = fire.target.get("into") or fire.target.get("sequence")
        self._selected: dict[bool, tuple[Any, dict[str, Any]]] = {}
        self._versions = Versions(database)
        self._id = {"key": fire.key, "fire_at": fire.fire_at, "epoch": fire.epoch}

    def run(self, until: float, ring: Callable[[str], bool]) -> str:
        """Work on it; the state in which it ended, or "": it goes on later, or elsewhere."""
        fire = self._fire
        if fire.max_lateness is None:
            return self._end("missed", reason="removed")
        # Once it has begun it is brought to its end: half an audience helps nobody.
        if fire.fresh and fire.late > fire.max_lateness:
            return self._end("missed", reason="too_late")
        if "task" in fire.target:
            if ring(fire.target["task"]):
                return self._end("done")
            self._let_go(BLOCKED, waits_for="the broker")
            return ""
        while time.monotonic() < until:
            with self._database.transaction() as connection:
                over = self._batch(connection)
            if over is not None:
                return over
        self._let_go(dt.timedelta(0))
        return ""

    def fault(self, kind: str) -> None:
        """Put it off after an exception: 1, 2, 4 … 30 minutes; the tenth one ends it."""
        pause = min(BLOCKED * 2**self._fire.faults, LONGEST_PAUSE)
        faults = self._let_go(pause, faults=1, fault=kind)
        if faults >= FAULTS:
            self._end("failed", reason="fault", why=f"{FAULTS} times: {kind}; see the log")

    def _batch(self, connection: Connection) -> str | None:
        """Enroll up to 5 000; None: there are more, "": it is no longer ours or has to wait."""
        held = connection.execute(HOLD, self._id).one_or_none()
        if held is None:
            log.info("schedule_fire_lost", schedule=self._fire.key)
            return ""
        key = self._key
        sequence = connection.execute(TARGET_HELD, {"key": key}).one_or_none()
        if sequence is None:
            why = f"sequence {key!r} is not published any more"
            return self._end("failed", connection, reason="no_sequence", why=why)
        if sequence.paused_at is not None:
            if self._fire.late > self._fire.max_lateness:
                return self._end("missed", connection, reason="sequence_paused")
            self._let_go(BLOCKED, connection, waits_for=f"sequence {key}, which is paused")
            return ""
        # Who comes in where nobody new does is judged too, so that each has a reason.
        ruled = entry_from_json(sequence.entry).ruled or sequence.draining_since is not None
        statement, chosen = self._audience(ruled)
        values = {
            "key": key,
            "stream_class": sequence.stream_class,
            "after": held.after_id,
            **chosen,
        }
        values |= {"cause": "schedule"} if ruled else {"version": sequence.version}
        row = connection.execute(statement, values).one()
        refused = {"stopped": row.stopped, "suppressed": row.suppressed}
        if ruled:
            asked = row.asked or []
            enrolled, already, others = admit_asked(connection, key, self._versions, asked)
            waiting = len(asked) - enrolled - already - others
            refused |= {"already_enrolled": already, "refused": others, "waiting": waiting}
        else:
            enrolled = row.enrolled
            refused["already_enrolled"] = row.already_enrolled + row.eligible - enrolled
        counts = {"enrolled": enrolled, **refused}
        detail = {name: held.detail.get(name, 0) + count for name, count in counts.items()}
        kept = {"after_id": row.last_id, "detail": json.dumps(detail), "lease": LEASE}
        connection.execute(KEEP, self._id | kept)
        self.entered += enrolled
        # Of those that were walked over a condition tells only whom it holds of: the end is where
        # nobody is left to walk over.
        over = row.last_id is None if "segment" in self._fire.target else row.looked_at < BATCH
        return self._end("done", connection) if over else None

    def _audience(self, ruled: bool) -> tuple[Any, dict[str, Any]]:
        """The statement that enrolls the next batch, or asks for it, and its condition's parameters."""
        if ruled not in self._selected:
            self._selected[ruled] = (ALL_ASK if ruled else ALL)[True], {}
            if "segment" in self._fire.target:
                where, parameters = segment_sql(read(self._fire.target["segment"]))
                choose = selecting_to_ask if ruled else selecting
                self._selected[ruled] = choose(where, write=True), parameters
        return self._selected[ruled]

    def _end(self, state: str, connection: Connection | None = None, **detail: str) -> str:
        if connection is None:
            with self._database.transaction() as connection:
                return self._end(state, connection, **detail)
        done = connection.execute(END, self._id | {"state": state, "detail": json.dumps(detail)})
        if done.rowcount:
            say = log.info if state == "done" else log.warning
            say("schedule_fire_ended", schedule=self._fire.key, state=state, **detail)
        return state if done.rowcount else ""

    def _let_go(
        self,
        pause: dt.timedelta,
        connection: Connection | None = None,
        faults: int = 0,
        **detail: str,
    ) -> int:
        if connection is None:
            with self._database.transaction() as connection:
                return self._let_go(pause, connection, faults, **detail)
        values = {"pause": pause, "detail": json.dumps(detail), "faults": faults}
        return connection.execute(LET_GO, self._id | values).scalar_one_or_none() or 0
