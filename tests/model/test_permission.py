"""What forbids a dot, each thing alone, and where the mail goes instead; and what does not forbid it.

Every condition of ARM stands here twice: with what it is there for, and beside something that looks
like it and concerns another mail.
"""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from tasks.moves import release
from tasks.moves.claim import Claimed, claim
from tasks.moves.cycle import Ready
from tests.model.test_late_words import (
    in_doubt_by_the_reaper,
    one,
    row,
    second_in_the_air,
    world,
)
from tests.model.world import SETTINGS, Held, World

__all__ = ["world"]

SUPPRESSED = """
INSERT INTO suppression (address_hmac, scope, reason)
SELECT address_hmac, '{scope}', 'complaint' FROM subscriber WHERE id {which} :subscriber"""
PAUSED = "UPDATE {what} SET paused_at = clock_timestamp(), pause_reason = 'test' WHERE key {which}"
ENDED = """
UPDATE enrollment SET active = false, ended_at = clock_timestamp(), end_reason = 'goal', due_at = NULL
WHERE id {which} :enrollment AND active"""
OPTED_OUT = "UPDATE consent SET opted_in = false WHERE subscriber_id {which} :subscriber"
ANOTHER_TOPIC = """
INSERT INTO topic (key, title) VALUES ('offers', 'offers');
UPDATE sequence SET topic = 'offers' WHERE key = 'one-mail';
INSERT INTO consent (subscriber_id, topic, opted_in, source)
VALUES (:subscriber, 'offers', false, 'test')"""
MOVED = "UPDATE subscriber SET address = 'new.' || address WHERE id {which} :subscriber"
TAKEN_OVER = f"""{MOVED.format(which="=")};
UPDATE subscriber SET address = :address
WHERE id = (SELECT min(id) FROM subscriber WHERE id <> :subscriber)"""
NO_LONGER = "UPDATE message SET expires_at = clock_timestamp() WHERE id = :message"
WINDOW = """
UPDATE message SET allowed = tstzmultirange(tstzrange(
    clock_timestamp() + interval '{opens} s', clock_timestamp() + interval '{closes} s'))
WHERE id = :message"""


def befall(world: World, held: Held, sql: str) -> None:
    of = held.row
    for each in sql.split(";"):
        world.run(
            each,
            subscriber=of.subscriber_id,
            address=of.address,
            enrollment=of.enrollment_id,
            message=of.id,
        )


def somebody_else(world: World, subscriber: int) -> Any:
    found = world.connection.execute(
        text("SELECT id, address FROM subscriber WHERE id <> :id LIMIT 1"), {"id": subscriber}
    )
    return found.one()


@pytest.mark.parametrize(
    ("what", "state", "reason"),
    [
        (SUPPRESSED.format(scope="all", which="="), "suppressed", "complaint"),
        (SUPPRESSED.format(scope="marketing", which="="), "suppressed", "complaint"),
        (OPTED_OUT.format(which="="), "suppressed", "opted_out"),
        (ENDED.format(which="="), "cancelled", "enrollment_ended"),
        (NO_LONGER, "expired", "expired"),
        (WINDOW.format(opens=-20, closes=-10), "expired", "no_window_left"),
        (WINDOW.format(opens=600, closes=900), "scheduled", "outside_window"),
        (PAUSED.format(what="stream", which="= 'marketing'"), "scheduled", "paused"),
        (PAUSED.format(what="sequence", which="= 'two'"), "scheduled", "paused"),
        (MOVED.format(which="="), "scheduled", "address_changed"),
        (TAKEN_OVER, "scheduled", "address_changed"),
    ],
)
def test_what_forbids_the_dot_sends_the_mail_where_it_belongs(
    world: World, what: str, state: str, reason: str
) -> None:
    worker, held = one(world, "marketing")
    befall(world, held, what)
    assert not world.arm(worker, held)
    after = row(world, held)
    assert (after.state, after.reason) == (state, reason)
    assert after.state != "scheduled" or not after.due, "it comes back only after a while"


def test_who_was_stopped_without_the_move_of_a_stop_gets_nothing(world: World) -> None:
    worker, held = one(world)
    befall(
        world,
        held,
        "UPDATE subscriber SET stopped_at = clock_timestamp(), stopped_reason = 'erasure'"
        " WHERE id = :subscriber",
    )
    assert not world.arm(worker, held)
    assert row(world, held).reason == "erasure"


@pytest.mark.parametrize(
    "what",
    [
        SUPPRESSED.format(scope="all", which="<>"),
        SUPPRESSED.format(scope="transactional", which="="),
        OPTED_OUT.format(which="<>"),
        ANOTHER_TOPIC,
        ENDED.format(which="<>"),
        PAUSED.format(what="stream", which="= 'transactional'"),
        PAUSED.format(what="sequence", which="= 'one-mail'"),
        MOVED.format(which="<>"),
        WINDOW.format(opens=-20, closes=900),
        "UPDATE message SET expires_at = NULL WHERE id = :message",
        "UPDATE subscriber SET stopped_at = clock_timestamp(), stopped_reason = 'erasure'"
        " WHERE id <> :subscriber",
    ],
)
def test_what_concerns_others_forbids_nothing(world: World, what: str) -> None:
    worker, held = one(world, "marketing")
    befall(world, held, what)
    assert world.arm(worker, held)
    assert row(world, held).state == "armed"


def test_who_left_the_newsletters_still_gets_what_is_no_marketing(world: World) -> None:
    worker, held = one(world)
    befall(world, held, OPTED_OUT.format(which="="))
    befall(world, held, SUPPRESSED.format(scope="marketing", which="="))
    assert world.arm(worker, held)


def test_what_is_refused_while_others_are_well_is_put_off_and_no_more(world: World) -> None:
    """All that stands in the way is the lease; what befell others is no reason."""
    worker, held = one(world, "marketing")
    for what in (
        SUPPRESSED.format(scope="all", which="<>"),
        SUPPRESSED.format(scope="transactional", which="="),
        OPTED_OUT.format(which="<>"),
        ANOTHER_TOPIC,
        ENDED.format(which="<>"),
        PAUSED.format(what="stream", which="= 'transactional'"),
        PAUSED.format(what="sequence", which="= 'one-mail'"),
    ):
        befall(world, held, what)
    world.time_passes(95)
    assert not world.arm(worker, held)
    after = row(world, held)
    assert (after.state, after.reason) == ("scheduled", "not_armed")


def test_a_refusal_of_what_is_no_marketing_does_not_ask_for_topics(world: World) -> None:
    worker, held = one(world)
    befall(world, held, OPTED_OUT.format(which="="))
    befall(world, held, SUPPRESSED.format(scope="marketing", which="="))
    world.time_passes(95)
    assert not world.arm(worker, held)
    after = row(world, held)
    assert (after.state, after.reason) == ("scheduled", "not_armed")


def test_a_subscriber_whose_lock_is_taken_is_put_off_with_that_reason(world: World) -> None:
    _, held = one(world)
    with world.inside.transaction() as connection:
        rows = [(held.row.id, held.row.epoch, held.row.address, True)]
        told = release.refuse(connection, rows, SETTINGS)
    assert told == [(held.row.id, "scheduled", "subscriber_busy")]


def test_a_message_of_another_subscriber_is_not_armed_in_this_ones_name(world: World) -> None:
    """The lock that was got was another's: nobody's stop is then waited for."""
    worker, held = one(world)
    other = somebody_else(world, held.row.subscriber_id)
    ready = Ready(held.row.id, held.row.epoch, other.id, other.address, held.sha256)
    assert not world._cycle(worker, [], [ready]).armed


def test_a_second_copy_has_the_bytes_of_the_first_or_is_none(world: World) -> None:
    worker, old = one(world)
    in_doubt_by_the_reaper(world, worker, old, 0)
    world.time_passes(1000)
    world.resolve()
    (new,) = world.claim(world.workers[1], "transactional", 1)
    assert not world.arm(world.workers[1], new, other_bytes=True)


def test_a_second_copy_with_the_bytes_of_the_first_is_permitted(world: World) -> None:
    worker, old = one(world)
    in_doubt_by_the_reaper(world, worker, old, 0)
    world.time_passes(1000)
    world.resolve()
    (new,) = world.claim(world.workers[1], "transactional", 1)
    assert world.arm(world.workers[1], new)


def test_while_somebody_is_about_to_say_stop_the_mail_stays_before_its_dot(world: World) -> None:
    worker, held = one(world)
    ready = Ready(held.row.id, held.row.epoch, held.row.subscriber_id, held.row.address, b"h" * 32)
    with world.connection.engine.connect() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": ready.subscriber_id})
        told = world._cycle(worker, [], [ready])
        assert (told.armed, told.busy) == (frozenset(), {ready.id})
    assert world._cycle(worker, [], [ready]).armed == {ready.id}


def test_what_is_armed_is_not_armed_again(world: World) -> None:
    worker, held = one(world)
    assert world.arm(worker, held)
    ready = Ready(held.row.id, held.row.epoch, held.row.subscriber_id, held.row.address, b"h" * 32)
    assert not world._cycle(worker, [], [ready]).armed
    assert row(world, held).attempts == 1


def accepted_after_all(world: World) -> Claimed:
    """The first copy was proven while the second was armed, whose worker then gave it back."""
    _, old, second, new = second_in_the_air(world)
    world.evidence(world.rows()[old.row.id], "provider")
    world.give_back(second, new)
    with world.inside.transaction() as connection:
        (taken,) = claim(
            connection, stream="transactional", n=1, owner=str(second.owner), lease=120
        ).rows
    return taken


def test_what_was_accepted_after_all_is_seen_at_the_claim_and_ends_sent(world: World) -> None:
    taken = accepted_after_all(world)
    assert taken.unfit
    with world.inside.transaction() as connection:
        rows = [(taken.id, taken.epoch, taken.address, False)]
        told = release.refuse(connection, rows, SETTINGS)
    assert told == [(taken.id, "sent", "evidence")]
    world.check()


def test_what_was_accepted_after_all_is_not_armed_by_a_worker_that_did_not_look(
    world: World,
) -> None:
    taken = accepted_after_all(world)
    assert taken.content_sha256 is not None
    ready = Ready(taken.id, taken.epoch, taken.subscriber_id, taken.address, taken.content_sha256)
    assert not world._cycle(world.workers[1], [], [ready]).armed


def test_a_second_copy_that_is_refused_was_not_accepted_for_that(world: World) -> None:
    worker, old = one(world)
    in_doubt_by_the_reaper(world, worker, old, 0)
    world.time_passes(1000)
    world.resolve()
    (new,) = world.claim(world.workers[1], "transactional", 1)
    world.time_passes(95)
    assert not world.arm(world.workers[1], new)
    after = row(world, new)
    assert (after.state, after.reason) == ("scheduled", "not_armed")


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_refusals_of_one_mail_that_of_its_epoch_counts(world: World, first: int) -> None:
    _, held = one(world)
    id_, epoch = held.effect
    words = [(id_, epoch - 1, held.row.address, True), (id_, epoch, held.row.address, False)]
    with world.inside.transaction() as connection:
        told = release.refuse(connection, [words[first], words[1 - first]], SETTINGS)
    assert told == [(id_, "scheduled", "not_armed")]
