"""Experiments in a running fleet: who is in which arm is on record, and harm stops an arm."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from models.session import Database
from schedules.loader import loads
from tasks.send.render import Bundle
from tasks.sequence import harm
from tasks.sequence.explain import explain
from tests.live import seeds
from tests.live.fleet import Fleet
from tests.unit.test_experiment_step import FILE, HELD

BUNDLES = {
    name: Bundle(name, {"subject.txt": f"A mail of {name}", "body.txt": "Hi."})
    for name in ("test/plain", "test/offer")
}


def published(database: Database, text_: str = FILE, people: int = 40) -> list[int]:
    ids = seeds.subscribers(database, people)
    seeds.enroll(database, seeds.sequence(database, text_, BUNDLES), ids)
    return ids


def rows(database: Database, sql: str, **values: Any) -> list[Any]:
    with database.transaction() as connection:
        done = connection.execute(text(sql), values)
        return list(done) if done.returns_rows else []


def arms(database: Database) -> dict[int, str]:
    found = rows(database, "SELECT subscriber_id, arm FROM experiment_assignment")
    return {row.subscriber_id: row.arm for row in found}


def test_each_gets_the_mail_of_their_arm_and_the_arm_is_on_record(fleet: Fleet) -> None:
    ids = published(fleet.database)
    fleet.scan()
    fleet.send()
    drawn = arms(fleet.database)
    assert set(drawn) == set(ids) and set(drawn.values()) == {"plain", "offer"}
    sent = rows(fleet.database, "SELECT subscriber_id, template FROM message WHERE state = 'sent'")
    assert {row.subscriber_id: row.template for row in sent} == {
        who: f"test/{arm}" for who, arm in drawn.items()
    }
    assert len(fleet.sink.lines()) == len(ids)
    found = rows(fleet.database, "SELECT DISTINCT a.propensity, e.shares, a.experiment_key"
                 " FROM experiment_assignment a JOIN experiment_epoch e ON e.id = a.epoch_id")  # fmt: skip
    assert [tuple(row) for row in found] == [(0.5, {"plain": 1, "offer": 1}, "trial/split")]
    with fleet.database.transaction() as connection:
        told = [line.text for line in explain(connection, ids[0], "trial").lines]
    assert f"split: arm {drawn[ids[0]]} of the experiment (one of 2 arms, by lot)" in told


def test_an_arm_stays_through_another_entry_and_an_edit_of_the_weights(fleet: Fleet) -> None:
    again = FILE.replace("manual: true", "manual: true, reentry: {policy: concurrent}")
    ids = published(fleet.database, again)
    fleet.scan()
    drawn = arms(fleet.database)
    # Everybody new comes into one arm from now on; whoever has an arm keeps it.
    edited = loads(
        again.replace("plain: 50, offer: 50", "plain: 0, offer: 1"), "t.yaml"
    ).canonical()
    rows(fleet.database, "UPDATE sequence_version SET definition = CAST(:d AS jsonb)", d=edited)
    fleet.planner._definition.cache_clear()
    new = rows(fleet.database, "INSERT INTO subscriber (address, address_hmac)"
               " VALUES ('new@example.com', sha256('new')) RETURNING id")[0].id  # fmt: skip
    seeds.enroll(fleet.database, "trial", [new])
    rows(fleet.database, "INSERT INTO enrollment (sequence_key, sequence_version, subscriber_id,"
         " entry_no, due_at) SELECT 'trial', 1, unnest(CAST(:ids AS bigint[])), 2, now()", ids=ids)  # fmt: skip
    fleet.scan()
    assert arms(fleet.database) == {**drawn, new: "offer"}
    mails = rows(fleet.database, "SELECT subscriber_id, count(*) AS n, min(template) AS one,"
                 " max(template) AS other FROM message GROUP BY 1")  # fmt: skip
    for row in mails:
        if row.subscriber_id != new:
            assert (row.n, row.one, row.other) == (2, *[f"test/{drawn[row.subscriber_id]}"] * 2)
    epochs = rows(fleet.database, "SELECT shares FROM experiment_epoch ORDER BY id")
    assert [row.shares for row in epochs] == [{"plain": 1, "offer": 1}, {"offer": 1}]


def test_who_is_held_out_is_in_no_arm(fleet: Fleet) -> None:
    ids = published(fleet.database, HELD)
    fleet.scan()
    holdout = loads(HELD, "t.yaml").holdout
    assert holdout is not None
    assert set(arms(fleet.database)) == {who for who in ids if not holdout.holds(who)}


def test_an_arm_that_people_complain_of_is_stopped_and_assignment_goes_on_without_it(
    fleet: Fleet,
) -> None:
    published(fleet.database, people=60)
    fleet.scan()
    fleet.send()
    assert harm.look(fleet.database) == 0
    bad = [who for who, arm in arms(fleet.database).items() if arm == "offer"][:3]
    rows(fleet.database, "UPDATE subscriber SET stopped_at = now(), stopped_reason = 'complaint'"
         " WHERE id = ANY(:bad)", bad=bad)  # fmt: skip
    assert harm.look(fleet.database) == 1 and harm.look(fleet.database) == 0
    [row] = rows(
        fleet.database, "SELECT arm, kind, ruled_by, reason, detail FROM experiment_ruling"
    )
    assert tuple(row)[:4] == ("offer", "stopped", "guardrail", "complaint_rate")
    assert row.detail["events"] == 3 and row.detail["limit"] == 0.001
    before = arms(fleet.database)
    more = [row.id for row in rows(fleet.database, "INSERT INTO subscriber (address, address_hmac)"
            " SELECT i || '@example.org', sha256(i::text::bytea) FROM generate_series(1, 20) i"
            " RETURNING id")]  # fmt: skip
    seeds.enroll(fleet.database, "trial", more)
    fleet.scan()
    after = arms(fleet.database)
    assert {after[who] for who in more} == {"plain"}
    assert {who: after[who] for who in before} == before
