"""Work on content, as rows: asked for, held under a lease while it is done, and how it ended."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text

from tasks.errors import Permanent
from tasks.personalize import money

LEASE: Final = 600.0
"""Seconds; a few calls of a model take less."""
MOST: Final = 5
"""Times that work is begun; what kills its worker, or finds no model, ends there."""
LARGEST: Final = 4_000_000
"""Characters of one request: mails are its largest part."""

# What ended a month ago has been read, or never will be.
FORGET = text(
    "DELETE FROM content_work w WHERE w.ended_at < clock_timestamp() - interval '30 days'"
)
ASK = text("""
INSERT INTO content_work (task, scope, model, asked)
VALUES (:task, :scope, :model, CAST(:asked AS jsonb)) RETURNING id
""")
CLAIM = """
WITH next AS MATERIALIZED (
    SELECT w.id FROM content_work w LEFT JOIN model_circuit c ON c.model = w.model
    WHERE w.state = 'open' AND w.retry_at <= clock_timestamp()
      AND (w.lease_until IS NULL OR w.lease_until <= clock_timestamp())
      AND coalesce(c.open_until, '-infinity') <= clock_timestamp() AND {which}
    ORDER BY w.id LIMIT 1 FOR UPDATE OF w SKIP LOCKED)
UPDATE content_work w SET epoch = w.epoch + 1, tries = w.tries + 1,
    lease_until = clock_timestamp() + make_interval(secs => :lease)
FROM next WHERE w.id = next.id
RETURNING w.id, w.task, w.scope, w.model, w.asked, w.epoch, w.tries, w.reserved, w.reserved_on
"""
CLAIM_NEXT = text(CLAIM.format(which="w.task = :task"))
CLAIM_ONE = text(CLAIM.format(which="w.id = :id"))
RESERVED = text("""
UPDATE content_work SET reserved = :amount, reserved_on = CAST(:day AS date)
WHERE id = :id AND epoch = :epoch AND state = 'open' RETURNING true
""")
CALLED = text("""
UPDATE content_work SET calls = calls + 1, cost = cost + :cost, reserved = 0, reserved_on = NULL
WHERE id = :id AND epoch = :epoch AND state = 'open'
""")
END = text("""
UPDATE content_work SET state = :state, found = CAST(:found AS jsonb), said = :said,
    lease_until = NULL, ended_at = clock_timestamp()
WHERE id = :id AND epoch = :epoch AND state = 'open'
""")
LATER = text("""
UPDATE content_work SET said = :said, lease_until = NULL,
    retry_at = clock_timestamp() + make_interval(secs => :pause)
WHERE id = :id AND epoch = :epoch AND state = 'open'
""")
LOOK = text("""
SELECT w.id, w.task, w.scope, w.model, w.asked, w.state, w.found, w.said, w.calls, w.cost,
    w.created_at, w.ended_at, NULLIF(c.open_until, '-infinity') AS not_before, c.why AS since
FROM content_work w
LEFT JOIN model_circuit c ON c.model = w.model AND c.open_until > clock_timestamp()
WHERE w.id = :id
""")
STANDING = text("""
SELECT w.task, count(*) AS jobs, extract(epoch FROM clock_timestamp() - min(w.created_at))::float8 AS since,
    max(w.said) AS said
FROM content_work w
WHERE w.state = 'open' AND w.created_at < clock_timestamp() - make_interval(secs => :older)
GROUP BY 1 ORDER BY 1
""")
LISTED = text("""
SELECT w.id, w.task, w.scope, w.state, w.model, w.calls, w.cost, w.said, w.created_at, w.ended_at
FROM content_work w ORDER BY w.id DESC LIMIT :n
""")


@dataclass(frozen=True, slots=True)
class Held:
    """Work that this process holds under `epoch`; `tries`: how often it was begun, with this time."""

    id: int
    task: str
    scope: str
    model: str | None
    asked: Mapping[str, Any]
    epoch: int
    tries: int


def ask(
    connection: Connection, task: str, scope: str, model: str | None, asked: Mapping[str, Any]
) -> int:
    """Ask for work; its id. Ring `task` after the commit, or do it by `Desk.do`.

    Args:
        connection: inside a transaction.
        task: a name of `tasks.names`.
        scope: the sequence, or template, whose budget it is paid from.
        model: that is asked; None where none is.
        asked: all that the work needs, by value.

    Raises:
        Permanent: it is larger than a row should be.
    """
    told = json.dumps(asked, ensure_ascii=False)
    if len(told) > LARGEST:
        raise Permanent(
            f"what is asked for has {len(told)} characters: expected {LARGEST} at most; give fewer"
            " or smaller mails"
        )
    connection.execute(FORGET)
    # A zero character is no text to Postgres; in a mail it is no loss.
    values = {"task": task, "scope": scope, "model": model, "asked": told.replace("\\u0000", "")}
    return int(connection.execute(ASK, values).scalar_one())


def claim(connection: Connection, *, task: str | None = None, id: int | None = None) -> Held | None:
    """Take the oldest work of a task, or the one of that id; None where none may be done now.

    What a lost worker had set aside for it is settled in full: it may have been billed.
    """
    if id is not None:
        row = connection.execute(CLAIM_ONE, {"id": id, "lease": LEASE}).one_or_none()
    else:
        row = connection.execute(CLAIM_NEXT, {"task": task, "lease": LEASE}).one_or_none()
    if row is None:
        return None
    held = Held(row.id, row.task, row.scope, row.model, row.asked, row.epoch, row.tries)
    if row.reserved_on is not None:
        lost = money.Reservation(row.scope, row.reserved, row.reserved_on)
        money.settle(connection, lost, row.reserved)
        called(connection, held, row.reserved)
    return held


def reserved(connection: Connection, held: Held, amount: int, day: dt.date) -> bool:
    """Write on the work what was set aside for it; whether it is still ours."""
    values = {"id": held.id, "epoch": held.epoch, "amount": amount, "day": day}
    return connection.execute(RESERVED, values).scalar_one_or_none() is not None


def called(connection: Connection, held: Held, cost: int) -> None:
    """Count a call, and what it cost in millionths."""
    connection.execute(CALLED, {"id": held.id, "epoch": held.epoch, "cost": cost})


def end(connection: Connection, held: Held, found: Mapping[str, Any] | None, said: str) -> None:
    """Give work back: done with what was found, or failed (None), and why."""
    connection.execute(
        END,
        {
            "id": held.id,
            "epoch": held.epoch,
            "state": "failed" if found is None else "done",
            "found": None if found is None else json.dumps(found, ensure_ascii=False),
            "said": said,
        },
    )


def later(connection: Connection, held: Held, said: str, pause: float) -> None:
    """Put work off for `pause` seconds."""
    values = {"id": held.id, "epoch": held.epoch, "said": said, "pause": pause}
    connection.execute(LATER, values)


def look(connection: Connection, id: int) -> Any:
    """How work stands: state, found, said, calls, cost; `not_before` while its model is not asked.

    Raises:
        Permanent: there is none of that id.
    """
    row = connection.execute(LOOK, {"id": id}).one_or_none()
    if row is None:
        raise Permanent(
            f"no work on content has the id {id}: expected one of `dripfleet content jobs`; it is"
            " forgotten a month after its end"
        )
    return row


def listed(connection: Connection, n: int) -> list[dict[str, Any]]:
    """The newest `n`, without what was asked and found."""
    return [dict(row._mapping) for row in connection.execute(LISTED, {"n": n})]


def standing(connection: Connection, older: float) -> list[Any]:
    """What was asked for more than `older` seconds ago and is not done: task, jobs, since, said."""
    return list(connection.execute(STANDING, {"older": older}).all())
