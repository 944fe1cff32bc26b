"""What an event does when it arrives: it converts, ends enrollments, and asks for entries.

An event that some version listens for stands in `event_news` until it was acted upon, in one
transaction with what it does: so each acts once, whatever commits late, and in whichever order.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from models.session import Database
from schedules.entry import EventTrigger
from tasks.crashpoint import reached
from tasks.moves import leave as moves
from tasks.sequence import admission, edges, goals, room
from tasks.sequence.versions import Versions

BATCH: Final = 1000

TAKE = text("""
DELETE FROM event_news n
WHERE n.event_id = ANY(ARRAY(
    SELECT x.event_id FROM event_news x ORDER BY x.event_id LIMIT :n FOR UPDATE SKIP LOCKED))
RETURNING n.event_id, n.occurred_at, n.recorded_at, n.subscriber_id, n.name,
    clock_timestamp() - n.occurred_at AS age
""")
WAITING = text(f"""
SELECT EXISTS (SELECT 1 FROM event_news) OR EXISTS ({room.OPEN_SQL})
""")

# Whoever is in a version with an exit rule of that event, unless it happened before they entered.
LEAVING = text(f"""
SELECT DISTINCT e.id, e.sequence_key, e.sequence_version, x.name
FROM {goals.OF_NEWS}
JOIN sequence_watch w ON w.kind = 'exit' AND w.sequence_key = e.sequence_key
    AND w.version = e.sequence_version AND w.name = x.name
WHERE e.active AND {goals.AFTER_ENTRY}
""")
LISTENING = text("""
SELECT w.name, w.sequence_key, w.version FROM sequence_watch w
JOIN sequence q ON q.key = w.sequence_key AND q.version = w.version
WHERE w.kind = 'entry' AND w.name = ANY(:names) ORDER BY w.sequence_key
""")


@dataclass(frozen=True, slots=True)
class Acted:
    """What a round did: events, conversions, enrollments that ended, requests, and entries."""

    events: int = 0
    converted: int = 0
    left: int = 0
    asked: int = 0
    entered: int = 0
    refused: int = 0
    held: int = 0


class Doorkeeper:
    """Acts on news and lets people in; one a process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._versions = Versions(database)

    def work(self, *, budget: float) -> dict[str, int]:
        """Act on what has come in and on whose turn it is, for `budget` seconds; returns counts."""
        until = time.monotonic() + budget
        told = dict.fromkeys(Acted.__slots__, 0)
        while time.monotonic() < until:
            done = self.round()
            for name in told:
                told[name] += getattr(done, name)
            if not (done.events or done.asked or done.entered or done.refused or done.held):
                break
        return told

    def round(self) -> Acted:
        """Act on up to 1 000 events, then on up to 1 000 requests of each sequence."""
        with self._database.transaction() as connection:
            heard = self._hear(connection)
            if any(heard):
                reached("enter.written")
        entered = refused = held = 0
        with self._database.transaction() as connection:
            open_ = list(connection.execute(room.OPEN).scalars())
        for key in open_:
            with self._database.transaction() as connection:
                done = admission.admit(connection, key, self._versions)
                if done.entered:
                    reached("enter.written")
            if done.entered:
                reached("enter.committed")
            entered += len(done.entered)
            refused += len(done.refused)
            held += done.held
        return Acted(*heard, entered, refused, held)

    def _hear(self, connection: Connection) -> tuple[int, int, int, int]:
        """Events, conversions, enrollments that ended, and requests."""
        asked = edges.read(connection)
        news = sorted(connection.execute(TAKE, {"n": BATCH}).all(), key=lambda n: n.event_id)
        if not news:
            return 0, 0, 0, asked
        converted = goals.by_events(connection, news, self._versions)
        left = self._leave(connection, news)
        return len(news), converted, left, asked + self._ask(connection, news)

    def _leave(self, connection: Connection, news: Sequence[Any]) -> int:
        """R12: who did what ends a sequence leaves it now, also while it is paused (R11)."""
        values = {"ids": [n.event_id for n in news], "occurred": [n.occurred_at for n in news]}
        happened: dict[Any, set[str]] = {}
        for row in connection.execute(LEAVING, values):
            at = (row.id, row.sequence_key, row.sequence_version)
            happened.setdefault(at, set()).add(row.name)
        leaving = []
        for (id_, key, version), names in sorted(happened.items()):
            sequence = self._versions(key, version)
            for rule in sequence.exits if sequence else ():
                if rule.event in names:
                    leaving.append(moves.Leaving(id_, rule.reason, f"{rule.event} happened"))
                    break
        return len(moves.leave(connection, leaving))

    def _ask(self, connection: Connection, news: Sequence[Any]) -> int:
        names = sorted({n.name for n in news})
        doors: dict[str, list[tuple[str, dt.timedelta]]] = {}
        for row in connection.execute(LISTENING, {"names": names}):
            sequence = self._versions(row.sequence_key, row.version)
            trigger = sequence.entry.trigger if sequence else None
            if isinstance(trigger, EventTrigger):
                doors.setdefault(row.name, []).append((row.sequence_key, trigger.max_age))
        asking: list[tuple[str, int, int | None, dt.datetime | None]] = []
        refused = []
        for event in news:
            for key, max_age in doors.get(event.name, ()):
                if event.age > max_age:
                    refused.append(admission.too_old(event, key, max_age))
                else:
                    asking.append((key, event.subscriber_id, event.event_id, event.occurred_at))
        room.refuse(connection, refused)
        return len(room.ask(connection, "event", asking))


def waiting(connection: Connection) -> bool:
    """Whether an event or edge was not acted upon, or it is somebody's turn to come in."""
    return bool(connection.execute(WAITING).scalar_one()) or edges.waiting(connection)
