"""Batches as an operator sees them: how each stands, what it saved, and what became of its texts."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import Connection, text

from tasks.personalize.prices import MILLION

NEWEST = text("""
SELECT b.id, b.model, b.state, b.status, b.why, b.texts, b.ready, b.rejected, b.returned, b.cost,
    b.saved, b.tries, b.server_id, b.made_at, b.sent_at, b.ended_at
FROM word_batch b ORDER BY b.made_at DESC LIMIT :n
""")
# Under way for longer than a server may take, or not sent after some tries; ended without answers.
TROUBLED = text("""
SELECT CAST(b.id AS text) AS id, b.state, b.texts, b.returned, coalesce(b.why, b.status) AS why,
    clock_timestamp() - b.made_at AS since
FROM word_batch b
WHERE (b.state = 'made' AND b.tries > 0)
   OR (b.state = 'sent' AND b.sent_at < clock_timestamp() - interval '24 hours')
   OR (b.state = 'ended' AND b.returned > 0 AND b.ended_at > clock_timestamp() - interval '1 day')
ORDER BY b.made_at DESC LIMIT 5
""")


@dataclass(frozen=True, slots=True)
class Listed:
    """A batch.

    Attributes:
        id: ours, which its server has as metadata; `server` is the server's own.
        state: made, sent or ended; `status` as its server says it, `why` what went wrong last.
        texts: that it was made with; `ready`, `rejected` by a check, `returned` to single calls.
        cost: in the currency of the price table; `saved`: what single calls would have cost more.
        tries: to send it that came to nothing.
    """

    id: str
    model: str
    state: str
    status: str | None
    why: str | None
    texts: int
    ready: int
    rejected: int
    returned: int
    cost: float
    saved: float
    tries: int
    server: str | None
    made_at: dt.datetime
    sent_at: dt.datetime | None
    ended_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Troubled:
    """A batch that did not go as it should."""

    id: str
    state: str
    texts: int
    returned: int
    why: str | None
    since: dt.timedelta


def newest(connection: Connection, n: int) -> list[Listed]:
    """The newest first."""
    found = []
    for row in connection.execute(NEWEST, {"n": n}):
        values = row._asdict()
        values |= {"id": str(row.id), "server": values.pop("server_id")}
        values |= {"cost": row.cost / MILLION, "saved": row.saved / MILLION}
        found.append(Listed(**values))
    return found


def troubled(connection: Connection) -> list[Troubled]:
    """The newest first."""
    return [Troubled(*row) for row in connection.execute(TROUBLED)]
