"""From hits to events: what the edge wrote down is judged once its seconds are over, then recorded.

`email.clicked` and `email.opened`, with `message`, `sequence` and `step` as properties, `link` and
`url` of a click; `machine: true` and `why` where no person made it. A hit is taken and its event
written in one transaction, so each becomes one event, whatever dies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from models.session import Database
from tasks.hits import SETTLED
from tasks.moves import evidence, unreachable
from tasks.track.engine import HONEYPOT, Hit, judge

BATCH: Final = 5_000
TESTIMONIES: Final = 300
CLICKED: Final = "email.clicked"
OPENED: Final = "email.opened"

# One judge at a time: two could each hold a part of what one scanner did.
ALONE = text("SELECT pg_try_advisory_xact_lock(hashtext('track.judge'), 0)")

# All of a message's, also those whose seconds are not over: they belong together.
TAKE = text("""
WITH due AS MATERIALIZED (
    SELECT h.message_id FROM hit h
    WHERE h.at <= (SELECT clock_timestamp()) - make_interval(secs => :settled)
    ORDER BY h.at LIMIT :n),
taken AS (
    DELETE FROM hit h WHERE h.message_id IN (SELECT d.message_id FROM due d)
    RETURNING h.id, h.message_id, h.link_id, h.agent, h.at)
SELECT t.id, t.message_id, t.link_id, t.agent, t.at, m.subscriber_id, m.sequence_key, m.step_id,
    m.state::text AS state, l.url
FROM taken t
LEFT JOIN message m ON m.id = t.message_id
LEFT JOIN link l ON l.id = t.link_id
ORDER BY t.message_id, t.at, t.id
""")
RECORD = text("""
INSERT INTO event (subscriber_id, name, occurred_at, properties)
SELECT r.subscriber_id, r.name, r.at, CAST(r.properties AS jsonb)
FROM unnest(CAST(:subscribers AS bigint[]), CAST(:names AS text[]), CAST(:ats AS timestamptz[]),
            CAST(:properties AS text[])) AS r (subscriber_id, name, at, properties)
""")
# What may be out though nobody knows: a person who followed a link of it says that it came.
DOUBTFUL: Final = ("in_doubt", "sent_assumed", "scheduled", "working")


@dataclass(frozen=True, slots=True)
class Judged:
    """What one look made of hits: events of people and of machines; repeats; hits of nobody's mail."""

    people: int = 0
    machines: int = 0
    repeats: int = 0
    lost: int = 0

    @property
    def hits(self) -> int:
        """All that were taken."""
        return self.people + self.machines + self.repeats + self.lost


def settle(database: Database, *, n: int = BATCH, settled: float = SETTLED) -> Judged:
    """Judge and record the hits of messages whose oldest one is `settled` seconds old.

    Args:
        database: where they are.
        n: at most so many, and what belongs to them.
        settled: seconds in which more of the same may come.
    """
    with database.transaction() as connection:
        if not connection.execute(ALONE).scalar_one():
            return Judged()
        rows = connection.execute(TAKE, {"n": n, "settled": settled}).all()
        if not rows:
            return Judged()
        whys: dict[int, str | None] = {}
        for _, own in groupby(rows, key=lambda row: row.message_id):
            whys |= judge([Hit(row.id, row.link_id, row.agent, row.at) for row in own])
        known = [row for row in rows if row.subscriber_id is not None]
        kept = [row for row in known if row.id in whys]
        _record(connection, kept, whys)
        _testify(connection, kept, whys)
        # Who reads is reached.
        unreachable.reached(connection, sorted({r.subscriber_id for r in kept if not whys[r.id]}))
    people = sum(whys[row.id] is None for row in kept)
    repeats, lost = len(known) - len(kept), len(rows) - len(known)
    return Judged(people, len(kept) - people, repeats, lost)


def _testify(connection: Connection, rows: list[Row[Any]], whys: dict[int, str | None]) -> None:
    arrived = {
        row.message_id
        for row in rows
        if row.link_id and whys[row.id] is None and row.state in DOUBTFUL
    }
    told = [
        evidence.Evidence(each, "arrived", "click", note="a person followed a link of it")
        for each in sorted(arrived)
    ]
    for start in range(0, len(told), TESTIMONIES):
        evidence.take_evidence(connection, told[start : start + TESTIMONIES])


def _record(connection: Connection, rows: list[Row[Any]], whys: dict[int, str | None]) -> None:
    connection.execute(
        RECORD,
        {
            "subscribers": [row.subscriber_id for row in rows],
            "names": [OPENED if row.link_id is None else CLICKED for row in rows],
            "ats": [row.at for row in rows],
            "properties": [json.dumps(_properties(row, whys[row.id])) for row in rows],
        },
    )


def _properties(row: Row[Any], why: str | None) -> dict[str, Any]:
    told = {
        "message": row.message_id,
        "sequence": row.sequence_key,
        "step": row.step_id,
        "link": row.link_id if row.link_id != HONEYPOT else None,
        "url": row.url,
    }
    machine = {} if why is None else {"machine": True, "why": why}
    return {key: value for key, value in told.items() if value is not None} | machine
