"""A marketing stream that lacks what providers ask for waits, says why, and goes on once it is mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import text

from tasks.send.dossier import dossier
from tasks.send.gate import Gate
from tasks.send.prepare import Preparer
from tasks.sequence.explain import explain
from tests.live.fleet import Make
from tests.live.test_signed import key
from workers.cli import main
from workers.doctor import standing

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
    with fleet.database.transaction() as connection:
        (told,) = standing.paused(connection)
    assert why in told.says and "`dripfleet stream show marketing`" in told.next
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


def test_a_stream_shows_each_piece_and_a_resume_says_that_it_does_not_help(
    fleet_with: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = fleet_with()
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", fleet.database.url)
    with fleet.database.transaction() as connection:
        connection.execute(text(SHOP))
    fleet.enrolled(1)
    fleet.send()
    capsys.readouterr()  # what the worker logged
    assert main(["stream", "show", "marketing", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pause_reason"].startswith("compliance: ")
    assert {piece["name"]: piece["met"] for piece in told["pieces"]} == {
        "postal address": False,
        "one-click unsubscribe": False,
        "aligned DKIM signature": False,
        "text part": True,
    }
    assert all(piece["next"] for piece in told["pieces"] if not piece["met"])
    assert main(["stream", "resume", "marketing"]) == 0
    assert "holds it again: `dripfleet stream show marketing`" in capsys.readouterr().err
    assert fleet.send() == {} and fleet.states() == {"scheduled": 1}
    capsys.readouterr()
    assert main(["stream", "show", "transactional"]) == 0
    assert json.loads(capsys.readouterr().out)["pieces"] == []
    assert main(["stream", "show", "nosuch"]) == 1
    assert "there is no stream 'nosuch'" in capsys.readouterr().err
