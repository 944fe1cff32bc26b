"""Who says stop while a group is being armed: a thousand forced races, and nobody is armed after it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter

import pytest
from sqlalchemy import text

from models.session import Database
from tasks.moves import stop
from tasks.moves.claim import claim
from tasks.moves.cycle import STATEMENTS, Ready, cycle
from tasks.moves.pipeline import Pipeline
from tasks.moves.settings import DeliverySettings
from tests.live import seeds

pytestmark = pytest.mark.usefixtures("short_durations")

ROUNDS, GROUP = 100, 10
HASH = b"h" * 32

JUDGED = text("""
SELECT m.state::text AS state, s.stopped_at IS NOT NULL AS stopped,
    m.armed_at > s.stopped_at AS armed_after
FROM message m JOIN subscriber s ON s.id = m.subscriber_id
""")


@pytest.mark.timeout(240)
def test_of_a_thousand_stops_that_race_a_group_arm_none_is_overtaken(database: Database) -> None:
    settings, rng = DeliverySettings(), random.Random(20)
    seeds.enroll(
        database,
        seeds.sequence(database, seeds.ONE_MAIL.format(class_="marketing", template="test/mail")),
        seeds.subscribers(database, ROUNDS * GROUP),
    )
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO message (effect_key, rfc_message_id, stream, sequence_key, step_id,"
                " entry_no, enrollment_id, subscriber_id, template, run_at)"
                " SELECT sha256(id::text::bytea), id::text, 'marketing', sequence_key, 'mail', 1, id,"
                " subscriber_id, 'test/mail', clock_timestamp() FROM enrollment"
            )
        )
        connection.execute(text("UPDATE enrollment SET due_at = NULL"))

    def leave(ids: list[int], begin: threading.Barrier, one_left: threading.Event) -> None:
        begin.wait()
        for subscriber in ids:
            with database.transaction() as connection:
                stop.stop_subscriber(connection, subscriber, "unsubscribe")
            one_left.set()

    async def run() -> Counter[str]:
        told: Counter[str] = Counter()
        pipeline = Pipeline(database.raw(), STATEMENTS)
        for number in range(ROUNDS):
            with database.transaction() as connection:
                rows = claim(connection, stream="marketing", n=GROUP, owner="race", lease=600).rows
            ids = [row.subscriber_id for row in rows]
            rng.shuffle(ids)
            begin, one_left = threading.Barrier(3), threading.Event()
            leavers = [
                threading.Thread(target=leave, args=(half, begin, one_left))
                for half in (ids[: GROUP // 2], ids[GROUP // 2 :])
            ]
            for each in leavers:
                each.start()
            begin.wait()
            # On a slow machine a group is armed before the first has left: every other round waits for one.
            if number % 2:
                one_left.wait()
            left = [Ready(r.id, r.epoch, r.subscriber_id, r.address, HASH) for r in rows]
            # As the loop does: who was busy comes with the next cycle.
            while left:
                done = await cycle(pipeline, [], left, owner="race", settings=settings)
                told.update(armed=len(done.armed), busy=len(done.busy))
                told.update(refused=len(left) - len(done.armed) - len(done.busy))
                left = [mail for mail in left if mail.id in done.busy]
            for each in leavers:
                each.join()
        pipeline.close()
        return told

    told = asyncio.run(run())
    with database.transaction() as connection:
        judged = connection.execute(JUDGED).all()
    assert len(judged) == ROUNDS * GROUP and all(row.stopped for row in judged)
    assert not [row for row in judged if row.armed_after]
    # It was a race: both came first, and stops were met in the middle.
    assert told["armed"] > 20 and told["refused"] > 20 and told["busy"] > 0, told
