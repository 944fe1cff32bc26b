"""The texts that are wanted, as rows: taken under a lease, and given back with words or with a reason."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
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
# A free call sets nothing aside, and its text is not written.
RESERVED = text("""
UPDATE wording w SET reserved = r.amount, reserved_on = r.day
FROM unnest(CAST(:keys AS bytea[]), CAST(:epochs AS bigint[]), CAST(:amounts AS bigint[]),
            CAST(:days AS date[])) AS r (key, epoch, amount, day)
WHERE w.key = r.key AND w.epoch = r.epoch AND w.state = 'wanted'
""")
# Fenced by the epoch: whoever's lease ran out has no say any more. Locked in the order of keys, as
# everywhere. A text whose answer was refused keeps its lease, for another call.
END = text("""
WITH r AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:keys AS bytea[]), CAST(:epochs AS bigint[]), CAST(:states AS text[]),
        CAST(:slots AS text[]), CAST(:whys AS text[]), CAST(:faults AS text[]),
        CAST(:tries AS integer[]), CAST(:pauses AS float8[]), CAST(:keeps AS boolean[]),
        CAST(:calls AS integer[]), CAST(:costs AS bigint[]), CAST(:ins AS bigint[]),
        CAST(:outs AS bigint[]), CAST(:seconds AS float8[]))
        AS r (key, epoch, state, slots, why, fault, tries, pause, keeps, calls, cost, tokens_in,
              tokens_out, seconds)),
held AS MATERIALIZED (
    SELECT w.key FROM wording w JOIN r ON r.key = w.key AND r.epoch = w.epoch
    WHERE w.state = 'wanted' ORDER BY w.key FOR NO KEY UPDATE OF w)
UPDATE wording w SET
    state = r.state, slots = CAST(r.slots AS jsonb), fault = r.fault, tries = w.tries + r.tries,
    why = CASE WHEN r.keeps THEN w.why ELSE r.why END,
    retry_at = clock_timestamp() + make_interval(secs => r.pause),
    lease_until = CASE WHEN r.keeps THEN w.lease_until END, reserved = 0, reserved_on = NULL,
    calls = w.calls + r.calls, cost = w.cost + r.cost, tokens_in = w.tokens_in + r.tokens_in,
    tokens_out = w.tokens_out + r.tokens_out, seconds = w.seconds + r.seconds,
    ended_at = CASE WHEN r.state <> 'wanted' THEN clock_timestamp() END
FROM held JOIN r ON r.key = held.key WHERE w.key = held.key
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


@dataclass(frozen=True, slots=True)
class End:
    """How a text is given back: with its words (JSON), for another try after `pause` s, or failed.

    `tries`: answers of it that were refused since it was taken. With `keeps` it is not given back, and
    is asked for once more.
    """

    wanted: Wanted
    state: str = "wanted"
    slots: str | None = None
    why: str | None = None
    fault: str | None = None
    tries: int = 0
    pause: float = 0.0
    keeps: bool = False
    used: Used = Used()


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


def reserved(connection: Connection, texts: Sequence[tuple[Wanted, int, dt.date]]) -> None:
    """Write on texts what was set aside for them: millionths, of that day."""
    paid = [each for each in texts if each[1]]
    if paid:
        connection.execute(
            RESERVED,
            {
                "keys": [wanted.key for wanted, _, _ in paid],
                "epochs": [wanted.epoch for wanted, _, _ in paid],
                "amounts": [amount for _, amount, _ in paid],
                "days": [day for _, _, day in paid],
            },
        )


def end(connection: Connection, ends: Sequence[End]) -> None:
    """Give texts back; who waited for one that is decided goes on."""
    if not ends:
        return
    connection.execute(
        END,
        {
            "keys": [each.wanted.key for each in ends],
            "epochs": [each.wanted.epoch for each in ends],
            "states": [each.state for each in ends],
            "slots": [each.slots for each in ends],
            "whys": [each.why for each in ends],
            "faults": [each.fault for each in ends],
            "tries": [each.tries for each in ends],
            "pauses": [each.pause for each in ends],
            "keeps": [each.keeps for each in ends],
            "calls": [each.used.calls for each in ends],
            "costs": [each.used.cost for each in ends],
            "ins": [each.used.tokens_in for each in ends],
            "outs": [each.used.tokens_out for each in ends],
            "seconds": [each.used.seconds for each in ends],
        },
    )
    if decided := [each.wanted.key for each in ends if each.state != "wanted"]:
        wake(connection, decided)
