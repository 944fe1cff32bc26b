"""What happened to those who wait, since the last look: an event they wait for, another zone.

Both are written down by triggers, so whoever records an event or changes a zone holds no enrollment.
Here the enrollments are taken if they are free; where one is not, the note stays for the next look: a
planner that holds it may have read what was before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from sqlalchemy import Connection, text

from models.session import Database
from schedules.definition import Sequence
from schedules.localtime import TZDATA_VERSION, is_zone
from tasks.sequence.retime import depends_on_zone, retime

BATCH = 2000

log = structlog.get_logger()

# Of each subscriber the enrollments that are free; one that is not keeps the note.
WAKE = text("""
WITH note AS MATERIALIZED (
    SELECT w.id, w.subscriber_id, w.name FROM event_wake w ORDER BY w.id LIMIT :n
    FOR UPDATE SKIP LOCKED),
wanted AS MATERIALIZED (
    SELECT DISTINCT e.id, n.subscriber_id FROM note n
    JOIN enrollment e ON e.subscriber_id = n.subscriber_id AND e.active),
free AS MATERIALIZED (
    SELECT e.id, e.due_at, e.wait_rule FROM enrollment e
    WHERE e.id = ANY(ARRAY(SELECT id FROM wanted))
    ORDER BY e.id FOR NO KEY UPDATE SKIP LOCKED),
woken AS (
    UPDATE enrollment e SET due_at = clock_timestamp()
    FROM free f, note n
    WHERE e.id = f.id AND n.subscriber_id = e.subscriber_id AND f.wait_rule ->> 'event' = n.name
      AND f.due_at > clock_timestamp() AND f.due_at < 'infinity'
    RETURNING e.id),
done AS (
    DELETE FROM event_wake w USING note n
    WHERE w.id = n.id AND NOT EXISTS (
        SELECT 1 FROM wanted t WHERE t.subscriber_id = n.subscriber_id
          AND t.id NOT IN (SELECT id FROM free))
    RETURNING w.id)
SELECT (SELECT count(*) FROM woken) AS woken, (SELECT count(*) FROM done) AS done
""")

CHANGED = text("""
SELECT c.id, c.subscriber_id FROM zone_change c ORDER BY c.id LIMIT :n FOR UPDATE SKIP LOCKED
""")
FORGET = text("DELETE FROM zone_change WHERE id = ANY(:ids)")
WAITING = text("""
SELECT e.id, e.subscriber_id FROM enrollment e
WHERE e.subscriber_id = ANY(:subscribers) AND e.active
""")
# Held, at 'infinity', which psycopg does not know, it is resolved when it is woken.
_PENDING = """
SELECT e.id, e.subscriber_id, e.sequence_key, e.sequence_version, e.step_id,
    NULLIF(e.due_at, 'infinity') AS due_at, e.wait_rule, s.zone, clock_timestamp() AS now
FROM enrollment e JOIN subscriber s ON s.id = e.subscriber_id
"""
TAKE = text(
    _PENDING
    + """WHERE e.id = ANY(:ids) AND e.active
ORDER BY e.id FOR NO KEY UPDATE OF e SKIP LOCKED"""
)
DATA = text("SELECT version, after_id FROM zone_data FOR UPDATE SKIP LOCKED")
OLD = text(
    _PENDING
    + """WHERE e.id > :after AND e.id <= :last AND e.active
  AND e.wait_rule ->> 'tzdata' < :version
ORDER BY e.id FOR NO KEY UPDATE OF e SKIP LOCKED"""
)
LAST = text(
    "SELECT max(id) FROM (SELECT id FROM enrollment WHERE id > :after ORDER BY id LIMIT :n) x"
)
READ_ON = text("UPDATE zone_data SET after_id = :after, version = :version")
MOVE = text("""
UPDATE enrollment e SET due_at = r.due_at, wait_rule = CAST(r.rule AS jsonb)
FROM unnest(CAST(:ids AS bigint[]), CAST(:due AS timestamptz[]), CAST(:rules AS text[]))
     AS r (id, due_at, rule)
WHERE e.id = r.id
""")
LOG = text("""
INSERT INTO decision (enrollment_id, subscriber_id, sequence_key, step_id, kind, reason, detail)
SELECT e.id, e.subscriber_id, e.sequence_key, e.step_id, r.kind, r.reason, CAST(r.detail AS jsonb)
FROM unnest(CAST(:ids AS bigint[]), CAST(:kinds AS text[]), CAST(:reasons AS text[]),
            CAST(:details AS text[])) WITH ORDINALITY AS r (id, kind, reason, detail, n)
JOIN enrollment e ON e.id = r.id
ORDER BY r.n
""")

Definition = Callable[[str, int], Sequence]
_current = False


def look(database: Database, definition: Definition) -> int:
    """Wake those whose event came, and move those whose zone changed; returns how many moved."""
    moved = 0
    steps: list[Callable[[Connection], tuple[int, bool]]] = [events, lambda c: zones(c, definition)]
    if not _current:
        steps.append(lambda c: zone_data(c, definition))
    for step in steps:
        while True:
            with database.transaction() as connection:
                found, more = step(connection)
            moved += found
            if not more:
                break
    return moved


def events(connection: Connection, n: int = BATCH) -> tuple[int, bool]:
    """Make due who waits for an event that was recorded; returns how many, and whether more are left."""
    row = connection.execute(WAKE, {"n": n}).one()
    return row.woken, row.done >= n


def zones(connection: Connection, definition: Definition, n: int = BATCH) -> tuple[int, bool]:
    """Resolve the pending waits of subscribers whose zone changed again; as `events`."""
    notes = connection.execute(CHANGED, {"n": n}).all()
    if not notes:
        return 0, False
    subscribers = sorted({note.subscriber_id for note in notes})
    wanted = connection.execute(WAITING, {"subscribers": subscribers}).all()
    rows = connection.execute(TAKE, {"ids": [row.id for row in wanted]}).all() if wanted else []
    free = {row.id for row in rows}
    later = {row.subscriber_id for row in wanted if row.id not in free}
    moved = _move(connection, rows, definition)
    done = [note.id for note in notes if note.subscriber_id not in later]
    connection.execute(FORGET, {"ids": done})
    return moved, len(done) >= n


def zone_data(connection: Connection, definition: Definition, n: int = BATCH) -> tuple[int, bool]:
    """Resolve what an older release of the zone data resolved; it goes on where it ended. As `events`."""
    global _current
    row = connection.execute(DATA).one_or_none()
    if row is None:  # another planner is at it
        return 0, False
    if row.version >= TZDATA_VERSION:  # never back, while a fleet is restarted one by one
        _current = True
        return 0, False
    last = connection.execute(LAST, {"after": row.after_id, "n": n}).scalar_one()
    if last is None:
        connection.execute(READ_ON, {"after": 0, "version": TZDATA_VERSION})
        log.info("zone_data_current", version=TZDATA_VERSION)
        return 0, True
    values = {"after": row.after_id, "last": last, "version": TZDATA_VERSION}
    moved = _move(connection, connection.execute(OLD, values).all(), definition, told=False)
    connection.execute(READ_ON, {"after": last, "version": row.version})
    return moved, True


def _move(
    connection: Connection, rows: Iterable[Any], definition: Definition, *, told: bool = True
) -> int:
    """Move pending waits; elapsed ones stay. `told`: also where the time stays, the log says so."""
    found: list[tuple[int, Any, str]] = []
    said: list[tuple[int, str, str, str]] = []
    for row in rows:
        rule = row.wait_rule
        if not rule or not depends_on_zone(rule) or row.due_at is None or row.due_at <= row.now:
            continue
        try:
            fallback = definition(row.sequence_key, row.sequence_version).timezone.fallback
        except ValueError as fault:
            log.error("wait_not_resolved", enrollment=row.id, why=str(fault))
            continue
        zone = row.zone if is_zone(row.zone) else fallback
        until, kept = retime(rule, zone, row.now)
        if until == row.due_at and kept == rule:
            continue
        found.append((row.id, until, json.dumps(dict(kept))))
        if zone != row.zone:
            detail = {"zone": row.zone[:64] if row.zone else None, "used": zone}
            why = "unknown" if row.zone else "missing"
            said.append((row.id, "zone_fallback", why, json.dumps(detail)))
        if told or until != row.due_at:
            words = {"until": until.isoformat(), "zone": zone}
            words |= {"wall": kept["wall"]} if "wall" in kept else {}
            why = "zone" if told else "tzdata"
            said.append((row.id, "retimed", why, json.dumps(words)))
    if found:
        ids, due, rules = zip(*found, strict=True)
        connection.execute(MOVE, {"ids": list(ids), "due": list(due), "rules": list(rules)})
    if said:
        ids, kinds, reasons, details = zip(*said, strict=True)
        values = {"ids": list(ids), "kinds": list(kinds), "reasons": list(reasons)}
        connection.execute(LOG, values | {"details": list(details)})
    return len(found)
