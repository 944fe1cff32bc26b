"""How those who asked come into a sequence: batch by batch, judged, one writer a sequence at a time.

::

    event, edge, fire, hand → entry_request ─judge→ enrollment | entry_refusal | later
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Connection, text

from schedules import definition
from schedules.durations import format_duration
from schedules.entry import Entry
from schedules.expression import Expression
from schedules.expression.evaluate import Known, evaluate, holds
from tasks.moves import leave as moves
from tasks.sequence import goals, known, room
from tasks.sequence.outlook import stamp
from tasks.sequence.verdict import Asking, Enter, Hold, Refuse, judge

# "entr" as a number, in the space of two-argument locks: places, pace and entry numbers are one
# writer's. FOR SHARE, as where people are enrolled: a pause that is being written is waited for.
LOCK_SPACE: Final = 0x656E7472
LOCK = text("SELECT pg_advisory_xact_lock(:space, hashtext(:key))")
TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:space, hashtext(:key))")
TARGET = text("""
SELECT q.version, q.paused_at, q.draining_since, q.drain_reason, t.class AS stream_class
FROM sequence q JOIN stream t ON t.key = q.stream WHERE q.key = :key FOR SHARE OF q
""")

TAKEN = text("""
SELECT dedupe_key FROM enrollment WHERE sequence_key = :key AND dedupe_key = ANY(:keys)
""")

# Whoever comes in at the same moment by hand was first; the request is judged again then.
ENTER = text("""
INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id, entry_no, dedupe_key,
    triggered_at, event, due_at)
SELECT :key, :version, r.subscriber_id, r.entry_no, r.dedupe_key, r.triggered_at,
    CAST(r.event AS jsonb), clock_timestamp()
FROM unnest(CAST(:subscribers AS bigint[]), CAST(:numbers AS integer[]), CAST(:dedupe AS text[]),
            CAST(:triggered AS timestamptz[]), CAST(:events AS text[]))
     AS r (subscriber_id, entry_no, dedupe_key, triggered_at, event)
ORDER BY r.subscriber_id
ON CONFLICT DO NOTHING
RETURNING id, subscriber_id
""")

LONGEST_KEY: Final = 200

# Of those who are asked for a thousand at a time, what stands beside their name anyway.
_PLAIN: Final = frozenset({"already_entered", "active", "stopped", "suppressed"})


@dataclass(slots=True)
class Admitted:
    """What became of requests: ids of those who came in, reasons by id of those who did not.

    `entered` has the id of each enrollment by that of its request; `looked_at` is how many were.
    """

    entered: dict[int, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    held: int = 0
    looked_at: int = 0


def admit(
    connection: Connection, key: str, definitions: goals.Definitions, *, wait: bool = False
) -> Admitted:
    """Judge up to 1 000 of those whose turn it is in a sequence, in the caller's transaction.

    Args:
        connection: inside a transaction, which then holds the sequence's entries.
        key: of the sequence.
        definitions: the version of a sequence.
        wait: for whoever else lets people in there; otherwise nothing is done then.
    """
    done = Admitted()
    values = {"space": LOCK_SPACE, "key": key}
    if wait:
        connection.execute(LOCK, values)
    elif not connection.execute(TRY_LOCK, values).scalar_one():
        return done
    target = connection.execute(TARGET, {"key": key}).one_or_none()
    if target is None or target.paused_at is not None:
        return done
    sequence = definitions(key, target.version)
    if sequence is None:
        return done
    places = room.Places(connection, key, sequence.entry.admission)
    # Who is refused takes no place, and waits for nothing.
    draining = target.draining_since is not None
    n = room.BATCH if draining else min(places.free, room.BATCH)
    if n <= 0:
        return done
    values = {"key": key, "n": n, "stream_class": target.stream_class, "all": draining}
    rows = connection.execute(room.TAKE, values).all()
    if rows:
        _Batch(connection, sequence, target, rows, done).write(definitions)
        places.used(len(done.entered))
    return done


class _Batch:
    """Requests that are judged together, and what is to be written of them."""

    def __init__(
        self,
        connection: Connection,
        sequence: definition.Sequence,
        target: Any,
        rows: Sequence[Any],
        done: Admitted,
    ) -> None:
        self._connection, self._sequence, self._target = connection, sequence, target
        self._done = done
        self._rows = rows
        self._known = _known(connection, sequence.entry, rows)
        self._keys = {row.id: self._key(row) for row in rows}
        asked = [key for key in self._keys.values() if key is not None]
        self._taken: set[str] = set()
        if asked:
            values = {"key": sequence.key, "keys": asked}
            self._taken = set(connection.execute(TAKEN, values).scalars())
        self._enter: list[tuple[Any, bool]] = []
        self._refuse: list[tuple[Any, Refuse]] = []
        self._hold: list[tuple[int, dt.datetime, str | None]] = []
        self._judge()

    def _judge(self) -> None:
        entry = self._sequence.entry
        came: set[int] = set()
        queued: set[int] = set()
        for row in self._rows:
            if row.subscriber_id in came:
                # What they are now is known once this batch is written.
                self._hold.append((row.id, row.now, row.why))
                continue
            verdict = judge(entry, self._asking(entry, row, row.subscriber_id in queued))
            match verdict:
                case Enter():
                    self._enter.append((row, verdict.restart))
                    came.add(row.subscriber_id)
                    if (key := self._keys[row.id]) is not None:
                        self._taken.add(key)
                case Refuse():
                    self._refuse.append((row, verdict))
                case Hold():
                    self._hold.append((row.id, verdict.look_at, verdict.why))
                    queued.add(row.subscriber_id)
        self._done.looked_at = len(self._rows)

    def _asking(self, entry: Entry, row: Any, queued: bool) -> Asking:
        known_ = self._known[row.id]
        where = entry.where if row.cause == "event" else None
        return Asking(
            now=row.now,
            asked_at=row.asked_at,
            occurred_at=row.occurred_at,
            where=where is None or holds(where.root, known_) is True,
            passes=True if entry.filter is None else holds(entry.filter.root, known_),
            key=self._keys[row.id],
            taken=self._keys[row.id] in self._taken,
            stopped=row.stopped,
            suppressed=row.suppressed,
            entries=row.entries,
            active=row.active_id is not None,
            ended_at=row.ended_at,
            triggered_at=row.triggered_at,
            queued=row.queued or queued,
            waits=row.why in ("active", "cooldown"),
            draining=self._target.draining_since is not None,
        )

    def write(self, definitions: goals.Definitions) -> None:
        """Write what was decided: who leaves for it, who comes in, who not, who later."""
        again = [row.active_id for row, restart in self._enter if restart]
        because = "asked to come in again"
        moves.leave(
            self._connection, [moves.Leaving(id_, "restarted", because) for id_ in sorted(again)]
        )
        came = self._come_in()
        for row, _ in self._enter:
            if row.subscriber_id in came:
                self._done.entered[row.id] = came[row.subscriber_id]
            else:
                self._hold.append((row.id, row.now, row.why))
        if self._sequence.goal is not None and came:
            goals.by_entries(self._connection, list(came.values()), definitions)
        self._done.refused = {row.id: verdict.reason for row, verdict in self._refuse}
        kept = [
            self._refusal(row, verdict)
            for row, verdict in self._refuse
            if row.cause in ("event", "segment") or verdict.reason not in _PLAIN
        ]
        room.refuse(self._connection, kept)
        gone = [*self._done.entered, *self._done.refused]
        if gone:
            self._connection.execute(room.GONE, {"ids": gone})
        room.hold(self._connection, self._hold)
        self._done.held = len(self._hold)

    def _come_in(self) -> dict[int, int]:
        """Enroll; enrollment ids by subscriber."""
        if not self._enter:
            return {}
        rows = [row for row, _ in self._enter]
        found = self._connection.execute(
            ENTER,
            {
                "key": self._sequence.key,
                "version": self._target.version,
                "subscribers": [row.subscriber_id for row in rows],
                "numbers": [(row.last_no or 0) + 1 for row in rows],
                "dedupe": [self._keys[row.id] for row in rows],
                "triggered": [row.occurred_at for row in rows],
                "events": [row.properties for row in rows],
            },
        )
        return {row.subscriber_id: row.id for row in found}

    def _key(self, row: Any) -> str | None:
        rule = self._sequence.entry.dedupe_key
        return None if rule is None else _as_key(evaluate(rule.root, self._known[row.id]))

    def _refusal(self, row: Any, verdict: Refuse) -> room.Refusal:
        entry = self._sequence.entry
        rules: dict[str, Expression | None] = {
            "where": entry.where,
            "filter": entry.filter,
            "stale_score": entry.filter,
            "no_dedupe_key": entry.dedupe_key,
        }
        detail: dict[str, str] = {}
        if (rule := rules.get(verdict.reason)) is not None:
            detail["rule"] = " ".join(rule.source.split())[:200]
        if verdict.until is not None:
            detail["until"] = stamp(verdict.until)
        if verdict.reason == "duplicate":
            detail["key"] = str(self._keys[row.id])
        if verdict.reason == "max_entries":
            detail["n"] = str(row.entries)
        if verdict.reason in ("stopped", "suppressed"):
            detail["why"] = str(row.stopped or row.suppressed)
        if verdict.reason == "draining":
            detail["since"] = stamp(self._target.draining_since)
            detail["why"] = str(self._target.drain_reason)
        return room.Refusal(row.subscriber_id, self._sequence.key, verdict.reason, detail)


def admit_asked(
    connection: Connection, key: str, definitions: goals.Definitions, ids: Sequence[int]
) -> tuple[int, int, int]:
    """Judge those who asked in this transaction, as far as there are places before them.

    Returns:
        How many of `ids` came in, how many are in it already, and how many others were refused; the
        rest of them wait.
    """
    mine, entered = set(ids), 0
    refused: dict[int, str] = {}
    while True:
        done = admit(connection, key, definitions, wait=True)
        entered += len(mine & done.entered.keys())
        refused |= done.refused
        if not done.looked_at:
            reasons = [reason for id_, reason in refused.items() if id_ in mine]
            already = sum(reason in ("already_entered", "active") for reason in reasons)
            return entered, already, len(reasons) - already


def too_old(row: Any, key: str, max_age: dt.timedelta) -> room.Refusal:
    """The refusal of an event that happened too long ago when it was heard of."""
    age = format_duration(dt.timedelta(seconds=max(int(row.age.total_seconds()), 1)))
    hours = row.age // dt.timedelta(hours=1)
    age = f"{hours // 24} d" if hours >= 48 else f"{hours} h" if hours else age
    detail = {"age": age, "max_age": format_duration(max_age)}
    return room.Refusal(row.subscriber_id, key, "too_old", detail)


def _known(connection: Connection, entry: Entry, rows: Sequence[Any]) -> Mapping[int, Known]:
    """What the rules of an entry ask for, by request; the properties of its event among it."""
    now = rows[-1].now
    needs = entry.needs
    found: dict[int, Known] = {}
    if needs:
        found = known.known_of(connection, [(row.subscriber_id, needs) for row in rows], now)
    return {
        row.id: replace(
            found.get(row.subscriber_id, Known(now)),
            event=json.loads(row.properties, parse_float=Decimal) if row.properties else {},
        )
        for row in rows
    }


def _as_key(value: Any) -> str | None:
    """A value as the text that is unique; null is none, and what is long is its hash."""
    if value is None:
        return None
    said = value if isinstance(value, str) else _written(value)
    if len(said) <= LONGEST_KEY:
        return said
    return f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"


def _written(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat()
    return json.dumps(value, sort_keys=True, default=str)
