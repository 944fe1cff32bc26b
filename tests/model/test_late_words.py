"""Words that come late, each against the row as it stands by then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tasks.moves import doubt, reap, release
from tests.model.world import SETTINGS, Held, Worker, World

# A mail a stream, so that whoever claims takes that one.
LONELY = """
DELETE FROM message WHERE state = 'scheduled' AND id NOT IN (
    SELECT min(id) FROM message WHERE enrollment_id IS NOT NULL AND state = 'scheduled'
    GROUP BY stream)"""
OVER = """
UPDATE enrollment e SET active = false, ended_at = clock_timestamp(), end_reason = 'test', due_at = NULL
WHERE NOT EXISTS (SELECT 1 FROM message m WHERE m.enrollment_id = e.id)"""


def begin(world: World) -> None:
    """One mail a stream, and beside them one that was accepted and one that was assumed sent.

    What became of those two proves nothing of any other.
    """
    world.plan()
    worker = world.workers[0]
    accepted, assumed = world.claim(worker, "marketing", 2)
    for held in (accepted, assumed):
        assert world.arm(worker, held)
    world.dot(worker, accepted, accepted=True, code=250)
    world.record(worker, accepted)
    world.dot(worker, assumed, accepted=True)
    world.silence(worker, assumed)
    world.time_passes(1000)
    world.resolve()
    world.run(LONELY)
    world.run(OVER)


@pytest.fixture
def world(session: Connection) -> Iterator[World]:
    undo = session.begin()
    world = World(session)
    begin(world)
    yield world
    undo.rollback()


def one(world: World, stream: str = "transactional") -> tuple[Worker, Held]:
    worker = world.workers[0]
    (held,) = world.claim(worker, stream, 1)
    return worker, held


def row(world: World, held: Held) -> Any:
    world.check()
    return world.rows()[held.row.id]


def in_doubt_by_the_reaper(world: World, worker: Worker, held: Held, code: int) -> None:
    """The reply came, and its worker slept on it."""
    world.arm(worker, held)
    world.dot(worker, held, accepted=code == 250, code=code)
    world.time_passes(800)
    world.reap()
    assert row(world, held).state == "in_doubt"


@pytest.mark.parametrize(("code", "ends"), [(250, "sent"), (451, "scheduled"), (554, "failed")])
def test_a_reply_that_finds_its_row_in_doubt_ends_the_doubt(
    world: World, code: int, ends: str
) -> None:
    worker, held = one(world)
    in_doubt_by_the_reaper(world, worker, held, code)
    world.record(worker, held)
    assert row(world, held).state == ends


@pytest.mark.parametrize(("code", "ends"), [(250, "sent"), (451, "failed"), (554, "failed")])
def test_a_reply_that_finds_its_row_assumed_sent_corrects_it_and_sends_nothing_again(
    world: World, code: int, ends: str
) -> None:
    worker, held = one(world, "marketing")
    in_doubt_by_the_reaper(world, worker, held, code)
    world.time_passes(1000)
    world.resolve()
    assert row(world, held).state == "sent_assumed"
    world.record(worker, held)
    assert row(world, held).state == ends


def test_a_give_back_that_finds_its_row_assumed_sent_ends_it_failed(world: World) -> None:
    worker, held = one(world, "marketing")
    world.arm(worker, held)
    world.time_passes(800)
    world.reap()
    world.time_passes(1000)
    world.resolve()
    world.give_back(worker, held)
    assert row(world, held).state == "failed"


def second_in_the_air(world: World) -> tuple[Worker, Held, Worker, Held]:
    """A doubted first try, resent by the policy; the second is armed."""
    first, old = one(world)
    world.arm(first, old)
    world.dot(first, old, accepted=True)
    world.silence(first, old)
    world.time_passes(1000)
    world.resolve()
    second = world.workers[1]
    (new,) = world.claim(second, "transactional", 1)
    assert new.row.id == old.row.id and world.arm(second, new)
    return first, old, second, new


@pytest.mark.parametrize("code", [451, 554, 250])
def test_once_the_first_copy_is_proven_the_second_reply_cannot_unsend_it(
    world: World, code: int
) -> None:
    _, old, second, new = second_in_the_air(world)
    world.evidence(world.rows()[old.row.id], "provider")
    assert row(world, old).state == "armed"
    world.dot(second, new, accepted=code == 250, code=code)
    world.record(second, new)
    assert row(world, old).state == "sent"


@pytest.mark.parametrize("code", [451, 554])
def test_a_no_of_an_earlier_try_moves_nothing_of_a_later_one(world: World, code: int) -> None:
    worker, old = one(world)
    in_doubt_by_the_reaper(world, worker, old, code)
    world.time_passes(1000)
    world.resolve()
    second = world.workers[1]
    (new,) = world.claim(second, "transactional", 1)
    world.arm(second, new)
    world.record(worker, old)
    assert row(world, old).state == "armed"
    assert [tried.split(":")[1] for tried in row(world, old).tries] == [
        {451: "deferred", 554: "refused"}[code]
    ]


@pytest.mark.parametrize("stage", ["scheduled", "working"])
def test_a_yes_of_an_earlier_try_takes_the_resend_out_of_the_queue(
    world: World, stage: str
) -> None:
    worker, old = one(world)
    in_doubt_by_the_reaper(world, worker, old, 250)
    world.time_passes(1000)
    world.resolve()
    if stage == "working":
        world.claim(world.workers[1], "transactional", 1)
    assert row(world, old).state == stage
    world.record(worker, old)
    assert row(world, old).state == "sent"
    for held in world.workers[1].at("claimed"):
        assert not world.arm(world.workers[1], held)


def test_a_yes_while_the_resend_is_in_the_air_is_written_and_waits_for_its_reply(
    world: World,
) -> None:
    worker, old = one(world)
    in_doubt_by_the_reaper(world, worker, old, 250)
    world.time_passes(1000)
    world.resolve()
    second = world.workers[1]
    (new,) = world.claim(second, "transactional", 1)
    world.arm(second, new)
    world.record(worker, old)
    assert row(world, old).state == "armed"
    world.dot(second, new, accepted=False)
    world.silence(second, new)
    world.time_passes(1000)
    world.resolve()
    assert row(world, old).state == "sent"


def test_a_zombie_can_neither_arm_nor_fail_nor_give_back_what_another_holds(world: World) -> None:
    zombie, old = one(world)
    world.time_passes(200)
    world.reap()
    worker = world.workers[1]
    (new,) = world.claim(worker, "transactional", 1)
    assert new.row.id == old.row.id
    for what in (world.fail, world.give_back):
        zombie.held[old.effect] = old
        what(zombie, old)
        assert row(world, new).state == "working"
    zombie.held[old.effect] = old
    old.leased = 120
    assert not world.arm(zombie, old)
    assert world.arm(worker, new)
    zombie.held[old.effect] = old
    world.silence(zombie, old)
    world.dot(worker, new, accepted=True, code=250)
    world.record(worker, new)
    assert row(world, new).state == "sent"


def test_a_lease_too_short_for_the_dot_is_refused_and_comes_back(world: World) -> None:
    worker, held = one(world)
    world.time_passes(95)
    assert not world.arm(worker, held)
    assert row(world, held).state == "scheduled"


@pytest.mark.parametrize("code", [451, 554])
@pytest.mark.parametrize("stage", ["scheduled", "working"])
def test_a_no_of_an_earlier_try_leaves_the_resend_where_it_is(
    world: World, stage: str, code: int
) -> None:
    worker, old = one(world)
    in_doubt_by_the_reaper(world, worker, old, code)
    world.time_passes(1000)
    world.resolve()
    if stage == "working":
        world.claim(world.workers[1], "transactional", 1)
    epoch = row(world, old).epoch
    world.record(worker, old)
    after = row(world, old)
    if stage == "working":
        assert (after.state, after.epoch) == ("working", epoch)
    else:
        assert after.state == "scheduled" and after.due


def test_a_reply_that_finds_its_row_dropped_by_an_operator_is_written_and_moves_nothing(
    world: World,
) -> None:
    worker, held = one(world)
    in_doubt_by_the_reaper(world, worker, held, 451)
    world.operator_settles(row(world, held), "drop")
    world.record(worker, held)
    after = row(world, held)
    assert after.state == "failed" and after.tries == ["1:deferred:"]


def test_a_reply_to_an_epoch_that_the_database_does_not_know_moves_nothing(world: World) -> None:
    """A journal that outlived its database: the row that stands is an older one."""
    worker, held = one(world)
    assert world.arm(worker, held)
    later = replace(held, row=held.row._replace(epoch=held.row.epoch + 1), code=250)
    world.give_back(worker, held)
    world._cycle(worker, [world._answered(later)], [])
    assert world.rows()[held.row.id].state == "scheduled"


POLICY = "UPDATE stream SET doubt_policy = :policy WHERE key = :stream"


def test_a_doubt_is_held_for_its_time(world: World) -> None:
    worker, held = one(world, "marketing")
    world.arm(worker, held)
    world.dot(worker, held, accepted=True)
    world.silence(worker, held)
    for seconds in (0, 800):
        world.time_passes(seconds)
        world.resolve()
        assert row(world, held).state == "in_doubt"
    world.time_passes(200)
    world.resolve()
    assert row(world, held).state == "sent_assumed"


def test_a_doubt_waits_for_an_operator_also_where_the_stream_began_to_hold_after_it(
    world: World,
) -> None:
    worker, held = one(world, "marketing")
    world.arm(worker, held)
    world.dot(worker, held, accepted=True)
    world.silence(worker, held)
    world.run(POLICY, policy="hold", stream="marketing")
    world.time_passes(25 * 3600)
    world.resolve()
    assert row(world, held).state == "in_doubt"


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_proven_needs_no_operator(world: World, when: str) -> None:
    _, old, second, new = second_in_the_air(world)
    world.evidence(world.rows()[old.row.id], "provider")
    if when == "before":
        world.run(POLICY, policy="hold", stream="transactional")
    world.dot(second, new, accepted=False)
    world.silence(second, new)
    if when == "after":
        world.run(POLICY, policy="hold", stream="transactional")
    world.resolve()
    assert row(world, old).state == "sent"


@pytest.mark.parametrize(("stage", "seconds"), [("working", 150), ("armed", 700)])
def test_a_lease_that_is_over_has_its_grace(world: World, stage: str, seconds: int) -> None:
    worker, held = one(world)
    if stage == "armed":
        world.arm(worker, held)
    world.time_passes(seconds)
    world.reap()
    assert row(world, held).state == stage
    world.time_passes(60)
    world.reap()
    assert row(world, held).state == {"working": "scheduled", "armed": "in_doubt"}[stage]


def test_the_end_of_one_owner_is_not_the_end_of_another(world: World) -> None:
    """What is another's stays; of the dead one's, what is armed is left to its journal."""
    dead, armed = one(world)
    world.arm(dead, armed)
    (working,) = world.claim(dead, "marketing", 1)
    other = world.workers[1]
    (assumed,) = (each.id for each in world.rows().values() if each.state == "sent_assumed")
    with world.inside.transaction() as connection:
        assert reap.release_owner(connection, str(other.owner), SETTINGS) == 0
        assert reap.held_by(connection, str(other.owner)) == []
    with world.inside.transaction() as connection:
        told = reap.held_by(connection, str(dead.owner))
        assert reap.release_owner(connection, str(dead.owner), SETTINGS) == 1
    assert {(each[2], each[0]) for each in told} == {("armed", armed.row.id), ("in_doubt", assumed)}
    assert row(world, armed).state == "armed" and row(world, working).state == "scheduled"


def test_a_word_of_doubt_on_an_epoch_that_is_over_doubts_nothing(world: World) -> None:
    zombie, old = one(world)
    assert world.arm(zombie, old)
    world.give_back(zombie, old)
    worker = world.workers[1]
    (new,) = world.claim(worker, "transactional", 1)
    zombie.held[old.effect] = old
    world.silence(zombie, old)
    assert row(world, new).state == "working"
    assert world.arm(worker, new)
    zombie.held[old.effect] = old
    world.silence(zombie, old)
    assert row(world, new).state == "armed" and not row(world, new).maybe_delivered


@pytest.mark.parametrize("epoch", [0, 1])
def test_only_what_waits_is_held_back_and_only_as_it_stands(world: World, epoch: int) -> None:
    found = next(r for r in world.rows().values() if r.stream == "transactional")
    with world.inside.transaction() as connection:
        held = doubt.hold_back(connection, [(found.id, found.epoch + epoch)], "quarantine")
    assert held == (1 - epoch)


def test_what_is_being_sent_is_not_held_back(world: World) -> None:
    _, held = one(world)
    with world.inside.transaction() as connection:
        assert doubt.hold_back(connection, [held.effect], "quarantine") == 0


@pytest.mark.parametrize("assumed", [False, True])
def test_a_dead_render_child_condemns_only_what_it_held(world: World, assumed: bool) -> None:
    """Once a mail is armed no render is to blame, however many crashes it has seen."""
    worker, held = one(world)
    world.run("UPDATE message SET crashes = 7 WHERE id = :id", id=held.row.id)
    if assumed:
        assert world.arm(worker, held)
        world.run("UPDATE message SET crashes = 7 WHERE id = :id", id=held.row.id)
    world.give_back(worker, held, crashed=True)
    after = row(world, held)
    expected = ("scheduled", "closed") if assumed else ("failed", "poison")
    assert (after.state, after.reason) == expected


def test_who_gives_back_a_suspect_in_good_order_condemns_nothing(world: World) -> None:
    worker, held = one(world)
    world.run("UPDATE message SET crashes = 7 WHERE id = :id", id=held.row.id)
    world.give_back(worker, held)
    after = row(world, held)
    assert (after.state, after.reason) == ("scheduled", "closed")


def test_the_first_dead_child_condemns_nothing(world: World) -> None:
    worker, held = one(world)
    world.give_back(worker, held, crashed=True)
    after = row(world, held)
    assert (after.state, after.reason, after.crashes) == ("scheduled", "closed", 1)


def test_a_give_back_before_the_permission_is_no_try(world: World) -> None:
    worker, held = one(world)
    world.give_back(worker, held)
    assert row(world, held).tries == []


@pytest.mark.parametrize("now", [True, False])
def test_a_dead_address_is_suppressed_as_long_as_it_is_that_subscribers(
    world: World, now: bool
) -> None:
    _, held = one(world)
    (another,) = (r.address for r in world.rows().values() if r.state == "sent_assumed")
    address = held.row.address if now else another
    with world.inside.transaction() as connection:
        release.suppress_recipient(connection, held.row.id, address, "hard_bounce")
    count = world.connection.execute(text("SELECT count(*) FROM suppression")).scalar_one()
    assert count == int(now)
    assert row(world, held).unwilling is now


def test_a_5yz_before_the_dot_ends_what_is_being_worked_on_and_nothing_else(world: World) -> None:
    worker, held = one(world)
    assert world.arm(worker, held)
    world.fail(worker, held)
    assert row(world, held).state == "armed"


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_words_on_one_mail_that_of_its_epoch_counts(world: World, first: int) -> None:
    worker, held = one(world)
    assert world.arm(worker, held)
    id_, epoch = held.effect
    words = [doubt.Doubted(id_, epoch - 1, "of old"), doubt.Doubted(id_, epoch, "closed")]
    with world.inside.transaction() as connection:
        told = [words[first], words[1 - first]]
        assert doubt.doubt(connection, told, str(worker.owner), SETTINGS) == 1
    assert row(world, held).reason == "closed"


def test_a_second_doubt_is_not_sent_a_third_time(world: World) -> None:
    _, old, second, new = second_in_the_air(world)
    world.dot(second, new, accepted=False)
    world.silence(second, new)
    world.time_passes(1000)
    world.resolve()
    assert row(world, old).state == "sent_assumed"


def test_what_was_put_off_before_its_first_doubt_is_sent_again(world: World) -> None:
    worker, held = one(world)
    assert world.arm(worker, held)
    world.dot(worker, held, accepted=False, code=451)
    world.record(worker, held)
    world.time_passes(3600)
    worker, held = one(world)
    assert world.arm(worker, held)
    world.dot(worker, held, accepted=False)
    world.silence(worker, held)
    world.time_passes(1000)
    world.resolve()
    assert row(world, held).state == "scheduled"


def test_a_row_is_held_back_as_its_own_epoch_says(world: World) -> None:
    found = {r.stream: r for r in world.rows().values() if r.state == "scheduled"}
    one_, other = found["marketing"], found["transactional"]
    assert one_.epoch == other.epoch
    told = [(one_.id, one_.epoch + 1), (other.id, other.epoch)]
    with world.inside.transaction() as connection:
        assert doubt.hold_back(connection, told, "quarantine") == 1
    assert world.rows()[one_.id].state == "scheduled"


@pytest.mark.parametrize("code", [250, 554])
def test_what_is_known_better_later_ends_no_wait_of_its_sequence(world: World, code: int) -> None:
    worker, held = one(world, "marketing")
    in_doubt_by_the_reaper(world, worker, held, code)
    world.time_passes(1000)
    world.resolve()
    world.run(
        "UPDATE enrollment SET due_at = clock_timestamp() + interval '1 day' WHERE id = :id",
        id=held.row.enrollment_id,
    )
    world.record(worker, held)
    waits = text(
        "SELECT due_at > clock_timestamp() + interval '1 h' FROM enrollment WHERE id = :id"
    )
    assert world.connection.execute(waits, {"id": held.row.enrollment_id}).scalar_one()


def test_a_stop_takes_nobody_elses_mail_out_of_the_queue(world: World) -> None:
    """Nor a mail outside any sequence, whose row no enrollment guards."""
    _, held = one(world)
    world.run(
        """
INSERT INTO message (effect_key, rfc_message_id, stream, subscriber_id, template, run_at)
SELECT sha256('alone'), 'alone', 'transactional', min(id), 'test/mail', clock_timestamp()
FROM subscriber WHERE id <> :id""",
        id=held.row.subscriber_id,
    )
    world.stop(held.row.subscriber_id)
    alone = [each.state for each in world.rows().values() if each.enrollment_id is None]
    assert alone.count("scheduled") == 1
    assert row(world, held).state == "suppressed"
