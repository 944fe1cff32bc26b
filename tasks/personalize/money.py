"""Budgets of a day, held across all workers: what a call may cost is reserved before it is made.

Reserved is the most that a call can cost; settled is what it did cost. Both scopes of a call, the
whole fleet and its sequence, are reserved in one transaction, in this order everywhere. A budget is
therefore never passed by a call that was permitted, whoever else reserves at the same moment. A worker
that dies between the two leaves its reservation, which is settled in full when the text is taken up
again: it may have been billed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

EVERYTHING = "all"

# The row's lock makes those who race wait for each other; the last one sees what is left.
RESERVE = text("""
INSERT INTO model_spend AS s (scope, day, reserved)
SELECT :scope, CAST(:day AS date), :amount WHERE :amount <= :budget
ON CONFLICT (scope, day) DO UPDATE SET reserved = s.reserved + excluded.reserved
WHERE s.reserved + s.settled + excluded.reserved <= :budget
RETURNING true
""")
SETTLE = text("""
UPDATE model_spend SET reserved = reserved - :amount, settled = settled + :cost
WHERE scope = :scope AND day = CAST(:day AS date)
""")
# Locked in the order of reservations: the whole fleet's first.
ROOM = text("""
SELECT reserved + settled FROM model_spend WHERE scope = :scope AND day = CAST(:day AS date) FOR UPDATE
""")
TODAY = text("SELECT CAST(clock_timestamp() AT TIME ZONE 'UTC' AS date)")


@dataclass(frozen=True, slots=True)
class Budgets:
    """Millionths a day: of the whole fleet, and of each sequence."""

    day: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """Millionths that were set aside, and for which day."""

    sequence_key: str
    amount: int
    day: dt.date


def reserve(
    connection: Connection, sequence_key: str, amount: int, budgets: Budgets
) -> Reservation | None:
    """Set `amount` aside; None where a budget does not hold it, and then nothing is.

    Args:
        connection: inside a transaction of its own: others wait for its end.
        sequence_key: whose.
        amount: millionths.
        budgets: of a day.
    """
    day = connection.execute(TODAY).scalar_one()
    if not amount:  # what is free needs no budget, and writes no row that others wait for
        return Reservation(sequence_key, 0, day)
    nested = connection.begin_nested()
    for scope, budget in _scopes(sequence_key, budgets).items():
        values = {"scope": scope, "day": day, "amount": amount, "budget": budget}
        if connection.execute(RESERVE, values).scalar_one_or_none() is None:
            nested.rollback()
            return None
    nested.commit()
    return Reservation(sequence_key, amount, day)


def reserve_each(
    connection: Connection, wanted: Sequence[tuple[str, int]], budgets: Budgets
) -> list[Reservation | None]:
    """Set aside for several calls, (sequence, amount): a sequence's together where they fit, else each.

    Returns:
        As `reserve` for each of them, in their order.
    """
    sums: dict[str, int] = {}
    for key, amount in wanted:
        sums[key] = sums.get(key, 0) + amount
    together = {key: reserve(connection, key, sums[key], budgets) for key in sorted(sums)}
    found: list[Reservation | None] = []
    for key, amount in wanted:
        held = together[key]
        if held is not None:
            found.append(Reservation(key, amount, held.day))
        else:
            found.append(reserve(connection, key, amount, budgets))
    return found


def settle_each(connection: Connection, ended: Sequence[tuple[Reservation, int]]) -> None:
    """Settle several calls, each with what it did cost: once a sequence and day."""
    sums: dict[tuple[str, dt.date], tuple[int, int]] = {}
    for held, cost in ended:
        amount, spent = sums.get((held.sequence_key, held.day), (0, 0))
        sums[held.sequence_key, held.day] = amount + held.amount, spent + cost
    for (key, day), (amount, spent) in sorted(sums.items()):
        settle(connection, Reservation(key, amount, day), spent)


def room(connection: Connection, sequence_key: str, budgets: Budgets) -> int:
    """Millionths that both budgets still hold; others wait for the end of the transaction."""
    day = connection.execute(TODAY).scalar_one()
    left = []
    for scope, budget in _scopes(sequence_key, budgets).items():
        taken = connection.execute(ROOM, {"scope": scope, "day": day}).scalar_one_or_none()
        left.append(budget - (taken or 0))
    return max(min(left), 0)


def settle(connection: Connection, reservation: Reservation, cost: int) -> None:
    """Put what a call did cost in the place of what was set aside for it."""
    if not reservation.amount and not cost:
        return
    for scope in (EVERYTHING, f"sequence:{reservation.sequence_key}"):
        values = {"scope": scope, "day": reservation.day, "amount": reservation.amount}
        connection.execute(SETTLE, values | {"cost": cost})


def _scopes(sequence_key: str, budgets: Budgets) -> Mapping[str, int]:
    return {EVERYTHING: budgets.day, f"sequence:{sequence_key}": budgets.sequence}
