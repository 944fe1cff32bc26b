"""How texts leave their batch: with what came of their answers, or for single calls.

A text leaves in the transaction that settles what was set aside for it, and one that has left is left
alone, so that reading the answers may be cut off anywhere and be begun again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from tasks.moves.wake import wake
from tasks.personalize import money
from tasks.personalize.batch_store import Held

NEAR = text("""
SELECT count(*) AS texts,
    count(*) FILTER (WHERE w.needed_at <= clock_timestamp() + make_interval(secs => :spare)) AS near
FROM wording w WHERE w.batch_id = :id AND w.in_batch
""")

# Whose word counts: the holder of the batch. One statement locks its row for the texts that follow.
COUNT = text("""
UPDATE word_batch SET ready = ready + :ready, rejected = rejected + :rejected,
    returned = returned + :returned, cost = cost + :cost, saved = saved + :saved,
    lease_until = clock_timestamp() + make_interval(secs => :lease)
WHERE id = :id AND epoch = :epoch AND state <> 'ended' RETURNING true
""")
# Answers of texts that are in the batch still; a text whose answer counts no tokens has cost all
# that was set aside for it.
ANSWERED = text("""
WITH r AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:keys AS bytea[]), CAST(:states AS text[]), CAST(:slots AS text[]),
        CAST(:whys AS text[]), CAST(:faults AS text[]), CAST(:costs AS bigint[]),
        CAST(:saved AS bigint[]), CAST(:ins AS bigint[]), CAST(:outs AS bigint[]))
        AS r (key, state, slots, why, fault, cost, saved, tokens_in, tokens_out)),
held AS MATERIALIZED (
    SELECT w.key, w.sequence_key, w.reserved, w.reserved_on FROM wording w JOIN r ON r.key = w.key
    WHERE w.batch_id = :id AND w.in_batch AND w.state = 'wanted' ORDER BY w.key FOR UPDATE OF w)
UPDATE wording w SET in_batch = false, state = r.state, slots = CAST(r.slots AS jsonb), why = r.why,
    fault = r.fault, tries = w.tries + CASE WHEN r.fault IS NULL THEN 0 ELSE 1 END,
    reserved = 0, reserved_on = NULL, calls = w.calls + 1, batched = w.batched + 1,
    cost = w.cost + coalesce(r.cost, held.reserved), saved = w.saved + r.saved,
    tokens_in = w.tokens_in + r.tokens_in, tokens_out = w.tokens_out + r.tokens_out,
    retry_at = clock_timestamp(),
    ended_at = CASE WHEN r.state <> 'wanted' THEN clock_timestamp() END
FROM held JOIN r ON r.key = held.key WHERE w.key = held.key
RETURNING w.key, w.state, held.sequence_key, held.reserved, held.reserved_on,
    coalesce(r.cost, held.reserved) AS cost, r.saved
""")
# Texts that leave without an answer go to single calls; `within` takes those alone that are needed soon.
GIVEN_BACK = text("""
WITH held AS MATERIALIZED (
    SELECT w.key, w.sequence_key, w.reserved, w.reserved_on FROM wording w
    WHERE w.batch_id = :id AND w.in_batch AND (CAST(:within AS float8) IS NULL
        OR w.needed_at <= clock_timestamp() + make_interval(secs => :within))
    ORDER BY w.key FOR UPDATE OF w)
UPDATE wording w SET in_batch = false, why = :why, reserved = 0, reserved_on = NULL,
    cost = w.cost + CASE WHEN :billed THEN held.reserved ELSE 0 END, retry_at = clock_timestamp()
FROM held WHERE w.key = held.key
RETURNING held.sequence_key, held.reserved, held.reserved_on
""")


class Lost(Exception):
    """Somebody else has the batch now; what this transaction did is undone."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of the answer of a text; `cost` None: all that was set aside for it."""

    key: bytes
    state: str
    slots: str | None
    why: str | None
    fault: str | None
    cost: int | None
    saved: int
    tokens_in: int
    tokens_out: int


def near(connection: Connection, held: Held, spare: float) -> tuple[int, int]:
    """How many texts are in a batch, and how many of these are needed within `spare` seconds."""
    row = connection.execute(NEAR, {"id": held.id, "spare": spare}).one()
    return row.texts, row.near


def answered(connection: Connection, held: Held, judged: Sequence[Judged], lease: float) -> None:
    """Let texts leave with what came of their answers; one that has left before is left alone.

    Raises:
        Lost: the batch is somebody else's.
    """
    rows = connection.execute(
        ANSWERED,
        {
            "id": held.id,
            "keys": [each.key for each in judged],
            "states": [each.state for each in judged],
            "slots": [each.slots for each in judged],
            "whys": [each.why for each in judged],
            "faults": [each.fault for each in judged],
            "costs": [each.cost for each in judged],
            "saved": [each.saved for each in judged],
            "ins": [each.tokens_in for each in judged],
            "outs": [each.tokens_out for each in judged],
        },
    ).all()
    _count(
        connection, held, lease,
        ready=sum(row.state == "ready" for row in rows),
        rejected=sum(row.state != "ready" for row in rows),
        cost=sum(row.cost for row in rows),
        saved=sum(row.saved for row in rows),
    )  # fmt: skip
    _settle(connection, [(row, row.cost) for row in rows])
    if ended := [bytes(row.key) for row in rows if row.state != "wanted"]:
        wake(connection, ended)


def give_back(
    connection: Connection,
    held: Held,
    why: str,
    lease: float,
    *,
    billed: bool,
    within: float | None = None,
) -> int:
    """Let texts leave for single calls: all of them, or those that are needed `within` seconds.

    Args:
        connection: inside a transaction.
        held: the batch.
        why: the reason that a mail is counted under, if no call is in time either.
        lease: seconds.
        billed: whether they may be billed; then what was set aside for them counts as spent.
        within: seconds.

    Returns:
        How many.

    Raises:
        Lost: the batch is somebody else's.
    """
    values = {"id": held.id, "why": why, "billed": billed, "within": within}
    rows = connection.execute(GIVEN_BACK, values).all()
    if rows:
        cost = sum(row.reserved for row in rows) if billed else 0
        _count(connection, held, lease, returned=len(rows), cost=cost)
        _settle(connection, [(row, row.reserved if billed else 0) for row in rows])
    return len(rows)


def _count(connection: Connection, held: Held, lease: float, **counts: int) -> None:
    zero = {"ready": 0, "rejected": 0, "returned": 0, "cost": 0, "saved": 0}
    values: dict[str, Any] = {**zero, **counts}
    values |= {"id": held.id, "epoch": held.epoch, "lease": lease}
    if connection.execute(COUNT, values).scalar_one_or_none() is None:
        raise Lost


def _settle(connection: Connection, rows: Sequence[tuple[Any, int]]) -> None:
    """Settle once a sequence and day, however many texts: others wait for these rows."""
    sums: dict[tuple[str, dt.date], tuple[int, int]] = {}
    for row, cost in rows:
        amount, spent = sums.get((row.sequence_key, row.reserved_on), (0, 0))
        sums[row.sequence_key, row.reserved_on] = amount + row.reserved, spent + cost
    for (sequence_key, day), (amount, spent) in sorted(sums.items()):
        money.settle(connection, money.Reservation(sequence_key, amount, day), spent)
