"""A marketing stream that lacks what providers ask for waits, says why, and goes on once it is mended."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from tasks.send.dossier import dossier
from tasks.send.gate import Gate
from tasks.send.prepare import Preparer
from tasks.sequence.explain import explain
from tests.live.fleet import Make
from tests.live.test_signed import key

SHOP = "UPDATE stream SET sender = 'Shop <news@shop.example>' WHERE key = 'marketing'"


def test_marketing_waits_for_its_pieces_and_then_goes(fleet_with: Make, tmp_path: Path) -> None:
    fleet = fleet_with()
    with fleet.database.transaction() as connection:
        connection.execute(text(SHOP))
    (subscriber,) = fleet.enrolled(1)
    assert fleet.send() == {}
    assert fleet.states() == {"scheduled": 1}
    why = fleet.one("SELECT pause_reason FROM stream WHERE key = 'marketing'")[0]
    assert why.startswith("compliance: the postal address at the foot is the example's")
    with fleet.database.snapshot() as connection:
        (said,) = explain(connection, subscriber).next
        assert "DRIPFLEET_POSTAL_ADDRESS" in said and "DRIPFLEET_DKIM_KEYS" in said
        id_ = connection.execute(text("SELECT id FROM message")).scalar_one()
        assert dossier(connection, str(id_), None).facts["stream_paused"] == why
    # A worker that starts with all of it lets the stream go, and no other pause.
    mended = fleet.settings.model_copy(
        update={
            "postal_address": "Shop, 2 Real Street, Town",
            "unsubscribe_mailto": "stop@shop.example",
            "edge_url": "https://go.shop.example",
            "dkim_keys": f"shop.example/s={key(tmp_path)}",
        }
    )
    half = mended.model_copy(update={"edge_url": ""})
    assert Gate.of(half).let_go(fleet.database) == []
    assert Gate.of(mended).let_go(fleet.database) == ["marketing"]
    fleet.service.store._preparer = Preparer(fleet.database, mended)
    assert fleet.send()["sent"] == 1
    with fleet.database.transaction() as connection:
        connection.execute(
            text("UPDATE stream SET paused_at = clock_timestamp(), pause_reason = 'by hand'")
        )
    assert Gate.of(mended).let_go(fleet.database) == []


def test_the_word_of_the_operator_sends_without_and_transactional_mail_is_never_asked(
    fleet_with: Make,
) -> None:
    fleet = fleet_with()
    with fleet.database.transaction() as connection:
        connection.execute(text("UPDATE stream SET sender = 'Shop <news@shop.example>'"))
    fleet.enrolled(1)
    warned = fleet.settings.model_copy(update={"compliance": "warn"})
    assert Preparer(fleet.database, fleet.settings).stream("transactional").reach.leaves is False
    fleet.service.store._preparer = Preparer(fleet.database, warned)
    assert fleet.send()["sent"] == 1
