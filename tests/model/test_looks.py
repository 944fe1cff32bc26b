"""What a look takes, keeps and renews, and what it leaves: each condition of the claim alone."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import text

from tasks.moves.claim import Claimed, claim, keep_content, renew
from tests.model.test_late_words import in_doubt_by_the_reaper, one, row, world
from tests.model.test_permission import PAUSED, SUPPRESSED
from tests.model.world import World

__all__ = ["world"]


def look(world: World, stream: str = "marketing", n: int = 10, **how: Any) -> list[Claimed]:
    owner = how.pop("owner", str(world.workers[0].owner))
    with world.inside.transaction() as connection:
        return claim(connection, stream=stream, n=n, owner=owner, lease=120, **how).rows


def stamp(world: World, what: str, id_: int) -> Any:
    return world.connection.execute(
        text(f"SELECT {what} FROM message WHERE id = :id"), {"id": id_}
    ).scalar_one()


def test_a_look_takes_what_is_due_in_its_stream_and_nothing_else(world: World) -> None:
    taken = look(world)
    rows = world.rows()
    assert {rows[each.id].stream for each in taken} == {"marketing"}
    assert [each.template_version for each in taken] != [None]
    assert not look(world), "what is taken is not due"
    assert look(world, "transactional")


def test_what_is_due_later_is_left(world: World) -> None:
    world.run("UPDATE message SET run_at = run_at + interval '1 h' WHERE state = 'scheduled'")
    assert not look(world)


def test_a_look_begins_at_its_cursor(world: World) -> None:
    now = dt.datetime.now(dt.UTC)
    assert not look(world, cursor=now)
    assert look(world, cursor=now - dt.timedelta(days=1))


@pytest.mark.parametrize(
    ("what", "takes"),
    [
        (PAUSED.format(what="stream", which="= 'marketing'"), False),
        (PAUSED.format(what="sequence", which="= 'two'"), False),
        (PAUSED.format(what="stream", which="= 'transactional'"), True),
        (PAUSED.format(what="sequence", which="= 'one-mail'"), True),
        ("UPDATE stream SET region = 'north' WHERE key = 'marketing'", False),
        ("UPDATE stream SET region = 'north' WHERE key = 'transactional'", True),
    ],
)
def test_what_is_paused_or_of_another_region_waits(world: World, what: str, takes: bool) -> None:
    world.run(what)
    assert bool(look(world)) is takes


def test_a_region_takes_its_own(world: World) -> None:
    world.run("UPDATE stream SET region = 'north' WHERE key = 'marketing'")
    assert look(world, region="north")
    assert not look(world, "transactional", region="north")


@pytest.mark.parametrize(
    ("what", "unfit"),
    [
        (SUPPRESSED.format(scope="all", which="="), True),
        (SUPPRESSED.format(scope="marketing", which="="), True),
        (SUPPRESSED.format(scope="transactional", which="="), False),
        (SUPPRESSED.format(scope="all", which="<>"), False),
        (
            "UPDATE subscriber SET stopped_at = clock_timestamp(), stopped_reason = 'erasure'"
            " WHERE id = :subscriber",
            True,
        ),
        ("UPDATE message SET expires_at = clock_timestamp() WHERE id = :message", True),
        ("UPDATE message SET expires_at = NULL WHERE id = :message", False),
    ],
)
def test_who_may_not_get_it_any_more_is_seen_at_the_claim(
    world: World, what: str, unfit: bool
) -> None:
    found = world.connection.execute(
        text("SELECT id, subscriber_id FROM message WHERE stream = 'marketing'"
             " AND state = 'scheduled'")
    ).one()  # fmt: skip
    world.run(what, subscriber=found.subscriber_id, message=found.id)
    (taken,) = look(world)
    assert taken.unfit is unfit


def test_of_ten_crashes_elsewhere_a_process_knows_nothing(world: World) -> None:
    """Only what it holds itself keeps a process from taking more."""
    look(world, "transactional", owner="another process")
    world.run("UPDATE message SET crashes = 6 WHERE stream = 'transactional'")
    assert look(world)


def test_who_holds_a_row_under_suspicion_takes_no_more(world: World) -> None:
    look(world, "transactional")
    world.run("UPDATE message SET crashes = 6 WHERE stream = 'transactional'")
    assert not look(world)


@pytest.mark.parametrize(("crashes", "takes"), [(1, True), (2, True), (3, False), (5, False)])
def test_who_holds_one_of_three_crashes_takes_no_second_such(
    world: World, crashes: int, takes: bool
) -> None:
    look(world, "transactional")
    world.run("UPDATE message SET crashes = 3 WHERE stream = 'transactional'")
    world.run("UPDATE message SET crashes = :n WHERE stream = 'marketing'", n=crashes)
    assert bool(look(world)) is takes


@pytest.mark.parametrize("held", [False, True])
def test_the_last_tries_are_made_by_a_process_that_holds_nothing(world: World, held: bool) -> None:
    if held:
        look(world, "transactional")
    world.run("UPDATE message SET crashes = 5 WHERE stream = 'marketing'")
    assert bool(look(world)) is not held


def test_what_is_taken_alone_is_taken_alone(world: World) -> None:
    world.run("UPDATE message SET stream = 'marketing' WHERE state = 'scheduled'")
    world.run("""
UPDATE message SET crashes = 5
WHERE id = (SELECT max(id) FROM message WHERE state = 'scheduled')""")
    (alone,) = look(world)
    assert alone.crashes == 5


def test_a_zombie_does_not_renew_what_another_holds(world: World) -> None:
    _, old = one(world)
    world.time_passes(200)
    world.reap()
    (new,) = world.claim(world.workers[1], "transactional", 1)
    before = stamp(world, "watch_at", new.row.id)
    with world.inside.transaction() as connection:
        assert renew(connection, [old.effect], 1000) == 0
    assert stamp(world, "watch_at", new.row.id) == before
    with world.inside.transaction() as connection:
        assert renew(connection, [new.effect], 1000) == 1
    assert stamp(world, "watch_at", new.row.id) > before


def test_what_is_armed_has_its_own_lease(world: World) -> None:
    worker, held = one(world)
    assert world.arm(worker, held)
    with world.inside.transaction() as connection:
        assert renew(connection, [held.effect], 1000) == 0


def kept(world: World, effect: tuple[int, int], body: bytes) -> bool:
    """Whether a body is kept for it, once it was told so."""
    with world.inside.transaction() as connection:
        keep_content(connection, [(*effect, b"h" * 32, body)])
    found = world.connection.execute(
        text("SELECT body FROM content WHERE message_id = :id"), {"id": effect[0]}
    )
    return found.scalar_one_or_none() == body


def test_only_who_holds_it_unsent_keeps_the_body_of_a_mail(world: World) -> None:
    worker, held = one(world)
    id_, epoch = held.effect
    assert kept(world, held.effect, b"first")
    assert not kept(world, (id_, epoch - 1), b"of a zombie")
    assert world.arm(worker, held)
    assert not kept(world, held.effect, b"of somebody who has armed it")


def test_the_body_of_a_copy_stays_what_it_was(world: World) -> None:
    worker, held = one(world)
    in_doubt_by_the_reaper(world, worker, held, 0)
    world.time_passes(1000)
    world.resolve()
    (again,) = look(world, "transactional")
    assert again.body == b"as composed"
    assert not kept(world, (again.id, again.epoch), b"another")


def test_a_body_that_is_not_the_copys_is_not_offered_for_it(world: World) -> None:
    worker, held = one(world)
    in_doubt_by_the_reaper(world, worker, held, 0)
    world.run(
        "UPDATE content SET sha256 = sha256('another') WHERE message_id = :id", id=held.row.id
    )
    world.time_passes(1000)
    world.resolve()
    (again,) = look(world, "transactional")
    assert again.body is None and row(world, held).maybe_delivered


def test_a_mail_under_suspicion_is_not_crowded_out_by_those_above_it(world: World) -> None:
    world.run("UPDATE message SET crashes = 3 WHERE state = 'scheduled' AND stream = 'marketing'")
    world.run("""
INSERT INTO message (effect_key, rfc_message_id, stream, subscriber_id, template, run_at)
SELECT sha256(CAST(i AS text)::bytea), CAST(i AS text), 'marketing',
    (SELECT min(id) FROM subscriber), 'test/mail', clock_timestamp() - interval '1 h'
FROM generate_series(1, 12) i""")
    assert [each.crashes for each in look(world, n=20)].count(3) == 1


def test_the_next_look_begins_behind_what_was_taken(world: World) -> None:
    world.run("UPDATE message SET stream = 'marketing' WHERE state = 'scheduled'")
    world.run("""
UPDATE message SET run_at = run_at - interval '1 h'
WHERE id = (SELECT min(id) FROM message WHERE state = 'scheduled')""")
    due = world.connection.execute(
        text("SELECT run_at FROM message WHERE state = 'scheduled' ORDER BY run_at")
    ).scalars()
    first, *_, last = due
    with world.inside.transaction() as connection:
        told = claim(connection, stream="marketing", n=10, owner="a process", lease=120)
    assert first < last and told.cursor == last
