"""Who gets the last slots of a cap is the same in a simulation as on the rows."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import pytest

from models.session import Database
from schedules.definition import Sequence
from schedules.loader import loads
from tasks.sequence import taken
from tasks.sequence.behavior import Person
from tasks.sequence.simulate import Beside, simulate
from tasks.sequence.store import Planner
from tests.live import seeds
from tests.live.test_limits import CAPPED, capped, planner, run

__all__ = ["planner"]

MONDAY = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
BILL = """
key: bill
title: No cap, and no marketing
class: transactional
topic: news
entry: {manual: true}
steps:
  - {id: mail, send: {template: test/mail}}
"""


def rules(key: str, topic: str, scope: str, priority: int, most: int) -> dict[str, Any]:
    given = {"max": most, "on_hit": "wait", "scope": scope, "priority": priority}
    return {"key": key, "topic": topic, **given}


# Key, topic, scope, priority and how many, of several that are due at once.
RIVALS = [
    [("a", "news", "all", 10, 1), ("b", "news", "all", 90, 1), ("c", "other", "all", 50, 1)],
    [("a", "news", "topic", 10, 2), ("b", "news", "topic", 90, 2), ("c", "other", "topic", 5, 1),
     ("d", "news", "topic", 50, 2)],
    [("a", "news", "sequence", 10, 1), ("b", "news", "all", 5, 2), ("c", "news", "topic", 50, 1)],
    [("a", "news", "topic", 50, 1), ("b", "news", "topic", 50, 1)],
]  # fmt: skip


@pytest.mark.parametrize("rivals", RIVALS)
def test_the_planner_hands_off_what_the_simulation_sends(
    database: Database, planner: Planner, rivals: list[tuple[str, str, str, int, int]]
) -> None:
    ids = seeds.subscribers(database, 2)
    for each in rivals:
        capped(database, ids, **rules(*each))
    for _ in range(4):
        planner.scan()
        # Who was behind somebody in the same second is looked at again.
        run(
            database,
            "UPDATE enrollment SET due_at = clock_timestamp() WHERE due_at < now() + interval '9 s'",
        )
    handed = {row.sequence_key for row in run(database, "SELECT sequence_key FROM message")}
    sequences = [loads(CAPPED.format(**rules(*each)), "f") for each in rivals]
    people = [Person(1, "UTC"), Person(2, "UTC")]
    story = simulate(
        sequences[0], people, start=MONDAY, days=1, seed=1,
        beside=[Beside(sequence) for sequence in sequences[1:]],
    )  # fmt: skip
    sent = {each.key for each in (story, *story.beside) if each.sent}
    assert handed == sent and 0 < len(sent) < len(rivals) + (rivals[0][2] == "topic")


def test_which_mails_count_for_which_cap_is_one_rule_in_two_places(database: Database) -> None:
    [who] = seeds.subscribers(database, 1)
    sequences: dict[str, Sequence] = {}
    for n, scope in enumerate(("all", "topic", "sequence")):
        for topic in ("news", "other"):
            asked = rules(f"{topic}-{scope}", topic, scope, 50 + n, 9)
            capped(database, [who], **asked)
            sequences[asked["key"]] = loads(CAPPED.format(**asked), "f")
    seeds.sequence(database, BILL)
    seeds.enroll(database, "bill", [who])
    sequences["bill"] = loads(BILL, "f")
    rows = run(database, "SELECT id, subscriber_id, sequence_key, due_at FROM enrollment")
    with database.transaction() as connection:
        found = taken.taken(
            connection,
            [(SimpleNamespace(**row._mapping), sequences[row.sequence_key]) for row in rows],
        )
    assert len(found) == 6
    for row in rows:
        sequence = sequences[row.sequence_key]
        mine = taken.turn(sequence, row.due_at, row.id)
        before = [
            other for other in rows
            if other.id != row.id and taken.counts_for(sequence, sequences[other.sequence_key])
            and taken.turn(sequences[other.sequence_key], other.due_at, other.id) < mine
        ]  # fmt: skip
        if row.id in found:
            assert found[row.id].rivals == len(before), row.sequence_key
