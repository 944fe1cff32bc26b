"""The texts that are wanted, as rows: taken under a lease, and given back with words or with a reason."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from tasks.moves.wake import wake
from tasks.personalize import money
from tasks.personalize.circuit import PATIENCE

# The soonest needed first, of those that somebody still waits for. A model that has been failing is
# tried with one text. What comes together for a batch is left alone for a while.
CLAIM = text("""
WITH due AS MATERIALIZED (
    SELECT w.key FROM wording w LEFT JOIN model_circuit c ON c.model = w.model
    WHERE w.state = 'wanted' AND w.retry_at <= (SELECT clock_timestamp())
      AND (w.lease_until IS NULL OR w.lease_until <= (SELECT clock_timestamp()))
      AND coalesce(c.open_until, '-infinity') <= (SELECT clock_timestamp())
      AND (w.batch_id IS NOT NULL OR w.tries > 0
        OR w.needed_at <= (SELECT clock_timestamp() + make_interval(secs => :lead))
        OR w.created_at <= (SELECT clock_timestamp() - make_interval(secs => :gather)))
      AND EXISTS (SELECT FROM asked a WHERE a.key = w.key)
    ORDER BY w.needed_at
    LIMIT (SELECT CASE WHEN EXISTS (SELECT FROM model_circuit x WHERE x.faults >= :patience)
                       THEN 1 ELSE :n END)
    FOR UPDATE OF w SKIP LOCKED)
UPDATE wording w SET epoch = w.epoch + 1,
    lease_until = clock_timestamp() + make_interval(secs => :lease)
FROM due, prompt_source s
WHERE w.key = due.key AND s.sha256 = w.prompt_sha256
RETURNING w.key, w.epoch, w.sequence_key, w.model, w.told, w.fault, w.tries, w.reserved,
    w.reserved_on, s.source
""")
RESERVED = text("""
UPDATE wording SET reserved = :amount, reserved_on = CAST(:day AS date)
WHERE key = :key AND epoch = :epoch AND state = 'wanted' RETURNING true
""")
# Fenced by the epoch: whoever's lease ran out has no say any more.
END = text("""
UPDATE wording SET
    state = :state, slots = CAST(:slots AS jsonb), why = :why, fault = :fault,
    tries = tries + :tries, retry_at = clock_timestamp() + make_interval(secs => :pause),
    lease_until = NULL, reserved = 0, reserved_on = NULL,
    calls = calls + :calls, cost = cost + :cost, tokens_in = tokens_in + :tokens_in,
    tokens_out = tokens_out + :tokens_out, seconds = seconds + :seconds,
    ended_at = CASE WHEN CAST(:state AS text) <> 'wanted' THEN clock_timestamp() END
WHERE key = :key AND epoch = :epoch AND state = 'wanted'
""")
AGAIN = text("""
UPDATE wording SET fault = :fault, tries = tries + 1, reserved = 0, reserved_on = NULL,
    calls = calls + 1, cost = cost + :cost, tokens_in = tokens_in + :tokens_in,
    tokens_out = tokens_out + :tokens_out, seconds = seconds + :seconds
WHERE key = :key AND epoch = :epoch AND state = 'wanted'
""")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A text that this worker holds; `tries` answers of it were refused, the last for `fault`."""

    key: bytes
    epoch: int
    sequence_key: str
    model: str
    told: Mapping[str, str | None]
    fault: str | None
    tries: int
    source: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Used:
    """What calls of a text took: millionths, tokens, seconds."""

    calls: int = 0
    cost: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0


def claim(
    connection: Connection, n: int, lease: float, gathering: tuple[float, float] | None = None
) -> list[Wanted]:
    """Take up to `n` wanted texts; what a lost worker had reserved for them is settled in full.

    Args:
        connection: inside a transaction.
        n: at most.
        lease: seconds.
        gathering: texts that are needed no sooner than the first of these seconds are left alone
            for the second ones after they were first wanted.
    """
    lead, gather = gathering or (0.0, 0.0)
    values = {"n": n, "lease": lease, "patience": PATIENCE, "lead": lead, "gather": gather}
    rows = connection.execute(CLAIM, values).all()
    for row in rows:
        if row.reserved_on is not None:
            lost = money.Reservation(row.sequence_key, row.reserved, row.reserved_on)
            money.settle(connection, lost, row.reserved)
    return [
        Wanted(
            bytes(row.key), row.epoch, row.sequence_key, row.model, row.told, row.fault, row.tries,
            row.source,
        )
        for row in rows
    ]  # fmt: skip


def reserved(connection: Connection, wanted: Wanted, amount: int, day: dt.date) -> bool:
    """Write on the text what was set aside for it; whether it is still ours."""
    values = {"key": wanted.key, "epoch": wanted.epoch, "amount": amount, "day": day}
    return connection.execute(RESERVED, values).scalar_one_or_none() is not None


def end(
    connection: Connection,
    wanted: Wanted,
    *,
    state: str = "wanted",
    slots: str | None = None,
    why: str | None = None,
    fault: str | None = None,
    tries: int = 0,
    pause: float = 0.0,
    used: Used = Used(),
) -> None:
    """Give a text back: with its words (JSON), for another try, or failed; who waited goes on."""
    connection.execute(
        END,
        {
            "key": wanted.key,
            "epoch": wanted.epoch,
            "state": state,
            "slots": slots,
            "why": why,
            "fault": fault,
            "tries": tries,
            "pause": pause,
            "calls": used.calls,
            "cost": used.cost,
            "tokens_in": used.tokens_in,
            "tokens_out": used.tokens_out,
            "seconds": used.seconds,
        },
    )
    if state != "wanted":
        wake(connection, [wanted.key])


def again(connection: Connection, wanted: Wanted, fault: str, used: Used) -> None:
    """Keep a text whose answer was refused, for another call."""
    connection.execute(
        AGAIN,
        {
            "key": wanted.key,
            "epoch": wanted.epoch,
            "fault": fault,
            "cost": used.cost,
            "tokens_in": used.tokens_in,
            "tokens_out": used.tokens_out,
            "seconds": used.seconds,
        },
    )
