"""Who joins a named segment comes into the sequence that waits for them, through both of their doors."""

from __future__ import annotations

import pytest

from models.session import Database
from tasks.audience import segment_refresh as work
from tests.live.door import Door
from tests.live.test_named_segments import VIP, made, set_vip


@pytest.fixture
def door(database: Database) -> Door:
    return Door(database, 4)


def test_who_joins_by_what_they_are_comes_in_and_who_was_in_it_or_is_defined_into_it_does_not(
    door: Door,
) -> None:
    before, joined, _other, defined = door.people
    set_vip(door.database, [before], True)
    made(door.database, VIP)
    door.sequence("trigger: {segment: vip, edge: join}")
    assert door.act().asked == 0
    set_vip(door.database, [joined], True)
    work.refresh(door.database, "vip")
    set_vip(door.database, [before], False)
    work.refresh(door.database, "vip")
    door.act()
    assert door.entries() == [(joined, 1, True)] and door.refused() == {}
    door.run("UPDATE subscriber SET attributes = '{\"old\": true}' WHERE id = :id", id=defined)
    made(door.database, VIP.replace("sub.vip", '"sub.vip or sub.old"'))
    door.act()
    assert door.entries() == [(joined, 1, True)] and door.refused() == {"definition": 1}
